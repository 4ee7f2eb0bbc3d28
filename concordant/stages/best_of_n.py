"""``concordant best-of-n``: sample n answers a prompt, score them, keep the best (and the worst)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from concordant.algorithms.best_of_n import Choice, choose
from concordant.config.stages import BestOfNConfig
from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.data.chat import ChatEncoder
from concordant.data.records import Prompt
from concordant.data.splits import load_records
from concordant.stages import common
from concordant.stages.rewarding import Rewards
from concordant.training.progress import current
from concordant.training.run_folder import json_lines, write_text

PROMPTS_AT_ONCE = 64


def best_of_n(config: BestOfNConfig) -> Path:
    """Writes ``sft.jsonl`` (prompt and best answer: rejection sampling), ``pairs.jsonl`` (best and worst) and
    ``samples.jsonl`` (every answer with its reward) to the output folder, which it returns."""
    if not config.output:
        raise UserError("no folder for the answers: pass --output DIR")
    loaded = load_records(config.data, Prompt, config.seed)
    policy = common.open_policy(config.model, loaded.train, config.seed)
    encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
    sampler = common.sampler_of(policy, encoder, config.model)
    reward = Rewards(config.reward, config.model).reward
    prompts = loaded.test if config.split == "test" else loaded.train
    choices: list[Choice] = []
    with current().task("best-of-n", len(prompts)) as bar:
        for number, part in enumerate(_parts(prompts)):
            rollouts = sampler(part, config.sampling, derive(config.seed, "best_of_n", number))
            choices += choose(rollouts, reward)
            mean = sum(c.best_reward for c in choices) / len(choices)
            bar.update(len(choices), {"objective/score": mean})
    return _write(Path(config.output), choices)


def _parts(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    return (prompts[at : at + PROMPTS_AT_ONCE] for at in range(0, len(prompts), PROMPTS_AT_ONCE))


def _write(folder: Path, choices: Sequence[Choice]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {"sft": [], "pairs": [], "samples": []}
    for c in choices:
        prompt = common.as_dict(c.prompt)
        rows["sft"].append({"prompt": prompt, "response": c.best})
        if c.best != c.worst:  # n equal answers prefer nothing
            rows["pairs"].append({"prompt": prompt, "chosen": c.best, "rejected": c.worst})
        answers = [{"response": r, "reward": s} for r, s in zip(c.responses, c.rewards, strict=True)]
        rows["samples"].append({"prompt": prompt, "answers": answers})
    for name, lines in rows.items():
        write_text(folder / f"{name}.jsonl", json_lines(lines))
    common.message(f"{len(choices)} prompts answered; {folder}/sft.jsonl, pairs.jsonl, samples.jsonl")
    return folder
