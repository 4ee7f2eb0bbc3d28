"""Preflight inside the stages: it says what it finds, stops a run only when asked, and changes no bit of it."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import concordant
from concordant.config.doctor import DoctorConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import DPOConfig, SFTConfig
from concordant.core.errors import RunStopped
from concordant.doctor.finding import Finding
from concordant.training.progress import Display, use
from tests.stages.small import DATA, SHORT_ANSWERS, metrics_of, plain, ppo_config, short_toytalk, train  # noqa: F401

NEW = ["start_knows_little"]  # the start is a few steps old
DROPOUT = LoraConfig(rank=4, dropout=0.3)  # draws from the global stream at every step


@pytest.fixture(scope="module")
def sft(tmp_path_factory):
    config = SFTConfig(data=DATA, model=ModelConfig(**plain("builtin:tiny")), train=train(learning_rate=1e-3))
    return concordant.sft(replace(config, output=str(tmp_path_factory.mktemp("runs") / "sft")))


def config_of(verb, output, sft):
    model = ModelConfig(**plain(sft / "model"), lora=DROPOUT)
    return {
        "sft": lambda: SFTConfig(output=output, data=DATA, model=model, train=train()),
        "dpo": lambda: DPOConfig(output=output, data=SHORT_ANSWERS, model=model, train=train()),
        "ppo": lambda: replace(
            ppo_config(output, sft / "model", "tests.stages.small:letters"), model=model, advantage="gae"
        ),
    }[verb]()


def run(config):
    """The run's folder, and what was said."""
    console = Console(file=io.StringIO(), width=200)
    with use(Display(console)):
        folder = getattr(concordant, {DPOConfig: "dpo", SFTConfig: "sft"}.get(type(config), "ppo"))(config)
    return folder, console.file.getvalue()


def events_of(folder):
    path = Path(folder) / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("verb", ["dpo", "ppo"])
def test_a_run_with_and_without_it_is_the_same_to_the_bit(verb, sft, tmp_path):
    folders = {}
    for preflight in (True, False):
        torch.manual_seed(0)
        config = config_of(verb, str(tmp_path / f"{verb}-{preflight}"), sft)
        folders[preflight], said = run(replace(config, doctor=DoctorConfig(preflight=preflight)))
        assert ("samples as tokens" in said) == preflight
    with_it, without = ([untimed(row) for row in metrics_of(folder)] for folder in folders.values())
    assert with_it == without and [row["step"] for row in with_it] == [1, 2]
    assert with_it[1]["grad_norm"] > 0 and with_it[0]["loss"] != with_it[1]["loss"]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in folders.values()]
    assert weights[0] == weights[1]
    before = [event for event in events_of(folders[True]) if event["kind"] == "finding" and event["step"] is None]
    assert [event["rule"] for event in before if event["severity"] != "info"] in ([], NEW)


def untimed(row):
    return {name: value for name, value in row.items() if "seconds" not in name and "_per_second" not in name}


def test_findings_reach_the_terminal_and_the_folder_and_stop_only_when_asked(sft, tmp_path):
    short = replace(config_of("dpo", str(tmp_path / "dpo"), sft), data=replace(DATA, max_response_tokens=12))
    folder, said = run(replace(short, resume="auto", doctor=DoctorConfig(stop_on="error")))
    assert "starting at step 0" in said, "what a run that resumes from nothing cuts back is cut back before"
    (event,) = [event for event in events_of(folder) if event["rule"] == "truncation"]
    finding = Finding.from_event(event)
    assert finding.step is None and "--data.max_response_tokens" in finding.cure
    assert "warning truncation" in said and finding.seen in said and finding.cure in said
    assert len(metrics_of(folder)) == 2, "a warning is no error, so the run went on"
    asked = replace(short, output=str(tmp_path / "asked"), doctor=DoctorConfig(stop_on="warning"))
    with pytest.raises(RunStopped, match=r"stopped by doctor.stop_on warning \(truncation\) before its first step"):
        run(asked)
    assert not (tmp_path / "asked" / "metrics.jsonl").exists() and events_of(asked.output)


def test_a_resumed_run_is_not_looked_at_again(sft, tmp_path):
    config = config_of("sft", str(tmp_path / "sft"), sft)
    config = replace(config, train=replace(config.train, save_every=1, keep_last=5))
    folder, said = run(config)
    assert "samples as tokens" in said
    shutil.rmtree(folder / "checkpoints" / "step-000002")
    said = run(replace(config, resume="auto"))[1]
    assert "continuing from" in said and "samples as tokens" not in said
    assert [row["step"] for row in metrics_of(folder)] == [1, 2]
