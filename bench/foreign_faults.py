"""What is planted into TRL's runs. A cause and what is right are said in plain words, and no rule is named.

``evidence`` says which numbers of TRL's log show the fault; '' where the log does not show it, so that the right
answer is to say which rules did not look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Planted:
    name: str
    trainer: str  # sft, dpo, reward or grpo
    cause: str  # "healthy" where nothing is planted
    right: str  # what a reader of the diagnosis must have learnt
    evidence: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # over those of the healthy run of this trainer
    data: str = "clean"  # a function of bench/foreign_trl.py::DATA
    reward: str = "model"  # GRPO: a function of bench/foreign_trl.py::REWARDS, or the reward model
    start: str = "trained"  # "trained", or "random" weights of the same shape
    reference: str = ""  # DPO: "random" takes another model as the reference
    broken_at: int = 0  # the step whose loss is not a number; 0: none
    seed: int = 0


def _rate(trainer: str, factor: float) -> dict[str, Any]:
    return {"learning_rate": HEALTHY_RATE[trainer] * factor}


HEALTHY_RATE = {"sft": 1e-3, "dpo": 1e-4, "reward": 5e-4, "grpo": 2e-4}
FAST = "the learning rate is far too high"
SLOW = "the learning rate is far too low"

PLANTED: tuple[Planted, ...] = (
    # SFT
    Planted(name="sft-fast", trainer="sft", cause=FAST, right="lower the learning rate by a factor of 10 to 300",
            evidence="the loss rises and stays above its start", settings=_rate("sft", 300)),
    Planted(name="sft-slow", trainer="sft", start="random", cause=SLOW,
            right="raise the learning rate by a factor of 30 to 3000",
            evidence="the loss stays where it began, near ln of the vocabulary", settings=_rate("sft", 1 / 3000)),
    Planted(name="sft-nan", trainer="sft", cause="the loss of a step is not a number and spoils the weights",
            right="the numbers are not finite from step 15 on: look at the batch or the precision, not at the rate",
            evidence="grad_norm and eval_loss are NaN from step 15 on, and the loss is 0", broken_at=15),
    Planted(name="sft-by-heart", trainer="sft", data="forty", cause="overfitting: 40 examples are seen 24 times",
            right="fewer epochs or more data; the best evaluation came early",
            evidence="eval_loss rises while loss falls", settings={"learning_rate": 4e-3, "max_steps": 60}),
    Planted(name="sft-few-steps", trainer="sft", start="random",
            cause="five steps are far too few for an untrained start",
            right="train for many more steps; the loss is still near ln of the vocabulary",
            evidence="max_steps 5, the loss is far above that of a trained model", settings={"max_steps": 5}),
    Planted(name="sft-exchanged", trainer="sft", data="prompt_as_answer",
            cause="prompt and answer are exchanged in the training data",
            right="the columns of the training data are exchanged: held-out loss rises from the first evaluation on",
            evidence="eval_loss rises from the first evaluation, and the gap is nats"),
    Planted(name="sft-decay", trainer="sft", settings={"weight_decay": 300.0, "max_steps": 60},
            cause="the weight decay is so strong that the weights shrink to nothing",
            right="lower the weight decay; the learning rate is all right",
            evidence="loss and entropy rise towards ln of the vocabulary at a healthy rate"),
    # DPO
    Planted(name="dpo-fast", trainer="dpo", cause=FAST, right="lower the learning rate by a factor of 10 to 100",
            evidence="logps/chosen falls from -7 to -80 within a few steps, and the loss jumps about",
            settings=_rate("dpo", 100)),
    Planted(name="dpo-slow", trainer="dpo", cause=SLOW, right="raise the learning rate by a factor of 30 to 3000",
            evidence="loss stays at ln 2 and rewards at 0", settings=_rate("dpo", 1 / 3000)),
    Planted(name="dpo-swapped", trainer="dpo", data="swapped",
            cause="chosen and rejected are exchanged in the training data",
            right="the labels of training and evaluation contradict each other: exchange the columns",
            evidence="rewards/accuracies above, eval_rewards/accuracies below one half",
            settings={"max_steps": 60, "learning_rate": 4e-4}),
    Planted(name="dpo-identical", trainer="dpo", data="identical",
            cause="chosen and rejected are the same text in every pair",
            right="the two answers of the training pairs are equal: read the data again",
            evidence="margins are exactly 0 and the loss is exactly ln 2, while eval numbers exist"),
    Planted(name="dpo-small-beta", trainer="dpo", settings={"beta": 0.002, "learning_rate": 6e-4, "max_steps": 50},
            cause="beta is so small that the policy drifts without bound",
            right="raise beta to about 0.1",
            evidence="margins stay near 0 while logps/chosen falls by 17 nats"),
    Planted(name="dpo-large-beta", trainer="dpo", settings={"beta": 20.0},
            cause="beta is so large that the loss jumps about",
            right="lower beta to about 0.1; the learning rate is all right",
            evidence="margins of several nats though eval_logps/chosen moves by less than 0.1 nats"),
    Planted(name="dpo-reference", trainer="dpo", reference="random",
            cause="the reference is another model than the policy's start",
            right="take the start of the policy as the reference",
            evidence="rewards are far from 0 at step 1"),
    Planted(name="dpo-untrained", trainer="dpo", start="random", cause="the policy was never trained before DPO",
            right="train with SFT first",
            evidence="logps/chosen is about the length times ln of the vocabulary"),
    Planted(name="dpo-noise", trainer="dpo", data="coin", cause="the labels were drawn by chance",
            right="the labels say nothing: read pairs",
            evidence="accuracy stays at one half while logps move", settings={"max_steps": 60}),
    # reward models
    Planted(name="reward-fast", trainer="reward", cause=FAST, right="lower the learning rate by a factor of 10 to 100",
            evidence="the loss is above ln 2 at the first evaluation and then stays at ln 2",
            settings=_rate("reward", 100)),
    Planted(name="reward-slow", trainer="reward", cause=SLOW,
            right="raise the learning rate by a factor of 30 to 3000",
            evidence="loss stays where it began and margin near 0", settings=_rate("reward", 1 / 3000)),
    Planted(name="reward-swapped", trainer="reward", data="swapped",
            cause="chosen and rejected are exchanged in the training data",
            right="the labels of training and evaluation contradict each other: exchange the columns",
            evidence="accuracy above, eval_accuracy below one half", settings={"max_steps": 60}),
    Planted(name="reward-mark", trainer="reward", data="marked", settings={"max_steps": 60},
            cause="every chosen answer of the training data begins with a mark, which the model learns",
            right="remove what stands on one side of the pairs only: held-out accuracy is chance",
            evidence="accuracy 1 within a few steps, eval_accuracy near one half"),
    Planted(name="reward-by-heart", trainer="reward", data="forty", settings={"learning_rate": 2e-3, "max_steps": 60},
            cause="overfitting: 40 pairs are seen 24 times", right="fewer epochs or more data",
            evidence="eval_loss rises while loss goes to 0"),
    Planted(name="reward-length", trainer="reward", data="longer",
            cause="the chosen answer is the longer one in every pair", right="balance the lengths of the data",
            evidence="accuracy is 1 in training and about 0.65 held out; the log does not show lengths",
            settings={"max_steps": 60}),
    # GRPO
    Planted(name="grpo-constant", trainer="grpo", reward="constant", cause="the reward is the same for every answer",
            right="the reward does not read the answer", evidence="reward_std 0 and frac_reward_zero_std 1"),
    Planted(name="grpo-length", trainer="grpo", reward="length", cause="the reward pays for length",
            right="the reward rises only with the length of the answers",
            evidence="reward and completions/mean_length rise together to the limit",
            settings={"learning_rate": 2e-3, "beta": 0.0}),
    Planted(name="grpo-cold", trainer="grpo", settings={"temperature": 0.1},
            cause="the temperature is 0.1, so that the answers of a group are alike",
            right="raise the temperature to 1",
            evidence="entropy near 0 and a high frac_reward_zero_std from step 1 on"),
    Planted(name="grpo-fast", trainer="grpo", cause=FAST, right="lower the learning rate by a factor of 10 to 100",
            evidence="kl explodes, answers no longer end", settings=_rate("grpo", 60)),
    Planted(name="grpo-slow", trainer="grpo", cause=SLOW, right="raise the learning rate by a factor of 30 to 3000",
            evidence="kl stays near 0 and the reward where it began", settings=_rate("grpo", 1 / 3000)),
    Planted(name="grpo-cut", trainer="grpo", settings={"max_completion_length": 6},
            cause="the limit of 6 tokens cuts the answers", right="raise max_completion_length",
            evidence="completions/clipped_ratio near 1 from step 1 on"),
    Planted(name="grpo-held", trainer="grpo", settings={"beta": 20.0, "learning_rate": 1e-3},
            cause="the KL weight is so large that the reward has no say", right="lower beta",
            evidence="the loss is 20 times kl, and the reward falls"),
    Planted(name="grpo-untrained", trainer="grpo", start="random", cause="the policy was never trained before GRPO",
            right="train with SFT first",
            evidence="entropy at step 1 is ln of the vocabulary, hardly an answer ends"),
)  # fmt: skip

HEALTHY: tuple[Planted, ...] = tuple(
    Planted(name=f"{trainer}-healthy-{seed}", trainer=trainer, cause="healthy", right="nothing is wrong",
            evidence="", seed=seed)
    for trainer in HEALTHY_RATE
    for seed in (1, 2)
)  # fmt: skip
