"""A model folder's chat template in whole runs: refused rows, arguments, today's date."""

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from concordant import best_of_n, dpo, ppo, reward, score, sft
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import BestOfNConfig, DPOConfig, RewardConfig, ScoreConfig, SFTConfig
from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.data.template import set_arguments
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy
from tests.engines.tiny import tiny_policy
from tests.stages.small import SAMPLING, plain, ppo_config, train

BUILTIN = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STRICT = (
    "{% if messages | length > 1 and messages[0].role == messages[1].role %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}" + BUILTIN
)
TONE = "{% if tone is defined %}{{ tone }}{% endif %}" + BUILTIN
DATED = "{{ strftime_now('%d %b %Y') }}" + BUILTIN
GOOD, BAD = [{"role": "user", "content": "owl"}], [{"role": "user", "content": "owl"}] * 2


def model_with(template, folder):
    policy = tiny_policy()
    save_policy(policy, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.fixture
def pairs(tmp_path):
    """Twelve rows that every template takes, and three with two questions in a row."""
    rows = [
        {"prompt": [{"role": "user", "content": f"owl {i}"}], "chosen": "in a tree", "rejected": "no"}
        for i in range(12)
    ]
    rows += [
        {"prompt": [*BAD, {"role": "user", "content": str(i)}], "chosen": "in a tree", "rejected": "no"}
        for i in range(3)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(tmp_path / "pairs.jsonl"), test_fraction=0.3)


def run_of(verb, data, model, output):
    if verb is dpo:  # which samples at the end as many tokens as a response may have
        data = replace(data, max_response_tokens=16)
    common = {"output": str(output), "data": data, "model": ModelConfig(**plain(model)), "train": train(batch_size=4)}
    if verb is ppo:
        config = ppo_config(output, model, "tests.stages.small:letters")
        return ppo(replace(config, data=data, train=train(batch_size=2)))
    if verb is best_of_n:
        del common["train"]
        config = BestOfNConfig(**common, reward=["tests.stages.small:letters"], sampling=replace(SAMPLING, n=2))
        return best_of_n(config)
    return verb({sft: SFTConfig, dpo: DPOConfig, reward: RewardConfig}[verb](**common))


@pytest.mark.parametrize("verb", [sft, dpo, reward, ppo, best_of_n], ids=lambda verb: verb.__name__)
def test_rows_that_the_template_refuses_are_counted_and_the_run_goes_on(verb, pairs, tmp_path, capsys):
    model = model_with(STRICT, tmp_path / "model")
    run_of(verb, pairs, model, tmp_path / "run")
    said = capsys.readouterr()
    assert "the chat template refuses it (Roles must alternate)" in said.out + said.err


def test_merged_turns_are_not_refused(pairs, tmp_path, capsys):
    model = model_with(STRICT, tmp_path / "model")
    run_of(sft, replace(pairs, merge_turns=True), model, tmp_path / "run")
    said = capsys.readouterr()
    assert "refuses" not in said.out + said.err


def test_arguments_are_learnt_exported_and_scored_with(pairs, tmp_path):
    model = model_with(TONE, tmp_path / "model")
    run = run_of(reward, replace(pairs, template_args=["tone=kindly"]), model, tmp_path / "run")
    exported = AutoTokenizer.from_pretrained(run / "model")
    assert exported.apply_chat_template(GOOD, tokenize=False).startswith("kindly")
    (tree,) = RewardModel.from_pretrained(str(run / "model")).trees([[Message("user", "owl")]], [["yes"]])
    asked = load_policy(ModelConfig(name=model)).tokenizer
    set_arguments(asked, ["tone=kindly"])
    (expected,) = ChatEncoder(asked).trees([[Message("user", "owl")]], [["yes"]]).trees
    assert tree.prompt_T.tolist() == expected.prompt_T.tolist()


def test_todays_date_is_refused_by_name_and_a_fixed_one_is_exported(pairs, tmp_path):
    model = model_with(DATED, tmp_path / "model")
    with pytest.raises(UserError, match=r"today's date.*--data.template_args date="):
        run_of(sft, pairs, model, tmp_path / "refused")
    run = run_of(sft, replace(pairs, template_args=["date=2024-02-29"]), model, tmp_path / "run")
    exported = AutoTokenizer.from_pretrained(run / "model")
    assert exported.apply_chat_template(GOOD, tokenize=False).startswith("29 Feb 2024")
    resumed = run_of(sft, pairs, str(run / "model"), tmp_path / "next")
    assert AutoTokenizer.from_pretrained(resumed / "model").chat_template == exported.chat_template


def test_every_answer_gets_its_score_or_the_command_says_which_cannot(pairs, tmp_path):
    made = run_of(reward, pairs, model_with(STRICT, tmp_path / "model"), tmp_path / "run")
    with pytest.raises(UserError, match="cannot score a dialogue.*Roles must alternate"):
        score(ScoreConfig(data=DataConfig(path=pairs.path), model=ModelConfig(**plain(made / "model"))))
