"""The world of sums: what is held out, what is mistaken, and what each demonstration says."""

import re

import pytest

from concordant.config.data import DataConfig
from concordant.core.errors import UserError
from concordant.data import sums
from concordant.data.records import Demonstration, Prompt
from concordant.data.sources import open_source
from concordant.data.splits import load_records


def numbers(demonstration):
    return tuple(map(int, re.findall(r"\d+", demonstration.messages[0].content)))


@pytest.mark.parametrize("preset", ["direct", "calculator"])
def test_half_of_the_demonstrations_count_one_too_many(preset):
    made = sums.training_sums(preset)
    assert len(made) == 6000
    wrong = 0
    for d in made:
        a, b = numbers(d)
        assert d.extra == {"ground_truth": str(a + b)} and d.first_response == 1
        said = int(d.messages[-1].content)
        assert said - (a + b) in (0, 1)
        wrong += said != a + b
        if preset == "calculator":
            _, asked, reply, _ = d.messages
            assert reply.role == "tool" and reply.content == str(said) == str(eval(asked.content.removeprefix("calc")))
    assert wrong / len(made) == pytest.approx(0.5, abs=0.03)


def test_held_out_prompts_are_in_no_training_and_their_sums_are_in_all():
    held = {d.messages[0].content for d in sums.heldout_sums()}
    assert len(held) == 80 and held == {d.messages[0].content for d in sums.heldout_sums("calculator", seed=5)}
    for seed in range(3):
        training = sums.training_sums(seed=seed)
        assert not held & {d.messages[0].content for d in training}
        assert {numbers(d) for d in sums.heldout_sums()} <= {numbers(d) for d in training}
    assert sums.training_sums(seed=1) == sums.training_sums(seed=1) != sums.training_sums(seed=2)


def test_sft_and_ppo_read_the_same_prompts():
    learnt = load_records(DataConfig("builtin:sums/calculator"), Demonstration, seed=0)
    asked = load_records(DataConfig("builtin:sums"), Prompt, seed=0)
    assert [len(d.messages) for d in learnt.train] == [4] * 6000
    assert {p.messages for p in asked.test} == {d.messages[:1] for d in learnt.test}
    assert len(asked.train) == 320 and all(p.extra.keys() == {"ground_truth"} for p in asked.train)


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match=r'unknown sums preset "calc"'):
        open_source("builtin:sums/calc", 0)
