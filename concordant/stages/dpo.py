"""``concordant dpo``: train a policy directly on preference pairs, or on answers that were rated good or bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concordant.algorithms import kto
from concordant.algorithms.supervised import Course, Examples, ObjectiveOf, Supervised
from concordant.config.checks import checked
from concordant.config.fields import flatten
from concordant.config.names import RATES_ANSWERS
from concordant.config.pair_rules import needs_reference
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig
from concordant.core.counted import counted
from concordant.data.chat import ChatEncoder
from concordant.data.splits import Loaded
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.stages import common, preferences
from concordant.stages.cards import card_of
from concordant.stages.preferences import Side
from concordant.stages.retaining import retained


@checked
def dpo(config: DPOConfig) -> Path:
    """Train a policy on preference pairs or on rated answers, and return the run folder."""
    rated = config.loss in RATES_ANSWERS
    with common.opened(config, "dpo") as folder:
        loaded: Loaded[Any] = (preferences.read_ratings if rated else preferences.read_pairs)(config, folder)
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        encoded, held = ((preferences.encode_ratings(encoder, r) if rated else encoder.pairs(r)) for r in loaded.sides)
        common.kept(encoded, "training data", loaded.train)
        few = len(common.heldout(held, loaded.test))
        side_of = preferences.ratings_of if rated else preferences.pairs_of
        train, heldout = side_of(encoded, loaded.train), side_of(held, loaded.test, few)
        start = common.start_of("dpo", len(train.trees), policy, config.model)
        config = common.settled(config, folder, start, "prompt" if rated else "pair")
        learner = roles.policy_learner(policy, config.model, config.train)
        reference = None
        if needs_reference(flatten(config)):
            reference = roles.reference(learner, policy, config.reference, config.model, config.train)
            what = counted(len(train.records) + len(heldout.records), "answer" if rated else "pair")
            common.message(f"computing the reference's log-probs of {what}, once a run")

        def objective(side: Side) -> ObjectiveOf:
            if not rated:
                return preferences.objective_of_pairs(config, reference, side)
            assert reference is not None
            total = encoder.limits.total
            return preferences.objective_of_ratings(config, learner, reference, side, train.trees, total)

        sampling = SamplingConfig(max_new_tokens=config.data.max_response_tokens, slots=config.evaluation_slots)
        prompts = common.accepted(common.prompts_of(loaded.test), encoder, "held-out prompts", needed=False)
        sampler = common.sampler_of(policy, encoder, config.model)
        supervised = Supervised(
            learner,
            Examples(train.trees, objective(train)),
            Examples(heldout.trees, objective(heldout)),
            Course(
                config=config.train,
                seed=config.seed,
                finish=kto.finish if rated else dict,
                card=card_of(config, "dpo", loaded),
                end_ids=encoder.end_ids,
                pairs=not rated,
                retention=retained(config.retain, policy, learner, config.seed),
            ),
            common.probe_of(config, learner, reference, sampler, prompts, sampling),
        )
        return common.train(supervised, config, folder, Subject(loaded, encoder, encoded))
