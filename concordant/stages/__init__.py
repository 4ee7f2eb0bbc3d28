"""One function a verb: each takes its config dataclass and does the whole stage. Torch is imported when one is called."""

from __future__ import annotations

import importlib
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
}

__all__ = list(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
