"""A stage's run has its doctor: a sick run of real training says so in its folder, a healthy one does not."""

import pytest
import torch

import concordant
from concordant.config.data import DataConfig
from concordant.config.doctor import DoctorConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import SFTConfig
from concordant.core.errors import RunStopped
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.doctor.replay import diagnose
from concordant.runs.read import findings_of
from tests.stages.small import plain, train


def config(folder, **doctor):
    return SFTConfig(
        output=str(folder),
        data=DataConfig(path="builtin:toytalk", max_samples=60),
        model=ModelConfig(**plain("builtin:tiny")),
        train=train(max_steps=4, learning_rate=1e-3),
        doctor=DoctorConfig(preflight=False, **doctor),
    )


def without_end(tree):
    """Pad = EOS: the end is there and masked."""
    masks = [torch.arange(len(b.ids_T)) < len(b.ids_T) - 1 for b in tree.branches]
    return PromptTree(tree.prompt_T, tuple(Branch(b.ids_T, m) for b, m in zip(tree.branches, masks, strict=True)))


@pytest.fixture
def ends_are_masked(monkeypatch):
    real = ChatEncoder.demonstrations

    def encode(self, demonstrations):
        encoded = real(self, demonstrations)
        encoded.trees[:] = map(without_end, encoded.trees)
        return encoded

    monkeypatch.setattr(ChatEncoder, "demonstrations", encode)


def test_a_run_that_masks_ends_is_found_and_stopped_where_asked(tmp_path, small_toytalk, ends_are_masked):
    with pytest.raises(RunStopped, match="end_token_masked"):
        concordant.sft(config(tmp_path / "run", stop_on="error"))
    events = findings_of(tmp_path / "run")
    assert ("end_token_masked", 3) in [(event["rule"], event["step"]) for event in events]
    assert {f.rule for f in diagnose(tmp_path / "run")} == {event["rule"] for event in events}


def test_a_healthy_run_is_left_in_peace(tmp_path, small_toytalk):
    """Four steps are few, and that is all there is to say."""
    concordant.sft(config(tmp_path / "run"))
    said = [event["rule"] for event in findings_of(tmp_path / "run")]
    assert [f.rule for f in diagnose(tmp_path / "run")] == ["too_few_steps"] == said
