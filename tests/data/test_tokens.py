"""A tokenizer's own rules have a time limit, also where they run in compiled code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from concordant.core.errors import UserError
from concordant.data import tokens
from concordant.data.tokenizer import train_tokenizer
from concordant.data.tokens import ids_of
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy

# For a letter after which no mark stands, every way to divide the letters is tried: the time grows with their cube.
SLOW = r"\w*\w*[.,][;:]"
TEXT = ";" + "a" * 2500 + "."


def hostile(rule: str, name: str = "models/hostile") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, ";": 1, ".": 2, "▁": 3}, merges=[]))
    if rule == "normalizer":
        tokenizer.normalizer = normalizers.Replace(Regex(SLOW), "")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SLOW if rule == "pre_tokenizer" else rule), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path=name)


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
    said = 'the tokenizer of "models/hostile" takes more than 0 s for 2 texts, the longest of 2,502 characters'
    assert str(caught.value).startswith(said) and "begins ';aaa" in str(caught.value)


def test_a_panic_of_the_compiled_code_is_an_error_that_names_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match='the tokenizer of "models/hostile" fails for 1 texts, .*: Onig'):
        ids_of(hostile("(a+)+$_x"), ["a" * 40])


def test_texts_are_read_in_parts_and_give_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["The owl is in the wood.", "", "Where?", "x" * 50, "The fox."]
    tokenizer = train_tokenizer(texts * 20, 300)
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for size in (1, 20, 10_000):
        monkeypatch.setattr(tokens, "AT_ONCE", size)
        assert ids_of(tokenizer, texts) == whole
    assert ids_of(tokenizer, []) == []


def test_a_command_ends_although_the_tokenizer_does_not(tmp_path: Path) -> None:
    """The thread that cannot be ended does not keep the process alive."""
    folder = tmp_path / "hostile"
    save_policy(tiny_policy(), folder)
    settings = json.loads((folder / "tokenizer.json").read_text())
    rule = {"type": "Split", "pattern": {"Regex": SLOW}, "behavior": "Isolated", "invert": False}
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [rule, settings["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "q", "response": TEXT * 2}) + "\n")
    code = (
        "import sys; from concordant.data import tokens; tokens.SECONDS = 0.5; from concordant.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["prepare", "--data", "a.jsonl", "--output", "out", "--model.name", "hostile"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert 'the tokenizer of "hostile" takes more than' in done.stderr
