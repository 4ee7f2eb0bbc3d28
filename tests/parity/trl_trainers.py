"""TRL's numbers: its own trainers, their data preparation, collators and ``compute_loss``, on our case.

``python -m tests.parity.trl_trainers FOLDER`` writes figures.json and gradients.safetensors there. Texts go in, so
TRL's tokenising, EOS and masks are compared too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from tests.parity import case, trl_gkd
from tests.parity.figures import Figures
from tests.parity.peer_files import write
from tests.parity.trl_policies import policies, rloo

COMMON: dict[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 12,
    "max_length": None,
    "disable_tqdm": True,
}
AOT = "aot"  # TRL's name of the loss that is cDPO when a batch is one pair


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        figures = sft(scratch) | dpo(scratch) | without_reference(scratch) | kto(scratch) | reward(scratch)
        figures |= policies(scratch, COMMON) | rloo(scratch, COMMON) | trl_gkd.distill()
    write(folder, figures, ("trl", "transformers", "torch"))


# -- supervised fine-tuning -------------------------------------------------------------------------


def sft(scratch: str) -> dict[str, Figures]:
    pairs = case.pairs()
    chosen = [{"prompt": case.text(p.prompt), "completion": case.text(p.chosen)} for p in pairs]
    both = [{"prompt": case.text(p.prompt), "completion": case.text(a)} for p in pairs for a in (p.chosen, p.rejected)]
    turns = [{"input_ids": ids, "assistant_masks": spoken} for ids, spoken in case.turns()]
    made: dict[str, list[dict[str, Any]]] = {"sft/chosen": chosen, "sft/both answers": both, "sft/turns": turns}
    figures = {}
    for name, rows in made.items():
        trainer = _sft_trainer(rows, scratch)
        figures[name] = _whole_batch(trainer, {"mean_token_accuracy": "token_accuracy"})
        if name == "sft/chosen":
            _check_ids([r["input_ids"] for r in trainer.train_dataset], [p.prompt + p.chosen for p in pairs])
    figures["sft/accumulated"] = _accumulated(_sft_trainer(chosen, scratch), [2, 2, 2])
    return figures


def _sft_trainer(rows: list[dict[str, Any]], scratch: str) -> SFTTrainer:
    args = SFTConfig(output_dir=scratch, completion_only_loss=True, **COMMON)
    return _trainer(SFTTrainer, args, rows, case.language_model())


# -- preferences ------------------------------------------------------------------------------------


def dpo(scratch: str) -> dict[str, Figures]:
    names = {f"{kind}/{side}": f"{kind}/{side}" for kind in ("rewards", "logps") for side in ("chosen", "rejected")}
    names |= {"rewards/margins": "rewards/margins", "rewards/accuracies": "rewards/accuracies"}
    figures = {}
    for name in (n for n in case.DPO if n.startswith("dpo/") and n != "dpo/smoothed"):
        trainer = _dpo_trainer(case.DPO[name], scratch)
        figures[name] = _whole_batch(trainer, names)
        rows = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
        _check_ids(rows, [(p.prompt, p.chosen, p.rejected) for p in case.pairs()])
    smoothed = case.DPO["dpo/smoothed"]
    figures["dpo/smoothed, TRL's sigmoid"] = _whole_batch(_dpo_trainer(smoothed, scratch), names)
    # On one pair alone AOT's sorting does nothing, and what is left is -(1-ε) log σ(z) - ε log σ(-z).
    figures["dpo/smoothed"] = _accumulated(_dpo_trainer(smoothed, scratch, AOT), [1] * 6)
    figures["dpo/sigmoid uneven"] = _accumulated(_dpo_trainer(case.DPO["dpo/sigmoid"], scratch), [4, 2])
    return figures


def _dpo_trainer(setting: case.DPOSetting, scratch: str, loss: str = "") -> DPOTrainer:
    rows = [
        {"prompt": case.text(p.prompt), "chosen": case.text(p.chosen), "rejected": case.text(p.rejected)}
        for p in case.pairs()
    ]
    mixed = [(loss or setting.loss, 1.0), *setting.plus] + ([("sft", setting.lm)] if setting.lm else [])
    args = DPOConfig(
        output_dir=scratch,
        loss_type=[name for name, _ in mixed],
        loss_weights=[weight for _, weight in mixed],
        f_divergence_type=setting.f_divergence,
        beta=setting.beta,
        label_smoothing=setting.label_smoothing,
        **COMMON,
    )
    return _trainer(DPOTrainer, args, rows, case.language_model(), ref_model=case.language_model(case.REFERENCE).eval())


def without_reference(scratch: str) -> dict[str, Figures]:
    """CPO, SimPO, SLiC and ORPO. Their trainers log ``rewards/*`` as ours, and some ``logps/*`` as means."""
    rows = [
        {"prompt": case.text(p.prompt), "chosen": case.text(p.chosen), "rejected": case.text(p.rejected)}
        for p in case.pairs()
    ]
    common = {name: value for name, value in COMMON.items() if name != "gradient_checkpointing"}
    figures = {}
    for name, setting in case.DPO.items():
        if name.startswith("cpo/"):
            args: Any = CPOConfig(
                output_dir=scratch,
                loss_type=setting.trl,
                beta=setting.beta,
                label_smoothing=setting.label_smoothing,
                simpo_gamma=setting.margin,
                cpo_alpha=float(setting.loss == "cpo"),
                **common,
            )
            figures[name] = _metrics_returned(_trainer(CPOTrainer, args, rows, case.language_model()))
    args = ORPOConfig(output_dir=scratch, beta=case.ORPO.beta, **common)
    figures["orpo/orpo"] = _metrics_returned(_trainer(ORPOTrainer, args, rows, case.language_model()))
    return figures


def _metrics_returned(trainer: Any) -> Figures:
    """As ``_whole_batch``, of trainers that return their metrics."""
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(6)]))
    trainer.model.train()
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    loss.backward()
    seen = {name: float(value) for name, value in metrics.items() if name.startswith("rewards/")}
    return Figures(loss.item(), seen, _gradient(trainer))


def kto(scratch: str) -> dict[str, Figures]:
    """KTO on paired data: every answer by itself, with that of the row before as the answer to another prompt."""
    rows = [
        {"prompt": case.text(p.prompt), "completion": case.text(answer), "label": good}
        for p in case.pairs()
        for answer, good in ((p.chosen, True), (p.rejected, False))
    ]
    names = {f"{kind}/{side}": f"{kind}/{side}" for kind in ("rewards", "logps") for side in ("chosen", "rejected")}
    names |= {"rewards/margins": "rewards/margins", "kl": "rewards/anchor"}
    good, bad = case.KTO_WEIGHTS
    figures = {}
    for name, setting in case.KTO.items():
        args = KTOConfig(
            output_dir=scratch,
            loss_type=setting.loss,
            beta=setting.beta,
            desirable_weight=good,
            undesirable_weight=bad,
            train_sampling_strategy="sequential",
            **COMMON,
        )
        variants = (case.REFERENCE, case.POLICY) if setting.swapped else (case.POLICY, case.REFERENCE)
        policy, reference = map(case.language_model, variants)
        trainer = _trainer(KTOTrainer, args, rows, policy, ref_model=reference.eval())
        figures[name] = _whole_batch(trainer, names)
    return figures


def reward(scratch: str) -> dict[str, Figures]:
    figures = {}
    for name, setting in case.REWARDS.items():
        rows = [
            {"prompt": case.text(p.prompt), "chosen": case.text(p.chosen), "rejected": case.text(p.rejected)}
            | ({"margin": margin} if setting.margin else {})
            for p, margin in zip(case.pairs(), case.MARGINS, strict=True)
        ]
        args = RewardConfig(output_dir=scratch, center_rewards_coefficient=setting.centering or None, **COMMON)
        trainer = _trainer(RewardTrainer, args, rows, case.classifier())
        figures[name] = _whole_batch(trainer, {"accuracy": "accuracy", "margin": "margin"})
        ids = [(r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
        _check_ids(ids, [(p.prompt + p.chosen, p.prompt + p.rejected) for p in case.pairs()])
    return figures


# -- shared -----------------------------------------------------------------------------------------


def _trainer(
    kind: Callable[..., Any], args: Any, rows: list[dict[str, Any]], model: PreTrainedModel, **more: Any
) -> Any:
    tokenizer = case.tokenizer()
    return kind(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **more)


def _whole_batch(trainer: Any, metrics: dict[str, str]) -> Figures:
    """Loss, metrics (TRL's name to ours) and gradient of all rows in one batch."""
    batch = _batch(trainer, range(len(trainer.train_dataset)))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    seen = {ours: float(trainer._metrics["train"][theirs][-1]) for theirs, ours in metrics.items()}
    return Figures(loss.item(), seen, _gradient(trainer))


def _accumulated(trainer: Any, sizes: Sequence[int]) -> Figures:
    """What TRL's training step adds up over micro-batches of the given sizes: loss as its gradient was divided."""
    micro, start = [], 0
    for size in sizes:
        micro.append(_batch(trainer, range(start, start + size)))
        start += size
    trainer.current_gradient_accumulation_steps = len(sizes)
    _, items = Trainer.get_batch_samples(trainer, iter(micro), len(micro), trainer.args.device)
    loss = sum(float(trainer.training_step(trainer.model, batch, items)) for batch in micro)
    return Figures(loss, {}, _gradient(trainer))


def _batch(trainer: Any, rows: range) -> dict[str, Tensor]:
    if trainer._signature_columns is None:
        trainer._set_signature_columns_if_needed()
    columns = [c for c in trainer._signature_columns if c in trainer.train_dataset.column_names]
    dataset = trainer.train_dataset.select_columns(columns)
    return trainer._prepare_inputs(trainer.data_collator([dataset[i] for i in rows]))


def _gradient(trainer: Any) -> dict[str, Tensor]:
    return case.gradient_of(trainer.accelerator.unwrap_model(trainer.model).named_parameters())


def _check_ids(theirs: Sequence[Any], ours: Sequence[Any]) -> None:
    if list(theirs) != list(ours):
        raise SystemExit(f"TRL's token ids differ from ours:\n{theirs}\n{ours}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bars()
    main(Path(sys.argv[1]))
