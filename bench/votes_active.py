"""Do chosen pairs need fewer labels than random ones? ``python -m bench.votes_active``

A simulated rater votes on pairs of toytalk; the vote follows the gold judge, and goes wrong in a share of the cases.
After every ``--step`` votes an ensemble learns from all votes so far, and the pairs that are left get a new order, as
`concordant votes rank` gives one: random, close or disputed. Measured is how often the ensemble ranks held-out pairs as
gold does.

The reward model here is no language model. It is Bradley and Terry's model, linear in the words of an answer and in
pairs of a word of the question and a word of the answer, because hundreds of such models are trained in a minute. A
result says how the orders compare for this model in this world, and no more.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from concordant.config.names import PairOrder
from concordant.data.records import Pair
from concordant.data.toytalk import gold_score, heldout_pairs, training_pairs
from concordant.votes.incoming import ranks_of

RESULTS = Path(__file__).parent / "results"
ORDERS: tuple[PairOrder, ...] = ("random", "close", "disputed")
SIZE = 2**13  # hashed features
MEMBERS = 5
Array = NDArray[np.float64]


def features(pair: Pair, answer: str) -> Array:
    """(SIZE,): words of the answer, and pairs of a word of the question and a word of the answer."""
    x = np.zeros(SIZE)
    question = {word.strip(".,?!").lower() for word in pair.prompt[-1].content.split()}
    for word in (w.strip(".,?!").lower() for w in answer.split()):
        x[zlib.crc32(word.encode()) % SIZE] += 1.0
        for asked in question:
            x[zlib.crc32(f"{asked} {word}".encode()) % SIZE] += 0.5
    return x / max(1.0, float(np.linalg.norm(x)))


def fitted(gram_NN: Array, weight_N: Array, ridge: float = 0.05, steps: int = 150) -> Array:
    """Coefficients α of logistic regression in its dual form, with all labels 1: the score of x is Σ α_i k(x_i, x).

    Gradient steps on Σ w_i·log(1 + exp(-f_i)) + ridge/2·α'Kα, with f = Kα.
    """
    alpha = np.zeros(len(gram_NN))
    rate = 1.0 / (0.25 * max(1e-9, float(np.abs(gram_NN).sum(axis=1).max())) * float(weight_N.max()) + ridge)
    for _ in range(steps):
        alpha += rate * (weight_N / (1 + np.exp(gram_NN @ alpha)) - ridge * alpha)
    return alpha


def curve(seed: int, order: PairOrder, most: int, start: int, step: int, wrong: float, pool: int) -> list[float]:
    """Gold accuracy on held-out pairs after ``start``, ``start + step``, … votes."""
    stream = random.Random(f"{seed}")
    train, test = list(training_pairs(seed=seed)), list(heldout_pairs(seed=seed))
    train, test = stream.sample(train, pool), stream.sample(test, min(len(test), 800))
    x_P, x_T = (_differences(pairs) for pairs in (train, test))
    gold_T = np.array([_gold(pair) for pair in test])
    says_P = np.sign([_gold(pair) for pair in train]) * np.array([-1 if stream.random() < wrong else 1 for _ in train])
    x_P = x_P * says_P[:, None]  # now every label is 1
    gram_PP, gram_TP = x_P @ x_P.T, x_T @ x_P.T
    numbers = np.random.default_rng(seed)
    labelled = [int(i) for i in numbers.permutation(pool)[:start]]
    found = []
    while True:
        own = np.array(labelled)
        drawn = [numbers.integers(0, len(own), len(own)) for _ in range(MEMBERS)]  # each member has its own resample
        alphas = [fitted(gram_PP[np.ix_(own, own)], np.bincount(d, minlength=len(own)).astype(float)) for d in drawn]
        mean_T = np.mean([gram_TP[:, own] @ alpha for alpha in alphas], axis=0)
        right = (np.sign(mean_T) == np.sign(gold_T))[gold_T != 0]
        found.append(float(right.mean()))
        if len(labelled) + step > most:
            return found
        left = sorted(set(range(pool)) - set(labelled))
        member_ML = np.array([gram_PP[np.ix_(left, own)] @ alpha for alpha in alphas])
        scores = {str(i): (list(map(float, member_ML[:, n])), [0.0] * MEMBERS) for n, i in enumerate(left)}
        ranks = ranks_of([str(i) for i in left], order, scores, seed + len(labelled))
        labelled += [int(key) for key in sorted(ranks, key=ranks.__getitem__)[:step]]


def needed(accuracy: Sequence[float], target: float, start: int, step: int) -> int | None:
    """The votes after which the accuracy is at the target for the first time."""
    return next((start + step * i for i, value in enumerate(accuracy) if value >= target), None)


def _differences(pairs: Sequence[Pair]) -> Array:
    return np.array([features(p, p.chosen) - features(p, p.rejected) for p in pairs])


def _gold(pair: Pair) -> float:
    return gold_score(pair.prompt, pair.chosen) - gold_score(pair.prompt, pair.rejected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=1200)
    parser.add_argument("--start", type=int, default=40)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0, 0.15], help="shares of wrong votes")
    parser.add_argument("--output", type=Path, default=RESULTS / "votes-active.json")
    given = parser.parse_args()
    rows = []
    for wrong in given.wrong:
        curves = {
            order: np.mean(
                [
                    curve(seed, order, given.most, given.start, given.step, wrong, given.pool)
                    for seed in range(given.seeds)
                ],
                axis=0,
            )
            for order in ORDERS
        }
        target = float(curves["random"][-3:].mean())  # what random choice reaches at the end
        for order, accuracy in curves.items():
            row = {"wrong": wrong, "order": order, "seeds": given.seeds, "target": round(target, 4)}
            row |= {"labels_to_target": needed(accuracy, target, given.start, given.step)}
            rows.append(row | {"accuracy": [round(float(a), 4) for a in accuracy]})
            print(json.dumps(rows[-1]), flush=True)
    given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
