from __future__ import annotations

import functools
import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import concordant
from concordant.cli import main
from concordant.config.yaml_io import load_yaml, parse_yaml
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.pipeline import fingerprint as fingerprints
from concordant.pipeline import runner
from concordant.pipeline.plan import check, read_plan
from concordant.pipeline.runner import StageReport, run_pipeline, summary
from concordant.runs.status import read as read_status
from concordant.training.progress import Display
from concordant.verbs import VERBS

FILE = """
seed: 5
data: {path: builtin:toytalk, max_prompt_tokens: 64}
stages:
  report: {verb: evaluate, policies: ["sft=${sft}", "bon=best_of_n:4:${sft}", "ppo=${ppo}"], runs: ["ppo=${ppo.run}"],
    reward: rule:ends}
  ppo: {model: {name: "${sft}"}, reward: ["${taste}=0.5"], train: {max_steps: 3}}
  taste: {verb: reward, model: "${sft}", train: {max_steps: 2}}
  sft: {model: builtin:tiny, train: {max_steps: 1}}
"""


class Fake:
    """Does every verb by writing a model folder, and remembers in which order and with what."""

    def __init__(self):
        self.done, self.error = [], {}

    def __call__(self, verb, config):
        name = Path(config.output).name
        self.done.append(name)
        self.configs = {**getattr(self, "configs", {}), name: config}
        if name in self.error:
            raise self.error.pop(name)
        model = Path(config.output) / "model"
        model.mkdir()
        (model / "config.json").write_text(name)
        return Path(config.output)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def display():
    return Display(Console(file=io.StringIO(), width=200))


def said(display):
    return display.console.file.getvalue()


def plan(text=FILE, *options):
    return read_plan(parse_yaml(text, "x.yaml"), "x.yaml", [(name, [value]) for name, value in options])


def run(output, fake, display, text=FILE, *options):
    fake.done = []
    reports = run_pipeline(plan(text, *options), output, fake, display)
    return {report.name: report.outcome for report in reports}


def test_stages_run_after_those_they_name(tmp_path, fake, display):
    run(tmp_path, fake, display)
    assert fake.done == ["sft", "taste", "ppo", "report"]


def test_names_become_paths(tmp_path, fake, display):
    run(tmp_path, fake, display)
    report, sft = fake.configs["report"], tmp_path / "sft" / "model"
    assert report.policies == [f"sft={sft}", f"bon=best_of_n:4:{sft}", f"ppo={tmp_path}/ppo/model"]
    assert report.runs == [f"ppo={tmp_path}/ppo"]
    assert fake.configs["ppo"].reward == [f"{tmp_path}/taste/model=0.5"]
    assert fake.configs["ppo"].output == str(tmp_path / "ppo")


def test_shared_keys_reach_every_stage_and_a_stages_own_win(tmp_path, fake, display):
    run(tmp_path, fake, display, FILE.replace("sft: {", "sft: {seed: 9, data: {max_prompt_tokens: 32}, "))
    assert [fake.configs[name].seed for name in ("sft", "taste", "ppo", "report")] == [9, 5, 5, 5]
    assert (fake.configs["sft"].data.path, fake.configs["sft"].data.max_prompt_tokens) == ("builtin:toytalk", 32)


def test_a_shared_key_skips_a_stage_in_which_it_would_do_nothing():
    stages = "stages:\n  sft: {model: {name: m, lora: {rank: 4}}}\n  dpo: {model: m}\n"
    file = "model: {lora: {alpha: 8}}\ndata: {path: d}\n" + stages
    sft, dpo = read_plan(parse_yaml(file, "x.yaml"), "x.yaml")
    assert (sft.values["model.lora.alpha"], dpo.values["model.lora.alpha"]) == (8.0, 32.0)


def test_a_stages_own_key_that_would_do_nothing_is_refused(tmp_path):
    file = "data: {path: d}\nstages:\n  sft: {model: {name: m, lora: {alpha: 8}}}\n"
    with pytest.raises(UserError, match="stage sft: model.lora.alpha=8.0 would do nothing"):
        check(read_plan(parse_yaml(file, "x.yaml"), "x.yaml"), tmp_path)


def test_a_preset_stands_below_all_other_keys_of_the_stages_that_train():
    stages = "stages:\n  sft: {}\n  dpo: {model: '${sft}', preset: qwen3-4b/24gb, evaluation_slots: 8}\n"
    stages += "  generate: {model: '${dpo}'}\n"
    file = "preset: smollm2-135m/cpu\ndata: {path: d, max_prompt_tokens: 99}\n" + stages
    sft, dpo, generate = read_plan(parse_yaml(file, "x.yaml"), "x.yaml")
    assert sft.values["model.name"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (sft.values["data.max_prompt_tokens"], sft.values["data.max_response_tokens"]) == (99, 256)
    assert (dpo.values["model.name"], dpo.values["model.lora.rank"]) == ("${sft}", 16)
    assert (dpo.values["evaluation_slots"], dpo.values["train.micro_batch_tokens"]) == (8, 2048)
    assert generate.values["model.device"] == "auto"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("generate: {preset: smollm2-135m/cpu, model: m}", "stage generate: only verbs that train have presets"),
        ("sft: {preset: smollm-135m/cpu}", 'Did you mean "smollm2-135m/cpu"'),
    ],
)
def test_a_preset_in_the_wrong_place_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        read_plan(parse_yaml(f"data: {{path: d}}\nstages:\n  {change}\n", "x.yaml"), "x.yaml")


def test_options_replace_shared_keys_and_stages_keys(tmp_path, fake, display):
    options = [("data", "d.jsonl"), ("seed", "7"), ("stages.ppo.train.max_steps", "11"), ("stages.taste.model", "m")]
    run(tmp_path, fake, display, FILE, *options)
    assert fake.configs["sft"].data.path == "d.jsonl" and fake.configs["sft"].data.max_prompt_tokens == 64
    assert (fake.configs["sft"].seed, fake.configs["ppo"].train.max_steps) == (7, 11)
    assert fake.configs["taste"].model.name == "m"


def test_a_key_for_all_stages_does_not_touch_what_a_stage_has_for_itself(tmp_path, fake, display):
    """On the command line as in the file: --seed 7 is for every stage that has no seed of its own."""
    run(tmp_path, fake, display, FILE.replace("sft: {", "sft: {seed: 9, "), ("seed", "7"))
    assert [fake.configs[name].seed for name in ("sft", "taste", "ppo", "report")] == [9, 7, 7, 7]


def test_what_has_not_changed_is_kept(tmp_path, fake, display):
    run(tmp_path, fake, display)
    assert set(run(tmp_path, fake, display).values()) == {"kept"}
    assert fake.done == []
    assert "sft: unchanged, kept" in said(display)


def test_a_change_runs_the_stage_and_what_follows_and_nothing_else(tmp_path, fake, display):
    run(tmp_path, fake, display)
    outcome = run(tmp_path, fake, display, FILE, ("stages.ppo.train.max_steps", "9"))
    assert outcome == {"sft": "kept", "taste": "kept", "ppo": "ran", "report": "ran"}
    outcome = run(tmp_path, fake, display, FILE, ("stages.sft.train.max_steps", "9"))
    assert set(outcome.values()) == {"ran"}


def test_changed_data_run_everything_again_and_a_touched_file_does_not(tmp_path, fake, display):
    data, text = tmp_path / "d.jsonl", FILE.replace("builtin:toytalk", str(tmp_path / "d.jsonl"))
    data.write_text("one")
    run(tmp_path / "out", fake, display, text)
    data.write_text("one")
    assert set(run(tmp_path / "out", fake, display, text).values()) == {"kept"}
    data.write_text("two")
    assert set(run(tmp_path / "out", fake, display, text).values()) == {"ran"}


def test_changed_code_runs_everything_again(tmp_path, fake, display, monkeypatch):
    run(tmp_path, fake, display)
    monkeypatch.setattr(fingerprints, "code_version", lambda: "newer")
    assert set(run(tmp_path, fake, display).values()) == {"ran"}


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"done": true}', '{"fingerprint": 1, "seconds": []}', "[" * 90_000]
)
def test_an_odd_record_of_a_stage_runs_the_stage_again(tmp_path, fake, display, text):
    run(tmp_path, fake, display)
    (tmp_path / "sft" / "stage.json").write_text(text)
    assert run(tmp_path, fake, display)["sft"] == "ran"


def test_a_lost_result_is_made_again(tmp_path, fake, display):
    run(tmp_path, fake, display)
    (tmp_path / "taste" / "model" / "config.json").unlink()
    (tmp_path / "taste" / "model").rmdir()
    assert run(tmp_path, fake, display) == {"sft": "kept", "taste": "ran", "ppo": "kept", "report": "kept"}


def test_a_moved_output_folder_is_still_valid(tmp_path, fake, display):
    run(tmp_path / "a", fake, display)
    (tmp_path / "a").rename(tmp_path / "b")
    assert set(run(tmp_path / "b", fake, display).values()) == {"kept"}


def test_a_stopped_stage_goes_on_and_those_before_it_are_kept(tmp_path, fake, display):
    fake.error["ppo"] = RunStopped("step 2/3")
    with pytest.raises(RunStopped, match="stage ppo: step 2/3; the same command continues from here"):
        run(tmp_path, fake, display)
    (tmp_path / "ppo" / "metrics.jsonl").write_text("kept for the resume")
    outcome = run(tmp_path, fake, display)
    assert outcome == {"sft": "kept", "taste": "kept", "ppo": "continued", "report": "ran"}
    assert fake.configs["ppo"].resume == "auto" and fake.configs["sft"].resume == ""
    assert (tmp_path / "ppo" / "metrics.jsonl").exists()


def test_a_continued_stage_took_the_time_of_both_its_parts(tmp_path, fake, display, monkeypatch):
    """A clock that goes on by ten seconds whenever it is looked at: each part of a stage takes ten."""
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("concordant.runs.status.time", SimpleNamespace(monotonic=lambda: 0.0))
    fake.error["ppo"] = RunStopped("step 2/3")
    with pytest.raises(RunStopped):
        run(tmp_path, fake, display)
    reports = {report.name: report.seconds for report in run_pipeline(plan(), tmp_path, fake, display)}
    assert reports == {"sft": 10.0, "taste": 10.0, "ppo": 20.0, "report": 10.0}


def test_less_memory_or_more_checkpoints_are_no_change(tmp_path, fake, display):
    fake.error["ppo"] = RunFailed("out of memory")
    with pytest.raises(RunFailed):
        run(tmp_path, fake, display)
    options = [("train.micro_batch_tokens", "512"), ("train.save_every", "7")]
    outcome = run(tmp_path, fake, display, FILE, *options)
    assert outcome == {"sft": "kept", "taste": "kept", "ppo": "continued", "report": "ran"}
    assert fake.configs["ppo"].train.micro_batch_tokens == 512


def test_what_a_kill_leaves_of_a_folder_is_known_for_ours(tmp_path, fake, display, monkeypatch):
    """Killed before the first record is whole, and while an old result is cleared away."""
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / ".stage.json.tmp").write_text("{")
    run(tmp_path, fake, display)
    for name in ("a", "z"):
        (tmp_path / "sft" / name).write_text("older")

    def dies(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, fake, display, FILE, ("stages.sft.train.max_steps", "9"))
    outcome = run(tmp_path, fake, display, FILE, ("stages.sft.train.max_steps", "9"))
    assert outcome["sft"] == "ran" and not (tmp_path / "sft" / "z").exists()


def test_a_stopped_stage_whose_config_changed_starts_afresh(tmp_path, fake, display):
    fake.error["ppo"] = RunStopped("")
    with pytest.raises(RunStopped):
        run(tmp_path, fake, display)
    (tmp_path / "ppo" / "metrics.jsonl").write_text("old")
    assert run(tmp_path, fake, display, FILE, ("stages.ppo.clip", "0.1"))["ppo"] == "ran"
    assert fake.configs["ppo"].resume == ""
    assert not (tmp_path / "ppo" / "metrics.jsonl").exists()


def test_the_pipelines_folder_says_which_stage_is_at_work_and_how_it_ended(tmp_path, fake, display):
    seen = []

    def watched(verb, config):
        found = read_status(tmp_path)
        seen.append((found.life, found.status.stage, found.status.step, found.status.total))
        return fake(verb, config)

    run_pipeline(plan(FILE), tmp_path, watched, display)
    assert seen == [("running", name, i, 4) for i, name in enumerate(("sft", "taste", "ppo", "report"))]
    found = read_status(tmp_path)
    assert (found.life, found.status.verb, found.status.step) == ("finished", "run", 4)
    fake.error["ppo"] = RunStopped("step 2/3")
    with pytest.raises(RunStopped):
        run(tmp_path, fake, display, FILE, ("stages.ppo.clip", "0.1"))
    found = read_status(tmp_path)
    assert (found.life, found.status.stage, found.status.exit_code) == ("stopped", "ppo", 3)


@pytest.mark.parametrize("kind", [UserError, RunFailed])
def test_an_error_names_its_stage_and_what_was_done_stays(tmp_path, fake, display, kind):
    fake.error["taste"] = kind("bad pairs")
    with pytest.raises(kind, match="stage taste: bad pairs"):
        run(tmp_path, fake, display)
    assert run(tmp_path, fake, display)["sft"] == "kept"


def test_a_folder_that_no_pipeline_wrote_is_left_alone(tmp_path, fake, display):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="sft holds something that no pipeline wrote"):
        run(tmp_path, fake, display)
    assert (tmp_path / "sft" / "thesis.tex").exists()


def test_the_resolved_pipeline_is_written_and_repeats_the_run(tmp_path, fake, display):
    run(tmp_path, fake, display, FILE, ("seed", "8"))
    again = read_plan(load_yaml(tmp_path / "pipeline.yaml"), "pipeline.yaml")
    assert again == plan(FILE, ("seed", "8"))


def test_all_stages_are_checked_before_the_first_runs(tmp_path, fake, display):
    with pytest.raises(UserError, match=r"stage ppo: clip: expected a number in \(0, 1\); given 7.0"):
        run(tmp_path, fake, display, FILE, ("stages.ppo.clip", "7"))
    assert fake.done == []


def test_a_stage_that_exports_no_model_cannot_stand_for_one(tmp_path, display):
    with pytest.raises(UserError, match=r"stage taste: stage sft exports no model; for its folder write \$\{sft.run\}"):
        run_pipeline(plan(), tmp_path, lambda verb, config: None, display)


def test_two_pipelines_cannot_share_an_output(tmp_path, display):
    def second(verb, config):
        with pytest.raises(UserError, match="is in use by process"):
            run_pipeline(plan(), tmp_path, Fake(), display)
        raise RunFailed("seen")

    with pytest.raises(RunFailed, match="seen"):
        run_pipeline(plan(), tmp_path, second, display)


def test_the_summary_has_a_line_a_stage(tmp_path, fake, display):
    display.console.print(summary(run_pipeline(plan(), tmp_path, fake, display)))
    table = said(display)
    assert all(name in table for name in ("sft", "taste", "ppo", "report", "total"))


def test_the_total_is_the_time_that_was_spent_now(display):
    """A kept stage took its hour the last time."""
    of = functools.partial(StageReport, verb="sft", folder=Path("x"))
    made = [of(name="a", outcome="kept", seconds=3600.0), of(name="b", outcome="ran", seconds=75.0)]
    display.console.print(summary(made))
    (total,) = (line for line in said(display).splitlines() if "total" in line)
    assert "1m15s" in total and "h" not in total


def test_a_stage_needs_the_model_of_what_it_names_as_a_model_whatever_else_it_names_of_it():
    needs = {stage.name: stage.needs_model for stage in plan()}
    assert needs["report"] == ("sft", "ppo") and needs["ppo"] == ("sft", "taste")


def test_the_demo_file_is_a_valid_pipeline(capsys):
    assert main(["demo", "--print_config", "--stages.sft.train.batch_size=-4"]) == 2
    assert "stage sft: train.batch_size: expected a number" in capsys.readouterr().err
    assert main(["demo", "--print_config", "--seed", "4"]) == 0
    stages = parse_yaml(capsys.readouterr().out, "demo")["stages"]
    assert all(stage["seed"] == 4 for stage in stages.values())


def test_run_on_the_command_line(tmp_path, fake, monkeypatch, capsys):
    for verb, entry in VERBS.items():
        monkeypatch.setitem(vars(concordant), entry.function, functools.partial(fake, verb))
    (tmp_path / "x.yaml").write_text(FILE)
    command = ["run", str(tmp_path / "x.yaml"), "--data", "d", "--output", str(tmp_path / "o"), "--resume", "auto"]
    assert main(command) == 0
    assert fake.configs["sft"].data.path == "d"
    assert json.loads((tmp_path / "o" / "sft" / "stage.json").read_text())["done"] is True
    fake.error["ppo"] = RunStopped("x")
    assert main([*command, "--stages.ppo.clip=0.1"]) == 3
    assert main(["run", str(tmp_path / "x.yaml")]) == 2
    assert "output is needed; give --output DIR" in capsys.readouterr().err


def test_prepared_data_is_a_stage_that_is_kept_and_made_again(tmp_path):
    """``prepare`` replaces its folder as a whole, and the record of the stage lies in this folder."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "where {i}", "response": "here"}}\n' for i in range(8)))
    file = """
    stages:
      data: {verb: prepare, data: ROWS}
      sft: {model: builtin:tiny, data: {path: "${data.run}"}, train: {max_steps: 1, batch_size: 2}}
    """.replace("ROWS", str(tmp_path / "rows.jsonl"))
    display = Display(Console(file=io.StringIO(), width=200))

    def outcomes(*options):
        stages = read_plan(parse_yaml(file, "file"), "file", options)
        return [report.outcome for report in run_pipeline(stages, tmp_path / "out", display=display)]

    assert outcomes() == ["ran", "ran"]
    assert outcomes() == ["kept", "kept"]
    assert outcomes(("stages.data.seed", ["3"])) == ["ran", "ran"]
    assert (tmp_path / "out" / "sft" / "model").is_dir()
