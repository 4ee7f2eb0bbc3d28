"""The two kinds of rules about settings that do not go together. Most rules are in contradictions.py and no_effect.py;
those of the losses of pairs, of policies and of several processes are in pair_rules.py, policy_rules.py and
cluster_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from concordant.config.names import estimator_of_kl, place_of_kl

Values = Mapping[str, Any]  # by dotted key


def kl_of(v: Values) -> tuple[str, str]:
    """Place and estimator of the KL penalty, after "auto" is resolved."""
    place = place_of_kl(v["advantage"], v["kl.place"])
    return place, estimator_of_kl(place, v["kl.estimator"])


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Settings that contradict each other, and what to change."""

    keys: tuple[str, ...]
    wrong: Callable[[Values], bool]
    why: str


def always(values: Values) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Keys that have no effect if ``when`` is true. A key that ends with a dot means a whole section."""

    keys: tuple[str, ...]
    why: str
    when: Callable[[Values], bool] = always

    def has(self, key: str) -> bool:
        return any(key == known or (known.endswith(".") and key.startswith(known)) for known in self.keys)
