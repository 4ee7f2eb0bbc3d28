"""Settings for sampling answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made
from concordant.config.names import SamplingEngine


@dataclass(kw_only=True)
class SamplingConfig(Made):
    n: int = 1  # answers for each prompt
    temperature: float = 1.0  # 0 takes the most likely token
    top_p: float = 1.0  # nucleus sampling; PPO refuses it, because the learner has log-probs of the whole distribution
    top_k: int = 0  # sample from the k most likely tokens; 0 is off
    min_p: float = 0.0  # leave out tokens with less than this share of the most likely one's probability; 0 is off
    repetition_penalty: float = 1.0  # above 1: tokens of prompt and answer so far become less likely; 1 is off
    min_new_tokens: int = 0  # no end token is sampled before the answer has so many tokens
    max_new_tokens: int = 128  # the most tokens of a response
    stop_strings: list[str] = field(default_factory=list)  # each of these texts ends an answer, which is cut before it
    slots: int = 64  # responses that are sampled at once; when one ends, the next takes its slot
    engine: SamplingEngine = "own"  # vllm samples with vLLM, which must be installed, see docs/vllm.md


# Settings that give the sampler another distribution than the model's at the temperature, each with the value that
# leaves the distribution alone. A learner knows only the model's, so PPO refuses them unless the user accepts them.
RESHAPING: dict[str, float] = {
    "sampling.top_p": 1.0,
    "sampling.top_k": 0,
    "sampling.min_p": 0.0,
    "sampling.repetition_penalty": 1.0,
    "sampling.min_new_tokens": 0,
}


def reshapes(sampling: SamplingConfig) -> bool:
    """Whether tokens come from another distribution than the model's at the temperature."""
    return any(getattr(sampling, key.rpartition(".")[2]) != off for key, off in RESHAPING.items())
