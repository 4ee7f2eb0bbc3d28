"""Functions that several stages use: they make records, models, samplers and the run folder from a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from concordant.algorithms.conversations import Conversing
from concordant.algorithms.environments import Environments
from concordant.algorithms.probe import Gold, SampleProbe
from concordant.algorithms.rewards import Reward
from concordant.algorithms.rollouts import Sampler
from concordant.config.data import DataConfig
from concordant.config.environment import EnvironmentConfig
from concordant.config.fields import flatten
from concordant.config.model import ModelConfig
from concordant.config.names import Method, Responses
from concordant.config.parse import to_mapping
from concordant.config.paths import paths_of
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import BestOfNConfig, CollectConfig, RunConfig
from concordant.config.train import TrainConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.trees import PromptTree
from concordant.data.carried import NOTHING, Wanted
from concordant.data.chat import ChatEncoder, Encoded, Limits
from concordant.data.convert import all_texts, prompt_of
from concordant.data.loader import steps_of
from concordant.data.records import Pair, Prompt, Rating, Record
from concordant.data.splits import Loaded, load_all, load_records
from concordant.data.template import set_arguments
from concordant.doctor.callback import Doctor
from concordant.doctor.preflight import Preflight, Subject
from concordant.engines import roles
from concordant.engines.protocol import Learner, Scorer
from concordant.engines.reward_model import RewardModel
from concordant.kernels.allocator import freed_memory_kept
from concordant.models.backbone import positions
from concordant.models.load import Policy
from concordant.models.lora import adapter_names
from concordant.runs.folder import RunFolder
from concordant.runs.inputs import Inputs
from concordant.stages.places import check_output_folder
from concordant.training.defaults import Start, rate_of, settle, steps_needed
from concordant.training.loop import Algorithm, Callback, run_loop
from concordant.training.progress import current
from concordant.training.trackers import check_installed

R = TypeVar("R", bound=Record)
C = TypeVar("C", bound=RunConfig)

# What a step takes a number of.
EXAMPLES: Mapping[Method, str] = dict(sft="example", reward="pair", dpo="pair", ppo="prompt", distill="prompt")
HELD_OUT_TREES = 512  # trees for each evaluation during training; more would take too long
PROBE_PROMPTS = 96  # held-out prompts that are answered at each evaluation


def message(text: str) -> None:
    """Show a line to the person who watches the command."""
    current().message(text)


def watched(name: str) -> AbstractContextManager[None]:
    """Inside the block, long work without steps of its own is shown as a task."""
    return current().watched(name)


def open_policy(config: ModelConfig, data: DataConfig, records: Iterable[Record], seed: int = 0) -> Policy:
    """The policy on its device, the data's arguments in its chat template.

    A built-in model's tokenizer is trained on the text of ``records``.
    """
    policy = roles.open_policy(config, all_texts(records) if config.name.startswith("builtin:") else None, seed)
    set_arguments(policy.tokenizer, data.template_args)
    return policy


def in_file_order(data: DataConfig, wanted: Wanted = NOTHING) -> list[Record]:
    """Every record in the order of the data, including held-out ones, for verbs that do not train."""
    loaded = load_all(data.whole(), seed=0, wanted=wanted)
    return [*loaded.train, *loaded.test]


def limits_of(data: DataConfig, model: Policy | RewardModel) -> Limits:
    """The limits of lengths: those of the data, and the positions of ``model``."""
    total = min(positions(model.model), model.tokenizer.model_max_length)
    return Limits(prompt=data.max_prompt_tokens, response=data.max_response_tokens, total=total, too_long=data.too_long)


def report_dropped(dropped: Mapping[str, int], what: str, first: Mapping[str, str] | None = None) -> None:
    """Show how many records were left out for each reason. ``first`` has the place of the first one, by reason."""
    if any(dropped.values()):
        places = {reason: f"; first {place}" for reason, place in (first or {}).items() if place}
        listed = (f"{count} ({reason}{places.get(reason, '')})" for reason, count in Counter(dropped).items())
        message(f"{what}: left out " + ", ".join(listed))


def report_encoded(encoded: Encoded, what: str, records: Sequence[Record]) -> None:
    """Show how many of ``records``, which were encoded, were left out for each reason, and where the first one is."""
    report_dropped(encoded.dropped, what, {why: records[i].where for why, i in encoded.first_dropped.items()})


def kept(encoded: Encoded, what: str, records: Sequence[Record]) -> list[PromptTree]:
    """The trees of an encoding of ``records``; ``UserError`` if no tree is left."""
    report_encoded(encoded, what, records)
    if not encoded.trees:
        reasons = ", ".join(f"{n} {reason}" for reason, n in encoded.dropped.items()) or "it is empty"
        raise UserError(f"{what}: every record was left out ({reasons}); see data.max_prompt_tokens, data.too_long")
    return encoded.trees


def accepted(records: Sequence[R], encoder: ChatEncoder, what: str, needed: bool = True) -> list[R]:
    """The records from whose prompts can be sampled. Those that the chat template refuses are counted and left out.

    Raises UserError if none is left and some are ``needed``.
    """
    refusals = encoder.refusals([(prompt_of(record), record.tools) for record in records])
    reasons = [None if why is None else f"the chat template refuses it ({why})" for why in refusals]
    first = {why: record.where for why, record in reversed(list(zip(reasons, records, strict=True))) if why}
    report_dropped(Counter(filter(None, reasons)), what, first)
    left = [record for record, why in zip(records, refusals, strict=True) if why is None]
    if needed and not left:
        raise UserError(f"{what}: no prompt to answer is left; {reasons[0] if reasons else 'there is none'}")
    return left


def heldout(encoded: Encoded, records: Sequence[Record]) -> list[PromptTree]:
    """The trees of an encoding of ``records`` for evaluations during training."""
    report_encoded(encoded, "held-out data", records)
    if len(encoded.trees) > HELD_OUT_TREES:
        message(f"held-out data: evaluations during training use the first {HELD_OUT_TREES} of {len(encoded.trees):,}")
    return encoded.trees[:HELD_OUT_TREES]


def sampler_of(
    policy: Policy,
    encoder: ChatEncoder,
    model: ModelConfig,
    sampling: SamplingConfig | None = None,
    environments: Environments | None = None,
) -> Sampler:
    """A sampler of the policy's answers, with the engine that ``sampling`` names; without ``sampling``, our own.

    With ``environments`` an answer may have several turns.
    """
    limits = encoder.limits
    longest = min(limits.total, limits.prompt + (sampling.max_new_tokens if sampling else 0))
    if environments is None:
        return Sampler(roles.generator(policy, encoder.end_ids, model, sampling, longest), encoder)
    return Conversing(roles.generator(policy, encoder.end_ids, model, sampling, limits.total), encoder, environments)


def environments_of(config: EnvironmentConfig) -> Environments | None:
    """What makes the environments of a run; None without an environment."""
    return Environments(config) if config.name else None


def gold_of(data: DataConfig) -> Gold | None:
    """The gold judge of toytalk, the only data set whose true quality is known; None for other data."""
    if not data.path.startswith("builtin:toytalk"):
        return None
    from concordant.data.toytalk import gold_score

    return gold_score


def probe_of(
    config: RunConfig,
    learner: Learner,
    reference: Scorer | None,
    sampler: Sampler,
    heldout: Sequence[Prompt],
    sampling: SamplingConfig,
    reward: Reward | None = None,
    cost: Reward | None = None,
) -> SampleProbe | None:
    if not heldout:
        return None
    prompts = heldout[:PROBE_PROMPTS]
    gold = gold_of(config.data)
    return SampleProbe(learner, reference, sampler, prompts, sampling, config.seed, reward, cost, gold)


def prompts_of(pairs: Sequence[Pair | Rating]) -> list[Prompt]:
    """The prompts of the pairs or rated answers, each prompt once, in order."""
    tools = {p.prompt: p.tools for p in reversed(pairs)}
    return [Prompt(messages, tools=tools[messages]) for messages in dict.fromkeys(p.prompt for p in pairs)]


def train(algorithm: Algorithm, config: RunConfig, folder: RunFolder, subject: Subject) -> Path:
    """Run the training loop, with the doctor's preflight before it and the doctor's rules during it."""
    preflight = [Preflight(config, subject)] if config.doctor.preflight else []
    callbacks: list[Callback] = [*preflight, Doctor(config.doctor, config.train.log_every)]
    with roles.arithmetic(config.train.threads), freed_memory_kept():
        result = run_loop(algorithm, config.train, folder, config.seed, callbacks)
    message(f"{folder.path.absolute().name}: {counted(result.steps, 'step')}; model in {result.model}")
    return folder.path


def start_of(method: Method, examples: int, opened: Policy | RewardModel, model: ModelConfig) -> Start:
    """What a run of ``method`` starts from."""
    return Start(
        method=method,
        examples=examples,
        weights=roles.weights_of(opened.model),
        has_adapters=bool(adapter_names(opened.model)),
        is_random=model.name.startswith("builtin:"),
        is_encoder=isinstance(opened, RewardModel) and opened.is_encoder,
    )


def settled(config: C, folder: RunFolder, start: Start, example: str = "") -> C:
    """``config`` with the settings that follow method, model and data; the run folder's config.yaml gets them too.

    ``example``: what a step counts, if the method alone does not say.
    """
    start = replace(start, optimizer=config.train.optimizer)
    train = settle(config.train, start)
    steps, needed = steps_of(start.examples, train.batch_size, train.epochs, train.max_steps), steps_needed(start)
    folder.log_event(
        {
            "kind": "start",
            "steps": steps,
            "steps_needed": needed,
            "usual_rate": rate_of(start),
            "examples": start.examples,
            "weights": start.weights,
        }
    )
    if train.warmup_steps > steps:
        raise UserError(
            f"train.warmup_steps={train.warmup_steps}: the run has {counted(steps, 'step')} and would never reach its "
            "learning rate; give fewer, or train longer"
        )
    _tell(start, train, steps, config.train.batch_size, example or EXAMPLES[start.method])
    if train == config.train:
        return config
    config = replace(config, train=train)
    folder.set_config(to_mapping(start.method, config))
    folder.inputs.settings |= {key: value for key, value in flatten(config).items() if key.startswith("train.")}
    return config


def _tell(start: Start, train: TrainConfig, steps: int, wanted_batch: int, example: str) -> None:
    """Say how long the run is, and what is unusual about that. ``wanted_batch`` is the batch size that was given."""
    examples = counted(start.examples, example)
    passes = counted(round(steps * train.batch_size / start.examples, 1), "pass", "passes")
    message(
        f"{start.method}: {counted(steps, 'step')} of {train.batch_size}, {passes} over {examples}, "
        f"rate {train.learning_rate:.2g}"
    )
    if train.batch_size > start.examples:
        message(
            f"{start.method}: each of the {examples} comes {train.batch_size / start.examples:.1f} times in a batch of "
            f"{train.batch_size} and is answered anew each time; lower train.batch_size, or give more prompts"
        )
    if train.batch_size < wanted_batch:
        message(
            f"{start.method}: train.batch_size {wanted_batch} is more than the {examples}; a step takes "
            "each of them once"
        )
    needed = steps_needed(start)
    if steps < needed / 3:
        cure = "raise train.max_steps" if train.max_steps else "raise train.epochs, or lower train.batch_size"
        message(f"{start.method}: {needed} steps are usually needed; {cure}")


@contextmanager
def opened(config: RunConfig | BestOfNConfig | CollectConfig, verb: str) -> Iterator[RunFolder]:
    """Inside the block, the run folder is locked, with the resolved config in it, and the run's workers are there."""
    workers: AbstractContextManager[None] = nullcontext()
    if isinstance(config, RunConfig):
        workers = roles.working_together(config.cluster, config.train.threads, config.model.device)
    with _folder(config, verb) as folder, workers:
        yield folder


def _folder(config: RunConfig | BestOfNConfig | CollectConfig, verb: str) -> RunFolder:
    check_output_folder(config.output, config.data.path)
    if isinstance(config, RunConfig):
        check_installed(config.train.tracker)
    folder = RunFolder(config.output, resume=bool(config.resume), may_differ=config.resume == "force")
    try:
        folder.set_config(to_mapping(verb, config))
        settings = flatten(config)
        folder.inputs = Inputs.of(settings, paths_of(type(config), settings))
    except BaseException:
        folder.close()
        raise
    return folder


def read(
    config: RunConfig | BestOfNConfig | CollectConfig,
    folder: RunFolder,
    want: type[R],
    what: str,
    responses: Responses = "both",
    wanted: Wanted = NOTHING,
) -> Loaded[R]:
    """The records of the data, prompts with their ``wanted`` columns. They become part of the run's inputs."""
    loaded = load_records(config.data, want, config.seed, responses, wanted)
    folder.inputs.add_data(loaded.train, loaded.test)
    message(loaded.summary(what))
    return loaded
