"""Where a reward comes from: a rule, a function of a module, or a model, each with its weight."""

import re
from pathlib import Path

import pytest

from concordant.algorithms.reward_functions import FunctionReward
from concordant.algorithms.reward_sources import make_reward, wanted_columns
from concordant.core.errors import UserError
from concordant.data.carried import Wanted
from concordant.data.convert import MODEL_REWARD
from concordant.engines.protocol import Done
from tests.algorithms.answers import answer, no_model


def test_the_same_source_twice_counts_twice():
    assert make_reward(["rule:ends", "rule:ends=2"], no_model)([answer()]).result().total == [3.0]


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


def test_a_module_that_changes_the_working_directory_does_so_alone(tmp_path, monkeypatch):
    (tmp_path / "goes_away.py").write_text("import os\nos.chdir('/')\ndef f(prompt, response): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = Path.cwd()
    make_reward(["goes_away:f"], no_model)
    assert Path.cwd() == before


def test_a_module_that_exits_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot import leaves_at_once \(SystemExit: called sys.exit\(0\)"):
        make_reward(["leaves_at_once:f"], no_model)


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
        (["math:sqr"], 'math has no function sqr. Did you mean "sqrt"?'),
        (["rewards/mine.py:f"], 'Did you mean "rewards.mine:f"? A module has no ending and a dot for each folder'),
        (["math:pi"], 'reward "math:pi": math has no function pi'),
        (["math:"], 'reward "math:": math has no function'),
        (["runs/rm=heavy"], 'reward "runs/rm=heavy": expected SOURCE=WEIGHT with a number, found "heavy"'),
        (["rule:ends=nan"], 'reward "rule:ends=nan": expected SOURCE=WEIGHT with a number, found "nan"'),
    ],
)
def test_sources_that_lead_nowhere(sources, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_reward(sources, lambda name: lambda answers: [])
