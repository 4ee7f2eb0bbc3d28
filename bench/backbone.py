"""The memory of PPO at GPT-2's shape: four models, adapters on bases of their own, and adapters on one shared base.

    python -m bench.backbone [--forms four apart shared] [--batch 2] [--prompt 48] [--response 24] [--together]

Every form is a process of its own that runs ``concordant ppo`` with random weights: one step with its rollout,
rewards, gradients and optimizer steps, and the evaluation and export after it. ``four``: policy, critic, reward model
and reference are whole models, and policy and critic train all weights. ``apart``: all are adapters, on bases of their
own (the reference shares the policy's base, as always with LoRA). ``shared``: the same adapters, ``share_backbone
all``. The peak is that of the whole process; ``base`` is the process before it has a model. Memory does not depend on
what else the machine does. Writes bench/results/PROCESSOR/backbone.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.drive import machine, processor, save
from bench.turns import ROOT, peak_mib

FORMS = ("four", "apart", "shared")
AIM = 0.4  # of the memory of four models
RANK = 16
PROBES = 2  # held-out prompts that the evaluation answers


def measure(form: str, material: Path, sizes: dict[str, int]) -> dict[str, float]:
    """The numbers of one form, in MiB. This process runs nothing else."""
    import concordant
    from bench.plan import resident_mib
    from bench.plan_steps import warm_libraries
    from concordant.stages import common

    warm_libraries()
    base = resident_mib()
    common.PROBE_PROMPTS = PROBES
    with tempfile.TemporaryDirectory() as folder:
        concordant.ppo(_config(form, material, Path(folder), sizes))
    return {"base_mib": base, "peak_mib": peak_mib()}


def _config(form: str, material: Path, folder: Path, sizes: dict[str, int]) -> Any:
    from bench import material as made
    from concordant.config.data import DataConfig
    from concordant.config.model import LoraConfig, ModelConfig
    from concordant.config.sampling import SamplingConfig
    from concordant.config.stages import PPOConfig
    from concordant.config.train import TrainConfig

    rows = [{"prompt": row["messages"][0][1]} for row in made.rows(material, 16 * sizes["batch"])]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole = form == "four"
    return PPOConfig(
        output=str(folder / "run"),
        data=DataConfig(path=str(folder / "prompts.jsonl"), max_prompt_tokens=sizes["prompt"]),
        model=ModelConfig(
            str(material / "gpt2"), device="cpu", precision="fp32", lora=LoraConfig(rank=0 if whole else RANK)
        ),
        train=TrainConfig(batch_size=sizes["batch"], max_steps=1, tensorboard=False, learning_rate=1e-5),
        reward=[str(material / "gpt2-reward") if whole else _reward_adapter(material)],
        share_backbone="all" if form == "shared" else "none",
        inner_epochs=1,
        minibatches=1,
        sampling=SamplingConfig(max_new_tokens=sizes["response"]),
    )


def _reward_adapter(material: Path) -> str:
    return str(material / f"gpt2-reward-adapter-{RANK}")


def make_reward_adapter(material: Path) -> None:
    """A reward model with random weights, as an adapter over the folder of the policy."""
    from concordant.config.model import LoraConfig, ModelConfig
    from concordant.engines.reward_model import RewardModel

    if not Path(_reward_adapter(material)).is_dir():
        start = ModelConfig(str(material / "gpt2"), device="cpu", lora=LoraConfig(rank=RANK))
        RewardModel.from_backbone(start).save_adapter(_reward_adapter(material))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=48)
    parser.add_argument("--response", type=int, default=24)
    parser.add_argument("--together", action="store_true", help="all forms at once; memory is the same, time is not")
    parser.add_argument("--one", choices=[*FORMS, "material"], help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    sizes = {"batch": args.batch, "prompt": args.prompt, "response": args.response}
    if args.one == "material":
        from bench import material

        folder = material.make()
        make_reward_adapter(folder)
        print(folder)
        return
    if args.one:
        print(json.dumps(measure(args.one, ROOT / "bench" / ".material", sizes)))
        return
    subprocess.run([sys.executable, "-m", "bench.backbone", "--one", "material"], check=True, cwd=ROOT)
    given = [f"--{name}={size}" for name, size in sizes.items()]
    processes = {}
    for form in args.forms:
        command = [sys.executable, "-m", "bench.backbone", "--one", form, *given]
        processes[form] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if not args.together:
            processes[form].wait()
    rows = {}
    for form, process in processes.items():
        text = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"bench.backbone: {form} ended with {process.returncode}")
        rows[form] = json.loads(text.splitlines()[-1])
    record = {"machine": machine(), "sizes": sizes, "rank": RANK, "aim": AIM, "rows": rows}
    if "four" in rows:
        record["of_four_models"] = {form: _over_base(row) / _over_base(rows["four"]) for form, row in rows.items()}
        record["of_four_with_base"] = {
            form: row["peak_mib"] / rows["four"]["peak_mib"] for form, row in rows.items()
        }  # fmt: skip
    output = ROOT / "bench" / "results" / processor()
    output.mkdir(parents=True, exist_ok=True)
    save(output / "backbone.json", record)
    print(json.dumps(record, indent=1))


def _over_base(row: dict[str, float]) -> float:
    return row["peak_mib"] - row["base_mib"]


if __name__ == "__main__":
    main(sys.argv[1:])
