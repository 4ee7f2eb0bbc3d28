from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import concordant
from concordant import cli
from concordant.cli import main
from concordant.config.presets import method_names
from concordant.core.advantages import ADVANTAGES
from concordant.core.divergence import DIVERGENCES
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.core.pair_losses import PREFERENCE_LOSSES
from concordant.core.policy_losses import POLICY_LOSSES
from concordant.verbs import VERBS, commands_of_methods

SFT = ["sft", "--data", "d.jsonl", "--model.name", "builtin:tiny", "--output", "runs/x"]


@pytest.fixture
def stages(monkeypatch):
    """Stand-ins for the functions of the verbs, which remember what they were asked to do."""
    asked = []
    for verb in VERBS.values():
        note = lambda config, name=verb.function: asked.append((name, config))  # noqa: E731
        monkeypatch.setitem(vars(concordant), verb.function, note)
    return asked


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )


def test_help_answers_before_anyone_notices():
    seconds = []
    for _ in range(3):  # processor time, the least of three: the machine may be busy with something else
        before = os.times()
        done = python("-m", "concordant", "--help")
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done.returncode == 0 and all(verb in done.stdout for verb in [*VERBS, "run", "demo"])
    assert 0 < min(seconds) <= 0.5


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ppo", "--help"], [*SFT, "--print_config"], ["demo", "--print_config"]]
)
def test_no_heavy_library_is_loaded_to_talk(arguments):
    code = (
        "import sys; from concordant.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules], code, file=sys.stderr)"
    )
    assert python("-c", code, *arguments).stderr.splitlines()[-1] == "[] 0"


def test_preparing_data_waits_for_no_torch():
    code = "import sys; import concordant.stages.prepare; print('torch' in sys.modules)"
    assert python("-c", code).stdout == "False\n"


def test_every_verb_has_a_help_page(capsys):
    for verb, entry in VERBS.items():
        assert main([verb, "--help"]) == 0
        page = capsys.readouterr().out
        assert f"usage: concordant {verb} " in page and entry.summary[1:] in page
    assert main(["run", "--help"]) == main(["demo", "--help"]) == 0


def test_a_verb_gets_its_config(stages):
    assert main([*SFT, "--seed=3"]) == 0
    (name, config), *_ = stages
    assert (name, config.seed, config.data.path) == ("sft", 3, "d.jsonl")


def test_the_spellings_that_scripts_rely_on(stages):
    for line in (
        "prepare --data hh.jsonl --output out --max_samples 10 --seed 1",
        "sft --model.name builtin:tiny --data builtin:toytalk --output o --train.max_steps 2",
        "reward --model.name builtin:small --data d --output o --resume auto",
        "dpo --model.name package:a/b --data d --output o",
        "ppo --model.name m --data d --output o --reward runs/rm/model --reward my.module:length=0.5",
        "distill --model.name m --teacher t --data d --output o",
        "best-of-n --model.name m --data d --output o --reward r",
        "collect --model.name m --data d --output o --judge votes.jsonl",
        "score --model.name rm --data d",
        "evaluate --policies sft=a dpo=b best_of_n=best_of_n:4:a --data d --output o --reward r",
        "generate --model.name m --prompt hello",
        "chat --model.name m",
        "merge --model.name m --model.adapter a --output o",
        "judge --data d --judge m:f --output o",
        "constitution --model.name m --data d --output o",
        "audit runs/rm/model my.module:length --data d --output o",
        "push runs/ppo owner/name --private",
        "doctor runs/ppo --json",
    ):
        assert main(line.split()) == 0, line
    assert [name for name, _ in stages] == [VERBS[verb].function for verb in (
        "prepare", "sft", "reward", "dpo", "ppo", "distill", "best-of-n", "collect", "score", "evaluate", "generate",
        "chat", "merge", "judge", "constitution", "audit", "push", "doctor",
    )]  # fmt: skip
    assert stages[4][1].reward == ["runs/rm/model", "my.module:length=0.5"]
    assert (stages[-2][1].folder, stages[-2][1].id, stages[-2][1].private) == ("runs/ppo", "owner/name", True)
    assert stages[-1][1].target == "runs/ppo" and stages[-1][1].json


def test_a_runs_config_repeats_the_run(stages, tmp_path, capsys):
    main([*SFT, "--train.max_steps=7", "--print_config"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert main(["run", str(tmp_path / "config.yaml"), "--output", "elsewhere"]) == 0
    (name, config), *_ = stages
    assert (name, config.train.max_steps, config.output) == ("sft", 7, "elsewhere")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file"), 2, "error: no such file\n"),
        (RunStopped("at step 3"), 3, "stopped: at step 3\n"),
        (RunFailed("all NaN"), 1, "failed: all NaN\n"),
        (KeyboardInterrupt(), 3, "stopped: interrupted; nothing is half-written, the same command starts again\n"),
    ],
)
def test_exit_codes_and_one_line_without_traceback(stages, monkeypatch, capsys, error, code, line):
    def fail(config):
        raise error

    monkeypatch.setitem(vars(concordant), "sft", fail)
    assert main(SFT) == code
    assert capsys.readouterr().err == line


def test_a_bug_shows_its_traceback_and_ends_in_a_sentence(stages, monkeypatch, capsys):
    monkeypatch.setitem(vars(concordant), "sft", lambda config: 1 / 0)
    assert main(SFT) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1] == "failed: ZeroDivisionError: division by zero (details above)"


class PanicException(BaseException):
    """As a library written in Rust raises it: no ``Exception``."""


def deep():
    return deep()


@pytest.mark.parametrize(
    ("error", "line", "is_a_bug"),
    [
        (
            SystemExit(0),
            "failed: sys.exit(0) was called in the middle of the work, by a reward function perhaps",
            False,
        ),
        (PanicException("unwrap on None"), "failed: PanicException: unwrap on None (details above)", True),
        (MemoryError(), "failed: out of memory; take a smaller model, shorter texts or less data at once", False),
        (OSError(28, "No space left on device", "/runs/a"), "failed: No space left on device: /runs/a", False),
        (OSError(22, "Invalid argument"), "failed: OSError: [Errno 22] Invalid argument (details above)", True),
    ],
)
def test_whatever_is_raised_ends_in_a_sentence_and_code_1(stages, monkeypatch, capsys, error, line, is_a_bug):
    def fail(config):
        raise error

    monkeypatch.setitem(vars(concordant), "sft", fail)
    assert main(SFT) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == line and ("Traceback" in shown) is is_a_bug


def test_a_table_whose_reader_has_gone_is_no_failure(tmp_path):
    """`concordant prepare … | head -1`: rich leaves by sys.exit(1) there, which no reward function has called."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"prompt": "q{i}"}}\n' for i in range(8)))
    command = [sys.executable, "-m", "concordant", "prepare", "--data", "a.jsonl", "--output", "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(concordant.__file__).parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as work:
        work.stdout.close()
        said = work.stderr.read()
    assert work.returncode == 0 and "failed" not in said and (tmp_path / "out" / "card.md").is_file()


def test_an_endless_recursion_shows_its_end_alone(stages, monkeypatch, capsys):
    monkeypatch.setitem(vars(concordant), "sft", lambda config: deep())
    assert main(SFT) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("failed: RecursionError: maximum recursion depth") and len(lines) < 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sfft"], 'unknown verb "sfft". Did you mean "sft"? Known: audit, average, best-of-n'),
        (["SFT"], 'unknown verb "SFT". Did you mean "sft"?'),
        (["best_of_n"], 'Did you mean "best-of-n"?'),
        (["kto"], 'unknown verb "kto". This method is: concordant dpo --loss kto. Known: audit'),
        (["GRPO"], "This method is: concordant ppo --preset grpo."),
        (["rm"], "This method is: concordant reward."),
        (["bco"], "This method is: concordant dpo --loss bco."),
        (["apo"], "This method is: concordant dpo --loss apo_zero or concordant dpo --loss apo_down or"),
        (["sft", "--train.max_step=1"], 'unknown option "--train.max_step". Did you mean "--train.max_steps"?'),
        (["sft", "--train.learning_rate=-1"], "train.learning_rate: expected a number in [0, ∞); given -1.0"),
        (["sft"], "data.path is needed"),
        (["run"], "run: give the file first"),
        (["run", "nowhere.yaml"], "cannot read nowhere.yaml: No such file or directory"),
    ],
)
def test_wrong_usage_exits_2_with_the_way_out(capsys, arguments, message):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and message in shown and "Traceback" not in shown


def test_every_method_has_a_command_that_is_one(capsys):
    """Of all losses, advantages, presets and divergences: none is forgotten. One command of each kind is tried."""
    commands = commands_of_methods()
    losses = [*PREFERENCE_LOSSES, *ADVANTAGES, *POLICY_LOSSES, *DIVERGENCES]
    assert {*losses, *method_names(), "rm"} <= commands.keys()
    for command in {command.rpartition(method)[0]: command for method, command in commands.items()}.values():
        assert main([*command.split()[1:], "--print_config"]) == 0, command
    for method, command in commands.items():
        assert method in VERBS or (main([method]) == 2 and f" {command}." in capsys.readouterr().err)


def test_no_arguments_show_the_verbs_and_exit_2(capsys):
    assert main([]) == 2
    assert "usage: concordant VERB" in capsys.readouterr().err


def test_a_file_that_is_neither_pipeline_nor_run_is_refused(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("seed: 1\n")
    assert main(["run", str(tmp_path / "x.yaml")]) == 2
    assert 'neither "stages"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_data_file_in_the_place_of_a_pipeline_is_named(name, tmp_path, capsys):
    (tmp_path / name).write_text('{"prompt": "q"}\n{"prompt": "r: s"}\n')
    assert main(["run", str(tmp_path / name)]) == 2
    said = f"{tmp_path / name} is a data file; expected the YAML file of a pipeline, or a run's config.yaml, with the "
    assert capsys.readouterr().err == f"error: {said}data as --data {tmp_path / name}\n"


def test_a_pipeline_may_be_written_as_json(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"stages": {"sft": {"verb": "sfft"}}}')
    assert main(["run", str(tmp_path / "a.json"), "--output", str(tmp_path / "out")]) == 2
    assert 'unknown verb "sfft"' in capsys.readouterr().err


def test_a_folder_in_the_place_of_its_file_is_named(tmp_path, capsys):
    assert main(["run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(
        "is a folder; expected the YAML file of a pipeline, or a run's config.yaml.\n"
    )
    (tmp_path / "config.yaml").write_text("verb: sft\n")
    assert main(["run", str(tmp_path)]) == 2
    assert f"Did you mean {tmp_path / 'config.yaml'}?" in capsys.readouterr().err


def test_yaml_errors_say_line_and_column_in_plain_words(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("stages:\n  sft: {verb: sft\n  dpo: {verb: dpo}\n")
    assert main(["run", str(tmp_path / "x.yaml")]) == main([*SFT, "--config", str(tmp_path / "x.yaml")]) == 2
    said = f"error: {tmp_path / 'x.yaml'} is not plain YAML: line 3 column 6: a mapping in braces that is not closed"
    assert capsys.readouterr().err.count(said) == 2


def test_a_config_with_a_tag_runs_nothing(tmp_path, capsys):
    canary = tmp_path / "canary"
    (tmp_path / "x.yaml").write_text(f'verb: !!python/object/apply:os.system ["touch {canary}"]\n')
    assert main(["run", str(tmp_path / "x.yaml")]) == main([*SFT, "--config", str(tmp_path / "x.yaml")]) == 2
    assert not canary.exists()
    assert "is not plain YAML" in capsys.readouterr().err


def test_the_exit_code_reaches_the_shell():
    assert python("-m", "concordant", "sft", "--nonsense").returncode == 2
    assert python("-m", "concordant").returncode == 2


def test_the_docs_name_every_verb():
    page = (Path(cli.__file__).parent.parent / "docs" / "cli.md").read_text()
    assert all(f"`{verb}`" in page for verb in [*VERBS, "run", "demo"])
