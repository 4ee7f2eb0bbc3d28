"""Kills runs of every trainer, at random instants and at every named point of a save, and compares what they come to
with the run nobody touched, bit for bit.

    python bench/chaos.py [--kills 120] [--seed 0]

A trial is one run, killed up to three times and then left to end. Prints and writes bench/results/chaos.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from concordant.core.save_points import POINTS  # noqa: E402
from concordant.runs.identity import code_version  # noqa: E402
from tests.training.killing import (  # noqa: E402
    TRAINERS,
    Ended,
    Kill,
    Server,
    bits,
    command_of,
    differences,
    results,
)

NAMES = (*TRAINERS, "best-of-n", "pipeline")
KILLS_A_RUN = 3
PARTS = {"concordant.stages.best_of_n.PROMPTS_AT_ONCE": 1}


@dataclass
class Trial:
    name: str
    kills: list[str]  # where: a point of a save, or an instant as a share of the whole run
    survived: bool
    bits: int  # compared
    different: list[str]


class Chaos:
    def __init__(self, run: Server, place: Path, seed: int) -> None:
        self.run, self.place, self.random = run, place, random.Random(seed)
        self.whole: dict[str, tuple[dict[str, bytes], float]] = {}
        self.trials: list[Trial] = []
        self.kills: Counter[tuple[str, str]] = Counter()

    def command(self, name: str, output: Path, kill: Kill | None = None) -> Ended:
        return self.run(*command_of(name, self.place / "world", output, output.exists()), patch=PARTS, kill=kill)

    def undisturbed(self, name: str) -> None:
        ended = self.command(name, self.place / name)
        assert ended.code == 0, ended.said
        self.whole[name] = results(self.place / name), ended.seconds

    def trial(self, name: str, points: list[str]) -> Trial:
        """One run to its end; ``points`` are where it is to be killed, "instant" for any instant."""
        output = self.place / f"trial-{len(self.trials):03d}"
        expected, seconds = self.whole[name]
        done: list[str] = []
        for point in points:
            share = self.random.uniform(0.05, 1.0)
            at_point = Kill(call="concordant.core.save_points.at", argument=point, time=self.random.randint(1, 2))
            ended = self.command(name, output, Kill(seconds=share * seconds) if point == "instant" else at_point)
            if ended.code == -signal.SIGKILL:
                self.kills[name, point] += 1
                done.append(f"{share:.2f}" if point == "instant" else point)
            elif ended.code != 0:
                return self.add(Trial(name, done, False, 0, [f"exit {ended.code}: {ended.said[-300:]}"]))
        last = self.command(name, output)
        found = results(output) if last.code == 0 else {}
        different = differences(expected, found) if found else [f"exit {last.code}: {last.said[-300:]}"]
        shutil.rmtree(output, ignore_errors=True)
        return self.add(Trial(name, done, not different, bits(found), different))

    def add(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        return trial

    def all(self, kills: int) -> None:
        for name in NAMES:
            self.undisturbed(name)
        while self.kills.total() < kills:
            for name in NAMES:
                places = [*POINTS, "instant"] if name != "best-of-n" else ["instant"]
                # Where it was killed least comes first, so that every point is tried with every trainer.
                order = sorted(places, key=lambda place: (self.kills[name, place], self.random.random()))
                trial = self.trial(name, [*order[: KILLS_A_RUN - 1], *["instant"] * KILLS_A_RUN][:KILLS_A_RUN])
                print(
                    f"{self.kills.total():4d} kills  {name:10s} {' '.join(trial.kills):32s} {verdict(trial)}",
                    flush=True,
                )


def verdict(trial: Trial) -> str:
    return f"same {trial.bits:,} bits" if trial.survived else f"LOST: {trial.different[:3]}"


def table(chaos: Chaos) -> str:
    head = ["trainer", "runs", "kills", "survived", "bits compared", *POINTS, "instant"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    by_name: dict[str, list[Trial]] = defaultdict(list)
    for trial in chaos.trials:
        by_name[trial.name].append(trial)
    for name, trials in by_name.items():
        kills = sum(len(t.kills) for t in trials)
        survived = sum(len(t.kills) for t in trials if t.survived)
        where = [chaos.kills[name, point] or "" for point in (*POINTS, "instant")]
        row = [name, len(trials), kills, f"{survived}/{kills}", f"{sum(t.bits for t in trials):,}", *where]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=120)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, Server(Path(name)) as run:
        place = Path(name)
        assert run("world", place / "world").code == 0
        chaos = Chaos(run, place, given.seed)
        chaos.all(given.kills)
    kills = sum(len(t.kills) for t in chaos.trials)
    survived = sum(len(t.kills) for t in chaos.trials if t.survived)
    head = (
        f"{survived} of {kills} kills survived, seed {given.seed}; {sum(t.bits for t in chaos.trials):,} bits compared"
    )
    print(f"\n{head}\n\n{table(chaos)}")
    content = {
        "kills": kills,
        "survived": survived,
        "seed": given.seed,
        "bits": sum(t.bits for t in chaos.trials),
        "bits_of_a_run": {name: bits(found) for name, (found, _) in chaos.whole.items()},
        "code": code_version(),
        "processor": platform.machine(),
        "trials": [asdict(t) for t in chaos.trials],
    }
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "chaos.md").write_text(f"{head}\n\n{table(chaos)}\n")
    return 0 if kills and survived == kills else 1


if __name__ == "__main__":
    sys.exit(main())
