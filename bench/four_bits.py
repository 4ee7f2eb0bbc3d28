"""LoRA on a base of four bits beside LoRA on fp32, at GPT-2's shape: ``python -m bench.four_bits``.

The base of GPT-2's shape (124 M) has random weights; with ``--before N`` all its weights first learn for N steps to
count up. Both sides have the same base, the same adapter and the same batches, and learn to count in twos for 20 steps.
With ``--model FOLDER`` the base is a policy that was trained, and both learn toytalk's dialogues. The results have the
bytes of the base, and the loss of every step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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


def gpt2(start: Mapping[str, Tensor] | None = None) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    if start is not None:
        model.load_state_dict(start)
    return model


def learner_of(model: GPT2LMHeadModel) -> LocalLearner:
    place(model, ModelConfig("gpt2", device="cpu"))
    policy = Policy(model=model, tokenizer=None, traits=ModelTraits(Layout.TREE), name="gpt2")  # type: ignore[arg-type]
    return LocalLearner(PolicyNetwork(policy), TrainConfig())


def counted(steps: int) -> dict[str, Tensor]:
    """The weights of GPT-2's shape after some steps of counting up."""
    model = gpt2()
    for loss in losses_of(learner_of(model), [sentences(1000 + step, 1) for step in range(steps)], 3e-4):
        print("base", round(loss, 4), flush=True)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def adapted(start: Mapping[str, Tensor], quantize: str) -> LocalLearner:
    model = gpt2(start)
    apply_lora_to_model(model, r=16)
    if quantize == "nf4":
        keep_base_in_four_bits(model, fresh=True)
    return learner_of(model)


def sentences(seed: int, stride: int) -> list[PromptTree]:
    """Random prompts, each followed by 48 words that count on from its last one: something to learn."""
    stream = torch.Generator().manual_seed(seed)
    trees = []
    for _ in range(TREES):
        prompt = torch.randint(0, 500, (16,), generator=stream)
        answer = (prompt[-1] + stride * torch.arange(1, 49)) % 500
        trees.append(PromptTree(prompt, (Branch.response(answer),)))
    return trees


def losses_of(learner: LocalLearner, batches: Iterable[list[PromptTree]], rate: float) -> Iterator[float]:
    """The loss before each step on the batches."""
    for batch in batches:
        yield learner.forward_backward(batch, SFTObjective()).result()["loss"]
        learner.step(rate).result()


def trained(folder: str, quantize: str) -> tuple[LocalLearner, list[list[PromptTree]]]:
    """A learner over the policy in ``folder``, and batches of toytalk's dialogues."""
    config = ModelConfig(folder, device="cpu", precision="fp32", quantize=quantize, lora=LoraConfig(rank=16))  # type: ignore[arg-type]
    policy = load_policy(config)
    place(policy.model, config)
    trees = ChatEncoder(policy.tokenizer).pairs(heldout_pairs("demo", 0)[: STEPS * 16]).trees
    batches = [trees[at : at + 16] for at in range(0, len(trees), 16)]
    return LocalLearner(PolicyNetwork(policy), TrainConfig()), batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a trained policy, instead of GPT-2's shape")
    parser.add_argument("--before", type=int, default=0, help="steps in which GPT-2's shape learns to count")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of the adapters; QLoRA's is 2e-4")
    parser.add_argument("--output", type=Path, default=RESULTS / "four_bits.json")
    given = parser.parse_args()
    start = {} if given.model else counted(given.before)
    sides: dict[str, dict[str, Any]] = {}
    for name, quantize in (("fp32", "none"), ("nf4", "nf4")):
        if given.model:
            learner, batches = trained(given.model, quantize)
        else:
            learner, batches = adapted(start, quantize), [sentences(step, 2) for step in range(STEPS)]
        losses = list(losses_of(learner, batches[:STEPS], given.rate))
        print(name, [round(loss, 4) for loss in losses], flush=True)
        sides[name] = {"bytes_of_base": bytes_of_base(learner.network), "losses": losses}
    full, small = sides["fp32"], sides["nf4"]
    numbers = {
        "share_of_memory": small["bytes_of_base"] / full["bytes_of_base"],
        "last_loss": [full["losses"][-1], small["losses"][-1]],
        "loss_apart": small["losses"][-1] / full["losses"][-1] - 1,
        "rate": given.rate,
        "before": given.before,
        **sides,
    }
    given.output.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({name: numbers[name] for name in ("share_of_memory", "last_loss", "loss_apart")}))


if __name__ == "__main__":
    main()
