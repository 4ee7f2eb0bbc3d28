"""The split: held-out wordings, known questions."""

from __future__ import annotations

from concordant.data.toytalk import gold_score
from concordant.data.toytalk.phrases import OPENERS
from concordant.data.toytalk.prompts import GROUPS, ToyPrompt, prompts
from concordant.data.toytalk.world import (
    BROAD,
    FACTS,
    HARMS,
    KIND,
    MISTAKEN_THING,
    MISTAKEN_VALUE,
    TASKS,
    TIMES,
    VALUES,
    Question,
    all_questions,
)


def every(held_out: bool) -> list[ToyPrompt]:
    return [prompt for group in GROUPS for prompt in prompts(group, held_out)]


def without_opener(prompt: ToyPrompt) -> str:
    text = prompt.messages[-1].content
    return next(text.removeprefix(o) for o in sorted(OPENERS, key=len, reverse=True) if text.startswith(o))


def test_no_prompt_is_on_two_sides_and_none_occurs_twice() -> None:
    training, held = ([p.messages for p in every(side)] for side in (False, True))
    assert not set(training) & set(held)
    assert len(set(training)) == len(training) and len(set(held)) == len(held)


def test_every_question_is_asked_on_both_sides() -> None:
    expected = set(all_questions())
    assert {p.question for p in every(False)} == expected
    assert {p.question for p in every(True)} == expected


def test_a_held_out_wording_is_held_out_whatever_the_opener() -> None:
    wordings = {side: {without_opener(p) for p in every(side) if len(p.messages) == 1} for side in (False, True)}
    assert not wordings[False] & wordings[True]


def test_first_turns_of_follow_ups_show_no_held_out_wording() -> None:
    held = {without_opener(p) for p in every(True) if len(p.messages) == 1}
    assert not held & {p.messages[0].content for p in every(False) if len(p.messages) > 1}


def test_follow_ups_have_a_right_answer_before_them() -> None:
    for prompt in [*prompts("follow-up", False), *prompts("follow-up", True)]:
        assert gold_score(prompt.messages[:1], prompt.messages[1].content) == 0.6


def test_usual_mistakes_are_mistakes_and_of_the_same_sort() -> None:
    for name, facts in FACTS.items():
        assert KIND[MISTAKEN_THING[name]] == KIND[name] and MISTAKEN_THING[name] != name
        for attribute, value in facts.items():
            assert MISTAKEN_VALUE[name][attribute] in set(VALUES[attribute]) - {value}


def test_the_world_is_balanced_and_whole() -> None:
    for attribute in ("place", "colour"):
        assert {sum(f[attribute] == v for f in FACTS.values()) for v in VALUES[attribute]} <= {1, 2}
        assert set(BROAD[attribute]) == set(VALUES[attribute])
    assert {sum(kind == k for k in KIND.values()) for kind in KIND.values()} == {3}
    assert {task.time for task in TASKS.values()} == set(TIMES)
    steps = [step for task in TASKS.values() for step in task.steps]
    assert len(set(steps)) == len(steps)
    assert len({harm.reason for harm in HARMS.values()}) == len(HARMS)
    assert Question("harm", "owl", "break") not in all_questions()  # one cannot break an owl
