"""Reads and writes adapters as PEFT does, in ``adapter_config.json`` and ``adapter_model.safetensors``.

PEFT loads our files, and we load PEFT's. A tensor is called ``base_model.model.<path>.lora_A.weight``; a reward model's
head is listed under ``modules_to_save``.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.config.specs import ADAPTER_CONFIG
from concordant.core.errors import UserError, unknown_name
from concordant.models.finite import refuse_not_finite
from concordant.models.lora import (
    adaptable_layers,
    adapter_names,
    add_adapter_at,
    freeze_before_first_adapter,
    lora_layers,
    refuse_tied,
    set_active_adapter,
)
from concordant.models.lora_kinds import Factors, without_start
from concordant.models.lora_layer import Adapter, LoRALinear, check_adapter_name
from concordant.models.peft_base import BaseWeights, replaced_weights
from concordant.models.peft_config import PeftConfig
from concordant.runs.atomic import write_together

WEIGHTS_FILE = "adapter_model.safetensors"
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS")
_ROOT = "base_model.model."
_LENGTHS = "lora_magnitude_vector"  # DoRA's; PEFT writes no ".weight" behind it


def save_adapter(
    model: nn.Module,
    folder: Path | str,
    base_name: str,
    task_type: str = "CAUSAL_LM",
    name: str = "default",
    head: dict[str, Tensor] | None = None,
) -> None:
    """Write adapter ``name`` of ``model`` for PEFT. ``model`` may have its heads or be the backbone alone.

    PEFT passes ``base_name`` to ``from_pretrained`` to load the base. ``head`` is a reward model's head, with the keys
    of the plain sequence-classification model (``{"score.weight": (1, H)}``).

    An adapter on a layer of the head, such as an encoder's pooler, is not written: ``head`` holds the merged weight.

    Raises:
        UserError: the adapter or the task type is unknown; SEQ_CLS is given without its head, which would be lost.
    """
    if task_type not in TASK_TYPES:
        raise unknown_name("task type", task_type, TASK_TYPES)
    if task_type == "SEQ_CLS" and not head:
        raise UserError('a SEQ_CLS adapter is saved with its head: pass head={"score.weight": tensor}')
    prefix = _backbone_prefix(model)
    adapters = {prefix + p: layer.adapter(name) for p, layer in lora_layers(model).items() if name in layer.adapters}
    adapters = {path: adapter for path, adapter in adapters.items() if f"{path}.weight" not in (head or {})}
    if not adapters:
        raise unknown_name("adapter", name, adapter_names(model))
    tensors = {f"{_ROOT}{path}.{key}": value for path, a in adapters.items() for key, value in _stored(a).items()}
    replaced = {prefix + key: value for key, value in replaced_weights(model).items()}
    whole = {_module_to_save(model, key) for key in head or {}} | {key.split(".")[-2] for key in replaced}
    tensors |= {f"{_ROOT}{key}": value for key, value in (replaced | (head or {})).items()}
    stored = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    config = _config_of(adapters, _targets(adapters, model, prefix), base_name, task_type, sorted(whole))
    config["fan_in_fan_out"] = any(layer.transposed for layer in lora_layers(model).values())
    # The config is written last. So new weights never stand beside the config of an older adapter.
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    weights = safetensors.torch.save(stored, {"format": "pt"})
    write_together(Path(folder), {WEIGHTS_FILE: weights, ADAPTER_CONFIG: text.encode()})


def load_adapter(
    model: nn.Module, folder: Path | str, name: str = "default", trainable: bool = True
) -> dict[str, Tensor] | None:
    """Add the adapter in ``folder`` to ``model`` as ``name`` and make it active.

    Returns the adapter's head with the keys of the plain sequence-classification model, or None. An error leaves the
    model unchanged. The first adapter freezes all other weights.

    Raises:
        UserError: the folder is not an adapter folder; its weights are pickled, NaN or infinite; its PEFT type or an
            option is not plain LoRA; its modules, shapes or copied weights belong to another base; a SEQ_CLS adapter
            lacks its head; a weight is tied to another; ``name`` is taken.
    """
    folder = Path(folder)
    config = PeftConfig.read(folder / ADAPTER_CONFIG)
    check_adapter_name(name)
    if name in adapter_names(model):
        raise UserError(f'the model already has an adapter "{name}"; choose another name or remove_adapter it')
    tensors = _read_tensors(folder)
    prefix = _backbone_prefix(model)
    base = BaseWeights(model, prefix, config, folder)
    tensors = base.take(tensors, _ROOT)
    pairs, lengths, head = _split(tensors, config, folder)
    layers = {prefix + path: layer for path, layer in adaptable_layers(model).items()}
    _check_base(pairs, layers, config, folder)
    _check_lengths(pairs, lengths, config, folder)
    _check_head(model, head, config, folder)
    refuse_tied(model, [path.removeprefix(prefix) for path in pairs])
    freeze_before_first_adapter(model)
    base.replace()
    for path, (a_rI, b_Or) in pairs.items():
        adapter = add_adapter_at(
            model,
            path.removeprefix(prefix),
            name,
            config.rank_of(path),
            config.alpha_of(path),
            config.dropout,
            rank_stabilised=config.rank_stabilised,
            dora=config.dora,
            start=config.start,
        )
        with torch.no_grad():
            adapter.lora_A.copy_(a_rI)
            adapter.lora_B.copy_(b_Or)
            if adapter.lora_magnitude is not None:
                adapter.lora_magnitude.copy_(lengths[path])
        adapter.requires_grad_(trainable)
    set_active_adapter(model, name)
    return head or None


def _plain(adapter: Adapter) -> Factors:
    """The adapter over the base of its folder: PiSSA's has twice the rank there."""
    if adapter.start_A is None or adapter.start_B is None:
        return adapter.factors
    return without_start(adapter.factors, (adapter.start_A, adapter.start_B))


def _stored(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of an adapter by the ends of their names."""
    plain = _plain(adapter)
    found = {"lora_A.weight": plain.a_rI, "lora_B.weight": plain.b_Or}
    return found if adapter.lora_magnitude is None else {**found, _LENGTHS: adapter.lora_magnitude}


def _alpha(adapter: Adapter) -> float:
    """The alpha that gives the stored adapter the scaling of this one."""
    times = len(_plain(adapter).a_rI) / adapter.r
    return adapter.alpha * (times**0.5 if adapter.rank_stabilised else times)


def _backbone_prefix(model: nn.Module) -> str:
    """The first part of PEFT's paths, such as ``model.``, that the paths of a backbone without its head lack."""
    if isinstance(model, PreTrainedModel) and model.base_model is model and model.get_output_embeddings() is None:
        return f"{model.base_model_prefix}." if model.base_model_prefix else ""
    return ""


# -- writing --------------------------------------------------------------------------------------


def _targets(adapters: dict[str, Adapter], model: nn.Module, prefix: str) -> list[str]:
    """The last names of the adapted paths; whole paths where a last name would also match another linear layer."""
    short = {path.rpartition(".")[2] for path in adapters}
    matched = {prefix + path for path in adaptable_layers(model) if path.rpartition(".")[2] in short}
    return sorted(short if matched == set(adapters) else adapters)


def _module_to_save(model: nn.Module, key: str) -> str:
    """The name under ``modules_to_save`` for a head's tensor: its first part, or the one after the backbone's name."""
    body = f"{model.base_model_prefix}." if isinstance(model, PreTrainedModel) else ""
    return (key.removeprefix(body) if body else key).split(".")[0]


def head_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The head of a classifier by its plain names, with the adapters on it merged; see ``is_head``."""
    layers = lora_layers(model)
    found: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path.removesuffix(".base"))
        if not is_head(model, name) or "lora_" in leaf:
            continue
        weight: Tensor = layer.weight if layer is not None and leaf == "weight" else value
        found[f"{path.removesuffix('.base')}.{leaf}"] = weight.detach()
    return found


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a classifier's parameter belongs to its head: outside the backbone, or the backbone's pooler.

    The language-model head that a reward model may have while it is trained is not part of it.
    """
    outside = not name.startswith(f"{model.base_model_prefix}.") and not name.startswith("lm_head.")
    return outside or _is_pooler(name)


def _is_pooler(name: str) -> bool:
    """An encoder's pooler was often never trained, so it belongs to the head although it is in the backbone."""
    return "pooler" in name.split(".")


def _config_of(
    adapters: dict[str, Adapter], targets: list[str], base_name: str, task_type: str, whole: list[str]
) -> dict[str, Any]:
    ranks = {path: len(_plain(a).a_rI) for path, a in adapters.items()}
    alphas = {path: _alpha(a) for path, a in adapters.items()}
    rank, alpha = (Counter(numbers.values()).most_common(1)[0][0] for numbers in (ranks, alphas))
    first = next(iter(adapters.values()))
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": first.dropout.p,
        "use_rslora": first.rank_stabilised,
        "target_modules": targets,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: _number(a) for path, a in alphas.items() if a != alpha},
        "modules_to_save": whole or None,
        "bias": "none",
        "use_dora": first.lora_magnitude is not None,
        "init_lora_weights": True,
    }


def _number(value: float) -> float:
    """An integer where the value is whole, such as 32 for 32.0, because PEFT declares alpha as an integer."""
    return int(value) if float(value).is_integer() else value


# -- reading --------------------------------------------------------------------------------------


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.exists():
            raise UserError(f"{pickled} is a pickle, which can run code when opened: refused. Expected {WEIGHTS_FILE}")
        raise UserError(f"{folder} has no {WEIGHTS_FILE}: expected the folder of a PEFT adapter")
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    refuse_not_finite(folder, tensors)
    return tensors


def _split(
    tensors: dict[str, Tensor], config: PeftConfig, folder: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """The pairs (A, B) by path, DoRA's lengths by path, and ``modules_to_save`` by their key in the plain model."""
    halves: dict[str, dict[str, Tensor]] = {}
    lengths: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for key, value in tensors.items():
        local = key.removeprefix(_ROOT)
        path, _, kind = local.removesuffix(".weight").rpartition(".")
        if key.startswith(_ROOT) and kind in ("lora_A", "lora_B") and local.endswith(".weight"):
            halves.setdefault(path, {})[kind] = value
        elif key.startswith(_ROOT) and kind == _LENGTHS and config.dora:
            lengths[path] = value
        elif key.startswith(_ROOT) and "lora_" not in local and config.saves(local):
            head[local] = value
        else:
            raise UserError(f"{folder / WEIGHTS_FILE}: {key} is neither a LoRA weight nor under modules_to_save")
    for path, half in halves.items():
        if len(half) != 2:
            raise UserError(f"{folder / WEIGHTS_FILE}: {path} has only {min(half)}, expected lora_A and lora_B")
    return {path: (half["lora_A"], half["lora_B"]) for path, half in halves.items()}, lengths, head


def _check_lengths(
    pairs: dict[str, tuple[Tensor, Tensor]], lengths: dict[str, Tensor], config: PeftConfig, folder: Path
) -> None:
    """Refuse a DoRA adapter whose layers have not one length for each of their outputs."""
    wrong = [path for path, (_, b_Or) in pairs.items() if lengths.get(path, b_Or.new_empty(0)).shape != b_Or.shape[:1]]
    if config.dora and (wrong or lengths.keys() - pairs.keys()):
        raise UserError(f"{folder / WEIGHTS_FILE}: expected a {_LENGTHS} for every row of {(wrong or [*lengths])[0]}")


def _check_base(
    pairs: dict[str, tuple[Tensor, Tensor]], layers: dict[str, nn.Module], config: PeftConfig, folder: Path
) -> None:
    """Refuse a pair that fits no layer of this model, and a layer that the config names and that has no pair."""
    other = f"{folder} was made for another base ({config.base_name or 'unnamed'})"
    strange = [path for path in pairs if path not in layers]
    if strange or not pairs:
        raise UserError(f"{other}: this model has no linear layer {strange[0]}" if strange else f"{folder} is empty")
    for path, (a_rI, b_Or) in pairs.items():
        rank, size = config.rank_of(path), _size(layers[path])
        if (tuple(a_rI.shape), tuple(b_Or.shape)) != ((rank, size[0]), (size[1], rank)):
            raise UserError(
                f"{other}: {path} holds A {tuple(a_rI.shape)} and B {tuple(b_Or.shape)}, "
                f"expected {(rank, size[0])} and {(size[1], rank)}"
            )
    bare = [path for path in layers if config.targets(path) and path not in pairs]
    if bare:
        raise UserError(f"{other}: its config names {bare[0]} and {len(bare) - 1} more layers it has no weights for")


def _size(layer: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, also where the weight is stored transposed."""
    if isinstance(layer, nn.Linear | LoRALinear):
        return layer.in_features, layer.out_features
    rows, columns = layer.get_parameter("weight").shape  # Conv1D's
    return rows, columns


def _check_head(model: nn.Module, head: dict[str, Tensor], config: PeftConfig, folder: Path) -> None:
    """Refuse a SEQ_CLS adapter without its head, and any saved weight that would replace a part of the model."""
    if config.task_type == "SEQ_CLS" and not head:
        raise UserError(f"{folder} is a SEQ_CLS adapter without its head: its scores cannot be reproduced")
    if not isinstance(model, PreTrainedModel):
        return
    body = model.base_model_prefix
    output = model.get_output_embeddings()
    output_paths = [path for path, module in model.named_modules() if module is output]
    for key in head:
        if _is_pooler(key):
            continue
        if key.startswith(f"{body}.") or any(key.startswith(f"{path}.") for path in output_paths):
            raise UserError(f"{folder} also replaces {key}, a weight of the model itself: only a head can be loaded")
