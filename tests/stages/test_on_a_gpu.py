"""Every stage on a device that keeps CUDA's rules (tests/rehearsal), and how often the processor waits in a step."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import concordant
from concordant.algorithms.ppo import PPO
from concordant.algorithms.supervised import Supervised
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import (
    BestOfNConfig,
    ChatConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    PPOConfig,
    RewardConfig,
    ScoreConfig,
    SFTConfig,
)
from concordant.models.load import save_policy
from concordant.stages import common
from tests.engines.tiny import tiny_policy
from tests.rehearsal import Waits, counting, rehearsal
from tests.stages.small import metrics_of, short_toytalk, train  # noqa: F401 (a fixture)

DATA = DataConfig(path="builtin:toytalk", max_samples=24)


def model(name: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(name=str(name), device="cuda", precision="fp32", **settings)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Waits]:
    with rehearsal() as waits:
        yield waits


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Waits]:
    """The waits of each training step, in order."""
    seen: list[Waits] = []
    for algorithm in (Supervised, PPO):
        monkeypatch.setattr(algorithm, "step", counted(algorithm.step, seen))
    return seen


def counted(step: Any, seen: list[Waits]) -> Any:
    def call(*args: Any) -> dict[str, float]:
        with counting(Waits()) as waits:
            metrics = step(*args)
        seen.append(waits)
        return metrics

    return call


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "start"
    save_policy(tiny_policy(), folder)
    return folder


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    """A reward model that was trained on the CPU."""
    output = tmp_path_factory.mktemp("gpu") / "reward"
    config = RewardConfig(output=str(output), data=DATA, model=ModelConfig(str(start), device="cpu"), train=train())
    return concordant.reward(config) / "model"


STEP = 3  # waits of an optimizer step: for the metrics, the gradient's norm and the motion of the weights


def totals(steps: list[Waits]) -> list[int]:
    for waits in steps:
        print(waits.table())
    return [waits.total for waits in steps]


def assert_alike(mine: Path, theirs: Path) -> None:
    """The metrics of two runs, except for times and for rounding."""
    for one, other in zip(metrics_of(mine), metrics_of(theirs), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.startswith("seconds") and name != "tokens_per_second":
                assert value == pytest.approx(other[name], rel=1e-3, abs=1e-4), name


def test_sft_gives_the_cpus_numbers(start: Path, tmp_path: Path, steps: list[Waits]) -> None:
    def run(device: str) -> Path:
        settings = ModelConfig(str(start), device=device, precision="fp32")
        return concordant.sft(SFTConfig(output=str(tmp_path / device), data=DATA, model=settings, train=train()))

    on_gpu = run("cuda")
    assert totals(steps) == [STEP] * 2
    assert_alike(on_gpu, run("cpu"))
    exported, given = (
        AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (on_gpu, tmp_path / "cpu")
    )
    assert all(torch.allclose(exported[name], given[name], atol=1e-5) for name in given)


def test_a_reward_model_with_a_language_model_loss(start: Path, tmp_path: Path, steps: list[Waits]) -> None:
    output = str(tmp_path / "reward")
    config = RewardConfig(output=output, data=DATA, model=model(start), train=train(), lm_coefficient=0.3)
    run = concordant.reward(config)
    assert totals(steps) == [STEP] * 2
    pairs = [{"prompt": "where does the owl live", "chosen": "in the tree", "rejected": "no"}] * 3
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    scored = ScoreConfig(
        data=DataConfig(str(tmp_path / "pairs.jsonl")),
        model=model(run / "model"),
        output=str(tmp_path / "scores.jsonl"),
    )
    assert len(Path(concordant.score(scored)).read_text().splitlines()) == 3


def test_dpo_with_an_adapter_in_bf16_and_a_resume(
    start: Path, tmp_path: Path, steps: list[Waits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "PROBE_PROMPTS", 1)

    def config(**changes: Any) -> DPOConfig:
        settings = model(start, lora=LoraConfig(rank=2, dropout=0.1), activation_checkpointing=True)
        settings.precision = "bf16"
        data = DataConfig(DATA.path, max_samples=24, max_response_tokens=40)
        return DPOConfig(output=str(tmp_path / "dpo"), data=data, model=settings, train=train(save_every=1), **changes)

    run = concordant.dpo(config())
    assert totals(steps) == [STEP] * 2
    whole = metrics_of(run)[-1]["loss"]
    shutil.rmtree(run / "checkpoints" / "step-000002")
    concordant.dpo(config(resume="auto"))
    assert metrics_of(run)[-1]["loss"] == whole


@pytest.mark.parametrize(("advantage", "waits"), [("gae", 1 + 5 + 8 * STEP), ("grpo", 1 + 4 + 4 * STEP)])
def test_ppo_waits_as_often_for_any_number_of_micro_batches(
    advantage: str, waits: int, start: Path, reward: Path, tmp_path: Path, steps: list[Waits]
) -> None:
    """Once for the sampled tokens, and once for each kind of number that a forward pass gives."""

    def run(device: str, micro_batch_tokens: int) -> Path:
        settings = ModelConfig(str(start), device=device, precision="fp32")
        config = PPOConfig(
            output=str(tmp_path / f"{device}-{micro_batch_tokens}"), data=DATA, model=settings, reward=[str(reward)],
            advantage=advantage, train=train(batch_size=4, max_steps=1, micro_batch_tokens=micro_batch_tokens),
            sampling=SamplingConfig(max_new_tokens=8, n=1 if advantage == "gae" else 2),
        )  # fmt: skip
        return concordant.ppo(config)

    on_gpu = run("cuda", 0)
    if advantage == "grpo":
        run("cuda", 60)
    assert set(totals(steps)) == {waits}
    assert_alike(on_gpu, run("cpu", 0))


def test_answers_are_sampled_compared_and_talked(
    start: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"where does the {name} live"} for name in ("owl", "fox", "hen", "frog")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(str(tmp_path / "prompts.jsonl"), test_fraction=0.5)
    everything = DataConfig(data.path)
    sampling = SamplingConfig(n=2, max_new_tokens=5)
    best = BestOfNConfig(
        output=str(tmp_path / "best"), data=data, model=model(start), reward=[str(reward)], sampling=sampling
    )
    assert (concordant.best_of_n(best) / "samples.jsonl").read_text()
    concordant.generate(
        GenerateConfig(output=str(tmp_path / "answers.jsonl"), data=everything, model=model(start), sampling=sampling)
    )
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2 * len(rows)
    compared = EvaluateConfig(
        output=str(tmp_path / "report"), data=data, policies=[f"one={start}", f"two={start}"],
        model=ModelConfig(device="cuda", precision="fp32"), reward=[str(reward)],
        sampling=SamplingConfig(max_new_tokens=5),
    )  # fmt: skip
    assert (concordant.evaluate(compared) / "report.md").is_file()
    monkeypatch.setattr(sys, "stdin", io.StringIO("where does the owl live\n"))
    capsys.readouterr()
    concordant.chat(ChatConfig(model=model(start), sampling=SamplingConfig(max_new_tokens=4)))
    assert "policy: " in capsys.readouterr().out
