"""Exported votes: which answer is chosen, how sure the raters were, what is left out, and that the trainers learn."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import DPOConfig, RewardConfig
from concordant.config.train import TrainConfig
from concordant.data.splits import load_all
from concordant.runs.logs import json_lines
from concordant.stages.dpo import dpo
from concordant.stages.reward import reward
from concordant.votes.export import pair_rows, vote_rows
from concordant.votes.rows import Pair, Vote


def pair(number, gold=None):
    said = [{"role": "user", "content": f"Where is {number}?"}]
    return Pair(
        id=number, key=f"p{number}", prompt=said, first=f"good {number}", second=f"bad {number}", first_policy="x",
        second_policy="y", gold=gold, tools=None,
    )  # fmt: skip


def vote(pair, rater, choice, strength=None, swapped=False):
    return Vote(
        pair=pair, rater=rater, choice=choice, strength=strength, reason="", swapped=swapped, cast=0.0
    )  # fmt: skip


def votes_of(number, *said):
    return [vote(number, f"r{i}", *(one if isinstance(one, tuple) else (one,))) for i, one in enumerate(said)]


PAIRS = [pair(i) for i in range(6)] + [pair(6, gold="first")]
VOTES = [
    *votes_of(0, ("first", 3), ("first", 3)),
    *votes_of(1, ("second", 1), "second", "first"),
    *votes_of(2, "first", "second"),
    *votes_of(3, "bad", "bad", "first"),
    *votes_of(4, "skip"),
    *votes_of(6, "first"),
]


def test_counts_margins_and_reasons_by_hand():
    left_out: Counter[str] = Counter()
    rows = {row["id"]: row for row in pair_rows(PAIRS, VOTES, left_out, margin=3.0)}
    assert [row["chosen"] for row in rows.values()] == ["good 0", "bad 1"]
    counted = {key: [row[f"votes_{side}"] for side in ("chosen", "rejected", "tie")] for key, row in rows.items()}
    assert counted == {"p0": [2, 0, 0], "p1": [2, 1, 0]}
    # All say much better: the whole margin. Then 1/3, and two votes without a strength, 2/3 for and 2/3 against.
    assert [row["margin"] for row in rows.values()] == pytest.approx([3.0, 3 * (1 / 3 + 2 / 3 - 2 / 3) / 3], abs=1e-5)
    assert rows["p1"]["chosen_policy"] == "y"
    assert left_out == {
        "a tie": 1,
        "both answers are bad": 1,
        "skipped by all raters": 1,
        "no vote": 1,
        "gold pairs, which test raters": 1,
    }


def test_trainers_read_how_sure_the_raters_were(tmp_path):
    """2 of 2 votes give (2 + 1) / (2 + 2), 2 of 3 give 3/5, and a tie that is kept gives 1/2."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(json_lines(pair_rows(PAIRS, VOTES, Counter(), keep_ties=True, margin=1.0)))
    loaded = load_all(DataConfig(str(file)).whole(), 0)
    assert {p.chosen: p.probability for p in loaded.train} == {"good 0": 0.75, "bad 1": 0.6, "good 2": 0.5}
    assert {p.chosen: p.margin for p in loaded.train}["good 0"] == 1.0


def test_dpo_and_the_reward_model_learn_from_the_export(tmp_path):
    file = tmp_path / "pairs.jsonl"
    pairs = [pair(i) for i in range(12)]
    votes = [one for i in range(12) for one in votes_of(i, "first", "first", "second" if i % 2 else ("first", 3))]
    file.write_text(json_lines(pair_rows(pairs, votes, Counter(), margin=1.0)))
    train = TrainConfig(max_steps=1, batch_size=4, evaluate_every=0)
    model = ModelConfig("builtin:tiny", device="cpu", precision="fp32")
    common = {"model": model, "data": DataConfig(str(file), test_fraction=0.1), "train": train}
    run = dpo(DPOConfig(output=str(tmp_path / "dpo"), strength="label", **common))
    # The policy is its own reference, so that both answers are equally likely: the loss of any label is log 2.
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-3)
    run = reward(RewardConfig(output=str(tmp_path / "reward"), **common))
    assert (run / "model" / "config.json").is_file()


def test_single_votes_are_as_collect_reads_them():
    rows = list(vote_rows(PAIRS, VOTES))
    assert [row["vote"] for row in rows] == ["a", "a", "b", "b", "a", "a", "b", "tie", "tie", "a", "skip"]
    assert rows[7]["both_bad"] and all(row["id"] != "p6" for row in rows)
    turned = next(vote_rows([pair(0)], [vote(0, "ann", "first", swapped=True)]))
    assert (turned["vote"], turned["side"]) == ("a", "right")
