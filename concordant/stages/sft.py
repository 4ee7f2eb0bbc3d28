"""``concordant sft``: train a policy to imitate answers."""

from __future__ import annotations

from pathlib import Path

from concordant.algorithms import sft as algorithm
from concordant.algorithms.supervised import Course, Examples, Supervised
from concordant.config.checks import checked
from concordant.config.stages import SFTConfig
from concordant.core.trees import ROW_TOKENS
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.stages import common
from concordant.stages.cards import card_of
from concordant.stages.retaining import retained


@checked
def sft(config: SFTConfig) -> Path:
    """Fine-tune a causal LM on demonstrations or on the answers of pairs. Returns the run folder."""
    with common.opened(config, "sft") as folder:
        loaded = common.read(config, folder, Demonstration, "dialogues", config.responses)
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        encoded = encoder.demonstrations(loaded.train)
        train = common.kept(encoded, "training data", loaded.train)
        heldout = common.heldout(encoder.demonstrations(loaded.test), loaded.test)
        examples = algorithm.share_prompts(train)
        config = common.settled(config, folder, common.start_of("sft", len(examples), policy, config.model))
        row_tokens = ROW_TOKENS if config.packing else 0
        learner = roles.policy_learner(policy, config.model, config.train, row_tokens=row_tokens)
        objective = algorithm.SFTObjective()
        supervised = Supervised(
            learner,
            Examples(examples, lambda _: objective),
            Examples(algorithm.share_prompts(heldout), lambda _: objective),
            Course(
                config=config.train,
                seed=config.seed,
                card=card_of(config, "sft", loaded),
                end_ids=encoder.end_ids,
                finish=algorithm.finish,
                retention=retained(config.retain, policy, learner, config.seed),
            ),
        )
        return common.train(supervised, config, folder, Subject(loaded, encoder, encoded))
