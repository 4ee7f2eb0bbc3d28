"""Copies from the CPU to a GPU for which the processor does not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``; ``x`` itself if it is there already.

    A plain ``x.to("cuda")`` waits until the GPU has done all its earlier work. From page-locked memory the GPU fetches
    the numbers when it comes to them. PyTorch keeps this memory until then, also if ``x`` is freed or changed.
    """
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
