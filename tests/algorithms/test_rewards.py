"""The scores of several axes: how they become one number, and what stands where a score is missing."""

from concordant.algorithms.reward_functions import FunctionReward
from concordant.algorithms.rewards import Answer, Reward, WeightedSum, filled, totals_together
from concordant.data.records import Message
from concordant.engines.protocol import Done
from tests.algorithms.answers import PROMPT, answer


def test_a_weighted_sum_by_hand():
    assert WeightedSum({"b": 2.0, "a": -0.5})({"a": [4.0, 2.0], "b": [1.0, 3.0]}) == [0.0, 5.0]


def test_a_reward_keeps_its_axes_apart_and_any_aggregator_makes_one_number_of_them():
    axes = {"kind": lambda answers: Done([1.0, 4.0]), "short": lambda answers: Done([3.0, 2.0])}
    worst = Reward(axes, lambda columns: [min(row) for row in zip(*columns.values(), strict=True)])
    scores = worst([answer(), answer()]).result()
    assert scores.columns == {"kind": [1.0, 4.0], "short": [3.0, 2.0]} and scores.total == [1.0, 2.0]


OTHER = (Message("user", "3 + 3?"),)


def test_none_gets_the_mean_of_the_others_of_its_prompt():
    prompts = [PROMPT, PROMPT, PROMPT, OTHER, OTHER]
    assert filled([1.0, None, 4.0, 10.0, None], prompts) == [1.0, 2.5, 4.0, 10.0, 10.0]
    assert filled([1.0, 2.0, 3.0, None, None], prompts) == [1.0, 2.0, 3.0, 2.0, 2.0], "the mean of all others"
    assert filled([None] * 5, prompts) == [0.0] * 5


def test_abstentions_are_counted_and_do_not_reach_the_sum():
    def f(prompt, response):
        return None if response == "b" else float(response)

    reward = Reward(
        {"f": FunctionReward(f, "f"), "one": lambda answers: Done([1.0] * 3)}, WeightedSum({"f": 2, "one": 1})
    )
    scores = reward([answer("1"), answer("b"), answer("4")]).result()
    assert scores.columns["f"] == [1.0, 2.5, 4.0] and scores.total == [3.0, 6.0, 9.0]
    assert scores.metrics == {"reward/abstained": 1.0, "reward/errors": 0.0}


def test_no_policy_wins_where_a_judge_abstains():
    """Of two policies, scored apart; the second answer of the second has no score, nor have the third ones."""
    prompts = [PROMPT, OTHER, (Message("user", "4 + 4?"),)]
    given = {"a": 3.0, "b": 1.0, "c": None, "d": 5.0, "e": None, "f": None}

    def f(prompt, response):
        return given[response]

    reward = Reward.of("f", FunctionReward(f, "f"))
    answers = [[Answer(p, name, True, {}) for p, name in zip(prompts, names, strict=True)] for names in ("abc", "def")]
    scores = [reward(part).result() for part in answers]
    assert [s.total for s in scores] == [[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]], "alone each has a mean of its own"
    first, second = totals_together(reward.aggregate, scores, prompts)
    assert (first, second) == ([3.0, 1.0, 3.0], [5.0, 1.0, 3.0])
    whole = [reward(part[:1]).result() for part in answers]
    assert totals_together(reward.aggregate, whole, prompts[:1]) == [[3.0], [5.0]]
