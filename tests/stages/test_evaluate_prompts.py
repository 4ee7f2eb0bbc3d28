import json
import math

import pytest

import concordant
from concordant.config.checks import validate
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import EvaluateConfig
from concordant.core.errors import UserError
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy


def test_prompts_without_answers_can_be_evaluated(tmp_path):
    """Answers are needed for perplexity alone, which is then not known."""
    save_policy(tiny_policy(), tmp_path / "policy")
    rows = [{"prompt": f"where does the {name} live"} for name in ("owl", "fox", "hen", "frog")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(
        policies=[f"sft={tmp_path / 'policy'}"],
        output=str(tmp_path / "report"),
        data=DataConfig(path=str(tmp_path / "prompts.jsonl")),
        model=ModelConfig(device="cpu"),
        sampling=SamplingConfig(max_new_tokens=4),
        bootstrap=10,
    )
    folder = concordant.evaluate(config)
    (policy,) = json.loads((folder / "report.json").read_text())["policies"].values()
    assert policy["perplexity"] is None and policy["length_mean"] > 0


def test_the_bound_of_best_of_n_is_shown_against_the_policy_that_it_samples_alone(tmp_path):
    """log n - (n-1)/n bounds KL from the sampled policy. From another reference nothing is known."""
    for seed, name in enumerate(("sft", "ppo")):
        save_policy(tiny_policy(seed), tmp_path / name)
    rows = [{"prompt": f"where does the {name} live"} for name in ("owl", "fox")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(
        policies=[
            f"sft={tmp_path / 'sft'}",
            f"ppo={tmp_path / 'ppo'}",
            f"best-sft=best_of_n:4:{tmp_path / 'sft'}",
            f"best-ppo=best_of_n:4:{tmp_path / 'ppo'}",
        ],
        reference="sft",
        reward=["rule:ends"],
        output=str(tmp_path / "report"),
        data=DataConfig(path=str(tmp_path / "prompts.jsonl")),
        model=ModelConfig(device="cpu", precision="fp32"),
        sampling=SamplingConfig(max_new_tokens=4),
        bootstrap=10,
    )
    numbers = json.loads((concordant.evaluate(config) / "report.json").read_text())["policies"]
    assert {name: (p["kl"], p["kl_is_bound"]) for name, p in numbers.items() if name.startswith("best")} == {
        "best-sft": (pytest.approx(math.log(4) - 3 / 4), True),
        "best-ppo": (None, False),
    }
    assert numbers["ppo"]["kl"] > 0.1 and numbers["sft"]["kl"] == pytest.approx(0, abs=1e-4)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three policies and four prompts; the working directory is their folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("sft", "ppo-0", "ppo-1")):
        save_policy(tiny_policy(seed), tmp_path / name)
    rows = [{"prompt": f"where does the {name} live"} for name in ("owl", "fox", "hen", "frog")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def several_runs(**changes):
    return EvaluateConfig(
        policies=["sft=sft", "ppo=ppo-0,ppo-1", "best=best_of_n:2:ppo-0,best_of_n:2:ppo-1"],
        reward=["rule:ends"],
        output="report",
        data=DataConfig(path="prompts.jsonl", test_fraction=0.5),
        model=ModelConfig(device="cpu", precision="fp32"),
        sampling=SamplingConfig(max_new_tokens=4),
        bootstrap=10,
        side_by_side=1,
        **changes,
    )


def test_several_runs_of_one_policy(place):
    folder = concordant.evaluate(several_runs())
    found = json.loads((folder / "report.json").read_text())["policies"]
    assert list(found) == ["sft", "ppo", "best"] and "runs" not in found["sft"]
    assert [run["run"] for run in found["ppo"]["runs"]] == ["ppo-0", "ppo-1"]
    alone = [run["kl"] for run in found["ppo"]["runs"]]
    assert found["ppo"]["kl"] == pytest.approx(sum(alone) / 2) and min(alone) > 0.1
    # a run of best-of-n is bounded from the policy that it samples, and here the reference is another one
    assert found["best"]["kl"] is None and found["ppo"]["kl_unknown"] is None
    why = found["best"]["kl_unknown"]
    assert why == "best-of-n samples ppo-0, and the reference is sft; best-of-n samples ppo-1, and the reference is sft"
    page = (folder / "report.md").read_text()
    assert f"The KL of best is not known: {why}." in page
    assert "ppo, run 2: ppo-1" in page and "### ppo, run 1" in page


def test_runs_of_the_reference_are_measured_each_from_its_own(place):
    numbers = concordant.evaluate(several_runs(baseline="ppo"))
    found = json.loads((numbers / "report.json").read_text())["policies"]
    assert [run["kl"] for run in found["ppo"]["runs"]] == [pytest.approx(0, abs=1e-5)] * 2
    assert (found["best"]["kl_is_bound"], found["best"]["kl"]) == (True, pytest.approx(math.log(2) - 0.5))
    assert found["sft"]["kl"] is None
    assert found["sft"]["kl_unknown"].startswith("it has not as many runs as the reference")


def test_the_same_command_gives_the_same_bytes(place):
    def written():
        return {path.name: path.read_bytes() for path in concordant.evaluate(several_runs()).iterdir()}

    first = written()
    assert {"report.html", "report.md", "report.json", "reward_comparison.png"} <= first.keys()
    assert written() == first


def test_a_report_over_training_prompts_says_so(place):
    config = several_runs()
    config.data = DataConfig(path="prompts.jsonl", max_samples=1)
    assert "Nothing is held out" in (concordant.evaluate(config) / "report.md").read_text()


def test_a_mistyped_folder_is_found_before_anything_is_sampled(place, monkeypatch):
    monkeypatch.setattr("concordant.stages.evaluate._sample", lambda *arguments: pytest.fail("sampled"))
    config = several_runs()
    config.policies = ["sft=sft", "ppo=./ppo-0,./pqo-1"]
    with pytest.raises(UserError, match='"./pqo-1".*Did you mean "ppo-1"'):
        concordant.evaluate(config)


@pytest.mark.parametrize("policies", ["ppo=ppo-0,ppo-0", "ppo=ppo-0,", "ppo=ppo-0,best_of_n:2:ppo-1"])
def test_runs_that_do_not_fit_are_refused_at_once(place, policies):
    config = several_runs()
    config.policies = [policies]
    with pytest.raises(UserError, match="policies"):
        validate(config)
