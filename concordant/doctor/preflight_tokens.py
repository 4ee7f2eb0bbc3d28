"""Checks of the encoded data: masks, end tokens, doubled special tokens, lost turns, dropped and cut rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from concordant.core.errors import UserError
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder, Encoded, Limits
from concordant.data.convert import prompt_of
from concordant.data.records import Demonstration, Message, Pair, Record
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding, Severity
from concordant.doctor.looked_at import spread
from concordant.doctor.preflight_records import percent
from concordant.doctor.preflight_template import check_template

LOOKED_AT = 2_000  # trees, evenly spread; a fault of one row in a hundred is in about twenty of them
MEASURED = 200  # records encoded again without limits, to find limits that fit
TOO_LONG = ("prompt too long", "response too long", "longer than the model reads")  # ChatEncoder's reasons
TURNS = (
    Message("user", "alpha question one"),
    Message("assistant", "beta answer two"),
    Message("user", "gamma question three"),
)


def check_tokens(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Record]) -> list[Finding]:
    """All findings about the tokens. ``encoded`` was made from ``records``; a tree of a prompt alone has no branch."""
    trees = spread(encoded.trees, LOOKED_AT)
    found = [
        masked_rows(trees, encoded, encoder),
        end_of_response(trees, encoder),
        double_special(trees, encoder),
        template_turns(encoder, records),
        truncation(encoder, encoded, records),
    ]
    some = spread(records, LOOKED_AT)
    return [finding for finding in found if finding is not None] + check_template(encoder, encoded, some)


def masked_rows(trees: Sequence[PromptTree], encoded: Encoded, encoder: ChatEncoder) -> Finding | None:
    """Are there rows without a learnt token, kept in the data or dropped for this reason?"""
    branches = [b for t in trees for b in t.branches]
    empty = sum(b.response_length == 0 for b in branches)
    dropped = encoded.dropped["nothing left to learn"]
    rows = len(encoded.trees) + dropped
    if not empty and dropped <= limits("masked_rows")["share"] * rows:
        return None
    share = empty / len(branches) if empty else dropped / rows
    seen = (
        f"{empty:,} of {len(branches):,} responses ({percent(share)}) have no token in the mask"
        if empty
        else f"{dropped:,} of {rows:,} rows ({percent(share)}) had nothing left to learn and were left out"
    )
    return Finding(
        "masked_rows",
        "error" if empty else "warning",
        seen,
        "answers were cut away by a limit on length, or the mask was made from something else than turns",
        f"Set --data.too_long drop, or --data.max_response_tokens above {encoder.limits.response}",
        numbers={"share": share},
        weight=0.9,
    )


def end_of_response(trees: Sequence[PromptTree], encoder: ChatEncoder) -> Finding | None:
    """Do responses lack an end token, or is it outside the mask? Responses that a limit has cut do not count."""
    branches = [b for t in trees for b in t.branches if b.response_length]
    open_ended = [b for b in branches if not _ends_are_learnt(b, encoder)]
    if not open_ended:
        return None
    share = len(open_ended) / len(branches)
    masked = sum(_ends(b, encoder) for b in open_ended) > len(open_ended) / 2
    end = encoder.tokenizer.convert_ids_to_tokens(encoder.end_id)
    return Finding(
        "end_token_masked" if masked else "end_token_missing",
        "error" if share > limits("end_token_missing")["error"] else "warning",
        f"{len(open_ended):,} of {len(branches):,} responses ({percent(share)}) have "
        + (f"their end token ({end}) outside the mask" if masked else f"no end token ({end})"),
        "padding equals the end token and both were masked together"
        if masked
        else "the chat template does not close the assistant's turn, or answers were cut before they were encoded",
        "Give the tokenizer a pad token of its own, and mask by position, not by id"
        if masked
        else f'Give the tokenizer a chat template that closes the assistant\'s turn with "{end}"',
        numbers={"share": share},
        weight=0.95 if masked else 0.9,
    )


def _ends_are_learnt(branch: Branch, encoder: ChatEncoder) -> bool:
    """Whether every turn, i.e. unbroken sequence of learnt tokens, ends with an end token. The last may be cut."""
    mask_T, ids_T = branch.is_response_T.numpy(), branch.ids_T.numpy()
    last_T = mask_T & ~np.append(mask_T[1:], False)
    closed = np.isin(ids_T[last_T], encoder.end_ids)
    if len(ids_T) >= encoder.limits.response and encoder.limits.too_long == "cut_response_end":
        closed[-1] = True
    return bool(closed.all())


def _ends(branch: Branch, encoder: ChatEncoder) -> bool:
    return int(branch.ids_T[-1]) in encoder.end_ids


def double_special(trees: Sequence[PromptTree], encoder: ChatEncoder) -> Finding | None:
    """Do prompts begin with two BOS tokens, or responses end with two end tokens?"""
    bos, ends = encoder.tokenizer.bos_token_id, encoder.end_ids
    starts = sum(bos is not None and t.prompt_T[:2].tolist() == [bos, bos] for t in trees)
    branches = [b for t in trees for b in t.branches]
    stops = sum(len(b.ids_T) > 1 and all(i in ends for i in b.ids_T[-2:].tolist()) for b in branches)
    if not starts and not stops:
        return None
    what = f"{starts:,} of {len(trees):,} prompts begin with BOS twice" if starts else ""
    what += ", " if starts and stops else ""
    what += f"{stops:,} of {len(branches):,} responses end with an end token twice" if stops else ""
    return Finding(
        "double_special",
        "error"
        if max(starts / len(trees), stops / max(1, len(branches))) > limits("double_special")["error"]
        else "warning",
        what,
        "the data's text brings special tokens of its own: it has been through a chat template before",
        "Give plain text or messages: take the template's tokens out of the data",
        numbers={"starts": starts, "stops": stops},
        weight=0.9,
    )


def template_turns(encoder: ChatEncoder, records: Sequence[Record]) -> Finding | None:
    """Does the template keep every word of three turns, in their order?"""
    lost = _lost_turn(encoder)
    if lost is None:
        return None
    some = spread(records, LOOKED_AT)
    several = sum(any(m.role == "assistant" for m in prompt_of(r)) for r in some)
    role, seen = lost
    graver: Severity = "warning" if role == "assistant" else "error"
    return Finding(
        "template_turns",
        graver if several else "info",
        f"{seen}; {several:,} of {len(some):,} rows looked at have several turns",
        "a template that shortens earlier answers (of thinking models), or one written for a single turn",
        "Put a template that writes every turn into the model folder's chat_template.jinja; rows of one turn lose "
        "nothing",
        numbers={"several_turns": several / max(1, len(some))},
    )


def _lost_turn(encoder: ChatEncoder) -> tuple[str, str] | None:
    """(the role whose words are lost, or "" for the whole dialogue; a sentence that says so), or None if none are."""
    try:
        text = encoder.render(TURNS)
    except UserError as refused:
        return "", str(refused)
    places = [text.find(turn.content) for turn in TURNS]
    if -1 in places:
        turn = TURNS[places.index(-1)]
        return turn.role, f"of a dialogue of three turns the chat template leaves out the {turn.role}'s words"
    return None if places == sorted(places) else ("", "the chat template changes the order of a dialogue's turns")


def truncation(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Record]) -> Finding | None:
    """Were many rows dropped or cut because they are longer than the limits?"""
    dropped = {reason: encoded.dropped[reason] for reason in TOO_LONG if encoded.dropped[reason]}
    cut = Counter[str]()
    for tree in encoded.trees:
        cut["prompts cut"] += len(tree.prompt_T) >= encoder.limits.prompt
        cut["responses cut"] += any(
            len(b.ids_T) >= encoder.limits.response and not _ends(b, encoder) for b in tree.branches
        )
    rows = len(encoded.trees) + encoded.dropped.total()
    count = max(cut.values(), default=0) + sum(dropped.values())
    if count <= limits("truncation")["share"] * rows:
        return None
    what = [f"{n:,} dropped as {reason}" for reason, n in dropped.items()] + [f"{n:,} {w}" for w, n in cut.items() if n]
    wanted = _longest(encoder, records)
    prompt, response = _that_fit(*wanted, encoder.limits.total)
    fitting = f"--data.max_prompt_tokens {prompt} --data.max_response_tokens {response}"
    cure = f"Fit 99 % of the rows with {fitting}"
    if (prompt, response) != wanted:
        needed = f"{wanted[0]:,} tokens a prompt and {wanted[1]:,} a response"
        cure = (
            f"99 % of the rows need {needed}: take a model that reads more, or keep what this one reads with {fitting}"
        )
    return Finding(
        "truncation",
        "warning",
        f"{percent(count / rows)} of {rows:,} rows are too long: {', '.join(what)}",
        f"the limits are {encoder.limits.prompt} tokens a prompt, {encoder.limits.response} a response"
        + (f" (the model reads {encoder.limits.total})" if encoder.limits.total < Limits().total else ""),
        cure,
        numbers={"share": count / rows, "prompt_tokens": prompt, "response_tokens": response},
        weight=0.89 if count > rows / 2 else 0.45,  # most rows: it explains what is seen of prompts and ends
    )


def _longest(encoder: ChatEncoder, records: Sequence[Record]) -> tuple[int, int]:
    """The lengths in tokens that 99 % of the prompts, and 99 % of the responses, do not exceed."""
    free = ChatEncoder(encoder.tokenizer, Limits(), encoder.kind)
    some = spread(records, MEASURED)
    trees = [
        *free.pairs([r for r in some if isinstance(r, Pair)]).trees,
        *free.demonstrations([r for r in some if isinstance(r, Demonstration)]).trees,
    ]
    prompts = [len(t.prompt_T) for t in trees] or [len(ids) for ids in free.prompts([prompt_of(r) for r in some])]
    responses = [len(b.ids_T) for t in trees for b in t.branches] or [encoder.limits.response]
    return _nearly_longest(prompts), _nearly_longest(responses)


def _that_fit(prompt: int, response: int, reads: int) -> tuple[int, int]:
    """Limits that together are no more than the model reads. The shorter of the two keeps its length, up to half."""
    if prompt + response <= reads:
        return prompt, response
    if prompt <= reads // 2:
        return prompt, reads - prompt
    response = min(response, reads // 2)
    return reads - response, response


def _nearly_longest(lengths: Sequence[int]) -> int:
    return int(np.quantile(lengths, 0.99, method="higher"))
