"""Splits a model into stages: every process of a chain keeps some of the layers, one after another.

The first stage holds the embeddings, and the last one the final norm and the heads; tied embeddings are held by both.
``passing.py`` has what stands in the place of the other layers. A model is split after it was loaded, checked and given
its kernels as a whole, and after ``engines/tensor`` has split its layers.

``torch.distributed.pipelining`` is not used; docs/scale.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from concordant.core.axis import Chain
from concordant.core.errors import UserError
from concordant.engines.pipeline.held import Held, hold
from concordant.engines.pipeline.passing import STAGE, Stage, blank_embedding, passes, receives, sends, stage_of
from concordant.engines.ranks import Ranks
from concordant.engines.tensor.cuts import even, pieces_of
from concordant.kernels.replaced import Maker
from concordant.models.backbone import REFUSALS, backbone, run_backbone, undisturbed
from concordant.models.quantized import hidden_weights
from concordant.models.trial import TOLERANCE, two_rows

FITTING = "cluster.pipeline splits decoders with one list of layers between the embeddings and the final norm"


def split_into_stages(model: PreTrainedModel, ranks: Ranks) -> None:
    """Keep only this process's layers of ``model``. Nothing changes without a chain. All its processes call this.

    Raises:
        UserError: the model is no decoder with one list of layers; there are fewer layers than stages; or the stages
            together give other numbers than the whole model.
    """
    chain = ranks.stages
    if chain.size == 1:
        return
    _check(model, chain)
    rows, _ = two_rows(model)
    with undisturbed(model):
        wanted = run_backbone(model, rows)
    _Stages(model, chain).put_on()
    with undisturbed(model):
        found = _tried(model, rows, chain)
    near = found is not None and bool((found - wanted).abs().max() <= TOLERANCE * wanted.square().mean().sqrt())
    if not chain.values(near)[-1]:
        raise UserError(f"{type(model).__name__} gives other numbers when its layers are on several workers; {FITTING}")


def hold_on_last_stage(head: nn.Module, ranks: Ranks) -> None:
    """A critic's head: only the last stage holds its weights."""
    if ranks.stages.size > 1:
        pieces = pieces_of(head)
        made: dict[int, nn.Parameter] = {}
        for layer, name, weight in list(_weights(head)):
            within = pieces.get(id(weight))
            size = weight.numel() if within is None else within.elements(weight)
            hold(layer, name, Held(ranks.stages, (ranks.stages.size - 1,), weight.shape, size, within), made)


def _tried(model: PreTrainedModel, rows: torch.Tensor, chain: Chain) -> torch.Tensor | None:
    """The last hidden states of the split model; None where its code does not run."""
    try:
        found = run_backbone(model, rows)
    except REFUSALS:
        found = None
    chain.settle()
    return found


def _check(model: PreTrainedModel, chain: Chain) -> None:
    lists = _lists(model)
    if len(lists) != 1:
        raise UserError(f"cluster.pipeline found no list of decoder layers in {type(model).__name__}; {FITTING}")
    if hidden_weights(model):
        raise UserError("cluster.pipeline cannot divide weights of four bits; leave quantize out")
    if len(lists[0]) < chain.size:
        raise UserError(
            f"cluster.pipeline is {chain.size}, but {type(model).__name__} has {len(lists[0])} layers, and every "
            f"worker needs one at least; cluster.pipeline can be 1 to {len(lists[0])}"
        )


def _lists(model: PreTrainedModel) -> list[nn.ModuleList]:
    return [child for child in backbone(model).children() if isinstance(child, nn.ModuleList) and len(child)]


class _Stages:
    """Splits one model."""

    def __init__(self, model: PreTrainedModel, chain: Chain) -> None:
        self.model, self.body, self.chain = model, backbone(model), chain
        (self.layers,) = _lists(model)
        self.spans = [part[0] for part in even(chain, len(self.layers)).spans]
        self.stage = Stage(chain)

    def put_on(self) -> None:
        owners = self._owners()
        pieces = pieces_of(self.model)
        made: dict[int, nn.Parameter] = {}
        alive = list(self.model.parameters())  # so that no two weights have the same id
        for layer, name, weight in list(_weights(self.model)):
            of, within = tuple(sorted(owners[id(weight)])), pieces.get(id(weight))
            size = weight.numel() if within is None else within.elements(weight)
            hold(layer, name, Held(self.chain, of, weight.shape, size, within), made)
        del alive
        vars(self.body)[STAGE] = self.stage
        self._stand_ins()

    def _owners(self) -> dict[int, set[int]]:
        """The stages that hold each weight, by its id."""
        owners: dict[int, set[int]] = {}
        last, is_first = self.chain.size - 1, True
        before: set[int] = set()
        for child in self.body.children():
            is_first &= child is not self.layers
            before |= {id(module) for module in child.modules()} if is_first else set()
        of_layer = {id(m): self._stage_of(i) for i, layer in enumerate(self.layers) for m in layer.modules()}
        for module, _, weight in _weights(self.model):
            stage = of_layer.get(id(module), 0 if id(module) in before else last)
            owners.setdefault(id(weight), set()).add(stage)
        return owners

    def _stage_of(self, layer: int) -> int:
        return next(i for i, (start, stop) in enumerate(self.spans) if start <= layer < stop)

    def _stand_ins(self) -> None:
        """Replace what other stages compute."""
        start, stop = self.spans[self.chain.rank]
        for i, layer in enumerate(self.layers):
            if not start <= i < stop:
                self._put(layer, receives if i == start - 1 else sends if i == stop else passes)
        is_before = True
        for child in self.body.children():
            if child is self.layers:
                is_before = False
            elif self.chain.rank != (0 if is_before else self.chain.size - 1):
                for module in child.modules():
                    if module._parameters:
                        self._put(module, blank_embedding if isinstance(module, nn.Embedding) else passes)

    def _put(self, module: Any, maker: Maker) -> None:
        vars(module)[STAGE] = self.stage
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False  # or the hidden state would be received twice
        module.__class__ = maker(type(module))


def _weights(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for layer in module.modules():
        for name, weight in layer._parameters.items():
            if weight is not None:
                yield layer, name, weight


def stage_of_model(model: nn.Module) -> Stage | None:
    """The stage that this process has of ``model``; None if the model is whole."""
    return stage_of(backbone(model)) if isinstance(model, PreTrainedModel) else None
