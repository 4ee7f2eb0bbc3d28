"""Our numbers beside the peers': a table, and exit code 1 where they are apart.

``python -m tests.parity.compare TRL_FOLDER PPO_FOLDER|- [--write-goldens]``. A row that is *known* differs for a reason
that docs/parity.md gives; each has a row beside it that is equal once the reason is taken into account.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.parity import case, ours, peer_files
from tests.parity.figures import Figures, gradient_error, norm, relative, vector_error

TOLERANCE = 1e-4  # of a loss or metric, of a gradient's norm, of a vector's norm
GOLDENS = Path(__file__).parent / "goldens"
TRAINERS_GOLDEN, PPO_GOLDEN = GOLDENS / "trl-trainers.json", GOLDENS / "trl-ppo.json"
METRICS = {  # TRL's reward of IPO is of summed log-ratios, ours of the means that its loss compares
    "dpo/ipo": ("logps/chosen", "logps/rejected"),
}


@dataclass(frozen=True)
class Row:
    what: str
    ours: float
    peer: float
    error: float
    known: bool = False  # True: must differ, for a reason that is documented

    @property
    def verdict(self) -> str:
        close = self.error <= TOLERANCE
        return ("stale" if close else "known") if self.known else ("ok" if close else "OFF")

    @property
    def passed(self) -> bool:
        return self.verdict in ("ok", "known")


def rows(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """Every comparison that both sides have, in the order of what we made."""
    table: list[Row] = []
    for name, mine in made.items():
        if name in peer and not name.startswith(("ppo/", "dpo/sigmoid uneven")):
            table += whole(name, mine, peer[name])
    table += smoothing(made, peer) + uneven(made, peer)
    for name in case.PPO_LENGTHS:
        if f"ppo/policy {name}" in peer:
            table += ppo(name, made, peer)
    return table


def whole(name: str, mine: Figures, theirs: Figures) -> list[Row]:
    """Loss, gradient and metrics."""
    table = [
        Row(f"{name}: loss", mine.loss, theirs.loss, relative(mine.loss, theirs.loss)),
        gradient_row(f"{name}: gradient", mine, theirs),
    ]
    for metric in METRICS.get(name, theirs.metrics):
        a, b = mine.metrics[metric], theirs.metrics[metric]
        table.append(Row(f"{name}: {metric}", a, b, relative(a, b)))
    return table


def gradient_row(what: str, mine: Figures, theirs: Figures, known: bool = False) -> Row:
    error = gradient_error(mine.gradient, theirs.gradient)
    return Row(what, norm(mine.gradient), norm(theirs.gradient), error, known)


def smoothing(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL takes label_smoothing for its sigmoid loss and leaves it out."""
    mine, theirs = made["dpo/smoothed"], peer["dpo/smoothed, TRL's sigmoid"]
    plain = made["dpo/sigmoid"].loss
    return [
        Row("dpo/smoothed: TRL's sigmoid", mine.loss, theirs.loss, relative(mine.loss, theirs.loss), known=True),
        Row("dpo/smoothed: TRL's against ε = 0", plain, theirs.loss, relative(plain, theirs.loss)),
    ]


def uneven(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL's DPO and reward losses are means of micro-batches' means, so the last, smaller one weighs more."""
    return [gradient_row("dpo/sigmoid in 4 + 2 pairs: gradient", made["dpo/sigmoid uneven"], peer["dpo/sigmoid uneven"], True)]


def ppo(name: str, made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    full = name == "full"
    policy, their_policy = made[f"ppo/policy {name}"], peer[f"ppo/policy {name}"]
    value, their_value = made[f"ppo/value {name}"], peer[f"ppo/value {name}"]
    table = [
        token_row(f"ppo {name}: {column}", policy.tokens[column], their_policy.tokens[column])
        for column in ("old_logprob", "reference_logprob")
    ]
    table.append(token_row(f"ppo {name}: old values", value.tokens["old_value"], their_value.tokens["old_value"]))
    advantage, theirs = policy.tokens["advantage"], their_policy.tokens["advantage"]
    table.append(token_row(f"ppo {name}: returns (GAE)", policy.tokens["return"], their_policy.tokens["return"], not full))
    if full:
        table.append(token_row("ppo full: whitened advantages", advantage, theirs, known=True))
        bessel = math.sqrt((len(advantage) - 1) / len(advantage))
        table.append(token_row("ppo full: the same by n - 1", [a * bessel for a in advantage], theirs))
    else:
        past = peer["ppo/past the end short"].tokens
        explained = ours.one_past_the_end(name, torch.tensor(past["old_value"])).tolist()
        table.append(token_row("ppo short: returns, score one past the end", explained, past["return"]))
    table += whole(f"ppo {name}: policy", policy, Figures(their_policy.loss, {}, their_policy.gradient))
    value_error = relative(value.loss, their_value.loss)
    table.append(Row(f"ppo {name}: value: loss", value.loss, their_value.loss, value_error, known=not full))
    table.append(gradient_row(f"ppo {name}: value: gradient", value, their_value, known=not full))
    micro = peer.get(f"ppo/policy {name}, TRL's micro-batches of 2")
    if micro:
        table.append(gradient_row(f"ppo {name}: policy in micro-batches: gradient", policy, micro, known=True))
    return table


def token_row(what: str, mine: list[float], theirs: list[float], known: bool = False) -> Row:
    """Vectors are shown by their norms."""
    return Row(what, math.hypot(*mine), math.hypot(*theirs), vector_error(mine, theirs), known)


def show(table: list[Row]) -> None:
    width = max(len(row.what) for row in table)
    print(f"{'what':{width}}  {'ours':>14}  {'peer':>14}  {'difference':>10}")
    for row in table:
        print(f"{row.what:{width}}  {row.ours:14.7g}  {row.peer:14.7g}  {row.error:10.1e}  {row.verdict}")


def main(trainers: Path, ppo_folder: Path | None, write_goldens: bool) -> int:
    versions, peer = peer_files.read(trainers)
    print("peer:", ", ".join(f"{name} {number}" for name, number in versions.items()))
    if ppo_folder:
        versions, more = peer_files.read(ppo_folder)
        print("PPO's peer:", ", ".join(f"{name} {number}" for name, number in versions.items()))
        peer |= more
    table = rows(ours.all_figures(peer), peer)
    show(table)
    if write_goldens:
        shutil.copy(trainers / peer_files.FIGURES, TRAINERS_GOLDEN)
        if ppo_folder:
            shutil.copy(ppo_folder / peer_files.FIGURES, PPO_GOLDEN)
        print(f"wrote {GOLDENS}")
    off = [row for row in table if not row.passed]
    known = sum(row.verdict == "known" for row in table)
    print(f"{len(table)} comparisons: {len(table) - len(off) - known} equal, {known} known to differ, {len(off)} off")
    return 1 if off else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, second, *options = sys.argv[1:]
    sys.exit(main(Path(first), None if second == "-" else Path(second), "--write-goldens" in options))
