"""Reward functions: the signatures that are known, and the values that a function gets and gives."""

import asyncio
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from concordant.algorithms.reward_functions import SIGNATURES, FunctionReward
from concordant.algorithms.rewards import Answer
from concordant.core.errors import UserError
from concordant.data.records import Prompt
from tests.algorithms.answers import PROMPT, TWO, answer, called

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


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, "1", 1j, 10**400, np.ones(1)])
def test_what_is_no_finite_number_is_refused_with_the_answer(score):
    with pytest.raises(UserError, match="reward f returned .* for 'four': a finite number is expected"):
        FunctionReward(lambda prompt, response: score, "f")([answer("four")]).result()


def test_numbers_of_other_libraries_are_numbers():
    zero_dimensional = (np.array(1.0), np.bool_(True), torch.tensor(1), torch.tensor(1.0, requires_grad=True))
    for score in (True, 1, np.float32(1), np.int64(1), *zero_dimensional):
        assert FunctionReward(lambda prompt, response, s=score: s, "f")([answer()]).result() == [1.0]


# -- the four signatures --------------------------------------------------------------------------


def test_a_batched_function_gets_lists_and_gives_a_list():
    seen = []

    def f(prompts, responses, level, ended):
        seen.append((prompts, responses, level, ended))
        return np.array([1.0, 2.0])

    assert called(f, *TWO) == [1.0, 2.0]
    assert seen == [([PROMPT, PROMPT], ["4", "four"], [1, 2], [True, False])]


def test_trls_function_gets_messages_as_trl_gives_them():
    seen = []

    def f(completions, prompts, **kwargs):
        seen.append((completions, prompts, kwargs))
        return [0.5, None]

    assert called(f, *TWO) == [0.5, None]
    messages = [[{"role": "assistant", "content": text}] for text in ("4", "four")]
    prompt = [{"role": "user", "content": "2 + 2?"}]
    assert seen == [(messages, [prompt, prompt], {"level": [1, 2], "ended": [True, False]})]


def test_trls_function_that_asks_for_texts_gets_texts():
    def f(completions: list[str], **kwargs):
        return [float(len(c)) for c in completions]

    assert called(f, *TWO) == [1.0, 4.0]


def test_verls_function_gets_verls_columns():
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return {"score": float(solution_str == ground_truth), "seen": (data_source, extra_info)}

    row = {"data_source": "sums", "reward_model": {"ground_truth": "4"}}
    assert called(compute_score, answer("4", **row), answer("5", extra_info={"level": 1}, **row)) == [1.0, 0.0]


def test_async_functions_run_at_the_same_time():
    running = []

    async def f(prompt, response):
        running.append(response)
        while len(running) < 2:
            await asyncio.sleep(0)
        return len(response)

    async def batched(prompts, responses):
        return [1, 2]

    async def in_a_notebook():
        return called(batched, *TWO)

    assert called(f, *TWO, timeout=20.0) == [1.0, 4.0]
    assert called(batched, *TWO) == [1.0, 2.0] == asyncio.run(in_a_notebook())


@pytest.mark.parametrize("function", [lambda question, text: 1.0, lambda *a, **k: 1.0, lambda prompt: 1.0, dict])
def test_a_wrong_signature_is_refused_with_the_known_ones(function):
    with pytest.raises(UserError, match="reward f has the parameters") as refusal:
        FunctionReward(function, "f")
    assert all(signature.text in str(refusal.value) for signature in SIGNATURES)


@pytest.mark.parametrize("result", [[1.0], 1.0, "12", {"a": 1, "b": 2}, np.ones((2, 2))])
def test_a_batched_function_gives_one_number_an_answer(result):
    with pytest.raises(UserError, match="reward f returned .* for 2 answers, the first of which is '4'"):
        called(lambda prompts, responses: result, *TWO)


# -- columns --------------------------------------------------------------------------------------


def test_a_column_that_no_prompt_has_is_found_before_the_first_answer():
    def f(prompt, response, level, topic, ended, other=None):
        return 1.0

    reward = FunctionReward(f, "mine:f")
    said = "reward mine:f needs the column topic, which no prompt has."
    with pytest.raises(UserError, match=re.escape(said + " Found columns: level")):
        reward.check([Prompt(PROMPT, {"level": 1}), Prompt(PROMPT, {"level": 2})])
    with pytest.raises(UserError, match=re.escape(said + ' Did you mean "topics"? Found columns: level, topics')):
        reward.check([Prompt(PROMPT, {"level": 1})], found=["topics", "level"])


def test_a_prompt_that_lacks_a_column_gives_none():
    rows = [Prompt(PROMPT, {"level": 1, "x": 3}), Prompt(PROMPT, {"level": None}, where="a.jsonl line 2")]
    note = "reward f: 1 of 2 prompts have no level and give it None, e.g. a.jsonl line 2"
    seen = []

    def one(prompt, response, level, x=7, y=8):
        return seen.append((level, x, y))

    def many(prompts, responses, level, x=7, y=8):
        seen.append((level, x, y))
        return [None] * len(prompts)

    for function in (one, many):
        reward = FunctionReward(function, "f")
        assert reward.check(rows) == [note]
        reward([answer(**row.extra) for row in rows]).result()
        reward([answer(**rows[1].extra)]).result()
    assert seen == [(1, 3, 8), (None, 7, 8), (None, 7, 8), ([1, None], [3, None], 8), ([None], [None], 8)]


def test_a_name_inside_extra_info_is_a_column_and_a_column_comes_first():
    def f(prompt, response, level, topic):
        return level + topic

    assert called(f, answer(level=1, extra_info={"level": 50, "topic": 2})) == [3.0]
    missing = answer(level=1, extra_info={"theme": 2})
    with pytest.raises(UserError, match="Found columns: extra_info, extra_info.theme, level"):
        called(f, missing)


# -- the table of docs/ppo.md ---------------------------------------------------------------------


PAGE = Path(__file__).parents[2] / "docs" / "ppo.md"


EXAMPLES = re.findall(
    r"^```python\n((?:async )?def .*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


def test_the_page_shows_each_signature_once():
    shown = [FunctionReward(one(text), "f").signature for text in EXAMPLES]
    assert [shown.count(signature) for signature in SIGNATURES] == [3, 1, 2, 1], "also async, steps, columns"
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{signature.text}`" in page for signature in SIGNATURES)


def one(text):
    namespace = {}
    exec(text, namespace)
    return next(thing for name, thing in namespace.items() if name != "__builtins__")


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("(")[0])
def test_the_pages_examples_work(text):
    row = {"ground_truth": "4", "answer": 4, "data_source": "sums", "topic": "sums"}
    assert called(one(text), answer("4", **row), answer("please, no", **row)) in ([1.0, 0.0], [0.0, 1.0])
