"""Reward models as rewards: text in, their own tokenizer, their own chat path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from concordant.algorithms.reward_corrections import Corrected, Correction, corrected
from concordant.algorithms.reward_functions import DEFAULT_HANDLING, FunctionReward, Handling, as_number
from concordant.algorithms.reward_sources import DEFAULT_SCORING, make_reward
from concordant.algorithms.rewards import Answer, Axis, Members, WeightedSum, columns_of
from concordant.algorithms.verifiers import check_rows
from concordant.config.model import ModelConfig
from concordant.config.scoring import ScoringConfig
from concordant.config.stages import BestOfNConfig, EvaluateConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.masked import LEAST_DEVIATION
from concordant.core.objective import BranchOutputs, Outputs
from concordant.data.records import Prompt
from concordant.engines import roles
from concordant.engines.protocol import Future, Scorer
from concordant.engines.reward_model import RewardModel
from concordant.runs.logs import read_json
from concordant.runs.names import REWARD_SUMMARY
from concordant.training.progress import current


@dataclass(frozen=True)
class ModelReward:
    """Scores text, never the policy's ids: policy and reward model may have different tokenizers."""

    model: RewardModel  # says how answers are read
    scorer: Scorer  # reads them

    def __call__(self, answers: Sequence[Answer]) -> Future[list[float | None]]:
        return _ScoresToCome(self.read(answers, Outputs(score=True)))

    def read(self, answers: Sequence[Answer], want: Outputs) -> Future[BranchOutputs]:
        """What the model says of the answers."""
        # Answers to one prompt stand together: the prompt is computed once.
        groups: list[list[Answer]] = []
        for answer in answers:
            if groups and groups[-1][0].before == answer.before:
                groups[-1].append(answer)
            else:
                groups.append([answer])
        trees = self.model.trees(
            [g[0].before for g in groups], [[a.response for a in g] for g in groups], [g[0].tools for g in groups]
        )
        return self.scorer.forward(trees, want)

    def by_head(self, answers: Sequence[Answer]) -> list[Future[Sequence[float | None]]]:
        """The scores of every head, from one pass."""
        numbers = self.read(answers, Outputs(heads=True))
        return [_ScoresToCome(numbers, head) for head in range(self.model.heads)]


@dataclass(frozen=True)
class HeadRewards:
    """The heads of a reward model as members of an ensemble, each with its own correction."""

    reward: ModelReward
    corrections: Sequence[Correction]

    @property
    def model(self) -> RewardModel:
        return self.reward.model

    @property
    def members(self) -> int:
        return self.model.heads

    def columns(self, answers: Sequence[Answer]) -> list[Future[Sequence[float | None]]]:
        scores = self.reward.by_head(answers)
        return [corrected(column, answers, c) for column, c in zip(scores, self.corrections, strict=True)]


@dataclass(frozen=True, slots=True)
class _ScoresToCome:
    numbers: Future[BranchOutputs]
    head: int | None = None  # None: the mean of the heads

    def result(self) -> list[float | None]:
        out = self.numbers.result()
        if self.head is None:
            return [] if out.score_B is None else out.score_B.tolist()  # None where there was no answer
        return [] if out.head_BK is None else out.head_BK[:, self.head].tolist()


class Rewards:
    """The reward a list of sources names, and the reward models among them."""

    def __init__(
        self,
        sources: Sequence[str],
        model: ModelConfig,
        train: TrainConfig | None = None,
        handling: Handling = DEFAULT_HANDLING,
        scoring: ScoringConfig = DEFAULT_SCORING,
        open_model: Callable[[str, ModelConfig], RewardModel] = roles.open_reward_model,
    ) -> None:
        self.models: list[RewardModel] = []
        self.corrections: dict[str, Correction] = {}  # by the name of the model
        self._model, self._train, self._scoring, self._open = model, train, scoring, open_model
        self.reward = make_reward(sources, self._load, handling, scoring)
        if scoring.debias_length and not self.models:
            raise UserError(
                "scoring.debias_length: no reward model is among the rewards; only of a model that `concordant reward` "
                "trained it is known what length does to its score"
            )

    def check(self, prompts: Sequence[Prompt], found: Sequence[str]) -> None:
        """Raises UserError where a function needs a column that no prompt has, or a rule cannot read the column of one.

        ``found`` are the columns of the data. Shows which columns some prompts lack.
        """
        for axis in self._functions():
            for note in axis.check(prompts, found):
                current().message(note)
            check_rows(axis.function, prompts)

    def report_missing(self) -> None:
        """Show how many scores each function did not give."""
        for axis in self._functions():
            if axis.abstained or axis.errors:
                current().message(
                    f"reward {axis.name}: {counted(axis.abstained, 'answer')} without a score, "
                    f"{counted(axis.errors, 'error')}; such an "
                    "answer gets the mean of the other answers to its prompt, or else of all answers"
                )
            axis.abstained = axis.errors = 0

    def _functions(self) -> list[FunctionReward]:
        return [axis for axis in self.reward.axes.values() if isinstance(axis, FunctionReward)]

    @property
    def range(self) -> tuple[float, float] | None:
        """Mean and deviation of the scores of held-out answers; None unless the reward is one model of ours, and where
        the scores differ by no more than rounding."""
        alone = WeightedSum(dict.fromkeys(self.reward.axes, 1.0))
        if len(self.models) != 1 or len(self.reward.axes) != 1 or self.reward.aggregate != alone:
            return None
        return None if self._scoring.debias_length else _range_of(_figures(self.models[0].name))

    def _load(self, name: str) -> Axis | Members:
        made = self._open(name, self._model)
        self.models.append(made)
        axis = ModelReward(made, roles.reward_scorer(made, self._model, self._train))
        if made.heads > 1 and self._scoring.ensemble != "none":
            of_heads = [correction_for(name, self._scoring, head) or Correction() for head in range(made.heads)]
            several = HeadRewards(axis, of_heads)
            for column, of_head in zip(columns_of(name, several), of_heads, strict=True):
                self._note(column, of_head)
            return several
        correction = correction_for(name, self._scoring)
        if correction is None:
            return axis
        self._note(name, correction)
        return Corrected(axis, correction)

    def _note(self, name: str, correction: Correction) -> None:
        if self._scoring.debias_length:
            current().message(
                f"reward {name}: {correction.slope:.4g} reward units a word are taken from its scores, which held-out "
                "answers show to come from length"
            )
        self.corrections[name] = correction


def correction_for(name: str, scoring: ScoringConfig, head: int | None = None) -> Correction | None:
    """What is done to the scores of the reward model ``name``, or of one of its heads; None if nothing is.

    The members of an ensemble are compared with each other, and each model has an origin and a unit of its own. So each
    score is given as its distance from the mean of held-out answers, in their standard deviations. Raises UserError if
    the figures that a correction needs are not beside the model.
    """
    correction, figures = Correction(), _figures(name, head)
    if scoring.debias_length:
        slope, words = as_number(figures.get("length_slope")), as_number(figures.get("length_mean"))
        if slope is None or words is None:
            raise _without_figures("scoring.debias_length", name, "length_slope")
        correction = replace(correction, slope=slope, words=words)
    if scoring.ensemble != "none":
        found = _range_of(figures)
        if found is None:
            raise _without_figures(f"scoring.ensemble={scoring.ensemble}", name, "score_mean and score_std")
        correction = replace(correction, mean=found[0], deviation=found[1])
    return None if correction == Correction() else correction


def _without_figures(key: str, name: str, figures: str) -> UserError:
    return UserError(
        f"{key}: {Path(name).parent / REWARD_SUMMARY} with {figures} is needed, and is not there or is older; train "
        "the reward model with `concordant reward` and held-out pairs"
    )


def _figures(name: str, head: int | None = None) -> dict[str, Any]:
    """The figures that ``concordant reward`` measured on held-out pairs, also of one head; empty if there are none."""
    figures = read_json(Path(name).parent / REWARD_SUMMARY) or {}
    if head is None:
        return figures
    of_heads = figures.get("heads")
    found = of_heads[head] if isinstance(of_heads, list) and head < len(of_heads) else None
    return found if isinstance(found, dict) else {}


def _range_of(figures: Mapping[str, Any]) -> tuple[float, float] | None:
    mean, deviation = as_number(figures.get("score_mean")), as_number(figures.get("score_std"))
    if mean is None or not deviation or deviation <= LEAST_DEVIATION * abs(mean):
        return None
    return mean, deviation


def handling_of(config: PPOConfig | BestOfNConfig | EvaluateConfig) -> Handling:
    return Handling(config.reward_on_error, config.reward_timeout)
