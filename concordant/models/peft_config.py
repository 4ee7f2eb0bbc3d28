"""Reads ``adapter_config.json``. Every option in the file is either followed or refused by its name."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.config.names import LoraStart
from concordant.core.errors import UserError
from concordant.models.settings_files import read_object

_HONOURED = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "init_lora_weights",
    "bias",
}
# These do not change what a trained adapter computes. fan_in_fan_out says how the base stores its weight, which the
# base's own layer says too.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "fan_in_fan_out",
    "megatron_core",
    "runtime_config",
    "eva_config",
    "qalora_group_size",
    "ensure_weight_tying",
}
# PiSSA changes the base's weights, by a formula that is repeated when the adapter is loaded. The other values (OLoRA,
# CorDA, LoftQ, LoRA-GA, PiSSA by a random iteration) are refused, because they change the base's weights in other ways.
_PISSA = "pissa"
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", _PISSA)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """The options of a PEFT LoRA config that decide which layers get an adapter and what the adapter computes."""

    task_type: str | None
    base_name: str | None
    rank: int
    alpha: float
    dropout: float
    rank_stabilised: bool
    dora: bool
    start: LoraStart
    target_modules: tuple[str, ...] | str | None  # a string is a regular expression for the whole path
    exclude_modules: tuple[str, ...] | str
    layer_indices: tuple[int, ...]  # empty: every layer
    layer_patterns: tuple[str, ...]
    rank_pattern: dict[str, int]  # keys are regular expressions for the end of a path; the first match is used
    alpha_pattern: dict[str, float]
    modules_to_save: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> PeftConfig:
        """Read the file.

        Raises:
            UserError: the file is not a LoRA config, or it has an option that is not supported.
        """
        if not path.is_file():
            raise UserError(f"{path.parent} has no {path.name}: expected the folder of a PEFT adapter")
        raw = read_object(path)
        try:
            return cls._parse(raw)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def _parse(cls, raw: dict[str, Any]) -> PeftConfig:
        _refuse_what_is_not_plain_lora(raw)
        return cls(
            task_type=raw.get("task_type"),
            base_name=raw.get("base_model_name_or_path"),
            rank=_rank("r", raw.get("r", 8)),
            alpha=_alpha("lora_alpha", raw.get("lora_alpha", 8)),
            dropout=_dropout("lora_dropout", raw.get("lora_dropout", 0.0)),
            rank_stabilised=bool(raw.get("use_rslora")),
            dora=bool(raw.get("use_dora")),
            start="pissa" if raw.get("init_lora_weights") == _PISSA else "kaiming",
            target_modules=_names("target_modules", raw["target_modules"]) if raw.get("target_modules") else None,
            exclude_modules=_names("exclude_modules", raw.get("exclude_modules") or []),
            layer_indices=tuple(_integer("layers_to_transform", i) for i in _list(raw.get("layers_to_transform"))),
            layer_patterns=tuple(_pattern("layers_pattern", p) for p in _list(raw.get("layers_pattern"))),
            rank_pattern={_pattern("rank_pattern", k): _rank(k, v) for k, v in _table(raw, "rank_pattern")},
            alpha_pattern={_pattern("alpha_pattern", k): _alpha(k, v) for k, v in _table(raw, "alpha_pattern")},
            modules_to_save=tuple(_names("modules_to_save", _list(raw.get("modules_to_save")))),
        )

    def rank_of(self, path: str) -> int:
        return self.rank_pattern.get(_first_match(self.rank_pattern, path), self.rank)

    def alpha_of(self, path: str) -> float:
        return self.alpha_pattern.get(_first_match(self.alpha_pattern, path), self.alpha)

    def saves(self, key: str) -> bool:
        """Whether ``modules_to_save`` names the module that tensor ``key`` belongs to."""
        return any(f".{key}".find(f".{name}.") >= 0 for name in self.modules_to_save)

    def targets(self, path: str) -> bool:
        """Whether the config names the layer at ``path`` for an adapter; False where it names no layers at all."""
        if self.target_modules is None or _named(self.exclude_modules, path) or self.saves(f"{path}."):
            return False
        if isinstance(self.target_modules, str) or not self.layer_indices:
            return _named(self.target_modules, path)
        starts = [rf".*\.{p}\.(\d+)\." for p in self.layer_patterns] or [r".*\.[^.]*\.(\d+)\."]
        found = next((m for m in (re.match(start, path) for start in starts) if m), None)
        return _named(self.target_modules, path) and found is not None and int(found[1]) in self.layer_indices


def _refuse_what_is_not_plain_lora(raw: dict[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UserError(f"PEFT type {kind} is not supported: expected LORA")
    if raw.get("task_type") not in (None, "CAUSAL_LM", "SEQ_CLS"):
        raise UserError(f"task type {raw['task_type']} is not supported: expected CAUSAL_LM or SEQ_CLS")
    if raw.get("bias", "none") != "none":
        raise UserError(f'bias "{raw["bias"]}" is not supported: it trains biases of the base; expected "none"')
    start = raw.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise UserError(f'init_lora_weights "{start}" is not supported: it changes the base; convert it to plain LoRA')
    for key, value in raw.items():
        if value and key not in _HONOURED | _WITHOUT_EFFECT:
            raise UserError(f"{key} = {json.dumps(value)[:80]} is not supported: expected plain LoRA")


def _first_match(patterns: dict[str, Any], path: str) -> str:
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", path)), path)


def _named(names: tuple[str, ...] | str, path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _names(key: str, value: object) -> tuple[str, ...] | str:
    if isinstance(value, str):
        return _pattern(key, value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise UserError(f"{key} is {json.dumps(value)[:80]}: expected a list of names or a regular expression")


def _pattern(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key} holds {json.dumps(value)[:80]}: expected a regular expression")
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f'{key} holds "{value}", which is not a regular expression: {error}') from error
    return value


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _table(raw: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{key} is {json.dumps(value)[:80]}: expected an object")
    return list(value.items())


def _integer(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{key} is {json.dumps(value)[:80]}: expected a whole number")


def _rank(key: str, value: object) -> int:
    if _integer(key, value) < 1:
        raise UserError(f"{key} is {value}: expected a rank of 1 or more")
    return _integer(key, value)


def _number(key: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise UserError(f"{key} is {json.dumps(value)[:80]}: expected a number")


def _alpha(key: str, value: object) -> float:
    if _number(key, value) <= 0:
        raise UserError(f"{key} is {value}: expected more than 0")
    return _number(key, value)


def _dropout(key: str, value: object) -> float:
    if not 0 <= _number(key, value) < 1:
        raise UserError(f"{key} is {value}: expected 0 <= {key} < 1")
    return _number(key, value)
