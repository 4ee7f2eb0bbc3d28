"""What ``cluster.shards 4`` costs two workers, beside whole gradients summed in any order and beside split weights.

    python -m bench.exactness [--only sft dpo] [--steps 5]

Three teams of two workers, one thread each, learn from the same batches by turns: with ``cluster.shards 4``; without
it, where the backend sums the gradients in its own order (all-reduce); and with ``cluster.sharded``, where FSDP2 gives
each worker the sum of its part (reduce-scatter). The model has 13.8 million random weights, and trees have 128 + 128
tokens. The first step of every team warms it up. Processor seconds are those of both workers together. Memory is the
highest peak of a worker, and beside it the most that a worker had before it got the model. The results stand in
bench/results/exactness.json; methods that are not asked for keep theirs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaForCausalLM

from bench.drive import LOGS, machine, save
from bench.plan import SHAPES, resident_mib
from bench.plan_steps import RATE, TRAIN, llama_config, trees_of
from bench.plan_workers import TEXTS
from bench.turns import Side, Turns, peak_mib
from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.sft import SFTObjective
from concordant.config.cluster import ClusterConfig
from concordant.config.model import ModelConfig
from concordant.core.trees import PromptTree
from concordant.data.tokenizer import train_tokenizer
from concordant.engines import roles
from concordant.engines.group.handles import GroupLearner
from concordant.engines.group.orders import Order
from concordant.engines.protocol import Learner
from concordant.engines.ranks import current_ranks
from concordant.kernels.allocator import freed_memory_kept
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "exactness.json"
MODEL, TOKENS = "13.8 M", 128  # of a prompt, and of a response
SIDES: dict[str, ClusterConfig] = {
    "shards 4": ClusterConfig(workers=2, shards=4),
    "any order": ClusterConfig(workers=2),
    "sharded": ClusterConfig(workers=2, sharded=True),
}
METHODS = {"sft": (1, 16), "dpo": (2, 8)}  # branches of a tree; trees of a step


# -- one team, whose first worker is a process that takes turns ------------------------------------------


def used(learner: Any) -> list[tuple[float, float, float]]:
    """Of every worker: processor seconds so far, resident memory and peak memory in MiB; an order for all of them."""
    return current_ranks().gather((time.process_time(), resident_mib(), peak_mib()))


def asked(learner: Learner) -> list[tuple[float, float, float]]:
    assert isinstance(learner, GroupLearner)
    return learner.team.order(Order(verb="bench.exactness:used", arguments=[learner.ref])).result()


def step_of(learner: Learner, method: str) -> Callable[[int], None]:
    """A step, whose number gives its batch. DPO learns from one batch, so that the reference is read once."""
    branches, count = METHODS[method]

    def trees(number: int) -> list[PromptTree]:
        return trees_of(count, TOKENS, TOKENS, branches, SHAPES[MODEL].vocabulary, number)

    always: Any = SFTObjective()
    if method == "dpo":
        always = DPOObjective(reference_logprobs(learner.reference(), trees(0)), "sigmoid", 0.1)

    def step(number: int) -> None:
        learner.forward_backward(trees(0 if method == "dpo" else number), always).result()
        learner.step(RATE).result()

    return step


def take_turns(cluster: ClusterConfig, method: str) -> None:
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder, roles.working_together(cluster, threads=1), freed_memory_kept():
        torch.manual_seed(0)
        LlamaForCausalLM(llama_config(SHAPES[MODEL])).save_pretrained(folder)
        train_tokenizer(TEXTS, 300).save_pretrained(folder)
        config = ModelConfig("builtin:tiny", device="cpu", precision="fp32")  # what the libraries load comes first
        small = roles.policy_learner(roles.open_policy(config, TEXTS), config, TRAIN)
        small.forward_backward(trees_of(4, 8, 8, 1, 64, 0), SFTObjective()).result()
        base = max(resident for _, resident, _ in asked(small))
        config = ModelConfig(folder, device="cpu", precision="fp32")
        learner = roles.policy_learner(roles.open_policy(config, TEXTS), config, TRAIN)
        step = step_of(learner, method)
        turns.report(base=base)
        number = 0
        while True:
            turns.wait()
            before, began = asked(learner), time.perf_counter()
            step(number)
            wall, after = time.perf_counter() - began, asked(learner)
            seconds = sum(late[0] - early[0] for early, late in zip(before, after, strict=True))
            turns.report(seconds=seconds, wall=wall, peak=max(peak for *_, peak in after))
            number += 1


# -- the driver ------------------------------------------------------------------------------------------


def measure(method: str, steps: int) -> dict[str, Any]:
    """Every turn of every side, and their medians."""
    sides: list[Side] = []
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    try:
        for name in SIDES:
            settings = {"side": name, "method": method, "threads": 1, "device": "cpu"}
            log = LOGS / f"exactness-{name.replace(' ', '-')}.log"
            sides.append(Side(name, Path(sys.executable), "bench.exactness", settings, [], log))
        for number in range(steps + 1):
            for side in sides:
                turns[side.name].append(side.turn())
                print(f"  {number or 'warm-up'} {side.name} {json.dumps(turns[side.name][-1])}", flush=True)
    finally:
        for side in sides:
            side.close()
    bases = {side.name: side.facts["base"] for side in sides}
    rows = {name: summary(taken[1:], bases[name]) for name, taken in turns.items()}
    return {"sides": rows, "turns": turns}


def summary(turns: Sequence[dict[str, Any]], base: float) -> dict[str, float]:
    """Medians of a step's seconds, and the peak of the fullest worker with what it had before the model, in MiB."""
    return {
        "processor seconds": round(median(turn["seconds"] for turn in turns), 3),
        "wall seconds": round(median(turn["wall"] for turn in turns), 3),
        "peak": round(turns[-1]["peak"], 1),
        "base": round(base, 1),
    }


def table(methods: dict[str, Any]) -> str:
    lines = [
        "| step | two workers with | processor seconds | wall, s | peak of a worker, MiB | of these before the model |",
        "|---|---|---|---|---|---|",
    ]
    for method, found in methods.items():
        for name, row in found["sides"].items():
            shown = (
                f"{row['processor seconds']:.2f} | {row['wall seconds']:.2f} | {row['peak']:,.0f} | {row['base']:,.0f}"
            )
            lines.append(f"| {method} | {name} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("{"):  # one side, as ``Side`` starts it
        settings = json.loads(sys.argv[1])
        take_turns(SIDES[settings["side"]], settings["method"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    methods = json.loads(RESULTS.read_text(encoding="utf-8"))["methods"] if RESULTS.exists() else {}
    for method in given.only:
        methods[method] = {"steps": given.steps} | measure(method, given.steps)
        about = {"concordant": package_version(), "torch": torch.__version__, "machine": machine()}
        save(RESULTS, about | {"methods": methods})
    print(table(methods))


if __name__ == "__main__":
    main()
