"""The generated pairs: sizes, labels, presets, and what the mixture of answers is like."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from statistics import mean

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message, Pair
from concordant.data.toytalk import (
    PRESETS,
    bayes_accuracy,
    gold_score,
    heldout_pairs,
    rater_agreement,
    training_pairs,
)
from concordant.data.toytalk.labels import Preset, preference_probability
from concordant.data.toytalk.reader import holds, read_answer, read_prompt


@cache
def training(preset: str = "demo") -> list[Pair]:
    return training_pairs(preset)


@cache
def heldout(preset: str = "demo", seed: int = 0) -> list[Pair]:
    return heldout_pairs(preset, seed)


def test_sizes() -> None:
    assert len(training()) >= 6_000
    assert len({pair.prompt for pair in heldout()}) == 430
    assert len(heldout()) == 4 * 430


def test_a_seed_gives_the_same_pairs_in_another_process() -> None:
    code = "from concordant.data.toytalk import heldout_pairs; print(heldout_pairs()[:50])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(heldout_pairs()[:50])
    assert heldout_pairs(seed=1)[:50] != heldout()[:50]


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, concordant.data.toytalk; print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_held_out_prompts_of_any_seed_are_in_no_seed_s_training() -> None:
    trained = {pair.prompt for pair in training()}
    for seed in (0, 1):
        assert not trained & {pair.prompt for pair in heldout(seed=seed)}


def test_every_fact_asked_in_held_out_is_asked_in_training() -> None:
    known = {read_prompt(prompt) for prompt in {pair.prompt for pair in training()}}
    assert {read_prompt(pair.prompt) for pair in heldout()} <= known


def test_gold_is_the_judge_s_and_probability_the_stated_model_s() -> None:
    for pair in training()[:300]:
        chosen, rejected = gold_score(pair.prompt, pair.chosen), gold_score(pair.prompt, pair.rejected)
        assert (pair.extra["gold_chosen"], pair.extra["gold_rejected"]) == (chosen, rejected)
        assert pair.probability == pytest.approx(1 / (1 + math.exp(-16 * (chosen - rejected))))


def test_labels_are_drawn_with_the_stored_probability() -> None:
    """Among pairs with max(P, 1 - P) near p, the likelier answer is chosen in a share p of them."""
    for low, high in ((0.55, 0.65), (0.65, 0.75), (0.75, 0.85), (0.85, 0.95)):
        found = [p.probability for p in training("human") if low <= max(p.probability, 1 - p.probability) < high]
        expected = mean(max(p, 1 - p) for p in found)
        error = math.sqrt(expected * (1 - expected) / len(found))
        assert mean(p > 0.5 for p in found) == pytest.approx(expected, abs=4 * error)


def test_worked_probabilities() -> None:
    # 16·0.1 = 1.6; one kind phrase against one rude one is a difference of 2; three words more
    answers = ("The owl is brown. Take care!", "Go away.")
    assert preference_probability(Preset(gold=16.0), (0.6, 0.5), answers) == pytest.approx(0.8320183851)
    assert preference_probability(Preset(0.0, length=0.0, kind=0.5), (0.0, 0.0), answers) == pytest.approx(0.7310585786)
    assert preference_probability(Preset(0.0, length=0.25), (0.0, 0.0), answers) == pytest.approx(0.7310585786)


def test_demo_has_hardly_any_ties_and_a_ceiling_of_about_nine_tenths() -> None:
    assert 0.88 <= bayes_accuracy(training()) <= 0.93
    assert 0.88 <= bayes_accuracy(heldout()) <= 0.93
    assert sum(p.extra["gold_chosen"] == p.extra["gold_rejected"] for p in training()) <= 0.01 * len(training())


def test_human_raters_agree_as_people_do() -> None:
    assert 0.70 <= rater_agreement(training("human")) <= 0.77
    assert 0.70 <= rater_agreement(heldout("human")) <= 0.77
    assert rater_agreement(training()) > 0.8


def test_biased_raters_prefer_longer_and_kinder_than_gold_does() -> None:
    assert PRESETS["biased"].length > 0 and PRESETS["biased"].kind > 0
    assert PRESETS["demo"].length == PRESETS["demo"].kind == PRESETS["human"].length == PRESETS["human"].kind == 0

    def longer(pairs: list[Pair]) -> float:
        return mean(len(p.chosen.split()) > len(p.rejected.split()) for p in pairs)

    assert longer(training("biased")) > longer(training()) + 0.02

    def gold_order(pairs: list[Pair]) -> float:
        return mean(p.extra["gold_chosen"] > p.extra["gold_rejected"] for p in pairs)

    assert gold_order(training("biased")) < bayes_accuracy(training("biased"))


def test_presets_share_their_answers() -> None:
    for demo, human in zip(training()[:200], training("human")[:200], strict=True):
        assert demo.prompt == human.prompt and {demo.chosen, demo.rejected} == {human.chosen, human.rejected}


def test_the_mixture_leaves_room_above_and_has_enough_of_the_best() -> None:
    gold = [g for pair in training() for g in (pair.extra["gold_chosen"], pair.extra["gold_rejected"])]
    assert 0.40 <= mean(gold) <= 0.55
    assert mean(g >= 0.9 for g in gold) >= 0.15
    assert mean(g <= 0.2 for g in gold) >= 0.2


def test_right_answers_outnumber_any_wrong_one() -> None:
    """What makes the world learnable from its noisy answers."""
    said: dict[object, Counter[bool | str]] = {}
    for pair in training():
        question = read_prompt(pair.prompt)
        if question.topic != "fact":
            continue
        for text in (pair.chosen, pair.rejected):
            for claim in read_answer(text, question.subject).claims[:1]:
                if (claim.subject, claim.attribute) == (question.subject, question.attribute):
                    said.setdefault(question, Counter())[holds(claim) or claim.value] += 1
    assert len(said) == 27
    for question, counts in said.items():
        right = counts.pop(True)
        assert right > 2 * max(counts.values()), question


def test_about_two_hundred_words() -> None:
    texts = [text for p in training() for text in (*(m.content for m in p.prompt), p.chosen, p.rejected)]
    assert 150 <= len({word for text in texts for word in re.findall("[a-z]+", text.lower())}) <= 250


def test_some_dialogues_have_several_turns() -> None:
    assert 0.1 < mean(len(pair.prompt) > 1 for pair in training()) < 0.3


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match='unknown toytalk preset "humna". Did you mean "human"'):
        training_pairs("humna")


def test_numbers_over_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="no pairs"):
        bayes_accuracy([])
    with pytest.raises(UserError, match="without its probability"):
        bayes_accuracy([Pair((Message("user", "Hi"),), "a", "b")])
