"""What the doctor may do to a run it watches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DoctorConfig:
    stop_on: str = ""  # warning | error: a finding so grave saves and stops the run (exit 3); empty: it never stops one
