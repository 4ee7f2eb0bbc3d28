"""Small logs of other trainers, written by hand with the keys that their sources write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAN = float("nan")


def trl_dpo(step: int, margin: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A training row of TRL 1.16's DPOTrainer with every key that it logs."""
    row = {
        "entropy": 2.1, "epoch": step / 10, "grad_norm": 1.5, "learning_rate": 1e-4, "logits/chosen": 0.3,
        "logits/rejected": 0.2, "logps/chosen": -30.0 + margin, "logps/rejected": -31.0 - margin, "loss": 0.6931,
        "mean_token_accuracy": 0.4, "num_tokens": 100.0 * step, "rewards/accuracies": 0.5,
        "rewards/chosen": margin / 2, "rewards/margins": margin, "rewards/rejected": -margin / 2, "step": step,
    }  # fmt: skip
    return row | changes


def trl_grpo(step: int, **changes: Any) -> dict[str, Any]:
    """A row of TRL 1.16's GRPOTrainer with one reward function and a KL weight that is not 0."""
    row = {
        "clip_ratio/high_max": 0.0, "clip_ratio/high_mean": 0.0, "clip_ratio/low_mean": 0.0, "clip_ratio/low_min": 0.0,
        "clip_ratio/region_mean": 0.125, "completions/clipped_ratio": 0.25, "completions/max_length": 48.0,
        "completions/max_terminated_length": 40.0, "completions/mean_length": 20.0,
        "completions/mean_terminated_length": 15.0, "completions/min_length": 3.0,
        "completions/min_terminated_length": 3.0, "entropy": 1.5, "epoch": step / 10, "frac_reward_zero_std": 0.5,
        "grad_norm": 0.9, "kl": 0.02, "learning_rate": 1e-6, "loss": 0.001, "num_tokens": 900.0 * step, "reward": 0.4,
        "reward_std": 0.2, "rewards/my_reward/mean": 0.4, "rewards/my_reward/std": 0.2, "step": step, "step_time": 1.2,
    }  # fmt: skip
    return row | changes


def trl_reward(step: int, **changes: Any) -> dict[str, Any]:
    row = {
        "accuracy": 0.75, "epoch": step / 10, "grad_norm": 2.0, "learning_rate": 1e-4, "loss": 0.6, "margin": 0.5,
        "max_reward": 2.0, "mean_reward": 1.0, "min_reward": -1.0, "num_tokens": 100.0 * step, "step": step,
    }  # fmt: skip
    return row | changes


def trl_sft(step: int, **changes: Any) -> dict[str, Any]:
    row = {
        "entropy": 1.9, "epoch": step / 10, "grad_norm": 1.0, "learning_rate": 2e-5, "loss": 2.0,
        "mean_token_accuracy": 0.55, "num_tokens": 512.0 * step, "step": step,
    }  # fmt: skip
    return row | changes


def verl(**changes: Any) -> dict[str, Any]:
    """The metrics of a step of verl 0.7's PPO trainer with a critic, without its times."""
    row = {
        "actor/entropy": 0.5, "actor/pg_loss": -0.01, "actor/pg_clipfrac": 0.02, "actor/ppo_kl": -0.001,
        "actor/pg_clipfrac_lower": 0.0, "actor/grad_norm": 0.3, "actor/lr": 1e-6, "actor/reward_kl_penalty": 0.03,
        "actor/reward_kl_penalty_coeff": 0.001, "critic/vf_loss": 0.4, "critic/vf_clipfrac": 0.1,
        "critic/vpred_mean": 0.2, "critic/grad_norm": 5.0, "critic/lr": 1e-5, "critic/score/mean": 0.6,
        "critic/score/max": 1.0, "critic/score/min": 0.0, "critic/rewards/mean": 0.55, "critic/rewards/max": 1.0,
        "critic/rewards/min": -0.1, "critic/vf_explained_var": 0.3, "response_length/mean": 200.0,
        "response_length/max": 512.0, "response_length/min": 20.0, "response_length/clip_ratio": 0.1,
        "perf/time_per_step": 12.0, "timing_s/gen": 5.0, "training/epoch": 0,
    }  # fmt: skip
    return row | changes


def openrlhf(**changes: Any) -> dict[str, Any]:
    """What OpenRLHF 0.9 prints of a step of PPO with a critic."""
    row = {
        "policy_loss": -0.02, "actor_lr": 5e-7, "actor_grad_norm": 0.4, "kl": 0.01, "reward": 0.3, "return": 0.25,
        "response_length": 150.0, "total_length": 260.0, "ppo_kl": 0.002, "ppo_clip_ratio": 0.05, "critic_loss": 0.7,
        "values": 0.1, "critic_lr": 9e-6, "rollout/truncated_rate": 0.2, "rollout/reward_std": 0.45,
    }  # fmt: skip
    return row | changes


def write_state(folder: Path, rows: list[dict[str, Any]], **state: Any) -> Path:
    """A trainer_state.json as transformers writes it: sorted keys, NaN as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"best_metric": None, "epoch": 1.0, "global_step": rows[-1]["step"], "is_world_process_zero": True}
    whole |= {"log_history": rows, "logging_steps": 1, "max_steps": 40, "num_train_epochs": 1, "train_batch_size": 8}
    path = folder / "trainer_state.json"
    path.write_text(json.dumps(whole | state, indent=2, sort_keys=True))
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def console_line(step: int, row: dict[str, Any]) -> str:
    """verl's LocalLogger under Ray and NumPy 2."""
    parts = [f"step:{step}", *(f"{name}:np.float64({value})" for name, value in row.items())]
    return f"\x1b[36m(TaskRunner pid=17)\x1b[0m {' - '.join(parts)}\n"
