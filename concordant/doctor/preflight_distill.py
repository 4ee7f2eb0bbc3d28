"""Checks of ``concordant distill`` before the first step: does the teacher know its text, and does a step fit?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from concordant.algorithms.distill import Distill
from concordant.algorithms.rollouts import Sampler
from concordant.core.seeding import derive, torch_stream
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Prompt
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_model import SAMPLED, longest, trial_step
from concordant.doctor.preflight_start import untrained_start


def check_distill(algorithm: Distill, vocabulary: int) -> list[Finding]:
    """The findings about teacher, gradient and memory. Nothing of the run is changed."""
    learner, teacher = algorithm.learner, algorithm.pupil.teacher
    found: list[Finding] = []
    with learner.rehearsal():
        if teacher is not None:
            found += teacher_untrained(teacher, algorithm, vocabulary)
        found += trial_step(learner, imagined(algorithm), algorithm.objective, "student")
    return found


def teacher_untrained(teacher: Sampler, algorithm: Distill, vocabulary: int) -> list[Finding]:
    """Are the teacher's own answers as unlikely to itself as a guess? Then it was never trained."""
    prompts, tokens = SAMPLED
    sampling = algorithm.config.sampling
    if sampling.temperature != 1.0:  # the sampler's log-probs have its temperature
        return []
    short = replace(sampling, n=1, max_new_tokens=min(tokens, sampling.max_new_tokens))
    rollouts = teacher(algorithm.train.prompts[:prompts], short, derive(algorithm.config.seed, "doctor/teacher"))
    found = untrained_start(float(-rollouts.sampler_logprob_N.mean()), vocabulary)
    return [replace(finding, seen=finding.seen.replace("the start", "the teacher", 1)) for finding in found]


def imagined(algorithm: Distill) -> list[PromptTree]:
    """The longest trees that a step may have: the longest prompts, with random answers as long as the limit."""
    config, sampler = algorithm.config, algorithm.pupil.sampler
    stream = torch_stream(config.seed, "doctor/longest")
    prompts = _longest_prompts(algorithm.train.prompts, config.train.batch_size)
    prompt_ids = sampler.prompt_ids(prompts, config.sampling.max_new_tokens)
    room = sampler.encoder.limits.total - max(map(len, prompt_ids))
    tokens, vocabulary = max(1, min(config.sampling.max_new_tokens, room)), len(sampler.encoder.tokenizer)

    def answer() -> Branch:
        return Branch.response(torch.randint(0, vocabulary, (tokens,), generator=stream))

    trees = [PromptTree(ids, tuple(answer() for _ in range(config.sampling.n))) for ids in prompt_ids]
    trees += algorithm.train.trees
    return [trees[i] for i in longest(trees, algorithm.learner, config.train.batch_size)]


def _longest_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    def characters(prompt: Prompt) -> int:
        return sum(len(message.content) for message in prompt.messages)

    return sorted(prompts, key=characters, reverse=True)[:count]
