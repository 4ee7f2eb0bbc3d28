"""What a checkpoint costs: its size, the seconds a save takes, and its share of a run at the default cadence.

    python bench/saving.py [--saves 7]

SFT of the two built-in models on toytalk, batches of 16 dialogues, one thread. A save is the whole of it: the tensors,
the hashes, every fsync, the rename, the pruning. Writes bench/results/saving.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from concordant.algorithms.sft import SFTObjective  # noqa: E402
from concordant.config.data import DataConfig  # noqa: E402
from concordant.config.model import ModelConfig  # noqa: E402
from concordant.config.train import TrainConfig  # noqa: E402
from concordant.data.chat import ChatEncoder  # noqa: E402
from concordant.data.records import Demonstration  # noqa: E402
from concordant.data.splits import load_records  # noqa: E402
from concordant.engines import roles  # noqa: E402
from concordant.stages import common  # noqa: E402
from concordant.training.saver import Saver  # noqa: E402

STEPS = 5


def measure(size: str, saves: int) -> dict[str, float | str]:
    model = ModelConfig(name=f"builtin:{size}", device="cpu", precision="fp32")
    config = TrainConfig(save_minutes=1.0)
    data = DataConfig(path="builtin:toytalk")
    loaded = load_records(data, Demonstration, 0)
    policy = common.open_policy(model, data, loaded.train, 0)
    trees = ChatEncoder(policy.tokenizer).demonstrations(loaded.train[: 16 * STEPS]).trees
    learner = roles.policy_learner(policy, model, config)
    seconds = []
    for step in range(STEPS):
        started = time.perf_counter()
        learner.forward_backward(trees[16 * step : 16 * (step + 1)], SFTObjective()).result()
        learner.step(1e-4).result()
        seconds.append(time.perf_counter() - started)
    costs = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        saver = Saver(Path(folder), config)
        for number in range(1, saves + 1):
            started = time.perf_counter()
            learner.keep()
            saver.save(number, {"policy": learner.save}, {}, {})
            costs.append(time.perf_counter() - started)
    save, cadence = statistics.median(costs), 60 * config.save_minutes
    return {
        "model": model.name,
        "parameters": learner.describe().trained,
        "state_megabytes": round(learner.checkpoint_bytes(with_kept=True) / 1e6, 1),
        "step_seconds": round(statistics.median(seconds), 3),
        "save_seconds": round(save, 3),
        "slowest_save_seconds": round(max(costs), 3),
        "share_at_default_cadence": round(save / (cadence + save), 5),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--saves", type=int, default=7)
    given = options.parse_args()
    torch.set_num_threads(1)
    rows = [measure(size, given.saves) for size in ("tiny", "small")]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    print("\n".join(lines))
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "saving.json").write_text(json.dumps({"processor": platform.machine(), "rows": rows}, indent=1) + "\n")
    (folder / "saving.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
