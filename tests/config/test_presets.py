"""Presets: names, layers, and what is refused. That they fit their memory: tests/stages/test_preset_memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from concordant.cli import main
from concordant.config import presets
from concordant.config.checks import validate
from concordant.config.fields import schema
from concordant.config.help import help_page
from concordant.config.names import METHODS
from concordant.config.parse import flat_keys, parse_command, to_mapping
from concordant.config.presets import FOLDER, MACHINES, models, preset_names, preset_sections
from concordant.config.stages import GenerateConfig, RunConfig
from concordant.config.yaml_io import dump_yaml, load_yaml
from concordant.core.errors import UserError
from concordant.verbs import VERBS

NEEDED = ["--data", "d.jsonl", "--output", "runs/x"]
EACH = [(name, method) for name in preset_names() for method in METHODS]


def parsed(method, name, *arguments):
    more = {"ppo": ["--reward", "rule:ends"], "distill": ["--teacher", "m"]}.get(method, [])
    return parse_command(method, VERBS[method].config_class(), [*NEEDED, *more, "--preset", name, *arguments])[0]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of presets with one model, ``mine``, whose file gets the given text."""
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    (tmp_path / "every_model.yaml").write_text("any: {model: {name: from_every_model}, seed: 5}\n")

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)

    return write


def test_the_verbs_that_train_are_the_methods():
    assert [name for name, verb in VERBS.items() if issubclass(verb.config_class(), RunConfig)] == list(METHODS)


def test_five_models_on_three_machines():
    assert models() == ["gemma-3-1b", "llama-3.2-1b", "qwen3-0.6b", "qwen3-4b", "smollm2-135m"]
    assert len(preset_names()) == 5 * len(MACHINES)


@pytest.mark.parametrize(("name", "method"), EACH)
def test_every_preset_resolves_to_a_config_that_is_accepted(name, method, tmp_path):
    config = parsed(method, name)
    validate(config)
    assert "/" in config.model.name and config.model.device == ("cpu" if name.endswith("cpu") else "cuda")
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_yaml(to_mapping(method, config)))
    assert parse_command(method, type(config), ["--config", str(printed)])[0] == config


@pytest.mark.parametrize(("name", "method"), EACH)
def test_no_line_of_a_preset_repeats_a_default_or_an_earlier_line(name, method):
    config_class = VERBS[method].config_class()
    so_far = {key: known.default for key, known in schema(config_class).fields.items()}
    for where, settings in preset_sections(name, method):
        for key, value in flat_keys(config_class, settings, where).items():
            assert so_far[key] != value, f"{where}: {key} is {value} without this line"
            so_far[key] = value


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_section_gives_a_reason(path):
    """A comment stands in every section of every file, above it or beside its keys."""
    text = path.read_text(encoding="utf-8")
    titles = [*load_yaml(path)]
    body = text[text.index("\n\n") :]  # without the words about the file
    parts = body.split("\n\n")[1:]
    assert len(parts) == len(titles)
    named = {f"{title}:" for title in titles}
    assert all(any(part.startswith(title) for title in named) for part in parts)
    assert all("#" in part for part in parts if "name: " not in part)


def test_files_win_over_a_preset_and_options_over_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {name: folder}\ntrain: {micro_batch_tokens: 512}\n")
    alone = parsed("sft", "qwen3-4b/24gb")
    assert (alone.model.name, alone.train.micro_batch_tokens) == ("Qwen/Qwen3-4B", 2048)
    config = parsed("sft", "qwen3-4b/24gb", "--config", str(tmp_path / "mine.yaml"), "--train.micro_batch_tokens=256")
    assert (config.model.name, config.train.micro_batch_tokens) == ("folder", 256)
    assert config.model.lora.rank == 16  # which neither the file nor an option sets


def test_a_models_file_wins_over_that_for_every_model_and_later_sections_over_earlier(own):
    own("any: {seed: 6}\ncpu: {seed: 7}\nsft cpu: {seed: 8}\ndpo: {seed: 9}\n24gb 80gb: {seed: 10}\n")
    assert parsed("sft", "mine/cpu").seed == 8
    assert parsed("dpo", "mine/cpu").seed == 9
    assert parsed("ppo", "mine/cpu").seed == 7
    assert parsed("reward", "mine/24gb").seed == parsed("ppo", "mine/80gb").seed == 10
    assert parsed("ppo", "mine/cpu").model.name == "from_every_model"


def test_a_key_of_a_preset_that_does_nothing_beside_the_options_is_left_out(own):
    own("any: {model: {lora: {rank: 8, alpha: 64}}}\nppo: {advantage: gae, critic_warmup: 2}\n")
    assert parsed("sft", "mine/cpu").model.lora.alpha == 64
    config = parsed("sft", "mine/cpu", "--model.lora.rank=0")
    assert config.model.lora.alpha == 32
    assert parsed("sft", "mine/cpu", "--model.adapter=a").model.lora.rank == 0
    assert parsed("ppo", "mine/cpu", "--advantage=rloo", "--sampling.n=2").critic_warmup == 0
    with pytest.raises(UserError, match="model.lora.alpha=3.0 would do nothing"):
        parsed("sft", "mine/cpu", "--model.lora.rank=0", "--model.lora.alpha=3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("any: {train: {max_step: 3}}", r'mine.yaml \(any\): "train.max_step". Did you mean "train.max_steps"\?'),
        ("24 gb: {seed: 3}", 'unknown word in the title of a preset\'s section "24"'),
        ("any: 3", r"mine.yaml \(any\): expected keys below it; given 3"),
        ("any: {seed: -x}", 'seed: expected a whole number; given "-x"'),
    ],
)
def test_a_mistake_in_a_preset_is_an_error_that_names_its_place(own, text, message):
    own(text)
    with pytest.raises(UserError, match=message):
        parsed("sft", "mine/cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "qwen-0.6b/24gb"], 'unknown preset "qwen-0.6b/24gb". Did you mean "qwen3-0.6b/24gb"? Known: ge'),
        (["--preset", "qwen3-0.6b/8gb"], 'mean "qwen3-0.6b/24gb"? There is none for 8 GB, and the smallest is for 24'),
        (["--preset", "qwen3-4b/48GB"], 'mean "qwen3-4b/24gb"? There is none for 48 GB; this one fits. Known: ge'),
        (["--preset", "gemma-3-1b/141gb"], 'mean "gemma-3-1b/80gb"? There is none for 141 GB; this one fits. Known'),
        (["--preset", "qwen3-0.6b"], "Name the machine too: qwen3-0.6b/24gb, qwen3-0.6b/80gb, qwen3-0.6b/cpu"),
        (["--preset", "qwen3-4b/80"], 'unknown preset "qwen3-4b/80". Did you mean "qwen3-4b/80gb"? Known: ge'),
        (["--preset", "qwen3-4b/CPU"], 'Did you mean "qwen3-4b/cpu"? Known: ge'),
        (["--preset", "list"], "smollm2-135m/24gb, smollm2-135m/80gb, smollm2-135m/cpu"),
        (["--preset"], "--preset needs a value"),
        (["--preset", "a/cpu", "b/cpu"], "--preset takes one model at most; given a/cpu and b/cpu"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_nearest_and_all_names(capsys, arguments, message):
    assert main(["sft", *NEEDED, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_section_of_a_method_and_a_machine_is_for_both_together(own):
    own("sft dpo 24gb 80gb: {seed: 7}\n")
    seeds = {(m, name): parsed(m, f"mine/{name}").seed for m in ("sft", "reward") for name in ("24gb", "80gb", "cpu")}
    assert [at for at, seed in seeds.items() if seed == 7] == [("sft", "24gb"), ("sft", "80gb")]


def test_verbs_that_do_not_train_have_no_presets():
    with pytest.raises(UserError, match="only verbs that train have presets: sft, reward, dpo, ppo"):
        parse_command("generate", GenerateConfig, ["--preset", "qwen3-0.6b/cpu"])
    assert "--preset" not in help_page("generate", GenerateConfig, "answer", "")


def test_a_preset_that_changes_nothing_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(to_mapping("sft", parsed("sft", "qwen3-0.6b/cpu"))))
    with pytest.raises(UserError, match="--preset qwen3-0.6b/24gb would do nothing"):
        parsed("sft", "qwen3-0.6b/24gb", "--config", str(file))


def test_the_help_page_names_models_and_machines():
    page = " ".join(help_page("sft", VERBS["sft"].config_class(), "imitate", "").split())
    assert "--preset NAME" in page and "qwen3-0.6b" in page and "80gb" in page


def test_the_files_are_part_of_the_package():
    listed = (Path(presets.__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"presets/*.yaml"' in listed and len(list(FOLDER.glob("*.yaml"))) == 6
