"""Chooses the device and the autocast dtype of a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from transformers import PreTrainedModel

from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.engines.group.started import number_on_host
from concordant.kernels.put_on import FLEX, kernels_of, put_on

log = logging.getLogger(__name__)
_computes: ContextVar[bool] = ContextVar("computes", default=True)  # whether this process computes with its models


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Inside the block, models are placed on the CPU whatever their config says, because other processes compute."""
    token = _computes.set(False)
    try:
        yield
    finally:
        _computes.reset(token)


def device_of(config: ModelConfig) -> torch.device:
    """The device of ``config``; ``auto`` is the GPU if there is one. Each rank of a machine has a GPU of its own."""
    if not _computes.get():
        return torch.device("cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda, but PyTorch sees no GPU: use --model.device auto or cpu")
    wanted = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    # The machines of some clusters show every rank its own GPU alone, as Slurm does with --gpus-per-task.
    return torch.device("cuda", number_on_host() % torch.cuda.device_count())


def place(model: PreTrainedModel, config: ModelConfig) -> None:
    """Move ``model`` to its device, and put on the kernels that serve this device."""
    device = device_of(config)
    asks_for_flex = config.kernels == "flex" and _computes.get()
    if asks_for_flex and device.type != "cuda":
        raise UserError("model.kernels flex is for a GPU, and the model is on the CPU: use --model.kernels fast")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL, and code that names no number, look for this rank's tensors
    nn.Module.to(model, device)
    if config.kernels != "plain":
        put_on(model, [FLEX] if asks_for_flex else ())
    if asks_for_flex and FLEX not in kernels_of(model):
        why = "its attention has a sliding window, is not PyTorch's, or gave other numbers"
        log.warning("model.kernels flex does not fit %s (%s): it keeps boolean masks", type(model).__name__, why)


def precision_of(config: ModelConfig, device: torch.device) -> torch.dtype | None:
    """Autocast's dtype; None means fp32. ``auto`` is bf16 only if the hardware multiplies in bf16.

    A CPU without bf16 units emulates bf16, which is several times slower than fp32.
    """
    if config.precision == "fp32":
        return None
    if config.precision == "bf16":
        return torch.bfloat16
    has_units = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
    return torch.bfloat16 if has_units else None


def cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
