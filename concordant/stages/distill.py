"""``concordant distill``: a student learns from a teacher with the same tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from concordant.algorithms.distill import Distill, Pupil, Questions
from concordant.config.checks import checked
from concordant.config.distill_rules import gives_answers
from concordant.config.fields import flatten
from concordant.config.stages import DistillConfig
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.convert import prompt_of
from concordant.data.records import Demonstration, Prompt
from concordant.data.splits import Loaded
from concordant.data.template import set_arguments
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.stages import common
from concordant.stages.cards import card_of
from concordant.stages.retaining import retained


@checked
def distill(config: DistillConfig) -> Path:
    """Train a student on the distributions of a teacher, and return the run folder."""
    giver = gives_answers(flatten(config))
    with common.opened(config, "distill") as folder:
        loaded: Loaded[Demonstration] | Loaded[Prompt]
        if giver == "data":
            loaded = common.read(config, folder, Demonstration, "dialogues", "chosen")
        else:
            loaded = common.read(config, folder, Prompt, "prompts")
        teacher = roles.open_teacher(config.teacher, config.model)
        policy = roles.open_student(config.model, teacher, config.seed)
        set_arguments(policy.tokenizer, config.data.template_args)
        limits = common.limits_of(config.data, policy)
        total = min(limits.total, common.limits_of(config.data, teacher).total)
        limits = replace(limits, total=total, too_long=limits.too_long if giver == "data" else "cut_prompt_start")
        encoder = ChatEncoder(policy.tokenizer, limits)
        train, heldout = _questions(loaded, encoder, giver)
        start = common.start_of("distill", len(train.prompts), policy, config.model)
        config = common.settled(config, folder, start)
        learner = roles.policy_learner(policy, config.model, config.train, config.temperature)
        scorer = roles.learn_from(learner, teacher, config.model, config.train, config.temperature)
        sampler = common.sampler_of(policy, encoder, config.model, config.sampling)
        pupil = Pupil(
            learner=learner,
            sampler=sampler,
            teacher=common.sampler_of(teacher, encoder, config.model, config.sampling) if giver == "teacher" else None,
            probe=common.probe_of(config, learner, scorer, sampler, heldout.prompts, config.sampling),
            retention=retained(config.retain, policy, learner, config.seed),
        )
        heldout = Questions(
            prompts=heldout.prompts[: common.HELD_OUT_TREES], trees=heldout.trees[: common.HELD_OUT_TREES]
        )
        algorithm = Distill(config, pupil, train, heldout, card_of(config, "distill", loaded), encoder.end_ids)
        return common.train(algorithm, config, folder, Subject(loaded, encoder))


def _questions(
    loaded: Loaded[Demonstration] | Loaded[Prompt], encoder: ChatEncoder, giver: str
) -> tuple[Questions, Questions]:
    """Training and held-out prompts, with the data's answers if it gives them."""
    if giver == "data":
        spoken = cast(Loaded[Demonstration], loaded)
        encoded = encoder.demonstrations(spoken.train)
        common.kept(encoded, "training data", spoken.train)
        others = encoder.demonstrations(spoken.test)
        common.report_encoded(others, "held-out data", spoken.test)
        return _answered(encoded, spoken.train), _answered(others, spoken.test)
    asked = cast(Loaded[Prompt], loaded)
    train = common.accepted(asked.train, encoder, "prompts")
    heldout = common.accepted(asked.test, encoder, "held-out prompts", needed=False)
    return Questions(prompts=train), Questions(prompts=heldout)


def _answered(encoded: Encoded, records: Sequence[Demonstration]) -> Questions:
    """The answers of the data, each with the prompt that the student may answer in its place."""
    spoken = [records[number] for number in encoded.record]
    return Questions(prompts=[Prompt(prompt_of(d), tools=d.tools) for d in spoken], trees=encoded.trees)
