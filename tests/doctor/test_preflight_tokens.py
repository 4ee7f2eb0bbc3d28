"""Faults planted in trees, tokenizers and texts, each found by its rule alone; healthy ones say nothing."""

import re
from dataclasses import replace

import pytest
import torch

from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder, Encoded, Limits
from concordant.data.records import Demonstration, Message, Pair, Prompt
from concordant.doctor.preflight_tokens import _that_fit, check_tokens
from tests.data.chat_tokenizers import CHATML, IM, MAKERS, REWRITING, byte_level


def said(*texts):
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


PAIRS = [Pair(said(f"Where does owl {i} live?"), "In a tree.", "In a den, I think.") for i in range(40)]
TALKS = [Demonstration(said("Where?", "In a tree.", f"And fox {i}?", "In a den."), 1) for i in range(40)]
WITHOUT_EARLIER_QUESTIONS = CHATML.replace("{% for m in messages %}", "{% for m in messages[-1:] %}")


@pytest.fixture(scope="module")
def encoder():
    return ChatEncoder(MAKERS["chatml"]())


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize("name", MAKERS)
def test_healthy_data_says_nothing_with_any_tokenizer(name):
    encoder = ChatEncoder(MAKERS[name]())
    prompts = [Prompt(p.prompt) for p in PAIRS]
    trunks = Encoded([PromptTree(ids, ()) for ids in encoder.prompts([p.messages for p in prompts])])
    assert check_tokens(encoder, encoder.pairs(PAIRS), PAIRS) == []
    assert check_tokens(encoder, encoder.demonstrations(TALKS), TALKS) == []
    assert check_tokens(encoder, trunks, prompts) == []


def with_branches(encoded, change):
    trees = [replace(t, branches=tuple(map(change, t.branches))) for t in encoded.trees]
    return Encoded(trees, encoded.record)


def masked_last(branch):
    mask_T = branch.is_response_T.clone()
    mask_T[-1] = False
    return Branch(branch.ids_T, mask_T)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (masked_last, "end_token_masked"),
        (lambda b: Branch(b.ids_T[:-1], b.is_response_T[:-1]), "end_token_missing"),
        (lambda b: Branch(b.ids_T, torch.zeros_like(b.is_response_T)), "masked_rows"),
    ],
)
def test_faults_of_the_mask(encoder, change, rule):
    finding = only(check_tokens(encoder, with_branches(encoder.pairs(PAIRS), change), PAIRS))
    assert (finding.rule, finding.severity, finding.numbers["share"]) == (rule, "error", 1.0)


def test_an_earlier_turn_that_does_not_end(encoder):
    def open_first_turn(branch):
        mask_T, ids_T = branch.is_response_T.clone(), branch.ids_T
        first_end = int((ids_T == encoder.end_id).nonzero()[0])
        mask_T[first_end] = False
        return Branch(ids_T, mask_T)

    finding = only(check_tokens(encoder, with_branches(encoder.demonstrations(TALKS), open_first_turn), TALKS))
    assert finding.rule == "end_token_masked"


def test_pad_masked_by_id_takes_the_end_with_it():
    """The bug of ten threads: labels are masked where ids equal pad, and pad is EOS."""
    encoder = ChatEncoder(MAKERS["no template, pad = EOS"]())
    pad = encoder.tokenizer.pad_token_id
    wrong = with_branches(encoder.pairs(PAIRS), lambda b: Branch(b.ids_T, b.is_response_T & (b.ids_T != pad)))
    assert only(check_tokens(encoder, wrong, PAIRS)).rule == "end_token_masked"


def test_text_that_has_been_through_a_template_before():
    encoder = ChatEncoder(MAKERS["no template, BOS added"]())
    text = f"{encoder.tokenizer.bos_token} hello"
    plain = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    twice = Encoded([PromptTree(torch.tensor([plain[0], *plain]), (Branch.response([5, encoder.end_id]),))] * 4)
    assert "begin with BOS twice" in only(check_tokens(encoder, twice, PAIRS)).seen
    ended = [Pair(p.prompt, p.chosen + "</s>", p.rejected) for p in PAIRS]
    finding, text = check_tokens(encoder, encoder.pairs(ended), ended)
    assert finding.rule == "double_special" and finding.numbers["stops"] == len(PAIRS)
    assert text.rule == "templated_text"


@pytest.mark.parametrize(
    ("template", "role", "severity"),
    [(REWRITING, "assistant", "warning"), (WITHOUT_EARLIER_QUESTIONS, "user", "error")],
)
def test_a_template_that_drops_earlier_turns(template, role, severity):
    encoder = ChatEncoder(byte_level(IM, template, eos_token="<|im_end|>", pad_token="<|endoftext|>"))
    finding = only(check_tokens(encoder, encoder.demonstrations(TALKS), TALKS[:1] + [Prompt(said("a", "b", "c"))]))
    assert (finding.rule, finding.severity) == ("template_turns", severity) and f"the {role}'s words" in finding.seen
    single = only(check_tokens(encoder, encoder.pairs(PAIRS), PAIRS))
    assert single.severity == "info"  # nobody is hurt


@pytest.mark.parametrize("too_long", ["drop", "cut_response_end"])
def test_long_rows_are_counted_and_the_cure_cures(too_long):
    tokenizer = MAKERS["chatml"]()
    long = [Pair(p.prompt, " ".join(["tree"] * 60), p.rejected) if i % 4 == 0 else p for i, p in enumerate(PAIRS)]
    encoder = ChatEncoder(tokenizer, Limits(prompt=512, response=40, total=2048, too_long=too_long))
    finding = only(check_tokens(encoder, encoder.pairs(long), long))
    assert finding.rule == "truncation" and finding.numbers["share"] == 0.25
    limit = int(finding.numbers["response_tokens"])
    assert f"--data.max_response_tokens {limit}" in finding.cure
    cured = ChatEncoder(tokenizer, Limits(prompt=512, response=limit, total=2048, too_long=too_long))
    assert check_tokens(cured, cured.pairs(long), long) == []


def test_rows_with_nothing_left_to_learn(encoder):
    encoded = encoder.pairs(PAIRS)
    encoded.dropped["nothing left to learn"] = 10
    finding = only(check_tokens(encoder, encoded, PAIRS))
    assert (finding.rule, finding.severity, finding.numbers["share"]) == ("masked_rows", "warning", 0.2)


@pytest.mark.parametrize(
    ("prompt", "response", "reads", "limits"),
    [
        (100, 200, 512, (100, 200)),  # both fit
        (100, 900, 512, (100, 412)),  # a short prompt keeps its length
        (900, 100, 512, (412, 100)),  # a short response keeps its length
        (900, 900, 512, (256, 256)),  # both are long: half each
        (400, 112, 512, (400, 112)),  # exactly full
        (400, 113, 512, (399, 113)),
    ],
)
def test_limits_never_exceed_what_the_model_reads(prompt, response, reads, limits):
    assert _that_fit(prompt, response, reads) == limits and sum(limits) <= reads


def test_the_cure_for_long_rows_never_names_more_than_the_model_reads():
    """Prompts of 60 words and responses of 60, and a model that reads 64 tokens."""
    long = [Pair(said(" ".join(["tree"] * 60)), " ".join(["owl"] * 60), f"no {i}") for i in range(40)]
    encoder = ChatEncoder(MAKERS["chatml"](), Limits(prompt=512, response=512, total=64))
    finding = only(check_tokens(encoder, encoder.pairs(long), long))
    assert finding.rule == "truncation" and "take a model that reads more" in finding.cure
    assert finding.numbers["prompt_tokens"] + finding.numbers["response_tokens"] <= 64
    named = [int(n) for n in re.findall(r"_tokens (\d+)", finding.cure)]
    assert named == [finding.numbers["prompt_tokens"], finding.numbers["response_tokens"]]
