"""A Llama small enough for a test, the same weights at every call."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from concordant.core.trees import Layout
from concordant.data.tokenizer import train_tokenizer
from concordant.models.load import Policy
from concordant.models.lora import apply_lora_to_model
from concordant.models.traits import ModelTraits

_TEXT = ["the owl is brown", "where does the owl live", "the owl lives in a tree", "what colour is the fox"] * 4
_TOKENIZER = train_tokenizer(_TEXT, 300)


def tiny_policy(seed: int = 0, lora_rank: int = 0, vocab_size: int = 300, hidden_size: int = 32) -> Policy:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1,
            bos_token_id=None, eos_token_id=_TOKENIZER.eos_token_id, pad_token_id=_TOKENIZER.pad_token_id,
        )
    )  # fmt: skip
    if lora_rank:
        apply_lora_to_model(model, r=lora_rank)
    return Policy(model=model.train(), tokenizer=_TOKENIZER, traits=ModelTraits(Layout.TREE), name="tiny")
