"""The builtin models' tokenizer: lossless, deterministic, and a chat template without surprises."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from concordant.core.errors import UserError
from concordant.data.tokenizer import END, PAD, SPECIAL_TOKENS, train_tokenizer

TEXTS = ["The owl is in the wood.", "Where is the owl?", "You can find the owl in the wood."] * 20
DIALOGUE = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is the owl?"},
    {"role": "assistant", "content": " The owl is in the wood. "},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 320)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "  two  spaces ", "it 's , odd .", "\n\ttab", "naïve 東京 🦉", "a .b !c"])
def test_spaces_and_punctuation_come_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_nothing_is_added(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.bos_token is None
    assert tokenizer.encode("owl") == tokenizer.encode("owl", add_special_tokens=False)
    assert not set(tokenizer.encode("The owl.")) & set(tokenizer.all_special_ids)


def test_pad_is_not_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_special_tokens_are_single_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.encode(token) for token in SPECIAL_TOKENS] == [[i] for i in range(len(SPECIAL_TOKENS))]
    assert tokenizer.decode(tokenizer.encode(f"a{END}"), skip_special_tokens=True) == "a"


def test_the_rendered_prompt_is_a_prefix_of_the_dialogue(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer.apply_chat_template(DIALOGUE[:2], tokenize=False, add_generation_prompt=True)
    dialogue = tokenizer.apply_chat_template(DIALOGUE, tokenize=False)
    assert dialogue == prompt + " The owl is in the wood. " + END
    ids = tokenizer.encode(dialogue)
    assert ids[: len(tokenizer.encode(prompt))] == tokenizer.encode(prompt)
    assert ids[-1] == tokenizer.eos_token_id


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, second = (train_tokenizer(iter(TEXTS), 300).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_saved_and_loaded(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = loaded.apply_chat_template(DIALOGUE, tokenize=False)
    assert text == tokenizer.apply_chat_template(DIALOGUE, tokenize=False)
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode("a .b  c")) == "a .b  c"
    assert (loaded.pad_token, loaded.eos_token, loaded.bos_token) == (PAD, END, None)


def test_words_of_the_data_become_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode("The owl is in the wood.")) == 7
    assert len(tokenizer) <= 320


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="at least 261"):
        train_tokenizer(TEXTS, 100)
