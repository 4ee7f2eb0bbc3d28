"""The lessons of the page "Learn": their words, formulas and inputs."""

from __future__ import annotations

from concordant.studio.lesson_maths import (
    Input,
    Lesson,
    best_of_n,
    bradley_terry,
    clipped,
    controller,
    estimators,
    gae,
    implicit,
    preferences,
)
from concordant.studio.lesson_run import over_optimisation

LESSONS: dict[str, Lesson] = {
    "bradley-terry": Lesson(
        "Bradley–Terry: from two rewards to a probability",
        "A reward model gives two rewards. Their difference alone says how likely people choose the first "
        "answer. Adding "
        "the same number to both rewards changes nothing; a larger scale makes the model more certain.",
        "loss = -log σ((chosen - rejected) / temperature - margin)",
        (
            Input("chosen", "reward of the chosen answer", 1.0, -10, 10, 0.1),
            Input("rejected", "reward of the rejected answer", 0.0, -10, 10, 0.1),
            Input("margin", "margin", 0.0, 0, 5, 0.1),
            Input("temperature", "temperature", 1.0, 0.1, 10, 0.1),
        ),
        bradley_terry,
    ),
    "preferences": Lesson(
        "A graph of preferences: ratings and cycles",
        "Comparisons become ratings. A cycle, in which a beats b, b beats c and c beats a, has no rating that "
        "explains it.",
        "P(a beats b) = σ(rating of a - rating of b)",
        (Input("wins", "comparisons, winner first", "a>b, a>b, b>c, c>a, a>c, b>c"),),
        preferences,
    ),
    "clip": Lesson(
        "PPO: the clipped objective",
        "PPO takes the smaller of two objectives. Where the ratio has already moved far in the direction that "
        "the advantage "
        "asks for, the objective is flat and its gradient is 0.",
        "min(ratio · A, clip(ratio, 1 - ε, 1 + ε) · A)",
        (
            Input("ratio", "ratio", 1.1, 0.02, 3, 0.01),
            Input("advantage", "advantage A", 1.0, -3, 3, 0.1),
            Input("clip", "clip range ε", 0.2, 0.01, 0.9, 0.01),
        ),
        clipped,
    ),
    "kl": Lesson(
        "Estimators of the KL",
        "Tokens are sampled from the policy, and each estimator gives a number for each token. All three "
        "shown means can be "
        "compared with the exact KL. k1 can be negative for one token; k3 cannot.",
        "k1 = -log r; k2 = (log r)² / 2; k3 = r - 1 - log r; r = reference / policy",
        (
            Input("policy", "logits of the policy", "2, 1, 0, -1"),
            Input("reference", "logits of the reference", "1, 1, 1, 0"),
        ),
        estimators,
    ),
    "controller": Lesson(
        "The adaptive KL controller",
        "The controller raises the weight of the KL penalty while the KL is above its target. The drift of "
        "the policy is a "
        "simple model here: each step goes a tenth of the way to the KL at which reward and penalty balance.",
        "coefficient · (1 + clip(KL / target - 1, ±0.2) · responses / horizon)",
        (
            Input("coefficient", "coefficient at the start", 0.05, 0.001, 2, 0.001),
            Input("target", "target KL (nats a response)", 6.0, 0.1, 50, 0.1),
            Input("horizon", "horizon (responses)", 2000, 1, 100_000, 1),
            Input("responses", "responses a step", 128, 1, 10_000, 1),
            Input("pull", "strength of the reward's pull", 1.0, 0.01, 10, 0.01),
            Input("steps", "steps", 300, 10, 2000, 10),
        ),
        controller,
    ),
    "gae": Lesson(
        "GAE: advantages token by token",
        "λ = 0 believes the critic; λ = 1 believes what was received. Usually the only reward stands on the "
        "last token.",
        "A(t) = Σ (γλ)^k · δ(t + k), δ(t) = r(t) + γ · V(t + 1) - V(t)",
        (
            Input("rewards", "rewards of the tokens", "0, 0, -0.1, 0, 0, 1"),
            Input("values", "values of the critic", "0.3, 0.4, 0.4, 0.2, 0.5, 0.8"),
            Input("gamma", "discount γ", 1.0, 0, 1, 0.01),
            Input("lam", "λ", 0.95, 0, 1, 0.01),
        ),
        gae,
    ),
    "dpo": Lesson(
        "DPO: the implicit reward",
        "DPO trains no reward model. β times the log-ratio of policy and reference acts as the reward of an answer.",
        "loss = -log σ(β · (log-ratio of the chosen - log-ratio of the rejected))",
        (
            Input("chosen", "log-prob of the chosen answer, policy", -20.0, -200, 0, 0.5),
            Input("chosen_reference", "the same, reference", -22.0, -200, 0, 0.5),
            Input("rejected", "log-prob of the rejected answer, policy", -24.0, -200, 0, 0.5),
            Input("rejected_reference", "the same, reference", -23.0, -200, 0, 0.5),
            Input("beta", "β", 0.1, 0.01, 2, 0.01),
        ),
        implicit,
    ),
    "best-of-n": Lesson(
        "Best-of-n: gain against KL",
        "The best of n answers is better by the proxy, but less and less so for each further nat. The true "
        "quality gains "
        "only the part that the proxy knows of it: the correlation of the two.",
        "KL ≤ log n - (n - 1) / n",
        (
            Input("n", "answers n", 16, 1, 256, 1),
            Input("correlation", "correlation of proxy and true quality", 0.7, 0, 1, 0.01),
        ),
        best_of_n,
    ),
    "over-optimisation": Lesson(
        "Over-optimisation: a run of toytalk",
        "The policy learns to please the reward model. At first its answers become better. Later only the proxy rises, "
        "and the true quality falls: read the answers beside the numbers. Any run of PPO on toytalk can be shown.",
        "proxy: the mean score of the reward model; gold: the true quality, which toytalk knows",
        (Input("prompt", "held-out prompt, by its number", 1, 1, 8, 1),),
        over_optimisation,
        reads_run=True,
    ),
}
