"""This package's numbers for every comparison, through the learner and the objectives that the commands use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForSequenceClassification

from concordant.algorithms.distill import DistillObjective
from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.experience import learnt_part
from concordant.algorithms.kto import KTOObjective, finish, kl_estimate, middle
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective, share_prompts
from concordant.config.train import TrainConfig
from concordant.core import kl
from concordant.core.advantages import ADVANTAGES, Returns, gae
from concordant.core.divergence import Divergence
from concordant.core.masked import branch_of_token, sum_by_branch, whiten
from concordant.core.objective import Objective, Outputs
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, Network, PolicyNetwork, RewardNetwork
from concordant.engines.reward_model import RewardModel
from concordant.models.layout import check_layout
from concordant.models.load import Policy
from concordant.models.scalar_head import Critic, LinearValueHead
from concordant.models.traits import ModelTraits
from tests.parity import case
from tests.parity.figures import Figures

WHOLE, CUT = 8192, 1  # tokens a micro-batch: all in one, and a tree each


def all_figures(peer_ppo: Mapping[str, Figures]) -> dict[str, Figures]:
    """Every comparison; objectives of policies are given the peer's old log-probs, advantages, values and returns."""
    made = sft() | {name: dpo(setting) for name, setting in case.DPO.items()}
    made |= {name: kto(setting) for name, setting in case.KTO.items()} | {"orpo/orpo": dpo(case.ORPO)}
    made |= {"dpo/sigmoid uneven": dpo(case.DPO["dpo/sigmoid"], CUT)}
    made |= {name: reward(setting) for name, setting in case.REWARDS.items()}
    made |= {name: distill(setting) for name, setting in case.DISTILL.items()}
    made |= {name: bco(left_out) for name, left_out in case.BCO_LEFT_OUT.items()}
    made |= {name: rloo(sampler, peer_ppo[name]) for name, sampler in case.RLOO_SAMPLERS.items() if name in peer_ppo}
    for name, setting in case.POLICIES.items():
        if f"policy/{name}" in peer_ppo:
            made[f"policy/{name}"] = policy(setting, peer_ppo[f"policy/{name}"])
    for name in case.PPO_LENGTHS:
        if f"ppo/policy {name}" in peer_ppo:
            made |= ppo(name, peer_ppo)
    return made


# -- supervised -------------------------------------------------------------------------------------


def sft() -> dict[str, Figures]:
    pairs = case.pairs()
    prompts = [torch.tensor(p.prompt) for p in pairs]
    chosen = [PromptTree(x, (Branch.response(p.chosen),)) for x, p in zip(prompts, pairs, strict=True)]
    both = [
        PromptTree(x, (Branch.response(ids),))
        for x, p in zip(prompts, pairs, strict=True)
        for ids in (p.chosen, p.rejected)
    ]
    turns = []
    for ids, spoken in case.turns():
        start = spoken.index(1)
        branch = Branch(torch.tensor(ids[start:]), torch.tensor(spoken[start:], dtype=torch.bool))
        turns.append(PromptTree(torch.tensor(ids[:start]), (branch,)))
    return {
        "sft/chosen": learn(policy_learner(), chosen, SFTObjective()),
        "sft/accumulated": learn(policy_learner(CUT), chosen, SFTObjective()),
        "sft/both answers": learn(policy_learner(), share_prompts(both), SFTObjective()),
        "sft/turns": learn(policy_learner(), turns, SFTObjective()),
    }


def dpo(setting: case.DPOSetting, micro_batch_tokens: int = WHOLE) -> Figures:
    trees = pair_trees()
    reference_B = reference_logprobs(policy_learner(variant=case.REFERENCE), trees)
    objective = DPOObjective(
        reference_B,
        setting.loss,
        setting.beta,
        setting.label_smoothing,
        margin=setting.margin,
        plus=setting.plus,
        lm_coefficient=setting.lm,
        f_divergence=setting.f_divergence,
    )
    return learn(policy_learner(micro_batch_tokens), trees, objective)


def kto(setting: case.DPOSetting) -> Figures:
    """On paired data. As TRL does, the answer to another prompt is that of the row before, in a circle."""
    variants = (case.REFERENCE, case.POLICY) if setting.swapped else (case.POLICY, case.REFERENCE)
    trees, (learner, reference) = pair_trees(), (policy_learner(variant=variant) for variant in variants)
    prompts = [tree.prompt_T for tree in trees for _ in tree.branches]
    answers = [branch for tree in trees for branch in tree.branches]
    foreign = [PromptTree(x, (b,)) for x, b in zip(prompts, answers[-1:] + answers[:-1], strict=True)]
    anchor = kl_estimate(learner, reference_logprobs(reference, foreign), foreign) if setting.loss == "kto" else 0.0
    good, bad = case.KTO_WEIGHTS
    objective = KTOObjective(
        reference_B=reference_logprobs(reference, trees),
        is_good_B=torch.tensor([True, False] * len(trees)),
        anchor=anchor,
        loss=setting.loss,
        beta=setting.beta,
        good_weight=good,
        bad_weight=bad,
    )
    figures = learn(learner, trees, objective)
    figures.metrics = finish(figures.metrics)
    return figures


def bco(left_out: int, anchor: float | None = None) -> Figures:
    """BCO in one step. ``anchor``: nats, in place of the middle of the two sides' means."""
    learner, trees, is_good_B, reference_B = policy_learner(), *bco_answers(left_out)
    if anchor is None:
        anchor = middle(learner, reference_B, is_good_B, trees)
    loss, beta = case.BCO.loss, case.BCO.beta
    objective = KTOObjective(reference_B=reference_B, is_good_B=is_good_B, anchor=anchor, loss=loss, beta=beta)
    figures = learn(learner, trees, objective)
    figures.metrics = finish(figures.metrics)
    return figures


def bco_answers(left_out: int) -> tuple[list[PromptTree], Tensor, Tensor]:
    """Trees, which of their answers are good, and the reference's log-probs of the answers."""
    rated = case.rated(left_out)
    trees = [
        PromptTree(torch.tensor(p.prompt), tuple(Branch.response(p.chosen if good else p.rejected) for good in labels))
        for p, labels in rated
    ]
    is_good_B = torch.tensor([good for _, labels in rated for good in labels])
    return trees, is_good_B, reference_logprobs(policy_learner(variant=case.REFERENCE), trees)


def reward(setting: case.RewardSetting) -> Figures:
    model = case.classifier()
    reward_model = RewardModel(
        model=model,
        tokenizer=case.tokenizer(),
        traits=ModelTraits(check_layout(model)),
        is_encoder=False,
        name="parity",
    )
    learner = LocalLearner(RewardNetwork(reward_model), TrainConfig())
    margin_P = torch.tensor(case.MARGINS if setting.margin else [0.0] * len(case.MARGINS))
    figures = learn(learner, pair_trees(), RewardObjective(margin_P, centering=setting.centering))
    figures.gradient = case.gradient_of(model.named_parameters())
    return figures


def distill(setting: case.DistillSetting) -> Figures:
    """The student learns from both answers of the pairs, beside a teacher with the reference's weights."""
    learner = policy_learner(CUT, temperature=setting.temperature)
    learner.set_reference(policy_learner(variant=case.REFERENCE, temperature=setting.temperature))
    return learn(learner, pair_trees(), DistillObjective(Divergence(setting.divergence, setting.trl_beta)))


def pair_trees() -> list[PromptTree]:
    return [
        PromptTree(torch.tensor(p.prompt), (Branch.response(p.chosen), Branch.response(p.rejected)))
        for p in case.pairs()
    ]


# -- PPO --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What PPO knows before its gradient steps, a number a response token."""

    old_logprob_N: Tensor
    reference_N: Tensor
    value_N: Tensor
    return_N: Tensor
    advantage_N: Tensor  # whitened


def ppo(name: str, peer: Mapping[str, Figures]) -> dict[str, Figures]:
    judged = judge(name)
    trees = answer_trees(name)
    policy, value = peer[f"ppo/policy {name}"], peer[f"ppo/value {name}"]
    old_N, advantage_N = torch.tensor(policy.tokens["old_logprob"]), torch.tensor(policy.tokens["advantage"])
    objective = PolicyObjective(old_N, advantage_N, judged.reference_N, case.PPO.clip, "token-mean")
    made = learn(policy_learner(temperature=case.PPO.temperature), trees, objective)
    made.tokens = {
        "old_logprob": judged.old_logprob_N.tolist(),
        "reference_logprob": judged.reference_N.tolist(),
        "return": judged.return_N.tolist(),
        "advantage": judged.advantage_N.tolist(),
    }
    learnt = learn_values(trees, value.tokens)
    learnt.tokens = {"old_value": judged.value_N.tolist()}
    return {f"ppo/policy {name}": made, f"ppo/value {name}": learnt}


def policy(setting: case.PolicySetting, peer: Figures) -> Figures:
    """A policy loss on TRL's advantages, and our advantages of the same rewards, one for each answer."""
    trees, length_B = group_trees()
    advantage_N = ADVANTAGES[setting.advantage](_returns(setting, torch.zeros(int(length_B.sum()))))[0]
    token, learnt_B = branch_of_token(length_B), torch.tensor(peer.tokens["is_learnt"]) > 0
    kept, tokens_N = learnt_part(trees, range(len(trees)), learnt_B)
    old_N, reference_N = (torch.tensor(peer.tokens[f"{side}_logprob"])[tokens_N] for side in ("old", "reference"))
    objective = PolicyObjective(
        old_logprob_N=old_N,
        advantage_N=torch.tensor(peer.tokens["advantage"])[token][tokens_N],
        reference_N=reference_N,
        kl_estimator="k3" if setting.beta else "",
        kl_coefficient=setting.beta,
        **setting.ours,
    )
    made = learn(policy_learner(), kept, objective)
    made.tokens = {
        "old_logprob": _logprobs(trees, case.OLD, 1.0).tolist(),
        "advantage": advantage_N[length_B.cumsum(0) - 1].tolist(),
    }
    return made


def rloo(sampler: int, peer: Figures) -> Figures:
    """RLOO with the KL in the reward, its loss on TRL's advantages; numbers of tokens are one for each answer."""
    setting, (trees, length_B) = case.RLOO, group_trees()
    old_N, reference_N = _logprobs(trees, sampler, 1.0), _logprobs(trees, case.REFERENCE, 1.0)
    returns = _returns(setting, -setting.beta * kl.k1(old_N, reference_N))
    advantage_N = ADVANTAGES[setting.advantage](returns)[0]
    given_N = torch.tensor(peer.tokens["advantage"])[branch_of_token(length_B)]
    made = learn(policy_learner(), trees, PolicyObjective(old_N, given_N, reference_N, **setting.ours))
    made.tokens = {
        "old_logprob": sum_by_branch(old_N, length_B).tolist(),
        "advantage": advantage_N[length_B.cumsum(0) - 1].tolist(),
    }
    return made


def group_trees() -> tuple[list[PromptTree], Tensor]:
    """The groups of answers of ``case.GROUP``, and the length of every answer."""
    pairs, answers = case.pairs(), case.answers("short")
    groups = [answers[i : i + case.GROUP] for i in range(0, len(answers), case.GROUP)]
    trees = [
        PromptTree(torch.tensor(pairs[i].prompt), tuple(Branch.response(ids) for ids in group))
        for i, group in enumerate(groups)
    ]
    return trees, torch.tensor([len(ids) for ids in answers])


def _returns(setting: case.PolicySetting, penalty_N: Tensor) -> Returns:
    trees, length_B = group_trees()
    return Returns(
        score_B=torch.tensor([score or 0.0 for score in setting.scores]),
        penalty_N=penalty_N,
        value_N=torch.zeros(int(length_B.sum())),
        length_B=length_B,
        group_B=torch.arange(len(trees)).repeat_interleave(case.GROUP),
        scored_B=torch.tensor([score is not None for score in setting.scores]),
    )


def learn_values(trees: Sequence[PromptTree], given: Mapping[str, list[float]]) -> Figures:
    """The critic's loss and gradient for given old values and returns, by the names of the peer's classifier.

    The head's bias, which the peer has not, is left out.
    """
    model = case.classifier(case.CRITIC)
    learner = critic_learner(model)
    old_value_N, return_N = torch.tensor(given["old_value"]), torch.tensor(given["return"])
    made = learn(learner, trees, ValueObjective(old_value_N, return_N, case.PPO.value_clip, coefficient=0.5))
    network = learner.network
    assert isinstance(network, CriticNetwork)
    backbone, head = (case.gradient_of(part.named_parameters()) for part in (network.backbone, network.head))
    made.gradient = {f"model.{n}": g for n, g in backbone.items()} | {"score.weight": head["output.weight"]}
    return made


def judge(name: str) -> Judged:
    """Old and reference log-probs, values, rewards, returns and advantages of the given answers."""
    trees, setting = answer_trees(name), case.PPO
    length_B = torch.tensor([len(ids) for ids in case.answers(name)])
    old_N = _logprobs(trees, case.OLD)
    reference_N = _logprobs(trees, case.REFERENCE)
    value_N = critic_learner(case.classifier(case.CRITIC)).forward(trees, Outputs(value=True)).result().value_N
    assert value_N is not None
    value_N = value_N + torch.cat([case.drift(row, int(n)) for row, n in enumerate(length_B)])
    reward_N = -setting.kl_coefficient * kl.k1(old_N, reference_N)
    reward_N[length_B.cumsum(0) - 1] += torch.tensor(case.SCORES)
    groups = torch.arange(len(length_B))
    given = Returns(
        score_B=torch.zeros(len(length_B)),
        penalty_N=reward_N,
        value_N=value_N,
        length_B=length_B,
        group_B=groups,
        gamma=setting.gamma,
        lam=setting.lam,
    )
    advantage_N, return_N = gae(given)
    return Judged(old_N, reference_N, value_N, return_N, whiten(advantage_N))


def answer_trees(name: str) -> list[PromptTree]:
    return [
        PromptTree(torch.tensor(p.prompt), (Branch.response(ids),))
        for p, ids in zip(case.pairs(), case.answers(name), strict=True)
    ]


def critic_learner(model: LlamaForSequenceClassification) -> LocalLearner:
    """Our critic of the peer's, which is a sequence classifier: its backbone, and its head without a bias."""
    head = LinearValueHead(model.config.hidden_size)
    with torch.no_grad():
        head.output.weight.copy_(model.score.weight)
    return LocalLearner(CriticNetwork(Critic(model.model, head, check_layout(model))), TrainConfig())


# -- shared -----------------------------------------------------------------------------------------


def policy_learner(
    micro_batch_tokens: int = WHOLE, variant: int = case.POLICY, temperature: float = 1.0
) -> LocalLearner:
    return LocalLearner(_policy(variant), TrainConfig(micro_batch_tokens=micro_batch_tokens), temperature=temperature)


def _policy(variant: int) -> Network:
    model = case.language_model(variant)
    layout = check_layout(model)
    assert layout is Layout.TREE  # the comparison is of prompt trees with plain rows
    return PolicyNetwork(Policy(model=model, tokenizer=case.tokenizer(), traits=ModelTraits(layout), name="parity"))


def _logprobs(trees: Sequence[PromptTree], variant: int, temperature: float = case.PPO.temperature) -> Tensor:
    learner = policy_learner(variant=variant, temperature=temperature)
    out = learner.forward(trees, Outputs(logprob=True)).result()
    assert out.logprob_N is not None
    return out.logprob_N


def learn(learner: LocalLearner, trees: Sequence[PromptTree], objective: Objective) -> Figures:
    metrics = learner.forward_backward(trees, objective).result()
    loss = metrics.pop("loss")
    network = learner.network
    gradient = case.gradient_of(network.model.named_parameters()) if isinstance(network, PolicyNetwork) else {}
    return Figures(loss, metrics, gradient)
