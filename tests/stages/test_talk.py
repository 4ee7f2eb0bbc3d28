"""Chatting: what may be typed, and that an answer cannot steer the terminal."""

import io
import sys

import pytest

import concordant
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import ChatConfig
from concordant.data.chat import ChatEncoder
from concordant.models.load import save_policy
from concordant.stages import talk
from tests.engines.tiny import tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk") / "policy"
    save_policy(tiny_policy(), folder)
    return folder


def said(policy, monkeypatch, capsys, *lines):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    concordant.chat(
        ChatConfig(model=ModelConfig(name=str(policy), device="cpu"), sampling=SamplingConfig(max_new_tokens=3))
    )
    return capsys.readouterr().out


def test_exit_ends_and_help_says_what_may_be_typed(policy, monkeypatch, capsys):
    out = said(policy, monkeypatch, capsys, "/help", "/exit", "where does the owl live")
    assert out.count("/exit") == 2 and "policy: " not in out
    out = said(policy, monkeypatch, capsys, "the owl", "/reset", "/usr is a folder", "/QUIT", "the fox")
    assert out.count("policy: ") == 2, "a question may begin with a slash"


def test_a_long_talk_loses_its_start_and_goes_on(policy, monkeypatch, capsys):
    out = said(policy, monkeypatch, capsys, *["where does the brown owl live in the tree " * 8] * 4)
    assert out.count("policy: ") == 4


def test_an_answer_cannot_steer_the_terminal(monkeypatch, capsys):
    encoder = ChatEncoder(tiny_policy().tokenizer)
    monkeypatch.setattr(encoder, "text", lambda ids: "hi \x1b[2J" + "!" * len(ids))
    stream = talk._Stream(encoder)
    stream.show(0, 0, 5)
    stream.finish()
    assert capsys.readouterr().out == "policy: hi \\x1b[2J!\n"
