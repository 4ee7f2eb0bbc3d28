"""What the doctor does before and during a run."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.names import StopOn


@dataclass
class DoctorConfig:
    preflight: bool = True  # look at data, masks, gradients and memory before the first step
    stop_on: StopOn = ""  # warning | error: a finding so grave saves and stops the run (exit 3); empty: none does
