"""How a training step's cost grows: with the tree's tokens and what each may see, not with branches × prompt.

Each point is one SFT step (forward, backward) on random tokens, the median of some after one that warms up, beside the
operations it needs (``bench.ours.step_flops``) and beside the same step laid flat, every branch with its own prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench import material
from bench.drive import Others
from bench.ours import gemm_rate, step_flops
from concordant.algorithms.sft import SFTObjective
from concordant.config.model import ModelConfig
from concordant.config.train import TrainConfig
from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.roles import open_policy

SHAPES = [(prompt, 128, 2) for prompt in (64, 256, 1024, 2048)]
SHAPES += [(512, response, 2) for response in (32, 128, 512)]
SHAPES += [(512, 128, n) for n in (2, 4, 8)] + [(2048, 512, n) for n in (2, 4, 8)]
PACKED = (1, 2, 4, 8, 16)  # trees of 192 tokens in one micro-batch
LIMIT = 1 << 15  # tokens of a micro-batch: all of a point in one


@dataclass(frozen=True)
class Point:
    prompt: int
    response: int
    branches: int
    trees: int
    seconds: float
    flat_seconds: float
    tokens: int  # of the trees
    flat_tokens: int
    flops: float


class Bench:
    def __init__(self, runs: int) -> None:
        folder = material.make() / "llama"
        policy = open_policy(ModelConfig(name=str(folder)))
        self.model = policy.model
        self.network, self.runs = PolicyNetwork(policy), runs
        self.learner = LocalLearner(self.network, TrainConfig(micro_batch_tokens=LIMIT))
        self.stream = torch_stream(0, "bench/growth")

    def ids(self, count: int) -> torch.Tensor:
        return torch.randint(5, material.VOCABULARY, (count,), generator=self.stream)

    def point(self, prompt: int, response: int, branches: int, trees: int = 1) -> Point:
        made = [
            PromptTree(self.ids(prompt), tuple(Branch.response(self.ids(response)) for _ in range(branches)))
            for _ in range(trees)
        ]
        tree, flat = (self.seconds(made, layout) for layout in (Layout.TREE, Layout.FLAT))
        tokens, flat_tokens = sum(t.tokens for t in made), sum(t.flat_tokens for t in made)
        return Point(prompt, response, branches, trees, tree, flat, tokens, flat_tokens, step_flops(self.model, made))

    def seconds(self, trees: Sequence[PromptTree], layout: Layout) -> float:
        self.network.layout = layout
        times = []
        for _ in range(self.runs + 1):
            start = time.perf_counter()
            self.learner.forward_backward(trees, SFTObjective()).result()
            times.append(time.perf_counter() - start)
            self.learner.discard()
        return statistics.median(times[1:])


def table(points: Sequence[Point], gemm: float) -> list[str]:
    lines = [
        "| prompt | response | branches | trees | tree tokens | flat tokens | s | tokens/s | of GEMM rate | flat, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for p in points:
        lines.append(
            f"| {p.prompt:,} | {p.response} | {p.branches} | {p.trees} | {p.tokens:,} | {p.flat_tokens:,} "
            f"| {p.seconds:.2f} | {p.tokens / p.seconds:,.0f} | {100 * p.flops / p.seconds / gemm:.0f} % "
            f"| {p.flat_seconds:.2f} |"
        )
    return lines


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    others = Others()
    bench = Bench(1 if args.quick else args.runs)
    shapes = [(32, 16, 2)] if args.quick else list(dict.fromkeys(SHAPES))
    alone = [bench.point(*shape) for shape in shapes]
    together = [bench.point(96, 48, 2, trees) for trees in (PACKED[:2] if args.quick else PACKED)]
    gemm = gemm_rate()
    record = {"threads": torch.get_num_threads(), "gemm_flops": gemm, "points": [asdict(p) for p in alone + together]}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "growth.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = [
        f"Llama 13.8 M, fp32, {torch.get_num_threads()} threads, forward and backward. One tree:",
        "",
        *table(alone, gemm),
        "",
        "Several trees in one micro-batch: a dense mask over them all would make the last line the slowest a token.",
        "",
        *table(together, gemm),
    ]
    busy = others.note()
    text += ["", f"This was {busy}."] if busy else []
    (args.output / "growth.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
