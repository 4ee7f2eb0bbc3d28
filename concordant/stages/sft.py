"""``concordant sft``: imitate answers."""

from __future__ import annotations

from pathlib import Path

from concordant.algorithms import sft as algorithm
from concordant.algorithms.supervised import Supervised
from concordant.config.stages import SFTConfig
from concordant.data.chat import ChatEncoder
from concordant.data.records import Demonstration
from concordant.data.splits import load_records
from concordant.stages import common


def sft(config: SFTConfig) -> Path:
    """Fine-tune a causal LM on demonstrations, or on the answers of pairs; returns the run folder."""
    with common.opened(config, "sft") as folder:
        loaded = load_records(config.data, Demonstration, config.seed, config.responses)
        policy = common.open_policy(config.model, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data))
        train = common.kept(encoder.demonstrations(loaded.train), "training data")
        heldout = encoder.demonstrations(loaded.test).trees[: common.HELD_OUT_TREES]
        learner = common.learner_of(policy, config.model, config.train)
        supervised = Supervised(
            learner,
            (algorithm.share_prompts(train), lambda _: algorithm.SFTObjective()),
            (algorithm.share_prompts(heldout), lambda _: algorithm.SFTObjective()),
            config.train,
            config.seed,
            metric="eval/loss",
            greater_is_better=False,
            card=common.card_of(config, "sft"),
            finish=algorithm.finish,
        )
        return common.train(supervised, config, folder)
