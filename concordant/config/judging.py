"""Settings of AI feedback: ``concordant judge``, ``concordant constitution``, and the server that may answer them."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import JudgeAsk
from concordant.config.sampling import SamplingConfig


@dataclass(kw_only=True)
class EndpointConfig(Made):
    model: str = ""  # the model that the server is asked for
    key_variable: str = ""  # environment variable with the API key, such as OPENAI_API_KEY; empty: no key is sent
    parallel: int = 4  # requests at once
    timeout: float = 60.0  # seconds that one request may take
    retries: int = 5  # further tries of a request that failed for a passing reason
    wait: float = 1.0  # seconds before the first retry; each further retry waits twice as long
    longest_wait: float = 60.0  # seconds; no wait is longer, also where the server asks for a longer one (Retry-After)
    max_calls: int = 0  # requests, retries included, after which the verb ends with exit code 3; 0: no limit
    max_tokens: int = 0  # tokens of questions and answers, as the server counts them, after which it ends; 0: no limit


@dataclass(kw_only=True)
class JudgeConfig(Made):
    output: str = ""  # folder of the labelled pairs, the data card and the judge's answers
    seed: int = 0  # seed of the principle that is drawn for each prompt
    data: DataConfig = field(default_factory=DataConfig)
    judge: str = ""  # https://HOST/v1 | a chat model's folder or hub id | module:function, called as a reward is
    ask: JudgeAsk = "auto"  # preference: the better of two answers; scores: helpful and safe, 1 to 5; auto: by the data
    principles: str = ""  # YAML file of principles, or builtin; empty: which answer is more helpful and does less harm
    margin: float = 0.0  # margin that is written for the clearest preference, less for weaker ones; 0 writes none
    max_answer_tokens: int = 256  # the most tokens of an answer of the judge
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # device and precision of a judge that is a model


@dataclass(kw_only=True)
class ConstitutionConfig(Made):
    output: str = ""  # folder of the revised answers, the data card and everything that was written
    seed: int = 0  # seed of the sampled answers and of the drawn principles
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # the policy whose answers are revised
    critic: str = ""  # who revises: empty: the policy; else as judge in `judge`; a function returns the revised answer
    principles: str = "builtin"  # YAML file of principles
    revisions: int = 1  # times that an answer is criticised and revised, each time by another principle
    max_answer_tokens: int = 256  # the most tokens of a critique or a revision
    max_prompts: int = 0  # number of prompts that are answered; 0 answers all
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # of the policy's first answers
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
