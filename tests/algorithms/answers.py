"""Answers to one prompt, written by hand, and a reward function called on them."""

from concordant.algorithms.reward_functions import FunctionReward, Handling
from concordant.algorithms.rewards import Answer
from concordant.data.records import Message

PROMPT = (Message("user", "2 + 2?"),)


def answer(response="4", ended=True, **extra):
    return Answer(PROMPT, response, ended, extra)


def no_model(name):
    raise AssertionError(f"{name} is no model")


def called(function, *answers, **handling):
    return FunctionReward(function, "f", Handling(**handling))(list(answers)).result()


TWO = (answer("4", level=1), answer("four", ended=False, level=2))
