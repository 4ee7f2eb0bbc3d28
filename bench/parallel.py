"""Each method on several workers against one process: how far gradients, weights and norms are apart.

    python -m bench.parallel [--mesh "data 2" "data 4"] [--only sft ppo]

Five optimizer steps of every method, from the same weights, on batches of 7, 1, 6, 3 and 5 trees of random tokens. The
batch of one tree leaves all workers but one without tokens. fp32, CPU, one thread a worker, the model ``builtin:tiny``.
Each mesh is a process of its own. The results stand in bench/results/parallel.json, as relative differences by norm;
rows that are not asked for keep their numbers.

The gradients of all steps but the first are taken at weights that differ already: AdamW makes a step of its full size
for a weight whose gradient is hardly more than rounding. So ``first`` is the difference that a mesh makes, and
``gradient``, the largest of all steps, has to be read beside that of the mesh "one process, larger micro-batches".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms.distill import DistillObjective
from concordant.algorithms.dpo import DPOObjective
from concordant.algorithms.kto import KTOObjective
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.config.cluster import ClusterConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.names import Precision, PreferenceLossName
from concordant.config.parse import over_preset
from concordant.config.presets import method_names
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.divergence import Divergence
from concordant.core.trees import Branch, PromptTree
from concordant.engines import roles
from concordant.engines.group.handles import GroupLearner
from concordant.engines.group.orders import Order
from concordant.engines.protocol import Learner
from concordant.engines.tensor.cuts import pieces_of
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "parallel.json"
YARDSTICK = "one process, larger micro-batches"  # the same sums in another order
MESHES: dict[str, ClusterConfig] = {
    "data 2": ClusterConfig(workers=2),
    "data 4": ClusterConfig(workers=4),
    "sharded 2": ClusterConfig(workers=2, sharded=True),
    "sharded 4": ClusterConfig(workers=4, sharded=True),
    "sharded 2 × tensor 2": ClusterConfig(workers=4, tensor=2, sharded=True),
    "sharded 2, offloaded": ClusterConfig(workers=2, sharded=True, offload=True),  # without a GPU: the same path
    YARDSTICK: ClusterConfig(workers=1),
    "pipeline 2": ClusterConfig(pipeline=2),
    "pipeline 2 × data 2": ClusterConfig(workers=4, pipeline=2),
    "pipeline 2 × tensor 2": ClusterConfig(pipeline=2, tensor=2),
    "pipeline 2 × data 2 × tensor 2": ClusterConfig(workers=8, pipeline=2, tensor=2),
}
# Tests compare these two with each other: the bits are the same.
IN_ORDER = {"two shards": ClusterConfig(shards=2), "two shards, data 2": ClusterConfig(workers=2, shards=2)}
BATCHES = (7, 1, 6, 3, 5)  # trees
LEARNING_RATE = 1e-3
TEXTS = ["the owl lives in a tree", "where does the owl live", "what colour is the fox"] * 8
TRAIN = TrainConfig(micro_batch_tokens=64)
MODEL = ModelConfig("builtin:tiny", device="cpu", precision="fp32")


def trees_of(count: int, seed: int, ids: int = 256) -> list[PromptTree]:
    """Trees of two branches, all of odd sizes."""
    stream = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> Tensor:
        return torch.randint(10, ids, (int(torch.randint(low, high, (1,), generator=stream)),), generator=stream)

    return [PromptTree(some(2, 24), (Branch.response(some(1, 18)), Branch.response(some(1, 18)))) for _ in range(count)]


def talks_of(count: int, seed: int) -> list[PromptTree]:
    """The same trees; every third token of an answer is an environment's, which is read and not learnt."""

    def heard(branch: Branch) -> Branch:
        return Branch(branch.ids_T, torch.arange(len(branch.ids_T)) % 3 != 1)

    return [PromptTree(tree.prompt_T, tuple(map(heard, tree.branches))) for tree in trees_of(count, seed)]


def noise(trees: Sequence[PromptTree], seed: int) -> Tensor:
    tokens = sum(branch.response_length for tree in trees for branch in tree.branches)
    return torch.randn(tokens, generator=torch.Generator().manual_seed(seed))


def _policy(lora: int = 0, precision: Precision = "fp32") -> Learner:
    config = ModelConfig("builtin:tiny", device="cpu", precision=precision, lora=LoraConfig(rank=lora))
    return roles.policy_learner(roles.open_policy(config, TEXTS), config, TRAIN)


def _reward() -> Learner:
    return roles.reward_learner(roles.new_reward_model(MODEL, TEXTS, 0, keep_lm_head=True), MODEL, TRAIN)


def _critic() -> Learner:
    config = PPOConfig(model=MODEL, train=TRAIN, critic_head="mlp")
    return roles.critic_learner(roles.open_policy(MODEL, TEXTS), config)


def _ppo(trees: Sequence[PromptTree]) -> PolicyObjective:
    old, advantage, reference = noise(trees, 1) - 6, noise(trees, 2), noise(trees, 3) - 6
    return PolicyObjective(old, advantage, reference, 0.2, "token-mean", 0.01, "exact", 0.1)


def _mix(trees: Sequence[PromptTree]) -> DPOObjective:
    """Soft labels and margins of pairs, three losses and the cross-entropy of the chosen answers."""
    wrong, margin = torch.linspace(0, 0.4, len(trees)), torch.linspace(0, 1, len(trees))
    plus: tuple[tuple[PreferenceLossName, float], ...] = (("simpo", 0.5), ("apo_zero", 0.3))
    more: dict[str, Any] = {"margin": margin, "plus": plus, "lm_coefficient": 0.2}
    return DPOObjective(torch.linspace(-9, -8, 2 * len(trees)), "sigmoid", 0.1, wrong, **more)


def _kto(trees: Sequence[PromptTree]) -> KTOObjective:
    branches = 2 * len(trees)
    return KTOObjective(
        reference_B=torch.linspace(-90, -80, branches),
        is_good_B=torch.arange(branches) % 3 == 0,
        anchor=1.5,
        loss="kto",
        beta=0.1,
        good_weight=1.3,
    )


def _student() -> Learner:
    """A policy that learns from another one of its size."""
    learner, teacher = _policy(), roles.open_policy(MODEL, TEXTS, seed=1)
    roles.learn_from(learner, teacher, MODEL, TRAIN, temperature=1.0)
    return learner


def _pairs(loss: PreferenceLossName) -> Callable[[Sequence[PromptTree]], DPOObjective]:
    return lambda trees: DPOObjective(torch.linspace(-90, -80, 2 * len(trees)), loss, 0.1)


def _preset(name: str) -> Callable[[Sequence[PromptTree]], PolicyObjective]:
    """The policy's loss of a preset of a method, on random advantages."""
    config = over_preset(PPOConfig, "ppo", [name], [])
    kl = config.kl if config.kl.place == "loss" else None

    def of(trees: Sequence[PromptTree]) -> PolicyObjective:
        return PolicyObjective(
            old_logprob_N=noise(trees, 1) - 6,
            advantage_N=noise(trees, 2),
            reference_N=noise(trees, 3) - 6,
            loss=config.policy_loss,
            clip=config.clip,
            clip_high=config.clip_high,
            aggregation=config.aggregation,
            limit=config.sampling.max_new_tokens,
            kl_estimator=kl.estimator if kl else "",
            kl_coefficient=kl.coefficient if kl else 0.0,
        )

    return of


METHODS: dict[str, tuple[Callable[[], Learner], Callable[[Sequence[PromptTree]], Any]]] = {
    "sft": (_policy, lambda trees: SFTObjective()),
    "sft with lora": (lambda: _policy(lora=4), lambda trees: SFTObjective()),
    "reward": (_reward, lambda trees: RewardObjective(torch.linspace(-1, 1, len(trees)), 0.7, 0.1, 0.01, 0.3)),
    "dpo": (_policy, lambda trees: DPOObjective(torch.zeros(2 * len(trees)), "sigmoid", 0.1, 0.1)),
    "dpo mix": (_policy, _mix),
    "simpo": (_policy, _pairs("simpo")),
    "orpo": (_policy, _pairs("orpo")),
    "kto": (_policy, _kto),
    "bco": (_policy, lambda trees: replace(_kto(trees), loss="bco")),
    "distill": (_student, lambda trees: DistillObjective(Divergence("jsd", 0.3))),
    "ppo policy": (_policy, _ppo),
    "ppo with lora": (lambda: _policy(lora=4), _ppo),
    "ppo critic": (_critic, lambda trees: ValueObjective(noise(trees, 1), noise(trees, 2), 0.2, 0.5)),
    "ppo with an environment": (_policy, _ppo),
    **{f"preset {name}": (_policy, _preset(name)) for name in method_names("ppo")},
}
TREES = {"ppo with an environment": talks_of}  # the trees of a method; of the others trees_of
# Their roundings are so coarse that no bound of 1e-5 holds for them.
IN_BF16: dict[str, tuple[Callable[[], Learner], Callable[[Sequence[PromptTree]], Any]]] = {
    "sft in bf16": (lambda: _policy(precision="bf16"), METHODS["sft"][1]),
    "ppo with lora in bf16": (lambda: _policy(4, "bf16"), _ppo),
}


# -- one side, in a process of its own ------------------------------------------------------------


def whole(tensor: Tensor, part: Any = None) -> Tensor:
    """A copy of all elements of a tensor, also if every rank has a part of it."""
    full = getattr(tensor, "full_tensor", None)
    tensor = tensor.detach() if full is None else full().detach()
    return tensor.clone() if part is None else part.whole(tensor).clone()


def gradients(learner: Any) -> dict[str, Tensor]:
    """The gradient that was added so far, by the name of the weight."""
    named, parts = learner.network.named_parameters(), pieces_of(learner.network)
    return {name: whole(p.grad, parts.get(id(p))) for name, p in named if p.requires_grad and p.grad is not None}


def weights(learner: Any) -> dict[str, Tensor]:
    named, parts = learner.network.named_parameters(), pieces_of(learner.network)
    return {name: whole(p, parts.get(id(p))) for name, p in named if p.requires_grad}


def elements(learner: Any) -> dict[str, int]:
    """How many numbers this rank holds, by part."""
    parts = [*learner.network.parameters()]
    moments = [m for state in learner.optimizer.state.values() for m in state.values() if m.ndim]
    return {
        "weights": sum(local(p).numel() for p in parts),
        "gradients": sum(local(p.grad).numel() for p in parts if p.grad is not None),
        "moments": sum(m.numel() for m in moments),
    }


def local(tensor: Tensor) -> Tensor:
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _of(look: Callable[[Any], dict[str, Any]], learner: Any) -> dict[str, Any]:
    """What ``look`` says of the learner, of that of rank 0 if there are several."""
    if not isinstance(learner, GroupLearner):
        return look(learner)
    return learner.team.order(Order(verb=f"bench.parallel:{look.__name__}", arguments=[learner.ref])).result()


def measure(method: str, cluster: ClusterConfig, batches: Sequence[int] = BATCHES) -> dict[str, Any]:
    """Gradients and gradient norms of every step, and the last weights and numbers held."""
    make, objective_of = (METHODS | IN_BF16)[method]
    found: dict[str, Any] = {"gradients": [], "norms": []}
    with roles.working_together(cluster, threads=1):
        learner = make()
        for step, count in enumerate(batches):
            trees = TREES.get(method, trees_of)(count, seed=step)
            learner.forward_backward(trees, objective_of(trees)).result()
            found["gradients"].append(_of(gradients, learner))
            found["elements"] = _of(elements, learner)
            found["norms"].append(learner.step(LEARNING_RATE).result().grad_norm)
        found["weights"] = _of(weights, learner)
    return found


# -- comparing ------------------------------------------------------------------------------------


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """‖one - other‖ / ‖other‖ over all tensors together."""
    if one.keys() != other.keys():
        raise ValueError(f"not the same tensors: {sorted(one.keys() ^ other.keys())[:3]}")
    return length({name: one[name].double() - other[name].double() for name in one}) / max(length(other), 1e-150)


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative differences over the steps. ``norm`` compares a learner's norm with its own gradient.

    ``held`` is the share of weights, gradients and moments that rank 0 holds, compared with one process.
    """
    gradients = [apart(a, b) for a, b in zip(one["gradients"], other["gradients"], strict=True)]
    norms = zip(one["norms"], map(length, one["gradients"]), strict=True)
    return {
        "first": gradients[0],
        "gradient": max(gradients),
        "weights": apart(one["weights"], other["weights"]),
        "norm": max(abs(a - b) / b for a, b in norms),
        "held": sum(one["elements"].values()) / sum(other["elements"].values()),
    }


def length(tensors: Mapping[str, Tensor]) -> float:
    """The norm of all tensors together."""
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def side(mesh: str, methods: Sequence[str], file: str) -> dict[str, Any]:
    """What ``measure`` finds on ``mesh``, "" for one process; in a process of its own."""
    command = [sys.executable, "-m", "bench.parallel", "--side", file, "--mesh", mesh, "--only", *methods]
    subprocess.run(command, check=True)
    return torch.load(file, weights_only=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", nargs="+", default=list(MESHES), choices=["", *MESHES, *IN_ORDER])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=[*METHODS, *IN_BF16])
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="trees of each step; used by tests")
    parser.add_argument("--side", default="", help="write what one mesh computes into this file; used by this program")
    given = parser.parse_args()
    if given.side:
        cluster = (MESHES | IN_ORDER).get(given.mesh[0], ClusterConfig(workers=1))
        TRAIN.micro_batch_tokens = 1_000 if given.mesh[0] == YARDSTICK else TRAIN.micro_batch_tokens
        torch.save({method: measure(method, cluster, given.batches) for method in given.only}, given.side)
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["methods"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        alone = side("", given.only, f"{folder}/alone")
        for mesh in given.mesh:
            found = side(mesh, given.only, f"{folder}/side")
            for method in given.only:
                known.setdefault(method, {})[mesh] = row = compared(found[method], alone[method])
                print(f"{method:27} {mesh:33} " + "  ".join(f"{n} {x:.1e}" for n, x in row.items()), flush=True)
            write(known)


def write(methods: Mapping[str, Any]) -> None:
    about = {"batches": list(BATCHES), "torch": torch.__version__, "concordant": package_version()}
    RESULTS.write_text(json.dumps(about | {"methods": methods}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
