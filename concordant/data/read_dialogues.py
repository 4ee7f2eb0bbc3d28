"""Rows that hold one dialogue: to imitate, to continue, or with a verdict on its last answer.

The functions that read a prompt and an answer beside it stand here too; pairs and rankings use them.
"""

from __future__ import annotations

from concordant.data import fields
from concordant.data.dialogue import (
    AS_MESSAGES,
    Drop,
    Messages,
    check_demonstration,
    check_prompt,
    check_rating,
    is_hh,
    joined,
    parse_hh,
    read_answer,
    read_prompt,
    split_hh,
)
from concordant.data.records import Demonstration, Message, Prompt, Rating, Record
from concordant.data.rows import BadRow, Row

DIALOGUE_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "question", "query")
INSTRUCTION_INPUTS = ("input", "context")

Found = Record | Drop | list[Record]


def column_of(row: Row, names: tuple[str, ...]) -> str:
    """The first of ``names`` that the row fills, else the first that it has, else the first."""
    filled = [name for name in names if row.values.get(name) is not None]
    return next(iter(filled or [name for name in names if name in row.values] or names))


def prompt_in(row: Row, column: str = "prompt") -> Messages:
    """The messages of a prompt column: text in one of the three writings, or a list of messages."""
    value = row.values.get(column)
    if isinstance(value, list):
        return fields.messages(row, column, value)
    written = fields.text(row, column)
    messages = read_prompt(written) if written.strip() else ()
    for message in messages:  # escapes in JSON text may hide half of a surrogate pair
        fields.as_text(row, column, message.content)
        fields.as_text(row, column, message.reasoning_content)
    return messages


def instruction_in(row: Row) -> Messages:
    """Alpaca's prompt: earlier turns from ``history``, then the instruction with its input below."""
    parts = [fields.text(row, column) for column in ("instruction", *INSTRUCTION_INPUTS)]
    asked = "\n\n".join(part for part in parts if part.strip())
    return (*_history(row), Message("user", asked))


def _history(row: Row) -> Messages:
    messages: list[Message] = []
    for turn in fields.objects(row, "history", row.values.get("history") or None, "a list of [question, answer]"):
        if not isinstance(turn, list) or len(turn) != 2:
            raise fields.wrong_type(row, "history", turn, "a list of [question, answer]")
        messages += [Message("user", fields.as_text(row, "history", turn[0]))]
        messages += [Message("assistant", fields.as_text(row, "history", turn[1]))]
    return tuple(messages)


def answer_in(
    row: Row, column: str, prompt: Messages, prompt_column: str = "prompt"
) -> tuple[Messages, Message] | Drop:
    """The dialogue before an answer, and the answer, from text, a message, or messages that may repeat it."""
    value = row.values.get(column)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        written = row.values.get(prompt_column)
        answer = read_answer(written if isinstance(written, str) else AS_MESSAGES, prompt, fields.text(row, column))
        return answer if isinstance(answer, Drop) else (prompt, Message("assistant", answer))
    messages = fields.messages(row, column, value)
    if not any(m.role == "assistant" for m in messages):
        return Drop.NO_RESPONSE if messages else Drop.EMPTY_RESPONSE
    if messages[-1].role != "assistant":
        return Drop.RUNS_ON
    whole = joined(prompt, messages[:-1])
    return whole if isinstance(whole, Drop) else (whole, messages[-1])


def plain_answer(row: Row, column: str, message: Message) -> str:
    """The words of an answer that is compared or rated; a thought apart from them has no place there."""
    if message.reasoning_content:
        raise BadRow(
            fields.WRONG_TYPE,
            f'{row.where}: "{column}" has reasoning_content, which only answers to imitate can have. '
            "Write the thought into the content",
        )
    return message.content


# -- dialogues to imitate -----------------------------------------------------------------------------


def dialogue(row: Row, messages: Messages, learnt: list[bool] | None = None) -> Found:
    """A dialogue to imitate from its first answer to a person on; one without any answer is a prompt.

    ``learnt`` says of each message whether it may be learnt. Where an answer in the middle may not, the dialogue is
    given several times: each ends with answers to learn, and those that may not be learnt stand before them.
    """
    asked = next((i for i, m in enumerate(messages) if m.role == "user"), len(messages))
    answers = [i for i, m in enumerate(messages) if m.role == "assistant" and i > asked]
    if not answers:
        spoken = any(m.role == "assistant" for m in messages)
        return Drop.EMPTY_PROMPT if spoken else check_prompt(messages) or Prompt(messages)
    made: list[Record] = []
    first: int | None = None
    for i, following in zip(answers, [*answers[1:], None], strict=True):
        if learnt is not None and not learnt[i]:
            continue
        first = i if first is None else first
        if following is None or (learnt is not None and not learnt[following]):
            found = check_demonstration(Demonstration(messages[: i + 1], first))
            if isinstance(found, Drop):
                return found
            made.append(found)
            first = None
    return made or Drop.NOTHING_LEARNT


def messages_row(row: Row) -> Found:
    column = column_of(row, DIALOGUE_COLUMNS)
    messages, learnt = fields.weighted_messages(row, column, row.values.get(column))
    return dialogue(row, messages, learnt)


def prompt_response(row: Row) -> Found:
    column = column_of(row, PROMPT_COLUMNS)
    answer = answer_in(row, column_of(row, ("response", "completion")), prompt_in(row, column), column)
    if isinstance(answer, Drop):
        return answer
    before = (*_history(row), *answer[0])
    messages = (*before, answer[1])
    first = fields.number(row, "first_response", 0, len(messages) - 1)  # written by `prepare` where it must be told
    if first is None and not before:
        return Drop.EMPTY_PROMPT  # text to learn without a prompt says so, by a first_response of 0
    return check_demonstration(Demonstration(messages, len(messages) - 1 if first is None else int(first)))


def alpaca(row: Row) -> Found:
    prompt = instruction_in(row)
    column = column_of(row, ("output", "response", "generation"))
    answer = Message("assistant", fields.text(row, column))
    return check_demonstration(Demonstration((*prompt, answer), len(prompt)))


def text(row: Row) -> Found:
    """HH text is a dialogue; any other text is learnt from its first word, with no prompt."""
    written = fields.text(row, "text")
    if is_hh(written):
        return dialogue(row, parse_hh(written))
    return check_demonstration(Demonstration((Message("assistant", written),), 0))


def prompt_only(row: Row) -> Found:
    messages = prompt_in(row, column_of(row, PROMPT_COLUMNS))
    return check_prompt(messages) or Prompt(messages)


# -- rated answers ------------------------------------------------------------------------------------


def _label(row: Row) -> bool:
    return fields.label(row, column_of(row, ("label", "kto_tag")))


def unpaired(row: Row) -> Found:
    label = _label(row)
    column = column_of(row, ("completion", "response"))
    asked = column_of(row, PROMPT_COLUMNS)
    if asked in row.values or isinstance(row.values.get(column), list):
        answer = answer_in(row, column, prompt_in(row, asked), asked)
    else:
        split = split_hh(fields.text(row, column))
        answer = split if isinstance(split, Drop) else (parse_hh(split[0]), Message("assistant", split[1]))
    if isinstance(answer, Drop):
        return answer
    return check_rating(Rating(answer[0], plain_answer(row, column, answer[1]), label))


def rated_messages(row: Row) -> Found:
    column = column_of(row, DIALOGUE_COLUMNS)
    messages = fields.messages(row, column, row.values.get(column))
    if not any(m.role == "assistant" for m in messages):
        return Drop.NO_RESPONSE
    if messages[-1].role != "assistant":
        return Drop.RUNS_ON
    return check_rating(Rating(messages[:-1], plain_answer(row, column, messages[-1]), _label(row)))


def rated_alpaca(row: Row) -> Found:
    column = column_of(row, ("output", "response"))
    return check_rating(Rating(instruction_in(row), fields.text(row, column), _label(row)))


def stepwise(row: Row) -> Found:
    """An answer given in steps is one rated answer: good where every step is."""
    steps = [
        fields.as_text(row, "completions", s) for s in fields.objects(row, "completions", row.values["completions"])
    ]
    labels = fields.objects(row, "labels", row.values["labels"])
    if len(steps) != len(labels):
        raise fields.wrong_type(row, "labels", labels, f"a list of {len(steps)}, one for each of the completions")
    good = all([fields.as_label(row, "labels", label) for label in labels])
    return check_rating(Rating(prompt_in(row), "\n".join(steps), good))
