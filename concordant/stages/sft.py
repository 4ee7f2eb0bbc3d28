"""``concordant sft``: imitate answers."""

from __future__ import annotations

from pathlib import Path

from concordant.algorithms import sft as algorithm
from concordant.algorithms.supervised import Supervised
from concordant.config.checks import checked
from concordant.config.stages import SFTConfig
from concordant.core.trees import ROW_TOKENS
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration
from concordant.doctor.preflight import Subject
from concordant.stages import common


@checked
def sft(config: SFTConfig) -> Path:
    """Fine-tune a causal LM on demonstrations, or on the answers of pairs; returns the run folder."""
    with common.opened(config, "sft") as folder:
        loaded = common.read(config, folder, Demonstration, "dialogues", config.responses)
        policy = common.open_policy(config.model, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        encoded = encoder.demonstrations(loaded.train)
        train = common.kept(encoded, "training data")
        heldout = common.heldout(encoder.demonstrations(loaded.test))
        row_tokens = ROW_TOKENS if config.packing else 0
        learner = common.learner_of(policy, config.model, config.train, row_tokens=row_tokens)
        supervised = Supervised(
            learner,
            (algorithm.share_prompts(train), lambda _: algorithm.SFTObjective()),
            (algorithm.share_prompts(heldout), lambda _: algorithm.SFTObjective()),
            config.train,
            config.seed,
            metric="eval/loss",
            greater_is_better=False,
            card=common.card_of(config, "sft"),
            end_ids=encoder.end_ids,
            finish=algorithm.finish,
        )
        return common.train(supervised, config, folder, Subject(loaded, encoder, encoded))
