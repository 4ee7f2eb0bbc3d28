"""The summary of an arena as text for the terminal."""

from __future__ import annotations

from typing import Any

from concordant.core.counted import counted
from concordant.core.digits import UNKNOWN, number, percent


def page(found: dict[str, Any]) -> str:
    """Counts, agreement, raters and ratings, a paragraph each."""
    counts = found["counts"]
    lines = [
        f"{found['arena']}: {found['question']}",
        f"{counted(counts['pairs'], 'pair')} ({counts['gold_pairs']:,} of them gold), "
        f"{counted(counts['votes'], 'vote')}, {counts['undone']:,} undone; {counted(counts['open'], 'seat')} open",
        "",
        "agreement beyond chance (1: always, 0: by chance)",
    ]
    agreement = found["agreement"]
    for name, key in (("Fleiss' kappa", "fleiss"), ("Krippendorff's alpha", "krippendorff")):
        lines.append(f"  {name:<24}{_agreed(agreement[key])}")
    lines += [f"  {'Cohen, ' + ' and '.join(one['raters']):<24}{_agreed(one)}" for one in agreement["cohen"]]
    if found["raters"]:
        lines += ["", "raters: votes, skipped, right on gold pairs, left answer chosen (fair: 50 %)"]
    for rater in found["raters"]:
        gold, left = _share(rater["gold"]), _share(rater["left"])
        lines.append(f"  {rater['name']:<20}{rater['votes']:>6,}{rater['skipped']:>6,}   {gold:<18}{left}")
    bias = found["position_bias"]
    if bias:
        low, high = number(100 * bias["low"], 0), number(100 * bias["high"], 0)
        lines.append(f"  position bias {number(100 * bias['value'], 0)} % of the choices [{low}, {high}]")
    standings = found["standings"]
    if standings:
        lines += ["", f"ratings in points, from {counted(standings['labels'], 'verdict')}; {standings['anchor']} has 0"]
        lines += [f"  {row['policy']:<24}{_rating(row)}" for row in standings["ratings"]]
        lines += ["", *([needed_sentence(standings["needed"])] if standings["needed"] else [])]
    return "\n".join(lines)


def needed_sentence(needed: dict[str, Any]) -> str:
    """About how many more labels tell the two best policies apart."""
    two = f"{needed['better']} and {needed['worse']}"
    if needed["more"] == 0:
        return f"The labels tell {two} apart already."
    most = "no number may be enough, if they are equally good" if needed["high"] is None else f"{needed['high']:,}"
    if needed["more"] is None:
        return f"{two} have equal ratings so far: {needed['low']:,} more labels at least."
    return f"About {needed['more']:,} more labels tell {two} apart (at least {needed['low']:,}; at most: {most})."


def _agreed(found: dict[str, Any]) -> str:
    if found["value"] is None:
        why = "no pair has two votes" if not found["pairs"] else "all labels are equal"
        return f"{UNKNOWN} ({why})"
    ends = "" if found["low"] is None else f" [{number(found['low'])}, {number(found['high'])}]"
    return f"{number(found['value'])}{ends}, of {found['pairs']:,} of {counted(found['of'], 'pair')}"


def _share(mean: dict[str, Any] | None) -> str:
    if mean is None:
        return UNKNOWN
    ends = f" [{number(100 * mean['low'], 0)}, {number(100 * mean['high'], 0)}]"
    return percent(mean["value"], mean["count"]) + ends


def _rating(row: dict[str, Any]) -> str:
    value = number(row["rating"], 0)
    if row["low"] is None or row["low"] == row["high"]:
        return value
    return f"{value} [{number(row['low'], 0)}, {number(row['high'], 0)}]"
