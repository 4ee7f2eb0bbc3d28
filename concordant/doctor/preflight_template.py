"""Checks of the chat template's effect on the data, e.g. data that is already templated, and lost thoughts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.convert import answers_of, prompt_of
from concordant.data.records import Demonstration, Message, Record
from concordant.data.tokens import text_of
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_records import percent

MEASURED = 200  # records rendered again to check whether their thoughts are learnt
_CLOSES = "</think>"
_TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_TURN = re.compile(r"user|assistant|\bINST|start_of_turn|im_start|start_header", re.IGNORECASE)


def check_template(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Record]) -> list[Finding]:
    """All findings about the template. ``records`` are an evenly spread part of the records behind ``encoded``."""
    found = [
        templated_text(encoder, records),
        thought_lost(encoder, records),
        generation_opens_more(encoder, encoded),
    ]
    return [finding for finding in found if finding is not None]


def templated_text(encoder: ChatEncoder, records: Sequence[Record]) -> Finding | None:
    """Do rows hold special tokens in their text? Such text has usually been through a chat template before."""
    seen: Counter[str] = Counter()
    rows = 0
    special = _special_texts(encoder.tokenizer)
    for record in records:
        texts = [*(m.content for m in _messages(record)), *answers_of(record)]
        here = {token for token in special if any(token in text for text in texts)}
        seen.update(here)
        rows += bool(here)
    if not rows:
        return None
    share = rows / len(records)
    names = ", ".join(f'"{token}"' for token, _ in seen.most_common(3))
    return Finding(
        "templated_text",
        "error" if share > limits("templated_text")["error"] else "warning",
        f"{rows:,} of {len(records):,} rows ({percent(share)}) hold special tokens in their text: {names}",
        "the text has been through a chat template before",
        "Give the rows as messages, with role and content, and without the template's tokens: the columns messages, or "
        "prompt, chosen and rejected as lists of messages",
        numbers={"share": share},
        weight=0.92,
    )


def _special_texts(tokenizer: Any) -> list[str]:
    """Special tokens that nobody types, such as <|im_end|>, </s> or [INST]. Plain words are left out."""
    known = {*tokenizer.all_special_tokens}
    known |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(token for token in known if len(token) > 2 and not token.isalnum())


def template_foreign(tokenizer: Any, whose: str) -> list[Finding]:
    """Does the chat template write none of the tokens that the tokenizer has for turns, as another model's does?"""
    turns = [token for token in _special_texts(tokenizer) if _TURN.search(token)]
    if not turns or not tokenizer.chat_template:
        return []
    try:
        said = tokenizer.apply_chat_template(_TURNS, tokenize=False)
    except Exception:  # a template that refuses such a dialogue says so elsewhere
        return []
    if any(token in said for token in turns):
        return []
    return [
        Finding(
            "template_foreign",
            "error",
            f"the tokenizer of {whose} has {', '.join(turns[:3])} for turns, and its chat template writes none of them",
            "the chat template is not the one that the model was trained with: that of another model family was put in "
            "its place, so the model reads dialogues in a form that it has not seen",
            "Put the model's own chat_template.jinja back into its folder, and that into tokenizer_config.json",
            weight=0.93,
        )
    ]


def thought_lost(encoder: ChatEncoder, records: Sequence[Record]) -> Finding | None:
    """Are there answers whose thought is in the data but not among the learnt tokens?"""
    thinking = [d for record in records if (d := _thinking(record)) is not None][:MEASURED]
    if not thinking:
        return None
    encoded = encoder.demonstrations(thinking)
    lost = 0
    for tree, number in zip(encoded.trees, encoded.record, strict=True):
        branch, last = tree.branches[0], thinking[number].messages[-1]
        text = text_of(encoder.tokenizer, branch.ids_T[branch.is_response_T].tolist())
        thought = (last.reasoning_content or last.content.partition(_CLOSES)[0]).replace("<think>", "").strip()
        lost += bool(thought) and thought not in text
    if not lost:
        return None
    share = lost / len(encoded.trees)
    return Finding(
        "thought_lost",
        "warning",
        f"of {len(encoded.trees):,} answers with a thought, {lost:,} ({percent(share)}) are learnt without it",
        "the chat template leaves thoughts out of the answers that it renders (DeepSeek-R1's distilled models), or "
        "reads none",
        "Put a chat_template.jinja that writes the thought of the last answer into the model's folder, or take the "
        "thoughts out of the data",
        numbers={"share": share},
        weight=0.7,
    )


def _thinking(record: Record) -> Demonstration | None:
    """The dialogue with its last answer, if this answer has a thought; else None."""
    if isinstance(record, Demonstration):
        last = record.messages[-1]
        before = record.messages[:-1]
    elif answers := answers_of(record):
        last, before = Message("assistant", answers[0]), prompt_of(record)
    else:
        return None
    if not before or not (last.reasoning_content or _CLOSES in last.content):
        return None
    return Demonstration((*before, last), len(before), tools=record.tools)


def generation_opens_more(encoder: ChatEncoder, encoded: Encoded) -> Finding | None:
    """Does the prompt of generation end with a text that learnt answers do not have before them?"""
    answers = sum(len(tree.branches) for tree in encoded.trees)
    if not encoded.apart or not answers:
        return None
    share = min(1.0, encoded.apart / answers)
    opened = encoder.opened_thought.strip()
    what = f'opens a thought ("{opened}")' if opened else "begins the answer with a text"
    return Finding(
        "generation_opens_more",
        "warning",
        f"the prompt of generation {what} that {encoded.apart:,} of {answers:,} learnt answers do not have",
        "the chat template opens a thought for generation, and the data's answers are rendered without one",
        "Give the answers their thoughts (reasoning_content, or <think> … </think> in the content), switch the thought "
        "off with --data.template_args enable_thinking=false where the template reads it, or take a template that "
        "opens nothing",
        numbers={"share": share},
    )


def _messages(record: Record) -> Sequence[Message]:
    return record.messages if isinstance(record, Demonstration) else prompt_of(record)
