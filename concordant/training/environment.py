"""Describes the environment of a run, which can change the last bits of its numbers."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from concordant.runs.identity import code_version


def environment(threads: int) -> dict[str, Any]:
    """Versions of libraries, number of threads and kind of machine: with the inputs, they decide the bits of a run."""
    cuda = torch.cuda.is_available()
    return {
        "concordant": " ".join(part[:12] for part in code_version().split()),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        "threads": threads,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "accelerator": torch.cuda.get_device_name() if cuda else "",
    }
