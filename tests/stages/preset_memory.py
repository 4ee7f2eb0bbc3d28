"""The memory that a preset needs, from the public dimensions of its model: ``python -m tests.stages.preset_memory``.

    weights       4 bytes each, fp32, with their adapters
    gradients     4 bytes for each trained weight
    moments       8 bytes for each trained weight: AdamW keeps two
    best weights  4 bytes for each trained weight, where train.keep_best is on
    reference     4 bytes for each weight; with an adapter only a copy of the adapter
    reward model  4 bytes for each weight
    bf16          2 bytes for each weight that autocast has copied at one moment
    activations   what autograd keeps for each token and layer, counted by PyTorch itself, times tokens and layers
    mask          2 bytes for each token and each token of its row, in each layer
    logits        what core/logprobs.py keeps at most
    cache         2 or 4 bytes for each number of the keys and values of each token and slot

The first six are there all the time. Of the passes with gradient and of sampling, the larger one is added.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from concordant.config.parse import parse_command
from concordant.config.presets import preset_names
from concordant.core.logprobs import CHUNK_ELEMENTS, KEPT_ELEMENTS
from concordant.core.trees import Branch, Layout, PromptTree, lay_out
from concordant.doctor.preflight_memory import BYTES, FULL
from concordant.engines.local.optimizer import ADAM_MOMENTS
from concordant.engines.local.scorer import CPU_GRADIENT_TOKENS, MICRO_BATCH_TOKENS
from concordant.models.lora import apply_lora_to_model
from concordant.models.tree_attention import PlainReader, forward_tokens
from concordant.verbs import VERBS

GiB = 2**30
MEMORY = {"24gb": 24e9, "80gb": 80e9, "cpu": 32e9}  # bytes: what the smallest card or machine of its name has
LIBRARY = {"24gb": 0.6 * GiB, "80gb": 0.6 * GiB, "cpu": 1.0 * GiB}  # CUDA's context; Python with PyTorch
BF16 = 2  # bytes
LOGITS = 10 * KEPT_ELEMENTS + 16 * CHUNK_ELEMENTS  # bytes: bf16 logits, fp32 logits, log-softmax; and their gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Public dimensions of a model, from its config.json on the hub. Embedding and head are one matrix in all."""

    kind: str  # transformers' model type
    vocabulary: int
    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int
    head_size: int
    weights: int  # their number in the published files
    other: tuple[tuple[str, Any], ...] = ()  # settings of config.json beside the dimensions

    def config(self, **changes: Any) -> Any:
        settings = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.mlp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "tie_word_embeddings": True,
        }
        return AutoConfig.for_model(self.kind, **settings | dict(self.other) | changes)


SLIDING = (("sliding_window", 512), ("query_pre_attn_scalar", 256))
FACTS = {
    "smollm2-135m": Facts(
        kind="llama", vocabulary=49_152, hidden=576, layers=30, mlp=1_536, heads=9, kv_heads=3, head_size=64,
        weights=134_515_008,
    ),
    "qwen3-0.6b": Facts(
        kind="qwen3", vocabulary=151_936, hidden=1_024, layers=28, mlp=3_072, heads=16, kv_heads=8, head_size=128,
        weights=596_049_920,
    ),
    "qwen3-4b": Facts(
        kind="qwen3", vocabulary=151_936, hidden=2_560, layers=36, mlp=9_728, heads=32, kv_heads=8, head_size=128,
        weights=4_022_468_096,
    ),
    "llama-3.2-1b": Facts(
        kind="llama", vocabulary=128_256, hidden=2_048, layers=16, mlp=8_192, heads=32, kv_heads=8, head_size=64,
        weights=1_235_814_400,
    ),
    "gemma-3-1b": Facts(
        kind="gemma3_text", vocabulary=262_144, hidden=1_152, layers=26, mlp=6_912, heads=4, kv_heads=1, head_size=256,
        weights=999_885_952, other=SLIDING,
    ),
}  # fmt: skip
# Whose size PPO's reward model has where that of the policy does not fit, as the preset's comments say.
REWARD_MODEL = {"qwen3-4b/24gb": "smollm2-135m", "qwen3-4b/cpu": "qwen3-0.6b"}


def need(name: str, verb: str) -> dict[str, float]:
    """Bytes of each part of a run with the preset ``name``, and of the largest moment under "total"."""
    model, _, machine = name.partition("/")
    facts, config = FACTS[model], config_of(name, verb)
    with_gradient, sampling = _pass(facts, config), _sampling(facts, config, verb)
    resident = _resident(facts, config, verb, FACTS[REWARD_MODEL.get(name, model)])
    total = sum(resident.values()) + max(sum(with_gradient.values()), sum(sampling.values())) + LIBRARY[machine]
    return resident | with_gradient | sampling | {"total": total}


def room(machine: str) -> float:
    """Bytes that a run may use, by the doctor's own rule."""
    return FULL * MEMORY[machine]


def config_of(name: str, verb: str) -> Any:
    """The config of a verb with this preset."""
    return parse_command(verb, VERBS[verb].config_class(), ["--preset", name, "--print_config"])[0]


def adapters(facts: Facts, rank: int) -> int:
    """Weights of an adapter of this rank on every linear layer."""
    queries, keys = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
    ends = [facts.hidden + queries] * 2 + [facts.hidden + keys] * 2 + [facts.hidden + facts.mlp] * 3
    return rank * sum(ends) * facts.layers


def _resident(facts: Facts, config: Any, verb: str, reward_model: Facts) -> dict[str, float]:
    """What is in memory all the time."""
    added = adapters(facts, config.model.lora.rank)
    trained = added or facts.weights
    parts = {
        "weights": BYTES * (facts.weights + added),
        "gradients": BYTES * trained,
        "moments": ADAM_MOMENTS * BYTES * trained,
        "best weights": BYTES * trained * config.train.keep_best,
    }
    if verb in ("dpo", "ppo"):
        parts["reference"] = BYTES * trained
    if verb == "ppo":
        assert config.advantage != "gae", "a critic would be one more trained model"
        parts["reward model"] = BYTES * reward_model.weights
    return parts


def _pass(facts: Facts, config: Any) -> dict[str, float]:
    """What the largest pass with gradient adds, and what stays of a pass without gradient beside it."""
    on_gpu, model = config.model.device == "cuda", config.model
    tokens = config.train.micro_batch_tokens or (MICRO_BATCH_TOKENS if on_gpu else CPU_GRADIENT_TOKENS)
    longest = config.data.max_prompt_tokens + 2 * config.data.max_response_tokens
    tokens = max(tokens, longest)
    layer = kept_bytes(facts, model.lora.rank, on_gpu)
    mask = (BF16 if on_gpu else BYTES) * longest
    one = layer + mask  # of a token in a layer
    kept = one * (facts.layers + 1)  # the gradients of the layer in work are no larger than what it kept
    if model.activation_checkpointing:
        kept = BYTES * facts.hidden * facts.layers + 2 * one
    without_gradient = min(forward_tokens(torch.device(model.device)), 4 * tokens)
    transient = without_gradient * BYTES * (2 * facts.mlp + 4 * facts.hidden)
    return {
        "bf16": _copies(facts, config) if on_gpu else 0,
        "activations": max(tokens * kept, transient),
        "logits": LOGITS,
    }


def _copies(facts: Facts, config: Any) -> float:
    """bf16 copies of weights. Autocast keeps those of trained weights for a whole pass, those of frozen ones as long as
    the backward pass needs them: with recomputed layers, one layer and the head."""
    if config.model.lora.rank and config.model.activation_checkpointing:
        head = facts.vocabulary * facts.hidden
        return BF16 * ((facts.weights - head) / facts.layers + head)
    return BF16 * facts.weights


def _sampling(facts: Facts, config: Any, verb: str) -> dict[str, float]:
    """What sampling adds: PPO's rollouts, DPO's answers to held-out prompts."""
    if verb not in ("dpo", "ppo"):
        return {}
    new = config.sampling.max_new_tokens if verb == "ppo" else config.data.max_response_tokens
    slots = config.sampling.slots if verb == "ppo" else config.evaluation_slots
    on_gpu = config.model.device == "cuda"
    number = BF16 if on_gpu else BYTES
    states = 2 * facts.layers * facts.kv_heads * facts.head_size * number
    return {
        "cache": slots * (config.data.max_prompt_tokens + new) * states,
        "copies for sampling": _copies(facts, config) if on_gpu else 0,
        "sampled logits": 4 * BYTES * slots * facts.vocabulary,
    }


# -- what PyTorch keeps for the backward pass -----------------------------------------------------


@functools.cache
def kept_bytes(facts: Facts, rank: int, autocast: bool) -> float:
    """Bytes that autograd keeps for one token in one layer: the difference between a model of two layers and of one.

    The layers have the real dimensions and no numbers worth anything; the embedding is small.
    """
    tokens = 64
    one, two = (_saved(_skeleton(facts, layers, rank), tokens, autocast) for layers in (1, 2))
    return (two - one) / tokens


def _skeleton(facts: Facts, layers: int, rank: int) -> PreTrainedModel:
    changes = {"layer_types": ["full_attention"] * layers} if facts.kind != "llama" else {}
    config = facts.config(num_hidden_layers=layers, vocab_size=128, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if rank:
            apply_lora_to_model(model, r=rank)
    return model.to_empty(device="cpu")


def _saved(model: PreTrainedModel, tokens: int, autocast: bool) -> int:
    """Bytes of the tensors, weights apart, that one forward pass of ``tokens`` keeps for its backward pass."""
    tree = PromptTree(torch.arange(tokens // 2), (Branch.response(torch.arange(tokens // 2)),))
    batch = lay_out([tree])
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with counting() as kept, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        PlainReader(model, Layout.TREE).hidden_at(batch, batch.source_N)
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    return sum(
        size for pointer, (size, shape) in kept.items()
        if pointer not in weights and shape not in shapes and shape[::-1] not in shapes  # nor bf16 copies of weights
    )  # fmt: skip


@contextmanager
def counting() -> Iterator[dict[int, tuple[int, tuple[int, ...]]]]:
    """Inside the block, every tensor that autograd keeps is noted once: its size in bytes and its shape."""
    kept: dict[int, tuple[int, tuple[int, ...]]] = {}
    alive = []  # a freed tensor's address would be used again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def table() -> str:
    """The table of docs/presets.md: GiB that each preset needs, by verb."""
    rows = ["| preset | sft | reward | dpo | ppo | room |", "|---|---|---|---|---|---|"]
    for name in preset_names():
        needs = [need(name, verb)["total"] / GiB for verb in ("sft", "reward", "dpo", "ppo")]
        limit = room(name.partition("/")[2]) / GiB
        rows.append(f"| `{name}` | " + " | ".join(f"{n:.1f}" for n in needs) + f" | {limit:.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
