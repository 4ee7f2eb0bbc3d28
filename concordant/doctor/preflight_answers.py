"""Checks of what the answers say: marks on one side, exchanged columns, votes and halves that contradict each other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from statistics import median

from concordant.data.convert import answers_of, prompt_of
from concordant.data.records import Pair, Record
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.looked_at import FEW, spread

LOOKED_AT = 4_000  # records, evenly spread
LONGEST_PHRASE = 12  # words and signs
COMPARED = 300  # pairs whose texts are compared letter by letter
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ENDS = ".!?…:;)]}\"'`”’»。！？*>|"


def check_answers(records: Sequence[Record]) -> list[Finding]:
    """All findings about the words of the answers."""
    some = spread(records, LOOKED_AT)
    pairs = [record for record in some if isinstance(record, Pair)]
    in_order = [record for record in records if isinstance(record, Pair)]
    found = [
        columns_exchanged(some),
        one_sided(pairs) or pairs_alike(pairs),
        mirrored_pairs(in_order),
        labels_change(in_order),
        answers_cut(some) or cut_at_one_length(some),
        margins_too_large(pairs),
    ]
    return [finding for finding in found if finding is not None]


def marks(answer: str) -> set[str]:
    """What can be said of an answer by one look: its words and signs, how it begins and how it ends."""
    tokens = _TOKEN.findall(answer)
    if not tokens:
        return {"no word at all"}
    lines = "a line break" if "\n" in answer.strip() else "one line"
    return {f'"{t}"' for t in tokens} | {f'"{tokens[0]}" at the start', f'"{tokens[-1]}" at the end', lines}


REPEATS, PROMPT_AGAIN = "a phrase again and again", "its own prompt at the start"
TWO_WRITERS = "the two sides come from two writers or two formats, or a mark was added when the file was made"
WHOLE = {  # cause and cure
    REPEATS: (
        "one side was made by repeating a phrase: it is of another, trivial kind, and a pair is decided without "
        "reading the question",
        "Leave the pairs out, or write real answers for that side: what decides them is not what people prefer",
    ),
    PROMPT_AGAIN: (
        "one side repeats the prompt and the other does not, and this difference is what is learnt",
        "Take the prompt away from the beginning of the answers",
    ),
}


def _whole(answer: str, pair: Pair) -> set[str]:
    """What can be said of the answer as a whole."""
    words = answer.split()
    grams = {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
    asked = pair.prompt[-1].content.strip() if pair.prompt else ""
    found = {REPEATS} if words[5:] and len(grams) <= limits("one_sided")["distinct"] * (len(words) - 2) else set()
    is_again = len(asked) > limits("prompt_in_answers")["characters"] and answer.lstrip().startswith(asked)
    return found | ({PROMPT_AGAIN} if is_again else set())


def one_sided(pairs: Sequence[Pair]) -> Finding | None:
    """Does one mark tell chosen from rejected? Where neither or both answers have it, a coin decides."""
    at = limits("one_sided")
    if len(pairs) < at["pairs"]:
        return None
    leads = Counter[str]()
    for pair in pairs:
        chosen, rejected = (marks(text) | _whole(text, pair) for text in (pair.chosen, pair.rejected))
        leads.update(chosen - rejected)
        leads.subtract(rejected - chosen)
    mark, lead = max(leads.items(), key=lambda item: (abs(item[1]), item[0]), default=("", 0))
    # What is said of a whole answer explains its words: it comes first where it decides as many pairs.
    whole = max(WHOLE, key=lambda name: abs(leads[name]))
    if abs(leads[whole]) > at["whole"] * abs(lead):
        mark, lead = whole, leads[whole]
    accuracy = 0.5 + abs(lead) / (2 * len(pairs))
    if accuracy < at["accuracy"]:
        return None
    side = "chosen" if lead > 0 else "rejected"
    if mark not in WHOLE:
        mark = phrase_of(mark, [pair.chosen if lead > 0 else pair.rejected for pair in pairs], at["whole"])
    return Finding(
        "one_sided",
        "warning",
        f'"the {side} answer is the one with {mark}" is right in {accuracy:.0%} of {len(pairs):,} pairs',
        *WHOLE.get(mark, (TWO_WRITERS, f"Remove {mark} from the answers, or write it on both sides")),
        numbers={"accuracy": accuracy},
        weight=0.92,
    )


def phrase_of(mark: str, answers: Sequence[str], share: float) -> str:
    """The longest phrase that ``share`` of the answers with ``mark``, a quoted word or sign, have around it."""
    token = mark.split('"')[1] if mark.startswith('"') else ""
    cut = [list(_TOKEN.finditer(text)) for text in answers] if token else []
    phrase, needed = mark, share * sum(any(m.group() == token for m in tokens) for tokens in cut)
    for length in range(2, LONGEST_PHRASE + 1):
        found = Counter[str]()
        for text, tokens in zip(answers, cut, strict=False):
            runs = (tokens[i : i + length] for i in range(len(tokens) - length + 1))
            # A sign before a phrase ends the sentence before it.
            begins = (run for run in runs if run[0].group() == token or run[0].group().isalnum())
            parts = (run for run in begins if any(m.group() == token for m in run))
            found.update({text[run[0].start() : run[-1].end()] for run in parts})
        text, count = max(found.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if count < needed or not count:
            break
        phrase = f'"{text}"'
    return phrase


def columns_exchanged(records: Sequence[Record]) -> Finding | None:
    """Are the answers questions, and the prompts not?"""
    at = limits("columns_exchanged")
    answers = [text for record in records for text in answers_of(record)]
    prompts = [messages[-1].content for record in records if (messages := prompt_of(record))]
    if len(records) < FEW or not answers or not prompts:
        return None
    asks, asked = _share_of_questions(answers), _share_of_questions(prompts)
    if asks < at["answers"] or asked > at["prompts"]:
        return None
    is_pairs = any(isinstance(record, Pair) for record in records)
    return Finding(
        "columns_exchanged",
        "warning",
        f"{asks:.0%} of the answers end with a question mark, and {asked:.0%} of the prompts do",
        "prompt and response are exchanged",
        f"Exchange the columns: --data.columns prompt=NAME,{'chosen=NAME,rejected' if is_pairs else 'response'}=NAME",
        numbers={"answers": asks, "prompts": asked},
        weight=0.92,
    )


def _share_of_questions(texts: Sequence[str]) -> float:
    return sum(text.rstrip().endswith(("?", "？")) for text in texts) / len(texts)


def mirrored_pairs(pairs: Sequence[Pair]) -> Finding | None:
    """Do pairs stand in the file both ways?"""
    at = limits("mirrored_pairs")
    several = [count for count in votes(pairs) if count.total() > 1]
    mirrored = sum(len(count) == 2 and max(count.values()) == min(count.values()) for count in several)
    if mirrored < at["pairs"] or mirrored < at["share"] * len(several):
        return None
    return Finding(
        "mirrored_pairs",
        "error" if 2 * mirrored > 0.5 * len(pairs) else "warning",
        f"{mirrored:,} pairs stand in the file both ways, each answer once chosen and once rejected",
        "a file was joined with its own mirror image, or rows were doubled to balance positions",
        "Keep one row of each pair, the one that a person has chosen",
        numbers={"pairs": mirrored, "share": mirrored / len(several)},
        weight=0.95,
    )


def votes(pairs: Iterable[Pair]) -> Collection[Counter[str]]:
    """For each two answers to a prompt, how often each was chosen."""
    counts: defaultdict[object, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        counts[pair.prompt, frozenset((pair.chosen, pair.rejected))][pair.chosen] += 1
    return counts.values()


def labels_change(pairs: Sequence[Pair]) -> Finding | None:
    """Does length speak for the chosen answer in one half of the file and against it in the other?"""
    half = len(pairs) // 2
    if half < FEW:
        return None
    before, after = _longer_wins(pairs[:half]), _longer_wins(pairs[half:])
    is_opposite = (before - 0.5) * (after - 0.5) < 0
    if not is_opposite or abs(before - after) < limits("labels_change")["difference"]:
        return None
    return Finding(
        "labels_change",
        "warning",
        f"the longer answer is chosen in {before:.0%} of the first half of the pairs and in {after:.0%} of the second",
        "two files were joined, and in one of them chosen and rejected are exchanged",
        "Read ten pairs of each half; exchange chosen and rejected in the wrong one",
        numbers={"first": before, "second": after},
        weight=0.9,
    )


def _longer_wins(pairs: Sequence[Pair]) -> float:
    difference = [len(p.chosen) - len(p.rejected) for p in pairs]
    return sum((d > 0) + 0.5 * (d == 0) for d in difference) / len(pairs)


def answers_cut(records: Sequence[Record]) -> Finding | None:
    """Do answers end inside a sentence?"""
    at = limits("answers_cut")
    long = list(_long_answers(records, int(at["words"])))
    share = sum(not text.rstrip().endswith(tuple(_ENDS)) for text in long) / max(1, len(long))
    if len(long) < FEW or share < at["share"]:
        return None
    seen = f"{share:.0%} of the answers of {at['words']:.0f} words and more end without a mark of punctuation"
    cause = "answers were cut at a number of characters or tokens when the file was made"
    cure = "Make the file again without the limit, or leave out the rows that were cut"
    return Finding("answers_cut", "warning", seen, cause, cure, numbers={"share": share}, weight=0.75)


def cut_at_one_length(records: Sequence[Record]) -> Finding | None:
    """Are many different answers of one length, the greatest? Cutting at a number of characters does that."""
    at = limits("answers_cut")
    texts = {text.rstrip() for record in records for text in answers_of(record)}
    longest = max(map(len, texts), default=0)
    ends = tuple(_ENDS)
    at_limit = [text for text in texts if longest - 1 <= len(text)]
    cut = [text for text in at_limit if not text.endswith(ends) and not _ends_as_it_should(text)]
    share = len(cut) / max(1, len(texts))
    if len(texts) < FEW or longest < at["characters"] or share < at["one_length"]:
        return None
    return Finding(
        "answers_cut",
        "warning",
        f"{share:.0%} of the different answers have {longest} characters, and none has more",
        "answers were cut at a number of characters when the file was made: they end inside a sentence or a word",
        "Make the file again without the limit, or leave out the rows that were cut",
        numbers={"share": share, "characters": longest},
        weight=0.9,
    )


def pairs_alike(pairs: Sequence[Pair]) -> Finding | None:
    """Are the two answers of most pairs almost the same text?"""
    at, some = limits("pairs_alike"), spread(pairs, COMPARED)
    alike = [p.chosen != p.rejected and _similarity(p.chosen, p.rejected) > at["similarity"] for p in some]
    share = sum(alike) / max(1, len(some))
    if len(some) < at["pairs"] or share < at["share"]:
        return None
    seen = f"in {share:.0%} of the pairs chosen and rejected are almost the same text"
    cause = "ties were kept, and labelled by chance: such pairs carry no preference"
    cure = "Leave out pairs whose answers differ by a space, a mark or a word"
    return Finding("pairs_alike", "warning", seen, cause, cure, numbers={"share": share}, weight=0.9)


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def margins_too_large(pairs: Sequence[Pair]) -> Finding | None:
    at, margins = limits("margins_too_large"), [abs(pair.margin) for pair in pairs if pair.margin is not None]
    if len(margins) < at["pairs"] or median(margins) < at["margin"]:
        return None
    return Finding(
        "margins_too_large",
        "warning",
        f"half of the margins are {median(margins):.3g} and more, and the scores of a reward model differ by about 1",
        "the margins are in percent or points, and not in units of the reward: the loss asks for a lead that no score "
        "can have",
        f"Divide the margins by {median(margins):.2g}, or leave the column out: --data.columns margin=",
        numbers={"margin": median(margins)},
        weight=0.9,
    )


def _long_answers(records: Sequence[Record], words: int) -> Iterator[str]:
    for record in records:
        for text in map(str.rstrip, answers_of(record)):
            if text.count(" ") + 1 >= words and text[-1:].isascii() and not _ends_as_it_should(text):
                yield text


def _ends_as_it_should(text: str) -> bool:
    """Whether no mark is expected: after an address, and where other lines have none either (a list, a poem, code)."""
    before = [line for line in map(str.rstrip, text.splitlines()[:-1]) if line]
    bare = sum(not line.endswith(tuple(_ENDS)) for line in before)
    return "://" in text.split()[-1] or bool(before) and 2 * bare >= len(before)
