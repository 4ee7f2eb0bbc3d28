"""A bad config called from Python says what the command line says, at the entrance of every verb."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

import concordant
from concordant import ModelConfig, SamplingConfig, TrainConfig, UserError
from concordant.cli import main
from concordant.config.fields import build, flatten
from concordant.config.made import Made
from concordant.config.yaml_io import dump_yaml
from concordant.verbs import VERBS

NEEDED = {
    "prepare": {"output": "o", "data.path": "d"},
    "sft": {"output": "o", "data.path": "d", "model.name": "m"},
    "reward": {"output": "o", "data.path": "d", "model.name": "m"},
    "dpo": {"output": "o", "data.path": "d", "model.name": "m"},
    "ppo": {"output": "o", "data.path": "d", "model.name": "m", "reward": ["rule:ends"]},
    "distill": {"output": "o", "data.path": "d", "model.name": "m", "teacher": "t"},
    "best-of-n": {"output": "o", "data.path": "d", "model.name": "m", "reward": ["rule:ends"]},
    "collect": {"output": "o", "data.path": "d", "model.name": "m", "judge": "m:f"},
    "score": {"data.path": "d", "model.name": "m"},
    "evaluate": {"output": "o", "data.path": "d", "policies": ["a=b"]},
    "generate": {"model.name": "m", "prompt": "hello"},
    "chat": {"model.name": "m"},
    "merge": {"output": "o", "model.name": "m", "model.adapter": "a"},
    "average": {"output": "o", "models": ["a", "b"]},
    "judge": {"output": "o", "data.path": "d", "judge": "m"},
    "constitution": {"output": "o", "data.path": "d", "model.name": "m"},
    "audit": {"output": "o", "data.path": "d", "reward": ["rule:ends"]},
    "push": {"folder": "f", "id": "owner/name"},
    "doctor": {},
    "serve": {"model.name": "m"},
    "course": {},
    "studio": {},
    "votes": {"action": "status"},
    "plan": {"model.name": "qwen3-0.6b"},
}

# Verb, dotted key, a bad value: a wrong type, out of range, an unknown name, or of no use.
BAD: list[tuple[str, str, Any]] = [
    ("prepare", "data.test_fraction", 2.0),
    ("average", "models", ["a"]),
    ("prepare", "seed", "one"),
    ("prepare", "max_samples", -1),
    ("sft", "train.max_steps", 2.5),
    ("sft", "train.schedule", "cosin"),
    ("sft", "train.learning_rate", float("nan")),
    ("sft", "packing", "perhaps"),
    ("sft", "data.format", "mesages"),
    ("sft", "model.precision", "fp8"),
    ("sft", "model.kernels", "slow"),
    ("sft", "model.lora.target_modules", [1]),
    ("reward", "validation_fraction", 1.0),
    ("reward", "margin", [0.5]),
    ("dpo", "loss", "sigmiod"),
    ("dpo", "beta", 0.0),
    ("ppo", "kl.estimator", "k3"),
    ("ppo", "advantage", "gea"),
    ("ppo", "critic.precision", "bf16"),
    ("ppo", "sampling.n", True),
    ("distill", "divergence", "revers_kl"),
    ("distill", "beta", 1.0),
    ("best-of-n", "split", "dev"),
    ("best-of-n", "sampling.temperature", 0.0),
    ("collect", "pairs", 0),
    ("collect", "unlabelled", "skip"),
    ("votes", "output", "x"),
    ("score", "model.device", "gpu"),
    ("score", "model.adapter", "a"),
    ("evaluate", "policies", ["a"]),
    ("evaluate", "policies", ["a=b", "a=c"]),
    ("evaluate", "policies", ["a=best_of_n:1:b"]),
    ("evaluate", "runs", ["x"]),
    ("evaluate", "bootstrap", 0),
    ("generate", "prompt", ""),
    ("generate", "sampling.top_p", 0.0),
    ("chat", "system", 3),
    ("chat", "sampling.n", 2),
    ("merge", "model.adapter", ""),
    ("serve", "port", 70000),
    ("serve", "adapters", ["a"]),
    ("serve", "model.lora.rank", 4),
    ("course", "action", "chek"),
    ("course", "exercise", 2),
    ("studio", "port", -1),
    ("judge", "ask", "preferences"),
    ("judge", "endpoint.timeout", 5.0),
    ("judge", "data.test_fraction", 0.5),
    ("constitution", "revisions", 0),
    ("constitution", "sampling.n", 2),
    ("audit", "max_pairs", 0),
    ("audit", "reward", ["rule:ends=2"]),
    ("push", "id", "name"),
    ("push", "base", "a folder"),
    ("doctor", "target", 3),
    ("doctor", "json", "yes"),
    ("plan", "method", "pposft"),
    ("plan", "gpus", -1),
]


def said_in_python(verb: str, values: dict[str, Any]) -> str:
    config_class = VERBS[verb].config_class()
    config = build(config_class, flatten(config_class()) | values)
    with pytest.raises(UserError) as caught:
        getattr(concordant, VERBS[verb].function)(config)
    return str(caught.value)


def said_by_the_command(verb: str, values: dict[str, Any], folder: Any, capsys: Any) -> str:
    """What the command prints for the same values in a file."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    (folder / "bad.yaml").write_text(dump_yaml(nested))
    assert main([verb, "--config", str(folder / "bad.yaml")]) == 2
    return capsys.readouterr().err


def test_the_table_has_every_verb():
    assert NEEDED.keys() == VERBS.keys() and {verb for verb, _, _ in BAD} == VERBS.keys()


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS if verb not in ("doctor", "course", "studio")]
)  # which need nothing
def test_what_is_missing_is_asked_for_in_the_same_words(verb, tmp_path, capsys):
    said = said_in_python(verb, {})
    assert any(words in said for words in ("needed", "give either", "give a known model"))
    assert said_by_the_command(verb, {}, tmp_path, capsys) == f"error: {said}\n"


@pytest.mark.parametrize(("verb", "key", "value"), BAD)
def test_a_bad_value_is_refused_in_the_same_words(verb, key, value, tmp_path, capsys):
    values = NEEDED[verb] | {key: value}
    said = said_in_python(verb, values)
    assert said.startswith(key) or f", {key}=" in said
    assert said_by_the_command(verb, values, tmp_path, capsys) == f"error: {said}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_another_verbs_config_is_refused(verb):
    function, config_class = getattr(concordant, VERBS[verb].function), VERBS[verb].config_class()
    for other in (SamplingConfig(), {"output": "o"}, "builtin:tiny", None):
        with pytest.raises(UserError, match=f"{function.__name__}: expected a {config_class.__name__}; given "):
            function(other)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data": "d.jsonl"}, 'data: expected a DataConfig; given "d.jsonl"'),
        ({"train": {"max_steps": 3}}, "train: expected a TrainConfig; given {'max_steps': 3}"),
        ({"train": TrainConfig(), "doctor": True}, "doctor: expected a DoctorConfig; given True"),
    ],
)
def test_a_section_of_another_class_is_refused(section, message):
    with pytest.raises(UserError, match=f"^SFTConfig.{re.escape(message)}$"):
        concordant.SFTConfig(output="o", **section)
    config = concordant.SFTConfig(output="o")
    for name, value in section.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        concordant.sft(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: concordant.DPOConfig(loss="ipoo"),
            'DPOConfig.loss: expected one of .*; given "ipoo". Did you mean "ipo"',
        ),
        (
            lambda: TrainConfig(learning_rate=-1.0),
            r"TrainConfig.learning_rate: expected a number in \[0, ∞\); given -1.0",
        ),
        (lambda: TrainConfig(max_steps=2.5), "TrainConfig.max_steps: expected a whole number, .*; given 2.5"),
        (lambda: ModelConfig("m", lora=None), "ModelConfig.lora: expected a LoraConfig; given None"),
        (lambda: SamplingConfig(stop_strings=[""]), "SamplingConfig.stop_strings: expected texts that are not empty"),
        (lambda: dataclasses.replace(TrainConfig(), beta1=1.0), r"TrainConfig.beta1: expected a number in \[0, 1\)"),
    ],
)
def test_a_wrong_value_is_refused_on_the_line_that_makes_the_config(make, message):
    with pytest.raises(UserError, match=f"^{message}"):
        make()


def test_a_config_may_be_made_in_several_steps():
    """Missing keys and contradictions are found when a verb gets the config."""
    config = concordant.PPOConfig(advantage="grpo")
    with pytest.raises(UserError, match="sampling.n"):
        concordant.ppo(config)


@pytest.mark.parametrize("verb", VERBS)
def test_every_config_and_section_checks_itself(verb):
    def classes(config):
        inner = (getattr(config, field.name) for field in dataclasses.fields(config))
        return {type(config)}.union(*(classes(value) for value in inner if dataclasses.is_dataclass(value)))

    assert all(issubclass(found, Made) for found in classes(VERBS[verb].config_class()()))


def test_load_policy_says_it_too():
    model = ModelConfig("m")
    model.precision = "fp8"
    with pytest.raises(UserError, match='^model.precision: expected one of auto, fp32, bf16; given "fp8"$'):
        concordant.load_policy(model)
    with pytest.raises(UserError, match="^no model given: pass --model.name"):
        concordant.load_policy("")


def test_the_first_of_many_is_positional_and_the_rest_are_named():
    assert ModelConfig("m").name == "m" and concordant.DataConfig("d").path == "d"
    for too_many in (
        lambda: ModelConfig("m", "a"),
        lambda: concordant.DataConfig("d", "hh"),
        lambda: TrainConfig(3),
        lambda: SamplingConfig(4),
    ):
        with pytest.raises(TypeError, match="positional"):
            too_many()


def test_it_says_its_version():
    from concordant.runs.identity import package_version

    assert concordant.__version__ == package_version()
