"""The optimizers of ``train.optimizer``, over what a rank holds of the trained weights.

Muon makes the update of a matrix orthogonal (Jordan et al. 2024). It is for the matrices inside the layers; embeddings,
heads and vectors keep AdamW. Its steps are scaled to the size of AdamW's, so both take the same learning rate (Liu et
al. 2025, 2502.16982). Adafactor keeps one number for each row and column of a matrix, and its learning rate is relative
to the size of the weights (Shazeer & Stern 2018, 1804.04235). LoRA+ gives an adapter's B another learning rate than its
A (Hayou et al. 2024, 2402.12354).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from concordant.config.train import TrainConfig

ADAM_MOMENTS = 2  # numbers that AdamW keeps for each weight
MUON_MOMENTS = 1  # numbers that Muon keeps for each weight
RATIO = "ratio"  # of a group of weights: its learning rate over that of the run; left out where it is 1


class Together:
    """Several optimizers of PyTorch as one. Weights are numbered in the order of the optimizers and their groups."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        return {weight: kept for part in self.parts for weight, kept in part.state.items()}

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"state": {}, "param_groups": []}
        for part, first in zip(self.parts, self._first(), strict=True):
            state = part.state_dict()
            kept["state"] |= {first + number: values for number, values in state["state"].items()}
            kept["param_groups"] += [
                {**group, "params": [first + number for number in group["params"]]} for group in state["param_groups"]
            ]
        return kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = iter(state["param_groups"])
        for part, first in zip(self.parts, self._first(), strict=True):
            own = [next(groups) for _ in part.param_groups]
            numbers = [number for group in own for number in group["params"]]
            part.load_state_dict(
                {
                    "state": {n - first: state["state"][n] for n in numbers if n in state["state"]},
                    "param_groups": [{**g, "params": [n - first for n in g["params"]]} for g in own],
                }
            )

    def _first(self) -> list[int]:
        """The number of the first weight of each part."""
        sizes = [sum(len(group["params"]) for group in part.param_groups) for part in self.parts]
        return list(accumulate(sizes, initial=0))[:-1]


Optimizer = torch.optim.Optimizer | Together


def optimizer_of(named: Mapping[str, Tensor], config: TrainConfig, hidden: Collection[str] = ()) -> Optimizer:
    """The optimizer that ``config`` names. ``hidden`` are the names of the matrices inside the model's layers."""
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(_groups(named, config), lr=config.learning_rate)
    if config.optimizer == "muon":
        inside = {name: p for name, p in named.items() if name in hidden}
        others = {name: p for name, p in named.items() if name not in hidden}
        parts: list[torch.optim.Optimizer] = []
        if inside:
            groups = [group for group in _groups(inside, config) if group["params"]]
            parts.append(torch.optim.Muon(groups, lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(torch.optim.AdamW(_groups(others, config), lr=config.learning_rate, betas=betas, fused=True))
        return Together(parts)
    return torch.optim.AdamW(_groups(named, config), lr=config.learning_rate, betas=betas, fused=True)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group of weights its learning rate in a step whose rate is ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATIO, 1.0)


def hidden_matrices(network: nn.Module) -> set[str]:
    """The names of the matrices inside the layers of ``network``, but for embeddings."""
    layers = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    inside = {id(p) for layer in layers for p in layer.parameters() if p.ndim == 2} - tables
    return {name for name, p in network.named_parameters() if id(p) in inside}


def numbers_kept(named: Mapping[str, tuple[int, Sequence[int]]], config: TrainConfig, hidden: Collection[str]) -> int:
    """The numbers that the optimizer keeps for weights, of which ``named`` has the elements and the shape."""
    if config.optimizer == "adafactor":
        return sum(
            (size // shape[-1] + size // shape[-2] if len(shape) > 1 else size) + 1 for size, shape in named.values()
        )
    is_muon = config.optimizer == "muon"
    return sum(size * (MUON_MOMENTS if is_muon and n in hidden else ADAM_MOMENTS) for n, (size, _) in named.items())


def _groups(named: Mapping[str, Tensor], config: TrainConfig) -> list[dict[str, Any]]:
    """The weights in groups: weight decay for matrices alone, because decay does not regularise norms and biases.

    With LoRA+ the B of every adapter has groups of its own.
    """
    return list(_split(list(named.items()), config))


def _split(named: Sequence[tuple[str, Tensor]], config: TrainConfig) -> Iterator[dict[str, Any]]:
    ratio = config.lora_plus

    def is_fast(name: str) -> bool:
        return ratio != 1.0 and name.endswith(".lora_B")

    for decay, is_matrix in ((config.weight_decay, True), (0.0, False)):
        yield {"params": [p for n, p in named if (p.ndim >= 2) is is_matrix and not is_fast(n)], "weight_decay": decay}
    if any(is_fast(name) for name, _ in named):
        yield {"params": [p for n, p in named if is_fast(n)], "weight_decay": config.weight_decay, RATIO: ratio}
