"""Dialogues as text: reads and writes HH-RLHF's "\\n\\nHuman: … \\n\\nAssistant: …" without loss.

A ``prompt`` column holds one of three forms, and its beginning tells which: plain text (one user message), HH text
(several turns, open at the end), or a JSON list of messages (everything else).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from concordant.data.records import Demonstration, Message, Pair, Rating, Role

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
AS_MESSAGES = "[{"  # the beginning of a prompt that is a JSON list of messages
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}

Messages = tuple[Message, ...]


class Drop(StrEnum):
    """Why a well-formed row cannot be used, in the words of the data card."""

    PROMPTS_DIFFER = "prompts differ"
    EMPTY_PROMPT = "empty prompt"
    EMPTY_RESPONSE = "empty response"
    EQUAL = "chosen = rejected"
    NO_RESPONSE = "no response"
    RUNS_ON = "another turn after the response"
    PROMPT_ENDS_WITH_RESPONSE = "prompt ends with a response"
    PROMPT_ONLY = "prompt only"
    ONE_RESPONSE = "one response only"
    TIE = "no answer is preferred"
    NOTHING_LEARNT = "no message to learn"
    RATED_BAD = "rated as a bad answer"
    OTHER_BRANCH = "in no pair and no dialogue"


def is_hh(text: str) -> bool:
    """True for text written as HH turns, and False for a question that only begins with "Human:"."""
    return text.startswith((HUMAN, ASSISTANT)) or (text.startswith("Human:") and ASSISTANT in text)


def parse_hh(text: str) -> Messages:
    """The turns of an HH text, without white space around each.

    Text before the first turn becomes a system message. Two turns of one speaker in a row become one turn, because
    chat templates require that speakers alternate.
    """
    parts = _TURN.split("\n\n" + text.lstrip())
    messages = [Message("system", parts[0].strip())] if parts[0].strip() else []
    for speaker, part in zip(parts[1::2], parts[2::2], strict=True):
        role, content = _SPEAKERS[speaker], part.strip()
        if messages and messages[-1].role == role:
            content = f"{messages.pop().content}\n\n{content}".strip()
        messages.append(Message(role, content))
    return tuple(messages)


def split_hh(text: str) -> tuple[str, str] | Drop:
    """The text before the final assistant turn, and the words of this turn."""
    at = text.rfind(ASSISTANT)
    if at < 0:
        return Drop.EMPTY_PROMPT if text.startswith("Assistant:") else Drop.NO_RESPONSE
    answer = end_of_answer(text[at + len(ASSISTANT) :])
    return answer if isinstance(answer, Drop) else (text[:at], answer)


def end_of_answer(text: str) -> str | Drop:
    """An HH answer without white space around it and without an open "Human:" turn, or a Drop if a turn follows."""
    answer = text.strip().removesuffix("Human:").rstrip() if text.rstrip().endswith(HUMAN) else text.strip()
    return Drop.RUNS_ON if HUMAN in answer or ASSISTANT in answer else answer


def read_prompt(text: str) -> Messages:
    """The messages of a ``prompt`` string in any of the three forms."""
    if text.startswith(AS_MESSAGES):
        return _from_json(text) or (Message("user", text),)
    if not is_hh(text):
        return (Message("user", text),)
    return parse_hh(text.rstrip().removesuffix("Assistant:") if text.rstrip().endswith(ASSISTANT) else text)


def _from_json(text: str) -> Messages | None:
    """The messages, if ``text`` is a JSON list of ``{"role", "content"}`` and nothing else. None for a typed text."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    messages = []
    for row in rows:
        if (
            not isinstance(row, dict)
            or not {"role", "content"} <= row.keys() <= {"role", "content", "reasoning_content"}
            or row["role"] not in ("system", "user", "assistant", "tool")
            or not all(isinstance(value, str) for value in row.values())
        ):
            return None
        messages.append(Message(**row))
    return tuple(messages)


def read_answer(prompt_text: str, prompt: Messages, answer: str) -> str | Drop:
    """The words of an answer whose row has a ``prompt`` string.

    The answer may repeat the whole dialogue. Then the dialogue must agree with the prompt. If the prompt is HH text,
    white space around the answer is removed, and no other turn may follow. Else the answer is returned unchanged.
    """
    if is_hh(answer) and not prompt_text.startswith(AS_MESSAGES):
        split = split_hh(answer)
        if isinstance(split, Drop):
            return split
        return split[1] if parse_hh(split[0]) == _trimmed(prompt) else Drop.PROMPTS_DIFFER
    return end_of_answer(answer) if is_hh(prompt_text) else answer


def joined(prompt: Messages, messages: Messages) -> Messages | Drop:
    """``prompt`` and then ``messages``, which may already contain the prompt, alone or after a system message."""
    if not prompt or not messages:
        return prompt + messages
    known, repeated = _trimmed(prompt), _trimmed(messages)
    if repeated[: len(known)] == known or repeated[-len(known) :] == known:
        return messages
    return Drop.PROMPTS_DIFFER if messages[0].role == prompt[-1].role == "user" else prompt + messages


def _trimmed(messages: Messages) -> Messages:
    return tuple(replace(m, content=m.content.strip()) for m in messages)


def merge_turns(messages: Messages) -> Messages:
    """``messages`` for strict chat templates: speakers alternate, and a system message comes first.

    Neighbouring messages of one speaker become one, with an empty line between them. A system message after the first
    message becomes the beginning of the user's next message.
    """
    merged: list[Message] = []
    for message in messages:
        if message.role == "system" and merged:
            message = replace(message, role="user")
        if merged and merged[-1].role == message.role != "tool":
            before = merged.pop()
            thoughts = (m.reasoning_content for m in (before, message) if m.reasoning_content)
            content = f"{before.content}\n\n{message.content}"
            message = Message(message.role, content, "\n\n".join(thoughts))
        merged.append(message)
    return tuple(merged)


def write_prompt(messages: Messages, answers: Sequence[str] = ()) -> str:
    """A ``prompt`` string from which ``read_prompt`` makes ``messages`` again, and ``read_answer`` each answer.

    One user message is written as plain text, and a dialogue as HH text. Messages that neither form can hold (system
    messages, outer white space, text that looks like a turn) are written as a JSON list. No messages give "".
    """
    if not messages:
        return ""
    if len(messages) == 1 and messages[0].role == "user" and _reads_back(messages[0].content, messages, answers):
        return messages[0].content
    names = {"user": HUMAN, "assistant": ASSISTANT}
    if all(m.role in names and not m.reasoning_content for m in messages):
        text = "".join(f"{names[m.role]} {m.content}" for m in messages) + ASSISTANT
        if _reads_back(text, messages, answers):
            return text
    return json.dumps([as_object(m) for m in messages], ensure_ascii=False)


def as_object(message: Message) -> dict[str, str]:
    """The message as an object, as data sets write it. The key of the thought is there only if there is a thought."""
    thought = {"reasoning_content": message.reasoning_content} if message.reasoning_content else {}
    return {"role": message.role, "content": message.content, **thought}


def _reads_back(text: str, messages: Messages, answers: Sequence[str]) -> bool:
    if read_prompt(text) != messages or (len(answers) > 1 and all(repeats(text, answer) for answer in answers)):
        return False
    return all(read_answer(text, messages, answer) == answer for answer in answers)


def repeats(prompt_text: str, answer: str) -> bool:
    """True if a plain answer begins with the whole plain prompt of two words or more.

    One such answer may be a coincidence. If both answers of a pair are such, the file repeats the prompt.
    """
    if not answer.startswith(prompt_text) or len(prompt_text.split()) < 2:
        return False
    rest = answer[len(prompt_text) :]
    return bool(rest.strip()) and (rest[0].isspace() or prompt_text[-1].isspace())


def check_prompt(messages: Messages) -> Drop | None:
    """The reason why ``messages`` cannot be answered, or None."""
    if not any(m.role == "user" for m in messages):
        return Drop.EMPTY_PROMPT
    if messages[-1].role == "assistant":
        return Drop.PROMPT_ENDS_WITH_RESPONSE
    return None if messages[-1].content.strip() else Drop.EMPTY_PROMPT


def check_pair(pair: Pair) -> Pair | Drop:
    if reason := check_prompt(pair.prompt):
        return reason
    if not pair.chosen.strip() or not pair.rejected.strip():
        return Drop.EMPTY_RESPONSE
    return Drop.EQUAL if pair.chosen.strip() == pair.rejected.strip() else pair


def check_demonstration(demonstration: Demonstration) -> Demonstration | Drop:
    messages, first = demonstration.messages, demonstration.first_response
    if first and (reason := check_prompt(messages[:first])):
        return reason
    learnt = (m.content for m in messages[first:] if m.role == "assistant")
    return demonstration if all(content.strip() for content in learnt) else Drop.EMPTY_RESPONSE


def check_rating(rating: Rating) -> Rating | Drop:
    if reason := check_prompt(rating.prompt):
        return reason
    return rating if rating.completion.strip() else Drop.EMPTY_RESPONSE
