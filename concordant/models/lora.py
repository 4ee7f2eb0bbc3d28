"""LoRA on a whole model: named adapters on one frozen backbone, of which one or none is active.

The layer is in lora_layer.py, PEFT's files in peft_files.py.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from concordant.config.names import LoraStart
from concordant.core.errors import UserError, nearest, unknown_name
from concordant.core.seeding import torch_stream
from concordant.models.lora_layer import Adapter, LoRALinear, Names, check_adapter_name, check_settings, choosing
from concordant.models.quantized import NF4Linear, whole_weights

__all__ = [
    "Adapter",
    "LoRALinear",
    "LoraReport",
    "active_adapter",
    "active_names",
    "adapter_names",
    "apply_lora_to_model",
    "copy_adapter",
    "find_target_modules",
    "get_lora_parameters",
    "merge_lora_weights",
    "merged_state_dict",
    "print_trainable_parameters",
    "remove_adapter",
    "set_active_adapter",
]

_log = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer of the backbone
# Usual names of heads, for models that do not say where their backbone ends.
HEAD_NAMES = frozenset({"lm_head", "embed_out", "score", "classifier", "qa_outputs", "v_head", "value_head"})


@dataclass(frozen=True, slots=True)
class LoraReport:
    """The paths of the layers that got an adapter, and the weights that got none.

    ``not_adapted`` lists weights that were asked for but do not belong to a linear layer, such as the 3-D experts of a
    mixture. They stay unchanged.
    """

    modules: list[str]
    not_adapted: list[str]


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by path, heads included. A layer that has adapters is given as its ``LoRALinear``."""
    wrappers = lora_layers(model)
    return {
        path: module
        for path, module in model.named_modules()
        if path in wrappers
        or (isinstance(module, nn.Linear | Conv1D | NF4Linear) and path and path.rpartition(".")[0] not in wrappers)
    }


def backbone_modules(model: nn.Module) -> set[nn.Module]:
    """The modules whose layers get adapters when no target is named: all except the LM, score and value heads."""
    roots: list[tuple[str, PreTrainedModel]] = []
    for path, module in model.named_modules():
        inside = any(root == "" or path.startswith(f"{root}.") for root, _ in roots)
        if isinstance(module, PreTrainedModel) and not inside:
            roots.append((path, module))
    bodies: list[nn.Module] = [root.base_model for _, root in roots] or [model]
    kept = {module for body in bodies for module in body.modules()}
    heads = (child for body in bodies for name, child in body.named_children() if name in HEAD_NAMES)
    return kept - {module for head in heads for module in head.modules()}


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _names_of(target_names: Sequence[str] | None) -> list[str]:
    """The single names; none means every linear layer of the backbone. An item may be ``q_proj,v_proj``.

    Raises:
        UserError: ``target_names`` is one text instead of a list; ``all-linear`` stands beside other names.
    """
    if isinstance(target_names, str) and target_names != ALL_LINEAR:
        raise UserError(f'target_modules "{target_names}": expected a list of names, such as ["{target_names}"]')
    items = [target_names] if isinstance(target_names, str) else target_names or ()
    names = [name.strip() for item in items for name in item.split(",") if name.strip()]
    if ALL_LINEAR in names and len(names) > 1:
        raise UserError(f"target_modules {', '.join(names)}: {ALL_LINEAR} already means all; give it alone")
    return [] if ALL_LINEAR in names else names


def find_target_modules(model: nn.Module, target_names: Sequence[str] | None = None) -> list[str]:
    """Paths of the linear layers whose path ends with one of the names, e.g. ``["c_attn"]`` or ``["mlp.c_proj"]``.

    Without names, or with ``all-linear``: every ``nn.Linear`` and ``Conv1D`` of the backbone, and so neither the LM
    head nor the score head.

    Raises:
        UserError: no linear layer has this name; or the layer's weight is tied to another module's weight, which a
            merged update would change as well.
    """
    layers, names = adaptable_layers(model), _names_of(target_names)
    if not names:
        backbone = backbone_modules(model)
        paths = [path for path, layer in layers.items() if layer in backbone]
        if not paths:
            raise UserError("the model has no nn.Linear or Conv1D to adapt")
        refuse_tied(model, paths)
        return paths
    for target in names:
        if not any(_matches(path, target) for path in layers):
            raise _no_target(model, target, layers)
    paths = [path for path in layers if any(_matches(path, target) for target in names)]
    refuse_tied(model, paths)
    return paths


def _no_target(model: nn.Module, target: str, layers: dict[str, nn.Module]) -> UserError:
    known = {path.rpartition(".")[2] for path in layers}
    for path, module in model.named_modules():
        if _matches(path, target):
            return UserError(
                f'LoRA cannot adapt "{target}": {path} is of type {type(module).__name__} and not a linear layer'
            )
    for path, parameter in model.named_parameters():
        if _matches(path, target):
            return UserError(
                f'LoRA cannot adapt "{target}": {path} is a {parameter.ndim}-D parameter and not a linear layer'
            )
    return UserError(
        f'no module is called "{target}".{nearest(target, known)} Linear layers here: {", ".join(sorted(known))}'
    )


def refuse_tied(model: nn.Module, paths: Sequence[str]) -> None:
    """UserError where the weight of a layer at ``paths`` is another module's too."""
    owners: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path)
    for path in paths:
        layer = model.get_submodule(path)
        weight = layer.base.weight if isinstance(layer, LoRALinear) else layer.weight
        shared = [owner for owner in owners.get(id(weight), ()) if not owner.startswith(f"{path}.")]
        if shared:
            raise UserError(f"LoRA cannot adapt {path}: its weight is tied to {shared[0]}, which would change with it")


def _not_adapted(model: nn.Module, names: Sequence[str]) -> list[str]:
    backbone, adapted = backbone_modules(model), set(adaptable_layers(model).values())
    ignored = (nn.Embedding, Adapter)  # an embedding looks up rows of a table and is not a linear layer
    inside = {child for layer in adapted if isinstance(layer, LoRALinear) for child in layer.modules()}
    found: list[str] = []
    for path, module in model.named_modules():
        if module not in backbone or module in adapted or module in inside or isinstance(module, ignored):
            continue
        weights = [f"{path}.{name}" for name, p in module.named_parameters(recurse=False) if p.ndim >= 2]
        found += [w for w in weights if not names or any(_matches(w, t) or _matches(path, t) for t in names)]
    return found


def add_adapter_at(
    model: nn.Module,
    path: str,
    name: str,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    rank_stabilised: bool = False,
    dora: bool = False,
    start: LoraStart = "kaiming",
) -> Adapter:
    """Add an adapter to the linear layer at ``path``. The first adapter wraps the layer in a ``LoRALinear``."""
    layer = model.get_submodule(path)
    if isinstance(layer, LoRALinear):
        layer.add_adapter(name, r, alpha, dropout, generator, rank_stabilised, dora, start)
    else:
        layer = LoRALinear(layer, r, alpha, dropout, name, generator, rank_stabilised, dora, start)
        model.set_submodule(path, layer)
    return layer.adapter(name)


def freeze_before_first_adapter(model: nn.Module) -> None:
    """Freeze every parameter if the model has no adapters yet. A head that was unfrozen later stays unfrozen."""
    if not lora_layers(model):
        model.requires_grad_(False)


def apply_lora_to_model(
    model: nn.Module,
    target_modules: Sequence[str] | None = None,
    r: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    name: str = "default",
    seed: int = 0,
    rank_stabilised: bool = False,
    dora: bool = False,
    start: LoraStart = "kaiming",
) -> LoraReport:
    """Give the layers of ``find_target_modules`` a new adapter and make it active; the model changes in place.

    The first adapter freezes all other weights; unfreeze a new head afterwards. The random start of each layer depends
    on ``seed``, ``name`` and the layer's path, and not on the order of calls. ``rank_stabilised``: the update is
    multiplied by alpha / sqrt(r) (rsLoRA). ``dora``, ``start``: see lora_kinds.py.

    Raises:
        UserError: a target is unknown or tied; the name is taken; the rank, alpha or dropout is out of range; the rank
            is greater than that of every layer, or with PiSSA of any; PiSSA's layer has an adapter already.
    """
    check_adapter_name(name)
    check_settings(r, alpha, dropout)
    paths = find_target_modules(model, target_modules)
    if name in adapter_names(model):
        raise UserError(f'the model already has an adapter "{name}"; choose another name or remove_adapter it')
    _check_rank(r, [model.get_submodule(path) for path in paths])
    missed = _not_adapted(model, _names_of(target_modules))
    freeze_before_first_adapter(model)
    for path in paths:
        stream = torch_stream(seed, "lora", name, path)
        add_adapter_at(model, path, name, r, alpha, dropout, stream, rank_stabilised, dora, start)
    set_active_adapter(model, name)
    if missed:
        _log.warning("LoRA adapts linear layers only: %d other weights stay frozen, first %s", len(missed), missed[0])
    return LoraReport(paths, missed)


def _check_rank(r: int, layers: Sequence[nn.Module]) -> None:
    """UserError if no layer has a change of rank ``r``: such an adapter needs more memory than the layers it adapts."""
    weights = [(layer.base if isinstance(layer, LoRALinear) else layer).weight for layer in layers]
    most = max(min(weight.shape) for weight in weights)  # type: ignore[arg-type]
    if r > most:
        raise UserError(
            f"LoRA rank {r}: a change of the largest layer has rank {most} at most, so more learns nothing more; "
            f"set model.lora.rank to {most} or less"
        )


def adapter_names(model: nn.Module) -> list[str]:
    return sorted({name for layer in lora_layers(model).values() for name in layer.adapters})


def active_names(model: nn.Module) -> Names:
    """The adapters that are active. Where several adapters share a model, not every layer has each of them."""
    return tuple(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.actives))


def layers_with(model: nn.Module, name: str) -> dict[str, LoRALinear]:
    """The layers that have adapter ``name``: at least one, otherwise ``UserError``."""
    found = {path: layer for path, layer in lora_layers(model).items() if name in layer.adapters}
    if not found:
        raise unknown_name("adapter", name, adapter_names(model))
    return found


def get_lora_parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """The parameters A and B of every layer: those of adapter ``name``, or without a name those of all adapters."""
    names = [name] if name is not None else adapter_names(model)
    return [p for n in names for layer in layers_with(model, n).values() for p in layer.adapters[n].parameters()]


def set_active_adapter(model: nn.Module, name: str | Sequence[str] | None) -> None:
    """Make an adapter active, or several, whose updates are added, or none (the reference).

    This does not change which parameters are trainable.
    """
    for layer, names in _uses(model, name).items():
        layer.active = names


def _uses(model: nn.Module, name: str | Sequence[str] | None) -> dict[LoRALinear, Names]:
    """The adapters that each layer has of those that are named. UserError where one is unknown or does not add up."""
    layers = lora_layers(model)
    if not layers:
        raise UserError("the model has no adapters; apply_lora_to_model or load_adapter first")
    names = tuple(dict.fromkeys([] if name is None else [name] if isinstance(name, str) else name))
    for one in names:
        with_it = layers_with(model, one).values()
        if len(names) > 1 and any(layer.adapter(one).lora_magnitude is not None for layer in with_it):
            raise UserError(f'"{one}" is a DoRA adapter, which scales the whole weight: it can only be active alone')
    return {layer: tuple(one for one in names if one in layer.adapters) for layer in layers.values()}


def active_adapter(model: nn.Module, name: str | Sequence[str] | None) -> AbstractContextManager[None]:
    """Inside the block, calls of this thread use the adapter ``name``, or several, or none.

    The model is not changed, so other threads are not disturbed. With activation checkpointing, the backward pass uses
    the same adapter when it computes activations again.
    """
    return choosing(_uses(model, name))


def copy_adapter(model: nn.Module, source: str, target: str, trainable: bool = False) -> None:
    """Add a copy of adapter ``source`` under the name ``target``. The active adapter stays active.

    A frozen copy has no dropout: it is the reference for a policy that starts from the adapter of SFT. A ``trainable``
    copy keeps the dropout: it is the start of a critic.
    """
    check_adapter_name(target)
    layers = layers_with(model, source)
    if target in adapter_names(model):
        raise UserError(f'the model already has an adapter "{target}"; choose another name or remove_adapter it')
    for layer in layers.values():
        twin = copy.deepcopy(layer.adapter(source)).requires_grad_(trainable)
        if not trainable:
            twin.dropout.p = 0.0
        layer.adapters[target] = twin


def changed_base(model: nn.Module) -> bool:
    """Whether an adapter took a part out of the base (PiSSA), so that the base is not the one of its folder."""
    return any(layer.adapter(n).start_A is not None for layer in lora_layers(model).values() for n in layer.adapters)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Remove an adapter from every layer. If the adapter was active, no adapter is active afterwards."""
    for layer in layers_with(model, name).values():
        del layer.adapters[name]
        layer.active = tuple(one for one in layer.actives if one != name)


@torch.no_grad()
def merge_lora_weights(model: nn.Module, name: str = "default") -> None:
    """Add adapter ``name`` to the base weights and remove all adapters.

    The model is a plain model again. Its weights stay frozen. A base of four bits becomes fp32 where an adapter was.
    """
    layers_with(model, name)
    for path, layer in lora_layers(model).items():
        merged = layer.merged_weight(name) if name in layer.adapters else None
        base = layer.base.plain() if isinstance(layer.base, NF4Linear) else layer.base
        if merged is not None:
            base.get_parameter("weight").copy_(merged)
        base.train(layer.training)
        model.set_submodule(path, base)


@torch.no_grad()
def merged_state_dict(model: nn.Module, name: str | Names | None) -> dict[str, Tensor]:
    """The state dict of the plain model with adapter ``name`` merged, or several; with None, of the base alone.

    The model keeps its adapters, so that a run can export a plain model and then continue.
    """
    layers = lora_layers(model)
    used = _uses(model, name) if name else {}
    merged = {p: layer.merged_weight(used[layer]) for p, layer in layers.items() if used.get(layer)}
    plain: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        path = next((p for p in layers if key.startswith(f"{p}.")), None)
        if path is None:
            plain[key] = value
        elif key == f"{path}.base.weight":
            plain[f"{path}.weight"] = merged.get(path, value)
        elif key.startswith(f"{path}.base."):
            plain[key.replace(f"{path}.base.", f"{path}.")] = value
    return plain | whole_weights(model, layers, merged)


def print_trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Print and return how many parameters are trained and how many the model has. Tied weights count once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trainable = sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
    print(f"trainable: {trainable:,} || all: {total:,} || {100 * trainable / max(total, 1):.2f} %")
    return trainable, total
