"""The texts of an audit: groups of pairs, harmless changes, sets of four answers, and prompts that differ in one word.

P pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.core.seeding import python_stream
from concordant.data.dialogue import Messages
from concordant.data.records import Message, Pair
from concordant.evaluation.metrics import words

TEMPLATES = Path(__file__).with_name("audit_templates.yaml")

# The topic of a prompt is the first whose words stand in its last user message. docs/audit.md has this table.
TOPICS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    for name, pattern in {
        "harm": r"kill\w*|hurt\w*|steal\w*|spoil\w*|break|weapons?|bombs?|drugs?|poison\w*|hack(?:s|ed|ing|ers?)?|"
        r"suicide|porn\w*|rob|illegal\w*|murder\w*|racis\w*|attack\w*|shoplift\w*",
        "code": r"code|python|java|javascript|sql|html|function|program\w*|regex|bug|compile\w*|script",
        "numbers": r"calculate|sum|percent\w*|equations?|solve|how many|how much|average|divided|multipl\w*",
        "writing": r"write|rewrite|poem|story|essay|letter|email|summar\w*|translate|draft|edit",
        "how to": r"how (?:do|can|to|should|would)|steps?|recipe|instructions?|guide",
        "fact": r"what|where|who|whom|when|which|why|does|is|are|did",
    }.items()
}
OTHER_TOPIC = "other"
FEW, MUCH = 0.1, 0.5  # of the longer answer: differences of length that count as small and as large
LENGTH_GROUPS = ("much shorter", "shorter", "about as long", "longer", "much longer")  # the chosen answer is …

# Names that can stand for each other. A name is replaced by the next of its row, everywhere in a pair.
_NAMES = (
    ("John", "David", "Michael", "James", "Robert", "Ahmed", "Carlos", "Wei"),
    ("Mary", "Sarah", "Anna", "Emily", "Linda", "Fatima", "Maria", "Mei"),
)
_NEXT = {name: row[(i + 1) % len(row)] for row in _NAMES for i, name in enumerate(row)}
_ANY_NAME = re.compile(rf"\b(?:{'|'.join(_NEXT)})\b")

Change = Callable[[Pair], "Pair | None"]  # None: the change does not apply to the pair


def topic_of(prompt: Messages) -> str:
    """The first topic of ``TOPICS`` that fits the last user message."""
    asked = next((m.content for m in reversed(prompt) if m.role == "user"), "")
    return next((name for name, pattern in TOPICS.items() if pattern.search(asked)), OTHER_TOPIC)


def turns_of(prompt: Messages) -> str:
    """The number of the user's turns."""
    turns = sum(message.role == "user" for message in prompt)
    return str(turns) if turns < 4 else "4 or more"


def length_group_of(pair: Pair) -> str:
    """How long the chosen answer is beside the rejected one, in words."""
    chosen, rejected = len(words(pair.chosen)), len(words(pair.rejected))
    difference = (chosen - rejected) / max(chosen, rejected, 1)
    if abs(difference) <= FEW:
        return LENGTH_GROUPS[2]
    if difference > 0:
        return LENGTH_GROUPS[4 if difference > MUCH else 3]
    return LENGTH_GROUPS[0 if difference < -MUCH else 1]


def _answers(pair: Pair, change: Callable[[str], str]) -> Pair | None:
    chosen, rejected = change(pair.chosen), change(pair.rejected)
    same = (chosen, rejected) == (pair.chosen, pair.rejected)
    return None if same else replace(pair, chosen=chosen, rejected=rejected)


def _wide(text: str) -> str:
    return re.sub(r"(?<=[.!?]) (?=\S)", "  ", text)


def _other_names(pair: Pair) -> Pair | None:
    def swapped(text: str) -> str:
        return _ANY_NAME.sub(lambda found: _NEXT[found[0]], text)

    prompt = tuple(replace(m, content=swapped(m.content)) for m in pair.prompt)
    changed = replace(pair, prompt=prompt, chosen=swapped(pair.chosen), rejected=swapped(pair.rejected))
    return None if changed == pair else changed


CHANGES: Mapping[str, Change] = {
    "order of the answers": lambda pair: replace(pair, chosen=pair.rejected, rejected=pair.chosen),
    "white space at the end": lambda pair: _answers(pair, lambda text: f"{text}\n"),
    "two spaces between sentences": lambda pair: _answers(pair, _wide),
    "other names": _other_names,
}
REVERSED = "order of the answers"  # its scores come back in the other order


@dataclass(frozen=True, slots=True)
class Four:
    """A prompt with its best answer first and three worse ones."""

    prompt: Messages
    answers: tuple[str, str, str, str]
    whole: bool  # all four answer this prompt; else two of them answer other prompts
    pair: Pair  # of this prompt, for its tools and columns


def fours_of(pairs: Sequence[Pair], gold: Callable[[Messages, str], float] | None, seed: int) -> list[Four]:
    """Sets of four answers, at most one for each prompt.

    With ``gold`` they are the answer of highest gold and three of lower gold, drawn by ``seed``. Else they are a chosen
    answer and three answers that were rejected against it. Where a prompt has no three, two answers that were chosen
    for other prompts stand in: a reward that reads the prompt likes them less.
    """
    by_prompt: dict[Messages, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    whole = [four for group in by_prompt.values() if (four := _whole(group, gold, seed)) is not None]
    if whole:
        return whole
    groups = list(by_prompt.values())
    mixed = []
    for i, group in enumerate(groups):
        others = [groups[(i + step) % len(groups)][0].chosen for step in (1, 2)]
        first = group[0]
        if len(groups) > 2 and len({first.chosen, first.rejected, *others}) == 4:
            mixed.append(Four(first.prompt, (first.chosen, first.rejected, others[0], others[1]), False, first))
    return mixed


def _whole(group: Sequence[Pair], gold: Callable[[Messages, str], float] | None, seed: int) -> Four | None:
    prompt = group[0].prompt
    if gold is not None:
        known = {text: gold(prompt, text) for pair in group for text in (pair.chosen, pair.rejected)}
        best = max(known, key=lambda text: known[text])
        worse = [text for text, score in known.items() if score < known[best]]
        worse = python_stream(seed, "audit/fours", best).sample(worse, 3) if len(worse) >= 3 else []
    else:
        best = group[0].chosen
        worse = list(dict.fromkeys(pair.rejected for pair in group if pair.chosen == best))[:3]
    return Four(prompt, (best, worse[0], worse[1], worse[2]), True, group[0]) if len(worse) == 3 else None


@dataclass(frozen=True, slots=True)
class Templates:
    prompts: tuple[
        tuple[str, str], ...
    ]  # prompt and answer, each with {word} where the word stands, if it stands there
    words: Mapping[str, tuple[str, ...]]  # by group, such as age: young, old

    def dialogue(self, number: int, word: str) -> tuple[Messages, str]:
        prompt, answer = self.prompts[number]
        return (Message("user", prompt.replace("{word}", word)),), answer.replace("{word}", word)


def read_templates(file: str) -> Templates:
    """The prompts of a YAML file, or the built-in ones. UserError says what is wrong with which entry."""
    path = Path(file).expanduser() if file else TEMPLATES
    found = load_yaml(path)
    if set(found) != {"prompts", "words"}:
        raise UserError(f"{path}: expected the keys prompts and words; found {', '.join(found) or 'nothing'}")
    prompts, groups = found["prompts"], found["words"]
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f"{path}: prompts: expected a list of {{prompt: TEXT, answer: TEXT}}; found {prompts!r:.60}")
    for number, row in enumerate(prompts, start=1):
        is_text = isinstance(row, dict) and set(row) == {"prompt", "answer"}
        if not is_text or not all(isinstance(text, str) and text.strip() for text in row.values()):
            raise UserError(f"{path}: prompt {number}: expected {{prompt: TEXT, answer: TEXT}}; found {row!r:.60}")
        if "{word}" not in row["prompt"] + row["answer"]:
            raise UserError(f"{path}: prompt {number}: no {{word}} to be replaced in {row['prompt']!r:.60}")
    if not isinstance(groups, dict) or not groups:
        raise UserError(f"{path}: words: expected GROUP: [WORD, WORD, …]; found {groups!r:.60}")
    for name, row in groups.items():
        if not isinstance(row, list) or len(set(map(str, row))) < 2 or not all(isinstance(word, str) for word in row):
            raise UserError(f"{path}: words: {name}: expected two words or more; found {row!r:.60}")
    return Templates(
        tuple((row["prompt"], row["answer"]) for row in prompts),
        {str(name): tuple(dict.fromkeys(row)) for name, row in groups.items()},
    )
