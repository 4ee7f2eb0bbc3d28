"""Rules about the settings of an environment, for the verbs that can have one."""

from __future__ import annotations

from concordant.config.rule_kinds import Contradiction, NoEffect
from concordant.config.specs import place_of

TURNS_CONTRADICTIONS = (
    Contradiction(
        ("sampling.stop_strings", "environment.name"),
        lambda v: bool(v["sampling.stop_strings"] and v["environment.name"]),
        "a turn ends with an end token, behind which the chat template writes the reply; leave stop strings out",
    ),
    Contradiction(
        ("sampling.min_new_tokens", "environment.name"),
        lambda v: v["sampling.min_new_tokens"] > 0 and bool(v["environment.name"]),
        "it would hold for every turn, and the number of turns is not known; leave it out",
    ),
)
# Of verbs that have a reward too.
ENVIRONMENT_CONTRADICTIONS = (
    *TURNS_CONTRADICTIONS,
    Contradiction(
        ("reward", "environment.name"),
        lambda v: not v["environment.name"] and "rule:environment" in map(place_of, v["reward"]),
        "the score of an environment needs one; give --environment",
    ),
)

ENVIRONMENT_NO_EFFECT = (
    NoEffect(
        ("environment.turns", "environment.reply_tokens", "environment.on_error", "environment.timeout"),
        "there is no environment; give --environment",
        lambda v: not v["environment.name"],
    ),
)
