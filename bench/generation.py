"""Sampling: ours against ``transformers.generate``, same weights, prompts, limit, distribution and threads.

    python -m bench.generation [--runs 5] [--prompts 64] [--new-tokens 128] [--threads N] [--bf16] [--model NAME]

Both sides alternate, after a warm-up each; a line a side and workload gives the median of the ratios of
neighbouring runs with their least and greatest. Models: "small" (13.8 M), "tiny" (1.4 M), or a folder with a
config.json, which gets random weights. Results go to bench/results/PROCESSOR/generation[-…].json and .md.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from bench.drive import Others, processor
from bench.sides import memory_mib, now
from concordant.config.sampling import SamplingConfig
from concordant.core.seeding import torch_stream
from concordant.engines.local.generator import LocalGenerator
from concordant.kernels.put_on import put_on
from concordant.models.load import make_deterministic

SMALL = LlamaConfig(
    vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
    num_key_value_heads=6, tie_word_embeddings=True,
)  # fmt: skip
TINY = LlamaConfig(
    vocab_size=600, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, tie_word_embeddings=True,
)  # fmt: skip
# Words and marks in the prompts of HH-RLHF's harmless-base, at these shares of its rows
SHARES = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90)
LENGTHS = (9, 13, 16, 29, 88, 157, 254)
MEAN_LENGTH = 80  # tokens after which a response ends, in the workload where some end early

Side = Callable[[], int]  # generates everything once; returns the tokens it sampled


def prompts_like_hh(count: int, vocabulary: int) -> list[Tensor]:
    stream = torch_stream(0, "bench/prompts")
    shares = torch.rand(count, generator=stream) * SHARES[-1]
    prompts = []
    for share in shares.tolist():
        above = next(i for i, s in enumerate(SHARES) if s >= share) or 1
        part = (share - SHARES[above - 1]) / (SHARES[above] - SHARES[above - 1])
        length = round(LENGTHS[above - 1] + part * (LENGTHS[above] - LENGTHS[above - 1]))
        prompts.append(torch.randint(vocabulary // 8, vocabulary, (length,), generator=stream))
    return prompts


class Workload:
    """Random weights sample almost evenly, so one id in ``MEAN_LENGTH`` as an end token gives that mean length."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = "cuda" if args.gpu else "cpu"
        config = _config(args.model)
        with torch.random.fork_rng(), torch.device(self.device):
            torch.manual_seed(0)
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.prompts = prompts_like_hh(args.prompts, config.vocab_size)
        self.new_tokens = args.new_tokens
        self.precision = torch.bfloat16 if args.bf16 else None
        self.slots = args.slots
        self.ending = range(3, 3 + config.vocab_size // MEAN_LENGTH)

    def ours(self, ends: range) -> Side:
        model = copy.deepcopy(self.model)
        make_deterministic(model)
        put_on(model)  # as every command does that loads one
        generator = LocalGenerator(model, ends, precision=self.precision)
        sampling = SamplingConfig(max_new_tokens=self.new_tokens, slots=self.slots)
        seeds = iter(range(10**6))
        return lambda: sum(len(c.ids_T) for (c,) in generator.generate(self.prompts, sampling, next(seeds)).result())

    def peer(self, ends: range, **settings: object) -> Side:
        longest = max(map(len, self.prompts))
        ids = torch.zeros((len(self.prompts), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(self.prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        stop = {"eos_token_id": list(ends), "pad_token_id": 0} if ends else {"eos_token_id": None, "pad_token_id": 0}

        def run() -> int:
            with torch.no_grad(), torch.autocast(self.device, self.precision, enabled=self.precision is not None):
                out = self.model.generate(
                    ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    do_sample=True,
                    max_new_tokens=self.new_tokens,
                    **stop,
                    **settings,
                ).cpu()
            ended = torch.isin(out[:, longest:], torch.tensor(list(ends), dtype=torch.int64))
            after_end = ended.cumsum(1) - ended.long() > 0
            return int((~after_end).sum())

        return run

    def sides(self, ends: range) -> dict[str, Side]:
        """Its own default cuts to the 50 likeliest tokens; without, it samples the distribution ours does."""
        return {
            "ours": self.ours(ends),
            "transformers, defaults": self.peer(ends),
            "transformers, whole distribution": self.peer(ends, top_k=0),
        }


def timed(side: Side) -> float:
    """Tokens a second."""
    start = now()
    tokens = side()
    return tokens / (now() - start)


def compare(sides: dict[str, Side], runs: int) -> dict[str, list[float]]:
    for side in sides.values():
        side()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            rates[name].append(timed(side))
    return rates


def peak_memory(name: str, arguments: list[str]) -> float:
    """MiB a process needs that does nothing but this side, once."""
    command = [sys.executable, "-m", "bench.generation", *arguments, "--only", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def table(results: dict[str, dict[str, list[float]]], memory: dict[str, float]) -> str:
    lines = ["| work | side | tokens/s | ours is faster by (least–greatest) | peak MiB |", "|---|---|---|---|---|"]
    for work, rates in results.items():
        for side, values in rates.items():
            ratios = [a / b for a, b in zip(rates["ours"], values, strict=True)]
            gain = f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"
            gain = "" if side == "ours" else gain
            lines.append(f"| {work} | {side} | {statistics.median(values):,.0f} | {gain} | {memory[side]:,.0f} |")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0 is PyTorch's choice")
    parser.add_argument("--bf16", action="store_true", help="autocast on both sides")
    parser.add_argument("--model", default="small", help="small, tiny or a folder")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one small run, to see that it runs")
    parser.add_argument("--only", default="", help="run this side once and print the process's peak memory, MiB")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / processor())
    args = parser.parse_args(arguments)
    if args.quick:
        args.runs, args.prompts, args.new_tokens = 1, 4, 8
    return args


def _config(model: str) -> PretrainedConfig:
    return {"small": SMALL, "tiny": TINY}.get(model) or AutoConfig.from_pretrained(model)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    others = Others()
    workload = Workload(args)
    works = {"every response to the limit": range(0), f"ends after {MEAN_LENGTH} on average": workload.ending}
    if args.only:
        workload.sides(range(0))[args.only]()
        print(memory_mib())
        return
    results = {work: compare(workload.sides(ends), args.runs) for work, ends in works.items()}
    memory = {side: peak_memory(side, arguments) for side in workload.sides(range(0))}
    busy = others.note()
    text = table(results, memory) + (f"\nThis was {busy}.\n" if busy else "")
    record = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "busy": busy,
        "settings": {k: v for k, v in vars(args).items() if k not in ("only", "output")},
        "tokens_per_second": results,
        "peak_mib": memory,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    name = "generation" + ("" if args.model == "small" else f"-{Path(args.model).name}") + ("-bf16" * args.bf16)
    (args.output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    head = f"Llama 13.8 M, {args.prompts} prompts of mixed length, at most {args.new_tokens} new tokens; aim 3×.\n\n"
    (args.output / f"{name}.md").write_text(head + text if args.model == "small" else text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
