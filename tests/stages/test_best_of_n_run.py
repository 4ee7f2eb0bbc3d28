"""best-of-n in parts: an interrupted command gives the answers of one that ran through."""

import importlib
import json
import shutil

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import BestOfNConfig
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy

stage = importlib.import_module("concordant.stages.best_of_n")


def test_an_interrupted_command_goes_on_with_the_random_numbers_of_its_next_part(tmp_path, monkeypatch):
    """Six prompts in three parts, interrupted after the first: the rest is answered as it would have been."""
    monkeypatch.setattr(stage, "PROMPTS_AT_ONCE", 2)
    save_policy(tiny_policy(), tmp_path / "policy")
    rows = [{"prompt": f"where does the {name} live"} for name in ("owl", "fox", "hen", "frog", "cow", "ant", "elk")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answered(output, resume=""):
        config = BestOfNConfig(
            output=str(output),
            resume=resume,
            data=DataConfig(path=str(tmp_path / "prompts.jsonl"), test_fraction=0.1),
            model=ModelConfig(name=str(tmp_path / "policy"), device="cpu", precision="fp32"),
            reward=["tests.stages.small:letters"],
            sampling=SamplingConfig(n=2, max_new_tokens=6),
        )
        return (concordant.best_of_n(config) / "samples.jsonl").read_text().splitlines()

    whole = answered(tmp_path / "whole")
    assert len(whole) == 6
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "samples.jsonl").write_text("".join(f"{line}\n" for line in whole[:2]))
    assert answered(tmp_path / "cut", resume="auto") == whole
