"""Settings for sampling answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SamplingConfig:
    n: int = 1  # answers for each prompt
    temperature: float = 1.0  # 0 takes the most likely token
    top_p: float = 1.0  # nucleus sampling; refused for PPO, which needs log-probs of the whole distribution
    top_k: int = 0  # sample from the k most likely tokens; 0 is off
    max_new_tokens: int = 128  # the most tokens of a response
    slots: int = 64  # responses that are sampled at once; when one ends, the next takes its slot
