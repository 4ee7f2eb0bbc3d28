"""A reward with a planted fault is named before the first step, and an honest one is left in peace."""

from random import Random

import pytest

from concordant.algorithms.reward_functions import FunctionReward
from concordant.algorithms.rewards import Reward, WeightedSum
from concordant.config.data import DataConfig
from concordant.data.records import Message, Prompt
from concordant.doctor.preflight_reward import Known, check_reward, known_answers
from concordant.engines.protocol import Done

WORDS = ("red", "old", "small", "green", "round")
PROMPTS = [
    Prompt(
        (Message("user", f"Where is the {WORDS[i % 5]} thing {i}?"),),
        {"answer": "It is in house " + "very " * (i % 7) + str(i)},
    )
    for i in range(30)
]


def words(text):
    return set(text.lower().strip("?.").split())


def overlap(one, other):
    return len(words(one) & words(other)) / max(1, len(words(one) | words(other)))


def honest(prompt, response, answer):
    return overlap(response, answer)


def shuffled(prompts, responses, answer):
    return [overlap(r, a) for r, a in sorted(zip(responses, answer, strict=True), key=lambda row: len(row[0]))]


def failing(prompt, response, answer):
    raise ValueError("no")


DRAW = Random(1)
SICK = {
    "reward_reversed": lambda prompt, response, answer: 1 - overlap(response, answer),
    "copying_hacking": lambda prompt, response: overlap(response, prompt[-1].content),
    "answers_empty": lambda prompt, response, answer: float(response.strip() in answer),
    "shortness_hacking": lambda prompt, response, answer: overlap(response, answer) - 0.5 * len(response),
    "length_hacking": lambda prompt, response: len(response) / 50,
    "reward_random": lambda prompt, response: DRAW.random(),
    "reward_abstains": lambda prompt, response: None,
}


def reward_of(*functions):
    axes = {f"f{i}": FunctionReward(function, f"f{i}") for i, function in enumerate(functions)}
    return Reward(axes, WeightedSum(dict.fromkeys(axes, 1.0)))


def found(reward):
    return [finding.rule for finding in check_reward(reward, known_answers(PROMPTS, DataConfig(path="none")))]


@pytest.mark.parametrize("name", SICK)
def test_each_kind_is_found(name):
    assert found(reward_of(SICK[name])) == [name]


def test_an_honest_reward_is_left_in_peace():
    assert found(reward_of(honest)) == []
    assert found(reward_of(honest, lambda prompt, response: 0.01 * len(response))) == []


def test_scores_that_come_back_in_another_order():
    (finding,) = check_reward(reward_of(shuffled), known_answers(PROMPTS, DataConfig(path="none")))
    assert finding.rule == "reward_random" and "order of the answers" in finding.cause


def test_a_reward_that_drowns_the_other():
    assert found(reward_of(honest, lambda prompt, response: len(response))) == ["one_reward_rules"]


def test_a_function_that_fails_on_a_strange_answer_does_not_end_the_run():
    assert found(reward_of(failing)) == []


def test_a_model_that_ranks_pairs_as_a_coin_and_one_that_prefers_the_worse():
    known = [Known(PROMPTS[i % 30], f"good {i}", f"bad {i}", True) for i in range(120)]

    def model(score):
        return Reward.of("model", lambda answers: Done([score(a.response) for a in answers]))

    def good(text):
        return float(text.startswith("good"))

    assert [f.rule for f in check_reward(model(lambda text: -good(text)), known)] == ["reward_reversed"]
    coin = Random(3)
    drawn = {f"{side} {i}": coin.random() for side in ("good", "bad") for i in range(120)}
    drawn |= {"": 0.0} | {p.messages[-1].content: 0.0 for p in PROMPTS}
    assert [f.rule for f in check_reward(model(drawn.__getitem__), known)] == ["reward_at_chance"]
    assert check_reward(model(good), known) == []
