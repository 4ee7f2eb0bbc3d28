"""Presets of methods: what each sets, how it stands beside a model's preset, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from concordant.config import presets
from concordant.config.checks import validate
from concordant.config.help import help_page
from concordant.config.parse import parse_command, to_mapping
from concordant.config.presets import FOLDER, METHOD_FOLDER, method_names
from concordant.config.yaml_io import dump_yaml, load_yaml
from concordant.core.errors import UserError
from concordant.pipeline.plan import read_plan
from concordant.verbs import VERBS

NEEDED = ["--data", "d.jsonl", "--output", "runs/x", "--reward", "rule:ends"]
MODEL = ["--model.name", "m"]


def parsed(*arguments):
    return parse_command("ppo", VERBS["ppo"].config_class(), [*NEEDED, *arguments])[0]


@pytest.mark.parametrize("name", method_names("ppo"))
@pytest.mark.parametrize("beside", [[], ["qwen3-0.6b/24gb"], ["smollm2-135m/cpu"]])
def test_a_method_resolves_alone_and_beside_a_model(name, beside, tmp_path):
    config = parsed("--preset", name, *beside, *([] if beside else MODEL))
    validate(config)
    own = load_yaml(FOLDER / METHOD_FOLDER / f"{name}.yaml")["ppo"]
    assert config.advantage == own["advantage"] and config.sampling.n == own["sampling"]["n"]
    assert config.kl.coefficient == own["kl"]["coefficient"] and config.aggregation == own["aggregation"]
    assert config.model.name == {"q": "Qwen/Qwen3-0.6B", "s": "HuggingFaceTB/SmolLM2-135M-Instruct"}.get(
        beside[0][0] if beside else "", "m"
    )
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_yaml(to_mapping("ppo", config)))
    assert parse_command("ppo", type(config), ["--config", str(printed)])[0] == config


def test_the_papers_numbers():
    dapo, gspo = parsed(*MODEL, "--preset", "dapo"), parsed(*MODEL, "--preset", "gspo")
    assert (dapo.clip, dapo.clip_high, dapo.overlong_penalty, dapo.kl.coefficient) == (0.2, 0.28, 1.0, 0.0)
    assert dapo.overlong_buffer / dapo.sampling.max_new_tokens == 4096 / 20480 and dapo.dynamic_sampling > 0
    cispo = parsed(*MODEL, "--preset", "cispo")  # with DAPO's dynamic sampling and length penalty
    for key in ("dynamic_sampling", "overlong_penalty", "overlong_buffer", "missing_eos_penalty"):
        assert getattr(cispo, key) == getattr(dapo, key)
    assert cispo.sampling.max_new_tokens == dapo.sampling.max_new_tokens
    assert parsed(*MODEL, "--preset", "rloo").kl.coefficient == 0.03
    assert (gspo.policy_loss, gspo.clip, gspo.clip_high) == ("gspo", 3e-4, 4e-4)
    assert parsed(*MODEL, "--preset", "grpo").kl.coefficient == 0.04
    assert parsed(*MODEL, "--preset", "reinforce++").whiten == "step"


def test_the_method_wins_over_the_model_in_any_order_and_options_over_both():
    one, other = (parsed("--preset", *names) for names in (["dapo", "qwen3-4b/24gb"], ["qwen3-4b/24gb", "dapo"]))
    assert one == other and one.advantage == "grpo" and one.missing_eos_penalty == 0.0 and one.model.lora.rank == 16
    assert parsed("--preset", "dapo", "--preset", "qwen3-4b/24gb") == one
    assert parsed("--preset", "dapo", "qwen3-4b/24gb", "--clip_high=0.3").clip_high == 0.3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dapo", "gspo"], "--preset takes one method at most; given dapo and gspo"),
        (["dappo"], 'unknown preset "dappo". Did you mean "dapo"'),
        (["dapo", "nobody/24gb"], 'unknown preset "nobody/24gb"'),
    ],
)
def test_what_is_refused(names, message):
    with pytest.raises(UserError) as refused:
        parsed(*MODEL, "--preset", *names)
    assert message in str(refused.value)


def test_a_method_of_another_verb_is_refused_and_a_pipelines_shared_one_is_left_out_there():
    arguments = ["--data", "d.jsonl", "--output", "o", *MODEL, "--preset", "dapo"]
    with pytest.raises(UserError, match="--preset dapo is a method of ppo and not of sft"):
        parse_command("sft", VERBS["sft"].config_class(), arguments)
    stages = {"sft": {"model": "m"}, "ppo": {"model": "m", "reward": "rule:ends", "train": {"max_steps": 3}}}
    shared = {"data": "d.jsonl", "preset": ["dapo", "smollm2-135m/cpu"], "stages": stages}
    made = {stage.name: stage.values for stage in read_plan(shared, "file", [])}
    assert made["ppo"]["advantage"] == "grpo" and made["ppo"]["clip_high"] == 0.28
    assert made["sft"]["train.batch_size"] == made["ppo"]["train.batch_size"] == 8
    stages["sft"]["preset"] = "dapo"
    with pytest.raises(UserError, match="method of ppo and not of sft"):
        read_plan(shared, "file", [])


@pytest.mark.parametrize("path", sorted((FOLDER / METHOD_FOLDER).glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_names_its_paper_and_gives_reasons(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and text[:80].count(".") >= 1 and any(word[:4].isdigit() for word in text.split()[:12])
    assert text.count("#") >= 5


def test_methods_are_installed_and_on_the_help_page():
    listed = (Path(presets.__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"presets/methods/*.yaml"' in listed
    page = help_page("ppo", VERBS["ppo"].config_class(), "train", "")
    assert "dapo" in page and "dapo" not in help_page("sft", VERBS["sft"].config_class(), "train", "")
