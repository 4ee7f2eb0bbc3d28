"""``concordant constitution``: a policy answers, and its answers are criticised and revised by written principles."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from concordant.algorithms.reward_functions import shown_error
from concordant.algorithms.reward_sources import imported
from concordant.config.checks import checked
from concordant.config.judging import ConstitutionConfig
from concordant.config.specs import is_reward_function
from concordant.core.errors import UserError
from concordant.core.process import process_put_back
from concordant.core.seeding import derive
from concordant.data.convert import as_dict
from concordant.data.dialogue import Messages
from concordant.data.records import Demonstration, Message, Prompt
from concordant.data.splits import load_records
from concordant.feedback.constitution import Draft, ReviseText, revise_by_function, revise_in_words
from concordant.feedback.local import LocalWriter
from concordant.feedback.principles import Principle, principles_for, read_principles
from concordant.feedback.writers import Asking, Skip, Writer
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.names import SFT_DATA
from concordant.stages import asking as shared
from concordant.stages import common

DRAFTS, SUMMARY = "drafts.jsonl", "constitution.json"
_PARAMETERS = {"prompt", "response", "principle"}


@checked
def constitution(config: ConstitutionConfig) -> Path:
    """Answer the training prompts, revise the answers, and return the output folder.

    The folder gets ``sft.jsonl`` (prompts with their revised answers), ``drafts.jsonl`` (every version, critique and
    principle) and a data card. Every answer and critique is kept, so a stopped command continues where it was.
    """
    principles = read_principles(config.principles)
    by_function = is_reward_function(config.critic)
    function = _function(config.critic) if by_function else None
    with shared.output_folder(config.output, config.data.path) as folder:
        loaded = load_records(config.data, Prompt, config.seed)
        prompts = loaded.train[: config.max_prompts or None]
        cache = shared.open_cache(folder)
        policy = shared.open_policy_writer(
            config.model, config.data, config.sampling, derive(config.seed, "constitution")
        )
        first = Asking(policy, cache)
        left_out = Counter(loaded.dropped)
        answers = shared.ask(first, [prompt.messages for prompt in prompts], "answers")
        drafts = []
        for prompt, answered in zip(prompts, answers, strict=True):
            if isinstance(answered, Skip) or not answered.text.strip():
                left_out[answered.reason if isinstance(answered, Skip) else "an empty answer of the policy"] += 1
                continue
            drawn = principles_for(principles, prompt.messages, config.revisions, config.seed)
            drafts.append(Draft(prompt.messages, drawn, [answered.text], []))
        critic = first
        if function is not None:
            with common.watched("revisions"):
                revise_by_function(drafts, function)
        else:
            critic = Asking(_critic(config, policy), cache)
            revise_in_words(drafts, partial(shared.ask, critic))
        made = [draft for draft in drafts if not draft.dropped]
        left_out += Counter(draft.dropped for draft in drafts if draft.dropped)
        write_text(folder / SFT_DATA, json_lines(_row(draft) for draft in made))
        write_text(folder / DRAFTS, json_lines(map(_draft, drafts)))
        changed = sum(draft.last.strip() != draft.answers[0].strip() for draft in made)
        records = [Demonstration((*d.prompt, Message("assistant", d.last)), len(d.prompt)) for d in made]
        notes = [f"revised by {config.critic or 'the policy'}; {changed:,} of {len(made):,} answers changed"]
        shared.write_card(folder, records, config.data, loaded.rows_read, left_out, notes)
        common.message(f"constitution: {notes[0]}; {folder / SFT_DATA}")
        numbers: dict[str, Any] = {"changed": changed, "principles": [principle.name for principle in principles]}
        shared.finish(folder, critic, left_out, len(made), numbers, SUMMARY)
    return Path(config.output)


def _critic(config: ConstitutionConfig, policy: LocalWriter) -> Writer:
    """The critic: the policy itself with its most likely tokens, unless another one is named."""
    if not config.critic:
        return policy.greedy(config.max_answer_tokens)
    model = replace(config.model, adapter="")
    return shared.open_writer(config.critic, config.endpoint, model, config.data, config.max_answer_tokens)


def _function(source: str) -> ReviseText:
    """The function that revises, with its mistakes as errors of the user."""
    function = imported(source, "critic")
    found = set(inspect.signature(function).parameters)
    if not found <= _PARAMETERS or not {"prompt", "response"} <= found:
        raise UserError(
            f"critic {source} has the parameters ({', '.join(found)}); expected (prompt, response, principle)"
        )

    def revise(prompt: Messages, response: str, principle: Principle) -> str | None:
        given = {"prompt": prompt, "response": response, "principle": principle.name}
        try:
            with process_put_back():
                text = function(**{name: given[name] for name in found})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a function never ends the command
            raise UserError(f"critic {source} failed for {response!r:.80}: {shown_error(error)}") from error
        if text is not None and not isinstance(text, str):
            raise UserError(f"critic {source} returned {text!r:.80}; expected the revised answer, or None to leave it")
        return text

    return revise


def _row(draft: Draft) -> dict[str, Any]:
    return {"prompt": as_dict(draft.prompt), "response": draft.last}


def _draft(draft: Draft) -> dict[str, Any]:
    row = {"prompt": as_dict(draft.prompt), "answers": draft.answers, "critiques": draft.critiques}
    row |= {"principles": [principle.name for principle in draft.principles]}
    return row | ({"dropped": draft.dropped} if draft.dropped else {})
