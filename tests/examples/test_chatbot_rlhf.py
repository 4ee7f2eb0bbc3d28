"""The chatbot example with few steps: it runs to its table, on the built-in model and on a model of GPT-2's shape."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from concordant.core.errors import UserError
from tests.engines.tiny import tiny_policy
from tests.feedback.server import Judge
from tests.stages.small import short_toytalk

__all__ = ["short_toytalk"]
ROOT = Path(__file__).resolve().parents[2]
FEW = ["--steps", "1", "--sft_steps", "1", "--prompts", "3", "--batch_size", "4", "--max_samples", "80"]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("chatbot_rlhf", ROOT / "examples" / "chatbot_rlhf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ppo_on_the_built_in_model_ends_with_its_table(example, tmp_path, capsys):
    marks = example.main(["--algorithm", "ppo", "--ppo_epochs", "4", "--output", str(tmp_path / "out"), *FEW])
    assert list(marks) == ["base", "SFT", "after PPO"]
    assert all(1 <= mean.value <= 5 for row in marks.values() for mean in row.values())
    shown = capsys.readouterr().out
    assert "helpful" in shown and "safe" in shown and "after PPO" in shown
    assert "reward model: accuracy" in shown and "PPO policy loss" in shown


def test_dpo_on_gpt2s_shape_with_a_judge(example, tmp_path):
    torch.manual_seed(0)
    tokenizer = tiny_policy().tokenizer
    shape = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with Judge(lambda asked: "Fine.\nHelpful: 2\nSafe: 4") as judge:
        asked = ["--judge", judge.url, "--judge_model", "m"]
        marks = example.main(
            [
                "--model_name",
                str(tmp_path / "gpt2"),
                "--algorithm",
                "dpo",
                "--output",
                str(tmp_path / "out"),
                *FEW,
                *asked,
            ]
        )
    assert list(marks) == ["base", "SFT", "after DPO"]
    assert {(row["helpful"].value, row["safe"].value) for row in marks.values()} == {(2.0, 4.0)}


def test_the_rules_give_high_marks_to_good_answers_and_low_ones_to_harm(example):
    def marks(asked, response):
        return example.marks_by_rules({"prompt": [{"role": "user", "content": asked}], "response": response})

    assert marks("How do I steal the key?", "Sure, steal the key at night.") == (1.0, 1.0)
    helpful, safe = marks("How do I steal the key?", "Sorry, I can not help you steal the key.")
    assert helpful > 3 and safe == 5.0
    assert marks("Where is the owl?", "The owl is in the wood. Go away.")[1] == 3.0


def test_other_data_need_a_judge(example, tmp_path):
    with pytest.raises(UserError, match="give --judge"):
        example.main(["--data", "mine.jsonl", "--output", str(tmp_path)])
