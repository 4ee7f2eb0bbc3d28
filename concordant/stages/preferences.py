"""What ``concordant dpo`` learns from: pairs or rated answers as trees, and the objective of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms import kto
from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.sft import share_prompts
from concordant.algorithms.supervised import ObjectiveOf
from concordant.config.specs import weights_of
from concordant.config.stages import DPOConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.pair_losses import Share, rated_loss
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.records import Pair, Rating
from concordant.data.splits import Loaded
from concordant.data.strength import TIED, label_of, lead_of, without_ties
from concordant.engines.protocol import Scorer
from concordant.runs.folder import RunFolder
from concordant.stages import common


@dataclass(frozen=True, slots=True)
class Side:
    """The training or the held-out data. ``records`` has a pair for each tree, or a rated answer for each branch."""

    trees: list[PromptTree]
    records: Sequence[Any]


# -- pairs ------------------------------------------------------------------------------------------


def read_pairs(config: DPOConfig, folder: RunFolder) -> Loaded[Pair]:
    """The pairs of the data. Ties are left out and counted, unless soft labels are learnt.

    UserError if no pair is left, or if no pair has the votes, probability or margin that ``strength`` asks for.
    """
    loaded = common.read(config, folder, Pair, "pairs")
    if config.strength != "label":
        before = len(loaded.train)
        loaded.train, loaded.test = without_ties(loaded.train), without_ties(loaded.test)
        common.report_dropped({TIED: before - len(loaded.train)}, "training data")
        if not loaded.train:
            raise UserError(f"{config.data.path}: every pair is a tie; give --strength label to learn from ties")
    if config.strength != "none":
        columns = "votes or probability" if config.strength == "label" else "votes, probability or margin"
        without = [pair for pair in loaded.train if _strength(config, pair) is None]
        if len(without) == len(loaded.train):
            raise UserError(
                f"strength {config.strength}: no pair has {columns}; expected columns such as votes_chosen and "
                "votes_rejected (docs/data.md), or leave strength out"
            )
        if without:
            known = "a certain label" if config.strength == "label" else "no lead"
            where = f"; first {without[0].where}" if without[0].where else ""
            common.message(
                f"strength {config.strength}: {len(without):,} of {counted(len(loaded.train), 'pair')} count with "
                f"{known}, because they have no {columns}{where}"
            )
    return loaded


def _strength(config: DPOConfig, pair: Pair) -> float | None:
    return label_of(pair) if config.strength == "label" else lead_of(pair)


def pairs_of(encoded: Encoded, pairs: Sequence[Pair], count: int | None = None) -> Side:
    """The encoded pairs, or the first ``count`` of them."""
    return Side(encoded.trees[:count], [pairs[i] for i in encoded.record[:count]])


def objective_of_pairs(config: DPOConfig, reference: Scorer | None, side: Side) -> ObjectiveOf:
    """The objective of a batch. ``reference`` is None if no loss needs one; its log-probs then count as 0."""
    with common.watched("reference's log-probs"):
        reference_B = reference_of(reference, side.trees)
    smoothing, margin = _labels(config, side.records), _leads(config, side.records)
    plus = tuple((name, weight) for name, weight in weights_of(config.plus).items())

    def of(numbers: Sequence[int]) -> DPOObjective:
        return DPOObjective(
            reference_B[branches_of(numbers)],
            config.loss,
            config.beta,
            _chosen(smoothing, numbers),
            margin=_chosen(margin, numbers),
            plus=plus,  # type: ignore[arg-type]
            lm_coefficient=config.lm_coefficient,
            f_divergence=config.f_divergence,
            f_alpha=config.f_alpha,
        )

    return of


def reference_of(reference: Scorer | None, trees: Sequence[PromptTree]) -> Tensor:
    """The reference's log-prob of every branch, or 0 without a reference."""
    if reference is None or not trees:
        return torch.zeros(sum(len(tree.branches) for tree in trees))
    return reference_logprobs(reference, trees)


def _labels(config: DPOConfig, pairs: Sequence[Pair]) -> Share:
    """The share of wrong labels: one number, or with soft labels one for each pair."""
    if config.strength != "label":
        return config.label_smoothing
    known = [label_of(pair) for pair in pairs]
    return torch.tensor([config.label_smoothing if p is None else 1 - p for p in known])


def _leads(config: DPOConfig, pairs: Sequence[Pair]) -> Share:
    return torch.tensor([lead_of(pair) or 0.0 for pair in pairs]) if config.strength == "margin" else config.margin


def _chosen(share: Share, numbers: Sequence[int]) -> Share:
    return share[list(numbers)] if isinstance(share, Tensor) else share


# -- rated answers ----------------------------------------------------------------------------------


def read_ratings(config: DPOConfig, folder: RunFolder) -> Loaded[Rating]:
    """The rated answers of the data; a pair gives a good and a bad one. UserError if all have one label."""
    loaded = common.read(config, folder, Rating, "rated answers")
    good = sum(rating.label for rating in loaded.train)
    if good in (0, len(loaded.train)):
        only, other = ("good", "bad") if good else ("bad", "good")
        raise UserError(
            f"{config.data.path}: all {len(loaded.train):,} answers to train on are rated {only}; {config.loss} learns "
            f"from good and bad ones, so add {other} ones" + (", or use `concordant sft`" if good else "")
        )
    return loaded


def encode_ratings(encoder: ChatEncoder, ratings: Sequence[Rating]) -> Encoded:
    """One tree for each answer."""
    return encoder.trees([r.prompt for r in ratings], [(r.completion,) for r in ratings], [r.tools for r in ratings])


def ratings_of(encoded: Encoded, ratings: Sequence[Rating], count: int | None = None) -> Side:
    """The encoded answers, or the first ``count`` of them. Neighbours with the same prompt share a tree."""
    return Side(share_prompts(encoded.trees[:count]), [ratings[i] for i in encoded.record[:count]])


def objective_of_ratings(
    config: DPOConfig, policy: Scorer, reference: Scorer, side: Side, others: Sequence[PromptTree], longest: int
) -> ObjectiveOf:
    """The objective of a batch, with the anchor that its loss needs, estimated with the present policy.

    ``others`` are trees whose answers answer other prompts than their own, for KTO's KL; ``longest``: the tokens that
    the policy can read.
    """
    anchor, trees = rated_loss(config.loss).anchor, side.trees
    foreign = kto.mismatched(trees, others, longest) if anchor == "kl" else []
    with common.watched("reference's log-probs"):
        reference_B, foreign_B = reference_of(reference, trees), reference_of(reference, foreign)
    good_B = torch.tensor([rating.label for rating in side.records], dtype=torch.bool)
    own, strange = _branch_numbers(trees), _branch_numbers(foreign)

    def of(numbers: Sequence[int]) -> kto.KTOObjective:
        here = _joined(own, numbers)
        return kto.KTOObjective(
            reference_B=reference_B[here],
            is_good_B=good_B[here],
            anchor=anchor_of(numbers, here),
            loss=config.loss,
            beta=config.beta,
            good_weight=config.desirable_weight,
            bad_weight=config.undesirable_weight,
        )

    def anchor_of(numbers: Sequence[int], here: Sequence[int]) -> float:
        if anchor == "kl":
            return kto.kl_estimate(policy, foreign_B[_joined(strange, numbers)], [foreign[i] for i in numbers])
        if anchor == "mean":
            return kto.middle(policy, reference_B[here], good_B[here], [trees[i] for i in numbers])
        return 0.0

    return of


def _branch_numbers(trees: Sequence[PromptTree]) -> list[range]:
    """The numbers of each tree's branches among all branches."""
    found, first = [], 0
    for tree in trees:
        found.append(range(first, first + len(tree.branches)))
        first += len(tree.branches)
    return found


def _joined(branches: Sequence[range], numbers: Sequence[int]) -> list[int]:
    return [branch for i in numbers for branch in branches[i]]
