"""A tokenizer's own rules have a time limit, also where they run in compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from concordant.core.errors import UserError
from concordant.data import tokens
from concordant.data.stop_strings import StopStrings, before_stop
from concordant.data.tokenizer import train_tokenizer
from concordant.data.tokens import ids_of, text_of

# For a letter after which no mark stands, every way to divide the letters is tried: the time grows with their cube.
SLOW = r"\w*\w*[.,][;:]"
TEXT = ";" + "a" * 1300 + "."  # some seconds; what is left of them slows the tests that follow


def hostile(rule: str, name: str = "models/hostile") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, ";": 1, ".": 2, "▁": 3}, merges=[]))
    if rule == "decoder":
        tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(SLOW), "")])
    elif rule == "normalizer":
        tokenizer.normalizer = normalizers.Replace(Regex(SLOW), "")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SLOW if rule == "pre_tokenizer" else rule), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path=name)


def test_texts_are_read_in_parts_and_give_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["The owl is in the wood.", "", "Where?", "x" * 50, "The fox."]
    tokenizer = train_tokenizer(texts * 20, 300)
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for size in (1, 20, 10_000):
        monkeypatch.setattr(tokens, "AT_ONCE", size)
        assert ids_of(tokenizer, texts) == whole
    assert ids_of(tokenizer, []) == []


@pytest.mark.parametrize("rule", ["pre_tokenizer", "normalizer"])
def test_a_rule_that_takes_hours_ends_in_an_error_that_names_the_model(
    monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.setattr(tokens, "SECONDS", 0.2)
    tokenizer = hostile(rule)
    assert ids_of(tokenizer, ["a.", "a;"]) == [[0, 2], [0, 1]]
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        ids_of(tokenizer, ["a.", TEXT])
    assert time.monotonic() - start < 5
    said = 'the tokenizer of "models/hostile" takes more than 0 s for 2 texts, the longest of 1,302 characters'
    assert str(caught.value).startswith(said) and "begins ';aaa" in str(caught.value)


def test_text_is_made_of_tokens_under_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are read while they are sampled, so the ids of a hostile model's text are its own choice."""
    monkeypatch.setattr(tokens, "SECONDS", 0.2)
    tokenizer = hostile("decoder")
    assert text_of(tokenizer, [0, 2]) == "a." and text_of(tokenizer, []) == ""
    ids = [1] + [0] * 1300 + [2]
    start = time.monotonic()
    for read in (
        lambda: text_of(tokenizer, ids),
        lambda: StopStrings(tokenizer, ["."]).complete(ids),
        lambda: before_stop(tokenizer, ids, ["."]),
    ):
        with pytest.raises(UserError, match='the tokenizer of "models/hostile" takes more than 0 s for the text of'):
            read()
    assert time.monotonic() - start < 9


def test_text_without_such_rules_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(["The owl is in the wood."] * 20, 300)
    ids = tokenizer("The owl", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokens, "awaited_at_most", None)  # calling it would be an error
    assert text_of(tokenizer, ids) == "The owl"


def test_a_panic_of_the_compiled_code_is_an_error_that_names_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match='the tokenizer of "models/hostile" fails for 1 texts, .*: Onig'):
        ids_of(hostile("(a+)+$_x"), ["a" * 40])


ALONE = """
import sys
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from concordant.data import tokens

class Hostile:
    name_or_path = "hostile"

    def __init__(self):
        self.rules = Tokenizer(models.BPE(vocab={"a": 0, ";": 1, ".": 2}, merges=[]))
        self.rules.pre_tokenizer = pre_tokenizers.Split(Regex(sys.argv[1]), "isolated")

    def __call__(self, texts, **options):
        return {"input_ids": [e.ids for e in self.rules.encode_batch(texts)]}

tokens.SECONDS = 0.1
try:
    tokens.ids_of(Hostile(), [";" + "a" * 3000 + "."] * 8)
except Exception as error:
    sys.exit(str(error))
"""


def test_a_process_ends_although_its_tokenizer_does_not() -> None:
    """The thread that cannot be ended does not keep the process alive; these texts take minutes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ALONE, SLOW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith('the tokenizer of "hostile" takes more than 1 s for 8 texts')
