"""Where the bits of a run come from beside its inputs: libraries, threads, the kind of machine."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from concordant.runs.identity import code_version


def environment(threads: int) -> dict[str, Any]:
    """Where the bits come from beside the inputs: libraries, threads, kind of machine."""
    cuda = torch.cuda.is_available()
    return {
        "concordant": " ".join(part[:12] for part in code_version().split()),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        "threads": threads,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "accelerator": torch.cuda.get_device_name() if cuda else "",
    }
