from __future__ import annotations

import pytest

from concordant.config.fields import schema
from concordant.config.others_names import OTHERS_NAMES
from concordant.config.parse import parse_command, to_mapping
from concordant.config.stages import (
    BestOfNConfig,
    DiagnoseConfig,
    EvaluateConfig,
    GenerateConfig,
    PPOConfig,
    SFTConfig,
)
from concordant.config.yaml_io import dump_yaml
from concordant.core.errors import UserError
from concordant.verbs import VERBS

NEEDED = ["--data", "d.jsonl", "--model", "builtin:tiny", "--output", "runs/x"]


def sft(*arguments):
    return parse_command("sft", SFTConfig, [*NEEDED, *arguments])[0]


def refused(message, *arguments, verb="sft", config=SFTConfig):
    with pytest.raises(UserError, match=message):
        parse_command(verb, config, [*NEEDED, *arguments])


def test_a_section_stands_for_its_main_key():
    config = sft()
    assert (config.data.path, config.model.name) == ("d.jsonl", "builtin:tiny")


def test_both_spellings_and_all_types():
    config = sft("--train.max_steps", "7", "--train.learning_rate=3e-4", "--packing=false", "--train.tensorboard")
    assert (config.train.max_steps, config.train.learning_rate) == (7, 3e-4)
    assert (config.packing, config.train.tensorboard) == (False, True)


def test_a_negative_number_is_a_value_and_not_an_option():
    refused(r"train.weight_decay: expected a number in \[0, ∞\); given -1.0", "--train.weight_decay", "-1")


def test_a_whole_number_given_for_a_real_one_is_real():
    assert type(sft("--train.weight_decay", "1").train.weight_decay) is float


def test_text_that_looks_like_something_else_stays_text():
    assert sft("--model.adapter", "true").model.adapter == "true"
    assert sft("--data.test_path", "12").data.test_path == "12"


def test_options_win_over_files_and_later_files_over_earlier(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\ntrain: {max_steps: 5, learning_rate: 1e-3}\ndata: from_a.jsonl\n")
    (tmp_path / "b.yaml").write_text("verb: sft\nseed: 2\n")
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    config = sft("--train.max_steps=9", *files)
    assert (config.seed, config.train.max_steps, config.train.learning_rate) == (2, 9, 1e-3)
    assert config.data.path == "d.jsonl"


def test_a_file_keeps_the_defaults_of_a_section_it_mentions(tmp_path):
    (tmp_path / "a.yaml").write_text("sampling: {temperature: 0.5}\n")
    needed = [*NEEDED, "--reward", "rule:ends", "--config", str(tmp_path / "a.yaml")]
    config, _ = parse_command("best-of-n", BestOfNConfig, needed)
    assert (config.sampling.temperature, config.sampling.n) == (0.5, 4)


def test_what_print_config_prints_is_the_same_config(tmp_path):
    config = sft("--train.learning_rate=1e-5", "--model.lora.rank=4", "--model.lora.target_modules", "q_proj", "v_proj")
    (tmp_path / "config.yaml").write_text(dump_yaml(to_mapping("sft", config)))
    assert parse_command("sft", SFTConfig, ["--config", str(tmp_path / "config.yaml")])[0] == config


@pytest.mark.parametrize(
    "arguments",
    [["--reward", "a", "b=0.5"], ["--reward=a", "--reward", "b=0.5"], ["--reward=[a, b=0.5]"]],
)
def test_a_list_may_be_given_in_three_ways(arguments):
    config, _ = parse_command("ppo", PPOConfig, [*NEEDED, *arguments])
    assert config.reward == ["a", "b=0.5"]


def test_stop_strings_keep_every_letter(tmp_path):
    """Line breaks, spaces, quotes, numbers, words of YAML and other alphabets, through command line and config.yaml."""
    texts = ["\n\nHuman:", " ", "12", "null", "true", "日本 é 😀", '"', "a: b # c", "--stop"]
    arguments = [f"--sampling.stop_strings={text}" for text in texts]
    config, _ = parse_command("generate", GenerateConfig, ["--model", "m", "--prompt", "x", *arguments])
    assert config.sampling.stop_strings == texts
    (tmp_path / "a.yaml").write_text(dump_yaml(to_mapping("generate", config)), encoding="utf-8")
    assert parse_command("generate", GenerateConfig, ["--config", str(tmp_path / "a.yaml")])[0] == config
    bracketed = ["--model", "m", "--prompt", "x", '--sampling.stop_strings=["[END]", "\\n#"]']
    assert parse_command("generate", GenerateConfig, bracketed)[0].sampling.stop_strings == ["[END]", "\n#"]


def test_one_item_in_yaml_needs_no_brackets(tmp_path):
    (tmp_path / "a.yaml").write_text("reward: runs/rm/model\n")
    config, _ = parse_command("ppo", PPOConfig, [*NEEDED, "--config", str(tmp_path / "a.yaml")])
    assert config.reward == ["runs/rm/model"]


def test_policies_are_a_list_of_name_and_path():
    given = ["--data", "d", "--output", "o", "--reward", "r", "--policies", "sft=a", "dpo=best_of_n:4:b"]
    assert parse_command("evaluate", EvaluateConfig, given)[0].policies == ["sft=a", "dpo=best_of_n:4:b"]
    with pytest.raises(UserError, match='policies: "a" is not NAME=PATH'):
        parse_command("evaluate", EvaluateConfig, ["--data", "d", "--output", "o", "--policies", "a"])


# faults.md row 27: unknown keys and wrong types


def test_an_unknown_option_names_the_nearest():
    refused('unknown option "--train.lerning_rate". Did you mean "--train.learning_rate"?', "--train.lerning_rate=1")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr", "train.learning_rate"),
        ("per_device_train_batch_size", "train.batch_size"),
        ("model.dtype", "model.precision"),
        ("max-length", "data.max_response_tokens"),
    ],
)
def test_what_other_trainers_call_a_key_is_told_our_name(theirs, ours):
    refused(f'unknown option "--{theirs}". Did you mean "--{ours}"?', f"--{theirs}=1")


def test_each_of_our_names_beside_anothers_is_a_key_of_some_verb():
    known = {key for verb in VERBS.values() for key in schema(verb.config_class()).fields}
    assert not {key for keys in OTHERS_NAMES.values() for key in keys} - known


def test_an_empty_word_is_no_target():
    with pytest.raises(UserError, match="concordant doctor: an empty word was given"):
        parse_command("doctor", DiagnoseConfig, [""])


def test_an_abbreviation_is_not_expanded():
    refused('unknown option "--train.max_step". Did you mean "--train.max_steps"?', "--train.max_step=1")


def test_a_key_without_its_section_is_told_the_section():
    refused('unknown option "--max_grad_norm". Did you mean "--train.max_grad_norm"?', "--max_grad_norm=1")


def test_an_unknown_key_in_yaml_names_file_and_nearest(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {max_step: 5}\n")
    refused(
        'unknown key in .*a.yaml: "train.max_step". Did you mean "train.max_steps"',
        "--config",
        str(tmp_path / "a.yaml"),
    )


def test_a_config_of_another_verb_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("verb: dpo\n")
    refused("is a config of dpo and not of sft; use `concordant run", "--config", str(tmp_path / "a.yaml"))


def test_a_section_without_main_key_lists_its_keys():
    refused("--train is a section; give one of its keys: --train.max_steps", "--train", "3")


@pytest.mark.parametrize("text", ["train: 3", "train: [1]"])
def test_a_value_where_a_section_belongs_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    refused("train: expected keys below it", "--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.max_steps=five"], 'train.max_steps: expected a whole number, \\[0, ∞\\); given "five"'),
        (["--train.max_steps=2.5"], 'train.max_steps: expected a whole number.*given "2.5"'),
        (["--train.learning_rate=fast"], 'train.learning_rate: expected a number.*given "fast"'),
        (["--packing=perhaps"], 'packing: expected true or false; given "perhaps"'),
        (["--train.max_steps"], "--train.max_steps needs a value"),
        (["--seed", "1", "2"], '--seed takes one value; "2" belongs to no option'),
        (["--seed=1", "2"], '"2" belongs to no option; options look like'),
    ],
)
def test_a_wrong_type_names_key_value_and_range(arguments, message):
    refused(message, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: true", "seed: expected a whole number; given True"),
        ("seed: null", "seed: expected a whole number; given None"),
        ("seed: [1]", r"seed: expected a whole number; given \[1\]"),
        ("train: {schedule: 3}", "train.schedule: expected text, linear | cosine | constant; given 3"),
        ("packing: 1", "packing: expected true or false; given 1"),
        ("data: {path: }", "data.path: expected text; given None"),
    ],
)
def test_a_wrong_type_in_yaml(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        parse_command("sft", SFTConfig, ["--config", str(tmp_path / "a.yaml")])


def test_of_what_is_only_printed_each_value_alone_is_checked():
    """Keys may be missing and may contradict each other: a person prints a config to go on writing it."""
    config, options = parse_command("best-of-n", BestOfNConfig, ["--sampling.n=1", "--print_config"])
    assert options.print_config and config.sampling.n == 1
    for wrong in (["--sampling.stop_strings", ""], ["--sampling.n=0"], ["--split=dev"]):
        with pytest.raises(UserError, match=f"{wrong[0][2:].partition('=')[0]}: expected"):
            parse_command("best-of-n", BestOfNConfig, [*wrong, "--print_config"])


def test_generate_takes_a_prompt_with_dashes_through_the_equals_sign():
    config, _ = parse_command("generate", GenerateConfig, ["--model=m", "--prompt=--what is this?"])
    assert config.prompt == "--what is this?"
