"""Checks of text that stands where it should not: markup, end marks, other turns, the prompt, placeholders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from concordant.data.convert import answers_of, prompt_of
from concordant.data.records import Record
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.looked_at import FEW

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
        return Finding(name, "warning", seen, self.cause, self.cure, numbers={"share": share}, weight=0.9)


MISPLACED = {
    "markup_in_answers": Misplaced(
        "answers hold tags of HTML",
        "the text was taken from web pages",
        "Take the tags out of the answers, unless the model is to write HTML",
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
    if len(rows) < FEW:
        return []
    prompts = [messages[-1].content.strip() if messages else "" for messages, _ in rows]
    answers = [text for _, text in rows]
    repeats = [
        len(p) > limits("prompt_in_answers")["characters"] and a.lstrip().startswith(p)
        for p, a in zip(prompts, answers, strict=True)
    ]
    shares = {
        "markup_in_answers": (_share(len(_TAGS.findall(text)) > 1 for text in answers), ""),
        "end_mark_as_text": (_share(bool(_END_MARKS.search(text)) for text in answers), ""),
        "template_in_text": (_share(bool(_TEMPLATES.search(p + a)) for p, a in zip(prompts, answers, strict=True)), ""),
        "turns_in_answers": (_share(len(_TURNS.findall(text)) > 1 for text in answers), ""),
        "prompt_in_answers": (_share(repeats), ""),
        "prompts_alike": _most_common(prompts),
    }
    # To equal prompts equal answers are no wonder, and neither are they where all answers are one of a few labels.
    if min(len(set(prompts)), len(set(answers))) > len(prompts) / 2:
        shares["answers_placeholder"] = _most_common(answers)
    found = [MISPLACED[name].finding(name, *measured) for name, measured in shares.items()]
    return [finding for finding in found if finding is not None]


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / len(listed)


def _most_common(texts: Sequence[str]) -> tuple[float, str]:
    """The share of the most common text, and the text's beginning as a quotation."""
    text, count = Counter(texts).most_common(1)[0]
    return count / len(texts), f': "{text[:60]}"'
