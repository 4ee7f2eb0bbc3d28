"""Everything that the votes of an arena say, as one object: the status of the command line, and of the pages."""

from __future__ import annotations

from typing import Any

from concordant.evaluation.records import Interval, Mean
from concordant.votes.agreement import Agreement, fleiss_kappa, krippendorffs_alpha, of_two_raters
from concordant.votes.quality import position_bias, raters_of
from concordant.votes.standings import BOOTSTRAP, standings
from concordant.votes.store import Store

MOST_PAIRS_OF_RATERS = 20  # of Cohen's kappa, those with the most shared pairs


def summary(store: Store, name: str, bootstrap: int = BOOTSTRAP) -> dict[str, Any]:
    """Counts, agreement, raters, position bias and ratings of the arena ``name``. Every number is plain JSON."""
    arena = store.arena(name)
    pairs, votes = store.read(arena)
    gold = {pair.id for pair in pairs if pair.gold is not None}
    labels: dict[int, dict[str, str]] = {}
    for vote in votes:
        if vote.is_verdict and vote.pair not in gold:
            labels.setdefault(vote.pair, {})[vote.rater] = vote.choice
    units = list(labels.values())
    cohen = of_two_raters(units, bootstrap)
    most = sorted(cohen, key=lambda names: -cohen[names].units)[:MOST_PAIRS_OF_RATERS]
    found = standings(pairs, votes, bootstrap, arena.seed)
    return {
        "arena": name,
        "question": arena.question,
        "counts": store.counts(arena) | {"gold_pairs": len(gold), "labelled_pairs": len(units)},
        "agreement": {
            "fleiss": _agreement(fleiss_kappa(units, bootstrap)),
            "krippendorff": _agreement(krippendorffs_alpha(units, bootstrap)),
            "cohen": [{"raters": list(names)} | _agreement(cohen[names]) for names in most],
            "cohen_left_out": len(cohen) - len(most),
        },
        "raters": [
            {
                "name": rater.name,
                "votes": rater.votes,
                "skipped": rater.skipped,
                "ties": rater.ties,
                "gold": _mean(rater.gold),
                "left": _mean(rater.left),
                "seconds": rater.seconds,
            }
            for rater in raters_of(pairs, votes)
        ],
        "position_bias": _mean(position_bias(votes)),
        "standings": None
        if found is None
        else {
            "labels": found.labels,
            "anchor": found.ratings.anchor,
            "ratings": [
                {"policy": policy, "rating": rating.value, **_ends(rating.interval)}
                for policy, rating in ((name, found.ratings.ratings[name]) for name in found.ratings.ranking())
            ],
            "wins": {one: {two: _mean(mean) for two, mean in row.items()} for one, row in found.ratings.wins.items()},
            "needed": None
            if found.needed is None
            else {name: getattr(found.needed, name) for name in ("better", "worse", "more", "low", "high")},
        },
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "value": found.value,
        **_ends(found.interval),
        "pairs": found.units,
        "of": found.of,
        "coverage": found.coverage,
    }


def _ends(interval: Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}


def _mean(mean: Mean | None) -> dict[str, float | None] | None:
    return None if mean is None else mean.as_json()
