"""``concordant best-of-n``: sample n answers for each prompt, score them, and keep the best and the worst."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from concordant.algorithms.best_of_n import Choice, choose
from concordant.algorithms.reward_sources import wanted_columns
from concordant.config.checks import checked
from concordant.config.stages import BestOfNConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.seeding import derive, generators_put_back, reseed
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Prompt
from concordant.runs.atomic import write_text
from concordant.runs.folder import RunFolder
from concordant.runs.inputs import Inputs
from concordant.runs.logs import Row, json_lines, read_json, read_whole_lines
from concordant.runs.names import INPUTS, PAIR_DATA, SAMPLES, SFT_DATA
from concordant.runs.writable import check_file
from concordant.stages import common
from concordant.stages.rewarding import Rewards, handling_of
from concordant.training.environment import environment
from concordant.training.progress import current

PROMPTS_AT_ONCE = 64
_APART = "disagreement"  # of an ensemble about an answer, in samples.jsonl


@checked
def best_of_n(config: BestOfNConfig) -> Path:
    """Answer every prompt n times, and return the output folder.

    The folder gets ``sft.jsonl`` (prompts with their best answer, for rejection sampling), ``pairs.jsonl`` (best and
    worst answer) and ``samples.jsonl`` (all answers with their rewards). ``samples.jsonl`` is written during the work,
    and an interrupted command continues after the last complete row.
    """
    with common.opened(config, "best-of-n") as folder, generators_put_back():
        for name in (SFT_DATA, PAIR_DATA):
            check_file(folder.path / name)
        loaded = common.read(config, folder, Prompt, "prompts", wanted=wanted_columns(config.reward))
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        sampler = common.sampler_of(policy, encoder, config.model, config.sampling)
        rewards = Rewards(config.reward, config.model, handling=handling_of(config), scoring=config.scoring)
        prompts = common.accepted(loaded.test if config.split == "test" else loaded.train, encoder, "prompts")
        rewards.check(prompts, loaded.wanted_names)
        choices = _earlier(folder, len(prompts))
        folder.status.update("running", len(choices), len(prompts))
        with current().task("best-of-n", len(prompts), len(choices)) as bar:
            for start in range(len(choices), len(prompts), PROMPTS_AT_ONCE):
                number = start // PROMPTS_AT_ONCE
                reseed(config.seed, "best_of_n/reward", number)
                part = prompts[start : start + PROMPTS_AT_ONCE]
                new = choose(sampler(part, config.sampling, derive(config.seed, "best_of_n", number)), rewards.reward)
                folder.log_samples(map(_row, new))
                choices += new
                mean = sum(c.best_reward for c in choices) / len(choices)
                bar.update(len(choices), {"objective/score": mean})
                folder.status.update(step=len(choices))
        rewards.report_missing()
        return _write(folder.path, choices)


def _earlier(folder: RunFolder, total: int) -> list[Choice]:
    """The complete rows of an interrupted command. The rest of the file is removed."""
    folder.inputs.environment = environment(torch.get_num_threads())
    made_from, samples = folder.path / INPUTS, folder.path / SAMPLES
    changes: dict[str, list[str]] = {}
    before = read_json(made_from)
    if samples.exists() and before is None:
        raise UserError(f"{samples}: its inputs are unknown, because {INPUTS} is missing or damaged; remove both files")
    if samples.exists() and before is not None:
        try:
            inputs = Inputs.from_json(before)
        except TypeError:
            raise UserError(
                f"{made_from} is damaged: it does not say what {samples} was made from; remove it"
            ) from None
        changes = folder.changes_since(inputs, str(samples))
    write_text(made_from, json.dumps(folder.inputs.as_json(), indent=1) + "\n")
    folder.write_config()
    lines = read_whole_lines(samples)
    choices = list(_readable(row for row, _ in lines))
    if samples.exists() and (lines[len(choices) - 1][1] if choices else 0) < samples.stat().st_size:
        common.message(f"best-of-n: {samples} line {len(choices) + 1} is damaged; answering again from there")
    if len(choices) < total:
        choices = choices[: len(choices) // PROMPTS_AT_ONCE * PROMPTS_AT_ONCE]
    if choices:
        common.message(f"best-of-n: {len(choices)} of {counted(total, 'prompt was', 'prompts were')} answered before")
    folder.rewind({SAMPLES: lines[len(choices) - 1][1] if choices else 0})
    for line in folder.note(changes):
        common.message(f"best-of-n: {line}")
    return choices


def _readable(rows: Iterable[Row]) -> Iterator[Choice]:
    """The rows before the first damaged row."""
    for row in rows:
        try:
            choice = _choice(row)
        except (KeyError, TypeError):
            return
        yield choice


def _row(c: Choice) -> dict[str, Any]:
    columns = zip(c.responses, c.rewards, c.lengths, c.ended, strict=True)
    answers = [{"response": r, "reward": s, "tokens": n, "ended": e} for r, s, n, e in columns]
    if c.disagreement is not None:
        answers = [answer | {_APART: x} for answer, x in zip(answers, c.disagreement, strict=True)]
    return {"prompt": common.as_dict(c.prompt), "answers": answers}


def _choice(row: dict[str, Any]) -> Choice:
    columns = ([answer[name] for answer in row["answers"]] for name in ("response", "reward", "tokens", "ended"))
    apart = [answer[_APART] for answer in row["answers"]] if _APART in row["answers"][0] else None
    return Choice(tuple(Message(**m) for m in row["prompt"]), *columns, apart)


def _write(folder: Path, choices: Sequence[Choice]) -> Path:
    best, pairs = [], []
    for c in choices:
        prompt = common.as_dict(c.prompt)
        best.append({"prompt": prompt, "response": c.best})
        if c.best != c.worst:  # n equal answers make no pair
            pairs.append({"prompt": prompt, "chosen": c.best, "rejected": c.worst})
    write_text(folder / SFT_DATA, json_lines(best))
    write_text(folder / PAIR_DATA, json_lines(pairs))
    apart = [x for c in choices for x in c.disagreement or ()]
    if apart:
        common.message(f"best-of-n: the ensemble's members disagree by {sum(apart) / len(apart):.3g} on average")
    common.message(f"{counted(len(choices), 'prompt')} answered; {folder}/sft.jsonl, pairs.jsonl, samples.jsonl")
    return folder
