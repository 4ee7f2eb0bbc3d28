"""What makes a resumed run another one, what may change its last bits, and what is nobody's business."""

from __future__ import annotations

import shutil

import pytest

from concordant.config.fields import flatten, schema
from concordant.config.paths import paths_of
from concordant.config.stages import (
    BestOfNConfig,
    CollectConfig,
    DPOConfig,
    EvaluateConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from concordant.runs.inputs import CHOOSE_DATA, HARMLESS, ROUNDING, Inputs, refused, rounded


def inputs(**settings):
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Inputs.of(values, paths_of(PPOConfig, values))


def test_a_changed_number_is_named_with_both_values():
    assert refused(inputs(beta=0.1, seed=0), inputs(beta=0.5, seed=0)) == ["beta: 0.1 -> 0.5"]


def test_a_key_that_is_new_or_gone_is_named():
    assert refused(inputs(a=1), inputs(b="x")) == ["a: 1 -> nothing", 'b: nothing -> "x"']


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_what_changes_no_number_is_not_mentioned(key):
    before, now = Inputs.of({key: 1}), Inputs.of({key: 2})
    assert refused(before, now) == rounded(before, now) == []


@pytest.mark.parametrize("key", sorted(ROUNDING))
def test_what_changes_only_rounding_is_said_and_allowed(key):
    before, now = Inputs.of({key: 1}), Inputs.of({key: 2})
    assert (refused(before, now), rounded(before, now)) == ([], [f"{key}: 1 -> 2"])


def test_with_shards_another_number_of_workers_changes_no_bit():
    ordered, free = ({"cluster.shards": shards, "cluster.workers": 1} for shards in (4, 0))
    assert rounded(Inputs.of(ordered), Inputs.of(ordered | {"cluster.workers": 2})) == []
    assert rounded(Inputs.of(free), Inputs.of(free | {"cluster.workers": 2})) == ["cluster.workers: 1 -> 2"]


def test_every_key_of_the_lists_exists():
    configs = (SFTConfig, RewardConfig, DPOConfig, PPOConfig, BestOfNConfig, CollectConfig)
    known = {key for c in configs for key in schema(c).fields}
    assert known >= HARMLESS | ROUNDING | CHOOSE_DATA


def test_other_libraries_or_threads_are_said():
    before, now = inputs(), inputs()
    before.environment, now.environment = {"torch": "2.11", "threads": 1}, {"torch": "2.13", "threads": 1}
    assert (refused(before, now), rounded(before, now)) == ([], ['torch: "2.11" -> "2.13"'])


def test_the_same_files_elsewhere_are_the_same_and_changed_ones_are_not(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    (first / "model").write_text("weights")
    shutil.copytree(first, second, copy_function=shutil.copyfile)  # times are not copied
    before = inputs(reward=[f"{first}=0.5"])
    assert refused(before, inputs(reward=[f"{second}=0.5"])) == []
    assert refused(before, inputs(reward=[f"{second}=0.7"])) != []
    for text in ("other weights", "wieghts"):
        (first / "model").write_text(text)
        assert refused(before, inputs(reward=[f"{first}=0.5"]))[0].endswith(" (other content)")


def test_keys_that_choose_data_count_only_when_the_records_differ():
    before, same, other = inputs(data__path="a"), inputs(data__path="b"), inputs(data__path="b")
    before.add_data(["one", "two"], ["three"])
    same.add_data(["one", "two"], ["three"])
    other.add_data(["one"], ["two", "three"])
    assert refused(before, same) == []
    assert refused(before, other) == [
        'data.path: "a" -> "b"',
        'data: "2 records, 1 held out" -> "1 records, 2 held out"',
    ]


def test_how_records_are_written_is_no_choice_of_records():
    """The records are the same, and what the model reads is not."""
    before, now = (inputs(data__template_args=[f"enable_thinking={value}"]) for value in ("true", "false"))
    for side in (before, now):
        side.add_data(["one", "two"], ["three"])
    assert len(refused(before, now)) == 1


def test_they_survive_the_manifest():
    before = inputs(a=1, b=["x"])
    before.add_data(["r"], [])
    assert Inputs.from_json(before.as_json()) == before


@pytest.mark.parametrize("config_class", [SFTConfig, RewardConfig, DPOConfig, PPOConfig, BestOfNConfig])
def test_a_run_named_like_one_of_its_choices_is_the_same_run_again(config_class, tmp_path, monkeypatch):
    """Folders are called as people call them: `ipo`, `grpo`, `both`. Only a key that is a path looks at the disk."""
    monkeypatch.chdir(tmp_path)
    config = config_class(output="grpo")
    values = flatten(config)
    texts = {text for value in values.values() for text in (value if isinstance(value, list) else [value])}
    before = Inputs.of(values, paths_of(config_class, values))
    for text in filter(None, texts):
        if isinstance(text, str):
            (tmp_path / text).mkdir(exist_ok=True)
            (tmp_path / text / "config.yaml").write_text(text)
    assert refused(before, Inputs.of(values, paths_of(config_class, values))) == []


def test_the_paths_in_each_notation():
    values = {
        "policies": ["sft=runs/sft/model", "best=best_of_n:4:runs/a=b"],
        "reward": ["rm=0.5", "rule:ends"],
        "baseline": "sft",
        "reference": "sft",
        "data.path": "${prepared}/rm",
    }
    assert paths_of(EvaluateConfig, values) == {
        "data.path": [],
        "policies": ["runs/sft/model", "runs/a=b"],
        "reward": ["rm=0.5", "rm", "rule:ends"],
    }
