"""``concordant plan`` against the measured memory of several workers, on a CPU.

    python -m bench.plan_workers [--only NAME …]

Every arrangement is a process that starts its workers, as ``--cluster.*`` does: random weights, trees of equal lengths,
three steps. Every worker tells its resident memory before it has the model, which the plan gets as ``base``, and its
peak. The plan's number is that of the fullest worker. Times are not compared: this machine has fewer cores than four
workers need. The results stand in bench/results/plan_workers.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from bench.plan import MEMORY_AIM, SHAPES, resident_mib
from bench.plan_steps import llama_config, trees_of
from bench.turns import peak_mib
from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.sft import SFTObjective
from concordant.config.cluster import ClusterConfig
from concordant.config.model import ModelConfig
from concordant.config.plan import PlanConfig, ShapeConfig
from concordant.config.train import TrainConfig
from concordant.data.tokenizer import train_tokenizer
from concordant.engines import roles
from concordant.engines.group.handles import GroupLearner
from concordant.engines.group.orders import Order
from concordant.engines.protocol import Learner
from concordant.engines.ranks import current_ranks
from concordant.stages.plan import planned_for

RESULTS = Path(__file__).parent / "results" / "plan_workers.json"
MESHES: dict[str, ClusterConfig] = {
    "data 2": ClusterConfig(workers=2),
    "sharded 2": ClusterConfig(workers=2, sharded=True),
    "tensor 2": ClusterConfig(tensor=2),
    "pipeline 2": ClusterConfig(pipeline=2),
    "data 4": ClusterConfig(workers=4),
    "sharded 4": ClusterConfig(workers=4, sharded=True),
    "data 2 × tensor 2": ClusterConfig(workers=4, tensor=2),
}
MODEL, BATCH, TOKENS = "55.8 M", 8, 128  # trees of a step; tokens of a prompt, and of a response
METHODS = {"sft": 1, "dpo": 2}  # branches of a tree
TRAIN = TrainConfig(micro_batch_tokens=1_536)
TEXTS = ["a text from which the tokenizer learns its tokens", "no token of it is read"]


def shape_of(mesh: str) -> ShapeConfig:
    """The model's shape. The plan divides heads equally, so five key heads become ten for tensor parallelism."""
    return replace(SHAPES[MODEL], kv_heads=10) if "tensor" in mesh else SHAPES[MODEL]


def memory(learner: Any) -> list[tuple[float, float]]:
    """The resident and the peak memory of every worker in MiB; an order for all of them."""
    ranks = current_ranks()
    of_group = ranks.tensor.values(ranks.gather((resident_mib(), peak_mib())))
    return [worker for stage in ranks.stages.values(of_group) for row in stage for worker in row]


def asked(learner: Learner) -> list[tuple[float, float]]:
    assert isinstance(learner, GroupLearner)
    return learner.team.order(Order(verb="bench.plan_workers:memory", arguments=[learner.ref])).result()


def steps(learner: Learner, method: str, vocabulary: int, count: int) -> None:
    reference_B = None
    for number in range(count):
        trees = trees_of(BATCH, TOKENS, TOKENS, METHODS[method], vocabulary, number if method == "sft" else 0)
        if method == "dpo" and reference_B is None:
            reference_B = reference_logprobs(learner.reference(), trees)
        objective: Any = SFTObjective() if reference_B is None else DPOObjective(reference_B, "sigmoid", 0.1)
        learner.forward_backward(trees, objective).result()
        learner.step(1e-4).result()


def measure(method: str, mesh: str) -> list[dict[str, float]]:
    """Base and peak of every worker in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        LlamaForCausalLM(llama_config(shape_of(mesh))).save_pretrained(folder)
        train_tokenizer(TEXTS, 300).save_pretrained(folder)
        with roles.working_together(MESHES[mesh], threads=1):
            config = ModelConfig("builtin:tiny", device="cpu", precision="fp32")  # what the libraries load comes first
            small = roles.policy_learner(roles.open_policy(config, TEXTS), config, TRAIN)
            steps(small, "sft", 64, 1)
            before = asked(small)
            config = ModelConfig(folder, device="cpu", precision="fp32")
            learner = roles.policy_learner(roles.open_policy(config, TEXTS), config, TRAIN)
            steps(learner, method, SHAPES[MODEL].vocabulary, 3)
            after = asked(learner)
    return [{"base": b, "peak": p} for (b, _), (_, p) in zip(before, after, strict=True)]


def compared(method: Any, mesh: str, measured: Sequence[dict[str, float]]) -> dict[str, Any]:
    cluster = MESHES[mesh]
    fullest = max(measured, key=lambda worker: worker["peak"])
    workers = cluster.workers or cluster.tensor * cluster.pipeline
    config = PlanConfig(
        shape=shape_of(mesh), method=method, hardware="cpu", gpus=workers, tensor=cluster.tensor,
        pipeline=cluster.pipeline, sharding="on" if cluster.sharded else "off", prompt_tokens=TOKENS,
        response_tokens=TOKENS, batch_size=BATCH, keep_best=False, micro_batch_tokens=1_536, slots=1,
        assume=[f"base={fullest['base'] * 2**20:.0f}"],
    )  # fmt: skip
    planned = planned_for(config).plan.memory.total / 2**20
    over = (planned - fullest["base"]) / (fullest["peak"] - fullest["base"])
    return {"workers": measured, "planned": planned, "ratio": planned / fullest["peak"], "over_base": over}


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| row | peak, MiB | planned | ratio | over the base, ratio |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        peak = max(worker["peak"] for worker in row["workers"])
        ratios = (f"{x:.2f}" if abs(x - 1) <= MEMORY_AIM else f"**{x:.2f}**" for x in (row["ratio"], row["over_base"]))
        lines.append(f"| {name} | {peak:,.0f} | {row['planned']:,.0f} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    names = [f"{method}, {mesh}" for method in METHODS for mesh in MESHES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    parser.add_argument("--again", action="store_true", help="compare the saved measurements with the present plan")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)  # the file for a measurement, in its own process
    given = parser.parse_args()
    if given.side:
        Path(given.side).write_text(json.dumps(measure(*given.only[0].split(", "))), encoding="utf-8")
        return
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in given.only:
        if given.again:
            measured = rows[name]["workers"]
        else:
            with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
                command = [sys.executable, "-m", "bench.plan_workers", "--side", file.name, "--only", name]
                subprocess.run(command, check=True)
                measured = json.load(file)
        method, mesh = name.split(", ")
        rows[name] = compared(method, mesh, measured)
        RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(table({name: rows[name]}).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
