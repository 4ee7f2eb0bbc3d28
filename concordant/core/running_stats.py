"""Mean and deviation of a stream, merged batch by batch (Chan, Golub & LeVeque 1979)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

FLAT = 1e-4  # below this deviation, or below this share of the mean's size, the samples count as equal


@dataclass
class RunningStats:
    """Survives empty batches and batches of one sample."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0  # sum of squared distances from the mean

    def update(self, x_B: Tensor) -> None:
        if x_B.numel() == 0:
            return
        x_B = x_B.double()
        count, mean = x_B.numel(), float(x_B.mean())
        m2 = float((x_B - mean).square().sum())
        total, delta = self.count + count, mean - self.mean
        self.m2 += m2 + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Population deviation; 1 before two samples have been seen, and where the samples are all but equal.

        A deviation of rounding, or of scores that differ in their fourth digit, is nothing to divide by: later samples
        that differ would become numbers of many thousands.
        """
        return 1.0 if self.is_flat else self._deviation

    @property
    def is_flat(self) -> bool:
        """Whether the samples differ too little for their deviation to be a unit."""
        return self._deviation <= FLAT * max(1.0, abs(self.mean))

    @property
    def _deviation(self) -> float:
        return (self.m2 / self.count) ** 0.5 if self.count > 1 else 0.0

    def normalize(self, x_B: Tensor) -> Tensor:
        return (x_B - self.mean) / self.std

    def state_dict(self) -> dict[str, float]:
        return asdict(self)
