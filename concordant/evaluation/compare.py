"""Compares the answers of policies to the same prompts and makes the numbers of the report's table.

S bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError, unknown_name
from concordant.evaluation.bootstrap import mean_interval, percentile_interval, resampled_means
from concordant.evaluation.metrics import TIE, distinct, repetition, win_points
from concordant.evaluation.records import (
    SCORERS,
    Evaluation,
    Gain,
    Interval,
    PolicyAnswers,
    PolicyScores,
    Scorer,
    Survival,
)


def evaluate_policies(answers: Sequence[PolicyAnswers], baseline: str, bootstrap: int, seed: int) -> Evaluation:
    """Compare ``answers`` with those of the policy named ``baseline``.

    The first of gold, judge and proxy that scored every policy decides the wins. The 95 % intervals come from
    ``bootstrap`` resamples of prompts, drawn by ``seed``; with 0 there are no intervals. Raises UserError if the
    baseline is unknown, two policies have one name, or there is nothing to compare. Raises ValueError if the policies
    answered different prompts or a score is not finite.
    """
    _check(answers, baseline)
    start = next(a for a in answers if a.name == baseline)
    decided_by = next((s for s in SCORERS if _known_to_all(answers, s)), None)
    policies = {a.name: _scores(a, start, decided_by, bootstrap, seed) for a in answers}
    survival = {a.name: _survivals(a, start, bootstrap, seed) for a in answers if a.name != baseline}
    return Evaluation(
        answers=tuple(answers),
        policies=policies,
        baseline=baseline,
        decided_by=decided_by,
        survival={name: by_scorer for name, by_scorer in survival.items() if by_scorer},
        lead=_lead(answers, decided_by, bootstrap, seed),
        seed=seed,
        bootstrap=bootstrap,
    )


def _check(answers: Sequence[PolicyAnswers], baseline: str) -> None:
    if not answers:
        raise UserError("no policy to evaluate: name at least one as name=PATH")
    names = [a.name for a in answers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f'two policies have the name "{twice[0]}": give every policy a different name')
    if baseline not in names:
        raise unknown_name("baseline policy", baseline, names)
    if not len(answers[0].prompts):
        raise UserError("no held-out prompts to evaluate on: the test split is empty")
    for a in answers:
        if list(a.prompts) != list(answers[0].prompts):
            raise ValueError(f"{a.name} and {answers[0].name} did not answer the same prompts in the same order")
        columns = {"responses": a.responses, "lengths": a.lengths, "ended": a.ended}
        columns |= {s: scores for s in SCORERS if (scores := a.scores(s)) is not None}
        for column, values in columns.items():
            if len(values) != len(a.prompts):
                raise ValueError(f"{a.name}: {len(values)} {column} for {len(a.prompts)} prompts")
        for s in SCORERS:
            scores_G = _array(a, s)
            if scores_G is not None and not np.isfinite(scores_G).all():
                bad = int(np.flatnonzero(~np.isfinite(scores_G))[0])
                raise ValueError(f"{a.name}: the {s} score of prompt {bad} is not finite")


def _known_to_all(answers: Sequence[PolicyAnswers], scorer: Scorer) -> bool:
    return all(a.scores(scorer) is not None for a in answers)


def _array(answers: PolicyAnswers, scorer: Scorer) -> NDArray[np.float64] | None:
    scores = answers.scores(scorer)
    return None if scores is None else np.asarray(scores, dtype=np.float64)


def _mean(answers: PolicyAnswers, scorer: Scorer) -> float | None:
    scores_G = _array(answers, scorer)
    return None if scores_G is None else float(scores_G.mean())


def _gain(mine_G: NDArray[np.float64], base_G: NDArray[np.float64], bootstrap: int, seed: int) -> Gain:
    difference_G, spread = mine_G - base_G, float(base_G.std())
    mean = float(difference_G.mean())
    return Gain(mean, mean / spread if spread > TIE else None, mean_interval(difference_G, bootstrap, seed))


def _scores(
    mine: PolicyAnswers, base: PolicyAnswers, decided_by: Scorer | None, bootstrap: int, seed: int
) -> PolicyScores:
    win_rate: float | None = None
    win_interval: Interval | None = None
    gain: Gain | None = None
    rewards_G = _array(mine, "reward")
    if decided_by is not None:
        mine_G, base_G = _array(mine, decided_by), _array(base, decided_by)
        assert mine_G is not None and base_G is not None  # the deciding scorer scored every policy
        points_G = win_points(mine_G, base_G)
        win_rate, win_interval = float(points_G.mean()), mean_interval(points_G, bootstrap, seed)
        gain = _gain(mine_G, base_G, bootstrap, seed)
    return PolicyScores(
        name=mine.name,
        prompts=len(mine.prompts),
        reward_mean=_mean(mine, "reward"),
        reward_std=None if rewards_G is None else float(rewards_G.std()),
        gold_mean=_mean(mine, "gold"),
        judge_mean=_mean(mine, "judge"),
        win_rate=win_rate,
        win_interval=win_interval,
        gain=gain,
        kl=None if mine.kl is None else float(mine.kl),
        kl_is_bound=mine.kl_is_bound,
        perplexity=None if mine.perplexity is None else float(mine.perplexity),
        distinct_1=distinct(mine.responses, 1),
        distinct_2=distinct(mine.responses, 2),
        repetition=repetition(mine.responses),
        length_mean=float(np.mean(mine.lengths)),
        eos_fraction=float(np.mean(mine.ended)),
    )


def _survivals(mine: PolicyAnswers, base: PolicyAnswers, bootstrap: int, seed: int) -> dict[Scorer, Survival]:
    """The survival by gold and judge, if these and the proxy scored both policies and the baseline's answers differ."""
    found: dict[Scorer, Survival] = {}
    proxy = _array(mine, "reward"), _array(base, "reward")
    for scorer in SCORERS[:2]:
        other = _array(mine, scorer), _array(base, scorer)
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
    """How much of the proxy's gain survives. Each pair is (the policy's scores, the baseline's scores), both (G,)."""
    gains = _gain(*proxy, bootstrap, seed), _gain(*other, bootstrap, seed)
    in_proxy, in_other = gains[0].deviations, gains[1].deviations
    # If the proxy's gain may be zero, a ratio to this gain has no meaning.
    floor = gains[0].interval.low if gains[0].interval is not None else gains[0].mean
    if in_proxy is None or in_other is None or floor <= 0:
        return Survival(proxy=gains[0], other=gains[1], ratio=None, interval=None)
    interval = None
    if bootstrap > 0:
        spread = proxy[1].std(), other[1].std()
        means_S2 = resampled_means(np.stack([proxy[0] - proxy[1], other[0] - other[1]], axis=1), bootstrap, seed)
        proxy_S = means_S2[:, 0] / spread[0]
        kept = proxy_S > 0  # leaves out at most 2.5 % of the resamples, because the interval is above 0
        interval = percentile_interval(means_S2[kept, 1] / spread[1] / proxy_S[kept])
    return Survival(proxy=gains[0], other=gains[1], ratio=in_other / in_proxy, interval=interval)


def _lead(answers: Sequence[PolicyAnswers], decided_by: Scorer | None, bootstrap: int, seed: int) -> Gain | None:
    if decided_by is None or len(answers) < 2:
        return None
    ranked = sorted((s for a in answers if (s := _array(a, decided_by)) is not None), key=lambda s_G: -s_G.mean())
    return _gain(ranked[0], ranked[1], bootstrap, seed)
