"""The formats data comes in, how each is recognised, and what its rows become.

``FORMATS`` is the whole list, the more demanding before the less: the first whose columns are there is the one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

from concordant.config.names import DataFormat
from concordant.data import fields
from concordant.data.dialogue import (
    AS_MESSAGES,
    Drop,
    Messages,
    check_demonstration,
    check_pair,
    check_prompt,
    check_rating,
    is_hh,
    joined,
    parse_hh,
    read_answer,
    read_prompt,
    split_hh,
)
from concordant.data.files import BadRow, BadRows, Row
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record

VERL_COLUMNS = ("data_source", "ability", "reward_model", "extra_info")
SAMPLE = 16  # first rows of a file whose columns decide its format
NEAR = 0.8  # difflib similarity above which an unknown column is taken for a slip of the pen


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    name: DataFormat
    columns: tuple[str, ...]  # all must be there; "a|b": one of the two
    convert: Callable[[Row], Record | Drop]
    accepts: Callable[[Mapping[str, Any]], bool] = lambda values: True  # a look at one row's values

    def has(self, column: str, found: Container[str]) -> bool:
        return any(name in found for name in column.split("|"))

    def lacks(self, found: Container[str]) -> list[str]:
        return [column for column in self.columns if not self.has(column, found)]


def _hh(row: Row) -> Record | Drop:
    """Both sides are whole dialogues: split at the final assistant turn; all before must agree, letter by letter."""
    chosen, rejected = split_hh(fields.text(row, "chosen")), split_hh(fields.text(row, "rejected"))
    if isinstance(chosen, Drop):
        return chosen
    if isinstance(rejected, Drop):
        return rejected
    if chosen[0] != rejected[0]:
        return Drop.PROMPTS_DIFFER
    return _pair(row, parse_hh(chosen[0]), chosen[1], rejected[1])


def _pair(row: Row, prompt: Messages, chosen: str, rejected: str) -> Pair | Drop:
    margin, probability = fields.number(row, "margin"), fields.number(row, "probability", 0, 1)
    return check_pair(Pair(prompt, chosen, rejected, margin=margin, probability=probability, extra=_extra(row)))


def _extra(row: Row) -> dict[str, Any]:
    """What verl's columns hold; objects may stand there as JSON text."""
    extra = {column: row.values[column] for column in VERL_COLUMNS if row.values.get(column) is not None}
    for column, value in extra.items():
        if isinstance(value, str) and value.startswith("{"):
            try:
                extra[column] = json.loads(value)
            except (ValueError, RecursionError):
                raise fields.wrong_type(row, column, value, "an object (as JSON text)") from None
    return extra


def _prompt(row: Row) -> Messages:
    value = row.values.get("prompt")
    if isinstance(value, list):
        return fields.messages(row, "prompt", value)
    written = fields.text(row, "prompt")
    return read_prompt(written) if written.strip() else ()


def _answer(row: Row, column: str, prompt: Messages) -> tuple[Messages, str] | Drop:
    """The dialogue before an answer, and the answer, from text, a message, or messages that may repeat it."""
    value = row.values.get(column)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        written = row.values.get("prompt")
        answer = read_answer(written if isinstance(written, str) else AS_MESSAGES, prompt, fields.text(row, column))
        return answer if isinstance(answer, Drop) else (prompt, answer)
    messages = fields.messages(row, column, value)
    if not any(m.role == "assistant" for m in messages):
        return Drop.NO_RESPONSE if messages else Drop.EMPTY_RESPONSE
    if messages[-1].role != "assistant":
        return Drop.RUNS_ON
    whole = joined(prompt, messages[:-1])
    return whole if isinstance(whole, Drop) else (whole, messages[-1].content)


def _two_answers(row: Row, prompt: Messages) -> Record | Drop:
    chosen, rejected = _answer(row, "chosen", prompt), _answer(row, "rejected", prompt)
    if isinstance(chosen, Drop):
        return chosen
    if isinstance(rejected, Drop):
        return rejected
    return _pair(row, chosen[0], chosen[1], rejected[1]) if chosen[0] == rejected[0] else Drop.PROMPTS_DIFFER


def _preference(row: Row) -> Record | Drop:
    return _two_answers(row, _prompt(row))


def _implicit(row: Row) -> Record | Drop:
    return _two_answers(row, ())


def _sharegpt_preference(row: Row) -> Record | Drop:
    return _two_answers(row, fields.messages(row, "conversations", row.values.get("conversations")))


def _dialogue(messages: Messages) -> Record | Drop:
    """A dialogue to imitate from its first answer to a person on; one without any answer is a prompt."""
    spoken = [i for i, m in enumerate(messages) if m.role == "assistant"]
    asked = next((i for i, m in enumerate(messages) if m.role == "user"), len(messages))
    answers = [i for i in spoken if i > asked]
    if not answers:
        return Drop.EMPTY_PROMPT if spoken else check_prompt(messages) or Prompt(messages)
    return check_demonstration(Demonstration(messages[: answers[-1] + 1], answers[0]))


def _messages(row: Row) -> Record | Drop:
    return _dialogue(fields.messages(row, "messages", row.values.get("messages")))


def _sharegpt(row: Row) -> Record | Drop:
    return _dialogue(fields.messages(row, "conversations", row.values.get("conversations")))


def _prompt_response(row: Row) -> Record | Drop:
    answer = _answer(row, "response" if "response" in row.values else "completion", _prompt(row))
    if isinstance(answer, Drop):
        return answer
    messages = (*answer[0], Message("assistant", answer[1]))
    first = fields.number(row, "first_response", 0, len(messages) - 1)  # written by `prepare` where it must be told
    if first is None and not answer[0]:
        return Drop.EMPTY_PROMPT  # text to learn without a prompt says so, by a first_response of 0
    return check_demonstration(Demonstration(messages, len(messages) - 1 if first is None else int(first)))


def _alpaca(row: Row) -> Record | Drop:
    parts = [fields.text(row, "instruction"), fields.text(row, "input")]
    asked = "\n\n".join(part for part in parts if part.strip())
    system = fields.text(row, "system")
    messages = [Message("system", system)] if system.strip() else []
    for turn in row.values.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise fields.wrong_type(row, "history", turn, "a list of [question, answer]")
        messages += [Message("user", fields.as_text(row, "history", turn[0]))]
        messages += [Message("assistant", fields.as_text(row, "history", turn[1]))]
    messages += [Message("user", asked), Message("assistant", fields.text(row, "output"))]
    return check_demonstration(Demonstration(tuple(messages), len(messages) - 1))


def _text(row: Row) -> Record | Drop:
    """HH text is a dialogue; any other text is learnt from its first word, with no prompt."""
    written = fields.text(row, "text")
    if is_hh(written):
        return _dialogue(parse_hh(written))
    return check_demonstration(Demonstration((Message("assistant", written),), 0))


def _unpaired(row: Row) -> Record | Drop:
    label = fields.label(row, "label")
    if "prompt" in row.values or isinstance(row.values.get("completion"), list):
        answer = _answer(row, "completion", _prompt(row))
    else:
        split = split_hh(fields.text(row, "completion"))
        answer = split if isinstance(split, Drop) else (parse_hh(split[0]), split[1])
    return answer if isinstance(answer, Drop) else check_rating(Rating(answer[0], answer[1], label))


def _prompt_only(row: Row) -> Record | Drop:
    messages = _prompt(row)
    return check_prompt(messages) or Prompt(messages, _extra(row))


def _sides(values: Mapping[str, Any], kind: type) -> bool:
    return all(isinstance(values.get(side), kind) for side in ("chosen", "rejected"))


FORMATS: dict[DataFormat, Format] = {
    f.name: f
    for f in (
        Format(
            name="sharegpt_preference", columns=("conversations", "chosen", "rejected"), convert=_sharegpt_preference
        ),
        Format(name="preference", columns=("prompt", "chosen", "rejected"), convert=_preference),
        Format(
            name="hh",
            columns=("chosen", "rejected"),
            convert=_hh,
            accepts=lambda v: _sides(v, str) and any(is_hh(v[s]) for s in ("chosen", "rejected")),
        ),
        Format(name="implicit", columns=("chosen", "rejected"), convert=_implicit, accepts=lambda v: _sides(v, list)),
        Format(name="sharegpt", columns=("conversations",), convert=_sharegpt),
        Format(name="messages", columns=("messages",), convert=_messages),
        Format(name="unpaired", columns=("completion", "label"), convert=_unpaired),
        Format(name="alpaca", columns=("instruction", "output"), convert=_alpaca),
        Format(name="prompt_response", columns=("prompt", "response|completion"), convert=_prompt_response),
        Format(name="verl", columns=("data_source", "prompt"), convert=_prompt_only),
        Format(name="text", columns=("text",), convert=_text),
        Format(name="prompt", columns=("prompt",), convert=_prompt_only),
    )
}
KNOWN_COLUMNS = {name for f in FORMATS.values() for column in f.columns for name in column.split("|")}


def recognise(sample: list[Row]) -> Format:
    """The format of a file whose first rows are ``sample`` (at least one row).

    Raises BadRow naming the missing column and the closest format, also where a simpler format would fit
    but a column looks like one of a richer format misspelt: half-recognised data must not train.
    """
    found = {name for row in sample for name, value in row.values.items() if value is not None}
    match = next(
        (f for f in FORMATS.values() if not f.lacks(found) and any(f.accepts(row.values) for row in sample)), None
    )
    if match is None:
        closest = max(FORMATS.values(), key=lambda f: (_closeness(f, found), len(f.columns)))
        column = next(iter(closest.lacks(found)), closest.columns[0]).split("|")[0]
        if not closest.lacks(found):  # chosen + rejected that are neither HH text nor messages
            closest, column = FORMATS["preference"], "prompt"
        raise fields.missing(_example(sample, column), column, closest.columns)
    richer = next((f for f in FORMATS.values() if _half_there(f, match, found)), None)
    if richer is not None:
        column = richer.lacks(found)[0].split("|")[0]
        hint = f"\nif the data is {' + '.join(match.columns)} as it stands: --data.format={match.name}"
        raise fields.missing(_example(sample, column), column, richer.columns, hint)
    return match


def _example(sample: list[Row], column: str) -> Row:
    return next((row for row in sample if row.values.get(column) is None), sample[0])


def _near(column: str, found: set[str]) -> float:
    """How much of ``column`` is there: 1 for an exact name, the similarity for a near one, else 0."""
    if column in found:
        return 1.0
    unknown = [name for name in found if name not in KNOWN_COLUMNS]
    best = max((difflib.SequenceMatcher(None, column, name).ratio() for name in unknown), default=0.0)
    return best if best >= NEAR else 0.0


def _closeness(candidate: Format, found: set[str]) -> float:
    per_column = [max(_near(name, found) for name in column.split("|")) for column in candidate.columns]
    return sum(per_column) / len(per_column)


def _half_there(candidate: Format, match: Format, found: set[str]) -> bool:
    """True if ``candidate`` shares a column with ``match``, lacks one, and has (nearly) one ``match`` does not use."""
    used = {name for column in match.columns for name in column.split("|")} & found
    own = [column for column in candidate.columns if column not in used]
    return len(own) < len(candidate.columns) and bool(candidate.lacks(found)) and any(_near(c, found) for c in own)


def read_records(rows: Iterator[Row], name: DataFormat, bad: BadRows, seen: set[str]) -> Iterator[Record | Drop]:
    """Each row as a record, or the reason it is dropped; ``name`` is a format or "auto".

    The format is settled file by file and added to ``seen``. Bad rows go to ``bad``.
    Raises UserError for a file no format fits, even when bad rows are skipped.
    """
    for _, group in groupby(rows, key=lambda row: row.file):
        head = list(islice(group, SAMPLE))
        chosen = recognise(head) if name == "auto" else FORMATS[name]
        seen.add(chosen.name)
        for row in chain(head, group):
            try:
                absent = chosen.lacks(row.values)
                if absent:
                    raise fields.missing(row, absent[0].split("|")[0], chosen.columns)
                yield chosen.convert(row)
            except BadRow as error:
                bad.report(error.reason, str(error))
