"""Do the intervals of votes hold what they promise? ``python -m bench.votes_intervals``

Simulated arenas: policies of known strength, prompts on which they compete, and raters whose votes follow
Bradley–Terry. Counted is how often an interval of 95 % holds the true number: of the ratings against the anchor, of a
planted position bias, and of the labels that are still needed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from itertools import combinations
from pathlib import Path

from concordant.evaluation.ratings import POINTS_PER_NAT
from concordant.votes.quality import position_bias
from concordant.votes.rows import Pair, Vote, choice_of
from concordant.votes.standings import standings

RESULTS = Path(__file__).parent / "results"


def arena(
    seed: int, nats: dict[str, float], prompts: int, votes_per_pair: int = 1, bias: float = 0.0, ties: float = 0.1
) -> tuple[list[Pair], list[Vote]]:
    """Pairs and votes of one arena. ``nats``: the policies' log-odds of winning; a share of the votes are ties.

    In a share ``bias`` of the votes the rater takes the left answer without reading.
    """
    stream = random.Random(seed)
    pairs: list[Pair] = []
    votes: list[Vote] = []
    for prompt in range(prompts):
        for first, second in combinations(nats, 2):
            number = len(pairs)
            said = [{"role": "user", "content": f"prompt {prompt}"}]
            pairs.append(
                Pair(
                    id=number, key=str(number), prompt=said, first="a", second="b", first_policy=first,
                    second_policy=second, gold=None, tools=None,
                )
            )  # fmt: skip
            for rater in range(votes_per_pair):
                swapped = stream.random() < 0.5
                wins = stream.random() < 1 / (1 + math.exp(nats[second] - nats[first]))
                choice = "first" if wins else "second"
                if stream.random() < ties:
                    choice = "tie"
                if stream.random() < bias:
                    choice = choice_of("left", swapped)
                votes.append(
                    Vote(
                        pair=number, rater=f"rater {rater}", choice=choice, strength=None, reason="", swapped=swapped,
                        cast=float(len(votes)),
                    )
                )  # fmt: skip
    return pairs, votes


def run(arenas: int, prompts: int, bias: float, bootstrap: int) -> dict[str, float]:
    held: list[bool] = []
    found_bias: list[bool] = []
    for seed in range(arenas):
        stream = random.Random(f"strengths {seed}")
        nats = {name: stream.gauss(0, 0.7) for name in ("one", "two", "three", "four")}
        # Ties and a rater's carelessness draw win rates towards a half. Without them the rating is the planted one.
        fair = standings(*arena(seed, nats, prompts, ties=0.0), bootstrap, seed, "one")
        assert fair is not None
        for name, rating in fair.ratings.ratings.items():
            if name != "one" and rating.interval is not None:
                true = (nats[name] - nats["one"]) * POINTS_PER_NAT
                held.append(rating.interval.low <= true <= rating.interval.high)
        careless = position_bias(arena(seed + 10_000, nats, prompts, bias=bias, ties=0.0)[1])
        assert careless is not None and careless.interval is not None
        found_bias.append(careless.interval.low <= bias <= careless.interval.high)
    return {
        "arenas": arenas,
        "prompts": prompts,
        "policies": 4,
        "rating_intervals": len(held),
        "rating_coverage": sum(held) / len(held),
        "planted_bias": bias,
        "bias_coverage": sum(found_bias) / len(found_bias),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arenas", type=int, default=200)
    parser.add_argument("--prompts", type=int, nargs="+", default=[30, 60, 120])
    parser.add_argument("--bias", type=float, default=0.15)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS / "votes-intervals.json")
    given = parser.parse_args()
    rows = [run(given.arenas, prompts, given.bias, given.bootstrap) for prompts in given.prompts]
    given.output.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
