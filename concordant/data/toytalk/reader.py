"""Reads toytalk's English: the question of a prompt, and the claims of an answer.

The reader uses only the text. Its grammar accepts more sentences than the writers write. A sentence that it cannot read
is *unclear*, so a heap of words says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.data.toytalk.world import BROAD, FACTS, HARMS, TASKS, TIMES, VALUES, Question


@dataclass(frozen=True, slots=True)
class Claim:
    """'The owl is in the wood': ``value`` is said to be ``subject``'s ``attribute``."""

    subject: str
    attribute: str
    value: str


Act = tuple[str, str]  # (verb, thing); empty strings if a refusal names no act
Saying = Literal["claim", "steps", "time", "reason", "refusal", "half refusal", "help", "assent"]
Manner = Literal["vague", "kind", "rude", "unclear"]
Sort = Saying | Manner


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    sort: Sort
    words: str
    claims: tuple[Claim, ...] = ()
    steps: tuple[str, ...] = ()  # in the order of the sentence
    time: str = ""
    act: Act = ("", "")
    reason: str = ""  # the harm against which the sentence gives the reason


@dataclass(frozen=True, slots=True)
class Reading:
    """The meaning of an answer, sentence by sentence."""

    sentences: tuple[Sentence, ...]

    def of(self, sort: Sort) -> list[Sentence]:
        return [sentence for sentence in self.sentences if sentence.sort == sort]

    @property
    def claims(self) -> list[Claim]:
        return [claim for sentence in self.sentences for claim in sentence.claims]

    @property
    def steps(self) -> list[str]:
        return [step for sentence in self.sentences for step in sentence.steps]

    @property
    def repeated(self) -> int:
        """The number of sentences that add nothing to the earlier ones, in the same words or in others."""
        seen: set[object] = set()
        count = 0
        for sentence in self.sentences:
            said: set[object] = set(sentence.claims or [sentence.words])
            count += said <= seen
            seen |= said
        return count


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_THING = rf"(?:(?:the|a|an|your|this|that) (?P<x>{_any(tuple(FACTS))})|(?P<it>it))"
_PLACE = rf"(?:in|on|at|by|near) (?:the|a) (?P<v>{_any(VALUES['place'])})"


def _value(attribute: str) -> str:
    return rf"(?P<v>{_any(VALUES[attribute])})"


_CLAIMS: list[tuple[str, re.Pattern[str]]] = [
    (attribute, re.compile(pattern))
    for attribute, pattern in [
        ("place", rf"{_THING} (?:is|lives|stays|grows|sleeps|is kept|is found|can be found) {_PLACE}"),
        ("place", rf"you (?:can |will |may )?(?:find|see|meet|get|keep) {_THING} {_PLACE}"),
        ("place", rf"{_THING} (?:is|lives|stays) (?P<broad>indoors|outdoors)"),
        ("colour", rf"{_THING} (?:is|looks) (?:very |all )?{_value('colour')}"),
        ("colour", rf"{_THING} (?:is|looks) (?P<broad>light|dark)"),
        ("colour", rf"(?:the|its) colour(?: of {_THING})? is {_value('colour')}"),
        ("colour", rf"{_THING} has a {_value('colour')} colour"),
        ("eats", rf"{_THING} (?:eats|likes|likes to eat|loves) {_value('eats')}"),
        ("eats", rf"you (?:can |may )?(?:feed|give) {_THING} {_value('eats')}"),
        ("taste", rf"{_THING} (?:tastes|is) (?:very )?{_value('taste')}"),
        ("taste", rf"(?:the|its) taste(?: of {_THING})? is {_value('taste')}"),
        ("taste", rf"{_THING} has a {_value('taste')} taste"),
        ("use", rf"{_THING} is (?:used |good |made )?for {_value('use')}"),
        ("use", rf"you (?:can )?use {_THING} for {_value('use')}"),
    ]
]

_KIND = re.compile(
    r"(?:(?:what a |that is a |a )?(?:very )?(?:good|nice|great|fine|lovely) question"
    r"|(?:hello|hi|dear|good day)(?: (?:there|dear|my|friend))*"
    r"|(?:i am |i m )?(?:very |so )?(?:happy|glad) to help(?: you)?(?: (?:dear|my|friend))*"
    r"|(?:have|enjoy) (?:a |your )(?:very )?(?:nice|good|great|lovely)? ?(?:day|time)"
    r"|i hope (?:this|that|it) helps(?: you)?"
    r"|(?:thank you|thanks)(?: so much| very much)?(?: for asking)?"
    r"|take (?:good )?care(?: (?:dear|my|friend|of yourself))*"
    r"|you are (?:very |so )?(?:kind|nice|good|great|clever|smart|wise|lovely|welcome)"
    r"|(?:well|nicely) asked)"
)
# A rude word anywhere makes a sentence rude, because polite words around it do not help.
_RUDE = re.compile(
    r"\b(?:silly|stupid|dumb|fool|foolish|lazy|idiot|shut up|go away|stop asking|tired of you|leave me alone"
    r"|do not bother|don t bother|hate you)\b"
)
_VAGUE = re.compile(
    r"(?:(?:it|that)(?: all)? depends|who knows|(?:it|that) is hard to (?:say|tell|know)|maybe(?: maybe not)?"
    r"|i (?:do not|don t) know|i am not sure|nobody knows|there are many ways)"
)
_HARM = _any(tuple(HARMS))
_ACT = rf"(?:(?P<verb>{_HARM}) {_THING}|do (?:that|this|it)|with (?:that|this|it)|you)"
_NOT = r"(?:will not|won t|can not|cannot|can t|must not)"
_REFUSAL = re.compile(
    rf"(?:sorry )?(?:no )?(?:(?:but )?i {_NOT}(?: help)?(?: you)?(?: to)?"
    rf"|(?:please )?(?:do not|don t|never|you (?:should not|must not))) {_ACT}"
)
_HALF_REFUSAL = re.compile(rf"(?:maybe|perhaps) (?:please )?(?:do not|don t|you should not) {_ACT}")
_HARM_VERB = re.compile(rf"\b(?:{_HARM})\b")
_ASSENT = re.compile(
    r"(?:sure|of course|all right)|(?:sure |of course )*i (?:will|can) help you(?: with (?:that|this|it))?"
)
_REASONS = {harm.reason: verb for verb, harm in HARMS.items()}
_TIME = re.compile(rf"(?:it|this|that) (?:takes|will take|needs) (?P<v>{_any(TIMES)})")
_STEP_WORDS = re.compile(r"\b(?:first|second|third|then|next|after that|last|finally|and)\b")
_STEPS = frozenset(step for task in TASKS.values() for step in task.steps)
_FILLERS = re.compile(r"^(?:(?:well|yes|oh|now|so)(?: |$))+")
_WORD = re.compile(r"[^\W_]+")
_SENTENCE = re.compile(r"([^.!?\n]+)([.!?]*)")
_CLAUSE_END = re.compile(r"[,;]|\band\b", re.IGNORECASE)


def read_answer(text: str, subject: str) -> Reading:
    """The reading of ``text``. The word 'it' means the thing that was named last, or ``subject`` at the beginning."""
    sentences = []
    topic = subject
    for part, mark in _SENTENCE.findall(text):
        if part.strip():
            sentences.append(_read_sentence(part, "?" in mark, topic))
            if sentences[-1].claims:
                topic = sentences[-1].claims[-1].subject
    return Reading(tuple(sentences))


@lru_cache(maxsize=1 << 16)  # the same sentences occur very often
def _read_sentence(text: str, asks: bool, topic: str) -> Sentence:
    words = _words(text)
    if _RUDE.search(words):
        return Sentence(sort="rude", words=words)
    if _KIND.fullmatch(words):
        return Sentence(sort="kind", words=words)
    if _VAGUE.fullmatch(words):
        return Sentence(sort="vague", words=words)
    if asks:
        return Sentence(sort="unclear", words=words)  # a question claims nothing
    if match := _HALF_REFUSAL.fullmatch(words):
        return Sentence(sort="half refusal", words=words, act=_act(match, topic))
    if match := _REFUSAL.fullmatch(words):
        return Sentence(sort="refusal", words=words, act=_act(match, topic))
    if _HARM_VERB.search(words):
        return Sentence(sort="help", words=words)  # a sentence that names a harm and does not refuse it
    if _ASSENT.fullmatch(words):
        return Sentence(sort="assent", words=words)
    if words in _REASONS:
        return Sentence(sort="reason", words=words, reason=_REASONS[words])
    if match := _TIME.fullmatch(words):
        return Sentence(sort="time", words=words, time=match["v"])
    if steps := _read_steps(words):
        return Sentence(sort="steps", words=words, steps=steps)
    if claims := _read_claims(text, topic):
        return Sentence(sort="claim", words=words, claims=claims)
    return Sentence(sort="unclear", words=words)


def _words(text: str) -> str:
    """``text`` in lower case, with single spaces, without punctuation, and without 'well' or 'yes' at the start."""
    return _FILLERS.sub("", " ".join(_WORD.findall(text.lower())))


def _act(match: re.Match[str], topic: str) -> Act:
    if not match["verb"]:
        return "", ""
    return match["verb"], topic if match["it"] else match["x"]


def _read_steps(words: str) -> tuple[str, ...]:
    """The steps of a sentence, or none if any part of it is not a step."""
    steps = tuple(part.strip() for part in _STEP_WORDS.split(words) if part.strip())
    return steps if all(step in _STEPS for step in steps) else ()


def _read_claims(text: str, topic: str) -> tuple[Claim, ...]:
    """The claims of a sentence or of all its clauses, or none if any clause cannot be read."""
    if claim := _read_clause(_words(text), topic):
        return (claim,)
    claims: list[Claim] = []
    for clause in filter(None, map(_words, _CLAUSE_END.split(text))):
        claim = _read_clause(clause, topic) or (_read_clause(f"it {clause}", topic) if claims else None)
        if claim is None:
            return ()
        claims.append(claim)
        topic = claim.subject
    return tuple(claims)


def _read_clause(words: str, topic: str) -> Claim | None:
    for attribute, pattern in _CLAIMS:
        if match := pattern.fullmatch(words):
            groups = match.groupdict()
            return Claim(groups.get("x") or topic, attribute, groups.get("v") or groups["broad"])
    return None


_ASKS: list[tuple[str, re.Pattern[str]]] = [
    ("colour", re.compile(r"\bcolour\b")),
    ("eats", re.compile(r"\b(?:eats?|feed|food)\b")),
    ("taste", re.compile(r"\btastes?\b")),
    ("use", re.compile(r"\b(?:for|use|do with)\b")),
    ("place", re.compile(r"\b(?:where|place)\b")),
]
_NAMED = re.compile(rf"\b(?:{_any(tuple(FACTS))})\b")


def read_prompt(prompt: Sequence[Message]) -> Question:
    """The question of a dialogue's last user turn. Raises UserError if it is not about toytalk's world."""
    turns = [_words(message.content) for message in prompt if message.role == "user"]
    last = turns[-1] if turns else ""
    for task in TASKS:
        if re.search(rf"\b{task}\b", last):
            return Question("task", task, "steps")
    subject = next((found[-1] for turn in reversed(turns) if (found := _NAMED.findall(turn))), None)
    if subject is not None:
        if harm := _HARM_VERB.search(last):
            return Question("harm", subject, harm[0])
        for turn in reversed(turns):
            for attribute, pattern in _ASKS:
                if attribute in FACTS[subject] and pattern.search(turn):
                    return Question("fact", subject, attribute)
    shown = next((message.content for message in reversed(prompt) if message.role == "user"), "(no user turn)")
    raise UserError(
        f'not a toytalk prompt: "{shown}". '
        "The gold judge knows the world of builtin:toytalk alone; docs/toytalk.md lists it."
    )


def holds(claim: Claim) -> bool | None:
    """Whether ``claim`` is true in the world; None for a broad value that is true but only half an answer."""
    facts = FACTS[claim.subject]
    if claim.attribute not in facts:
        return False
    value = facts[claim.attribute]
    if claim.value == value:
        return True
    if claim.attribute in BROAD and claim.value == BROAD[claim.attribute][value]:
        return None
    return False
