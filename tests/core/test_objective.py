"""Objectives that are added to one another keep what each says of its own terms."""

from dataclasses import dataclass, field

import torch

from concordant.core.objective import Evaluated, Metric, Outputs, Scaled, Term, placed


class Two:
    """A term that counts whole and one that counts a fifth, as the loss of a critic beside its policy's."""

    want = Outputs(logprob=True)

    def weights(self, batch):
        return {"whole": 3.0, "part": 7.0}

    def __call__(self, out, batch):
        terms = {"whole": Term(torch.tensor(1.0)), "part": Term(torch.tensor(2.0), 0.2)}
        return Evaluated(terms, {"seen": Metric(torch.tensor(5.0))})


def test_a_scaled_objective_keeps_the_proportions_of_its_terms():
    scaled = Scaled(Two(), 0.5, "mix/")
    made = scaled(None, None)
    found = {name: (float(term.sum), term.coefficient) for name, term in made.terms.items()}
    assert found == {"mix/whole": (1.0, 0.5), "mix/part": (2.0, 0.1)}
    assert scaled.weights(None) == {"mix/whole": 3.0, "mix/part": 7.0} and scaled.want == Two.want
    assert list(made.metrics) == ["mix/seen"]


@dataclass(frozen=True)
class Holding:
    """Numbers of a batch, an objective inside, and a field that is made from the others."""

    numbers_N: torch.Tensor
    inner: "Holding | None" = None
    clip: float = 0.2
    want: Outputs = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "want", Outputs(logprob=self.clip > 0))


def test_an_objective_goes_to_a_device_with_all_its_tensors():
    objective = Holding(torch.ones(2), Holding(torch.zeros(3)))
    assert placed(objective, torch.device("cpu")) is objective
    moved = placed(objective, torch.device("meta"))
    assert moved.numbers_N.device.type == moved.inner.numbers_N.device.type == "meta"
    assert (moved.clip, moved.inner.inner, moved.want) == (0.2, None, Outputs(logprob=True))
    scaled = placed(Scaled(objective, 0.5, "mix/"), torch.device("meta"))
    assert scaled.objective.numbers_N.device.type == "meta" and scaled.coefficient == 0.5
    plain = Two()
    assert placed(plain, torch.device("meta")) is plain
