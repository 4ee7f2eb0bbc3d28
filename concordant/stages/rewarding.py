"""Reward models as rewards: text in, their own tokenizer, their own chat path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from concordant.algorithms.rewards import Answer, Reward, make_reward
from concordant.config.model import ModelConfig
from concordant.engines.memory import enough_memory
from concordant.engines.precision import place
from concordant.models.reward_model import RewardModel
from concordant.runs.logs import read_json
from concordant.runs.names import REWARD_SUMMARY


@dataclass(frozen=True)
class ModelReward:
    """Scores text, never the policy's ids: policy and reward model may have different tokenizers."""

    model: RewardModel

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        # Answers to one prompt stand together: the prompt is computed once.
        groups: list[list[Answer]] = []
        for answer in answers:
            if groups and groups[-1][0].prompt == answer.prompt:
                groups[-1].append(answer)
            else:
                groups.append([answer])
        with enough_memory("scoring answers", "shorten them (sampling.max_new_tokens) or take a smaller reward model"):
            prompts, responses = [g[0].prompt for g in groups], [[a.response for a in g] for g in groups]
            scores = self.model.score_responses(prompts, responses)
        return [s for group in scores for s in group]


class Rewards:
    """The reward a list of sources names, and the reward models among them."""

    def __init__(self, sources: Sequence[str], model: ModelConfig) -> None:
        self.models: list[RewardModel] = []
        self._model = model
        self.reward: Reward = make_reward(sources, self._load)

    @property
    def range(self) -> tuple[float, float] | None:
        """Mean and deviation of the scores of held-out answers; None unless the reward is one model of ours."""
        if len(self.models) != 1 or not isinstance(self.reward, ModelReward):
            return None
        numbers = read_json(Path(self.models[0].name).parent / REWARD_SUMMARY) or {}
        return (numbers["score_mean"], numbers["score_std"]) if numbers.get("score_std") else None

    def _load(self, name: str) -> Reward:
        made = RewardModel.from_pretrained(name, self._model.trust_remote_code)
        place(made.model, self._model)
        made.model.requires_grad_(False)
        self.models.append(made)
        return ModelReward(made)
