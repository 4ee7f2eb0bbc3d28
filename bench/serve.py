"""Serving: 64 clients that stream at once, against the same prompts through the sampler of ``concordant generate``.

    python -m bench.serve [--clients 64] [--new-tokens 128] [--runs 3] [--model builtin:small] [--slots 64]

The server is a process of its own, and the clients are OpenAI's. Both sides use the same model, prompts, seeds and
number of threads, and alternate after a warm-up. Tokens a second are given by the clock and by processor time: on a
machine where other programs work, only the second one compares the two sides. The processor time of a server is that of
its process, without the clients. The bench also counts the answers that have the same tokens on both sides.
Results go to bench/results/PROCESSOR/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.drive import Others, processor
from concordant import load_policy, save_policy
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.data.toytalk import training_pairs
from concordant.engines import roles

AIM = 0.8  # of the tokens a second of `concordant generate`
SEED = 5


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    others = Others()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        questions = make_model(args.model, folder, args.clients)
        ours = Generate(folder, questions, args)
        with Server(folder, args) as server:
            asyncio.run(ask_all(server.port, questions, args))
            ours.run()
            rows = []
            for _ in range(args.runs):
                rows.append({"generate": ours.run(), "serve": server.measured(questions, args)})
    same = sum(a == b for a, b in zip(rows[-1]["generate"].pop("texts"), rows[-1]["serve"].pop("texts"), strict=True))
    for row in rows[:-1]:
        for side in row.values():
            side.pop("texts")
    record = {
        "settings": {k: v for k, v in vars(args).items() if k != "output"},
        "busy": others.note(),
        "same_answers": same,
        "first_token_p50": statistics.median(row["serve"]["first_token_p50"] for row in rows),
        "share_by_clock": statistics.median(r["serve"]["by_clock"] / r["generate"]["by_clock"] for r in rows),
        "share_by_processor": statistics.median(
            r["serve"]["by_processor"] / r["generate"]["by_processor"] for r in rows
        ),
        "aim": AIM,
        "runs": rows,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "serve.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--model", default="builtin:small")
    parser.add_argument("--precision", default="auto", help="as model.precision")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / processor())
    return parser.parse_args(arguments)


def make_model(name: str, folder: Path, count: int) -> list[str]:
    """Write a model with random weights, whose answers reach the limit of tokens. Returns the questions."""
    pairs = training_pairs()
    questions = list(dict.fromkeys(pair.prompt[-1].content for pair in pairs))[:count]
    assert len(questions) == count, f"toytalk has {len(questions)} questions"
    save_policy(load_policy(ModelConfig(name=name, device="cpu"), texts=[p.chosen for p in pairs[:2000]]), folder)
    return questions


class Generate:
    """The sampler as ``concordant generate`` calls it, without the loading of the model."""

    def __init__(self, folder: Path, questions: list[str], args: argparse.Namespace) -> None:
        model = ModelConfig(name=str(folder), device="cpu", precision=args.precision)
        policy = roles.open_policy(model, [])
        self.encoder = ChatEncoder(policy.tokenizer)
        self.sampling = SamplingConfig(max_new_tokens=args.new_tokens, slots=args.slots)
        self.generator = roles.generator(policy, self.encoder.end_ids, model, self.sampling)
        self.prompts = self.encoder.prompts([[Message("user", q)] for q in questions])

    def run(self) -> dict[str, Any]:
        clock, busy = time.perf_counter(), time.process_time()
        groups = self.generator.generate(self.prompts, self.sampling, SEED).result()
        texts = [self.encoder.text(c.ids_T) for (c,) in groups]
        tokens = sum(len(c.ids_T) for (c,) in groups)
        clock, busy = time.perf_counter() - clock, time.process_time() - busy
        return {"tokens": tokens, "by_clock": tokens / clock, "by_processor": tokens / busy, "texts": texts}


class Server:
    """``concordant serve`` in a process of its own."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        options = ["--model.name", folder, "--name", "m", "--port", "0", "--slots", args.slots, "--context", 512]
        options += ["--model.device", "cpu", "--model.precision", args.precision]
        command = [sys.executable, "-m", "concordant", "serve", *map(str, options)]
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def __enter__(self) -> Server:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("serving"):
                self.port = int(line.rpartition(":")[2].removesuffix("/v1\n"))
                return self
        raise SystemExit("the server did not start")

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def busy(self) -> float:
        """Seconds of processor time, of all threads of the process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measured(self, questions: list[str], args: argparse.Namespace) -> dict[str, Any]:
        clock, busy = time.perf_counter(), self.busy()
        answers = asyncio.run(ask_all(self.port, questions, args))
        clock, busy = time.perf_counter() - clock, self.busy() - busy
        tokens = sum(tokens for _, tokens, _ in answers)
        return {
            "tokens": tokens,
            "by_clock": tokens / clock,
            "by_processor": tokens / busy,
            "first_token_p50": statistics.median(first for first, _, _ in answers),
            "texts": [text for _, _, text in answers],
        }


async def ask_all(port: int, questions: list[str], args: argparse.Namespace) -> list[tuple[float, int, str]]:
    """Of each client: seconds to its first token, its number of tokens, and its text."""
    import openai

    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)

    async def ask(question: str) -> tuple[float, int, str]:
        start, first, tokens, text = time.perf_counter(), 0.0, 0, ""
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": question}],
            max_tokens=args.new_tokens,
            seed=SEED,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.perf_counter() - start
                text += chunk.choices[0].delta.content
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
        return first, tokens, text

    async with client:
        return list(await asyncio.gather(*(ask(question) for question in questions)))


if __name__ == "__main__":
    main(sys.argv[1:])
