"""Two rounds against one with the same number of labels, on toytalk: ``python -m bench.rounds``.

Both arms start from one SFT policy, the gold judge is asked about as many pairs, and the policy takes as many steps.

- *one*: all pairs are sampled from the SFT policy; the policy learns from their labels.
- *two*: half of the pairs are sampled from the SFT policy, and the policy takes half of its steps; the other half of
  the pairs is sampled from that policy, which goes on with all pairs.

``--method dpo`` is online DPO. With ``--method ppo`` a reward model learns the pairs in every round, always from the
SFT policy, and RLOO learns from the reward model. Its rewards are raw log-odds, so that a nat of KL costs the same in
every round. Every KL is measured from the SFT policy. Each seed is one pipeline with rounds. The results have the gold
score of every policy on the held-out prompts and the Bradley–Terry ratings, for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from bench.pipelines import filled, policies_of, report_of
from concordant.runs.names import CARD_JSON

RESULTS = Path(__file__).parent / "results"
PIPELINE = """
seed: SEED
data: {path: builtin:toytalk, max_prompt_tokens: 128, max_response_tokens: 64}
rounds: 2
stages:
  sft:
    model: {name: builtin:tiny, precision: fp32}
    train: {max_steps: 440, batch_size: 16, learning_rate: 4e-3, schedule: cosine, evaluate_every: 0}
  collect_one: {verb: collect, pairs: LABELS, model: {name: "${sft}", precision: fp32}, COLLECT}
ONE
  report:
    verb: evaluate
    model: {precision: fp32}
    policies: ["sft=${sft}", "one=${policy_one}", "round1=${round1/policy}", "two=${round2/policy}"]
    baseline: sft
    max_prompts: 430
    sampling: {max_new_tokens: 48, slots: 256}
each_round:
  collect:
    {pairs: HALF, model: {name: "${before.policy or sft}", precision: fp32}, earlier: "${before.collect or nothing}",
      COLLECT}
EACH
"""
COLLECT = "judge: gold, sampling: {n: 4, max_new_tokens: 48, slots: 128}"
# The stages of one arm. NAME is _one or nothing, START the policy to go on from.
DPO = """
  policyNAME:
    verb: dpo
    model: {name: "START", precision: fp32}
    reference: "${sft}"
    data: {path: "${collectNAME}", test_path: builtin:toytalk}
    beta: 0.3
    train: {max_steps: STEPS, batch_size: 16, learning_rate: 3e-4, evaluate_every: 25}
"""
PPO = """
  rewardNAME:
    verb: reward
    model: {name: "${sft}", precision: fp32}
    data: {path: "${collectNAME}", test_path: builtin:toytalk}
    lm_coefficient: 0.3
    validation_fraction: 0.1
    train: {epochs: 8, batch_size: 16, learning_rate: 3e-4, schedule: cosine}
  policyNAME:
    verb: ppo
    model: {name: "START", precision: fp32}
    reference: "${sft}"
    reward: ["${rewardNAME}"]
    reward_normalize: none
    advantage: rloo
    whiten: step
    kl: {coefficient: 0.15}
    inner_epochs: 1
    minibatches: 2
    sampling: {n: 4, max_new_tokens: 48, slots: 128}
    train: {max_steps: STEPS, batch_size: 16, learning_rate: 5e-4, evaluate_every: 20, micro_batch_tokens: 8192}
"""
METHODS = {"dpo": DPO, "ppo": PPO}


def pipeline(method: str, seed: int, labels: int, steps: int) -> str:
    """The pipeline's file for both arms."""

    def arm(name: str, start: str, steps: int) -> str:
        return filled(METHODS[method], NAME=name, START=start, STEPS=steps).strip("\n")

    return filled(
        PIPELINE,
        SEED=seed,
        LABELS=labels,
        HALF=labels // 2,
        COLLECT=COLLECT,
        ONE=arm("_one", "${sft}", steps),
        EACH=arm("", "${before.policy or sft}", steps // 2),
    )


def run(folder: Path, method: str, seed: int, labels: int, steps: int) -> dict[str, Any]:
    """One seed: the gold scores, the ratings and the number of labels of both arms."""
    text = pipeline(method, seed, labels, steps)
    report = report_of(text, "rounds", folder)
    cards = {"one": "collect_one", "round1": "round1/collect", "two": "round2/collect"}
    counts = {name: json.loads((folder / place / CARD_JSON).read_text()) for name, place in cards.items()}
    return {
        "seed": seed,
        "labels": {name: sum(x["pairs"] for x in card["labels"]) for name, card in counts.items()},
        "policies": policies_of(report),
        "ratings": report["ratings"],
        "difference": next(
            c | {"two_over_one": c["difference"] * (1 if c["first"] == "two" else -1)}
            for c in report["comparisons"]
            if {c["first"], c["second"]} == {"one", "two"}
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="dpo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, default=1200, help="pairs that the judge is asked about, of each arm")
    parser.add_argument("--steps", type=int, default=150, help="steps of the policy, of each arm")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-rounds"), help="of the pipelines")
    parser.add_argument("--output", type=Path, help="instead of bench/results/rounds-METHOD.json")
    given = parser.parse_args()
    found = [
        run(given.folder / f"{given.method}-seed{seed}", given.method, seed, given.labels, given.steps)
        for seed in given.seeds
    ]
    gains = [one["difference"]["two_over_one"] for one in found]
    numbers = {
        "pipeline": pipeline(given.method, given.seeds[0], given.labels, given.steps),
        "two_over_one": gains,
        "mean": statistics.mean(gains),
        "sd_over_seeds": statistics.stdev(gains) if len(gains) > 1 else None,
        "seeds": found,
    }
    output = given.output or RESULTS / f"rounds-{given.method}.json"
    output.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({key: numbers[key] for key in ("two_over_one", "mean", "sd_over_seeds")}))


if __name__ == "__main__":
    main()
