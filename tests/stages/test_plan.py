"""``concordant plan`` on the command line and in Python."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import concordant
from concordant.cli import main
from concordant.config.plan import PlanConfig
from concordant.core.errors import UserError

SHAPE = ["--shape.vocabulary", "8192", "--shape.hidden", "384", "--shape.layers", "6", "--shape.heads", "6"]
SHAPE += ["--shape.mlp", "1024", "--shape.tied", "true"]


def test_a_known_model_by_name(capsys):
    assert main(["plan", "--model.name", "qwen3-0.6b", "--gpus", "1"]) == 0
    text = capsys.readouterr().out
    assert "sft of Qwen/Qwen3-0.6B (596.0 million weights, all weights trained) on h100-80gb: 1 worker" in text
    assert "  name: Qwen/Qwen3-0.6B" in text and "verb: sft" in text
    assert "On paper: no plan for a GPU or for several workers was compared with a run yet" in text


def test_dimensions_and_json(capsys):
    assert main(["plan", *SHAPE, "--hardware", "cpu", "--method", "grpo", "--reward_model", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == 13_767_552 and found["fits"] and found["setup"]["workers"] == 1
    assert not found["on_paper"]
    assert "reward model" not in found["memory"]["always"]


def test_a_plan_that_does_not_fit_is_an_answer_and_no_error(capsys):
    assert main(["plan", "--model.name", "Llama-3.1-70B", "--hardware", "rtx-4090", "--gpus", "1"]) == 0
    assert "nothing that was tried fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a known model or a folder as --model.name, or else every one of --shape.vocabulary"),
        (["--model.name", "Qwen3-80B"], 'Did you mean "Qwen/Qwen3-8B"'),
        (["--model.name", "gpt2", "--hardware", "h100"], 'given "h100". Did you mean "h100-80gb"'),
        (["--model.name", "gpt2", "--method", "pp"], 'Did you mean "ppo"'),
        (["--model.name", "gpt2", "--samples", "8"], "samples=8 would do nothing"),
        (["--model.name", "gpt2", "--shape.hidden", "8"], "shape.hidden=8 would do nothing"),
        (["--model.name", "gpt2", "--model.device", "cuda"], "model.device=.* would do nothing"),
        (["--model.name", "gpt2", "--method", "grpo", "--samples", "1"], "set samples to 2 or more"),
        (["--model.name", "gpt2", "--gpus", "6", "--tensor", "4"], "a multiple of tensor × pipeline"),
        (["--model.name", "gpt2", "--gpus", "2", "--most_gpus", "4"], "most_gpus=4 would do nothing"),
        (["--model.name", "gpt2", "--method", "ppo", "--reward_model", "gpt3"], 'no known model "gpt3"'),
        (["--model.name", "gpt2", "--assume", "reached"], '"reached" is not NAME=VALUE, e.g. reached=0.4'),
        (["--model.name", "gpt2", "--assume", "rate=1"], 'unknown assumption "rate"'),
        (["--model.name", "gpt2", "--method", "ppo", "--batch_size", "1"], "a minibatch would hold no prompt"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(arguments, message, capsys):
    import re

    assert main(["plan", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_library_refuses_in_the_same_words():
    with pytest.raises(UserError, match="give a known model or a folder"):
        concordant.plan(PlanConfig())


def test_a_plan_loads_no_heavy_library():
    code = (
        "import sys; from concordant.cli import main; main(['plan', '--model.name', 'Qwen3-32B', '--method', 'ppo']);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1] == "[]"
