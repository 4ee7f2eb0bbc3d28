"""What an audit found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from concordant.evaluation.audit import Consistency, Ensemble, Group
from concordant.evaluation.records import Mean
from concordant.evaluation.reward_summary import RewardModelSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardAudit:
    """One reward on the pairs that it gave scores."""

    name: str
    without_score: int  # pairs that the reward gave no score; they are left out
    summary: RewardModelSummary
    calibration: Mean  # expected calibration error
    groups: Mapping[str, Sequence[Group]]  # accuracy by "length", "turns" and "topic"
    four: Mean | None  # points of the best answer of four
    four_whole: bool  # all four answer one prompt; else two of them answer other prompts
    changes: Mapping[str, Consistency]  # by the name of the harmless change
    length_of_score: Mean | None  # R² of an answer's score on the logarithm of its words
    length_of_margin: Mean | None  # R² of a pair's difference of scores on its difference of that logarithm
    agrees_with: Mapping[str, Mean]  # correlations with gold or a judge, by name
    words: Mapping[str, Mapping[str, Mean]]  # by group and word: the shift of the score, in deviations
    words_unknown: str = ""  # why the prompts that differ in one word have no scores

    def as_json(self) -> dict[str, Any]:
        return {
            "pairs": self.summary.pairs,
            "pairs_without_score": self.without_score,
            "summary": self.summary.as_json(),
            "calibration_error": self.calibration.as_json(),
            "accuracy_by": {
                kind: [{"group": g.name, "pairs": g.pairs, "accuracy": g.accuracy.as_json()} for g in groups]
                for kind, groups in self.groups.items()
            },
            "best_of_four": _json(self.four),
            "best_of_four_answers_one_prompt": self.four_whole,
            "harmless_changes": {
                name: {"pairs": c.pairs, "same_ranking": _json(c.same), "moved": _json(c.moved)}
                for name, c in self.changes.items()
            },
            "score_explained_by_length": _json(self.length_of_score),
            "margin_explained_by_length": _json(self.length_of_margin),
            "correlations": {name: mean.as_json() for name, mean in self.agrees_with.items()},
            "one_word": {
                group: {word: mean.as_json() for word, mean in row.items()} for group, row in self.words.items()
            },
            "one_word_unknown": self.words_unknown or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    rewards: Sequence[RewardAudit]
    ensemble: Ensemble | None  # None for one reward with one head
    members: Sequence[str] = ()  # names of the members of the ensemble
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)  # of the audit, by name

    def as_json(self) -> dict[str, Any]:
        return {
            "rewards": {audit.name: audit.as_json() for audit in self.rewards},
            "ensemble": _ensemble(self.ensemble, self.members) if self.ensemble else None,
            "facts": dict(self.facts),
        }


def _ensemble(ensemble: Ensemble, members: Sequence[str]) -> dict[str, Any]:
    return {
        "members": list(members),
        "member_accuracies": [mean.as_json() for mean in ensemble.members],
        "mean_accuracy": ensemble.mean.as_json(),
        "disagreement_predicts_errors": _json(ensemble.predicts),
        "accuracy_by_disagreement": [
            {"group": g.name, "pairs": g.pairs, "accuracy": g.accuracy.as_json()} for g in ensemble.quarters
        ],
    }


def _json(mean: Mean | None) -> dict[str, float | None] | None:
    return mean.as_json() if mean is not None else None
