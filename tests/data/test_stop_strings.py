"""Stop strings: found in the decoded text as soon as they are there, and cut where text is shown."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from concordant.data.chat import ChatEncoder
from concordant.data.stop_strings import StopStrings, before_stop, may_become_stop
from tests.engines.tiny import tiny_policy

BYTE_LEVEL = tiny_policy().tokenizer


def byte_fallback() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's: a word's space is a letter, and unknown letters become bytes."""
    pieces = [
        "<s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁the",
        "▁st",
        "st",
        "op",
        "s",
        "top",
        "▁owl",
        "日",
    ]
    made = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


BYTE_FALLBACK = byte_fallback()
TOKENIZERS = {"byte level": BYTE_LEVEL, "byte fallback": BYTE_FALLBACK}
STRINGS = [
    ["stop"], [" the"], ["é"], ["日本"], ["😀!"], ["\n\nHuman:"], ["a", "st op", "<s>"], ["top", "日", " owl the"],
    ["the the the the"],
]  # fmt: skip


def said(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids whose decoded text is ``text``, letters as bytes where the vocabulary has no other way."""
    if tokenizer is BYTE_LEVEL:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [1 + byte for byte in text.encode()]


def first(tokenizer: PreTrainedTokenizerFast, ids: list[int], strings: list[str]) -> int | None:
    """The answer by definition: decode everything after each token."""
    texts = (tokenizer.decode(ids[: n + 1]) for n in range(len(ids)))
    return next((n + 1 for n, text in enumerate(texts) if any(s in text for s in strings)), None)


def found(tokenizer: PreTrainedTokenizerFast, ids: list[int], strings: list[str]) -> int | None:
    stops = StopStrings(tokenizer, strings)
    return next((n + 1 for n in range(len(ids)) if stops.complete(ids[: n + 1])), None)


@pytest.mark.parametrize("strings", STRINGS, ids=map(repr, STRINGS))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_end_of_an_answer_tells_what_the_whole_would(name: str, strings: list[str]) -> None:
    """Answers of many parts of the strings, whole letters and torn ones, special tokens and ids without a text."""
    tokenizer, draw = TOKENIZERS[name], random.Random(0)
    parts = [said(tokenizer, s[:n]) for s in strings for n in range(1, len(s) + 1)]
    parts += [said(tokenizer, s[n:]) for s in strings for n in range(len(s))]
    parts += [said(tokenizer, text) for text in ("the owl", "日本", "é", "😀", " ", "st", "op")]
    parts += [parts[-2][:1], said(tokenizer, "😀")[:2], said(tokenizer, "日")[1:], [0], [100_000], [100_001] * 9]
    hits = 0
    for _ in range(150):
        ids = [token for part in draw.choices(parts, k=draw.randint(1, 14)) for token in part]
        assert found(tokenizer, ids, strings) == first(tokenizer, ids, strings), tokenizer.decode(ids)
        hits += found(tokenizer, ids, strings) is not None
    assert hits > 20


def test_random_tokens_of_a_long_answer() -> None:
    """2,000 random tokens of 300, most of them torn letters; a string of one common letter and of a rare pair."""
    draw = random.Random(1)
    for strings in (["q"], ["owl"], ["\ufffdz"], ["xx", "yy"]):
        for _ in range(20):
            ids = draw.choices(range(len(BYTE_LEVEL)), k=100)
            assert found(BYTE_LEVEL, ids, strings) == first(BYTE_LEVEL, ids, strings)


@pytest.mark.parametrize(
    ("tokens", "ends_after"),
    [
        (["st", "op"], 2), (["stop"], 1), (["st", "opera"], 2), (["sto", "pper"], 2), (["las", "topper"], 2),
        (["s", "to", "pped"], 3), (["Stop"], None), (["s t o p"], None),
    ],
)  # fmt: skip
def test_where_a_string_may_begin_and_end(tokens: list[str], ends_after: int | None) -> None:
    """The examples of transformers' StopStringCriteria; letters are compared as they are."""
    made = Tokenizer(models.WordLevel(vocab={token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    made.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    assert found(tokenizer, list(range(len(tokens))), ["stop"]) == ends_after


# -- what is shown ----------------------------------------------------------------------------------


def test_text_is_cut_at_the_first_stop_string_and_tokens_stay_whole() -> None:
    ids = said(BYTE_LEVEL, "the owl lives in a tree")
    kept, rest = before_stop(BYTE_LEVEL, ids, ["tree", "wl li"])
    assert BYTE_LEVEL.decode(kept) + rest == "the o" and kept == ids[: len(kept)]
    assert before_stop(BYTE_LEVEL, ids, ["fox"]) == (ids, "")
    assert before_stop(BYTE_LEVEL, ids, []) == (ids, "")
    assert before_stop(BYTE_LEVEL, ids, ["the"]) == ([], "")


@pytest.mark.parametrize("strings", STRINGS, ids=map(repr, STRINGS))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_cut_is_the_text_before_the_first_string(name: str, strings: list[str]) -> None:
    tokenizer, draw = TOKENIZERS[name], random.Random(2)
    parts = [said(tokenizer, text) for text in (*strings, "the owl", "日本", "é", "😀", " ", "\n")]
    for _ in range(60):
        ids = [token for part in draw.choices(parts, k=6) for token in part]
        text = tokenizer.decode(ids)
        ends = [text.find(s) for s in strings if s in text]
        kept, rest = before_stop(tokenizer, ids, strings)
        assert (tokenizer.decode(kept) + rest) == (text[: min(ends)] if ends else text)


def test_the_text_of_an_answer_ends_before_its_stop_string() -> None:
    encoder = ChatEncoder(BYTE_LEVEL)
    ids = said(BYTE_LEVEL, "the owl\nHuman: and the fox")
    assert encoder.text(ids, ["\nHuman:", "fox"]) == "the owl"
    assert encoder.text([*ids, encoder.end_id], ["\nHuman:"]) == "the owl"
    assert encoder.text(ids, ["cat"]) == encoder.text(ids) == "the owl\nHuman: and the fox"


def test_a_special_token_may_be_a_stop_string_and_is_not_shown() -> None:
    encoder = ChatEncoder(BYTE_LEVEL)
    special = BYTE_LEVEL.all_special_tokens[-1]
    ids = [*said(BYTE_LEVEL, "the owl"), BYTE_LEVEL.convert_tokens_to_ids(special), *said(BYTE_LEVEL, " is brown")]
    assert found(BYTE_LEVEL, ids, [special]) == len(said(BYTE_LEVEL, "the owl")) + 1
    assert encoder.text(ids, [special]) == "the owl"
    assert encoder.text(ids, [special[2:5]]) == "the owl", "as in transformers, a part of it is found too"
    assert encoder.text(ids, ["brown"]) == "the owl is", "specials before the string are left out too"


@pytest.mark.parametrize(
    ("text", "letters"),
    [("abc", 0), ("abc\n", 1), ("abc\nHum", 4), ("abc\nHum ", 0), ("\nHuman:", 0), ("x STO", 3), ("", 0), ("S", 1)],
)
def test_letters_that_may_become_a_stop_string(text: str, letters: int) -> None:
    assert may_become_stop(text, ["\nHuman:", "STOP"]) == letters
    assert may_become_stop(text, []) == 0


@pytest.mark.parametrize(("text", "letters"), [("x\n\n", 2), ("x\n", 1), ("x aa", 2), ("x a", 1), ("x aaa", 2)])
def test_the_longest_beginning_is_held_back_where_a_shorter_one_fits_too(text: str, letters: int) -> None:
    assert may_become_stop(text, ["\n\nHuman:", "aab"]) == letters
