"""Data without questions (plain text), and data of which no prompt can be answered, in every verb."""

import json

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import (
    BestOfNConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    PPOConfig,
    PrepareConfig,
    RewardConfig,
    ScoreConfig,
    SFTConfig,
)
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.stages.doctor import examine
from tests.engines.tiny import tiny_policy
from tests.stages.small import train

SHORT = SamplingConfig(max_new_tokens=3)
STRICT = "{{ raise_exception('no question is good enough') }}"


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(str(path), test_fraction=0.25)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    policy = tiny_policy()
    save_policy(policy, folder / "policy")
    RewardModel.from_backbone(policy).save(folder / "reward")
    lines(folder / "text.jsonl", [{"text": f"owl {i} lives in a tree"} for i in range(12)])
    return folder


def common_of(world, tmp_path, data=None):
    model = ModelConfig(name=str(world / "policy"), device="cpu", precision="fp32")
    return {"data": data or DataConfig(str(world / "text.jsonl")), "model": model, "output": str(tmp_path / "out")}


def test_text_is_imitated_scored_prepared_and_examined(world, tmp_path):
    settings = common_of(world, tmp_path)
    run = concordant.sft(SFTConfig(**settings, train=train(max_steps=1)))
    assert (run / "model" / "config.json").is_file()
    score = ScoreConfig(
        data=settings["data"], model=ModelConfig(str(world / "reward")), output=str(tmp_path / "s.jsonl")
    )
    assert len(concordant.score(score).read_text().splitlines()) == 12
    prepared = concordant.prepare(PrepareConfig(data=settings["data"], output=str(tmp_path / "prepared")))
    for target in (world / "text.jsonl", prepared):
        assert examine(str(target), settings["model"]).findings == [], "no text is the prompt of all others"


def test_text_compared_with_a_test_set_is_found_by_its_words(world, tmp_path):
    lines(tmp_path / "test.jsonl", [{"text": "owl 3 lives in a tree"}, {"text": "a fox"}])
    config = PrepareConfig(
        data=DataConfig(str(world / "text.jsonl")),
        output=str(tmp_path / "p"),
        compare_with=str(tmp_path / "test.jsonl"),
    )
    card = json.loads((concordant.prepare(config) / "card.json").read_text())
    assert (card["compared"]["prompts"], card["compared"]["shared"], card["compared"]["rows"]) == (2, 1, 1)


def test_verbs_that_need_questions_say_so(world, tmp_path):
    settings = common_of(world, tmp_path)
    once = train(max_steps=1)
    verbs = [
        (concordant.reward, RewardConfig(**settings, train=once)),
        (concordant.dpo, DPOConfig(**settings, train=once)),
        (concordant.ppo, PPOConfig(**settings, train=once, reward=["rule:ends"], sampling=SHORT)),
        (concordant.best_of_n, BestOfNConfig(**settings, reward=["rule:ends"], sampling=SamplingConfig(n=2))),
        (
            concordant.evaluate,
            EvaluateConfig(**settings | {"model": ModelConfig(device="cpu")}, policies=[f"a={world / 'policy'}"]),
        ),
        (concordant.generate, GenerateConfig(**settings | {"output": str(tmp_path / "g.jsonl")}, sampling=SHORT)),
    ]
    for verb, config in verbs:
        with pytest.raises(UserError, match="expected (two answers to a prompt|a prompt a row)|no prompt to answer"):
            verb(config)


def test_questions_beside_text_are_answered_and_the_text_is_counted(world, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    lines(tmp_path / "data" / "a.jsonl", [{"text": "owl"}])
    lines(tmp_path / "data" / "b.jsonl", [{"prompt": "q"}])
    data = DataConfig(str(tmp_path / "data"))
    answers = concordant.generate(GenerateConfig(**common_of(world, tmp_path, data), sampling=SHORT))
    assert [json.loads(line)["prompt"][0]["content"] for line in answers.read_text().splitlines()] == ["q"]
    assert "left out 1 (text without a question)" in capsys.readouterr().err


def test_a_template_that_refuses_every_prompt_is_said_with_the_first_of_them(world, tmp_path, capsys):
    policy = tiny_policy()
    source = policy.tokenizer.chat_template
    learnt = "{% if messages[0].content in ('Q', 'x') %}" + source + "{% else %}" + STRICT + "{% endif %}"
    try:
        policy.tokenizer.chat_template = learnt
        save_policy(policy, tmp_path / "strict")
    finally:
        policy.tokenizer.chat_template = source
    data = lines(tmp_path / "prompts.jsonl", [{"prompt": f"{i}?"} for i in range(8)])
    settings = common_of(world, tmp_path, data)
    settings["model"].name = str(tmp_path / "strict")
    said = "no prompt to answer is left; the chat template refuses it .no question is good enough"
    verbs = [
        (concordant.ppo, PPOConfig(**settings, train=train(max_steps=1), reward=["rule:ends"], sampling=SHORT)),
        (
            concordant.best_of_n,
            BestOfNConfig(
                **settings | {"output": str(tmp_path / "b")}, reward=["rule:ends"], sampling=SamplingConfig(n=2)
            ),
        ),
        (
            concordant.evaluate,
            EvaluateConfig(
                **settings | {"model": ModelConfig(device="cpu"), "output": str(tmp_path / "e")},
                policies=[f"a={tmp_path / 'strict'}"],
            ),
        ),
    ]
    for verb, config in verbs:
        with pytest.raises(UserError, match=said):
            verb(config)
    data.test_fraction = DataConfig().test_fraction
    with pytest.raises(UserError, match=said):
        concordant.generate(GenerateConfig(**settings | {"output": str(tmp_path / "g.jsonl")}, sampling=SHORT))
    assert f"first {tmp_path / 'prompts.jsonl'} line 1" in capsys.readouterr().err
