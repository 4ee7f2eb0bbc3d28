"""What the doctor does before and during a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DoctorConfig:
    preflight: bool = True  # look at data, masks, gradients and memory before the first step
    stop_on: str = ""  # warning | error; empty: never
