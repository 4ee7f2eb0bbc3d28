"""Errors of a reward function, calls that do not end, and changes that a call makes to the process."""

import asyncio
import math
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from concordant.algorithms.reward_functions import FunctionReward, Handling
from concordant.algorithms.rewards import Reward
from concordant.core.errors import UserError
from tests.algorithms.answers import TWO, answer, called


def raises(prompt, response):
    if response == "four":
        raise KeyError("level")
    return 1.0


def exits(prompt, response):
    if response == "four":
        sys.exit(0)
    return 1.0


def sleeps(prompt, response):
    if response == "four":
        time.sleep(60)
    return 1.0


def loops(prompt, response):
    while response == "four":
        pass
    return 1.0


async def waits(prompt, response):
    await asyncio.sleep(60 if response == "four" else 0)
    return 1.0


async def exits_later(prompt, response):
    await asyncio.sleep(0)
    return exits(prompt, response)


async def sleeps_later(prompt, response):
    await asyncio.sleep(0)
    return sleeps(prompt, response)


async def loops_later(prompt, response):
    await asyncio.sleep(0)
    return loops(prompt, response)


async def cancels(prompt, response):
    if response == "four":
        raise asyncio.CancelledError
    return 1.0


class Panic(BaseException):
    """As compiled code raises it."""


async def panics_later(prompt, response):
    if response == "four":
        raise Panic("here")
    return 1.0


def is_nan(prompt, response):
    return math.nan if response == "four" else 1.0


FAULTS = [
    (raises, r"reward f failed for 'four': KeyError: 'level' \(test_reward_errors.py line \d+\)"),
    (exits, r"reward f failed for 'four': SystemExit: called sys.exit\(0\)"),
    (exits_later, r"reward f failed for 'four': SystemExit: called sys.exit\(0\)"),
    (sleeps, "reward f failed for 'four': the call takes more than reward_timeout=0.1 s"),
    (loops, "reward f failed for 'four': the call takes more than reward_timeout=0.1 s"),
    (waits, "reward f failed for 'four': the call takes more than reward_timeout=0.1 s"),
    (sleeps_later, "reward f failed for 'four': the call takes more than reward_timeout=0.1 s"),
    (loops_later, "reward f failed for 'four': the call takes more than reward_timeout=0.1 s"),
    (cancels, "reward f failed for 'four': CancelledError"),
    (panics_later, "reward f failed for 'four': Panic: here"),
    (is_nan, "reward f returned nan for 'four': a finite number is expected"),
]


@pytest.mark.parametrize(("function", "message"), FAULTS)
def test_an_error_of_a_function_names_the_function_and_the_answer(function, message):
    with pytest.raises(UserError, match=message):
        called(function, *TWO, timeout=0.1)


@pytest.mark.parametrize("function", [function for function, _ in FAULTS])
def test_with_skip_the_answer_abstains_and_the_error_is_counted(function):
    reward = Reward.of("f", FunctionReward(function, "f", Handling("skip", 0.1)))
    scores = reward([*TWO, answer("4")]).result()
    assert scores.total == [1.0, 1.0, 1.0] and scores.metrics == {"reward/abstained": 1.0, "reward/errors": 1.0}


@pytest.mark.parametrize("batched", [False, True])
def test_with_retry_a_call_is_tried_three_times(batched):
    calls = []

    def works_at(number):
        def one(prompt, response):
            calls.append(response)
            if response == "four" and calls.count("four") < number:
                raise ConnectionError("busy")
            return 1.0

        def many(prompts, responses):
            return [one(*row) for row in zip(prompts, responses, strict=True)]

        return many if batched else one

    reward = FunctionReward(works_at(3), "f", Handling("retry"))
    assert reward(TWO).result() == [1.0, 1.0] and reward.errors == 2
    assert calls.count("4") == (3 if batched else 1), "an answer with a score is not asked for again"
    calls.clear()
    with pytest.raises(UserError, match="ConnectionError: busy"):
        called(works_at(4), *TWO, on_error="retry")
    assert calls.count("four") == 3


def test_a_limit_works_outside_the_main_thread():
    with ThreadPoolExecutor(1) as thread, pytest.raises(UserError, match="takes more than reward_timeout"):
        thread.submit(called, loops, *TWO, timeout=0.1).result()


def test_ctrl_c_inside_a_reward_is_no_error_of_the_reward():
    def f(prompt, response):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        called(f, *TWO, on_error="skip")


def test_a_changed_working_directory_is_put_back(tmp_path):
    def f(prompt, response):
        os.chdir(tmp_path)
        return 1.0

    async def later(prompt, response):
        return f(prompt, response)

    before = Path.cwd()
    for function in (f, later):
        called(function, *TWO)
        assert Path.cwd() == before


def test_settings_of_pytorch_that_a_function_changes_are_put_back():
    def f(prompt, response):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        return 1.0

    async def later(prompt, response):
        return f(prompt, response)

    before = torch.get_num_threads()
    for function in (f, later):
        called(function, *TWO)
        assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
        assert torch.get_num_threads() == before


def test_a_long_answer_is_shortened_and_steers_no_terminal():
    with pytest.raises(UserError) as refusal:
        called(lambda prompt, response: math.nan, answer("\x1b[2J\u202e" + "a" * 5000))
    assert len(str(refusal.value)) < 200 and not {"\x1b", "\u202e"} & set(str(refusal.value))


def test_text_of_the_function_steers_no_terminal():
    class Odd:
        def __repr__(self):
            return "\x1b[2J\n"

    def fails(prompt, response):
        raise ValueError("\x1b[2J")

    for function in (fails, lambda prompt, response: Odd()):
        with pytest.raises(UserError, match=re.escape("\\x1b[2J")) as refusal:
            called(function, answer())
        assert not {"\x1b", "\n"} & set(str(refusal.value))
