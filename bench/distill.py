"""A student of half the size learns from PPO's policy, on toytalk: ``python -m bench.distill``.

Each seed is one pipeline. The teacher is ``builtin:tiny`` after SFT and PPO, as in the demo. The student is
``builtin:nano`` with random weights and the teacher's tokenizer: it has 0.47 of the teacher's weights. It never sees an
answer of the data, nor a reward.

- *begin* learns from the teacher's answers, by the forward KL;
- *student* goes on with its own answers, by the reverse KL;
- *given* goes on for as many steps with the teacher's answers instead.

The results have the gold score of every policy on the held-out prompts, and the student's as a share of the teacher's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from safetensors import safe_open

from concordant.config.yaml_io import parse_yaml
from concordant.pipeline.plan import read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.runs.names import REPORT_JSON

RESULTS = Path(__file__).parent / "results"
PIPELINE = """
seed: SEED
data: {path: builtin:toytalk, max_prompt_tokens: 128, max_response_tokens: 64}
stages:
  sft:
    model: {name: builtin:tiny, precision: fp32}
    train: {max_steps: 440, batch_size: 16, learning_rate: 4e-3, schedule: cosine, evaluate_every: 0}
  dpo:
    model: {name: "${sft}", precision: fp32}
    data: {max_samples: 6000}
    beta: 1.0
    train: {max_steps: 320, batch_size: 16, learning_rate: 3e-4, evaluate_every: 160}
  reward:
    model: {name: "${dpo}", precision: fp32}
    lm_coefficient: 0.3
    train: {max_steps: 500, batch_size: 16, learning_rate: 1e-3, schedule: cosine, evaluate_every: 250}
  ppo:
    model: {name: "${sft}", precision: fp32}
    reward: ["${reward}"]
    advantage: rloo
    whiten: step
    kl: {coefficient: 0.12}
    inner_epochs: 1
    minibatches: 2
    train: {max_steps: 56, batch_size: 16, learning_rate: 5e-4, evaluate_every: 14, micro_batch_tokens: 8192}
    sampling: {n: 4, max_new_tokens: 48, slots: 128}
  begin:
    verb: distill
    model: {name: builtin:nano, precision: fp32}
    teacher: "${ppo}"
    on_policy: 0
    divergence: forward_kl
    train: {max_steps: GIVEN, batch_size: 32, learning_rate: 5e-3, schedule: cosine, evaluate_every: 0}
    sampling: {max_new_tokens: 48, slots: 128}
  student:
    verb: distill
    model: {name: "${begin}", precision: fp32}
    teacher: "${ppo}"
    on_policy: 1
    divergence: reverse_kl
    train: {max_steps: OWN, batch_size: 32, learning_rate: 1e-3, schedule: cosine, evaluate_every: 0}
    sampling: {max_new_tokens: 48, slots: 128}
  given:
    verb: distill
    model: {name: "${begin}", precision: fp32}
    teacher: "${ppo}"
    on_policy: 0
    divergence: forward_kl
    train: {max_steps: OWN, batch_size: 32, learning_rate: 1e-3, schedule: cosine, evaluate_every: 0}
    sampling: {max_new_tokens: 48, slots: 128}
  report:
    verb: evaluate
    model: {precision: fp32}
    policies: ["sft=${sft}", "teacher=${ppo}", "begin=${begin}", "student=${student}", "given=${given}"]
    baseline: teacher
    max_prompts: 430
    sampling: {max_new_tokens: 48, slots: 256}
"""


def pipeline(seed: int, given: int, own: int) -> str:
    return PIPELINE.replace("SEED", str(seed)).replace("GIVEN", str(given)).replace("OWN", str(own))


def weights_of(folder: Path) -> int:
    """The numbers in the weights of a run's model."""
    with safe_open(folder / "model" / "model.safetensors", framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def run(folder: Path, seed: int, given: int, own: int) -> dict[str, Any]:
    text = pipeline(seed, given, own)
    run_pipeline(read_plan(parse_yaml(text, "distill"), "distill"), folder)
    report = json.loads((folder / "report" / REPORT_JSON).read_text())
    gold = {name: numbers["gold_mean"] for name, numbers in report["policies"].items()}
    return {
        "seed": seed,
        "weights": {"teacher": weights_of(folder / "ppo"), "student": weights_of(folder / "student")},
        "share_of_teacher": {name: gold[name] / gold["teacher"] for name in ("begin", "student", "given")},
        "policies": {
            name: {key: numbers[key] for key in ("gold_mean", "gold_mean_low", "gold_mean_high", "kl", "length_mean")}
            for name, numbers in report["policies"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--given", type=int, default=600, help="steps on the teacher's answers")
    parser.add_argument("--own", type=int, default=200, help="steps after them, on the student's own answers")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-distill"), help="of the pipelines")
    parser.add_argument("--output", type=Path, default=RESULTS / "distill.json")
    chosen = parser.parse_args()
    found = [run(chosen.folder / f"seed{seed}", seed, chosen.given, chosen.own) for seed in chosen.seeds]
    shares = [one["share_of_teacher"]["student"] for one in found]
    numbers = {
        "pipeline": pipeline(chosen.seeds[0], chosen.given, chosen.own),
        "share_of_teacher": shares,
        "mean": statistics.mean(shares),
        "seeds": found,
    }
    chosen.output.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({key: numbers[key] for key in ("share_of_teacher", "mean")}))


if __name__ == "__main__":
    main()
