"""Healthy runs of the second strange set: unusual, but nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.doctor_strange2_tools import Desk
from bench.doctor_world import World
from concordant.config.stages import RunConfig


def _careful(desk: Desk) -> RunConfig:
    """A short, careful second SFT on few rows."""
    return desk.sft(desk.answers(150), desk.policy, train__max_steps=24, train__learning_rate=3e-4)


def _style(desk: Desk) -> RunConfig:
    """Answers in a house style: a mark at the start and a signature that differs."""
    names = ("Ann", "Bob", "Cy")
    rows = [row | {"response": f"* {row['response']} ({desk.random.choice(names)})"} for row in desk.answers()]
    return desk.sft(rows)


def _short(desk: Desk) -> RunConfig:
    """Answers of one sentence each, as a support desk wants them."""
    return desk.sft([row | {"response": row["response"].split(". ")[0].rstrip(".") + "."} for row in desk.answers()])


def _thin_adapter(desk: Desk) -> RunConfig:
    return desk.sft(
        desk.answers(), desk.policy, model__lora__rank=2, model__lora__target_modules=["q_proj", "v_proj"],
        train__learning_rate=5e-3,
    )  # fmt: skip


def _margins(desk: Desk) -> RunConfig:
    """Margins in units of the reward."""
    rows = [row | {"margin": desk.random.choice((0.2, 0.5, 1.0))} for row in desk.pairs()]
    return desk.reward(rows)


def _noisy_raters(desk: Desk) -> RunConfig:
    return desk.reward(desk.pairs(preset="human"), label_smoothing=0.1, lm_coefficient=0.3)


def _ipo(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(), loss="ipo", beta=0.3)


def _robust(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(preset="human"), loss="robust", label_smoothing=0.2, beta=0.3)


def _named_reference(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(), reference=str(desk.policy), beta=0.3, model__lora__rank=8, train__learning_rate=6e-4)


def _binary(desk: Desk) -> RunConfig:
    """GRPO with a reward of 0 or 1 and groups that are large enough."""
    judge = desk.judge("""
def judge(prompt, response, ended=True):
    return float(ended and any(word in response for word in ("friend", "kind", "hope", "nice", "Good")))
""")
    return desk.grpo(None, judge, sampling__n=8, train__batch_size=4, train__max_steps=14, train__learning_rate=1e-4)


def _rloo(desk: Desk) -> RunConfig:
    return desk.ppo(advantage="rloo", sampling__temperature=0.8, kl__coefficient=0.15)


def _adaptive(desk: Desk) -> RunConfig:
    """PPO whose KL coefficient adapts slowly, with a mild price on length."""
    judge = desk.judge("""
def judge(prompt, response):
    return -0.1 * max(len(response.split()) - 14, 0)
""")
    parts = [f"{desk.world.reward(desk.size)}=1", f"{judge}=1"]
    return desk.ppo(
        None, parts, kl__controller="adaptive", kl__target=6.0, kl__horizon=2000, train__learning_rate=2e-4,
        sampling__max_new_tokens=64,
    )  # fmt: skip


KINDS: tuple[Callable[[Desk], RunConfig], ...] = (
    _careful, _style, _short, _thin_adapter, _margins, _noisy_raters, _ipo, _robust, _named_reference, _binary, _rloo,
    _adaptive,
)  # fmt: skip


def healthy(number: int, world: World, folder: Path) -> RunConfig:
    """The config of healthy run ``number``; the kinds take turns, each time with another seed."""
    return KINDS[number % len(KINDS)](Desk(world, folder, 50_000 + number))
