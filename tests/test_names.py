"""A name stands once: every type of names in config/names.py and the table that works with it know the same ones."""

from __future__ import annotations

import typing

import pytest

from concordant.config import names
from concordant.core.advantages import ADVANTAGES
from concordant.core.divergence import DIVERGENCES
from concordant.core.ensembles import ENSEMBLES
from concordant.core.kl import ESTIMATORS
from concordant.core.masked import AGGREGATIONS
from concordant.core.pair_losses import F_DIVERGENCES, PREFERENCE_LOSSES, PreferenceLoss, RatedLoss
from concordant.core.policy_losses import POLICY_LOSSES
from concordant.data.formats import FORMATS
from concordant.doctor.finding import SEVERITIES
from concordant.models.scalar_head import VALUE_HEADS
from concordant.training.defaults import OPTIMIZERS
from concordant.training.schedule import SCHEDULES
from concordant.training.trackers import KINDS


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (names.PreferenceLossName, PREFERENCE_LOSSES),
        (names.FDivergenceName, F_DIVERGENCES),
        (names.AdvantageName, ADVANTAGES),
        (names.KLEstimator, ["auto", *ESTIMATORS, "exact"]),  # the exact KL comes from the forward pass
        (names.AggregationName, AGGREGATIONS),
        (names.DivergenceName, DIVERGENCES),
        (names.PolicyLossName, POLICY_LOSSES),
        (names.EnsembleName, ["none", *ENSEMBLES]),  # without an ensemble sources are summed
        (names.OptimizerName, OPTIMIZERS),
        (names.Schedule, SCHEDULES),
        (names.TrackerName, KINDS),
        (names.CriticHead, VALUE_HEADS),
        (names.DataFormat, ["auto", *FORMATS]),
        (names.StopOn, ["", *set(SEVERITIES) - {"info"}]),  # a note stops nothing
    ],
)
def test_a_type_and_its_table_know_the_same_names(kind, table):
    assert set(typing.get_args(kind)) == set(table)


def test_every_advantage_has_one_baseline():
    """A critic, other samples, a greedy answer, or the mean of the whole step (whitening)."""
    kinds = [names.NEEDS_CRITIC, names.COMPARES_SAMPLES, names.NEEDS_GREEDY]
    alone = names.WHITENED.difference(*kinds)
    assert sorted(ADVANTAGES) == sorted([*alone, *(name for kind in kinds for name in kind)])
    assert set(ADVANTAGES) >= names.DISCOUNTS and names.DIVIDES_SCORES <= names.COMPARES_SAMPLES


def test_every_kl_estimator_has_its_place():
    assert {*typing.get_args(names.KLEstimator)} == {"auto"} | names.REWARD_ESTIMATORS | names.LOSS_ESTIMATORS


def test_facts_about_losses_are_those_of_the_table():
    table = PREFERENCE_LOSSES.items()
    assert {name for name, loss in table if not loss.needs_reference} == names.REFERENCE_FREE
    assert {name for name, loss in table if isinstance(loss, RatedLoss)} == names.RATES_ANSWERS
    assert {name for name, loss in table if isinstance(loss, PreferenceLoss) and loss.of_sides} == names.OF_SIDES
    assert {name for name, loss in table if isinstance(loss, PreferenceLoss) and loss.lm} == names.IMITATES
