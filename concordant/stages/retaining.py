"""Reads the text that a policy must not forget, and holds the policy to it as the settings ask."""

from __future__ import annotations

from concordant.algorithms.retention import Retention
from concordant.algorithms.sft import SFTObjective
from concordant.config.retain import RetainConfig
from concordant.core.counted import counted
from concordant.data.plain_text import read_text, windows
from concordant.engines.protocol import Learner
from concordant.models.backbone import positions
from concordant.models.load import Policy
from concordant.stages import common

CHARACTERS = 50_000_000  # of a text that are read at most


def retained(config: RetainConfig, policy: Policy, learner: Learner, seed: int) -> Retention | None:
    """The text that ``learner`` must not forget; None if none is given. With ``ewc``, its weights are held.

    Raises UserError if there is no such text.
    """
    if not config.text:
        return None
    texts = windows(policy.tokenizer, read_text(config.text, "retain.text", CHARACTERS), positions(policy.model))
    kept = Retention(learner, texts, config.mix, config.batch_size, seed)
    common.message(
        f"retain.text: {counted(len(texts), 'window')}, {len(kept.heldout)} of them to measure what is forgotten"
    )
    with common.watched("how well the text is predicted"):
        kept.measure_start()
    if config.ewc:
        few = kept.train[:: max(1, len(kept.train) // config.fisher_windows)][: config.fisher_windows]
        with common.watched("how much each weight matters"):
            learner.hold(few, SFTObjective(), config.ewc)
    return kept
