"""Reward models as rewards: text in, their own tokenizer, their own chat path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from concordant.algorithms.reward_functions import DEFAULT_HANDLING, FunctionReward, Handling, as_number
from concordant.algorithms.reward_sources import make_reward
from concordant.algorithms.rewards import Answer, WeightedSum
from concordant.config.model import ModelConfig
from concordant.config.stages import BestOfNConfig, EvaluateConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.counted import counted
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
        # Answers to one prompt stand together: the prompt is computed once.
        groups: list[list[Answer]] = []
        for answer in answers:
            if groups and groups[-1][0].prompt == answer.prompt:
                groups[-1].append(answer)
            else:
                groups.append([answer])
        trees = self.model.trees(
            [g[0].prompt for g in groups], [[a.response for a in g] for g in groups], [g[0].tools for g in groups]
        )
        return _ScoresToCome(self.scorer.forward(trees, Outputs(score=True)))


@dataclass(frozen=True, slots=True)
class _ScoresToCome:
    numbers: Future[BranchOutputs]

    def result(self) -> list[float | None]:
        score_B = self.numbers.result().score_B
        return [] if score_B is None else score_B.tolist()  # None where there was no answer


class Rewards:
    """The reward a list of sources names, and the reward models among them."""

    def __init__(
        self,
        sources: Sequence[str],
        model: ModelConfig,
        train: TrainConfig | None = None,
        handling: Handling = DEFAULT_HANDLING,
        open_model: Callable[[str, ModelConfig], RewardModel] = roles.open_reward_model,
    ) -> None:
        self.models: list[RewardModel] = []
        self._model, self._train, self._open = model, train, open_model
        self.reward = make_reward(sources, self._load, handling)

    def check(self, prompts: Sequence[Prompt], found: Sequence[str]) -> None:
        """Raises UserError where a function needs a column that no prompt has; ``found`` are the columns of the data.

        Shows which columns some prompts lack.
        """
        for axis in self._functions():
            for note in axis.check(prompts, found):
                current().message(note)

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
        numbers = read_json(Path(self.models[0].name).parent / REWARD_SUMMARY) or {}
        mean, deviation = as_number(numbers.get("score_mean")), as_number(numbers.get("score_std"))
        if mean is None or not deviation or deviation <= LEAST_DEVIATION * abs(mean):
            return None
        return mean, deviation

    def _load(self, name: str) -> ModelReward:
        made = self._open(name, self._model)
        self.models.append(made)
        return ModelReward(made, roles.reward_scorer(made, self._model, self._train))


def handling_of(config: PPOConfig | BestOfNConfig | EvaluateConfig) -> Handling:
    return Handling(config.reward_on_error, config.reward_timeout)
