"""How the scores of several reward models become one number, and the constraint on the cost of answers."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.made import Made
from concordant.config.names import EnsembleName


@dataclass(kw_only=True)
class ScoringConfig(Made):
    ensemble: EnsembleName = "none"  # one number from the members of an ensemble; none: sources are summed
    deviations: float = 1.0  # standard deviations over the members that mean-std takes from their mean
    debias_length: bool = False  # take from a reward model's score the part that the length of the answer explains


@dataclass(kw_only=True)
class ConstraintConfig(Made):
    cost: str = ""  # PATH | module:function | rule:NAME, whose mean is held at the limit; a higher cost is worse
    limit: float = 0.0  # cost units; the highest mean cost that is allowed
    multiplier: float = 1.0  # λ at the first step: normalised reward units for each cost unit
    rate: float = 0.1  # step of ln λ, for each unit of λ · (mean cost - limit)
    most: float = 10.0  # the highest λ; no λ holds a limit that the policy cannot reach
