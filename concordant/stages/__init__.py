"""One function a verb: each takes its config dataclass and does the whole stage.

Torch is imported when a function is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_MODULE = {
    "prepare": "prepare",
    "sft": "sft",
    "reward": "reward",
    "score": "reward",
    "dpo": "dpo",
    "ppo": "ppo",
    "best_of_n": "best_of_n",
    "evaluate": "evaluate",
    "generate": "talk",
    "chat": "talk",
    "merge": "talk",
    "diagnose": "doctor",
}

__all__ = list(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)


class _Stages(ModuleType):
    """Importing a submodule makes it an attribute of its package: here ``stages.sft`` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Stages
