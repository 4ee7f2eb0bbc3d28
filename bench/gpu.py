"""On one GPU, under ten minutes, without a download: ours and TRL on Qwen2.5's shapes with random weights, in bf16.

    python -m bench.gpu [--models 0.5b 1.5b] [--runs 3] [--output bench/results/gpu]

Uses the packages of this Python. Without TRL in it (PPO: ``trl.experimental.ppo``, up to 1.12) ours runs alone:
tokens a second, share of the card's own GEMM rate, memory. Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config

from bench import material
from bench.comparisons import GPU_COMPARISONS
from bench.drive import Peer, compare, save
from bench.table import write_table
from bench.turns import ROOT

SHAPES = {  # of Qwen2.5's config.json files
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
MINUTES = 9.0  # no comparison begins later


def write_shape(folder: Path, name: str) -> None:
    """Configurations and tokenizer alone: weights are made on the card."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    config = Qwen2Config(  # type: ignore[call-arg]  # num_labels is a key of every configuration
        vocab_size=151_936, num_key_value_heads=2, max_position_embeddings=32_768, tie_word_embeddings=True,
        num_labels=1, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **SHAPES[name],
    )  # fmt: skip
    for kind in (f"qwen-{name}", f"qwen-{name}-reward"):
        config.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)


def peer_of(work: str) -> Peer | None:
    """TRL where this Python has it."""
    module = "trl.experimental.ppo" if work == "ppo" else "trl"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    return Peer(Path(sys.executable), variants=("fastest",)) if found else None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "gpu")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU: PyTorch sees none on this machine, nothing was measured", file=sys.stderr)
        return 1
    end = time.monotonic() + 60 * MINUTES
    args.output.mkdir(parents=True, exist_ok=True)
    folder = material.make()
    for name in args.models:
        write_shape(folder, name)
        for comparison in (c for c in GPU_COMPARISONS if c.model == f"qwen-{name}"):
            if time.monotonic() > end:
                record = {"skipped": f"{MINUTES:g} minutes were over"}
            else:
                comparison = replace(comparison, runs=args.runs)
                record = compare(comparison, folder, 4, args.runs, peer_of(comparison.work), "cuda")
            save(args.output / f"{comparison.name}.json", record)
            write_table(args.output, GPU_COMPARISONS)
        if time.monotonic() < end:
            command = ["--model", str(folder / f"qwen-{name}"), "--gpu", "--bf16", "--runs", "2"]
            subprocess.run(
                [sys.executable, "-m", "bench.generation", *command, "--output", str(args.output)], check=True, cwd=ROOT
            )
    print((args.output / "README.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
