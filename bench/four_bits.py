"""LoRA on a base of four bits beside LoRA on fp32, at GPT-2's shape: ``python -m bench.four_bits``.

Both have the same random weights of GPT-2's shape (124 M), the same adapter and the same batches, and take 20 steps.
With ``--model FOLDER`` the base is a policy that was trained, and both learn toytalk's dialogues. The results have the
bytes of the base, and the loss of every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from concordant.algorithms.sft import SFTObjective
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.train import TrainConfig
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.toytalk import heldout_pairs
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.local.precision import place
from concordant.models.four_bits import keep_base_in_four_bits
from concordant.models.load import Policy, load_policy
from concordant.models.lora import apply_lora_to_model
from concordant.models.quantized import bytes_of_base
from concordant.models.traits import ModelTraits

RESULTS = Path(__file__).parent / "results"
STEPS, TREES = 20, 4


def gpt2(quantize: str) -> Policy:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    apply_lora_to_model(model, r=16)
    if quantize == "nf4":
        keep_base_in_four_bits(model, fresh=True)
    place(model, ModelConfig("gpt2", device="cpu"))
    return Policy(model=model, tokenizer=None, traits=ModelTraits(Layout.TREE), name="gpt2")  # type: ignore[arg-type]


def sentences(step: int) -> list[PromptTree]:
    """Random prompts, each followed by 48 words that count up from its last one: something to learn."""
    stream = torch.Generator().manual_seed(step)
    trees = []
    for _ in range(TREES):
        prompt = torch.randint(0, 500, (16,), generator=stream)
        answer = (prompt[-1] + 1 + torch.arange(48)) % 500
        trees.append(PromptTree(prompt, (Branch.response(answer),)))
    return trees


def trained(folder: str, quantize: str) -> tuple[Policy, list[PromptTree]]:
    config = ModelConfig(folder, device="cpu", precision="fp32", quantize=quantize, lora=LoraConfig(rank=16))  # type: ignore[arg-type]
    policy = load_policy(config)
    place(policy.model, config)
    return policy, ChatEncoder(policy.tokenizer).pairs(heldout_pairs("demo", 0)[: STEPS * 16]).trees


def run(quantize: str, folder: str) -> dict[str, Any]:
    policy, trees = trained(folder, quantize) if folder else (gpt2(quantize), [])
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig())
    losses = []
    for step in range(STEPS):
        batch = trees[16 * step : 16 * step + 16] if folder else sentences(step)
        losses.append(learner.forward_backward(batch, SFTObjective()).result()["loss"])
        learner.step(1e-3).result()
        print(quantize, step + 1, round(losses[-1], 4), flush=True)
    return {"bytes_of_base": bytes_of_base(policy.model), "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a trained policy, instead of GPT-2's shape")
    parser.add_argument("--output", type=Path, default=RESULTS / "four_bits.json")
    given = parser.parse_args()
    full, small = (run(quantize, given.model) for quantize in ("none", "nf4"))
    numbers = {
        "share_of_memory": small["bytes_of_base"] / full["bytes_of_base"],
        "last_loss": [full["losses"][-1], small["losses"][-1]],
        "loss_apart": small["losses"][-1] / full["losses"][-1] - 1,
        "fp32": full,
        "nf4": small,
    }
    given.output.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({name: numbers[name] for name in ("share_of_memory", "last_loss", "loss_apart")}))


if __name__ == "__main__":
    main()
