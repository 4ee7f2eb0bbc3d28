import asyncio
import math
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from concordant.algorithms.reward_functions import SIGNATURES, FunctionReward, Handling
from concordant.algorithms.reward_sources import make_reward, wanted_columns
from concordant.algorithms.rewards import Answer, Reward, WeightedSum, filled, totals_together
from concordant.core.errors import UserError
from concordant.data.carried import Wanted
from concordant.data.convert import MODEL_REWARD
from concordant.data.records import Message, Prompt
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


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, "1", 1j, 10**400, np.ones(1)])
def test_what_is_no_finite_number_is_refused_with_the_answer(score):
    with pytest.raises(UserError, match="reward f returned .* for 'four': a finite number is expected"):
        FunctionReward(lambda prompt, response: score, "f")([answer("four")]).result()


def test_numbers_of_other_libraries_are_numbers():
    zero_dimensional = (np.array(1.0), np.bool_(True), torch.tensor(1), torch.tensor(1.0, requires_grad=True))
    for score in (True, 1, np.float32(1), np.int64(1), *zero_dimensional):
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


# -- the four signatures --------------------------------------------------------------------------


def called(function, *answers, **handling):
    return FunctionReward(function, "f", Handling(**handling))(list(answers)).result()


TWO = (answer("4", level=1), answer("four", ended=False, level=2))


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


def test_the_wanted_columns_of_the_sources():
    def of(function):
        return FunctionReward(function, "f").wanted

    assert of(lambda prompt, response, level, ended, other=1: 1.0) == Wanted(frozenset({"level", "other"}))
    assert of(lambda completions, prompts, answer, **kwargs: [1.0]) == Wanted(frozenset({"answer"}), every=True)
    assert of(lambda solution_str, ground_truth, **kwargs: 1.0) == Wanted(frozenset({"ground_truth"}))
    truth = Wanted(frozenset({"ground_truth"}))
    assert wanted_columns(["runs/reward/model", "rule:ends", "rule:contains=0.5"]) == truth
    assert not wanted_columns(["runs/reward/model", "rule:ends"])


def test_a_rule_abstains_where_there_is_no_truth():
    answers = [answer("4", ground_truth="4"), answer("5", ground_truth="4"), answer("None")]
    for name in ("rule:exact_match", "rule:contains"):
        scores = make_reward([name], no_model)(answers).result()
        assert (scores.total, scores.abstained) == ([1.0, 0.0, 0.5], 1)


def test_a_name_inside_extra_info_is_a_column_and_a_column_comes_first():
    def f(prompt, response, level, topic):
        return level + topic

    assert called(f, answer(level=1, extra_info={"level": 50, "topic": 2})) == [3.0]
    missing = answer(level=1, extra_info={"theme": 2})
    with pytest.raises(UserError, match="Found columns: extra_info, extra_info.theme, level"):
        called(f, missing)


# -- None, errors and time ------------------------------------------------------------------------

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
    (raises, r"reward f failed for 'four': KeyError: 'level' \(test_rewards.py line \d+\)"),
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


def test_a_module_that_changes_the_working_directory_does_so_alone(tmp_path, monkeypatch):
    (tmp_path / "goes_away.py").write_text("import os\nos.chdir('/')\ndef f(prompt, response): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = Path.cwd()
    make_reward(["goes_away:f"], no_model)
    assert Path.cwd() == before


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


def test_a_module_that_exits_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot import leaves_at_once \(SystemExit: called sys.exit\(0\)"):
        make_reward(["leaves_at_once:f"], no_model)


# -- the table of docs/ppo.md ---------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "ppo.md"
EXAMPLES = re.findall(
    r"^```python\n((?:async )?def .*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


def test_the_page_shows_each_signature_once():
    shown = [FunctionReward(one(text), "f").signature for text in EXAMPLES]
    assert [shown.count(signature) for signature in SIGNATURES] == [2, 1, 2, 1], "one also async, one for columns"
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


def test_the_placeholder_of_a_prompt_without_a_rule_is_no_ground_truth():
    with pytest.raises(UserError, match="needs the column ground_truth"):
        make_reward(["rule:exact_match"], no_model)([answer("1.0", reward_model=MODEL_REWARD)])


def test_a_rule_without_ground_truth_names_the_columns_it_found():
    with pytest.raises(UserError, match=r"needs the column ground_truth .* Found columns: level"):
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
