"""Settings of the doctor before and during a run."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.made import Made
from concordant.config.names import StopOn


@dataclass
class DoctorConfig(Made):
    preflight: bool = True  # check data, masks, gradients and memory before the first step
    stop_on: StopOn = ""  # warning | error: a finding of this level saves and stops the run (exit 3); empty: no stop
