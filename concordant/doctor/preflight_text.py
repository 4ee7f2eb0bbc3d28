"""Checks of text that stands where it should not: markup, end marks, other turns, the prompt, placeholders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from concordant.data.convert import answers_of, prompt_of
from concordant.data.records import Record
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding

_TAGS = re.compile(r"</?(?:p|br|div|span|b|i|em|strong|ul|ol|li|html|body|h[1-6]|a)\b[^>]*>", re.IGNORECASE)
_END_MARKS = re.compile(
    r"(?:</s>|<eos>|\[EOS\]|<\|(?:im_end|endoftext|eot_id|end)\|>|<end_of_turn>)\s*$", re.IGNORECASE
)
_TEMPLATES = re.compile(
    r"<\|(?:im_start|user|system|start_header_id)\|>|\[/?INST\]|<start_of_turn>|### (?:Instruction|Response):"
)
_TURNS = re.compile(
    r"(?:^|\n)\s*(?:###\s*)?(?:human|user|question|assistant|answer|instruction|q|a)\s*:", re.IGNORECASE
)


WEIGHT = {"prompts_alike": 0.94, "markup_in_answers": 0.94, "template_in_text": 0.94}  # others follow from these
SOME = 24  # rows, at least


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A row of the table of findings: what is seen of so many prompts or answers, the likely cause, and the cure."""

    seen: str
    cause: str
    cure: str

    def finding(self, name: str, share: float, quoted: str = "") -> Finding | None:
        if share < limits(name)["share"]:
            return None
        seen = f"{share:.0%} of the {self.seen}{quoted}"
        return Finding(
            name, "warning", seen, self.cause, self.cure, numbers={"share": share}, weight=WEIGHT.get(name, 0.9)
        )


MISPLACED = {
    "markup_in_answers": Misplaced(
        "answers hold tags of HTML",
        "the text was taken from web pages",
        "Take the tags out of the answers, and write entities (&nbsp;) as text, unless the model is to write HTML",
    ),
    "end_mark_as_text": Misplaced(
        "answers end with an end mark that is written as text",
        "the rows were rendered for another model",
        "Take the mark out of the answers: the chat template writes the end token",
    ),
    "template_in_text": Misplaced(
        "rows hold marks of a chat template in their text",
        "the text has been through a chat template before, perhaps that of another model",
        "Give plain text or messages: take the template's marks out of prompts and answers",
    ),
    "turns_in_answers": Misplaced(
        "answers hold further turns, such as a line that begins with a role",
        "a whole dialogue was written into one answer",
        "Give the dialogue as messages with role and content, a message a turn",
    ),
    "prompt_in_answers": Misplaced(
        "answers begin with their own prompt",
        "prompt and answer were joined in one column",
        "Take the prompt away from the beginning of the answers",
    ),
    "answer_in_prompts": Misplaced(
        "prompts end with their own answer",
        "the prompts were made from the finished text and already contain the answer",
        "Take the answers out of the prompts: make the prompts from what was asked alone",
    ),
    "prompts_alike": Misplaced(
        "prompts are the same text",
        "the column with the question is missing, or another column was read as the prompt",
        "Map the right column: --data.columns prompt=NAME",
    ),
    "answers_placeholder": Misplaced(
        "answers are the same text",
        "answers are missing in the file, and a placeholder stands in their place",
        "Leave out the rows without an answer",
    ),
}


def check_text(records: Sequence[Record]) -> list[Finding]:
    """All findings about text in the wrong place."""
    # Of a pair only the chosen answer is imitated.
    rows = [(prompt_of(record), text) for record in records for text in answers_of(record)[:1]]
    if not rows:
        asked = [messages[-1].content.strip() for record in records if (messages := prompt_of(record))]
        alike = (
            MISPLACED["prompts_alike"].finding("prompts_alike", *_most_common(asked)) if len(asked) >= SOME else None
        )
        return [alike] if alike else []
    if len(rows) < SOME:
        return []
    prompts = [messages[-1].content.strip() if messages else "" for messages, _ in rows]
    answers = [text for _, text in rows]
    repeats = [
        len(p) > limits("prompt_in_answers")["characters"] and a.lstrip().startswith(p)
        for p, a in zip(prompts, answers, strict=True)
    ]
    shares = {
        "markup_in_answers": (_share(len(_TAGS.findall(text)) > 1 for text in answers), ""),
        "template_in_text": (_share(bool(_TEMPLATES.search(p + a)) for p, a in zip(prompts, answers, strict=True)), ""),
        "answer_in_prompts": (_share(_gives_away(p, a) for p, a in zip(prompts, answers, strict=True)), ""),
        "end_mark_as_text": (_share(bool(_END_MARKS.search(text)) for text in answers), ""),
        "turns_in_answers": (_share(len(_TURNS.findall(text)) > 1 for text in answers), ""),
        "prompt_in_answers": (_share(repeats), ""),
    }
    asked = [messages[-1].content.strip() for messages, _ in rows if messages]  # plain text is learnt without a prompt
    if len(asked) >= SOME:
        shares["prompts_alike"] = _most_common(asked)
    # To equal prompts equal answers are no wonder, and neither are they where all answers are one of a few labels.
    common = _most_common(answers)
    others = [text for text in answers if text != Counter(answers).most_common(1)[0][0]]
    if len(set(prompts)) > len(prompts) / 2 and len(set(others)) > len(others) / 2 and others:
        shares["answers_placeholder"] = common
    return _findings(shares)


def _findings(shares: Mapping[str, tuple[float, str]]) -> list[Finding]:
    found = [MISPLACED[name].finding(name, *measured) for name, measured in shares.items()]
    return [finding for finding in found if finding is not None]


def _gives_away(prompt: str, answer: str) -> bool:
    """Whether the prompt ends with the answer. A question about a text may hold its answer elsewhere."""
    at, answer = limits("answer_in_prompts"), answer.strip()
    return len(answer) > at["characters"] and len(prompt) > len(answer) and prompt.endswith(answer)


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / len(listed)


def _most_common(texts: Sequence[str]) -> tuple[float, str]:
    """The share of the most common text, and the text's beginning as a quotation."""
    text, count = Counter(texts).most_common(1)[0]
    return count / len(texts), f': "{text[:60]}"'
