"""Two rounds against one with the same number of labels, on toytalk: ``python -m bench.rounds``.

Both arms start from one SFT policy, have the same number of labels by the gold judge, and take as many PPO steps.

- *one*: all pairs are sampled from the SFT policy and labelled; a reward model learns them; PPO.
- *two*: half of the pairs are sampled from the SFT policy, a reward model learns them, and PPO takes half of its steps;
  the other half of the pairs is sampled from that policy, a new reward model learns all pairs, and PPO goes on.

All reward models start from the SFT policy, and every KL is measured from it. Each seed is one pipeline with rounds.
The results have the gold score of every policy on the held-out prompts and the Bradley–Terry ratings, for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import parse_yaml
from concordant.pipeline.plan import read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.runs.names import CARD_JSON, REPORT_JSON

RESULTS = Path(__file__).parent / "results" / "rounds.json"
PIPELINE = """
seed: {seed}
data: {{path: builtin:toytalk, max_prompt_tokens: 128, max_response_tokens: 64}}
rounds: 2
stages:
  sft:
    model: {{name: builtin:tiny, precision: fp32}}
    train: {{max_steps: 440, batch_size: 16, learning_rate: 4e-3, schedule: cosine, evaluate_every: 0}}
  collect_one: {{verb: collect, pairs: {labels}, {from_sft}, {labelled}}}
  reward_one: {{verb: reward, data: {{path: "${{collect_one}}", {heldout}}}, {reward}}}
  ppo_one: {{verb: ppo, reward: ["${{reward_one}}"], {from_sft}, {ppo}, train: {{max_steps: {steps}, {rates}}}}}
  report:
    verb: evaluate
    model: {{precision: fp32}}
    policies: ["sft=${{sft}}", "one=${{ppo_one}}", "round1=${{round1/ppo}}", "two=${{round2/ppo}}"]
    reward: ["${{reward_one}}"]
    baseline: sft
    max_prompts: 430
    sampling: {{max_new_tokens: 48, slots: 256}}
each_round:
  collect: {{pairs: {half}, earlier: "${{before.collect or nothing}}", {from_before}, {labelled}}}
  reward: {{data: {{path: "${{collect}}", {heldout}}}, {reward}}}
  ppo: {{reward: ["${{reward}}"], {from_before}, {ppo}, train: {{max_steps: {half_steps}, {rates}}}}}
"""
PARTS = {
    "from_sft": 'model: {name: "${sft}", precision: fp32}',
    "from_before": 'model: {name: "${before.ppo or sft}", precision: fp32}',
    "labelled": "judge: gold, sampling: {n: 4, max_new_tokens: 48, slots: 128}",
    "heldout": "test_path: builtin:toytalk",
    "reward": (
        'model: {name: "${sft}", precision: fp32}, lm_coefficient: 0.3, validation_fraction: 0.1, '
        "train: {epochs: 8, batch_size: 16, learning_rate: 1e-3, schedule: cosine}"
    ),
    "ppo": (
        'reference: "${sft}", advantage: rloo, whiten: step, kl: {coefficient: KL}, inner_epochs: 1, '
        "minibatches: 2, sampling: {n: 4, max_new_tokens: 48, slots: 128}"
    ),
    "rates": "batch_size: 16, learning_rate: 5e-4, evaluate_every: 20, micro_batch_tokens: 8192",
}


def run(folder: Path, seed: int, labels: int, steps: int, kl: float) -> dict[str, Any]:
    """One seed: the gold scores, the ratings and the number of labels of both arms."""
    parts = {name: part.replace("KL", str(kl)) for name, part in PARTS.items()}
    numbers = {"seed": seed, "labels": labels, "half": labels // 2, "steps": steps, "half_steps": steps // 2}
    text = PIPELINE.format(**numbers, **parts)
    run_pipeline(read_plan(parse_yaml(text, "rounds"), "rounds"), folder)
    report = json.loads((folder / "report" / REPORT_JSON).read_text())
    cards = {"one": "collect_one", "round1": "round1/collect", "two": "round2/collect"}
    counts = {name: json.loads((folder / place / CARD_JSON).read_text()) for name, place in cards.items()}
    return {
        "seed": seed,
        "labels": {name: sum(x["pairs"] for x in card["labels"]) for name, card in counts.items()},
        "policies": {
            name: {key: numbers[key] for key in ("gold_mean", "gold_mean_low", "gold_mean_high", "kl", "length_mean")}
            for name, numbers in report["policies"].items()
        },
        "ratings": report["ratings"],
        "difference": next(
            c | {"two_over_one": c["difference"] * (1 if c["first"] == "two" else -1)}
            for c in report["comparisons"]
            if {c["first"], c["second"]} == {"one", "two"}
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, default=400, help="of each arm")
    parser.add_argument("--steps", type=int, default=80, help="PPO steps of each arm")
    parser.add_argument("--kl", type=float, default=0.05, help="coefficient, reward units per nat")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-rounds"), help="of the pipelines")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = [run(given.folder / f"seed{seed}", seed, given.labels, given.steps, given.kl) for seed in given.seeds]
    gains = [one["difference"]["two_over_one"] for one in found]
    settings = {"labels": given.labels, "steps": given.steps, "kl": given.kl, "parts": PARTS}
    numbers = {
        "settings": settings,
        "two_over_one": gains,
        "mean": statistics.mean(gains),
        "sd_over_seeds": statistics.stdev(gains) if len(gains) > 1 else None,
        "seeds": found,
    }
    given.output.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({key: numbers[key] for key in ("two_over_one", "mean", "sd_over_seeds")}))


if __name__ == "__main__":
    main()
