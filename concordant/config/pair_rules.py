"""Which settings of ``concordant dpo`` go together: what a loss uses, and what it cannot take."""

from __future__ import annotations

from concordant.config.names import IMITATES, OF_SIDES, RATES_ANSWERS, REFERENCE_FREE
from concordant.config.rule_kinds import Contradiction, NoEffect, Values
from concordant.config.specs import weights_of

_PLAIN = "reverse_kl"


def losses_of(v: Values) -> list[str]:
    """The loss and those that are added to it."""
    return [v["loss"], *weights_of(v["plus"])]


def needs_reference(v: Values) -> bool:
    """Whether any of the losses compares the policy with a reference."""
    return not set(losses_of(v)) <= REFERENCE_FREE


def _is_rated(v: Values) -> bool:
    return v["loss"] in RATES_ANSWERS


def _leads(name: str) -> bool:
    """Whether a loss of pairs asks for a lead of the chosen answer, which a margin can raise."""
    return name not in OF_SIDES | RATES_ANSWERS | {"ipo"}


DPO_CONTRADICTIONS = (
    Contradiction(
        ("loss", "plus"),
        lambda v: v["loss"] in weights_of(v["plus"]),
        "the loss has weight 1 already; give other losses in plus",
    ),
    Contradiction(
        ("loss", "train.batch_size"),
        lambda v: v["loss"] in ("kto", "bco") and v["train.batch_size"] == 1,
        "its anchor is estimated from the answers of a step, and that of one answer is noise; use 2 or more",
    ),
    Contradiction(
        ("loss", "strength"),
        lambda v: "robust" in losses_of(v) and v["strength"] == "label",
        "robust corrects for one known share of wrong labels, and a soft label says another one for every pair; use "
        "sigmoid",
    ),
    Contradiction(
        ("strength", "margin"),
        lambda v: v["strength"] == "margin" and v["margin"] > 0,
        "each pair would have two margins; give one of the two",
    ),
    Contradiction(
        ("loss", "f_divergence"),
        lambda v: v["f_divergence"] != _PLAIN and bool(set(losses_of(v)) & OF_SIDES),
        "only losses of the difference of two log-ratios are defined for it; use sigmoid, sigmoid_norm, hinge, robust "
        "or ipo",
    ),
)

DPO_NO_EFFECT = (
    NoEffect(
        ("reference",),
        "the loss compares the policy's own log-probs and needs no reference; use sigmoid, for example",
        lambda v: not needs_reference(v),
    ),
    NoEffect(
        ("label_smoothing", "margin", "strength", "plus", "lm_coefficient"),
        "the loss takes single answers, each rated good or bad, and no pairs; use sigmoid, for example",
        _is_rated,
    ),
    NoEffect(
        ("desirable_weight", "undesirable_weight"),
        "the loss takes pairs, which have one good and one bad answer; use loss kto, bco or apo_zero_unpaired",
        lambda v: not _is_rated(v),
    ),
    NoEffect(
        ("margin",), "no loss here asks for a lead; use simpo or sigmoid", lambda v: not any(map(_leads, losses_of(v)))
    ),
    NoEffect(
        ("strength",),
        "no loss here asks for a lead that a margin could raise; use strength label, or loss sigmoid",
        lambda v: v["strength"] == "margin" and not any(map(_leads, losses_of(v))),
    ),
    NoEffect(
        ("lm_coefficient",),
        "orpo and cpo have this term already, with weight 1",
        lambda v: bool(set(losses_of(v)) & IMITATES),
    ),
    NoEffect(
        ("f_divergence", "f_alpha"),
        "no loss here holds the policy near a reference by a divergence of pairs; use sigmoid, for example",
        lambda v: _is_rated(v) or not needs_reference(v),
    ),
    NoEffect(
        ("f_alpha",),
        "only alpha_divergence has an α; set f_divergence",
        lambda v: v["f_divergence"] != "alpha_divergence",
    ),
)
