"""Settings of ``concordant collect``: new pairs of a policy's own answers, and who labels them."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.judging import EndpointConfig
from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import Resume, Unlabelled
from concordant.config.sampling import SamplingConfig


@dataclass(kw_only=True)
class CollectConfig(Made):
    output: str = ""  # run folder
    seed: int = 0  # seed of all random numbers
    resume: Resume = ""  # "auto": continue after the answered prompts; "force": also with changed settings or data
    data: DataConfig = field(default_factory=DataConfig)  # whose training prompts are answered
    model: ModelConfig = field(default_factory=ModelConfig)  # the policy that answers
    judge: str = ""  # gold | reward or chat model | module:function | rule:NAME | https://HOST/v1 | VOTES.jsonl
    pairs: int = 256  # pairs of answers that the judge is asked about
    round: int = 1  # written beside every new pair; another round begins with other prompts
    earlier: str = ""  # file of pairs, such as those of the round before; they come before the new ones
    unlabelled: Unlabelled = "wait"  # pairs without a vote or a server's answer: wait ends the command; skip goes on
    keep_ties: bool = False  # pairs that tie are kept with probability 0.5, for dpo with strength label
    principles: str = ""  # YAML file of principles that a judge in words is asked by, or builtin; empty: none
    max_answer_tokens: int = 256  # the most tokens of an answer of a judge in words
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)  # of a judge that is a server
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(n=4)
    )  # the first two unlike answers pair up
