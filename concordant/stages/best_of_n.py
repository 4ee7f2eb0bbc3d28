"""``concordant best-of-n``: sample n answers for each prompt, score them, and keep the best and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concordant.algorithms.best_of_n import Choice, choose
from concordant.algorithms.reward_sources import wanted_columns
from concordant.algorithms.rewards import Episode
from concordant.config.checks import checked
from concordant.config.stages import BestOfNConfig
from concordant.core.counted import counted
from concordant.core.seeding import derive, generators_put_back, reseed
from concordant.data.carried import NOTHING
from concordant.data.chat import ChatEncoder
from concordant.data.convert import as_dict
from concordant.data.records import Message, Prompt
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.names import PAIR_DATA, SAMPLES, SFT_DATA
from concordant.runs.writable import check_file
from concordant.stages import common
from concordant.stages.answered import answered_before
from concordant.stages.rewarding import Rewards, handling_of
from concordant.training.progress import current

PROMPTS_AT_ONCE = 64
_APART = "disagreement"  # of an ensemble about an answer, in samples.jsonl


@checked
def best_of_n(config: BestOfNConfig) -> Path:
    """Answer every prompt n times, and return the output folder.

    The folder gets ``sft.jsonl`` (prompts with their best answer, for rejection sampling), ``pairs.jsonl`` (best and
    worst answer) and ``samples.jsonl`` (all answers with their rewards). ``samples.jsonl`` is written during the work,
    and an interrupted command continues after the last complete row. With an environment ``sft.jsonl`` has dialogues,
    and there are no pairs, because both answers of a pair stand behind the same prompt.
    """
    environments = common.environments_of(config.environment)
    with common.opened(config, "best-of-n") as folder, generators_put_back():
        for name in (SFT_DATA, PAIR_DATA):
            check_file(folder.path / name)
        wanted = wanted_columns(config.reward) | (environments.wanted if environments else NOTHING)
        loaded = common.read(config, folder, Prompt, "prompts", wanted=wanted)
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
        sampler = common.sampler_of(policy, encoder, config.model, config.sampling, environments)
        rewards = Rewards(config.reward, config.model, handling=handling_of(config), scoring=config.scoring)
        prompts = common.accepted(loaded.test if config.split == "test" else loaded.train, encoder, "prompts")
        rewards.check(prompts, loaded.wanted_names)
        if environments:
            environments.check(prompts, loaded.wanted_names)
        choices = answered_before(folder, "best-of-n", _choice, PROMPTS_AT_ONCE, len(prompts))
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
        return _write(folder.path, choices, in_turns=environments is not None)


def _row(c: Choice) -> dict[str, Any]:
    columns = zip(c.responses, c.rewards, c.lengths, c.ended, strict=True)
    answers = [{"response": r, "reward": s, "tokens": n, "ended": e} for r, s, n, e in columns]
    if c.disagreement is not None:
        answers = [answer | {_APART: x} for answer, x in zip(answers, c.disagreement, strict=True)]
    if c.episodes is not None:
        answers = [answer | episode.as_row() for answer, episode in zip(answers, c.episodes, strict=True)]
    return {"prompt": as_dict(c.prompt), "answers": answers}


def _choice(row: dict[str, Any]) -> Choice:
    names = {"responses": "response", "rewards": "reward", "lengths": "tokens", "ended": "ended"}
    names |= {"disagreement": _APART} if _APART in row["answers"][0] else {}
    columns = {column: [answer[name] for answer in row["answers"]] for column, name in names.items()}
    episodes = [Episode.of_row(answer) for answer in row["answers"] if "turns" in answer]
    return Choice(tuple(Message(**m) for m in row["prompt"]), **columns, episodes=episodes or None)


def _write(folder: Path, choices: Sequence[Choice], in_turns: bool) -> Path:
    best, pairs = [], []
    for c in choices:
        prompt = as_dict(c.prompt)
        if c.episode is not None:
            if c.episode.stopped != "error":  # the environment failed in all answers
                best.append({"messages": prompt + as_dict(c.episode.turns), "first_response": len(prompt)})
            continue
        best.append({"prompt": prompt, "response": c.best})
        if c.best != c.worst:  # n equal answers make no pair
            pairs.append({"prompt": prompt, "chosen": c.best, "rejected": c.worst})
    write_text(folder / SFT_DATA, json_lines(best))
    if not in_turns:
        write_text(folder / PAIR_DATA, json_lines(pairs))
    apart = [x for c in choices for x in c.disagreement or ()]
    if apart:
        common.message(f"best-of-n: the ensemble's members disagree by {sum(apart) / len(apart):.3g} on average")
    files = [SFT_DATA, *([] if in_turns else [PAIR_DATA]), SAMPLES]
    common.message(f"{counted(len(choices), 'prompt')} answered; {folder}/{', '.join(files)}")
    return folder
