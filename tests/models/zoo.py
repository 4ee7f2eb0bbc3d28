"""Tiny random models of many architectures. Weights are larger than usual, so that a wrong mask shows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from concordant.core.trees import Branch, PromptTree
from concordant.data.tokenizer import train_tokenizer
from concordant.models.load import Policy
from concordant.models.traits import prepare_model

VOCABULARY = 97
WINDOW = 7  # tokens, shorter than every row of the tests

_TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
_USUAL: dict[str, Any] = _TOKENS | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
_GPT: dict[str, Any] = _TOKENS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.1}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "head_dim": 8}

# name: (model type, settings); the layout each must be found to have is in LAYOUTS below.
TREE: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", _USUAL),
    "Qwen2": ("qwen2", _USUAL),
    "Qwen2 with a sliding window": (
        "qwen2",
        _USUAL | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "Qwen3": ("qwen3", _USUAL | {"head_dim": 8}),
    "Qwen3-MoE": (
        "qwen3_moe",
        _USUAL | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "Mistral with a sliding window": ("mistral", _USUAL | _SLIDING),
    "Gemma 2": ("gemma2", _USUAL | _SLIDING | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}),
    "Gemma 3": ("gemma3_text", _USUAL | _SLIDING | {"query_pre_attn_scalar": 8, "num_hidden_layers": 6}),
    "Phi-3": ("phi3", _USUAL),
    "GPT-2": ("gpt2", _GPT),
    "GPT-J": ("gptj", _GPT | {"rotary_dim": 4}),
    "GPT-NeoX": ("gpt_neox", _USUAL),
    "OPT": ("opt", _USUAL | {"ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.1}),
    "Falcon": ("falcon", _USUAL | {"alibi": False}),
    "StableLM": ("stablelm", _USUAL),
    "OLMo 2": ("olmo2", _USUAL),
    "Cohere": ("cohere", _USUAL | {"logit_scale": 0.25}),
    "Granite": ("granite", _USUAL | {"logits_scaling": 4.0, "attention_multiplier": 0.35}),
    "Mixtral": ("mixtral", _USUAL | _EXPERTS),
}
FLAT: dict[str, tuple[str, dict[str, Any]]] = {
    "BLOOM": ("bloom", _USUAL | {"n_layer": 2, "n_head": 4}),
    "Mamba": ("mamba", _TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "Falcon with ALiBi": ("falcon", _USUAL | {"alibi": True}),
    "MPT": ("mpt", _TOKENS | {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "GPT-Neo with local attention": (
        "gpt_neo",
        _TOKENS
        | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 40, "max_position_embeddings": 256}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "Llama with dynamic RoPE": ("llama", _USUAL | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
}
ALL = TREE | FLAT


def make(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A causal LM in fp32, in train mode with its default dropout."""
    kind, settings = ALL[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | changes), dtype=torch.float32)


def tokens(n: int, seed: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed))


def trees() -> list[PromptTree]:
    """Trunks and branches of many lengths; the trunk of the second is longer than the sliding window."""
    return [
        PromptTree(tokens(4, 1), (Branch.response(tokens(5, 2)), Branch.response(tokens(9, 3)))),
        PromptTree(tokens(11, 4), tuple(Branch.response(tokens(n, 5 + n)) for n in (3, 7, 1))),
        PromptTree(tokens(1, 20), (Branch.response(tokens(12, 21)),)),
    ]


TEXTS = ["the owl is brown and kind, and it sleeps in the old oak by day", "water the plant once a week"] * 5


def policy(architecture: str) -> Policy:
    """Random weights and a tokenizer that has learnt ``TEXTS``."""
    tokenizer = train_tokenizer(TEXTS, 300)
    model = make(architecture, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    return Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name=architecture)
