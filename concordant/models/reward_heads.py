"""k heads on one backbone of a reward model: the last layer has k rows, and each row is a member of an ensemble.

The folder of such a model is the folder of a reward model with one head, the mean of the k, which every tool can load:
the last layer is linear, so the score of the mean head is the mean of the scores. The k heads lie beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.models.finite import refuse_not_finite

HEADS_FILE = "heads.safetensors"  # beside a model or an adapter: weight (K, H), and bias (K,) where the layer has one
_MOST_APART = 1e-4  # a share of the largest weight; rounding of a mean in fp32 gives 1e-7


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a reward model, as they are written."""

    mean: dict[str, Tensor]  # by the plain names of the model, in the shapes of one head
    every: dict[str, Tensor]  # weight (K, H), bias (K,)

    def write(self, folder: Path) -> None:
        stored = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in self.every.items()}
        (folder / HEADS_FILE).write_bytes(safetensors.torch.save(stored, {"format": "pt"}))


class Rows(nn.Linear):
    """The last layer of a reward model with several heads: a row for each."""


def rows_of(model: PreTrainedModel) -> tuple[str, Rows] | None:
    """The path of the last layer of a model with several heads, and the layer; None for a model with one head."""
    return next(((path, module) for path, module in model.named_modules() if isinstance(module, Rows)), None)


def heads_in(model: PreTrainedModel) -> int:
    found = rows_of(model)
    return 1 if found is None else found[1].out_features


def _last_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The path of the layer that gives the one score, and the layer. UserError if no linear layer does.

    It is the last linear layer with one output outside the backbone.
    """
    body = f"{model.base_model_prefix}."
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1 and not path.startswith(body)
    ]
    if not found:
        raise UserError(f"no linear layer gives the score of {type(model).__name__}, so it cannot have several heads")
    return found[-1]


def add_heads(model: PreTrainedModel, heads: int, seed: int) -> None:
    """Give the model ``heads`` new heads in place of its one. ``seed`` draws them, as the architecture draws a head.

    One head stays as it is.
    """
    if heads == 1:
        return
    path, old = _last_layer(model)
    layer = Rows(old.in_features, heads, bias=old.bias is not None)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "models/reward_heads"))
        model._init_weights(layer)
    _put(model, path, layer)


def heads_of(model: PreTrainedModel) -> Heads | None:
    """What is written of the heads; None for a model with one head."""
    found = rows_of(model)
    if found is None:
        return None
    path, layer = found
    every = {name: value.detach() for name, value in layer.named_parameters()}
    return Heads({f"{path}.{name}": value.mean(0, keepdim=True) for name, value in every.items()}, every)


def load_heads(model: PreTrainedModel, place: Path | str) -> None:
    """Give a model the heads that lie beside it at ``place``, a folder or a hub id. Without such a file it keeps one.

    Raises:
        UserError: the file is damaged, or its heads are not those whose mean the model has.
    """
    every = read_heads(place)
    if every is None:
        return
    path, old = _last_layer(model)
    check_mean(every, old.weight, place)
    has_bias = old.bias is not None
    if has_bias != ("bias" in every):
        raise UserError(f"{place}/{HEADS_FILE} has {'no' if has_bias else 'a'} bias, other than the model's {path}")
    layer = Rows(old.in_features, len(every["weight"]), bias=has_bias)
    layer.load_state_dict(every)
    _put(model, path, layer)


def read_heads(place: Path | str) -> dict[str, Tensor] | None:
    """The heads that lie at ``place``: weight (K, H), and bias (K,) if there is one. None if no file is there."""
    file = place / HEADS_FILE if isinstance(place, Path) else _of_the_hub(place)
    if file is None or not file.is_file():
        return None
    try:
        every = safetensors.torch.load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or not a safetensors file: {error}") from error
    refuse_not_finite(file, every)
    weight_KH = every.get("weight")
    rows = 0 if weight_KH is None or weight_KH.ndim != 2 else len(weight_KH)
    if rows < 2 or set(every) - {"weight", "bias"} or ("bias" in every and every["bias"].shape != (rows,)):
        found = {name: tuple(value.shape) for name, value in every.items()}
        raise UserError(f"{file}: expected weight (K, H) and perhaps bias (K,) of two heads or more; found {found}")
    return {name: value.float() for name, value in every.items()}


def check_mean(every: dict[str, Tensor], mean_1H: Tensor, place: Path | str) -> None:
    """Raises UserError if the heads do not belong to the model, whose head is their mean."""
    mean_KH = every["weight"].mean(0, keepdim=True)
    scale = float(every["weight"].abs().max())
    if mean_KH.shape != mean_1H.shape or float((mean_KH - mean_1H.detach().cpu()).abs().max()) > _MOST_APART * scale:
        raise UserError(
            f"{place}/{HEADS_FILE} does not belong to the model beside it, whose head is not the mean of these heads: "
            "another tool may have changed the model. Remove the file to use the model with its one head"
        )


def _of_the_hub(name: str) -> Path | None:
    found = cached_file(name, HEADS_FILE, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _put(model: PreTrainedModel, path: str, layer: Rows) -> None:
    parent, _, name = path.rpartition(".")
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    layer.to(old.weight.device, old.weight.dtype).train(old.training)
    layer.requires_grad_(old.weight.requires_grad)
    setattr(model.get_submodule(parent), name, layer)
