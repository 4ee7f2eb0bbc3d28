import json

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
