"""How answers are sampled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SamplingConfig:
    n: int = 1  # samples a prompt
    temperature: float = 1.0  # 0 takes the most likely token
    top_p: float = 1.0  # nucleus; refused for PPO, whose log-probs must be the whole distribution's
    top_k: int = 0  # 0 is off
    max_new_tokens: int = 128  # tokens a response may have
    slots: int = 64  # responses decoded side by side; a finished one's place is taken by the next
