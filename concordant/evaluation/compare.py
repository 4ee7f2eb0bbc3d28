"""From every policy's answers to the table: one pass, all policies on the same prompts.

P prompts, S bootstrap resamples.
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

    Wins are decided by the first of gold, judge and proxy that scored every policy. ``bootstrap`` resamples
    of prompts give the 95 % intervals (0: none), drawn from the stream of ``seed``.
    Raises UserError for an unknown baseline, two policies of one name, or nothing to compare; ValueError for
    answers that are not to the same prompts or scores that are not finite.
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
        raise UserError(f'two policies are named "{twice[0]}": every policy needs a name of its own')
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
            scores_P = _array(a, s)
            if scores_P is not None and not np.isfinite(scores_P).all():
                bad = int(np.flatnonzero(~np.isfinite(scores_P))[0])
                raise ValueError(f"{a.name}: the {s} score of prompt {bad} is not finite")


def _known_to_all(answers: Sequence[PolicyAnswers], scorer: Scorer) -> bool:
    return all(a.scores(scorer) is not None for a in answers)


def _array(answers: PolicyAnswers, scorer: Scorer) -> NDArray[np.float64] | None:
    scores = answers.scores(scorer)
    return None if scores is None else np.asarray(scores, dtype=np.float64)


def _mean(answers: PolicyAnswers, scorer: Scorer) -> float | None:
    scores_P = _array(answers, scorer)
    return None if scores_P is None else float(scores_P.mean())


def _gain(mine_P: NDArray[np.float64], base_P: NDArray[np.float64], bootstrap: int, seed: int) -> Gain:
    difference_P, spread = mine_P - base_P, float(base_P.std())
    mean = float(difference_P.mean())
    return Gain(mean, mean / spread if spread > TIE else None, mean_interval(difference_P, bootstrap, seed))


def _scores(
    mine: PolicyAnswers, base: PolicyAnswers, decided_by: Scorer | None, bootstrap: int, seed: int
) -> PolicyScores:
    win_rate: float | None = None
    win_interval: Interval | None = None
    gain: Gain | None = None
    rewards_P = _array(mine, "reward")
    if decided_by is not None:
        mine_P, base_P = _array(mine, decided_by), _array(base, decided_by)
        assert mine_P is not None and base_P is not None  # decided_by scored every policy
        points_P = win_points(mine_P, base_P)
        win_rate, win_interval = float(points_P.mean()), mean_interval(points_P, bootstrap, seed)
        gain = _gain(mine_P, base_P, bootstrap, seed)
    return PolicyScores(
        name=mine.name,
        prompts=len(mine.prompts),
        reward_mean=_mean(mine, "reward"),
        reward_std=None if rewards_P is None else float(rewards_P.std()),
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
    """By gold and by judge, where they and the proxy scored both policies and the baseline's answers differ."""
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
    """Each pair is (the policy's scores, the baseline's scores), shape (P,) each."""
    gains = _gain(*proxy, bootstrap, seed), _gain(*other, bootstrap, seed)
    in_proxy, in_other = gains[0].deviations, gains[1].deviations
    # a ratio over a gain that may as well be zero says nothing, however many digits it has
    floor = gains[0].interval.low if gains[0].interval is not None else gains[0].mean
    if in_proxy is None or in_other is None or floor <= 0:
        return Survival(proxy=gains[0], other=gains[1], ratio=None, interval=None)
    interval = None
    if bootstrap > 0:
        spread = proxy[1].std(), other[1].std()
        means_S2 = resampled_means(np.stack([proxy[0] - proxy[1], other[0] - other[1]], axis=1), bootstrap, seed)
        proxy_S = means_S2[:, 0] / spread[0]
        kept = proxy_S > 0  # the interval above leaves at most 2.5 % of them out
        interval = percentile_interval(means_S2[kept, 1] / spread[1] / proxy_S[kept])
    return Survival(proxy=gains[0], other=gains[1], ratio=in_other / in_proxy, interval=interval)


def _lead(answers: Sequence[PolicyAnswers], decided_by: Scorer | None, bootstrap: int, seed: int) -> Gain | None:
    if decided_by is None or len(answers) < 2:
        return None
    ranked = sorted((s for a in answers if (s := _array(a, decided_by)) is not None), key=lambda s_P: -s_P.mean())
    return _gain(ranked[0], ranked[1], bootstrap, seed)
