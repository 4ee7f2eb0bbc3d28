"""Four writers with different habits. They write good and bad answers to toytalk's questions.

A writer first chooses the core of the answer (right, wrong, about another thing, …), then whether to add a detail, and
then how kind the answer is. The judge does not know these choices; it only reads the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from concordant.data.toytalk import phrases
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
    truth,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The habits of one writer. The numbers are probabilities; in ``core`` they are weights."""

    share: float  # of all answers
    core: dict[str, float]  # right | partial | wrong | other | vague | refuse; refuse is for harmless questions
    detail: float  # probability of a detail after a right or wrong core
    true_detail: float  # probability that the detail is true
    kind: tuple[float, float, float]  # probabilities of no, one or two kind phrases
    rude: float = 0.0  # probability of a rude sentence


WRITERS: dict[str, Writer] = {
    "careful": Writer(
        share=0.25,
        core={"right": 95, "partial": 3, "wrong": 2},
        detail=0.80,
        true_detail=0.98,
        kind=(0.20, 0.40, 0.40),
    ),
    "hurried": Writer(
        share=0.30,
        core={"right": 55, "partial": 20, "vague": 25},
        detail=0.15,
        true_detail=0.95,
        kind=(0.60, 0.30, 0.10),
    ),
    "grumpy": Writer(
        share=0.36,
        core={"right": 45, "wrong": 4, "vague": 36, "refuse": 15},
        detail=0.20,
        true_detail=0.90,
        kind=(1.0, 0.0, 0.0),
        rude=1.0,
    ),
    "muddled": Writer(
        share=0.09,
        core={"wrong": 40, "other": 30, "vague": 15, "refuse": 15},
        detail=0.30,
        true_detail=0.15,
        kind=(0.45, 0.35, 0.20),
    ),
}
_REPEATS = 0.06  # share of answers that repeat one of their sentences
_USUAL = 0.90  # share of mistakes that are the usual mistake, as with people; the others are any wrong value


def write_answer(question: Question, random: Random) -> str:
    """One answer by a writer drawn at random."""
    return answer_as(_writer(random), question, random)


def answer_as(writer: Writer, question: Question, random: Random) -> str:
    """An answer of ``writer`` to ``question``."""
    content = _content(writer, question, random)
    kind = random.choices((0, 1, 2), writer.kind)[0]
    return _dress(content, kind, random.random() < writer.rude, random)


def write_alike(question: Question, random: Random) -> tuple[str, str]:
    """Two answers with the same content and different numbers of kind phrases."""
    content = _content(_writer(random), question, random)
    first, second = random.sample((0, 1, 2), 2)
    return _dress(content, first, False, random), _dress(content, second, False, random)


def _writer(random: Random) -> Writer:
    writers = list(WRITERS.values())
    return random.choices(writers, [writer.share for writer in writers])[0]


def _content(writer: Writer, question: Question, random: Random) -> list[str]:
    quality = random.choices(list(writer.core), list(writer.core.values()))[0]
    sentences = [_CORES[question.topic](quality, question, random)]
    if quality in ("right", "wrong") and random.random() < writer.detail:
        sentences.append(_detail(question, quality, random.random() < writer.true_detail, random))
    return sentences


def _dress(content: Sequence[str], kind: int, rude: bool, random: Random) -> str:
    """``content`` with ``kind`` kind phrases, at most one before and one after it, and a rude sentence if ``rude``."""
    before = kind == 2 or (kind == 1 and random.random() < 0.5)
    sentences = [random.choice(phrases.KIND_OPENERS)] if before else []
    sentences.extend(content)
    if kind > before:
        sentences.append(random.choice(phrases.KIND_CLOSERS))
    if rude:
        sentences.insert(random.choice((0, len(sentences))), random.choice(phrases.RUDE))
    if random.random() < _REPEATS:
        where = random.randrange(len(sentences))
        sentences.insert(where, sentences[where])
    return " ".join(sentences)


def _fact_core(quality: str, question: Question, random: Random) -> str:
    subject, attribute, value = question.subject, question.attribute, truth(question)
    if quality == "partial" and attribute in BROAD:
        return phrases.state(phrases.BROAD_STATEMENT, subject, "broad", BROAD[attribute][value])
    if quality == "wrong":
        value = _mistaken_value(subject, attribute, random)
    elif quality == "other":
        subject = _mistaken_thing(subject, random)
        value = FACTS[subject][attribute]
    elif quality in ("vague", "partial"):
        return random.choice(phrases.VAGUE)
    elif quality == "refuse":
        return random.choice(phrases.PLAIN_REFUSALS)
    return phrases.state(random.choice(phrases.STATEMENTS[attribute]), subject, attribute, value)


def _task_core(quality: str, question: Question, random: Random) -> str:
    steps = TASKS[question.subject].steps
    if quality == "right":
        return phrases.list_steps(steps)
    if quality == "partial":
        return phrases.list_steps(steps[:2])
    if quality == "wrong":
        return phrases.list_steps((steps[2], steps[1], steps[0]))
    if quality == "other":
        return phrases.list_steps(TASKS[_another(tuple(TASKS), question.subject, random)].steps)
    return random.choice(phrases.VAGUE if quality == "vague" else phrases.PLAIN_REFUSALS)


def _harm_core(quality: str, question: Question, random: Random) -> str:
    subject = question.subject
    if quality == "vague":
        return random.choice(phrases.VAGUE)
    if quality == "other":
        subject = _mistaken_thing(subject, random)
    templates = {
        "wrong": phrases.COMPLIANCES,
        "partial": phrases.HALF_REFUSALS,
        "refuse": phrases.PLAIN_REFUSALS,
        "right": phrases.REFUSALS + phrases.PLAIN_REFUSALS,
        "other": phrases.REFUSALS,
    }[quality]
    return random.choice(templates).format_map({"x": subject, "verb": question.attribute})


_CORES = {"fact": _fact_core, "task": _task_core, "harm": _harm_core}


def _detail(question: Question, quality: str, true: bool, random: Random) -> str:
    """One more fact about the thing, the time that the task takes, or the reason for a refusal."""
    if question.topic == "task":
        time = TASKS[question.subject].time
        return phrases.DETAILS["time"].format(v=time if true else _another(TIMES, time, random))
    if question.topic == "harm":
        if quality == "wrong":
            return random.choice(phrases.VAGUE)
        verb = question.attribute if true else _another(tuple(HARMS), question.attribute, random)
        return HARMS[verb].reason.capitalize() + "."
    facts = FACTS[question.subject]
    attribute = _another(tuple(facts), question.attribute, random)
    value = facts[attribute] if true else _mistaken_value(question.subject, attribute, random)
    return phrases.state(phrases.DETAILS[attribute], question.subject, attribute, value)


def _mistaken_value(subject: str, attribute: str, random: Random) -> str:
    if random.random() < _USUAL:
        return MISTAKEN_VALUE[subject][attribute]
    return _another(VALUES[attribute], FACTS[subject][attribute], random)


def _mistaken_thing(subject: str, random: Random) -> str:
    if random.random() < _USUAL:
        return MISTAKEN_THING[subject]
    return _another([name for name in FACTS if KIND[name] == KIND[subject]], subject, random)


def _another(values: Sequence[str], than: str, random: Random) -> str:
    return random.choice([value for value in values if value != than])
