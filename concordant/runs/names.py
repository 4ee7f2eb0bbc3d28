"""The name of every file and folder in a run folder, and the fields of the rows in each file.

The names of metrics are in ``runs/metrics.py``. docs/cli.md shows the same list; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
EVENTS = "events.jsonl"
STATUS = "status.json"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
MODEL = "model"
ADAPTER = "adapter"
TENSORBOARD = "tensorboard"
TRACKERS = "trackers.json"
BAD_BATCH = "bad_batch"
RESULT = "result.json"
REWARD_SUMMARY = "reward_model.json"
INPUTS = "inputs.json"
SFT_DATA, PAIR_DATA, TO_LABEL = "sft.jsonl", "pairs.jsonl", "to_label.jsonl"
ASKED, JUDGE_JSON = "asked.jsonl", "judge.json"
CARD_JSON, CARD_PAGE = "card.json", "card.md"
REPORT_JSON, REPORT_MARKDOWN, REPORT_PAGE = "report.json", "report.md", "report.html"
PIPELINE = "pipeline.yaml"
STAGE_RECORD = "stage.json"

CONTENTS: Mapping[str, str] = {
    CONFIG: "every key, and the verb: `concordant run DIR/config.yaml --output OTHER` repeats the run",
    METRICS: "one JSON object for each step; NaN and infinity are `null`; [metrics.md](metrics.md) lists the names",
    SAMPLES: "of `dpo`, `ppo` and `distill`: prompts and answers at evaluation steps, and a few that `ppo` learnt from",
    EVENTS: "findings of the [doctor](doctor.md), what the run starts from, and changes when it was resumed",
    STATUS: "what the run is doing: state, step and total, start time, process, and how it ended",
    LOCK: "the process that writes the folder, as long as it does",
    f"{CHECKPOINTS}/": "`step-000100/` …: a folder for each role, `loop.json` with numbers, a manifest of hashes",
    f"{MODEL}/": "the result, in plain Hugging Face layout; adapters are merged into its weights",
    f"{ADAPTER}/": "of a [LoRA](lora.md) run: the adapter alone, in PEFT's layout (`--train.export` chooses)",
    RESULT: "which step `model/` has and why, the number and a hash of the records, and versions of libraries",
    f"{TENSORBOARD}/": "the same metrics for TensorBoard (`--train.tensorboard=false` turns it off)",
    TRACKERS: "the ids of the run in the [trackers](cli.md#trackers) of `train.tracker`, so that a resume continues it",
    f"{BAD_BATCH}/": "the last batch of a run that ended because loss or gradient was not finite",
    REWARD_SUMMARY: "of `reward`: accuracy, calibration and spread of the scores on held-out pairs",
    INPUTS: "of `best-of-n` and `collect`: the settings and data on which the answers depend",
    SFT_DATA: "of `best-of-n`: every prompt with its best answer",
    PAIR_DATA: "of `best-of-n`: best and worst answer as a pair; of `collect`: labelled pairs",
    TO_LABEL: "of `collect`: the pairs that the judge is asked about, each with its id",
    ASKED: "of `collect` and a judge in words: its answers, by a hash of the question; no question is asked twice",
    JUDGE_JSON: "of `collect` and a judge in words: how far it can be trusted, and what it was asked",
    CARD_JSON: "of `collect`: the [data card](data.md#the-data-card) as numbers",
    CARD_PAGE: "of `collect`: the data card as a page",
    REPORT_JSON: "of `evaluate`: every number of the report",
    REPORT_MARKDOWN: "of `evaluate`: the report as Markdown",
    REPORT_PAGE: "of `evaluate`: the report as one page with its pictures",
    PIPELINE: "of a pipeline, in its own folder: every stage with every key",
    STAGE_RECORD: "of a pipeline, in each stage's folder: whether the stage is done, and its inputs",
}

Split = Literal["train", "eval"]


class MetricsRow(TypedDict):
    """A row of metrics.jsonl. Besides ``step`` it has metrics of ``runs/metrics.py``, each a number or null."""

    step: int  # steps taken, from 1


class TextMessage(TypedDict):
    """One turn of a dialogue."""

    role: str
    content: str


class TokenNumbers(TypedDict):
    """The tokens of an answer, and a number for each of them."""

    text: list[str]
    logprob: list[float]  # nats, under the policy that sampled
    logratio: list[float]  # nats, less the log-prob under the reference
    advantage: list[float]  # reward units; whitened if --whiten is on
    value: NotRequired[list[float]]  # reward units, the critic's estimate before the token


class SampleRow(TypedDict):
    """A row of samples.jsonl of ``dpo``, ``ppo`` and ``distill``: one prompt with one answer."""

    step: int  # steps taken when the answer was sampled
    split: Split  # "eval": a held-out prompt; "train": an answer that the step learnt from
    prompt: list[TextMessage]
    response: str
    reward: NotRequired[float]  # raw score of the proxy
    kl: NotRequired[float]  # from the reference, of ``distill`` from the teacher, nats a response
    gold: NotRequired[float]  # the true quality, where it is known, 0 to 1
    # "eval": axis/NAME, reward/disagreement and constraint/cost too, where the run has them
    advantage: NotRequired[float]  # "train": mean over the response's tokens, reward units; whitened if --whiten is on
    length: NotRequired[int]  # "train": tokens, the end token included
    ended: NotRequired[bool]  # "train": whether an end token or a stop string ended the answer
    tokens: NotRequired[TokenNumbers]  # "train"
    turns: NotRequired[list[TextMessage]]  # what policy and environment said, where there is one
    policy_version: NotRequired[int]  # "train": optimizer steps that the policy had taken when it sampled


class RankedAnswer(TypedDict):
    response: str
    reward: float  # raw score
    tokens: int  # the end token included
    ended: bool  # whether an end token or a stop string ended the answer
    disagreement: NotRequired[float]  # standard deviation of the score over the members of an ensemble
    turns: NotRequired[list[TextMessage]]  # what policy and environment said, where there is one
    stopped: NotRequired[str]  # why such an answer ended
    score: NotRequired[float | None]  # the environment's own


class BestOfNRow(TypedDict):
    """A row of samples.jsonl of ``best-of-n``: one prompt with all its answers."""

    prompt: list[TextMessage]
    answers: list[RankedAnswer]


class WeighedRow(TypedDict, total=False):
    """The part of a finding that earlier versions did not write."""

    weight: float  # 0 to 1: how much the evidence speaks for this cause


class FindingRow(WeighedRow):
    """A row of events.jsonl of kind "finding": one finding of the doctor."""

    kind: Literal["finding"]
    rule: str
    severity: Literal["info", "warning", "error"]
    seen: str  # what was measured, with its numbers
    why: str  # what goes wrong if nothing is changed
    cause: str  # the likely cause
    cure: str  # the setting to change, with a value
    step: int | None  # steps taken when it was seen; None before the first step
    numbers: Mapping[str, float]  # the measured numbers, for programs
    page: str  # page of the documentation


class CorrectionRow(TypedDict):
    """A row of events.jsonl of kind "correction": what is done to the scores of a reward model."""

    kind: Literal["correction"]
    reward: str  # the model
    slope: float  # reward units a word that are taken away
    words: float  # length of an answer that keeps its score
    mean: float  # then taken away
    deviation: float  # then divided by


class StartRow(TypedDict):
    """A row of events.jsonl of kind "start": what the run starts from, and what is usual for that."""

    kind: Literal["start"]
    steps: int  # steps of the run
    steps_needed: int  # steps that are usually enough
    usual_rate: float  # learning rate that fits the method, the number of weights and LoRA
    examples: int  # of one pass
    weights: int  # numbers in the model


class ResumeRow(TypedDict):
    """A row of events.jsonl of kind "resume": the changes when the run was resumed."""

    kind: Literal["resume"]
    meaning: str
    changes: list[str]  # ``key: old -> new``


class ResultFile(TypedDict):
    """The contents of result.json, written when the model is exported."""

    exported_step: int  # step of the weights in model/
    steps: int  # steps taken
    total_steps: int
    metric: str  # the held-out metric that chooses the best weights
    best_step: int | None  # step of the best evaluation; None without held-out data
    best_value: float | None
    data: str  # numbers of records, e.g. "5,120 records, 1,720 held out"; "" if not known
    data_hash: str  # of the records in their order
    environment: Mapping[str, Any]  # versions, processor and threads


class RewardSummary(TypedDict):
    """The contents of reward_model.json. None means "not known". Scores are in the reward model's raw units."""

    accuracy: float | None  # share of held-out pairs ranked as people did, ties half
    bayes_accuracy: float | None  # the accuracy that the labels' true probabilities would reach
    accuracy_low: float | None  # 95 % interval of the accuracy
    accuracy_high: float | None
    score_mean: float  # of all held-out answers
    score_std: float
    longer_accuracy: float  # accuracy of the rule "always prefer the answer of more tokens"
    log_loss: float  # nats
    calibration_error: float  # mean |observed - predicted| over bins, weighted by pairs
    pairs: int
    calibration: list[dict[str, Any]]  # one row for each bin: low, high, pairs, predicted, observed
    length_slope: NotRequired[float]  # reward units a word, between two answers to one prompt
    length_mean: NotRequired[float]  # words an answer
    heads: NotRequired[list[dict[str, float]]]  # of a model with several: accuracy, score_mean, score_std, length_*
    accuracy_by_length: dict[str, dict[str, Any]]  # pairs and accuracy where the chosen answer is longer, same, shorter
