"""A split model beside the whole one: ``python -m tests.engines.group.tensor MESH CASE …``.

MESH is the settings of a ClusterConfig as JSON.

Each case trains the same model twice on every process, split and whole, on the same trees. It prints, as JSON, how far
the two are apart, by norm and relative: the loss, the gradient, its norm, and the weights after five steps. With shards
it also says whether all bits are equal.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoModelForCausalLM

from concordant.config.cluster import ClusterConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core import kl, logprobs
from concordant.core.divergence import Divergence
from concordant.core.seeding import derive
from concordant.core.trees import PromptTree
from concordant.engines.group.orders import Order
from concordant.engines.group.torch_team import start_here
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, Network, PolicyNetwork, RewardNetwork
from concordant.engines.local.precision import place
from concordant.engines.pipeline.stages import hold_on_last_stage, split_into_stages
from concordant.engines.ranks import Alone, among, current_ranks, writes
from concordant.engines.reward_model import RewardModel
from concordant.engines.tensor.cuts import even
from concordant.engines.tensor.split import split_over, split_value_head
from concordant.engines.tensor.vocabulary import PartOfDistribution
from concordant.models.load import Policy, checkpoint_activations, make_deterministic
from concordant.models.lora import apply_lora_to_model
from concordant.models.scalar_head import build_critic
from concordant.models.traits import prepare_model
from tests.engines.conformance.test_learner import OBJECTIVES, pairs
from tests.models import zoo

STEPS, SEED = 5, 7
# GPT-2's key bias has a gradient of 0 except for rounding, and Adam makes a step of about this size of it.
LEARNING_RATE = 3e-4
ODD = {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 36, "intermediate_size": 45}
# name: (architecture of the zoo, changes of its configuration, objective, what else). Three heads of 12, 45 columns and
# an odd vocabulary do not divide by two: the parts of the processes have different sizes.
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "SFT, Llama with odd sizes": ("Llama", ODD, "sft", {}),
    "SFT, Qwen3": ("Qwen3", {}, "sft", {}),
    "SFT, GPT-2 with recomputed activations": ("GPT-2", {}, "sft", {"recompute": True}),
    "SFT, Llama without kernels": ("Llama", {}, "sft", {"kernels": "plain"}),
    "SFT, LoRA with dropout": ("Llama", {}, "sft", {"lora": 4, "dropout": 0.2}),
    "SFT, LoRA with recomputed activations": ("Llama", {}, "sft", {"lora": 4, "recompute": True}),
    "DPO, GPT-2": ("GPT-2", {}, "dpo", {}),
    "DPO, GPT-2 with LoRA": ("GPT-2", {}, "dpo", {"lora": 4}),
    "reward, Llama with tied embeddings": ("Llama", {"tie_word_embeddings": True}, "reward", {}),
    "PPO with exact KL, Llama": ("Llama", {}, "ppo exact kl", {}),
    "value, Qwen3": ("Qwen3", {}, "value", {"head": "mlp"}),
}


def policy(
    architecture: str, changes: Mapping[str, Any], recompute: bool, lora: int, dropout: float, kernels: Any
) -> Policy:
    made = zoo.policy(architecture)
    if changes:
        made.model = zoo.make(architecture, vocab_size=len(made.tokenizer), **changes)
        made.traits = prepare_model(made.model)
    make_deterministic(made.model)
    if lora:
        apply_lora_to_model(made.model, r=lora, dropout=dropout)
    if recompute:
        checkpoint_activations(made.model)
    place(made.model, ModelConfig(device="cpu", kernels=kernels))
    return made


def learner(case: str) -> LocalLearner:
    """A learner among the current ranks."""
    architecture, changes, objective, more = CASES[case]
    more = {"recompute": False, "lora": 0, "dropout": 0.0, "kernels": "fast", "head": "linear"} | more
    head = more.pop("head")
    start, ranks = policy(architecture, changes, **more), current_ranks()
    kind = OBJECTIVES[objective][0]
    network: Network
    if kind == "reward":
        model = RewardModel.from_backbone(start, keep_lm_head=True)
        split_over(model.model, ranks)
        split_into_stages(model.model, ranks)
        network = RewardNetwork(model)
    elif kind == "critic":
        split_over(start.model, ranks)
        split_into_stages(start.model, ranks)
        critic = build_critic(start, head)
        torch.manual_seed(1)
        torch.nn.init.normal_(critic.head.get_submodule("output").weight)
        split_value_head(critic.head, ranks)
        hold_on_last_stage(critic.head, ranks)
        network = CriticNetwork(critic)
    else:
        split_over(start.model, ranks)
        split_into_stages(start.model, ranks)
        network = PolicyNetwork(start)
    return LocalLearner(network, TrainConfig(max_grad_norm=0.5, micro_batch_tokens=40))


def whole(made: LocalLearner, p: Tensor, x: Tensor) -> Tensor:
    """All of ``x``, of which each process has what it has of the weight ``p``. All processes call this."""
    x = (made.pieces[id(p)].whole(x) if id(p) in made.pieces else x).detach()
    return torch.cat(made.ranks.gather(x)) if made.ranks.sharded else x.clone()


def trees_for(made: LocalLearner) -> list[PromptTree]:
    trees = pairs(6)
    for tree in trees:
        for ids in (tree.prompt_T, *(b.ids_T for b in tree.branches)):
            ids.remainder_(made.network.body.config.vocab_size)  # type: ignore[union-attr]
    return trees


def trained(made: LocalLearner, case: str) -> dict[str, Any]:
    """The loss and the gradient of the first step, its norm, and the weights after all steps, all whole."""
    trees = trees_for(made)
    objective = OBJECTIVES[CASES[case][2]][1](trees)
    found: dict[str, Any] = {}
    for step in range(STEPS):
        if made.ranks.shards == 1:  # a learner that is whole then draws from the process
            torch.manual_seed(derive(SEED + step, "shard", 0))
        metrics = made.forward_backward(trees, objective, seed=SEED + step).result()
        if step == 0:
            gradients = [(p, p.grad) for p in made.parameters]
            found["gradient"] = [whole(made, p, g) for p, g in gradients if g is not None]
            found["loss"] = [torch.tensor(metrics["loss"])]
        done = made.step(LEARNING_RATE).result()
        if step == 0:
            found["norm"] = [torch.tensor(done.grad_norm)]
    found["weights"] = [whole(made, p, p) for p in made.parameters]
    return found


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    a, b = (torch.cat([x.detach().double().flatten() for x in each]) for each in (one, other))
    return float((a - b).norm() / b.norm())


def compared(case: str) -> dict[str, Any]:
    """On every process: the case split and whole."""
    ranks = current_ranks()
    split = trained(learner(case), case)
    with among(Alone(ranks.shards if ranks.in_order else 1)):
        alone = trained(learner(case), case)
    found: dict[str, Any] = {key: apart(split[key], alone[key]) for key in split}
    found["equal"] = all(torch.equal(a, b) for key in split for a, b in zip(split[key], alone[key], strict=True))
    return found


def files(folder: str) -> dict[str, Any]:
    """Save and export a split learner, resume it whole and split, and sample from both."""
    ranks = current_ranks()
    case = "SFT, Qwen3" if ranks.in_order else "SFT, Llama with odd sizes"
    split = learner(case)
    trained(split, case)
    split.forward_backward(trees_for(split), OBJECTIVES["sft"][1]([]), seed=SEED)
    reached = split.reached()
    split.discard()
    split.keep()
    (Path(folder) / "state").mkdir(exist_ok=True)
    split.save(Path(folder) / "state")
    split.export(Path(folder) / "model")
    published = split.tensors("merged")
    dist.barrier()
    again = learner(case)
    again.load(Path(folder) / "state")
    with among(Alone()):
        alone = learner(case)
        alone.load(Path(folder) / "state")
    exported = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").state_dict()
    own = {n: p for n, p in alone.network.named_parameters()}
    found = {
        "exported": all(torch.equal(exported[n.removeprefix("model.")], p) for n, p in own.items()),
        "published": all(torch.equal(published[n.removeprefix("model.")], p) for n, p in own.items()),
        "kept": alone._kept is not None and all(torch.equal(alone._kept[n], own[n]) for n in alone._kept),
        "resumed": apart([whole(again, p, p) for p in again.parameters], [*own.values()]),
        "moments": apart(_moments(again), _moments(alone)),
        "bytes": split.checkpoint_bytes(True) == alone.checkpoint_bytes(True),
        "export bytes": split.export_bytes() == alone.export_bytes(),
        "reached": all(row.came and row.is_finite and not row.is_zero for row in reached),
        "described": split.describe() == alone.describe(),
        "writes": ranks.gather(ranks.stages.values(ranks.tensor.values(writes(ranks)))),
    }
    prompts = [torch.arange(3, 3 + n) for n in (1, 4, 9)]
    sampling = SamplingConfig(n=2, max_new_tokens=12)
    answers = []
    for made, among_them in ((split, ranks), (alone, Alone())):
        with among(among_them):
            sampler = LocalGenerator(made.network.sampled, [2])  # type: ignore[arg-type]
            sampler.load_weights(made.publish())
        answers.append(sampler.generate(prompts, sampling, 5).result())
    pairs_of = [(a, b) for x, y in zip(*answers, strict=True) for a, b in zip(x, y, strict=True)]
    found["tokens"] = all(torch.equal(a.ids_T, b.ids_T) for a, b in pairs_of)
    found["logprobs"] = max(float((a.logprob_T - b.logprob_T).abs().max()) for a, b in pairs_of)
    return found


class Counting:
    """An axis that counts the bytes that each process sends in every exchange."""

    def __init__(self, axis: Any) -> None:
        self.axis, self.rank, self.size = axis, axis.rank, axis.size
        self.bytes = {"sum": 0, "highest": 0, "gather": 0}

    def __getattr__(self, name: str) -> Any:
        def call(x: Tensor) -> Any:
            self.bytes[name] += x.numel() * x.element_size()
            return getattr(self.axis, name)(x)

        return call


def vocabulary(_: str) -> dict[str, Any]:
    """A distribution over a split vocabulary beside the plain one: values, gradients and the bytes that were sent."""
    axis, stream = Counting(current_ranks().tensor), torch.Generator().manual_seed(3)
    tokens, size, temperature = 50, 1001, 0.7
    logits, reference = (4 * torch.randn(tokens, size, generator=stream) for _ in range(2))
    target = torch.randint(0, size, (tokens,), generator=stream)
    target[:20] = logits[:20].argmax(-1)
    weight_3C = torch.randn(3, tokens, generator=stream)
    cut = even(axis, size)
    parts = PartOfDistribution(cut)
    own = cut.own(logits).requires_grad_()
    *of_parts, top = parts.distribution(own, target, temperature)
    sent = dict(axis.bytes)
    (torch.stack(of_parts) * weight_3C[:2]).sum().backward()
    after = dict(axis.bytes)
    kl_own = cut.own(logits).requires_grad_()
    kl_parts = parts.exact_kl(kl_own, cut.own(reference))
    (kl_parts * weight_3C[2]).sum().backward()
    divergence = Divergence("jsd", 0.3)
    far_own, far_logits = cut.own(logits).requires_grad_(), logits.clone().requires_grad_()
    far_parts = divergence.between(far_own, cut.own(reference), temperature, axis)
    (far_parts * weight_3C[2]).sum().backward()
    far_plain = divergence.between(far_logits, reference, temperature)
    (far_plain * weight_3C[2]).sum().backward()
    whole_logits, kl_logits = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    *plain, plain_top = logprobs.distribution(whole_logits, target, temperature)
    (torch.stack(plain) * weight_3C[:2]).sum().backward()
    kl_plain = kl.exact(kl_logits, reference)
    (kl_plain * weight_3C[2]).sum().backward()
    assert own.grad is not None and kl_own.grad is not None
    assert whole_logits.grad is not None and kl_logits.grad is not None
    assert far_own.grad is not None and far_logits.grad is not None
    return {
        "values": apart([*of_parts, kl_parts, far_parts], [*plain, kl_plain, far_plain]),
        "gradient": apart(
            [own.grad, kl_own.grad, far_own.grad],
            [cut.own(whole_logits.grad), cut.own(kl_logits.grad), cut.own(far_logits.grad)],
        ),
        "top": torch.equal(top, plain_top) and bool(top.any()) and not bool(top.all()),
        "bytes a token": sum(sent.values()) / tokens,
        "gathered": after["gather"],
        "bytes backward": sum(after.values()) - sum(sent.values()),
    }


def _moments(made: LocalLearner) -> list[Tensor]:
    state = made.optimizer.state
    return [whole(made, p, state[p]["exp_avg"]) for p in made.parameters]


def main(mesh: ClusterConfig, cases: Sequence[str]) -> None:
    team = start_here(mesh.workers, timedelta(seconds=300))
    team.begin(mesh.shards, 1, mesh.tensor, mesh.sharded, mesh.pipeline)

    def ordered(function: str, argument: str) -> Any:
        return team.order(Order(verb=f"{__spec__.name}:{function}", arguments=[argument])).result()

    try:
        with tempfile.TemporaryDirectory() as folder:
            found = {case: ordered("compared", case) for case in cases} | {"files": ordered("files", folder)}
            if mesh.tensor > 1:
                found["vocabulary"] = ordered("vocabulary", "")
    finally:
        team.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(ClusterConfig(**json.loads(sys.argv[1])), cases=sys.argv[2:])
