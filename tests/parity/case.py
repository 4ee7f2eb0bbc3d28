"""What both sides are given: one tiny Llama, six pairs, a few settings, the same on every machine.

No random generator is used, so that a new torch cannot change a number: weight j (from 0) of the k-th parameter (by
name, from 0) of a variant v is amplitude · sin(φ(j+1)² + k + 10v), φ = 0.6180339887, in double precision, rounded to
fp32. The square makes a matrix of full rank. The amplitude is √(2/columns), 1 for embeddings and 2·√(2/columns) for
the heads; a norm's weight is 1 + 0.1 · sin(…).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, EOS, VOCABULARY = 0, 1, 48
POLICY, REFERENCE, OLD, REWARD, CRITIC = range(5)  # variants of the weights
OWN_SHARE = {REFERENCE: 0.15, OLD: 0.04}  # the rest of their weights is the policy's
_PHASE = 0.6180339887

PROMPTS = (3, 1, 7, 4, 5, 2)  # tokens
CHOSEN = (4, 1, 6, 3, 8, 2)  # tokens, EOS included
REJECTED = (2, 5, 6, 1, 3, 7)
MARGINS = (0.0, 0.5, -0.3, 1.2, 0.1, 2.0)  # reward units
SCORES = (0.7, -1.1, 0.3, 1.9, -0.4, 0.2)  # reward of each PPO answer


@dataclass(frozen=True)
class Pair:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class DPOSetting:
    loss: str  # our name
    beta: float
    label_smoothing: float = 0.0
    trl: str = ""  # TRL's name of the loss, where it is not ours
    margin: float = 0.0
    f_divergence: str = "reverse_kl"
    lm: float = 0.0  # weight of the chosen answers' cross-entropy
    plus: tuple[tuple[str, float], ...] = ()
    swapped: bool = False  # policy and reference, so that the estimate of KTO's KL is above 0


@dataclass(frozen=True)
class RewardSetting:
    margin: bool
    centering: float = 0.0


DPO = {
    "dpo/sigmoid": DPOSetting("sigmoid", 0.3),
    "dpo/ipo": DPOSetting("ipo", 0.2),
    "dpo/robust": DPOSetting("robust", 0.3, 0.1),
    "dpo/smoothed": DPOSetting("sigmoid", 0.3, 0.1),
    "dpo/sigmoid_norm": DPOSetting("sigmoid_norm", 2.0),
    "dpo/hinge": DPOSetting("hinge", 0.3),
    "dpo/apo_zero": DPOSetting("apo_zero", 0.3),
    "dpo/apo_down": DPOSetting("apo_down", 0.3),
    "dpo/bco_pair": DPOSetting("bco_pair", 0.3),
    "dpo/rpo": DPOSetting("sigmoid", 0.3, lm=0.7),
    "dpo/mix": DPOSetting("sigmoid", 0.3, lm=0.5, plus=(("bco_pair", 0.2),)),
    "dpo/forward_kl": DPOSetting("sigmoid", 0.3, f_divergence="forward_kl"),
    "dpo/js_divergence": DPOSetting("sigmoid", 0.3, f_divergence="js_divergence"),
    "dpo/alpha_divergence": DPOSetting("sigmoid", 0.3, f_divergence="alpha_divergence"),
    "cpo/cpo": DPOSetting("cpo", 0.3, 0.1, trl="sigmoid"),
    "cpo/simpo": DPOSetting("simpo", 2.0, trl="simpo", margin=0.6),
    "cpo/slic": DPOSetting("slic", 0.3, trl="hinge"),
}
ORPO = DPOSetting("orpo", 0.3)
KTO = {
    "kto/kto": DPOSetting("kto", 0.3),
    "kto/swapped": DPOSetting("kto", 0.1, swapped=True),
    "kto/apo_zero_unpaired": DPOSetting("apo_zero_unpaired", 0.3),
}
KTO_WEIGHTS = (1.3, 0.8)  # of good and of bad answers
BCO = DPOSetting("bco", 0.3)
BCO_LEFT_OUT = {"bco/all answers": 0, "bco/fewer bad answers": 4}  # bad answers of the last pairs
REWARDS = {
    "reward/plain": RewardSetting(margin=False),
    "reward/margin": RewardSetting(margin=True),
    "reward/centring": RewardSetting(margin=True, centering=0.05),
}


@dataclass(frozen=True)
class DistillSetting:
    divergence: str  # our name
    trl_beta: float  # 0 and 1 are TRL's forward and reverse KL
    temperature: float = 1.0


DISTILL = {
    "distill/forward_kl": DistillSetting("forward_kl", 0.0, 1.3),
    "distill/reverse_kl": DistillSetting("reverse_kl", 1.0),
    "distill/jsd": DistillSetting("jsd", 0.3, 0.7),
}


@dataclass(frozen=True)
class PPOSetting:
    temperature: float = 0.7
    gamma: float = 0.99
    lam: float = 0.95
    kl_coefficient: float = 0.1
    clip: float = 0.2
    value_clip: float = 0.2


PPO = PPOSetting()
PPO_LENGTHS = {"full": (5,) * 6, "short": (4, 1, 6, 3, 6, 2)}  # answers that all reach the limit; that end before it
VALUE_DRIFT = 0.3  # amplitude of what the critic learnt since it was asked for the old values, reward units


@dataclass(frozen=True)
class PolicySetting:
    """A method in TRL's words and in ours. ``ours`` are fields of ``PolicyObjective``."""

    advantage: str
    trl: dict[str, Any]
    ours: dict[str, Any]
    beta: float = 0.0  # of a KL in the loss, k3
    scores: tuple[float | None, ...] = SCORES


GROUP = 3  # answers to a prompt: the first three belong to the first prompt, the others to the second
POLICY_LIMIT = 6  # tokens; answers of this length have no end token
_SEQUENCES = {"aggregation": "seq-mean-token-mean"}
POLICIES = {
    "grpo": PolicySetting(
        "grpo", {"loss_type": "grpo", "use_bias_correction_kl": False}, {"clip": 0.2, **_SEQUENCES}, beta=0.04
    ),
    "dr_grpo": PolicySetting(
        "dr_grpo",
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"clip": 0.2, "aggregation": "seq-mean-token-sum-norm", "limit": POLICY_LIMIT},
    ),
    "dapo": PolicySetting(
        "grpo",
        {"loss_type": "dapo", "epsilon": 0.05, "epsilon_high": 0.08, "mask_truncated_completions": True},
        {"clip": 0.05, "clip_high": 0.08, "aggregation": "token-mean"},
    ),
    "gspo": PolicySetting(
        "grpo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
        {"clip": 0.02, "clip_high": 0.03, "loss": "gspo", **_SEQUENCES},
    ),
    "cispo": PolicySetting(
        "grpo",
        {"loss_type": "cispo", "epsilon_high": 1.05},
        {"clip": 0.2, "clip_high": 0.05, "loss": "cispo", "aggregation": "token-mean"},
    ),
    "dual-clip": PolicySetting(
        "grpo",
        {"loss_type": "grpo", "epsilon": 0.05, "delta": 1.1},
        {"clip": 0.05, "clip_dual": 1.1, "loss": "dual-clip", **_SEQUENCES},
    ),
    "a score is missing": PolicySetting(
        "dr_grpo",
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"clip": 0.2, "aggregation": "seq-mean-token-sum-norm", "limit": POLICY_LIMIT},
        scores=(0.7, None, 0.3, 1.9, -0.4, 0.2),
    ),
}
RLOO = PolicySetting("rloo", {"epsilon": 0.2}, {"clip": 0.2, "aggregation": "seq-mean-token-sum"}, beta=0.05)
RLOO_SAMPLERS = {"rloo/first update": POLICY, "rloo/later update": OLD}  # the policy that sampled


def words(start: int, count: int) -> list[int]:
    """Token ids that are neither pad nor EOS."""
    return [2 + (start * 11 + i * i * 7 + i * 5) % (VOCABULARY - 2) for i in range(count)]


def pairs() -> list[Pair]:
    """Different lengths, an answer that is EOS alone, and a pair whose answers begin alike."""
    made = []
    for i, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, CHOSEN, REJECTED, strict=True)):
        good, bad = words(3 * i + 1, chosen - 1), words(3 * i + 2, rejected - 1)
        if i == 2:
            bad[:3] = good[:3]
        made.append(Pair(words(3 * i, prompt), [*good, EOS], [*bad, EOS]))
    return made


def rated(left_out: int = 0) -> list[tuple[Pair, list[bool]]]:
    """The pairs as single answers, and whether each is good; the last ``left_out`` pairs have no bad answer."""
    return [(p, [True] if i >= len(PROMPTS) - left_out else [True, False]) for i, p in enumerate(pairs())]


def turns() -> list[tuple[list[int], list[int]]]:
    """Dialogues of two answers with a question between: ids, and 1 where the policy spoke."""
    made = []
    for i, p in enumerate(pairs()):
        question = words(40 + i, 2 + i % 3)
        ids = p.prompt + p.chosen + question + p.rejected
        made.append((ids, [0] * len(p.prompt) + [1] * len(p.chosen) + [0] * len(question) + [1] * len(p.rejected)))
    return made


def answers(name: str) -> list[list[int]]:
    """PPO's sampled answers. Those shorter than the longest end in EOS."""
    longest = max(PPO_LENGTHS[name])
    made = []
    for i, length in enumerate(PPO_LENGTHS[name]):
        ids = words(60 + i, length)
        if length < longest:
            ids[-1] = EOS
        made.append(ids)
    return made


def drift(row: int, length: int) -> Tensor:
    """What the old values differ from the critic's by, (length,)."""
    return torch.tensor([VALUE_DRIFT * math.sin(3.0 * row + 1.7 * t) for t in range(length)])


def text(ids: list[int]) -> str:
    """What the tokenizer turns into ``ids``; a leading space keeps it apart from what stands before."""
    return "".join("<eos>" if i == EOS else f" w{i}" for i in ids)


def tokenizer() -> PreTrainedTokenizerFast:
    """One word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>")


def language_model(variant: int = POLICY) -> LlamaForCausalLM:
    model = LlamaForCausalLM(_config())
    _fill(model, variant)
    return model.train()


def classifier(variant: int = REWARD) -> LlamaForSequenceClassification:
    """A reward model, or the critic as a peer keeps it."""
    config = _config()
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    _fill(model, variant)
    return model.train()


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=False, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip


@torch.no_grad()
def _fill(model: PreTrainedModel, variant: int) -> None:
    for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
        amplitude, offset = _scale(name, parameter)
        wave = _wave(k, variant, parameter.numel())
        if variant in OWN_SHARE:
            own, policy = OWN_SHARE[variant], _wave(k, POLICY, parameter.numel())
            wave = [(1 - own) * p + own * w for p, w in zip(policy, wave, strict=True)]
        values = torch.tensor([offset + amplitude * w for w in wave], dtype=torch.float64)
        parameter.copy_(values.reshape(parameter.shape))


def _wave(k: int, variant: int, size: int) -> list[float]:
    return [math.sin(_PHASE * (j + 1) ** 2 + k + 10 * variant) for j in range(size)]


def _scale(name: str, parameter: Tensor) -> tuple[float, float]:
    if parameter.ndim == 1:
        return 0.1, 1.0
    if "embed" in name:
        return 1.0, 0.0
    amplitude = math.sqrt(2 / parameter.shape[1])
    return (2 * amplitude if name in ("lm_head.weight", "score.weight") else amplitude), 0.0


def gradient_of(named: Iterator[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
