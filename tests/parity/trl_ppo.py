"""TRL's PPO and BCO numbers, from its experimental trainers (last shipped in 1.12.0), driven for one batch.

``python -m tests.parity.trl_ppo FOLDER`` writes figures.json and gradients.safetensors there. Of PPO only what is
sampled is replaced: the answers, the old policy's logits and the scores are ours, and the old values are moved away
from the critic's, so that both clippings have work. All else is ``PPOTrainer.train``, whose local variables are read
where it calls ``backward``. The learning rate is 0. BCO samples nothing; its data preparation and loss are TRL's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from trl.experimental.bco import BCOConfig, BCOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.parity import case
from tests.parity.figures import Figures
from tests.parity.peer_files import write

ROWS = len(case.PROMPTS)
GET_REWARD = ppo_trainer.get_reward


def main(folder: Path) -> None:
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in case.PPO_LENGTHS:
            figures |= one_batch(name, scratch)
        micro = one_batch("short", scratch, micro_batches=3)
        figures |= {bco: _bco(left_out, scratch) for bco, left_out in case.BCO_LEFT_OUT.items()}
    figures["ppo/policy short, micro-batches of 2"] = micro["ppo/policy short"]
    write(folder, figures, ("trl", "transformers", "torch"))


def one_batch(name: str, scratch: str, micro_batches: int = 1) -> dict[str, Figures]:
    trainer = _trainer(scratch, micro_batches)
    table = {tuple(p.prompt): row for row, p in enumerate(case.pairs())}

    def row_of(query: Tensor) -> int:
        return table[tuple(i for i in query.tolist() if i != case.PAD)]

    _replace_sampling(name, trainer, row_of)
    seen: list[dict[str, Any]] = []
    gradients: dict[str, dict[str, Tensor]] = {"policy": {}, "value": {}}
    models = {"policy": trainer.policy_model, "value": trainer.value_model}
    backward = trainer.accelerator.backward

    def record(loss: Tensor) -> None:
        """Micro-batches are added up here: on a dataset's last batch accelerate clears the gradient after each."""
        seen.append(dict(sys._getframe(1).f_locals))
        trainer.model.zero_grad()
        backward(loss)
        for part, model in models.items():
            for parameter, g in case.gradient_of(model.named_parameters()).items():
                gradients[part][parameter] = gradients[part].get(parameter, 0) + g

    trainer.accelerator.backward = record
    np.random.seed(0)  # of TRL's shuffle into micro-batches
    trainer.train()
    figures = _figures(name, seen[0], gradients, row_of)
    policy = figures[f"ppo/policy {name}"]
    policy.loss = sum(s["pg_loss"].item() for s in seen) / len(seen)
    if micro_batches > 1:
        policy.tokens = {"rows": [row_of(s["queries"][i]) for s in seen for i in s["micro_batch_inds"]]}
    return figures


def _figures(
    name: str, seen: dict[str, Any], gradients: dict[str, dict[str, Tensor]], row_of: Callable[[Tensor], int]
) -> dict[str, Figures]:
    """Rows back in the case's order, padding left out."""
    order = sorted(range(ROWS), key=lambda i: row_of(seen["queries"][i]))

    def flat(key: str, mask: str = "padding_mask") -> list[float]:
        return [x for i in order for x in seen[key][i][~seen[mask][i]].tolist()]

    policy = {"old_logprob": "logprobs", "reference_logprob": "ref_logprobs", "advantage": "advantages"}
    tokens = {ours: flat(theirs) for ours, theirs in policy.items()} | {"return": flat("returns")}
    # One position past an answer that ends early belongs to TRL's value loss.
    values = {"old_value": flat("values"), "return": flat("returns")}
    past = {"old_value": flat("values", "padding_mask_p1"), "return": flat("returns", "padding_mask_p1")}
    return {
        f"ppo/policy {name}": Figures(seen["pg_loss"].item(), {}, gradients["policy"], tokens),
        f"ppo/value {name}": Figures(seen["vf_loss"].item(), {}, gradients["value"], values),
        f"ppo/past the end {name}": Figures(tokens=past),
    }


def _bco(left_out: int, scratch: str) -> Figures:
    """BCO's first batch. Its shift is the running mean of all rewards, and so that of this batch."""
    rows = [
        {"prompt": case.text(p.prompt), "completion": case.text(p.chosen if good else p.rejected), "label": good}
        for p, labels in case.rated(left_out)
        for good in labels
    ]
    args = BCOConfig(
        output_dir=scratch, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, remove_unused_columns=False,
        per_device_train_batch_size=len(rows), gradient_checkpointing=False, beta=case.BCO.beta, max_length=64,
    )  # fmt: skip
    trainer = BCOTrainer(
        model=case.language_model(),
        ref_model=case.language_model(case.REFERENCE),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=case.tokenizer(),
    )
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))]))
    trainer.model.train()
    loss, seen = trainer.get_batch_loss_metrics(trainer.model, batch)
    loss.backward()
    metrics = {
        f"{kind}/{side}": seen[f"{kind}/{side}_sum"] / seen[f"count/{side}"]
        for kind in ("rewards", "logps")
        for side in ("chosen", "rejected")
    }
    metrics["rewards/anchor"] = seen["delta"] / case.BCO.beta  # ours is in nats
    return Figures(loss.item(), metrics, case.gradient_of(trainer.model.named_parameters()))


def _replace_sampling(name: str, trainer: PPOTrainer, row_of: Callable[[Tensor], int]) -> None:
    answers, longest = case.answers(name), max(case.PPO_LENGTHS[name])
    old_policy = case.language_model(case.OLD)

    def batch_generation(policy: Any, queries: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows = [answers[row_of(q)] for q in queries]
        padded = torch.tensor([ids + [case.PAD] * (longest - len(ids)) for ids in rows])
        everything = torch.cat([queries, padded], 1)
        logits = ppo_trainer.forward(old_policy, everything, case.PAD).logits[:, queries.shape[1] - 1 : -1]
        return everything, (logits / (case.PPO.temperature + 1e-7)).detach()

    def reward(model: Any, ids: Tensor, pad: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
        full, score, lengths = GET_REWARD(model, ids, pad, context)
        rows = [row_of(row[:context]) for row in ids]
        if model is trainer.reward_model:
            return full, torch.tensor([case.SCORES[row] for row in rows]), lengths
        moved = full.clone()
        for i, row in enumerate(rows):
            moved[i, context - 1 : -1, 0] += case.drift(row, longest)
        return moved, score, lengths

    ppo_trainer.batch_generation, ppo_trainer.get_reward = batch_generation, reward


def _trainer(scratch: str, micro_batches: int) -> PPOTrainer:
    setting, tokenizer = case.PPO, case.tokenizer()
    tokenizer.padding_side = "left"
    args = PPOConfig(
        output_dir=scratch, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
        per_device_train_batch_size=ROWS // micro_batches, gradient_accumulation_steps=micro_batches,
        total_episodes=ROWS, num_ppo_epochs=1, num_mini_batches=1, num_sample_generations=0, learning_rate=0.0,
        response_length=8, temperature=setting.temperature, gamma=setting.gamma, lam=setting.lam,
        kl_coef=setting.kl_coefficient, cliprange=setting.clip, cliprange_value=setting.value_clip, vf_coef=1.0,
        gradient_checkpointing=False,
    )  # fmt: skip
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=case.language_model(),
        ref_model=case.language_model(case.REFERENCE),
        reward_model=case.classifier(),
        value_model=case.classifier(case.CRITIC),
        train_dataset=Dataset.from_list([{"input_ids": p.prompt} for p in case.pairs()]),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bars()
    main(Path(sys.argv[1]))
