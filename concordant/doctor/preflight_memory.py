"""Checks whether the longest batch, the optimizer and the files of a run fit in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concordant.config.train import TrainConfig
from concordant.core.trees import PromptTree
from concordant.doctor.finding import Finding
from concordant.engines.protocol import Learner
from concordant.training.disk import disk_free, disk_need

BYTES = 4  # of a weight and of a moment: fp32
FULL = 0.9  # share of memory or disk that may be used; the rest is for needs that are not counted here


def out_of_memory(learner: Learner, trees: Sequence[PromptTree]) -> Finding:
    """The finding that the longest batch does not fit in memory, before an hour of the run is lost."""
    limit, tokens = learner.describe().micro_batch_tokens, max(t.tokens for t in trees)
    return Finding(
        "memory",
        "error",
        f"the longest batch (trees of up to {tokens:,} tokens, {limit:,} tokens a forward pass) does not fit in memory",
        "activations grow with the tokens of a forward pass; gradients and Adam's moments with the trained weights",
        f"Set --train.micro_batch_tokens {max(tokens, limit // 2)} (the gradient stays the same), then "
        "--model.activation_checkpointing true, then --model.lora.rank 16",
        numbers={"micro_batch_tokens": limit, "longest": tokens},
        weight=0.9,
    )


def nearly_out_of_memory(learner: Learner) -> Finding | None:
    """After a trial step: a warning if its peak and Adam's two moments, which come later, nearly fill the memory."""
    facts, memory = learner.describe(), learner.memory()
    moments = 2 * BYTES * facts.trained
    peak, total = memory.peak, memory.total
    if peak + moments <= FULL * total:
        return None
    return Finding(
        "memory",
        "warning",
        f"the longest batch took {gigabytes(peak)}, the optimizer will take {gigabytes(moments)} more, and there are "
        f"{gigabytes(total)}",
        "activations grow with the tokens of a forward pass; gradients and Adam's moments with the trained weights",
        f"Set --train.micro_batch_tokens {facts.micro_batch_tokens // 2} (the gradient stays the same), then "
        "--model.lora.rank 16",
        numbers={"peak": peak, "moments": moments, "total": total},
        weight=0.9,
    )


def disk_space(path: Path, checkpoint: int, exported: int, train: TrainConfig) -> Finding | None:
    """A finding if the disk is too small. ``checkpoint``, ``exported``: bytes of one checkpoint and of the model."""
    need, free = disk_need(checkpoint, exported, train), disk_free(path)
    if need <= FULL * free:
        return None
    return Finding(
        "disk",
        "error" if need > free else "warning",
        f"checkpoints and the model need {gigabytes(need)}, and {gigabytes(free)} are free at {path}",
        f"a checkpoint holds every trained weight with Adam's moments; {train.keep_last} are kept while one is written",
        "Set --train.keep_last 1, or --output on another disk; --train.save_every 0 --train.save_minutes 0 saves none "
        "but when asked to stop",
        numbers={"need": need, "free": free},
    )


def gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
