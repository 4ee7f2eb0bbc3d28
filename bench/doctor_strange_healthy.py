"""Healthy runs without gold: own files, careful settings, drawn by number.

The runs vary as those of careful users do: SFT from scratch and continued, LoRA, 300 rows, reward models, variants of
DPO, PPO with a critic, RLOO and GRPO, a reward model or an own function as the reward.
"""

from __future__ import annotations

from pathlib import Path

from bench.doctor_strange_tools import Config, Desk, Row, changed
from bench.doctor_world import World
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig

FIRST_SEED = 21_000
SMALL = 300  # rows of a small file


def healthy(number: int, world: World, folder: Path) -> RunConfig:
    """The ``number``-th healthy run; its files are written into ``folder``."""
    desk = Desk(world, folder, FIRST_SEED + number)
    return (_sft, _reward, _dpo, _ppo)[number % 4](desk)


def _usual(desk: Desk, config: Config) -> Config:
    """Rate and schedule vary a little from user to user."""
    rate = config.train.learning_rate * desk.draw.choice((0.5, 0.7, 1.0, 1.0))
    keys = {"train.learning_rate": rate, "train.schedule": desk.draw.choice(("linear", "cosine", "constant"))}
    return changed(config, keys)


def _messages(rows: list[Row]) -> list[Row]:
    turns = [(("user", row["prompt"]), ("assistant", row["response"])) for row in rows]
    return [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]


def _sft(desk: Desk) -> SFTConfig:
    preset = desk.draw.choice(("demo", "human"))
    kind = desk.draw.choice(("scratch", "continued", "lora", "small"))
    rows = desk.answers(SMALL if kind == "small" else 0, preset)
    if desk.draw.random() < 0.5:
        rows = _messages(rows)
    if kind == "scratch":
        return _usual(desk, desk.sft(rows, {"train.max_steps": 60}, start=f"builtin:{desk.size}"))
    if kind == "lora":
        return _usual(desk, desk.sft(rows, rank=desk.draw.choice((4, 8, 16))))
    if kind == "small":
        return _usual(desk, desk.sft(rows, {"train.max_steps": 0, "train.epochs": 2.0, "train.learning_rate": 3e-4}))
    return _usual(desk, desk.sft(rows, {"train.learning_rate": 2e-4}))


def _reward(desk: Desk) -> RewardConfig:
    preset = desk.draw.choice(("demo", "human"))
    kind = desk.draw.choice(("full", "lora", "language", "small", "centred"))
    rows = desk.pairs(SMALL if kind == "small" else 0, preset)
    if kind == "small":
        keys = {"train.max_steps": 0, "train.epochs": 3.0, "train.learning_rate": 5e-4}
        return _usual(desk, desk.reward_model(rows, keys))
    keys = {
        "language": {"lm_coefficient": 0.3},
        "centred": {"centering": 0.01, "label_smoothing": 0.05},
    }.get(kind, {})
    return _usual(desk, desk.reward_model(rows, keys, rank=8 if kind == "lora" else 0))


def _dpo(desk: Desk) -> DPOConfig:
    preset = desk.draw.choice(("demo", "human"))
    kind = desk.draw.choice(("plain", "plain", "lora", "ipo", "robust", "smoothed", "small"))
    rows = desk.pairs(SMALL if kind == "small" else 0, preset)
    if kind == "small":
        keys = {"train.max_steps": 0, "train.epochs": 1.0, "train.learning_rate": 1e-4}
        return _usual(desk, desk.dpo(rows, {**keys, "train.evaluate_every": 4}))
    keys = {
        "ipo": {"loss": "ipo", "beta": 1.0},
        "robust": {"loss": "robust", "label_smoothing": 0.1},
        "smoothed": {"label_smoothing": 0.1},
    }.get(kind, {"beta": desk.draw.choice((0.1, 0.3, 0.5))})
    return _usual(desk, desk.dpo(rows, keys, rank=8 if kind == "lora" else 0))


_FUNCTION = """
def words(text):
    return {word.strip(".,!?").lower() for word in text.split()}


def reward(prompt, response, answer):
    wanted, given = words(answer), words(response)
    return len(wanted & given) / max(len(wanted | given), 1)
"""


def _ppo(desk: Desk) -> PPOConfig:
    advantage = desk.draw.choice(("gae", "gae", "rloo", "grpo"))
    own = desk.draw.random() < 0.4
    rows = desk.prompts() if own else desk.pairs(900, desk.draw.choice(("demo", "human")))
    if not own and desk.draw.random() < 0.3:
        rows = rows[:SMALL]
    keys = {
        "kl.coefficient": desk.draw.choice((0.08, 0.1, 0.15)),
        "sampling.temperature": desk.draw.choice((1.0, 1.0, 0.9, 0.8)),
        "sampling.n": desk.draw.choice((4, 4, 6)),
        "sampling.max_new_tokens": 64,
        "inner_epochs": desk.draw.choice((1, 2)),
        "minibatches": desk.draw.choice((1, 2)),
    }
    reward = [desk.function(_FUNCTION)] if own else []
    return _usual(desk, desk.ppo(rows, keys, reward=reward, advantage=advantage))
