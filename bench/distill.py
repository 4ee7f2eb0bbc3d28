"""A student of half the size learns from PPO's policy, on toytalk: ``python -m bench.distill``.

The teacher of a seed is the PPO policy (``builtin:tiny``) of ``concordant demo --seed N``. With ``--demos`` the folders
of demos that have run already are taken instead. The student is ``builtin:nano`` with random weights and the teacher's
tokenizer: it has 0.47 of the teacher's weights. It never sees an answer of the data, nor a reward.

- *begin* learns from the teacher's answers, by the forward KL;
- *student* goes on with its own answers, by the reverse KL.

The results have the gold score of every policy on the held-out prompts, and the student's as a share of the teacher's.
Other seeds that stand in the file of results already stay there, if their numbers of steps are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bench.drive import save, with_earlier
from bench.pipelines import filled, policies_of, report_of
from concordant.config.yaml_io import load_yaml
from concordant.pipeline.command import DEMO
from concordant.pipeline.plan import read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.runs.names import PIPELINE as PIPELINE_FILE

RESULTS = Path(__file__).parent / "results"
PIPELINE = """
seed: SEED
data: {path: builtin:toytalk, max_prompt_tokens: 128, max_response_tokens: 64}
stages:
  begin:
    verb: distill
    model: {name: builtin:nano, precision: fp32}
    teacher: "DEMO/ppo/model"
    on_policy: 0
    divergence: forward_kl
    train: {max_steps: GIVEN, batch_size: 32, learning_rate: 5e-3, schedule: cosine, evaluate_every: 0}
    sampling: {max_new_tokens: 48, slots: 128}
  student:
    verb: distill
    model: {name: "${begin}", precision: fp32}
    teacher: "DEMO/ppo/model"
    on_policy: 1
    divergence: reverse_kl
    train: {max_steps: OWN, batch_size: 32, learning_rate: 1e-3, schedule: cosine, evaluate_every: 0}
    sampling: {max_new_tokens: 48, slots: 128}
  report:
    verb: evaluate
    model: {precision: fp32}
    policies: ["sft=DEMO/sft/model", "teacher=DEMO/ppo/model", "begin=${begin}", "student=${student}"]
    baseline: teacher
    max_prompts: 430
    sampling: {max_new_tokens: 48, slots: 256}
"""


def pipeline(demo: Path, seed: int, given: int, own: int) -> str:
    return filled(PIPELINE, SEED=seed, DEMO=demo, GIVEN=given, OWN=own)


def demo_of(folder: Path, seed: int) -> Path:
    """The folder of a demo with ``seed``, without its report."""
    stages = {name: stage for name, stage in load_yaml(DEMO)["stages"].items() if name != "report"}
    run_pipeline(read_plan(load_yaml(DEMO) | {"seed": seed, "stages": stages}, "demo.yaml"), folder)
    return folder


def weights_of(folder: Path) -> int:
    """The numbers in the weights of a run's model."""
    with safe_open(folder / "model" / "model.safetensors", framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def run(demo: Path, folder: Path, given: int, own: int) -> dict[str, Any]:
    seed = load_yaml(demo / PIPELINE_FILE)["stages"]["ppo"]["seed"]
    text = pipeline(demo.absolute(), seed, given, own)
    report = report_of(text, "distill", folder)
    gold = {name: numbers["gold_mean"] for name, numbers in report["policies"].items()}
    return {
        "seed": seed,
        "weights": {"teacher": weights_of(demo / "ppo"), "student": weights_of(folder / "student")},
        "share_of_teacher": {name: gold[name] / gold["teacher"] for name in ("begin", "student")},
        "policies": policies_of(report),
    }


def results(path: Path, found: list[dict[str, Any]], given: int, own: int) -> dict[str, Any]:
    """The file of results: ``found``, and the other seeds of an earlier file at ``path`` with the same steps."""

    def of(seed: int) -> str:
        return pipeline(Path("DEMO"), seed, given, own)

    is_same = False
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        is_same = earlier["pipeline"] in [of(one["seed"]) for one in earlier["seeds"]]
    seeds = with_earlier(path, found, ("seed",), "seeds") if is_same else found
    shares = [one["share_of_teacher"]["student"] for one in seeds]
    return {
        "pipeline": of(seeds[0]["seed"]),
        "share_of_teacher": shares,
        "mean": statistics.mean(shares),
        "seeds": seeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the demos that are run first")
    parser.add_argument("--demos", type=Path, nargs="+", default=[], help="folders of demos, instead of --seeds")
    parser.add_argument("--given", type=int, default=300, help="steps on the teacher's answers")
    parser.add_argument("--own", type=int, default=100, help="steps after them, on the student's own answers")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-distill"), help="of the pipelines")
    parser.add_argument("--output", type=Path, default=RESULTS / "distill.json")
    chosen = parser.parse_args()
    demos = chosen.demos or [demo_of(chosen.folder / f"demo{seed}", seed) for seed in chosen.seeds]
    found = []
    for demo in demos:
        found.append(run(demo, chosen.folder / f"students-{demo.name}", chosen.given, chosen.own))
        numbers = results(chosen.output, found, chosen.given, chosen.own)
        save(chosen.output, numbers)
        print(json.dumps({key: numbers[key] for key in ("share_of_teacher", "mean")}), flush=True)


if __name__ == "__main__":
    main()
