"""The help page of every verb: an example that works, what is needed, a text for every key, one screen."""

from __future__ import annotations

import shlex

import pytest

from concordant.cli import main
from concordant.config.checks import needed
from concordant.config.common import COMMON
from concordant.config.fields import schema
from concordant.config.help import help_page
from concordant.config.no_effect import useless
from concordant.config.parse import parse_command
from concordant.config.stages import GenerateConfig
from concordant.verbs import VERBS

SCREEN = 45  # lines


def page(verb: str, everything: bool = False) -> str:
    entry = VERBS[verb]
    return help_page(verb, entry.config_class(), entry.summary, f"EXAMPLE {entry.options}", everything=everything)


def entry_of(text: str, key: str) -> str:
    """The words about a key, joined over its lines."""
    lines = text.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(f"  --{key} "))
    more = [lines[start]]
    for line in lines[start + 1 :]:
        if not line.startswith("   "):
            break
        more.append(line)
    return " ".join(" ".join(more).split())


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_is_a_command_that_is_accepted(verb):
    parse_command(verb, VERBS[verb].config_class(), shlex.split(VERBS[verb].options))


@pytest.mark.parametrize("verb", VERBS)
def test_the_short_page_is_one_screen(verb, monkeypatch):
    for columns in ("100", "110", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        text = page(verb)
        assert len(text.splitlines()) <= SCREEN and "EXAMPLE" in text
        assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_needed_is_marked_on_both_pages(verb):
    config_class = VERBS[verb].config_class()
    for text in (page(verb), page(verb, everything=True)):
        for key in schema(config_class).fields:
            if f"  --{key} " in text:
                assert (" needed; " in entry_of(text, key)) is (key in needed(config_class)), key
        assert all(f"  --{key} " in text for key in needed(config_class))


@pytest.mark.parametrize("verb", VERBS)
def test_help_all_has_every_key_that_the_verb_can_use(verb):
    text, config_class = page(verb, everything=True), VERBS[verb].config_class()
    for key in schema(config_class).fields:
        assert (f"\n  --{key} " in text) is (key not in useless(config_class)), key


def test_every_key_has_a_text():
    without = {
        f"{known.owner.__name__}.{known.name}"
        for entry in VERBS.values()
        for known in schema(entry.config_class()).fields.values()
        if not known.comment
    }
    assert without == set(), "write a comment on the line of the field"


def test_the_table_of_common_keys_names_keys_once():
    for owner, keys in COMMON.items():
        known = schema(owner).fields
        assert set(keys) <= set(known), owner.__name__
        assert len(set(keys)) == len(keys)
    of_verbs = [entry.config_class() for entry in VERBS.values()]
    assert set(of_verbs) <= {*COMMON}, "every verb's short page shows something"


def test_a_default_and_a_choice_are_shown():
    assert entry_of(page("dpo"), "beta") == "--beta reward per nat of log-ratio; default 0.1"
    assert "linear | cosine | constant" in entry_of(page("dpo", True), "train.schedule")
    assert "| simpo |" not in entry_of(page("dpo"), "loss") and "| simpo |" in entry_of(page("dpo", True), "loss")
    assert "oasst" not in entry_of(page("sft"), "data.format") and "oasst" in entry_of(page("sft", True), "data.format")
    assert "(0, ∞)" in entry_of(page("dpo", True), "beta")


def test_a_list_says_how_it_is_written():
    said = entry_of(page("generate", True), "sampling.stop_strings")
    assert said.endswith("ends an answer, which is cut before it; a list: A B or '[A,B]'")
    for given in (["A", "B"], ["[A,B]"]):
        arguments = ["--model=m", "--prompt=p", "--sampling.stop_strings", *given]
        assert parse_command("generate", GenerateConfig, arguments)[0].sampling.stop_strings == ["A", "B"]


@pytest.mark.parametrize("verb", ["ppo", "best-of-n"])
def test_the_short_page_says_how_a_reward_function_is_called(verb):
    assert "function(prompt, response, …) gives a number" in entry_of(page(verb), "reward")


@pytest.mark.parametrize("asked", [["--help", "all"], ["--help=all"], ["--beta", "1", "-h", "all"]])
def test_the_long_page_is_asked_for(asked, capsys):
    assert main(["dpo", *asked]) == 0
    assert "--train.beta2" in capsys.readouterr().out


def test_the_short_page_says_how_to_see_the_rest(capsys):
    assert main(["dpo", "--help"]) == 0
    said = capsys.readouterr().out
    assert "concordant dpo --help all" in said and "--train.beta2" not in said


@pytest.mark.parametrize("verb", ["run", "demo"])
def test_the_verbs_of_pipelines_have_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"\nexample: concordant {verb} " in capsys.readouterr().out


def test_the_long_page_has_comment_range_default_and_main_keys():
    text = page("sft", everything=True)
    words = "share of the steps in which the learning rate rises; [0, 1]; default 0.05"
    assert entry_of(text, "train.warmup_fraction").endswith(words)
    assert "--data VALUE means --data.path VALUE" in text and "--print_config" in text
