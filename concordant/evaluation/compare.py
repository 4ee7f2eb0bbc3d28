"""Compares the answers of policies to the same prompts and makes the numbers of the report's table.

R runs of one policy, G prompts, S bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError, unknown_name
from concordant.evaluation.bootstrap import mean_of, percentile_interval, ratio_of, resampled_means
from concordant.evaluation.metrics import distinct, repetitions, rounding, win_points
from concordant.evaluation.ratings import FEWEST_RATED, rate
from concordant.evaluation.records import (
    SCORERS,
    Evaluation,
    Gain,
    Interval,
    Mean,
    PolicyAnswers,
    PolicyScores,
    Ratings,
    Scorer,
    Survival,
    TextLosses,
    scores_of,
)
from concordant.evaluation.verdict import verdict_on

Runs = Sequence[PolicyAnswers]  # the answers of each run of one policy
MOST_NATS = 50.0  # a token; the perplexity of a worse policy is given as exp of this


def evaluate_policies(answers: Sequence[PolicyAnswers], baseline: str, bootstrap: int, seed: int) -> Evaluation:
    """Compare ``answers`` with those of the policy named ``baseline``. Answers of one name are runs of one policy.

    The first of gold, judge and proxy that scored every policy decides the wins. The intervals come from ``bootstrap``
    resamples of prompts, drawn by ``seed``; with 0 there are no intervals. Raises UserError if the baseline is unknown,
    two policies have one name, or there is nothing to compare. Raises ValueError if the policies answered different
    prompts or a score is not finite.
    """
    _check(answers, baseline)
    by_name = {a.name: tuple(b for b in answers if b.name == a.name) for a in answers}
    base = by_name[baseline]
    decided_by = next((s for s in SCORERS if all(scores_of(runs, s) is not None for runs in by_name.values())), None)
    policies = {name: _with_runs(runs, base, decided_by, bootstrap, seed) for name, runs in by_name.items()}
    survival = {name: _survivals(runs, base, bootstrap, seed) for name, runs in by_name.items() if name != baseline}
    rated = None
    if decided_by is not None and len(by_name) >= FEWEST_RATED:
        rated = _ratings(by_name, decided_by, baseline, bootstrap, seed)
    deciding = {} if decided_by is None else {name: _mean_score(runs, decided_by) for name, runs in by_name.items()}
    return Evaluation(
        answers=by_name,
        policies=policies,
        baseline=baseline,
        decided_by=decided_by,
        survival={name: by_scorer for name, by_scorer in survival.items() if by_scorer},
        verdict=verdict_on(deciding, bootstrap, seed),
        ratings=rated,
        seed=seed,
        bootstrap=bootstrap,
    )


def _check(answers: Sequence[PolicyAnswers], baseline: str) -> None:
    if not answers:
        raise UserError("no policy to evaluate: name at least one as name=PATH")
    names = [(a.name, a.run) for a in answers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f'two policies have the name "{twice[0][0]}": give every policy a different name')
    if baseline not in [a.name for a in answers]:
        raise unknown_name("baseline policy", baseline, {a.name for a in answers})
    if not len(answers[0].prompts):
        raise UserError("no held-out prompts to evaluate on: the test split is empty")
    for a in answers:
        if list(a.prompts) != list(answers[0].prompts):
            raise ValueError(f"{a.name} and {answers[0].name} did not answer the same prompts in the same order")
        columns = {"responses": a.responses, "lengths": a.lengths, "ended": a.ended}
        columns |= {s: scores for s in SCORERS if (scores := a.scores(s)) is not None}
        columns |= {} if a.kl is None else {"kl": a.kl}
        for column, values in columns.items():
            if len(values) != len(a.prompts):
                raise ValueError(f"{a.name}: {len(values)} {column} for {len(a.prompts)} prompts")
        for s in SCORERS:
            scores_RG = scores_of([a], s)
            if scores_RG is not None and not np.isfinite(scores_RG).all():
                bad = int(np.flatnonzero(~np.isfinite(scores_RG[0]))[0])
                raise ValueError(f"{a.name}: the {s} score of prompt {bad} is not finite")


def _mean_score(runs: Runs, scorer: Scorer) -> NDArray[np.float64]:
    """The mean score of the runs' answers to each prompt, (G,), by a scorer that scored them all."""
    scores_RG = scores_of(runs, scorer)
    assert scores_RG is not None
    return scores_RG.mean(axis=0)


def _gain(mine_RG: NDArray[np.float64], base_RG: NDArray[np.float64], bootstrap: int, seed: int) -> Gain:
    mean, spread = mean_of(mine_RG.mean(axis=0) - base_RG.mean(axis=0), bootstrap, seed), float(base_RG.std())
    return Gain(mean, mean.times(1 / spread) if spread > rounding(base_RG) else None)


def _points(mine_RG: NDArray[np.float64], base_RG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each prompt's mean points over the pairs of runs, (G,): run by run if both have as many, else every pair."""
    if len(mine_RG) != len(base_RG):
        mine_RG, base_RG = np.repeat(mine_RG, len(base_RG), axis=0), np.tile(base_RG, (len(mine_RG), 1))
    return win_points(mine_RG, base_RG).mean(axis=0)


def _ratings(by_name: Mapping[str, Runs], scorer: Scorer, baseline: str, bootstrap: int, seed: int) -> Ratings:
    points = {}
    for mine, other in combinations(by_name, 2):
        mine_RG, other_RG = scores_of(by_name[mine], scorer), scores_of(by_name[other], scorer)
        assert mine_RG is not None and other_RG is not None  # the deciding scorer scored every policy
        points[mine, other] = _points(mine_RG, other_RG)
    return rate(points, list(by_name), baseline, bootstrap, seed)


def _with_runs(mine: Runs, base: Runs, decided_by: Scorer | None, bootstrap: int, seed: int) -> PolicyScores:
    scores = _scores(mine, base, decided_by, bootstrap, seed)
    if len(mine) == 1:
        return scores
    paired = [[b] for b in base] if len(base) == len(mine) else [base] * len(mine)
    alone = [_scores([run], rival, decided_by, 0, seed) for run, rival in zip(mine, paired, strict=True)]
    return replace(scores, run="", runs=tuple(alone))


def _scores(mine: Runs, base: Runs, decided_by: Scorer | None, bootstrap: int, seed: int) -> PolicyScores:
    def mean(values_RG: object, is_share: bool = False) -> Mean:
        x_G = np.asarray(values_RG, dtype=np.float64).mean(axis=0)
        return mean_of(x_G, bootstrap, seed, is_share=is_share)

    win: Mean | None = None
    gain: Gain | None = None
    if decided_by is not None:
        mine_RG, base_RG = scores_of(mine, decided_by), scores_of(base, decided_by)
        assert mine_RG is not None and base_RG is not None  # the deciding scorer scored every policy
        win = mean_of(_points(mine_RG, base_RG), bootstrap, seed, is_share=True)
        gain = _gain(mine_RG, base_RG, bootstrap, seed)
    scored = {s: scores_of(mine, s) for s in SCORERS}
    means = {s: None if scores_RG is None else mean(scores_RG) for s, scores_RG in scored.items()}
    rewards_RG = scored["reward"]
    bounds = [a.kl_bound for a in mine]
    return PolicyScores(
        name=mine[0].name,
        run=mine[0].run,
        prompts=len(mine[0].prompts),
        reward=means["reward"],
        reward_std=None if rewards_RG is None else float(rewards_RG.std()),
        gold=means["gold"],
        judge=means["judge"],
        win=win,
        gain=gain,
        kl=None if any(a.kl is None for a in mine) else mean([a.kl for a in mine]),
        kl_bound=None if None in bounds else max(b for b in bounds if b is not None),
        kl_unknown="; ".join(dict.fromkeys(a.kl_unknown for a in mine if a.kl_unknown)),
        perplexity=_perplexity([a.texts for a in mine], bootstrap, seed),
        distinct_1=_distinct(mine, 1),
        distinct_2=_distinct(mine, 2),
        repetition=_repetition(mine, bootstrap, seed),
        length=mean([a.lengths for a in mine]),
        ends=mean([a.ended for a in mine], is_share=True),
    )


def _distinct(runs: Runs, n: int) -> float | None:
    """The mean over runs, because the share falls as there are more answers."""
    found = [distinct(run.responses, n) for run in runs]
    known = [share for share in found if share is not None]
    return sum(known) / len(known) if known else None


def _repetition(runs: Runs, bootstrap: int, seed: int) -> Mean | None:
    """Over the prompts of which at least one answer is long enough."""
    by_prompt = zip(*(repetitions(run.responses) for run in runs), strict=True)
    known = [[share for share in shares if share is not None] for shares in by_prompt]
    shares_G = np.array([sum(shares) / len(shares) for shares in known if shares])
    return mean_of(shares_G, bootstrap, seed) if len(shares_G) else None


def _perplexity(texts: Sequence[TextLosses | None], bootstrap: int, seed: int) -> Mean | None:
    """exp of the mean loss of a token, over texts; of several runs, over the tokens of all of them.

    None if the runs did not read equally many texts, as with tokenizers of which one makes a text too long.
    """
    known = [t for t in texts if t is not None]
    if len(known) < len(texts) or len({len(t.nats) for t in known}) > 1:
        return None
    nats_G = np.asarray([t.nats for t in known], dtype=np.float64).sum(axis=0)
    tokens_G = np.asarray([t.tokens for t in known], dtype=np.float64).sum(axis=0)
    loss = ratio_of(nats_G, tokens_G, bootstrap, seed)
    value = math.exp(min(loss.value, MOST_NATS))
    ends = loss.interval and Interval(*(math.exp(min(x, MOST_NATS)) for x in (loss.interval.low, loss.interval.high)))
    error = None if loss.error is None else loss.error * value  # the change of exp(x) for a small change of x
    return replace(loss, value=value, error=error, interval=ends)


def _survivals(mine: Runs, base: Runs, bootstrap: int, seed: int) -> dict[Scorer, Survival]:
    """The survival by gold and judge, if these and the proxy scored both policies and the baseline's answers differ."""
    found: dict[Scorer, Survival] = {}
    proxy = scores_of(mine, "reward"), scores_of(base, "reward")
    for scorer in SCORERS[:2]:
        other = scores_of(mine, scorer), scores_of(base, scorer)
        if proxy[0] is None or proxy[1] is None or other[0] is None or other[1] is None:
            continue
        found[scorer] = _survival((proxy[0], proxy[1]), (other[0], other[1]), bootstrap, seed)
    return found


def _survival(
    proxy: tuple[NDArray[np.float64], NDArray[np.float64]],
    other: tuple[NDArray[np.float64], NDArray[np.float64]],
    bootstrap: int,
    seed: int,
) -> Survival:
    """How much of the proxy's gain survives. Each pair is (the policy's scores, the baseline's scores), both (R, G)."""
    gains = _gain(*proxy, bootstrap, seed), _gain(*other, bootstrap, seed)
    in_proxy, in_other = gains[0].deviations, gains[1].deviations
    # If the proxy's gain may be zero, a ratio to this gain has no meaning.
    floor = gains[0].mean.interval.low if gains[0].mean.interval is not None else gains[0].mean.value
    if in_proxy is None or in_other is None or floor <= 0:
        return Survival(proxy=gains[0], other=gains[1], ratio=None)
    ratio = Mean(value=in_other.value / in_proxy.value, error=None, count=in_other.count, interval=None)
    if bootstrap > 0:
        spread = proxy[1].std(), other[1].std()
        differences = [mine_RG.mean(axis=0) - base_RG.mean(axis=0) for mine_RG, base_RG in (proxy, other)]
        means_S2 = resampled_means(np.stack(differences, axis=1), bootstrap, seed)
        proxy_S = means_S2[:, 0] / spread[0]
        kept = proxy_S > 0  # leaves out at most 2.5 % of the resamples, because the interval is above 0
        ratio_S = means_S2[kept, 1] / spread[1] / proxy_S[kept]
        ratio = replace(ratio, error=float(ratio_S.std()), interval=percentile_interval(ratio_S))
    return Survival(proxy=gains[0], other=gains[1], ratio=ratio)
