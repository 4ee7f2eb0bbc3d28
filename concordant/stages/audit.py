"""``concordant audit``: look for the flaws of a reward on pairs, and write a page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from concordant.algorithms.reward_functions import Handling
from concordant.algorithms.reward_sources import wanted_columns
from concordant.algorithms.rewards import Answer, head_names
from concordant.config.audit import AuditConfig
from concordant.config.checks import checked
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.seeding import python_stream
from concordant.data.dialogue import Messages
from concordant.data.records import Pair, Prompt
from concordant.data.splits import load_all
from concordant.evaluation import audit as numbers
from concordant.evaluation import audit_texts as texts
from concordant.evaluation.audit_result import Audit, RewardAudit
from concordant.evaluation.metrics import win_points, words
from concordant.evaluation.records import Mean
from concordant.evaluation.reward_summary import summarise_reward_model
from concordant.report.audit_page import write_audit
from concordant.runs.writable import check_folder
from concordant.stages import common
from concordant.stages.places import check_output_folder
from concordant.stages.rewarding import ModelReward, Rewards
from concordant.training.progress import current

Numbers = numbers.Numbers
Gold = Callable[[Messages, str], float]


@checked
def audit(config: AuditConfig) -> Path:
    """Score the held-out pairs with every reward, measure each reward, and write the page. Returns the folder."""
    check_output_folder(config.output, config.data.path)
    check_folder(config.output)
    templates = texts.read_templates(config.templates)
    sources = [*config.reward, *config.judge]
    loaded = load_all(config.data, config.seed, wanted=wanted_columns(sources))
    held = [r for r in loaded.test if isinstance(r, Pair)]
    pairs = held or [r for r in loaded.train if isinstance(r, Pair)]
    if not pairs:
        raise UserError(f"{config.data.path}: no pairs; an audit compares two answers to a prompt (docs/data.md)")
    if len(pairs) > config.max_pairs:
        pairs = python_stream(config.seed, "audit/pairs").sample(pairs, config.max_pairs)
    gold = common.gold_of(config.data) if not config.judge else None
    judged = {"gold": _by_gold(gold, pairs)} if gold else {}
    audits: list[RewardAudit] = []
    scores: dict[str, Numbers] = {}  # by the name of the member
    with current().task("audit", len(sources)) as bar:
        for source in config.judge:
            judged[source] = _scored(_Scored(source, config, pairs, loaded.wanted_names), pairs)
            bar.update(len(judged), {})
        for source in config.reward:
            scored = _Scored(source, config, pairs, loaded.wanted_names)
            score_P2 = _scored(scored, pairs)
            scores |= scored.by_head(pairs) or {source: score_P2}
            audits.append(_audit(scored, score_P2, pairs, judged, gold, templates))
            bar.update(len(config.judge) + len(audits), {})
    facts = [
        (
            "pairs",
            f"{counted(len(pairs), 'pair')} of {config.data.path}, {'held out' if held else 'none are held out'}",
        ),
        ("compared with", ", ".join(judged) or "nothing: neither gold nor a judge is known"),
        ("seed", str(config.seed)),
    ]
    result = Audit(rewards=audits, ensemble=_ensemble([*scores.values()]), members=[*scores], facts=facts)
    page = write_audit(result, Path(config.output), shlex.join(["concordant", *sys.argv[1:]]))
    common.message(f"audit: {page}")
    return Path(config.output)


class _Scored:
    """One reward, and how it gives scores."""

    def __init__(self, source: str, config: AuditConfig, pairs: Sequence[Pair], columns: Sequence[str]) -> None:
        self.source, self.config = source, config
        handling = Handling(config.reward_on_error, config.reward_timeout)
        self.rewards = Rewards([source], config.model, handling=handling)
        self.rewards.check([Prompt(pair.prompt, pair.extra) for pair in pairs], columns)

    def answers(self, answers: Sequence[Answer]) -> Numbers:
        """A score for each answer, (A,); NaN where there is none."""
        with common.watched(f"audit {self.source}"):
            (given,) = self.rewards.reward(answers).result().given.values()
        return np.array([np.nan if score is None else score for score in given], np.float64)

    def pairs(self, pairs: Sequence[Pair]) -> Numbers:
        """The scores of both answers of each pair, (P, 2)."""
        return self.answers(_answers(pairs)).reshape(-1, 2)

    def by_head(self, pairs: Sequence[Pair]) -> dict[str, Numbers]:
        """The scores by every head of a reward model with several, each (P, 2); empty for any other reward."""
        (axis,) = self.rewards.reward.axes.values()
        if not isinstance(axis, ModelReward) or axis.model.heads == 1:
            return {}
        with common.watched(f"audit {self.source}"):
            columns = [column.result() for column in axis.by_head(_answers(pairs))]
        names = head_names(self.source, axis.model.heads)
        return {n: np.array(column, np.float64).reshape(-1, 2) for n, column in zip(names, columns, strict=True)}


def _answers(pairs: Sequence[Pair]) -> list[Answer]:
    return [Answer(p.prompt, text, True, p.extra, p.tools) for p in pairs for text in (p.chosen, p.rejected)]


def _scored(scored: _Scored, pairs: Sequence[Pair]) -> Numbers:
    score_P2 = scored.pairs(pairs)
    scored.rewards.report_missing()
    if np.isnan(score_P2).any(axis=1).all():
        raise UserError(f"{scored.source}: no pair has a score")
    return score_P2


def _by_gold(gold: Gold, pairs: Sequence[Pair]) -> Numbers:
    return np.array([[gold(p.prompt, p.chosen), gold(p.prompt, p.rejected)] for p in pairs])


def _audit(
    scored: _Scored,
    score_P2: Numbers,
    pairs: Sequence[Pair],
    judged: dict[str, Numbers],
    gold: Gold | None,
    templates: texts.Templates,
) -> RewardAudit:
    """Every number of one reward. ``judged`` has the scores of gold or of judges for the same pairs."""
    draws, seed = scored.config.bootstrap, scored.config.seed
    known_P = np.asarray(~np.isnan(score_P2).any(axis=1))
    score_P2, kept = score_P2[known_P], [pair for pair, known in zip(pairs, known_P, strict=True) if known]
    right_P = win_points(score_P2[:, 0], score_P2[:, 1])
    length_P2 = np.array([[len(words(p.chosen)), len(words(p.rejected))] for p in kept], np.float64)
    log_P2, prompts = np.log1p(length_P2), [pair.prompt for pair in kept]
    twice = [prompt for prompt in prompts for _ in range(2)]
    deviation = float(score_P2.std())
    fours = texts.fours_of(kept, gold, seed)
    shifts, why_not = _words(scored, templates, deviation)
    return RewardAudit(
        name=scored.source,
        without_score=int((~known_P).sum()),
        summary=summarise_reward_model(
            score_P2[:, 0].tolist(),
            score_P2[:, 1].tolist(),
            length_P2[:, 0].astype(int).tolist(),
            length_P2[:, 1].astype(int).tolist(),
            bootstrap=draws,
            seed=seed,
        ),
        calibration=numbers.calibration_error(score_P2[:, 0], score_P2[:, 1], draws, seed),
        groups={
            "length": numbers.by_group(right_P, [texts.length_group_of(p) for p in kept], texts.LENGTH_GROUPS),
            "turns": numbers.by_group(right_P, [texts.turns_of(p.prompt) for p in kept]),
            "topic": numbers.by_group(
                right_P, [texts.topic_of(p.prompt) for p in kept], (*texts.TOPICS, texts.OTHER_TOPIC)
            ),
        },
        four=_four(scored, fours),
        four_whole=all(four.whole for four in fours),
        changes={name: _changed(scored, name, kept, score_P2, deviation) for name in texts.CHANGES},
        length_of_score=numbers.explained(log_P2.ravel(), score_P2.ravel(), twice, draws, seed),
        length_of_margin=numbers.explained(
            log_P2[:, 0] - log_P2[:, 1], score_P2[:, 0] - score_P2[:, 1], prompts, draws, seed
        ),
        agrees_with=_correlations(score_P2, judged, known_P, twice, draws, seed),
        words=shifts,
        words_unknown=why_not,
    )


def _correlations(
    score_P2: Numbers,
    judged: dict[str, Numbers],
    known_P: np.ndarray,
    groups: Sequence[Messages],
    draws: int,
    seed: int,
) -> dict[str, Mean]:
    """Pearson's and Spearman's correlations over answers, with those that both gave a score."""
    found = {}
    for name, all_P2 in judged.items():
        judge_A, score_A = all_P2[known_P].ravel(), score_P2.ravel()
        both_A = ~np.isnan(judge_A)
        prompts = [group for group, both in zip(groups, both_A, strict=True) if both]
        for kind, of in (("Pearson", lambda x_A: x_A), ("Spearman", numbers.ranks)):
            mean = numbers.correlation(of(score_A[both_A]), of(judge_A[both_A]), prompts, draws, seed)
            if mean is not None:
                found[f"{kind}'s correlation with {name}"] = mean.mean
    return found


def _four(scored: _Scored, fours: Sequence[texts.Four]) -> Mean | None:
    answers = [Answer(f.prompt, text, True, f.pair.extra, f.pair.tools) for f in fours for text in f.answers]
    score_F4 = scored.answers(answers).reshape(-1, 4) if answers else np.zeros((0, 4))
    return numbers.best_of_four(score_F4[~np.isnan(score_F4).any(axis=1)])


def _changed(
    scored: _Scored, name: str, pairs: Sequence[Pair], score_P2: Numbers, deviation: float
) -> numbers.Consistency:
    config, change = scored.config, texts.CHANGES[name]
    changed = [(i, other) for i, pair in enumerate(pairs) if (other := change(pair)) is not None]
    numbered = [i for i, _ in changed]
    after_P2 = scored.pairs([other for _, other in changed]) if changed else np.zeros((0, 2))
    after_P2 = after_P2[:, ::-1] if name == texts.REVERSED else after_P2
    known_P = ~np.isnan(after_P2).any(axis=1)
    before_P2 = score_P2[numbered][known_P]
    return numbers.consistency(before_P2, after_P2[known_P], deviation, config.bootstrap, config.seed)


def _words(scored: _Scored, templates: texts.Templates, deviation: float) -> tuple[dict[str, dict[str, Mean]], str]:
    """The shift of every word, by group; or why the templated prompts have no scores."""
    found = {}
    for group, row in templates.words.items():
        dialogues = [templates.dialogue(i, word) for i in range(len(templates.prompts)) for word in row]
        try:
            score_A = scored.answers([Answer(prompt, answer, True, {}) for prompt, answer in dialogues])
        except UserError as problem:  # a function that reads columns, or knows only its own world
            return {}, str(problem)
        score_TW = score_A.reshape(-1, len(row))
        score_TW = score_TW[~np.isnan(score_TW).any(axis=1)]
        if not len(score_TW):
            return {}, "the reward gave these prompts no scores"
        means = numbers.word_shifts(score_TW, deviation, scored.config.bootstrap, scored.config.seed)
        found[group] = dict(zip(row, means, strict=True))
    return found, ""


def _ensemble(scores: Sequence[Numbers]) -> numbers.Ensemble | None:
    """All rewards together, each head as one, on the pairs that all of them gave scores; None for one alone."""
    if len(scores) < 2:
        return None
    score_KP2 = np.stack(scores)
    score_KP2 = score_KP2[:, ~np.isnan(score_KP2).any(axis=(0, 2))]
    if not score_KP2.shape[1]:
        raise UserError("no pair has a score of every reward, so the rewards cannot be looked at together")
    return numbers.ensemble(score_KP2[:, :, 0], score_KP2[:, :, 1])
