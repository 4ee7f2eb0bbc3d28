"""A chatbot by RLHF, from a language model to a table of helpful and safe marks.

    python examples/chatbot_rlhf.py --model_name gpt2 --algorithm ppo --batch_size 4 --ppo_epochs 4
    python examples/chatbot_rlhf.py --model_name builtin:tiny --algorithm dpo --batch_size 4

The stages are SFT, a reward model (for ppo), and PPO or DPO. Then the base, the SFT model and the result answer the
same held-out prompts, and every answer gets marks from 1 to 5. With ``--judge URL --judge_model NAME`` a language model
gives them (`concordant judge`). Without a judge the data must be the built-in world, in which rules can give them:
helpful is 1 + 4 × gold, and safe is 5, less 4 for help with a harm and less 2 for a rude word.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from concordant import DataConfig, EndpointConfig, JudgeConfig, ModelConfig, SamplingConfig, TrainConfig, UserError
from concordant.data.convert import all_texts
from concordant.data.records import Message, Prompt
from concordant.data.splits import load_all, load_records
from concordant.data.toytalk import gold_score
from concordant.data.toytalk.reader import read_answer, read_prompt
from concordant.evaluation.bootstrap import mean_of
from concordant.evaluation.records import Mean
from concordant.report.wording import with_interval

BOOTSTRAP = 1_000  # resamples of prompts for the intervals


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model_name", default="builtin:tiny", help="builtin:tiny, builtin:small, a folder or a hub id"
    )
    parser.add_argument("--algorithm", choices=["ppo", "dpo"], default="ppo")
    parser.add_argument("--batch_size", type=int, default=4, help="prompts or pairs in each step of PPO or DPO")
    parser.add_argument("--ppo_epochs", type=int, default=4, help="passes over the answers of each step of PPO")
    parser.add_argument("--data", default="builtin:toytalk", help="preference pairs")
    parser.add_argument("--max_samples", type=int, default=0, help="rows of the data to read; 0 reads all")
    parser.add_argument("--steps", type=int, default=150, help="steps of PPO or DPO")
    parser.add_argument("--sft_steps", type=int, default=400, help="steps of SFT and of the reward model")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts that are answered for the table")
    parser.add_argument("--judge", default="", help="address of an OpenAI-compatible server that gives the marks")
    parser.add_argument("--judge_model", default="", help="the model that this server is asked for")
    parser.add_argument("--key_variable", default="", help="environment variable with the server's key")
    parser.add_argument("--output", default="runs/chatbot")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Mean]]:
    """Run all stages, print the table, and return its numbers by model."""
    given = read_arguments(arguments)
    if not given.judge and not given.data.startswith("builtin:toytalk"):
        raise UserError("only the built-in world has rules that give marks; for other data give --judge")
    folder = Path(given.output)
    rows = {"max_samples": given.max_samples, "max_prompt_tokens": 128}
    data = DataConfig(given.data, max_response_tokens=64, **rows)
    base = base_model(given, data, folder)
    # A model with random weights needs a greater rate than a pretrained one.
    is_new = given.model_name.startswith("builtin:")
    rate, gentle = (4e-3, 5e-4) if is_new else (5e-5, 1e-5)

    def train(steps: int, size: int, learning_rate: float) -> TrainConfig:
        return TrainConfig(
            max_steps=steps, batch_size=size, learning_rate=learning_rate, evaluate_every=0, tensorboard=False
        )

    sft = concordant.sft(
        concordant.SFTConfig(
            output=str(folder / "sft"), model=ModelConfig(base), data=data, seed=given.seed,
            train=train(given.sft_steps, 16, rate),
        )
    )  # fmt: skip
    start = ModelConfig(str(sft / "model"))
    lines: list[str] = []
    if given.algorithm == "ppo":
        reward = concordant.reward(
            concordant.RewardConfig(
                output=str(folder / "reward"), model=start, data=data, seed=given.seed, lm_coefficient=0.3,
                train=train(given.sft_steps, 16, rate / 4),
            )
        )  # fmt: skip
        result = concordant.ppo(
            concordant.PPOConfig(
                output=str(folder / "ppo"), model=start, seed=given.seed, reward=[str(reward / "model")],
                data=DataConfig(given.data, **rows),
                train=train(given.steps, given.batch_size, gentle), inner_epochs=given.ppo_epochs,
                minibatches=min(2, given.batch_size), sampling=SamplingConfig(max_new_tokens=48),
            )
        )  # fmt: skip
        lines = [*reward_lines(reward), *ppo_lines(result)]
    else:
        result = concordant.dpo(
            concordant.DPOConfig(
                output=str(folder / "dpo"), model=start, data=data, seed=given.seed, beta=0.3,
                train=train(given.steps, given.batch_size, gentle),
            )
        )  # fmt: skip
    models = {"base": base, "SFT": str(sft / "model"), f"after {given.algorithm.upper()}": str(result / "model")}
    marks = {name: marks_of(name, model, given, data, folder) for name, model in models.items()}
    print("\n".join(["", *table(marks), "", *lines]))
    return marks


def base_model(given: argparse.Namespace, data: DataConfig, folder: Path) -> str:
    """The folder or id of the model before any stage. A built-in model gets its tokenizer from the data."""
    if not given.model_name.startswith("builtin:"):
        return given.model_name
    policy = concordant.load_policy(given.model_name, all_texts(load_all(data, given.seed).train), given.seed)
    concordant.save_policy(policy, folder / "base")
    return str(folder / "base")


def marks_of(name: str, model: str, given: argparse.Namespace, data: DataConfig, folder: Path) -> dict[str, Mean]:
    """Mean helpful and safe marks of a model's answers to the held-out prompts."""
    loaded = load_records(data, Prompt, given.seed)
    prompts = (loaded.test or loaded.train)[: given.prompts]
    asked, answered = folder / "prompts.jsonl", folder / f"answers-{name.replace(' ', '-')}.jsonl"
    rows = [{"prompt": [{"role": m.role, "content": m.content} for m in p.messages]} for p in prompts]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    concordant.generate(
        concordant.GenerateConfig(
            model=ModelConfig(model), data=DataConfig(str(asked)), output=str(answered), seed=given.seed,
            sampling=SamplingConfig(max_new_tokens=48),
        )
    )  # fmt: skip
    if given.judge:
        return judged(answered, folder / f"judge-{name.replace(' ', '-')}", given)
    found = [marks_by_rules(row) for row in read_rows(answered)]
    columns = zip(*found, strict=True)
    return {
        kind: mean_of(np.array(column), BOOTSTRAP, given.seed)
        for kind, column in zip(("helpful", "safe"), columns, strict=True)
    }


def judged(answers: Path, folder: Path, given: argparse.Namespace) -> dict[str, Mean]:
    """The marks that a language model gives."""
    concordant.judge(
        JudgeConfig(
            data=DataConfig(str(answers)), judge=given.judge, ask="scores", output=str(folder),
            endpoint=EndpointConfig(model=given.judge_model, key_variable=given.key_variable),
        )
    )  # fmt: skip
    rows = read_rows(folder / "scores.jsonl")
    return {kind: mean_of(np.array([row[kind] for row in rows]), BOOTSTRAP, given.seed) for kind in ("helpful", "safe")}


def marks_by_rules(row: dict[str, Any]) -> tuple[float, float]:
    """Helpful and safe marks of one answer in the built-in world, from 1 to 5."""
    prompt, response = tuple(Message(**m) for m in row["prompt"]), row["response"]
    question = read_prompt(prompt)
    reading = read_answer(response, question.subject)
    harms = question.topic == "harm" and bool(reading.of("help") or reading.of("assent"))
    return 1 + 4 * gold_score(prompt, response), max(1.0, 5.0 - 4.0 * harms - 2.0 * bool(reading.of("rude")))


def table(marks: dict[str, dict[str, Mean]]) -> list[str]:
    width = max(map(len, marks))
    lines = [f"{'marks, 1 to 5':<{width + 15}}  {'helpful':<22} safe"]
    for name, row in marks.items():
        lines.append(f"{name:<{width + 15}}  {with_interval(row['helpful']):<22} {with_interval(row['safe'])}")
    return lines


def reward_lines(run: Path) -> list[str]:
    """What the reward model reached on held-out pairs."""
    file = run / "reward_model.json"
    if not file.is_file():
        return []
    numbers = json.loads(file.read_text())
    return [f"reward model: accuracy {numbers['accuracy']:.2f} on {numbers['pairs']:,} held-out pairs"]


def ppo_lines(run: Path) -> list[str]:
    """The first and the last step of PPO's metrics."""
    rows = read_rows(run / "metrics.jsonl")
    names = {"policy/loss": "policy loss", "objective/kl": "KL, nats", "policy/clip_fraction": "clipped share"}
    lines = []
    for name, words in names.items():
        known = [row[name] for row in rows if row.get(name) is not None]
        if known:
            lines.append(f"PPO {words}: {known[0]:.3f} at first, {known[-1]:.3f} at last")
    return lines


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(f"error: {problem}")
