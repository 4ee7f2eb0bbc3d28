"""The tokenizer of the builtin models: byte-level BPE with a chat template, trained on the run's own text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from concordant.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"  # differs from EOS, so that masked padding never hides the token that ends a turn
END = "<|end|>"  # ends every turn, and is the EOS that a policy must learn
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

# A turn is its role, its text and its end token, with nothing between them. So the rendered prompt is a prefix of the
# rendered dialogue, in text and in ids, because special tokens are never merged with their neighbours.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on ``texts``. Equal texts give equal tokenizers, and decoding any text's ids gives the text.

    ``vocab_size`` includes the special tokens and the 256 bytes. The vocabulary is smaller if the texts offer fewer
    merges. There is no BOS token. Raises UserError if the size leaves no room for the bytes.
    """
    smallest = _BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"vocabulary of {vocab_size} tokens: at least {smallest} are needed, the 256 bytes and the special tokens."
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
