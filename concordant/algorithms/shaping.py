"""Shaped rewards: raw scores normalised and clipped, with what an answer pays that is too long or did not end."""

from __future__ import annotations

import torch
from torch import Tensor

from concordant.algorithms.rollouts import Rollouts
from concordant.config.stages import PPOConfig
from concordant.core.running_stats import RunningStats
from concordant.training.progress import current


class Shaping:
    """Makes shaped rewards of raw scores. ``stats`` is a part of every checkpoint."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.stats = RunningStats()

    def __call__(
        self, score_B: Tensor, rollouts: Rollouts, scored_B: Tensor | None = None, measure: bool = True
    ) -> Tensor:
        """The shaped reward of each response, (B,).

        The statistics of the normalisation are measured on these scores if ``measure`` is true. A response that no
        reward could score, False in ``scored_B``, is left out of them.
        """
        if measure:
            self._measure(score_B if scored_B is None else score_B[scored_B])
        config = self.config
        shaped_B = score_B if config.reward_normalize == "none" else self.stats.normalize(score_B)
        if config.reward_clip:
            shaped_B = shaped_B.clamp(-config.reward_clip, config.reward_clip)
        if config.overlong_penalty:
            shaped_B = shaped_B - config.overlong_penalty * self.overlong(rollouts.length_B)
        if config.missing_eos_replaces:
            return torch.where(rollouts.ended_B, shaped_B, -config.missing_eos_penalty)
        return shaped_B - config.missing_eos_penalty * (~rollouts.ended_B).float()

    @property
    def scale(self) -> float:
        """How many raw reward units one unit of a shaped reward is."""
        return 1.0 if self.config.reward_normalize == "none" or not self.stats.count else self.stats.std

    def overlong(self, length_B: Tensor) -> Tensor:
        """0 up to the buffer, 1 at the longest length, straight between, (B,).  Yu et al. 2025, 2503.14476 eq. 13."""
        buffer = self.config.overlong_buffer
        free = self.config.sampling.max_new_tokens - buffer
        return ((length_B - free) / buffer).clamp(0, 1)

    def _measure(self, score_B: Tensor) -> None:
        # With "start", the statistics are measured once, on the answers of the first step.
        how = self.config.reward_normalize
        if how == "running" or (how == "start" and not self.stats.count):
            self.stats.update(score_B)
            if how == "start" and self.stats.is_flat:
                current().message(
                    "the scores of the first step are all but equal, so rewards are not divided by their deviation; if "
                    "the reward's unit is so small, give the reward a weight: --reward REWARD=1000"
                )
