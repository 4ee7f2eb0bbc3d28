import math
import re

import numpy as np
import pytest

from concordant.algorithms.rewards import Answer, FunctionReward, Reward, WeightedSum, make_reward
from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.engines.protocol import Done

PROMPT = (Message("user", "2 + 2?"),)


def answer(response="4", ended=True, **extra):
    return Answer(PROMPT, response, ended, extra)


def no_model(name):
    raise AssertionError(f"{name} is no model")


# -- functions ------------------------------------------------------------------------------------


def test_a_function_gets_prompt_response_and_the_keywords_it_names():
    seen = []

    def judge(prompt, response, ended, difficulty=1):
        seen.append((prompt, response, ended, difficulty))
        return 3

    (score,) = FunctionReward(judge, "judge")([answer(difficulty=7, other="x")]).result()
    assert score == 3.0 and isinstance(score, float)
    assert seen == [(PROMPT, "4", True, 7)]


def test_a_function_that_takes_everything_gets_everything():
    (score,) = FunctionReward(lambda prompt, response, **extra: float(len(extra)), "f")([answer(a=1, b=2)]).result()
    assert score == 3, "a, b and ended"


def test_columns_named_as_prompt_and_response_do_not_get_in_the_way():
    def judge(prompt, response, **extra):
        assert "response" not in extra
        return float(response == "4")

    assert FunctionReward(judge, "judge")([answer(response="4", prompt="other")]).result() == [1.0]
    extra = {"prompt": "other", "response": "reference answer", "kept": 1}
    assert FunctionReward(judge, "judge")([Answer(PROMPT, "4", True, extra)]).result() == [1.0]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None, "1", 1j])
def test_what_is_no_finite_number_is_refused_with_the_answer(score):
    with pytest.raises(UserError, match="reward f returned .* for 'four': a finite number is expected"):
        FunctionReward(lambda prompt, response: score, "f")([answer("four")]).result()


def test_numbers_of_other_libraries_are_numbers():
    for score in (True, 1, np.float32(1), np.int64(1)):
        assert FunctionReward(lambda prompt, response, s=score: s, "f")([answer()]).result() == [1.0]


def test_a_weighted_sum_by_hand():
    assert WeightedSum({"a": 2.0, "b": -0.5})({"a": [1.0, 3.0], "b": [4.0, 2.0]}) == [0.0, 5.0]


def test_a_reward_keeps_its_axes_apart_and_any_aggregator_makes_one_number_of_them():
    axes = {"kind": lambda answers: Done([1.0, 4.0]), "short": lambda answers: Done([3.0, 2.0])}
    worst = Reward(axes, lambda columns: [min(row) for row in zip(*columns.values(), strict=True)])
    scores = worst([answer(), answer()]).result()
    assert scores.columns == {"kind": [1.0, 4.0], "short": [3.0, 2.0]} and scores.total == [1.0, 2.0]


def test_the_same_source_twice_counts_twice():
    assert make_reward(["rule:ends", "rule:ends=2"], no_model)([answer()]).result().total == [3.0]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("rule:exact_match", answer(" 4\n", ground_truth="4"), answer("44", ground_truth=4)),
        ("rule:contains", answer("it is 4.", reward_model={"ground_truth": "4"}), answer("four", answer=4)),
        ("rule:ends", answer(ended=True), answer(ended=False)),
    ],
)
def test_rules(rule, right, wrong):
    assert make_reward([rule], no_model)([right, wrong]).result().total == [1.0, 0.0]


def test_verls_ground_truth_comes_before_a_column_of_the_same_name():
    both = answer("4", reward_model={"ground_truth": "4"}, ground_truth="5")
    assert make_reward(["rule:exact_match"], no_model)([both]).result().total == [1.0]


def test_a_rule_without_ground_truth_names_the_columns_it_found():
    with pytest.raises(UserError, match=re.escape("needs ground_truth beside the prompt; found columns: ['level']")):
        make_reward(["rule:exact_match"], no_model)([answer(level=3)])


def test_sources_and_weights(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def words(prompt, response):\n    return len(response.split())\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []

    def load(name):
        loaded.append(name)
        return lambda answers: Done([10.0] * len(answers))

    reward = make_reward(["my_rewards:words=0.5", "rule:ends=-2", "package:some_package/model=0.1", "runs/rm"], load)
    assert reward([answer("two words")]).result().total == [0.5 * 2 - 2 * 1 + 0.1 * 10 + 10]
    assert loaded == ["package:some_package/model", "runs/rm"]


def test_a_function_beside_the_command_is_found(tmp_path, monkeypatch):
    (tmp_path / "beside_the_command.py").write_text("def one(prompt, response):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    assert make_reward(["beside_the_command:one"], no_model)([answer()]).result().total == [1.0]


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "lr=0.1" / "model"
    folder.mkdir(parents=True)
    loaded = []
    for source in (str(folder), f"{folder}=2"):
        make_reward([source], lambda name: loaded.append(name) or (lambda answers: [0.0]))
    assert loaded == [str(folder)] * 2


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no reward given"),
        (["rule:exact_mach"], 'unknown rule "exact_mach". Did you mean "exact_match"?'),
        (["no_such_module:f"], 'reward "no_such_module:f": cannot import no_such_module'),
        (["math:no_such"], 'reward "math:no_such": math has no function no_such'),
        (["math:pi"], 'reward "math:pi": math has no function pi'),
        (["math:"], 'reward "math:": math has no function'),
        (["runs/rm=heavy"], 'reward "runs/rm=heavy": expected SOURCE=WEIGHT with a number, found "heavy"'),
        (["rule:ends=nan"], 'reward "rule:ends=nan": expected SOURCE=WEIGHT with a number, found "nan"'),
    ],
)
def test_sources_that_lead_nowhere(sources, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_reward(sources, lambda name: lambda answers: [])
