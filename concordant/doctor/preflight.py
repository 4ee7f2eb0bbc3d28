"""Preflight: the checks before the first step. They take a second or two and change no number of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from concordant.algorithms.distill import Distill
from concordant.algorithms.ppo import PPO
from concordant.algorithms.supervised import Supervised
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, RunConfig
from concordant.core.errors import RunStopped
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.convert import prompt_of
from concordant.data.records import Pair
from concordant.data.splits import Loaded
from concordant.doctor.finding import Finding, Severity, at_least
from concordant.doctor.looked_at import spread
from concordant.doctor.preflight_distill import check_distill
from concordant.doctor.preflight_memory import disk_space
from concordant.doctor.preflight_model import check_ppo, check_supervised
from concordant.doctor.preflight_records import check_records
from concordant.doctor.preflight_reward import check_reward, known_answers
from concordant.doctor.preflight_start import ASKED, untrained_norms
from concordant.doctor.preflight_template import template_foreign
from concordant.doctor.preflight_tokens import LOOKED_AT, check_tokens
from concordant.doctor.preview import preview
from concordant.doctor.render import by_gravity, finding_text
from concordant.engines.protocol import Learner
from concordant.engines.reward_model import RewardModel
from concordant.runs.folder import RunFolder
from concordant.training.loop import Algorithm
from concordant.training.progress import current
from concordant.training.result import LoopResult


@dataclass(frozen=True, slots=True)
class Subject:
    """The data of a stage before it trains: as loaded, and as encoded."""

    loaded: Loaded[Any]
    encoder: ChatEncoder
    encoded: Encoded | None = None  # ``loaded.train`` or most of it; None for prompts without answers


class Preflight:
    """A callback of the loop. It checks once, when a run starts from its first step."""

    def __init__(self, config: RunConfig, subject: Subject) -> None:
        self.config, self.subject = config, subject

    def start(self, algorithm: Algorithm, folder: RunFolder) -> None:
        """Report all findings, then raise RunStopped if ``doctor.stop_on`` asks for this."""
        learners = _learners(algorithm)
        if not learners or any(learner.version for learner in learners):  # a resumed run was checked when it began
            return
        encoded = self.subject.encoded or _prompts_alone(self.subject)
        current().message(preview(self.subject.encoder, encoded.trees, _names(self.subject)))
        findings = by_gravity(self._findings(algorithm, learners, encoded, folder))
        for finding in findings:
            folder.log_event(finding.as_event())
            current().message(finding_text(finding))
        stop_on = self.config.doctor.stop_on
        if stop_on and findings and at_least(findings[0].severity, cast(Severity, stop_on)):
            raise RunStopped(
                f"{folder.name}: stopped by doctor.stop_on {stop_on} ({findings[0].rule}) before its first step: "
                "apply the cure and start anew"
            )

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing; ``Doctor`` watches the steps."""

    def end(self, result: LoopResult) -> None:
        """Do nothing."""

    def _findings(
        self, algorithm: Algorithm, learners: Sequence[Learner], encoded: Encoded, folder: RunFolder
    ) -> list[Finding]:
        config, subject = self.config, self.subject
        has_own_reference = isinstance(config, DPOConfig | PPOConfig) and bool(config.reference)
        vocabulary, is_new = len(subject.encoder.tokenizer), config.model.name.startswith("builtin:")
        found = check_records(subject.loaded)
        found += check_tokens(subject.encoder, encoded, subject.loaded.train)
        found += template_foreign(subject.encoder.tokenizer, "the model")
        if isinstance(config, RewardConfig) and not is_new:
            found += untrained_norms(Path(config.model.name))
        if isinstance(algorithm, Supervised):
            ends = subject.encoder.end_ids
            found += check_supervised(algorithm, has_own_reference, 0 if is_new else vocabulary, ends)
        elif isinstance(algorithm, PPO):
            found += self._about_ppo(algorithm, vocabulary, has_own_reference)
        elif isinstance(algorithm, Distill):
            found += check_distill(algorithm, vocabulary)
        kept = config.train.keep_best
        checkpoint = sum(learner.checkpoint_bytes(kept and learner is learners[0]) for learner in learners)
        disk = disk_space(folder.path, checkpoint, learners[0].export_bytes(), config.train)
        return [*found, disk] if disk else found

    def _about_ppo(self, algorithm: PPO, vocabulary: int, has_own_reference: bool) -> list[Finding]:
        known = known_answers(algorithm.prompts, self.config.data)
        answers = [k for k in spread(known, ASKED) if k.is_answer]
        prompts, tools = [k.prompt.messages for k in answers], [k.prompt.tools for k in answers]
        trees = self.subject.encoder.trees(prompts, [[k.good] for k in answers], tools).trees
        found = check_ppo(algorithm, has_own_reference, vocabulary, trees)
        for name, axis in algorithm.reward.axes.items():
            if isinstance(model := getattr(axis, "model", None), RewardModel):
                found += template_foreign(model.tokenizer, f"the reward model {name}")
        return found + check_reward(algorithm.reward, known)


def _learners(algorithm: Algorithm) -> list[Learner]:
    """The learners that the algorithm trains. The first is the one that it exports."""
    if isinstance(algorithm, Supervised | Distill):
        return [algorithm.learner]
    if isinstance(algorithm, PPO):
        return [algorithm.actor, *([algorithm.critic] if algorithm.critic else [])]
    return []


def _names(subject: Subject) -> tuple[str, ...]:
    """The names of a tree's branches."""
    return ("chosen", "rejected") if isinstance(subject.loaded.train[0], Pair) else ("response",)


def _prompts_alone(subject: Subject) -> Encoded:
    """Trees that have only a trunk, for the checks of prompts."""
    some = spread(subject.loaded.train, LOOKED_AT)
    return Encoded([PromptTree(ids, ()) for ids in subject.encoder.prompts([prompt_of(r) for r in some])])
