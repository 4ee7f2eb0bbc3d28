"""Text that was through a template before, thoughts that are lost, prompts that open more than was learnt."""

import json

import pytest

from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating
from concordant.data.template import set_arguments
from concordant.doctor.data_tokens import TokenReader, encode, look_at_tokens
from concordant.doctor.files import diagnose_data
from concordant.doctor.preflight_tokens import check_tokens
from tests.data.chat_tokenizers import MAKERS, templated

THOUGHT = "<think>\nAdd them.\n</think>\n\nIt is 5."


def said(question, answer, reasoning=""):
    return Demonstration((Message("user", question), Message("assistant", answer, reasoning)), 1)


def rules(encoder, records):
    return [finding.rule for finding in check_tokens(encoder, encode(encoder, records), records)]


PLAIN = [said(f"What is {i}+3?", "It is 5.") for i in range(40)]
THINKING = [said(f"What is {i}+3?", THOUGHT) for i in range(40)]


@pytest.mark.parametrize("name", ["thinking", "channels", "strict", "parts", "two ends"])
def test_templates_of_today_are_healthy(name):
    encoder = ChatEncoder(templated(name))
    assert "templated_text" not in rules(encoder, PLAIN)
    assert not {"thought_lost", "generation_opens_more", "end_token_missing"} & set(rules(encoder, PLAIN))


def test_special_tokens_in_the_text_are_found_with_the_cure():
    encoder = ChatEncoder(MAKERS["chatml"]())
    question = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    rows = [Pair((Message("user", question),), "In a tree.<|im_end|>\n", f"Den {i}.") for i in range(5)]
    rows += [Pair((Message("user", f"Where, owl {i}?"),), "In a tree.", "No.") for i in range(35)]
    (finding,) = [f for f in check_tokens(encoder, encoder.pairs(rows), rows) if f.rule == "templated_text"]
    assert finding.severity == "error" and "5 of 40 rows" in finding.seen and '"<|im_end|>"' in finding.seen
    assert "lists of messages" in finding.cure
    assert "templated_text" not in rules(encoder, rows[5:])


def test_a_thought_that_the_template_drops_is_a_finding():
    for records in (THINKING, [said("What is 2+3?", "It is 5.", "Add them.")] * 40):
        assert "thought_lost" in rules(ChatEncoder(templated("forgetting")), records)
        assert "thought_lost" not in rules(ChatEncoder(templated("thinking")), records)
    assert "thought_lost" not in rules(ChatEncoder(templated("forgetting")), PLAIN)


def test_a_prompt_that_opens_a_thought_which_no_answer_has_is_a_finding():
    encoder = ChatEncoder(templated("forgetting"))
    (finding,) = [f for f in check_tokens(encoder, encode(encoder, PLAIN), PLAIN) if f.rule == "generation_opens_more"]
    assert '"<think>"' in finding.seen and finding.numbers["share"] == 1.0
    assert "generation_opens_more" not in rules(ChatEncoder(templated("opening")), PLAIN)


def test_the_cure_of_an_opened_thought_cures():
    tokenizer = templated("opening")
    tokenizer.chat_template = tokenizer.chat_template.replace("{% if loop.last %}", "{% if loop.last and thought %}")
    assert "generation_opens_more" in rules(ChatEncoder(tokenizer), PLAIN)
    assert "generation_opens_more" not in rules(ChatEncoder(tokenizer), THINKING)
    with pytest.raises(UserError, match="reads no"):
        set_arguments(templated("forgetting"), ["enable_thinking=false"])


def test_data_is_looked_at_with_a_models_tokenizer(tmp_path):
    templated("thinking").save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"<|im_start|>user\nOwl {i}?<|im_end|>", "chosen": "In a tree.", "rejected": f"No, {i}."}
            for i in range(40)]  # fmt: skip
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "templated_text" not in [f.rule for f in diagnose_data(str(data)).findings]
    diagnosis = diagnose_data(str(data), ModelConfig(name=str(tmp_path / "model")))
    assert "templated_text" in [f.rule for f in diagnosis.findings]
    assert diagnosis.facts["tokens of an answer"].startswith("median ")


def test_records_of_every_kind_have_their_tokens_counted():
    question = (Message("user", "What is 2+3?"),)
    records = [Prompt(question), Rating(question, "It is 5.", True), said("What is 2+3?", "It is 5."),
               Pair(question, "It is 5.", "It is 6.")]  # fmt: skip
    facts, _ = look_at_tokens(records, TokenReader(tokenizer=templated("dated"), reads=2048, kind="causal"))
    encoder = ChatEncoder(templated("strict"))
    made = encode(encoder, [*records, Prompt((*question, *question))])
    assert [len(tree.branches) for tree in made.trees] == [0, 1, 1, 2] and made.dropped.total() == 1
    assert facts["tokens of an answer"] == f"median {len(made.trees[1].branches[0].ids_T)}, 99 % at most " + str(
        max(len(b.ids_T) for t in made.trees for b in t.branches)
    )
