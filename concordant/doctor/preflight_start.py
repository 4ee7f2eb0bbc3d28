"""What a trained start makes of the answers before the first step: does it know them, their prompts and their end?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from safetensors import safe_open
from torch import Tensor

from concordant.core.objective import Outputs
from concordant.core.trees import PromptTree
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding, Severity
from concordant.doctor.looked_at import spread
from concordant.doctor.quantities import TRAIN_FIRST
from concordant.engines.protocol import Scorer

ASKED = 48  # trees whose answers the start is asked about
FIRST = 16  # tokens of an answer that tell most of its prompt
UNTRAINED = ("the model folder holds untrained or damaged weights", TRAIN_FIRST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A start, and what is expected of it."""

    start: Scorer
    vocabulary: int  # tokens
    end_ids: Sequence[int]
    learns_text: bool = False  # SFT, which may teach new text; DPO and PPO expect a start that knows it
    learns_ends: bool = False  # all weights are trained, those of end tokens included

    @property
    def guess(self) -> float:
        """Nats a token of a guess over the vocabulary."""
        return math.log(self.vocabulary)


def check_start(asked: Asked, trees: Sequence[PromptTree]) -> list[Finding]:
    """All findings about the start, the gravest cause alone: what guesses knows neither prompts nor ends."""
    some = [tree for tree in spread(trees, ASKED) if all(b.response_length for b in tree.branches) and tree.branches]
    if not some:
        return []
    logprob_N = logprobs(asked.start, some)
    rows = list(_by_branch(logprob_N, some))
    nats = float(-logprob_N.mean())
    first = _first(logprob_N, some)
    found = untrained_start(nats, asked.vocabulary) or foreign_text(asked, [-row.mean() for row in rows], some)
    if not found:
        found = [f for f in (end_unknown(asked, rows, some), prompts_unused(asked, first, some)) if f is not None]
    words = [float(row[:-1].mean()) for row in rows if len(row) > 1]  # the end is another question
    return found or start_knows_little(asked, -fmean(words) if words else nats)


def logprobs(scorer: Scorer, trees: Sequence[PromptTree]) -> Tensor:
    logprob_N = scorer.forward(trees, Outputs(logprob=True)).result().logprob_N
    assert logprob_N is not None
    return logprob_N


def _by_branch(logprob_N: Tensor, trees: Sequence[PromptTree]) -> Iterator[Tensor]:
    lengths = [branch.response_length for tree in trees for branch in tree.branches]
    yield from logprob_N.split(lengths)


def _first(logprob_N: Tensor, trees: Sequence[PromptTree]) -> float:
    """Nats a token of the answers' first tokens: later ones follow from the answer itself."""
    return -fmean(float(row[:FIRST].mean()) for row in _by_branch(logprob_N, trees))


def untrained_start(nats: float, vocabulary: int) -> list[Finding]:
    """Is the start's text no better than a guess? ``nats``: mean negative log-prob of a token that it should know."""
    guess, at = math.log(vocabulary), limits("untrained_start")
    if not guess - at["nats"] < nats < guess + at["foreign"]:
        return []
    seen = f"the start gives each token {nats:.2f} nats, a guess over its {vocabulary:,} tokens {guess:.2f}"
    return [Finding("untrained_start", "error", seen, *UNTRAINED, numbers={"nats": nats, "guess": guess}, weight=0.93)]


def untrained_norms(folder: Path) -> list[Finding]:
    """Do all norms in the files have the weights that they begin with? For a start that writes no text."""
    norms = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in (key for key in file.keys() if "norm" in key and key.endswith("weight")):  # noqa: SIM118
                if not bool((file.get_tensor(name) == 1).all()):
                    return []
                norms += 1
    if not norms:
        return []
    seen = f"every weight of the {norms} norms in {folder} is 1, as before any training"
    return [Finding("untrained_start", "error", seen, *UNTRAINED, numbers={"norms": norms}, weight=0.93)]


def foreign_text(asked: Asked, nats: Sequence[Tensor], trees: Sequence[PromptTree]) -> list[Finding]:
    """Is the start worse than a guess on the answers, or on some of them? It is sure of other text, then."""
    at = limits("foreign_text")
    is_foreign = [float(x) > asked.guess + at["nats"] for x in nats]
    share = fmean(is_foreign)
    if share < at["share"]:
        return []
    is_pairs = all(len(tree.branches) == 2 for tree in trees)
    chosen, rejected = fmean(is_foreign[::2]), fmean(is_foreign[1::2]) if is_pairs else 0.0
    numbers = {"share": share, "guess": asked.guess}
    seen = f"the start gives {share:.0%} of the answers more than {asked.guess:.1f} nats a token, worse than a guess"
    cause = (
        "the model has learnt other text: the answers are of another language or form (tags, another template), the "
        "tokenizer is not the one that it was trained with, or a part of its weights is damaged (a lost layer)"
    )
    cure = f"{TRAIN_FIRST}; read three answers beside text that the model writes"
    if is_pairs and abs(chosen - rejected) > at["sides"]:
        side, other = ("chosen", "rejected") if chosen > rejected else ("rejected", "chosen")
        seen = f"{max(chosen, rejected):.0%} of the {side} answers are worse than a guess to the start, and "
        seen += f"{min(chosen, rejected):.0%} of the {other} ones"
        cause = f"the {side} answers are foreign to the policy: another writer, language or form than its own"
        cure = f"Take both answers of a pair from one writer, the policy's own, or train the start on the {side} ones"
    elif share < at["all"]:
        cause = "a part of the answers is of another language or form than the rest: files of two kinds were joined"
        cure = "Read the answers that the start finds least likely; leave them out, or keep them on purpose"
    weight = (0.6 if share >= at["all"] else 0.85) if asked.learns_text else 0.94
    severity: Severity = "warning" if asked.learns_text else "error"
    return [Finding("foreign_text", severity, seen, cause, cure, numbers=numbers, weight=weight)]


def end_unknown(asked: Asked, rows: Sequence[Tensor], trees: Sequence[PromptTree]) -> Finding | None:
    """Does the start, which knows the answers' words, not know the token that ends them?"""
    at, branches = limits("end_unknown"), [branch for tree in trees for branch in tree.branches]
    ended = [
        row
        for row, branch in zip(rows, branches, strict=True)
        if int(branch.ids_T[-1]) in asked.end_ids and bool(branch.is_response_T[-1]) and len(row) > 2
    ]
    if not ended or asked.learns_ends:
        return None
    end, words = fmean(float(-row[-1]) for row in ended), fmean(float(-row[:-1].mean()) for row in ended)
    if end < at["nats"] or end < at["times"] * words:
        return None
    return Finding(
        "end_unknown",
        "error",
        f"the start gives the end token of the answers {end:.1f} nats, and their other tokens {words:.1f}",
        "the end token is not the one that the model was trained to write: tokenizer, template or config name another "
        "one, or its embedding was never trained, and what is trained now does not change that",
        "Name the model's own end token in tokenizer, template and generation_config.json; for a model that never had "
        "one, train all weights with `concordant sft`, without --model.lora.rank",
        numbers={"end": end, "words": words},
        weight=0.92,
    )


def prompts_unused(asked: Asked, nats: float, trees: Sequence[PromptTree]) -> Finding | None:
    """Do the answers fit the prompts of other rows as well as their own? ``nats``: a token of their first tokens."""
    at = limits("prompts_unused")
    turned = [PromptTree(other.prompt_T, t.branches) for t, other in zip(trees, [*trees[1:], *trees[:1]], strict=True)]
    differ = fmean(t.prompt_T.tolist() != o.prompt_T.tolist() for t, o in zip(trees, turned, strict=True))
    knows_little = nats > asked.guess / 2
    if len(trees) < at["answers"] or differ < at["differ"] or knows_little:
        return None
    gain = _first(logprobs(asked.start, turned), turned) - nats
    if gain > at["gain"] * nats:
        return None
    return Finding(
        "prompts_unused",
        "warning",
        f"the answers are as likely after the prompt of another row as after their own ({gain:+.2f} nats a token)",
        "the answers do not belong to their prompts: one column was sorted, shuffled or shifted without the other, or "
        "what was asked stands in a column that is not read",
        "Read ten rows: does each answer speak of what its prompt asks? Make the file again with both columns of a row",
        numbers={"gain": gain, "nats": nats},
        weight=0.88,
    )


def start_knows_little(asked: Asked, nats: float) -> list[Finding]:
    """Does the start find the answers far less likely than a trained model finds text that it knows?"""
    if nats < limits("start_knows_little")["share"] * asked.guess:
        return []
    return [
        Finding(
            "start_knows_little",
            "warning",
            f"the start gives each token of the answers {nats:.2f} nats; a model that knows such text gives less than "
            f"{limits('start_knows_little')['share'] * asked.guess:.1f}",
            "the start does not fit: its weights are damaged (few bits, a lost layer), its config is not that of its "
            "weights, or the chat template is not the one that it was trained with; or the text is of a new kind",
            "Write ten answers with `concordant generate`, and compare with the model's source; if it writes well, "
            "train it on such answers with `concordant sft` first",
            numbers={"nats": nats},
            weight=0.5 if asked.learns_text else 0.7,
        )
    ]
