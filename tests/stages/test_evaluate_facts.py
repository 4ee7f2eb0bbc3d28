"""Which models stand in the facts of a report, and where the line of a run starts."""

import pytest

from concordant.config.data import DataConfig
from concordant.config.scoring import ScoringConfig
from concordant.config.stages import EvaluateConfig
from concordant.config.yaml_io import dump_yaml
from concordant.data.records import Message, Prompt
from concordant.data.splits import Loaded
from concordant.stages.evaluate_facts import facts_of, sources_of, starts_of


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Run folders of SFT, a reward model and PPO, and a model of no run; the working directory is their folder."""
    monkeypatch.chdir(tmp_path)
    configs = {
        "sft": {"verb": "sft", "model": {"name": "builtin:tiny"}},
        "rm": {"verb": "reward", "model": {"name": "sft/model"}},
        "ppo": {"verb": "ppo", "model": {"name": "./sft/model"}, "reward": ["rm/model"], "reference": ""},
        "far": {"verb": "ppo", "model": {"name": "sft/model"}, "reward": ["rm/model"], "reference": "other"},
    }
    for name, config in configs.items():
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(dump_yaml(config))
    (tmp_path / "other").mkdir()
    return tmp_path


POLICIES = {"sft": ["sft/model"], "best": ["best_of_n:4:sft/model"], "ppo": ["ppo/model", "far/model"], "hub": ["a/b"]}


def folders(runs, *names):
    return {name: runs / name for name in names}


def test_every_model_has_one_card_and_every_run_is_read_once(runs):
    config = EvaluateConfig(reward=["rm/model=0.5", "rule:ends"])
    found = sources_of(config, POLICIES, folders(runs, "sft", "ppo", "rm"))
    assert [(source.name, source.path, source.run is not None) for source in found] == [
        ("sft", "sft/model", True),
        ("best", "best_of_n:4:sft/model", False),
        ("ppo, run 1", "ppo/model", True),
        ("ppo, run 2", "far/model", True),
        ("hub", "a/b", False),
        ("rm", str(runs / "rm" / "model"), True),
        ("proxy", "rule:ends", False),
    ]


def test_a_run_starts_at_the_evaluated_policy_it_was_made_from(runs):
    config = EvaluateConfig(reward=["rm/model"])
    assert starts_of(config, POLICIES, folders(runs, "ppo", "far", "rm")) == {"ppo": "sft"}
    assert starts_of(config, {"ppo": ["ppo/model"]}, folders(runs, "ppo")) == {}, "its start was not evaluated"
    other = EvaluateConfig(reward=["rule:ends"])
    assert starts_of(other, POLICIES, folders(runs, "ppo")) == {}, "another proxy has other units"
    ensemble = EvaluateConfig(reward=["rm/model"], scoring=ScoringConfig(ensemble="mean"))
    assert starts_of(ensemble, POLICIES, folders(runs, "ppo")) == {}, "the run learnt from raw scores"
    several = {"sft": ["sft/model", "other"]}
    assert starts_of(config, several, folders(runs, "ppo")) == {}, "the mean of two runs is not its start"


def test_the_facts_of_an_evaluation():
    prompts = [Prompt((Message("user", str(i)),)) for i in range(7)]
    loaded = Loaded(train=prompts[:4], test=prompts[4:], rows_read=1234, formats=("pairs",))
    config = EvaluateConfig(data=DataConfig("x.jsonl"), reward=["rm/model", "rule:ends=2"])
    facts = dict(facts_of(config, loaded, prompts[4:], ["sft/model"]))
    digest = facts.pop("prompts")
    assert digest.startswith("3, hash ") and digest != dict(facts_of(config, loaded, prompts[3:6], []))["prompts"]
    assert facts == {
        "data": "x.jsonl", "format": "pairs", "rows": "1,234 read; 4 prompts to train on, 3 held out",
        "split": "by prompt, 0.25 of them held out", "proxy": "rm/model + rule:ends=2",
        "KL measured from": "sft/model", "sampling": "temperature 1, at most 128 tokens",
    }  # fmt: skip
