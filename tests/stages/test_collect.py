"""collect: pairs of a policy's own answers, who labels them, what is counted, and what an interruption may cost."""

import importlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import CollectConfig
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.data.records import Message, Pair, Prompt
from concordant.data.splits import load_all, load_records
from concordant.models.load import save_policy
from concordant.stages.choosing import Candidate, by_numbers, by_votes, read_votes
from concordant.stages.collect import candidate
from tests.engines.tiny import tiny_policy

stage = importlib.import_module("concordant.stages.collect")
ANIMALS = ("owl", "fox", "hen", "frog", "cow", "ant", "elk", "yak", "bee", "cat")


def letters(prompt, response):
    """More letters are better; an answer without any has no score."""
    return sum(map(str.isalpha, response)) or None


def first_letter(prompt, response):
    return float(ord(response[0])) if response else 0.0


def constant(prompt, response):
    return 1.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    save_policy(tiny_policy(), place / "policy")
    rows = [{"prompt": f"where does the {name} live"} for name in ANIMALS]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def config(world, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "PROMPTS_AT_ONCE", 4)
    return CollectConfig(
        output=str(tmp_path / "out"),
        data=DataConfig(path=str(world / "prompts.jsonl"), test_fraction=0.1),
        model=ModelConfig(name=str(world / "policy"), device="cpu", precision="fp32"),
        judge="tests.stages.test_collect:letters",
        pairs=6,
        sampling=SamplingConfig(n=2, max_new_tokens=6),
    )


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_judge_says_which_answer_of_a_pair_is_chosen(config):
    folder = concordant.collect(config)
    pairs = rows(folder / "pairs.jsonl")
    asked = {
        json.dumps(row["prompt"]) + "".join(sorted((row["a"], row["b"]))) for row in rows(folder / "to_label.jsonl")
    }
    assert len(asked) == 6 and 0 < len(pairs) <= 6
    for row in pairs:
        assert (letters("", row["chosen"]) or 0) > (letters("", row["rejected"]) or 0)
        assert json.dumps(row["prompt"]) + "".join(sorted((row["chosen"], row["rejected"]))) in asked
        assert (row["round"], row["policy"], row["judge"]) == (1, config.model.name, config.judge)


def test_what_is_written_is_data_for_a_reward_model(config):
    folder = concordant.collect(config)
    loaded = load_records(DataConfig(str(folder / "pairs.jsonl"), test_fraction=0.2), Pair, 0)
    assert len(loaded.train) + len(loaded.test) == len(rows(folder / "pairs.jsonl"))


def test_the_card_counts_the_labels_of_every_round(config, tmp_path):
    first = concordant.collect(config)
    second = concordant.collect(
        replace(config, output=str(tmp_path / "two"), round=2, earlier=str(first / "pairs.jsonl"))
    )
    before, after = rows(first / "pairs.jsonl"), rows(second / "pairs.jsonl")
    assert after[: len(before)] == before
    card = json.loads((second / "card.json").read_text())
    assert [(x["round"], x["policy"], x["judge"], x["pairs"]) for x in card["labels"]] == [
        (1, config.model.name, config.judge, len(before)),
        (2, config.model.name, config.judge, len(after) - len(before)),
    ]
    assert sum(card["dropped"].values()) == 6 - (len(after) - len(before))
    assert "| 2 | " in (second / "card.md").read_text()


def test_another_round_begins_with_other_prompts(config, tmp_path):
    config = replace(config, pairs=4)
    first, second = (
        {json.dumps(row["prompt"]) for row in rows(concordant.collect(c) / "samples.jsonl")[:4]}
        for c in (config, replace(config, output=str(tmp_path / "two"), round=2))
    )
    assert len(first) == len(second) == 4 and not first & second


def test_pairs_of_other_origin_are_kept_and_count_as_round_0(config, tmp_path):
    (tmp_path / "old.jsonl").write_text(
        json.dumps({"prompt": "hello", "chosen": "good day", "rejected": "no", "margin": 0.5})
        + "\n"
        + json.dumps({"prompt": "bye", "chosen": "bye", "rejected": "no", "round": "last", "judge": ["me"]})
        + "\n"
    )
    folder = concordant.collect(replace(config, earlier=str(tmp_path / "old.jsonl")))
    old = rows(folder / "pairs.jsonl")[0]
    assert (old["chosen"], old["rejected"], old["margin"]) == ("good day", "no", 0.5) and "round" not in old
    first = json.loads((folder / "card.json").read_text())["labels"][0]
    assert first == {"round": 0, "policy": "", "judge": "", "pairs": 2}


def test_earlier_data_without_pairs_is_refused(config, world):
    with pytest.raises(UserError, match="earlier: .* has 10 records that are no preference pairs"):
        concordant.collect(replace(config, earlier=str(world / "prompts.jsonl")))


def test_the_gold_judge_knows_toytalk_alone(config):
    with pytest.raises(UserError, match="judge gold: the true quality is known for builtin:toytalk alone"):
        concordant.collect(replace(config, judge="gold"))


def test_a_judge_without_a_verdict_on_any_pair_fails(config):
    with pytest.raises(RunFailed, match="called all of 6 pairs ties"):
        concordant.collect(replace(config, judge="tests.stages.test_collect:constant"))


def test_an_interrupted_command_goes_on_with_the_answers_that_it_had(config, tmp_path):
    whole = concordant.collect(config)
    shutil.copytree(whole, tmp_path / "cut")
    lines = (whole / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "samples.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    for name in ("pairs.jsonl", "to_label.jsonl", "card.json"):
        (tmp_path / "cut" / name).unlink()
    cut = concordant.collect(replace(config, output=str(tmp_path / "cut"), resume="auto"))
    for name in ("samples.jsonl", "pairs.jsonl", "to_label.jsonl"):
        assert (cut / name).read_text() == (whole / name).read_text(), name


def test_a_policy_that_repeats_itself_gives_fewer_pairs_and_an_equal_pair_comes_once(config, capsys):
    """Nine prompts to train on, and two possible answers to each: there are nine pairs and no more."""
    few = replace(config, pairs=5_000, sampling=SamplingConfig(n=2, max_new_tokens=1, top_k=2))
    folder = concordant.collect(replace(few, judge="tests.stages.test_collect:first_letter"))
    asked = [(str(row["prompt"]), *sorted((row["a"], row["b"]))) for row in rows(folder / "to_label.jsonl")]
    assert 5 <= len(asked) == len(set(asked)) <= 9
    assert "of 5,000 pairs" in " ".join(capsys.readouterr().err.split())


def test_people_are_waited_for_and_nothing_is_lost(config, tmp_path):
    votes = tmp_path / "votes.jsonl"
    config = replace(config, judge=str(votes))
    with pytest.raises(RunStopped, match=r"6 of 6 pairs have no vote\. Read .*to_label.jsonl"):
        concordant.collect(config)
    out = Path(config.output)
    asked, answers = rows(out / "to_label.jsonl"), (out / "samples.jsonl").read_text()
    give = [{"id": row["id"], "vote": "b"} for row in asked]
    votes.write_text("".join(json.dumps(row) + "\n" for row in give[:4]))
    again = replace(config, resume="auto")
    with pytest.raises(RunStopped, match="2 of 6 pairs have no vote"):
        concordant.collect(again)
    assert (rows(out / "to_label.jsonl"), (out / "samples.jsonl").read_text()) == (asked, answers)
    votes.write_text("".join(json.dumps(row) + "\n" for row in [*give, {"id": "another", "vote": "a"}]))
    pairs = rows(concordant.collect(again) / "pairs.jsonl")
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [(row["b"], row["a"]) for row in asked]


def test_votes_are_not_kept_where_a_pipeline_would_remove_them(config):
    with pytest.raises(UserError, match="keep votes in another folder"):
        concordant.collect(replace(config, judge=f"{config.output}/votes.jsonl"))


def test_pairs_without_a_vote_can_be_left_out_and_are_counted(config, tmp_path):
    votes = tmp_path / "votes.jsonl"
    config = replace(config, judge=str(votes), unlabelled="skip")
    with pytest.raises(RunStopped, match="6 of 6 pairs have no vote"):  # nobody has begun yet
        concordant.collect(config)
    asked = rows(Path(config.output) / "to_label.jsonl")
    given = zip(asked, ("a", "tie", "skip"), strict=False)
    votes.write_text("".join(json.dumps({"id": row["id"], "vote": vote}) + "\n" for row, vote in given))
    folder = concordant.collect(replace(config, resume="auto"))
    assert [row["chosen"] for row in rows(folder / "pairs.jsonl")] == [asked[0]["a"]]
    assert json.loads((folder / "card.json").read_text())["dropped"] == {"a tie": 1, "no verdict": 4}


def pair(number):
    return candidate(Prompt((Message("user", str(number)),)), ("yes", True), ("no", True))


def test_the_majority_of_votes_decides():
    one, two, three, four = map(pair, range(4))
    votes = {one.id: Counter("aab"), two.id: Counter("ab"), three.id: Counter(["b", "tie"]), four.id: Counter(["skip"])}
    assert by_votes(votes, [one, two, three, four, pair(5)]) == ["first", "tie", "second", None, None]


def test_numbers_decide_and_rounding_is_a_tie():
    values = iter([1.0, 2.0, 2.0, 1.0, 1.0, 1.0 + 1e-9, None, 1.0])
    assert by_numbers(lambda answers: [next(values) for _ in answers], [pair(i) for i in range(4)]) == [
        "second", "first", "tie", None,
    ]  # fmt: skip
    assert by_numbers(lambda answers: [None] * len(answers), [pair(0)]) == [None]


def test_a_vote_belongs_to_a_pair_by_its_words():
    assert pair(1).id == pair(1).id != pair(2).id
    swapped = candidate(Prompt((Message("user", "1"),)), ("no", True), ("yes", True))
    assert isinstance(swapped, Candidate) and swapped.id != pair(1).id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r'line 2: expected {"id": "…", "vote": "a"}'),
        ('{"vote": "a"}', r"line 2: expected"),
        ("[" * 100_000, r"line 2: expected"),
        ('{"id": "x", "vote": "first"}', r'line 2: "vote" must be one of a, b, tie, skip; given "first"'),
        ('{"id": "x"}', r'"vote" must be one of a, b, tie, skip; given null'),
    ],
)
def test_a_line_that_is_no_vote_is_named(tmp_path, line, message):
    (tmp_path / "votes.jsonl").write_text('{"id": "y", "vote": "a"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_votes(tmp_path / "votes.jsonl")


def test_votes_are_no_input_of_the_stage(config, tmp_path):
    """Else a pipeline would begin the stage again, with new answers, as soon as somebody has voted."""
    from concordant.pipeline.fingerprint import fingerprint

    votes = tmp_path / "votes.jsonl"
    values = {"judge": str(votes), "output": "o", "earlier": ""}
    before = fingerprint("collect", values, {})
    votes.write_text("{}")
    assert fingerprint("collect", values, {}) == before


def test_the_columns_of_a_round_are_read_back(config):
    folder = concordant.collect(config)
    found = load_all(DataConfig(str(folder / "pairs.jsonl")).whole(), 0)
    assert found.columns["carried along"] == ("judge", "policy", "round")
