"""Small Llamas with new random weights. They can learn the toy language and can be trained on a laptop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from concordant.core.errors import UserError, unknown_name
from concordant.core.seeding import derive

MAX_POSITIONS = 2048  # tokens of a dialogue; RoPE needs no table of positions, so a large number costs nothing


@dataclass(frozen=True, slots=True)
class Size:
    vocabulary: int  # the most tokens; a tokenizer trained on little text has fewer
    hidden: int
    layers: int
    heads: int
    mlp: int


SIZES = {
    "nano": Size(vocabulary=1_024, hidden=128, layers=3, heads=4, mlp=352),  # 0.7 M, half of tiny
    "tiny": Size(vocabulary=1_024, hidden=192, layers=3, heads=4, mlp=512),  # 1.5 M parameters at a vocabulary of 800
    "small": Size(vocabulary=4_096, hidden=320, layers=8, heads=5, mlp=768),  # 10.5 M
}


def build(
    size: str, texts: Iterable[str] | None, seed: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with random weights, and ``tokenizer``, or else a BPE tokenizer trained on ``texts``.

    The same texts and the same seed give the same model and the same tokenizer.
    """
    if size not in SIZES:
        raise unknown_name("model", f"builtin:{size}", [f"builtin:{name}" for name in SIZES])
    shape = SIZES[size]
    if tokenizer is None and texts is None:
        raise UserError(
            f"builtin:{size} is made from training data, and this command has no training data. "
            "Give the folder that training wrote, e.g. --model.name runs/sft/model"
        )
    if tokenizer is None:
        from concordant.data.tokenizer import train_tokenizer

        tokenizer = train_tokenizer(texts or (), shape.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "models/init"))
        return LlamaForCausalLM(config), tokenizer
