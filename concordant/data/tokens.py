"""Text to ids and back with a model's own tokenizer, whose faults end in an error that names the model.

A tokenizer comes with a model as rules: regular expressions, replacements. Rules can be written, by mistake or on
purpose, so that a text of some thousand letters takes hours. They run in compiled code, which cannot be interrupted, so
there is a time limit after which the command no longer waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from concordant.core.errors import UserError
from concordant.core.time_limit import awaited_at_most

SECONDS = 20.0  # that any call may take
SLOWEST = 20_000  # characters a second of a slow tokenizer on a busy machine; fast ones read a million
AT_ONCE = 1 << 20  # characters in a call, so that a large data set does not wait for hours before an error
SHOWN = 40  # characters of a text in a message

T = TypeVar("T")
_by_rules: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # tokenizers that ``_makes_text_by_rules`` has looked at


def ids_of(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[list[int]]:
    """The ids of each text. ``special``: with the tokens that the tokenizer puts around a text.

    The tokenizer does not warn of texts longer than the model reads. Raises UserError if it takes too long or fails.
    """
    ids: list[list[int]] = []
    for part in _parts(texts):
        longest = max(part, key=len)
        what = f"{len(part):,} texts, the longest of {len(longest):,} characters, which begins {longest[:SHOWN]!r}"
        seconds = SECONDS + sum(map(len, part)) / SLOWEST

        def call(part: list[str] = part) -> Any:
            return tokenizer(part, add_special_tokens=special, verbose=False)["input_ids"]

        ids += map(list, _limited(tokenizer, call, seconds, what))
    return ids


def text_of(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """The text of some ids. Raises UserError if the tokenizer takes too long or fails."""
    ids, what = list(ids), f"the text of {len(ids):,} tokens"
    if _makes_text_by_rules(tokenizer):
        # Other than decode, decode_batch of tokenizers gives up Python's lock, so that the wait for it can end. Where
        # it ends in time, decode does too: it applies the same rules to the same tokens.
        rules = tokenizer.backend_tokenizer
        _limited(tokenizer, lambda: rules.decode_batch([ids], skip_special_tokens=skip_special_tokens), SECONDS, what)
    with _named(tokenizer, what):
        return str(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def _makes_text_by_rules(tokenizer: Any) -> bool:
    """Whether text is made from tokens by a regular expression, the only kind of decoder that may run for ever."""
    if tokenizer not in _by_rules:
        rules = getattr(tokenizer, "backend_tokenizer", None)  # tokenizers written in Python have none
        decoder = getattr(rules, "decoder", None)
        _by_rules[tokenizer] = decoder is not None and "Regex" in _keys(json.loads(decoder.__getstate__()))
    return _by_rules[tokenizer]


def _keys(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {key for each in inner for key in _keys(each)} | (set(value) if isinstance(value, dict) else set())


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > AT_ONCE:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _limited(tokenizer: Any, call: Callable[[], T], seconds: float, what: str) -> T:
    complaint = (
        f'the tokenizer of "{tokenizer.name_or_path}" takes more than {seconds:.0f} s for {what}. Its rules may run '
        "for ever: look at normalizer, pre_tokenizer and decoder in tokenizer.json, or leave such texts out"
    )
    with _named(tokenizer, what):
        return awaited_at_most(seconds, complaint, call)


@contextmanager
def _named(tokenizer: Any, what: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust code; it is no Exception
            raise
        reason = next(iter(str(error).splitlines()), "")[:100]
        raise UserError(f'the tokenizer of "{tokenizer.name_or_path}" fails for {what}: {reason}') from error
