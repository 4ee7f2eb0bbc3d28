"""`concordant prepare`: the seeds' columns, one split, whole or not at all, and read back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data import prepare as module
from concordant.data.convert import prompt_of
from concordant.data.prepare import prepare
from concordant.data.records import Demonstration, Pair, Prompt
from concordant.data.splits import Loaded, load_all, load_records

SETS = ("sft", "rm", "rl")


def hh(i: int) -> dict[str, str]:
    before = f"\n\nHuman: q{i % 30}\n\nAssistant: hm\n\nHuman: and?" if i % 2 else f"\n\nHuman: q{i % 30}"
    return {"chosen": f"{before}\n\nAssistant: good {i}", "rejected": f"{before}\n\nAssistant: bad {i}"}


def plain(prompt: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": "a", "rejected": "b"}


def put(path: Path, values: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(v) + "\n" for v in values))
    return str(path)


def config(tmp_path: Path, values: list[dict[str, Any]], **more: Any) -> PrepareConfig:
    data = DataConfig(path=put(tmp_path / "in.jsonl", values))
    return PrepareConfig(**{"data": data, "output": str(tmp_path / "out"), **more})


def table(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / "out" / name).to_pylist()


def test_the_columns_of_the_tutorial(tmp_path: Path) -> None:
    """Seed 000's example row, beside one that is held out."""
    question = "What is the meaning of life?"
    card = prepare(config(tmp_path, [{"prompt": question, "chosen": "To look.", "rejected": "42"}, plain("else")]))
    rows = {name: table(tmp_path, f"{name}/train.parquet") + table(tmp_path, f"{name}/test.parquet") for name in SETS}
    assert {"prompt": question, "response": "To look."} in rows["sft"]
    assert {"prompt": question, "response": "42"} in rows["sft"]
    assert {"prompt": question, "chosen": "To look.", "rejected": "42"} in rows["rm"]
    (rl,) = (row for row in rows["rl"] if row["chosen"] == "To look.")
    assert rl["prompt"] == [{"role": "user", "content": question}]
    assert (rl["rejected"], rl["data_source"], rl["ability"]) == ("42", "in.jsonl", "alignment")
    assert rl["reward_model"] == {"style": "model", "ground_truth": 1.0}
    assert list(rl) == ["prompt", "chosen", "rejected", "data_source", "ability", "reward_model", "extra_info"]
    assert card.written == {f"{s}/{side}.parquet": 2 if s == "sft" else 1 for s in SETS for side in ("train", "test")}


def test_all_three_sets_share_one_split(tmp_path: Path) -> None:
    prepare(config(tmp_path, [hh(i) for i in range(80)]))
    sides = {}
    for name in SETS:
        for side in ("train", "test"):
            found = load_records(DataConfig(path=str(tmp_path / "out" / name / f"{side}.parquet")).whole(), Prompt, 0)
            sides[name, side] = {prompt.messages for prompt in found.train}
    assert sides["sft", "test"] == sides["rm", "test"] == sides["rl", "test"]
    assert sides["sft", "train"] == sides["rm", "train"] == sides["rl", "train"]
    assert not sides["rm", "train"] & sides["rm", "test"]
    assert len(sides["rm", "test"]) == round(0.25 * (len(sides["rm", "train"]) + len(sides["rm", "test"])))


@pytest.mark.parametrize("responses", ["both", "chosen"])
@pytest.mark.parametrize("want", [Pair, Demonstration, Prompt])
def test_what_was_prepared_is_what_the_raw_file_gives(tmp_path: Path, want: type, responses: str) -> None:
    made = config(tmp_path, [hh(i) for i in range(80)], seed=3)
    prepare(made)
    raw: Loaded[Any] = load_records(made.data, want, 3, responses)
    back: Loaded[Any] = load_records(DataConfig(path=made.output), want, 3, responses)
    if want is Prompt:  # their extra_info is new
        assert [p.messages for p in back.train] == [p.messages for p in raw.train]
        assert [p.messages for p in back.test] == [p.messages for p in raw.test]
    else:
        assert (back.train, back.test) == (raw.train, raw.test)
    everything = load_all(DataConfig(path=made.output), 3)  # what evaluate, score and doctor ask for
    assert (everything.train, everything.test) == (load_all(made.data, 3).train, load_all(made.data, 3).test)
    other_seed: Loaded[Any] = load_records(DataConfig(path=made.output), want, 9, responses)
    assert other_seed.test == back.test  # its own split, whatever the seed


def test_margins_probabilities_and_learnt_earlier_answers_are_kept(tmp_path: Path) -> None:
    rated = {"prompt": "q", "chosen": "a", "rejected": "b", "margin": 1.5, "probability": 0.75}
    prepare(config(tmp_path, [rated, rated | {"prompt": "r", "margin": None}]))
    back = load_records(DataConfig(path=str(tmp_path / "out")), Pair, 0)
    assert sorted((p.prompt[0].content, p.margin, p.probability) for p in back.train + back.test) == [
        ("q", 1.5, 0.75),
        ("r", None, 0.75),
    ]
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    made = config(tmp_path, [{"messages": turns}, {"messages": turns[1:]}])
    card = prepare(made)
    assert set(card.written) == {"sft/train.parquet", "sft/test.parquet", "rl/train.parquet", "rl/test.parquet"}
    sides = [load_records(DataConfig(path=p), Demonstration, 0) for p in (made.data.path, made.output)]
    assert (sides[0].train, sides[0].test) == (sides[1].train, sides[1].test)
    with pytest.raises(UserError, match="out: prepared data with sft/, rl/, but this needs rm/$"):
        load_records(DataConfig(path=made.output), Pair, 0)


def test_text_without_a_prompt_comes_back(tmp_path: Path) -> None:
    made = config(tmp_path, [{"text": "Owls hunt.\n"}, {"text": " Geese do not."}])
    prepare(made)
    sides = [load_records(DataConfig(path=p), Demonstration, 0) for p in (made.data.path, made.output)]
    assert sides[0].train == sides[1].train


@pytest.mark.parametrize("truths", [("4", "5"), ("4", 5), ({}, {})])
def test_rules_of_verl_data_are_kept_also_where_they_are_not_alike(tmp_path: Path, truths: tuple[Any, Any]) -> None:
    rows = [
        {"data_source": "s", "prompt": f"q{i}", "reward_model": {"ground_truth": truths[i % 2]}, "extra_info": {}}
        for i in range(8)
    ]
    made = config(tmp_path, rows)
    assert set(prepare(made).written) == {"rl/train.parquet", "rl/test.parquet"}
    raw, back = (load_records(DataConfig(path=p), Prompt, 0) for p in (made.data.path, made.output))
    rules = [{p.messages: p.extra["reward_model"] for p in side.train + side.test} for side in (raw, back)]
    assert rules[0] == rules[1]


def test_max_samples_and_seed(tmp_path: Path) -> None:
    rows = [hh(i) for i in range(60)]

    def chosen(**more: Any) -> list[str]:
        prepare(config(tmp_path, rows, **more))
        return [row["chosen"] for side in ("train", "test") for row in table(tmp_path, f"rm/{side}.parquet")]

    assert len(chosen(max_samples=20)) == 20
    assert chosen(max_samples=20) == chosen(max_samples=20)
    assert sorted(chosen(max_samples=20)) != sorted(chosen(max_samples=20, seed=1))
    assert chosen() != chosen(seed=1)


def test_the_card_is_written_and_compares(tmp_path: Path) -> None:
    other = put(
        tmp_path / "other.jsonl",
        [hh(0), {"chosen": "\n\nHuman: z\n\nAssistant: a", "rejected": "\n\nHuman: z\n\nAssistant: b"}],
    )
    rows = [hh(i) for i in range(10)] + [
        {"chosen": "\n\nHuman: x\n\nAssistant: ", "rejected": "\n\nHuman: x\n\nAssistant: y"}
    ]
    card = prepare(config(tmp_path, rows, compare_with=other), count_tokens=lambda texts: [len(t) for t in texts])
    assert card.compared is not None and (card.compared.shared, card.compared.prompts) == (1, 2)
    assert card.dropped == {"empty response": 1}
    assert card.unit == "tokens"
    written = json.loads((tmp_path / "out" / "card.json").read_text())
    assert written["rows_read"] == 11 and written["compared"]["shared"] == 1
    assert (tmp_path / "out" / "card.md").read_text() == card.markdown()


def test_the_verb_shows_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    concordant.prepare(config(tmp_path, [hh(i) for i in range(10)]))
    shown = " ".join(capsys.readouterr().out.split())
    assert "10 rows read" in shown and "rm/train.parquet" in shown


def test_a_second_run_replaces_the_first_and_somebodys_folder_is_left_alone(tmp_path: Path) -> None:
    prepare(config(tmp_path, [hh(i) for i in range(10)]))
    prepare(config(tmp_path, [{"prompt": f"q{i}"} for i in range(10)]))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["card.json", "card.md", "rl"]
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="out: holds thesis.tex, which concordant prepare did not write"):
        prepare(config(tmp_path, [hh(0), hh(1)]))
    with pytest.raises(UserError, match="in.jsonl: a file. Expected a folder"):
        prepare(config(tmp_path, [hh(0), hh(1)], output=str(tmp_path / "in.jsonl")))


@pytest.mark.parametrize("read", ["out", "out/rm/train.parquet"])
def test_prepared_data_is_not_replaced_by_a_sample_of_itself(tmp_path: Path, read: str) -> None:
    first = config(tmp_path, [hh(i) for i in range(10)])
    prepare(first)
    before = table(tmp_path, "rm/train.parquet")
    again = replace(first, data=DataConfig(str(tmp_path / read)), max_samples=2)
    with pytest.raises(UserError, match="holds the data that is read .* Give another --output"):
        prepare(again)
    assert table(tmp_path, "rm/train.parquet") == before


def test_a_failure_on_the_way_leaves_the_earlier_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(config(tmp_path, [hh(i) for i in range(10)]))
    before = table(tmp_path, "rm/train.parquet")

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_parquet", full)
    with pytest.raises(UserError, match="cannot write .*out: No space left on device"):
        prepare(config(tmp_path, [hh(i) for i in range(4)]))
    assert table(tmp_path, "rm/train.parquet") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out"]


def test_toytalk(tmp_path: Path, small_toytalk: None) -> None:
    made = PrepareConfig(data=DataConfig(path="builtin:toytalk"), output=str(tmp_path / "out"), max_samples=60)
    assert sum(prepare(made).rows.values()) == 60
    back = load_records(DataConfig(path=made.output), Pair, 0)
    assert all(pair.probability is not None for pair in back.train)
    assert not {prompt_of(r) for r in back.train} & {prompt_of(r) for r in back.test}
