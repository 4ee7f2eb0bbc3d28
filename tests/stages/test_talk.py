"""Chatting: what may be typed, and that an answer cannot steer the terminal."""

import io
import json
import re
import sys

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import ChatConfig, GenerateConfig
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


@pytest.mark.parametrize("line", ["/foo", "/rest", "/EXIST", "/é"])
def test_a_word_that_is_no_command_is_answered_with_the_commands(line, policy, monkeypatch, capsys):
    out = said(policy, monkeypatch, capsys, line, "/exit")
    assert f"{line} is no command." in out and out.count("/exit, an empty line") == 2 and "policy: " not in out
    assert ('Did you mean "/reset"?' in out) == (line == "/rest")


@pytest.mark.parametrize("line", ["/usr/bin", "/ is the root", "what is /help", "//"])
def test_other_lines_with_a_slash_are_questions(line, policy, monkeypatch, capsys):
    assert said(policy, monkeypatch, capsys, line, "/exit").count("policy: ") == 1


def test_a_long_talk_loses_its_start_and_goes_on(policy, monkeypatch, capsys):
    out = said(policy, monkeypatch, capsys, *["where does the brown owl live in the tree " * 8] * 4)
    assert out.count("policy: ") == 4


def test_an_answer_cannot_steer_the_terminal(monkeypatch, capsys):
    encoder = ChatEncoder(tiny_policy().tokenizer)
    monkeypatch.setattr(encoder, "text", lambda ids, *stops, **begun: "hi \x1b[2J" + "!" * len(ids))
    stream = talk._Stream(encoder)
    stream.show(0, 0, 5)
    stream.finish()
    assert capsys.readouterr().out == "policy: hi \\x1b[2J!\n"


STOPS = ["\nHuman:", "é!", "owl lives"]


def shown_while_sampled(text, capsys, stop_strings=STOPS):
    """What stands on the terminal after each token, and what the dialogue keeps at the end."""
    encoder = ChatEncoder(tiny_policy().tokenizer)
    stream, screen = talk._Stream(encoder, stop_strings), [""]
    for token in encoder.tokenizer(text, add_special_tokens=False)["input_ids"]:
        stream.show(0, 0, token)
        screen.append(screen[-1] + capsys.readouterr().out)
    kept = stream.finish()
    return [s.removeprefix("policy: ") for s in [*screen[1:], screen[-1] + capsys.readouterr().out]], kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [("I am.\nHuman:", "I am."), ("caf é é!", "caf é"), ("the owl lives", "the"), ("\nHuman:", "")],
)
def test_nothing_of_a_stop_string_is_shown(text, shown, capsys):
    screens, kept = shown_while_sampled(text, capsys)
    assert kept == shown and screens[-1] == shown + "\n"
    assert all(shown.startswith(screen) for screen in screens[:-1]), "nothing flickers"


@pytest.mark.parametrize("text", ["I am.\nHumid air", "é?", "the owl liked it", "the owl li", "done\nHuman"])
def test_what_only_begins_like_a_stop_string_is_shown_after_all(text, capsys):
    screens, kept = shown_while_sampled(text, capsys)
    assert kept == text and screens[-1] == text + "\n"


def test_text_without_a_beginning_of_a_stop_string_is_shown_at_once(capsys):
    plain, _ = shown_while_sampled("what colour is the fox", capsys, [])
    held, _ = shown_while_sampled("what colour is the fox", capsys, ["\nHuman:"])
    assert plain == held and len(plain) > 5


def test_a_chat_ends_an_answer_at_a_stop_string(policy, monkeypatch, capsys):
    letters = [chr(i) for i in range(33, 127)] + [" ", "\ufffd"]
    sampling = SamplingConfig(max_new_tokens=60, stop_strings=letters)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the owl\nthe fox\n"))
    concordant.chat(ChatConfig(model=ModelConfig(name=str(policy), device="cpu"), sampling=sampling))
    answers = [part.partition("\n")[0] for part in capsys.readouterr().out.split("policy: ")[1:]]
    assert len(answers) == 2 and not any(letter in answer for answer in answers for letter in letters)


def test_generate_writes_text_before_the_stop_string_and_says_that_it_ended(policy, tmp_path):
    """The answer without stop strings, up to the string."""
    model, output = ModelConfig(name=str(policy), device="cpu"), tmp_path / "a.jsonl"

    def answer(*stop_strings):
        sampling = SamplingConfig(max_new_tokens=30, stop_strings=list(stop_strings))
        config = GenerateConfig(model=model, prompt="the owl", output=str(output), sampling=sampling)
        return json.loads(concordant.generate(config).read_text(encoding="utf-8"))

    whole = answer()
    letter = next(x for x in whole["response"][3:] if x.isascii() and not x.isspace())
    assert whole["ended"] is False
    before = whole["response"].partition(letter)[0].strip()
    assert answer(letter) == {**whole, "response": before, "ended": True}
    assert answer("日本語") == whole


def printed(policy, capsys, n, **changes):
    sampling = SamplingConfig(n=n, max_new_tokens=3)
    config = GenerateConfig(model=ModelConfig(name=str(policy), device="cpu"), sampling=sampling, **changes)
    assert concordant.generate(config) is None
    return capsys.readouterr().out


def test_several_answers_to_a_prompt_are_numbered(policy, tmp_path, capsys):
    """Answers may hold line breaks, so without a line between them nobody sees where one ends."""
    answers = [a.strip() for a in re.split(r"\[\d of 3\]\n", printed(policy, capsys, 3, prompt="the owl"))]
    alone = printed(policy, capsys, 1, prompt="the owl").strip()
    assert answers[0] == "" and len(answers) == 4 and answers[1] == alone
    (tmp_path / "p.jsonl").write_text('{"prompt": "the owl"}\n{"prompt": "the fox"}\n')
    shown = printed(policy, capsys, 2, data=DataConfig(str(tmp_path / "p.jsonl")))
    marks = [line for line in shown.splitlines() if line.startswith(("> ", "[1 ", "[2 "))]
    assert marks == ["> the owl", "[1 of 2]", "[2 of 2]", "> the fox", "[1 of 2]", "[2 of 2]"]
    assert shown.count(alone) >= 1


def test_one_answer_to_a_prompt_has_no_number(policy, capsys):
    assert "[" not in printed(policy, capsys, 1, prompt="the owl")
