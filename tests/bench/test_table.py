"""What the benchmark claims from the times it took: hand-computed answers."""

from __future__ import annotations

import json

import pytest
import torch

from bench.comparisons import COMPARISONS
from bench.ours import step_flops, visible_pairs
from bench.ratios import agree, ratio
from bench.table import write_table
from concordant.core.trees import Branch, PromptTree


def test_the_ratio_is_the_median_of_neighbouring_turns():
    """The machine slows down threefold for one turn of both: the ratio of medians would say 3.5, of means 3.67."""
    made = ratio([6.0, 24.0, 7.0], [2.0, 6.0, 2.0])
    assert (made.median, made.least, made.greatest) == (3.5, 3.0, 4.0)
    assert str(made) == "3.50× (3.00–4.00)"
    assert ratio([8.0, 2.0, 30.0], [2.0, 1.0, 10.0]).median == 3.0, "of medians: 4"


def test_turns_must_match():
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_losses_agree_to_a_share():
    assert agree([0.6931, 2.0], [0.6932, 2.001], 1e-3)
    assert not agree([0.6931, 2.0], [0.6931, 2.01], 1e-3)


def test_visible_pairs_by_hand():
    """Trunk a b: 3 pairs. Branch c d sees a b and itself: 2 · 2 + 3. Branch e: 2 + 1."""
    tree = PromptTree(torch.tensor([1, 2]), (Branch.response([3, 4]), Branch.response([5])))
    assert visible_pairs(tree) == 3 + 7 + 3


def test_operations_by_hand():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    tree = PromptTree(torch.tensor([1, 2]), (Branch.response([3, 4]), Branch.response([5])))
    weights = 2 * (4 * 8 * 8 + 3 * 8 * 12)
    expected = 6 * (weights * 5 + 11 * 8 * 3) + 12 * 2 * 8 * 13
    assert step_flops(LlamaForCausalLM(config), [tree]) == expected


def test_the_table_says_what_was_measured(tmp_path):
    dpo = next(c for c in COMPARISONS if c.name == "dpo")
    seconds = {"ours": [9.0, 1.0, 2.0], "TRL, fastest": [9.0, 5.0, 14.0], "TRL, defaults": [9.0, 8.0, 16.0]}
    peak = {"ours": 500.0, "TRL, fastest": 2000.0, "TRL, defaults": 1250.0}
    turns = {
        side: [{"seconds": s, "loss": 0.6931 if side == "ours" else 0.75, "peak_mib": peak[side]} for s in of]
        for side, of in seconds.items()
    }
    facts = {side: {"reference_seconds": 1.0} for side in seconds}
    machine = {"cpu": "a CPU", "python": "3", "other_cores": 0.01}
    record = {"comparison": {"batch": 8}, "threads": 2, "machine": machine, "facts": facts, "turns": turns}
    (tmp_path / "dpo.json").write_text(json.dumps(record))
    (tmp_path / "sft-bf16.json").write_text(json.dumps({"skipped": "no bf16 units"}))
    write_table(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "6.00× (5.00–7.00)" in text, "turn by turn against the fastest, warm-up left out"
    assert f"{dpo.aim:g}×" in text
    assert "500 MiB, 0.40×" in text, "against the peer that needs least"
    assert "**apart** 0.6931/0.7500" in text
    assert "not run: no bf16 units" in text
    assert "4.00× (3.00–5.00) faster than TRL's fastest" in text, "with the reference's share on both sides"
    assert "2 runs after the warm-up, not 5" in text


def test_a_side_that_did_not_run_leaves_its_cells_empty(tmp_path):
    turn = {"seconds": 2.0, "loss": 0.7, "peak_mib": 300.0}
    record = {
        "comparison": {"batch": 8},
        "threads": 2,
        "machine": {"cpu": "a CPU", "python": "3", "other_cores": 1.2},
        "facts": {"ours": {}},
        "turns": {"ours": [turn, turn]},
    }
    (tmp_path / "reward.json").write_text(json.dumps(record))
    write_table(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| 2.00 |  |  | 2× |  | 300 MiB | ≤ 0.6× |  |" in text
    assert "other processes kept 1.2 cores busy" in text
