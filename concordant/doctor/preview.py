"""What the model will read and what it will learn of it, token by token, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from concordant.core.counted import counted
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.tokens import text_of
from concordant.report.blocks import plain

SAMPLES = 3
TRUNK_ENDS = (12, 24)  # tokens shown of a long prompt's start and end
BRANCH_ENDS = (48, 12)
# Two shades by turns show where a token ends; brackets show the mask where there are no colours.
LEARNT, READ, END = ("bold green", "bold cyan"), ("dim", ""), "bold reverse"
OPEN, CLOSE = "⟦", "⟧"


def preview(encoder: ChatEncoder, trees: Sequence[PromptTree], names: Sequence[str]) -> Text:
    """Three trees: prompts dim, tokens in the response mask in colour and brackets, end tokens inverse.

    ``names``: of a tree's branches. Whatever is in the text, rich's markup and terminal control codes included, is
    shown and never obeyed.
    """
    count = min(SAMPLES, len(trees))
    page = Text(f"{counted(count, 'sample')} as tokens; in {OPEN}{CLOSE} the response mask, what is learnt or scored\n")
    for number in range(count):
        tree = trees[number * len(trees) // count]
        page.append(f"{number + 1} ", "bold")
        page.append(f"prompt, {counted(len(tree.prompt_T), 'token')}: ")
        page.append_text(_tokens(encoder, tree.prompt_T.tolist(), [False] * len(tree.prompt_T), TRUNK_ENDS))
        for name, branch in zip(names, tree.branches, strict=False):
            page.append(f"\n  {name}, {branch.response_length} of {len(branch.ids_T)} tokens in the mask: ")
            page.append_text(_branch(encoder, branch))
        page.append("\n" if number + 1 < count else "")
    return page


def _branch(encoder: ChatEncoder, branch: Branch) -> Text:
    return _tokens(encoder, branch.ids_T.tolist(), branch.is_response_T.tolist(), BRANCH_ENDS)


def _tokens(encoder: ChatEncoder, ids: list[int], mask: list[bool], ends: tuple[int, int]) -> Text:
    """The tokens with their mask; of a long row its start and end."""
    line = Text()
    if len(ids) <= sum(ends):
        parts = [(ids, mask)]
    else:
        head, tail = ends
        parts = [(ids[:head], mask[:head]), (ids[-tail:], mask[-tail:])]
    for number, (part, in_mask) in enumerate(parts):
        line.append(" … " if number else "", "dim")
        inside = False
        texts = pieces(encoder.tokenizer, part)
        for place, (token, text, learnt) in enumerate(zip(part, texts, in_mask, strict=True)):
            if learnt != inside:
                line.append(OPEN if learnt else CLOSE, "bold")
                inside = learnt
            shade = (LEARNT if learnt else READ)[place % 2]
            line.append(_visible(text), END if token in encoder.end_ids else shade)
        line.append(CLOSE if inside else "", "bold")
    return line


def pieces(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """The text each token adds, special tokens by name; a character of several tokens comes with its last."""
    said = ""
    for end in range(1, len(ids) + 1):
        whole = text_of(tokenizer, ids[:end])
        if whole.endswith("\ufffd") and end < len(ids):
            yield ""
            continue
        yield whole[len(said) :] if whole.startswith(said) else text_of(tokenizer, [ids[end - 1]])
        said = whole


def _visible(text: str) -> str:
    return plain(text).replace("\n", "↵").replace("\t", "⇥")
