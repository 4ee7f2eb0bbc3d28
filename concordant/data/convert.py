"""Converts the records of the data to the kind that a stage wants: pairs, demonstrations, prompts or ratings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from concordant.config.names import Responses
from concordant.core.errors import UserError
from concordant.data.dialogue import Drop, Messages, check_prompt
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record

MODEL_REWARD = {"style": "model", "ground_truth": 1.0}  # the reward_model column of a prompt that has no rule


def prompt_of(record: Record) -> Messages:
    """The dialogue before the final answer."""
    if isinstance(record, Demonstration):
        return record.messages[:-1]
    return record.messages if isinstance(record, Prompt) else record.prompt


def split_key(record: Record) -> Messages:
    """The key of the split: the prompt, or the whole text if there is no prompt. Equal keys stay on one side."""
    prompt = prompt_of(record)
    return prompt if prompt or not isinstance(record, Demonstration) else record.messages


def as_dict(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as the rows of files have them; a thought is a key of its own, where there is one."""
    thought = "reasoning_content"
    rows = [{"role": m.role, "content": m.content, thought: m.reasoning_content} for m in messages]
    return [row if row[thought] else {k: v for k, v in row.items() if k != thought} for row in rows]


def pair_id(prompt: Messages, first: str, second: str) -> str:
    """16 digits that name a pair: a hash of the prompt and both answers, so that a vote never counts for another."""
    said = json.dumps([as_dict(prompt), first, second])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def answers_of(record: Record) -> tuple[str, ...]:
    """The final answers; for a pair the chosen one comes first."""
    if isinstance(record, Pair):
        return record.chosen, record.rejected
    if isinstance(record, Rating):
        return (record.completion,)
    return (record.messages[-1].content,) if isinstance(record, Demonstration) else ()


def all_texts(records: Iterable[Record]) -> list[str]:
    """Every message and answer of the records."""
    texts: list[str] = []
    for r in records:
        match r:
            case Pair():
                texts += [*(m.content for m in r.prompt), r.chosen, r.rejected]
            case Demonstration() | Prompt():
                texts += [m.content for m in r.messages]
            case Rating():
                texts += [*(m.content for m in r.prompt), r.completion]
    return texts


def as_pairs(record: Record, responses: Responses) -> list[Pair] | Drop:
    if isinstance(record, Pair):
        return [record]
    return Drop.PROMPT_ONLY if isinstance(record, Prompt) else Drop.ONE_RESPONSE


def as_demonstrations(record: Record, responses: Responses) -> list[Demonstration] | Drop:
    """The answers as demonstrations: of a pair "both" answers or the "chosen" one. A bad answer is never imitated."""
    if isinstance(record, Demonstration):
        return [record]
    if isinstance(record, Prompt):
        return Drop.PROMPT_ONLY
    if isinstance(record, Rating) and not record.label:
        return Drop.RATED_BAD
    prompt, answers = record.prompt, answers_of(record)
    kept = answers[:1] if responses == "chosen" else answers
    return [
        Demonstration((*prompt, Message("assistant", answer)), len(prompt), tools=record.tools, where=record.where)
        for answer in kept
    ]


def as_prompts(record: Record, responses: Responses) -> list[Prompt] | Drop:
    if isinstance(record, Prompt):
        return [record]
    prompt = prompt_of(record)
    return check_prompt(prompt) or [Prompt(prompt, record.extra, tools=record.tools, where=record.where)]


def as_ratings(record: Record, responses: Responses) -> list[Rating] | Drop:
    """The answers as ratings: the chosen answer of a pair is good, and the rejected one is bad."""
    if isinstance(record, Rating):
        return [record]
    if isinstance(record, Pair):
        return [
            Rating(record.prompt, answer, label, tools=record.tools, where=record.where)
            for answer, label in ((record.chosen, True), (record.rejected, False))
        ]
    return Drop.PROMPT_ONLY if isinstance(record, Prompt) else Drop.ONE_RESPONSE


Conversion = Callable[[Record, Responses], "list[Pair] | list[Demonstration] | list[Prompt] | list[Rating] | Drop"]
CONVERSIONS: dict[type, Conversion] = {
    Pair: as_pairs,
    Demonstration: as_demonstrations,
    Prompt: as_prompts,
    Rating: as_ratings,
}


ONE_MESSAGE = (
    "a single message was given; expected a list of texts and dialogues, and a dialogue is a list of messages. "
    "For one dialogue: score([messages])"
)


def messages_of(dialogue: Any, number: int) -> list[Message]:
    """The messages of a dialogue that was given in Python. UserError, with the ``number``, if it is no dialogue."""
    if isinstance(dialogue, Message | Mapping):
        raise UserError(f"item {number}: {ONE_MESSAGE}")
    try:
        messages = [
            m if isinstance(m, Message) else Message(m["role"], m["content"], m.get("reasoning_content") or "")
            for m in dialogue
        ]
    except (TypeError, KeyError, AttributeError):
        found = f"{dialogue!r:.80}"
        raise UserError(
            f"dialogue {number}: expected a list of messages with role and content; found {found}"
        ) from None
    if len(messages) < 2 or messages[-1].role != "assistant":
        roles = [m.role for m in messages]
        raise UserError(f"dialogue {number}: expected at least two messages, the last the assistant's; found {roles}")
    return messages
