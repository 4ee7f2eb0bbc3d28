"""``concordant dpo``: train a policy directly on preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.supervised import Course, Examples, ObjectiveOf, Supervised
from concordant.config.checks import checked
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig
from concordant.core.counted import counted
from concordant.core.losses import PREFERENCE_LOSSES
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Pair
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.engines.protocol import Scorer
from concordant.stages import common
from concordant.stages.cards import card_of
from concordant.stages.retaining import retained


@checked
def dpo(config: DPOConfig) -> Path:
    """Train a policy on preference pairs, and return the run folder."""
    with common.opened(config, "dpo") as folder:
        loaded = common.read(config, folder, Pair, "pairs")
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        encoded = encoder.pairs(loaded.train)
        train = common.kept(encoded, "training data", loaded.train)
        heldout = common.heldout(encoder.pairs(loaded.test), loaded.test)
        config = common.settled(config, folder, common.start_of("dpo", len(train), policy, config.model))
        learner = roles.policy_learner(policy, config.model, config.train)
        reference = roles.reference(learner, policy, config.reference, config.model, config.train)
        needs_reference = PREFERENCE_LOSSES[config.loss].needs_reference
        if needs_reference:
            common.message(
                f"computing the reference's log-probs of {counted(len(train) + len(heldout), 'pair')}, once a run"
            )
        sampling = SamplingConfig(max_new_tokens=config.data.max_response_tokens, slots=config.evaluation_slots)
        prompts = common.accepted(common.prompts_of(loaded.test), encoder, "held-out prompts", needed=False)
        sampler = common.sampler_of(policy, encoder, config.model)
        supervised = Supervised(
            learner,
            Examples(train, _objective(config, reference if needs_reference else None, train)),
            Examples(heldout, _objective(config, reference if needs_reference else None, heldout)),
            Course(
                config=config.train,
                seed=config.seed,
                card=card_of(config, "dpo", loaded),
                end_ids=encoder.end_ids,
                pairs=True,
                retention=retained(config.retain, policy, learner, config.seed),
            ),
            common.probe_of(config, learner, reference, sampler, prompts, sampling),
        )
        return common.train(supervised, config, folder, Subject(loaded, encoder, encoded))


def _objective(config: DPOConfig, reference: Scorer | None, trees: Sequence[PromptTree]) -> ObjectiveOf:
    """The objective of a batch. ``reference`` is None if the loss needs none; its log-probs then count as 0."""
    with common.watched("reference's log-probs"):
        reference_B = reference_logprobs(reference, trees) if reference and trees else torch.zeros(2 * len(trees))

    def of(numbers: Sequence[int]) -> DPOObjective:
        return DPOObjective(reference_B[branches_of(numbers)], config.loss, config.beta, config.label_smoothing)

    return of
