"""``concordant dpo``: learn from pairs directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.supervised import ObjectiveOf, Supervised
from concordant.config.checks import checked
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Pair
from concordant.doctor.preflight import Subject
from concordant.engines.protocol import Learner
from concordant.stages import common


@checked
def dpo(config: DPOConfig) -> Path:
    """Train a policy on preference pairs; returns the run folder."""
    with common.opened(config, "dpo") as folder:
        loaded = common.read(config, folder, Pair, "pairs")
        policy = common.open_policy(config.model, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        encoded = encoder.pairs(loaded.train)
        train = common.kept(encoded, "training data")
        heldout = common.heldout(encoder.pairs(loaded.test))
        learner = common.learner_of(policy, config.model, config.train)
        reference = common.reference_of(learner, config.reference, config)
        common.message(f"reference log-probs of {len(train) + len(heldout)} pairs, once")
        sampling = SamplingConfig(max_new_tokens=config.data.max_response_tokens)
        supervised = Supervised(
            learner,
            (train, _objective(config, reference, train)),
            (heldout, _objective(config, reference, heldout)),
            config.train,
            config.seed,
            metric="eval/loss",
            greater_is_better=False,
            card=common.card_of(config, "dpo"),
            end_ids=encoder.end_ids,
            pairs=True,
            probe=common.probe_of(
                config,
                learner,
                reference,
                common.sampler_of(policy, encoder, config.model),
                common.prompts_of(loaded.test),
                sampling,
            ),
        )
        return common.train(supervised, config, folder, Subject(loaded, encoder, encoded))


def _objective(config: DPOConfig, reference: Learner, trees: Sequence[PromptTree]) -> ObjectiveOf:
    reference_B = reference_logprobs(reference, trees) if trees else None

    def of(numbers: Sequence[int]) -> DPOObjective:
        assert reference_B is not None
        return DPOObjective(reference_B[branches_of(numbers)], config.loss, config.beta, config.label_smoothing)

    return of
