"""Our ids and masks beside TRL's, on every chat template that TRL ships.

``python -m tests.parity.templates``, in the environment of ``make parity``. TRL masks an answer in two ways. Its
*completion mask* begins behind the last token that the opened prompt and the rendered dialogue have in common; every
template has one. Its *assistant mask* is marked by ``{% generation %}`` in the template; TRL's training templates have
one. Each is compared on dialogues of one and two answers, with white space, a system message and thoughts.

Exit code 1 where a mask differs for a reason that is not one of ``REASONS``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from trl.data_utils import common_prefix_length

from concordant.core.errors import UserError
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration, Message
from concordant.data.template import prints_today, set_arguments
from tests.data.chat_tokenizers import byte_level

REASONS = {
    "after the end": "TRL learns what the template writes after the token that ends the turn, a line break or a second "
    "end; generation has stopped there",
    "opened prompt": "TRL's training template marks tokens that the prompt of generation already holds",
    "no end": "the template writes no token that ends the last turn; we add EOS, TRL trains without an end",
    "no system": "the template refuses a system message; we put its text before the first question, TRL stops",
}
MARK = re.compile(
    r"<[|｜][^<>{}'\"\s]*[|｜]>|</?think>|<\|\w+>|<\w+\|>|\[/?INST\]|<(?:end_of_utterance|/s)>|<\w+_of_turn>"
)
ENDS = ("<|im_end|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "</s>")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

Q, A = Message("user", "What is 2+3?"), Message("assistant", "It is 5.")
DIALOGUES = {
    "one answer": (Q, A),
    "white space": (Q, Message("assistant", "  It is 5.\n")),
    "thought apart": (Q, Message("assistant", "It is 5.", "Add two and three.")),
    "thought inside": (Q, Message("assistant", "<think>\nAdd.\n</think>\n\nIt is 5.")),
    "system": (Message("system", "Be short."), Q, A),
    "two answers": (Q, A, Message("user", "And 3+4?"), Message("assistant", "It is 7.")),
}


def main() -> int:
    spec = importlib.util.find_spec("trl")
    assert spec and spec.origin
    counts: Counter[str] = Counter()
    for path in sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja")):
        found = compare(path.read_text(encoding="utf-8"))
        counts.update(found.values())
        told = Counter(found.values())
        print(f"{path.stem:34}" + ", ".join(f"{verdict} {count}" for verdict, count in told.most_common()))
        for what, verdict in found.items():
            if verdict.startswith("OFF"):
                print(f"    {what}: {verdict}")
    print(f"\n{counts.total()} masks: " + ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common()))
    for reason, words in REASONS.items():
        print(f"  {reason}: {words}")
    return int(any(verdict.startswith("OFF") for verdict in counts))


def compare(source: str) -> dict[str, str]:
    """What differs, by mask and dialogue: "equal", the reasons, or "OFF" and the difference."""
    marks = set(MARK.findall(source)) | {"<bos>", "<eos>"}
    eos = next((end for end in ENDS if end in source), "<eos>")
    tokenizer = byte_level(sorted(marks | {eos}), source, bos_token="<bos>", eos_token=eos)
    if prints_today(tokenizer):
        set_arguments(tokenizer, ["date=2026-11-28"])
    try:
        encoder = ChatEncoder(tokenizer)
    except UserError as refused:
        return {"encoder": f"OFF {refused}"}
    in_parts = reads_parts(tokenizer)
    verdicts = {}
    for name, dialogue in DIALOGUES.items():
        rows = [as_row(message, in_parts) for message in dialogue]
        verdicts[f"completion, {name}"] = completion(encoder, dialogue, rows)
        if GENERATION.search(source):
            verdicts[f"assistant, {name}"] = assistant(encoder, dialogue, rows)
    return verdicts


def reads_parts(tokenizer: Any) -> bool:
    """True for a template that expects a list of parts as a message's content."""
    try:
        return A.content not in tokenizer.apply_chat_template([as_row(Q, False), as_row(A, False)], tokenize=False)
    except Exception:
        return True


def as_row(message: Message, in_parts: bool) -> dict[str, Any]:
    content: Any = [{"type": "text", "text": message.content}] if in_parts else message.content
    thought = {"reasoning_content": message.reasoning_content} if message.reasoning_content else {}
    return {"role": message.role, "content": content, **thought}


def completion(encoder: ChatEncoder, dialogue: tuple[Message, ...], rows: list[dict[str, Any]]) -> str:
    """The last answer, learnt behind its prompt."""
    render = encoder.tokenizer.apply_chat_template
    try:
        prompt = render(rows[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = render(rows, return_dict=True)["input_ids"]
    except Exception as refused:
        return "no system" if "ystem" in str(refused) else f"OFF TRL stops: {refused}"
    start = common_prefix_length(prompt, ids)
    return verdict(encoder, dialogue, len(dialogue) - 1, ids, [i >= start for i in range(len(ids))])


def assistant(encoder: ChatEncoder, dialogue: tuple[Message, ...], rows: list[dict[str, Any]]) -> str:
    """Every answer of the dialogue. Where the template rewrites earlier answers, each is compared alone."""
    firsts = [i for i, message in enumerate(dialogue) if message.role == "assistant"]
    alone = len(encoder.demonstrations([Demonstration(dialogue, firsts[0])]).trees) > 1
    found: dict[str, None] = {}
    for end in firsts if alone else firsts[-1:]:
        try:
            made = encoder.tokenizer.apply_chat_template(
                rows[: end + 1], return_dict=True, return_assistant_tokens_mask=True
            )
        except Exception as refused:
            return "no system" if "ystem" in str(refused) else f"OFF TRL stops: {refused}"
        mask = [bool(one) for one in made["assistant_masks"]]
        first = end if alone else firsts[0]
        if alone:  # earlier answers are compared in their own turn
            question = encoder.tokenizer.apply_chat_template(rows[:end], return_dict=True)["input_ids"]
            mask = [one and i >= len(question) for i, one in enumerate(mask)]
        found[verdict(encoder, dialogue[: end + 1], first, made["input_ids"], mask)] = None
    return " + ".join(found)


def verdict(encoder: ChatEncoder, dialogue: tuple[Message, ...], first: int, ids: list[int], mask: list[bool]) -> str:
    (tree,) = encoder.demonstrations([Demonstration(dialogue, first)]).trees
    ours, learnt = flat(tree)
    reasons: dict[str, None] = {}
    if ours[-1] == encoder.tokenizer.eos_token_id and ours[:-1] == ids:
        reasons["no end"] = None
        ours, learnt = ours[:-1], learnt[:-1]
    if ours != ids[: len(ours)]:
        return f"OFF ids: {encoder.tokenizer.decode(ours)!r} beside {encoder.tokenizer.decode(ids)!r}"
    learnt += [False] * (len(ids) - len(ours))
    edges = zip(learnt, mask, strict=True)
    for (our, their), block in groupby(range(len(ids)), key=lambda i, edge=tuple(edges): edge[i]):
        numbers = list(block)
        text = encoder.tokenizer.decode([ids[i] for i in numbers])
        if our and not their:
            return f"OFF not learnt by TRL: {text!r}"
        if their and not our:
            if learnt[numbers[0] - 1] and text.strip() in ("", encoder.tokenizer.eos_token):
                reasons["after the end"] = None
            elif learnt[(numbers[-1] + 1) % len(ids)] and not any(m.content in text for m in dialogue):
                reasons["opened prompt"] = None
            else:
                return f"OFF learnt by TRL alone: {text!r}"
    return " + ".join(reasons) or "equal"


def flat(tree: PromptTree) -> tuple[list[int], list[bool]]:
    (branch,) = tree.branches
    mask = [False] * len(tree.prompt_T) + branch.is_response_T.tolist()
    return tree.prompt_T.tolist() + branch.ids_T.tolist(), mask


if __name__ == "__main__":
    sys.exit(main())
