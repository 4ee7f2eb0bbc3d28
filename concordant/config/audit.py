"""Settings of ``concordant audit``."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import RewardOnError


@dataclass(kw_only=True)
class AuditConfig(Made):
    reward: list[str] = field(
        default_factory=list
    )  # PATH | module:function | rule:NAME; several are also looked at together, as an ensemble
    output: str = ""  # folder of the page
    seed: int = 0  # seed of the sample of pairs and of the intervals
    data: DataConfig = field(default_factory=DataConfig)
    judge: list[str] = field(default_factory=list)  # a reward to be compared with; empty: gold, if there is one
    reward_on_error: RewardOnError = "fail"  # of a reward function: fail | skip (no score) | retry (3 tries, then fail)
    reward_timeout: float = 3600.0  # seconds a call of a reward function may take; 0: no limit
    max_pairs: int = 2_000  # the most held-out pairs that are looked at, drawn by the seed
    templates: str = ""  # YAML file of prompts that differ in one word; empty: the built-in ones
    bootstrap: int = 2_000  # resamples of prompts for the confidence intervals
    model: ModelConfig = field(default_factory=ModelConfig)  # device and precision of the reward models
