"""Exercises 6 and 7: GAE, and the loss of a PPO step."""

from __future__ import annotations

from types import ModuleType

import torch

from concordant.core.seeding import torch_stream
from concordant.course.exercise import Exercise, Mistake, Observed


def observe_gae(module: ModuleType) -> Observed:
    rewards, values = torch.tensor([0.1, -0.2, 0.0, 1.0]), torch.tensor([0.5, 0.4, 0.6, 0.8])
    seen: Observed = {}
    for gamma, lam in ((0.9, 0.8), (1.0, 1.0), (1.0, 0.0)):
        advantages, returns = module.compute_advantages(rewards.clone(), values.clone(), gamma, lam)
        seen[f"the advantages with γ = {gamma} and λ = {lam}"] = advantages.tolist()
        seen[f"the returns with γ = {gamma} and λ = {lam}"] = returns.tolist()
    return seen


GAE = Exercise(
    number=6,
    phase="Phase 5: PPO",
    name="gae",
    title="GAE",
    hint="Keep A of the following token in a variable, and begin with 0 behind the last token.",
    observe=observe_gae,
    mistakes=(
        Mistake(
            name="forward in time",
            old="in reversed(range(len(rewards_T)))",
            new="in range(len(rewards_T))",
            says="The loop goes forward. The advantage of a token needs that of the following token, so go backward.",
        ),
        Mistake(
            name="lambda is missing",
            old="delta + gamma * lam * following",
            new="delta + gamma * following",
            says="λ does not act: the sum of the δ is only discounted by γ. It must be by γ λ.",
        ),
        Mistake(
            name="gamma is missing in delta",
            old="rewards_T[t] + gamma * next_value",
            new="rewards_T[t] + next_value",
            says="The value of the next token is not discounted by γ in δ.",
        ),
        Mistake(
            name="the last value again",
            old="values_T[t + 1] if t + 1 < len(values_T) else 0.0",
            new="values_T[min(t + 1, len(values_T) - 1)]",
            says="Behind the last token a value is taken that is not 0. The response has ended; nothing more comes.",
        ),
        Mistake(
            name="the value of the token itself",
            old="values_T[t + 1] if t + 1 < len(values_T) else 0.0",
            new="values_T[t]",
            says="δ uses the value of the token itself where it needs that of the next token.",
        ),
        Mistake(
            name="returns without values",
            old="return advantages_T, advantages_T + values_T",
            new="return advantages_T, advantages_T",
            says="The returns are the advantages. The critic's target is the advantage plus the value.",
        ),
    ),
)


def observe_ppo(module: ModuleType) -> Observed:
    stream = torch_stream(0, "course/ppo")
    old = -2 * torch.rand(6, generator=stream) - 0.5
    ratio = torch.tensor([1.0, 1.1, 1.5, 1.5, 0.6, 0.6])
    new = (old + ratio.log()).requires_grad_(True)
    advantages = torch.tensor([1.0, -0.5, 2.0, -2.0, 1.5, -1.5])
    reference = old + 0.3 * torch.randn(6, generator=stream)
    loss, clipped = module.ppo_loss(new, old, reference, advantages, clip=0.2, beta=0.4)
    loss.backward()
    assert new.grad is not None
    alone, _ = module.ppo_loss(old, old, old, advantages, clip=0.2, beta=0.4)
    return {
        "the loss of six tokens": float(loss.detach()),
        "the gradient of the log-probs": new.grad.tolist(),
        "the share of clipped tokens": float(clipped),
        "the loss of a policy that has not moved": float(alone),
    }


PPO = Exercise(
    number=7,
    phase="Phase 5: PPO",
    name="ppo_step",
    title="The loss of a PPO step",
    hint="Compute both surrogates of each token, and take the smaller one of each pair. Then the mean, then the sign.",
    observe=observe_ppo,
    mistakes=(
        Mistake(
            name="the sign",
            old="-surrogate_N.mean()",
            new="surrogate_N.mean()",
            says="The surrogate is minimised. PPO maximises it, so the loss has a minus before it.",
        ),
        Mistake(
            name="maximum and not minimum",
            old="torch.minimum(ratio_N",
            new="torch.maximum(ratio_N",
            says="The larger surrogate is taken. The smaller one is the pessimistic bound that PPO needs.",
        ),
        Mistake(
            name="only the clipped surrogate",
            old="torch.minimum(ratio_N * advantage_N, limited_N * advantage_N)",
            new="limited_N * advantage_N",
            says="Only the clipped surrogate is used. A token that moved in the wrong direction then has no gradient "
            "and never comes back.",
        ),
        Mistake(
            name="no clipping",
            old="torch.minimum(ratio_N * advantage_N, limited_N * advantage_N)",
            new="ratio_N * advantage_N",
            says="Nothing is clipped, so one batch may move the policy as far as it likes.",
        ),
        Mistake(
            name="the ratio to the reference",
            old="torch.exp(logprob_N - old_logprob_N)",
            new="torch.exp(logprob_N - reference_logprob_N)",
            says="The ratio is taken to the reference. It must be to the policy that sampled, π_old.",
        ),
        Mistake(
            name="the ratio is upside down",
            old="torch.exp(logprob_N - old_logprob_N)",
            new="torch.exp(old_logprob_N - logprob_N)",
            says="The ratio is π_old / π. It must be π / π_old.",
        ),
        Mistake(
            name="the penalty is missing",
            old=" + beta * penalty_N.mean()",
            new="",
            says="The KL penalty is missing, so nothing holds the policy near the reference.",
        ),
        Mistake(
            name="the penalty has the wrong sign",
            old=" + beta * penalty_N.mean()",
            new=" - beta * penalty_N.mean()",
            says="The KL penalty is subtracted from the loss, so the policy is paid for leaving the reference.",
        ),
    ),
)
