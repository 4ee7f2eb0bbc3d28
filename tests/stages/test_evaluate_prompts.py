import json
import math

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import EvaluateConfig
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
