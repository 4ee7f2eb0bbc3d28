"""One split by prompt for every stage; conversions; what is left when nothing is left (faults.md, rows 17 and 21)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concordant.config.data import DataConfig
from concordant.core.errors import UserError
from concordant.data.convert import prompt_of
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record
from concordant.data.splits import _rank, load_all, load_records, load_test, sample, split_by_prompt

WANTED = (Pair, Demonstration, Prompt)


def put(path: Path, *values: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(v) + "\n" for v in values))
    return str(path)


def pair(prompt: str, chosen: str = "good", rejected: str = "bad") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def questions(records: list[Any]) -> set[str]:
    return {prompt_of(record)[-1].content for record in records}


def test_the_given_hh_file(shared_data: Callable[[str], Path]) -> None:
    """1,812 rows: in 5 the prompts differ, in 3 of the others an answer is empty."""
    loaded = load_records(DataConfig(path=str(shared_data("hh-rlhf/harmless-base.jsonl.gz"))), Pair, 0)
    assert loaded.dropped == {"prompts differ": 5, "empty response": 3}
    assert loaded.rows_read == 1812
    assert len(loaded.train) + len(loaded.test) == 1812 - 5 - 3
    assert abs(len(loaded.test) / 1804 - 0.25) < 0.01
    assert not {p.prompt for p in loaded.train} & {p.prompt for p in loaded.test}
    assert any(len(p.prompt) > 3 for p in loaded.train)
    assert all(p.prompt[-1].role == "user" and "\n\nHuman:" not in p.chosen + p.rejected for p in loaded.train)
    assert loaded.summary("pairs").startswith("1,804 pairs (train 1,353, test 451); dropped 8: prompts differ 5")


def test_the_given_alpaca_file(shared_data: Callable[[str], Path]) -> None:
    config = DataConfig(path=str(shared_data("alpaca/alpaca_en_demo.json")))
    loaded = load_records(config, Demonstration, 0)
    assert len(loaded.train) + len(loaded.test) == 999
    with pytest.raises(UserError, match="no preference pairs to train on. Rows read: 999 as alpaca"):
        load_records(config, Pair, 0)


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_no_prompt_is_on_two_sides(numbers: list[int], seed: int, fraction: float) -> None:
    records: list[Record] = [Prompt((Message("user", str(n)),)) for n in numbers]
    train, test = split_by_prompt(records, fraction, seed)
    assert not questions(train) & questions(test)
    assert sorted(map(str, train + test)) == sorted(map(str, records))
    assert bool(test) == (fraction > 0 and len(set(numbers)) > 1)
    again = split_by_prompt(records[::-1], fraction, seed)
    assert questions(again[1]) == questions(test)


def test_a_quarter_of_the_prompts_is_held_out_and_the_seed_says_which() -> None:
    records: list[Record] = [Prompt((Message("user", str(n)),)) for n in range(1000)]
    tests = [questions(split_by_prompt(records, 0.25, seed)[1]) for seed in range(4)]
    assert [len(test) for test in tests] == [250] * 4
    shared = len(tests[0] & tests[1])
    assert 30 < shared < 100  # two independent quarters share a sixteenth, 62.5


def test_all_stages_hold_out_the_same_prompts(tmp_path: Path) -> None:
    """Also where some rows are of no use to some stage."""
    rows = [pair(f"q{i % 40}", f"good {i}") for i in range(100)]
    put(tmp_path / "a.jsonl", *rows)
    put(tmp_path / "b.jsonl", *({"prompt": f"p{i}"} for i in range(37)))
    put(tmp_path / "c.jsonl", *({"prompt": f"d{i}", "response": "x"} for i in range(23)))
    config = DataConfig(path=str(tmp_path))
    held_out = [questions(load_records(config, want, 5).test) for want in WANTED]
    assert held_out[2] >= held_out[1] >= held_out[0] > set()
    trained_on = [questions(load_records(config, want, 5).train) for want in WANTED]
    assert not held_out[2] & (trained_on[0] | trained_on[1] | trained_on[2])


def test_conversions_of_pairs(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", pair("q", "x", "y"), pair("q", "z", "y"), pair("r"))
    config = DataConfig(path=path).whole()
    q = Message("user", "q")
    both = load_records(config, Demonstration, 0).train
    assert [d.messages[-1].content for d in both] == ["x", "y", "z", "y", "good", "bad"]
    assert both[0] == Demonstration((q, Message("assistant", "x")), 1)
    chosen = load_records(config, Demonstration, 0, responses="chosen").train
    assert [d.messages[-1].content for d in chosen] == ["x", "z", "good"]
    assert load_records(config, Prompt, 0).train == [Prompt((q,)), Prompt((Message("user", "r"),))]
    assert [r.label for r in load_records(config, Rating, 0).train] == [True, False] * 3


def test_prompts_judged_by_different_rules_are_different_prompts(tmp_path: Path) -> None:
    rule = [{"prompt": "q", "data_source": "s", "reward_model": {"ground_truth": g}} for g in ("1", "2", "2")]
    loaded = load_records(DataConfig(path=put(tmp_path / "a.jsonl", *rule)).whole(), Prompt, 0)
    assert [p.extra["reward_model"]["ground_truth"] for p in loaded.train] == ["1", "2"]


def test_ratings_as_demonstrations(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "a", "label": i % 2 == 0} for i in range(6)]
    config = DataConfig(path=put(tmp_path / "a.jsonl", *rows)).whole()
    for responses in ("both", "chosen"):
        loaded = load_records(config, Demonstration, 0, responses)  # type: ignore[arg-type]
        assert questions(loaded.train) == {"q0", "q2", "q4"}
        assert loaded.dropped == {"rated as a bad answer": 3}


def test_a_test_path_is_the_test(tmp_path: Path) -> None:
    config = DataConfig(
        path=put(tmp_path / "a.jsonl", pair("q"), pair("r")), test_path=put(tmp_path / "b.jsonl", pair("q"), pair("s"))
    )
    loaded = load_records(config, Pair, 0)
    assert (questions(loaded.train), questions(loaded.test)) == ({"q", "r"}, {"q", "s"})
    assert loaded.notes == ["1 prompt is in train and in test"]


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to", ""])
def test_the_training_data_is_not_its_own_test(tmp_path: Path, link: str) -> None:
    path = put(tmp_path / "a.jsonl", pair("q"), pair("r"))
    if link:
        getattr(tmp_path / "b.jsonl", link)(path)
    again = tmp_path / ("b.jsonl" if link else "./../" + tmp_path.name + "/a.jsonl")
    with pytest.raises(UserError, match="is the training data itself"):
        load_records(DataConfig(path=path, test_path=str(again)), Pair, 0)


def test_an_empty_test_path_is_named(tmp_path: Path) -> None:
    config = DataConfig(path=put(tmp_path / "a.jsonl", pair("q")), test_path=put(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="b.jsonl: no rows, the data is empty"):
        load_records(config, Pair, 0)


def test_a_folder_with_train_and_test_files_keeps_its_split(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", pair("q"))
    put(tmp_path / "test.jsonl", pair("r"), pair("s"))
    loaded = load_records(DataConfig(path=str(tmp_path)), Pair, 0)
    assert (questions(loaded.train), questions(loaded.test)) == ({"q"}, {"r", "s"})
    assert questions(load_test(DataConfig(), str(tmp_path), 0)) == {"r", "s"}


def test_toytalks_own_split_is_kept(small_toytalk: None) -> None:
    for want in WANTED:
        loaded = load_records(DataConfig(path="builtin:toytalk"), want, 1)
        assert len(questions(loaded.train)) == 30
        assert questions(loaded.test) == {f"held out demo 1 {i}" for i in range(10)}
        assert loaded.formats == ("pairs",)


def test_samples_are_nested_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    records: list[Record] = [Prompt((Message("user", str(n)),)) for n in range(100)]
    ten, thirty = sample(records, 10, 0), sample(records, 30, 0)
    assert len(ten) == 10 and all(record in thirty for record in ten)
    assert [records.index(r) for r in ten] == sorted(records.index(r) for r in ten)
    assert sample(records, 10, 1) != ten
    assert sample(records, 0, 0) == records


@pytest.mark.parametrize("source", ["file", "toytalk"])
def test_max_samples_counts_train_and_test_together(tmp_path: Path, small_toytalk: None, source: str) -> None:
    path = put(tmp_path / "a.jsonl", *(pair(f"q{i}") for i in range(200)))
    config = DataConfig(path=path if source == "file" else "builtin:toytalk", max_samples=64)
    loaded = load_records(config, Pair, 0)
    assert len(loaded.train) + len(loaded.test) == 64
    assert loaded.test


def test_nothing_left_is_an_error_with_the_counts(tmp_path: Path) -> None:
    def said(*values: dict[str, Any], want: type = Pair, **config: Any) -> str:
        with pytest.raises(UserError) as caught:
            load_records(DataConfig(path=put(tmp_path / "a.jsonl", *values), **config), want, 0)
        return str(caught.value)

    assert said().endswith("a.jsonl: no rows, the data is empty")
    assert "a.jsonl: all rows are dropped, 3: empty response 2, chosen = rejected 1\n" in said(
        pair("q", ""), pair("q", "a", ""), pair("q", "a", "a")
    )
    prompts_only = said({"prompt": "q"}, {"prompt": "r"})
    assert "no preference pairs to train on. Rows read: 2 as prompt; dropped: prompt only 2" in prompts_only
    assert "expected two answers to a prompt: prompt + chosen + rejected" in prompts_only
    assert "no answers to imitate to train on" in said({"prompt": "q"}, want=Demonstration)
    assert "no prompts to train on" in said({"text": "words"}, want=Prompt)


def test_bad_rows_are_counted_among_the_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = {"prompt": "s", "chosen": 1, "rejected": "b"}
    put(path, *(pair(f"q{i}") for i in range(20)), bad)
    with pytest.raises(UserError, match='a.jsonl line 21: "chosen" must be a string'):
        load_records(DataConfig(path=str(path)), Pair, 0)
    path.write_text(path.read_text() + "{broken\n")
    loaded = load_records(DataConfig(path=str(path), skip_bad_rows=True), Pair, 0)
    assert loaded.dropped == {"wrong type": 1, "malformed row": 1}
    assert loaded.rows_read == 22


def test_one_prompt_alone_is_trained_on(tmp_path: Path) -> None:
    loaded = load_records(DataConfig(path=put(tmp_path / "a.jsonl", pair("q"))), Pair, 0)
    assert (len(loaded.train), len(loaded.test)) == (1, 0)
    assert loaded.notes == ["one prompt only: nothing is held out"]


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", *(pair(f"q{i}") for i in range(3000)))
    told: list[tuple[int, int]] = []
    load_all(DataConfig(path=path), 0, on_progress=lambda done, total: told.append((done, total)))
    size = Path(path).stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_dialogues_that_end_with_one_question_are_split_apart() -> None:
    """Their places in the split follow all that was said, not the last turn alone."""
    prompts = [(Message("user", f"q {i}"), Message("assistant", "a"), Message("user", "and now?")) for i in range(50)]
    assert len({_rank(prompt, 0)[0] for prompt in prompts}) == 50
    train, test = split_by_prompt([Prompt(prompt) for prompt in prompts], 0.3, 0)
    assert (len(train), len(test)) == (35, 15)


def test_imitating_rejected_answers_is_said(tmp_path):
    rows = [{"prompt": f"where {i}", "chosen": "here", "rejected": "who cares"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(str(tmp_path / "pairs.jsonl"))
    assert "the rejected ones too" in load_records(config, Demonstration, 0, "both").summary()
    assert "the rejected ones too" not in load_records(config, Demonstration, 0, "chosen").summary()
    assert "the rejected ones too" not in load_records(config, Pair, 0).summary()
