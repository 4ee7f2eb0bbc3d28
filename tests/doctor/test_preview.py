"""What a person is shown: the mask in brackets and colour, ends visible, nothing in the text obeyed."""

import io

import pytest
import torch
from rich.console import Console

from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration, Message, Pair
from concordant.doctor.finding import Finding
from concordant.doctor.preview import pieces, preview
from concordant.doctor.render import by_gravity, facts_text, finding_text, verdict
from tests.data.chat_tokenizers import MAKERS


def said(*texts):
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


@pytest.fixture(scope="module")
def encoder():
    return ChatEncoder(MAKERS["chatml"]())


def shown(text, **options):
    console = Console(file=io.StringIO(), width=400, highlight=False, **options)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return console.file.getvalue()


def test_the_mask_stands_in_brackets_turn_by_turn(encoder):
    talk = Demonstration(said("Where?", "In a tree.", "And the fox?", "In a den."), 1)
    page = shown(preview(encoder, encoder.demonstrations([talk]).trees, ("response",)))
    assert "⟦In a tree.<|im_end|>⟧" in page and "⟦In a den.<|im_end|>⟧" in page
    assert "⟧↵<|im_start|>user↵And the fox?<|im_end|>↵<|im_start|>assistant↵⟦" in page


def test_both_answers_are_named_and_three_samples_are_enough(encoder):
    pairs = [Pair(said(f"Where is {i}?"), "Here.", "There.") for i in range(9)]
    page = shown(preview(encoder, encoder.pairs(pairs).trees, ("chosen", "rejected")))
    assert page.count("chosen, ") == page.count("rejected, ") == 3
    assert [f"Where is {i}?" in page for i in range(9)] == [i in (0, 3, 6) for i in range(9)]


def test_long_rows_show_their_ends(encoder):
    pair = Pair(said("first " + "word " * 200 + "last?"), "start " + "tree " * 200 + "end.", "No.")
    page = shown(preview(encoder, encoder.pairs([pair]).trees, ("chosen", "rejected")))
    assert all(word in page for word in ("first", "last?", "start", "end.<|im_end|>⟧", " … "))
    assert len(page) < 1500


def test_text_is_shown_and_never_obeyed(encoder):
    evil = "[bold red]x[/] \x1b[31m \x07 [link=https://x]y[/link] a\u202eb"
    page = shown(preview(encoder, encoder.pairs([Pair(said(evil), evil, "No.")]).trees, ("chosen", "rejected")))
    finding = Finding("disk", "error", evil, evil, evil)
    for text in (page, shown(finding_text(finding)), shown(facts_text({"data": evil}))):
        assert "[bold red]x[/]" in text and not set("\x1b\x07\u202e") & set(text)


def test_colour_tells_tokens_apart_and_no_color_is_honoured(encoder, monkeypatch):
    text = preview(encoder, encoder.pairs([Pair(said("Where?"), "In a tree.", "No.")]).trees, ("chosen", "rejected"))
    colours = shown(text, force_terminal=True, color_system="standard")
    assert "\x1b[1;32m" in colours and "\x1b[1;36m" in colours and "\x1b[1;7m<|im_end|>" in colours
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in shown(text, force_terminal=True)


@pytest.mark.parametrize("name", MAKERS)
def test_the_pieces_of_a_text_are_the_text(name):
    tokenizer = MAKERS[name]()
    ids = tokenizer("The owl lives, 日本 naïve", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_prompt_alone_has_no_brackets(encoder):
    page = shown(preview(encoder, [PromptTree(torch.tensor([5, 6]), ())], ("response",)))
    assert page.count("⟦") == 1  # the heading's own


RULES = ("disk", "memory", "truncation", "versions")


def test_findings_come_gravest_first_with_all_their_parts():
    kinds = ("info", "error", "warning", "error")
    findings = [Finding(RULES[i], kind, "seen", "cause it", "cure it") for i, kind in enumerate(kinds)]
    assert [f.rule for f in by_gravity(findings)] == ["memory", "versions", "truncation", "disk"]
    assert verdict(findings) == "2 errors, 1 warning, 1 note" and verdict([]) == "nothing found"
    page = shown(finding_text(findings[1]))
    assert all(
        part in page
        for part in ("error memory", "seen", "after hours", "cause it", "cure it", "concordant doctor --explain memory")
    )
    note = shown(finding_text(findings[0]))
    assert "cure it" in note and "cause it" not in note
