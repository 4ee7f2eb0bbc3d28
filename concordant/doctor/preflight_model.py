"""Checks of a stage's own learner, objective and sampler before its first step.

The checks change nothing of the run: no weight, no gradient, no stream of random numbers, no module's mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from concordant.algorithms.dpo import DPOObjective
from concordant.algorithms.experience import Experience
from concordant.algorithms.kto import KTOObjective
from concordant.algorithms.ppo import PPO
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.rollouts import Rollouts
from concordant.algorithms.supervised import Supervised
from concordant.config.sampling import RESHAPING
from concordant.config.stages import PPOConfig
from concordant.core.counted import counted
from concordant.core.errors import RunFailed
from concordant.core.objective import Objective
from concordant.core.seeding import derive, torch_stream
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.data.records import Prompt
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_memory import nearly_out_of_memory, out_of_memory
from concordant.doctor.preflight_records import percent
from concordant.doctor.preflight_reference import in_fp32, rounding, start_kl, start_of_dpo
from concordant.doctor.preflight_start import Asked, check_start, logprobs, untrained_start
from concordant.doctor.quantities import no_dropout, one_temperature
from concordant.engines.memory import is_out_of_memory
from concordant.engines.protocol import Learner

LOOKED_AT = 64  # pairs whose accuracy is measured
PLAIN = (0.7, 1.3)  # temperatures at which a log-prob says what the model knows
SAMPLED = (4, 16)  # prompts, and tokens of an answer, in the trial of the sampler


def check_supervised(
    algorithm: Supervised, has_own_reference: bool, vocabulary: int = 0, end_ids: Sequence[int] = ()
) -> list[Finding]:
    """Checks for SFT, reward model and DPO: a trial step on the longest batch, and the state before the first step.

    ``has_own_reference``: DPO has a reference other than its start, so the two are expected to differ.
    ``vocabulary``: the number of tokens, where the start is expected to know the text; 0 where it is not.
    ``end_ids``: the tokens that end an answer.
    """
    learner, trees = algorithm.learner, algorithm.trees
    found: list[Finding] = []
    with learner.rehearsal():
        numbers = longest(trees, learner, algorithm.config.batch_size)
        found += trial_step(learner, [trees[i] for i in numbers], algorithm.objective(numbers))
        if any(finding.rule == "memory" and finding.severity == "error" for finding in found):
            return found  # the other checks would not fit in memory either
        objective = algorithm.objective(numbers)
        learns_preferences = isinstance(objective, DPOObjective | KTOObjective)
        if isinstance(objective, DPOObjective | KTOObjective) and objective.needs_reference and not has_own_reference:
            found += start_of_dpo(learner, [trees[i] for i in numbers], objective)
        if vocabulary and objective.want.logprob and not isinstance(objective, RewardObjective):
            is_sft, facts = not learns_preferences, learner.describe()
            found += check_start(
                Asked(
                    start=learner,
                    vocabulary=vocabulary,
                    end_ids=end_ids,
                    learns_text=is_sft,
                    learns_ends=is_sft and facts.trained == facts.weights,
                ),
                trees,
            )
        if isinstance(objective, RewardObjective):
            some = range(0, len(trees), -(-len(trees) // LOOKED_AT))
            found += labels_at_start(learner, [trees[i] for i in some], algorithm.objective(some))
    return found


def check_ppo(
    algorithm: PPO, has_own_reference: bool, vocabulary: int = 0, known: Sequence[PromptTree] = ()
) -> list[Finding]:
    """Checks for PPO: do sampler, reference and ratio agree with the learner, and does the longest batch fit?

    ``known``: the data's own answers, which the start should know.
    """
    actor, critic = algorithm.actor, algorithm.critic
    found: list[Finding] = []
    with actor.rehearsal():
        rollouts = sample(algorithm)
        config = algorithm.config
        reshaping, heat = changed(config), config.sampling.temperature
        found += sampler_differs(rollouts, actor, config.allow_truncated_sampling, reshaping, heat)
        if vocabulary:
            own = untrained_start(float(-logprobs(actor, rollouts.trees).mean()), vocabulary)
            asked = Asked(start=actor, vocabulary=vocabulary, end_ids=algorithm.sampler.encoder.end_ids)
            low, high = PLAIN
            is_plain = low <= heat <= high  # a learner's log-probs have it too
            found += own or (check_start(asked, known) if is_plain else [])
        if not has_own_reference:
            found += start_kl(rollouts.trees, actor, algorithm.reference)
        trees, experience = imagined(algorithm, actor)
        dropout = config.model.lora.dropout
        tokens_N = torch.arange(len(experience.value_N))
        found += trial_step(actor, trees, algorithm.policy_objective(experience, tokens_N), "policy", dropout)
        if critic is not None:
            with critic.rehearsal():
                found += trial_step(critic, trees, algorithm.value_objective(experience, tokens_N), what="critic")
    return found


# -- the longest batch, and the tensors that its gradient reaches ---------------------------------


def longest(trees: Sequence[PromptTree], learner: Learner, batch_size: int) -> list[int]:
    """Numbers of trees that fill a micro-batch, the longest first, and at most ``batch_size`` of them."""

    facts = learner.describe()

    def size(number: int) -> int:
        tree = trees[number]
        return tree.tokens if facts.layout is Layout.TREE else tree.flat_tokens

    taken: list[int] = []
    left = facts.micro_batch_tokens
    for number in sorted(range(len(trees)), key=size, reverse=True):
        if len(taken) < batch_size and (not taken or size(number) <= left):
            taken.append(number)
            left -= size(number)
    return taken


def trial_step(
    learner: Learner, trees: Sequence[PromptTree], objective: Objective, what: str = "model", dropout: float = 0.0
) -> list[Finding]:
    """Forward and backward on ``trees``: do they fit in memory, is the ratio 1, and which tensors get a gradient?

    ``dropout``: the adapter's.
    """
    try:
        metrics = learner.forward_backward(trees, objective).result()
    except RunFailed as problem:
        if not is_out_of_memory(problem.__cause__):
            raise
        return [out_of_memory(learner, trees)]
    found = [nearly_out_of_memory(learner), dropout_on(metrics, rounding(learner), dropout), *gradients(learner, what)]
    return [finding for finding in found if finding is not None]


def gradients(learner: Learner, what: str = "model") -> list[Finding]:
    """After a backward pass: findings unless exactly the trained tensors have gradients, and all these are finite."""
    reached = learner.reached()
    trained = [row for row in reached if row.is_trained]
    missing = [row.name for row in trained if not row.came]
    strange = [row.name for row in reached if row.came and not row.is_trained]
    not_finite = [row.name for row in trained if not row.is_finite]
    all_zero = all(row.is_zero for row in trained if row.came)
    found = []
    if missing or all_zero:
        n, total = len(missing), len(trained)
        found.append(
            Finding(
                "gradient_missing",
                "error" if all_zero else "warning",
                f"the gradient of the {what} is 0 everywhere"
                if all_zero
                else f"no gradient reaches {n} of {total} trained tensors of the {what}: {_some(missing)}",
                "the loss does not depend on them: a part of the model that text does not use, a detached head, or a "
                "batch without anything to learn",
                "Freeze what is not meant to learn and train adapters on the rest: --model.lora.rank 16"
                if n
                else "See whether the masks in the preview are right; set --data.max_response_tokens high enough",
                numbers={"tensors": n, "trained": total},
                weight=0.9,
            )
        )
    if strange:
        found.append(
            Finding(
                "gradient_frozen",
                "error",
                f"a gradient reaches {counted(len(strange), 'tensor')} of the {what} that no optimizer moves: "
                f"{_some(strange)}",
                "requires_grad was set after the learner was made",
                "Set requires_grad before the learner is made, or leave those tensors frozen: --model.lora.rank 16 "
                "freezes all but the adapter",
                numbers={"tensors": len(strange)},
                weight=0.9,
            )
        )
    if not_finite:
        found.append(
            Finding(
                "not_finite",
                "error",
                f"the first gradient of the {what} is not finite in {counted(len(not_finite), 'tensor')}: "
                f"{_some(not_finite)}",
                "overflow in low precision, or a model folder with NaN in it",
                "Fetch the model again" + in_fp32(rounding(learner)),
                numbers={"tensors": len(not_finite)},
                weight=0.95,
            )
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if names[3:] else "")


# -- properties before the first step -------------------------------------------------------------


def dropout_on(metrics: Mapping[str, float], tolerance: float, dropout: float = 0.0) -> Finding | None:
    """Check that PPO's probability ratio is 1 with the weights that made the samples. ``dropout``: the adapter's."""
    mean, most = metrics.get("ratio/mean", 1.0), metrics.get("ratio/max", 1.0)
    if abs(mean - 1) <= tolerance and abs(most - 1) <= limits("dropout_on")["times"] * tolerance:
        return None
    return Finding(
        "dropout_on",
        "error",
        f"with the weights that sampled, the probability ratio is {mean:.4f} on average and {most:.4f} at most; "
        "expected 1",
        "dropout, or another random layer, is on while learning",
        no_dropout(dropout) + in_fp32(tolerance),
        numbers={"mean": mean, "max": most},
        weight=0.95,
    )


def labels_at_start(learner: Learner, trees: Sequence[PromptTree], objective: Objective) -> list[Finding]:
    """Check for swapped labels: does a trained reward model confidently contradict them?

    A new head may rank few pairs right by bad luck, because answers have much in common. But it is never confident, so
    its loss is near ln 2.
    """
    metrics = learner.evaluate(trees, objective).result()
    accuracy, loss = metrics["accuracy"], metrics["bradley_terry"]
    at = limits("labels_swapped")
    if accuracy >= at["opposite"] or loss < at["sure_loss"] or len(trees) < LOOKED_AT // 2:
        return []
    return [
        Finding(
            "labels_swapped",
            "warning",
            f"before the first step {percent(accuracy)} of {len(trees)} pairs are ranked right (chance: 50 %), "
            f"and the loss is {loss:.2f} (chance: 0.69)",
            "a trained reward model meets data whose chosen and rejected are swapped, or people of another mind",
            "Read three pairs of the preview; if they are swapped, exchange the columns chosen and rejected",
            numbers={"accuracy": accuracy, "loss": loss},
            weight=0.85,
        )
    ]


# -- PPO ------------------------------------------------------------------------------------------


def sample(algorithm: PPO) -> Rollouts:
    """A few short answers, drawn with a random stream that only the doctor uses."""
    prompts, tokens = SAMPLED
    sampling = algorithm.config.sampling
    short = replace(sampling, n=1, max_new_tokens=min(tokens, sampling.max_new_tokens))
    algorithm.sampler.generator.load_weights(algorithm.actor.publish())
    return algorithm.sampler(algorithm.prompts[:prompts], short, derive(algorithm.config.seed, "doctor/sampler"))


def changed(config: PPOConfig) -> dict[str, float]:
    """The settings that change the sampler's distribution, with the values that leave it alone."""
    return {key: off for key, off in RESHAPING.items() if getattr(config.sampling, key.rpartition(".")[2]) != off}


def sampler_differs(
    rollouts: Rollouts,
    actor: Learner,
    is_known: bool = False,
    reshaping: Mapping[str, float] | None = None,
    temperature: float = 1.0,
) -> list[Finding]:
    """Compare the log-probs that the sampler and the learner give to the same tokens.

    ``is_known``: the user has accepted ``reshaping``, settings that change the sampler's distribution.
    ``temperature``: of the sampler.
    """
    difference_N = (logprobs(actor, rollouts.trees) - rollouts.sampler_logprob_N).abs()
    mean, most = float(difference_N.mean()), float(difference_N.max())
    if mean <= rounding(actor):
        return []
    return [
        Finding(
            "sampler_differs",
            "warning" if is_known else "error",
            f"sampler and learner differ by {mean:.2g} nats a token on average, {most:.2g} at most, "
            f"over {counted(len(difference_N), 'token')}",
            f"{' and '.join(reshaping)} changed the sampler's distribution"
            if reshaping
            else "the sampler's temperature is not the learner's, or its weights are stale",
            f"Set {' '.join(f'--{key} {off:g}' for key, off in reshaping.items())}"
            if reshaping
            else one_temperature(temperature) + in_fp32(rounding(actor)),
            numbers={"mean": mean, "max": most},
            weight=0.95,
        )
    ]


def imagined(algorithm: PPO, actor: Learner) -> tuple[list[PromptTree], Experience]:
    """The longest possible minibatch: the longest prompts, with answers of random tokens as long as the limit."""
    config, stream = algorithm.config, torch_stream(algorithm.config.seed, "doctor/longest")
    sampling, vocabulary = config.sampling, len(algorithm.sampler.encoder.tokenizer)
    candidates = sorted(algorithm.prompts, key=_characters, reverse=True)[: config.train.batch_size]

    prompt_ids = algorithm.sampler.prompt_ids(candidates, sampling.max_new_tokens)
    room = algorithm.sampler.encoder.limits.total - max(map(len, prompt_ids))
    tokens = max(1, min(sampling.max_new_tokens, room))

    def answer() -> Branch:
        return Branch.response(torch.randint(0, vocabulary, (tokens,), generator=stream))

    trees = [PromptTree(ids, tuple(answer() for _ in range(sampling.n))) for ids in prompt_ids]
    trees = [trees[i] for i in longest(trees, actor, max(1, config.train.batch_size // config.minibatches))]
    old_N = logprobs(actor, trees)
    ones_N, branches = torch.ones_like(old_N), len(trees) * sampling.n
    length_B = torch.full((branches,), tokens)
    group_B = torch.arange(len(trees)).repeat_interleave(sampling.n)
    rollouts = Rollouts(trees, [], old_N, torch.zeros(branches, dtype=torch.bool), length_B, group_B, actor.version)
    zeros_B = torch.zeros(branches)
    return trees, Experience(
        rollouts=rollouts,
        old_logprob_N=old_N,
        reference_N=old_N,
        value_N=0 * ones_N,
        advantage_N=ones_N,
        return_N=ones_N,
        score_B=zeros_B,
        shaped_B=zeros_B,
        tied=0.0,
        agreement=None,
    )


def _characters(prompt: Prompt) -> int:
    return sum(len(message.content) for message in prompt.messages)
