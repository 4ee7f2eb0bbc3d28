"""The second strange set: settings that users got wrong."""

from __future__ import annotations

from bench.doctor_strange2_tools import Cases, Desk
from concordant.config.stages import RunConfig

SETTINGS = Cases()
GITHUB = "https://github.com/"


@SETTINGS.add(
    "sft-lora-rate-high", GITHUB + "haotian-liu/LLaVA/issues/1301",
    "While the model is fine-tuned with LoRA, the loss suddenly rises and stays high. A tenth of the rate cures it.",
    "train.learning_rate 0.3 with LoRA, thirty times the usual one.",
    "The learning rate is far too high: the loss rises above its start; divide it by ten or more.",
    "bad data, a foreign tokenizer",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(desk.answers(), desk.policy, model__lora__rank=8, train__learning_rate=0.3)


@SETTINGS.add(
    "sft-warmup-steps-fraction", GITHUB + "hiyouga/LlamaFactory/issues/3856",
    "The user writes warmup_steps: 0.1 where warmup_ratio is meant.",
    "train.warmup_steps is 0.1, a fraction where a number of steps is expected.",
    "The program refuses 0.1 as a number of steps before the run (and points at the fraction).",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(desk.answers(100), train__warmup_steps=0.1)


@SETTINGS.add(
    "sft-small-many-epochs", GITHUB + "hiyouga/LlamaFactory/issues/524",
    "The user trains on some 70 rows for many epochs. Answers to other questions are the learnt ones, over and over.",
    "70 rows, 60 epochs: the training loss falls to nearly 0 while the held-out loss rises.",
    "The model overfits: too many epochs on too few rows, the held-out loss rises while the training loss "
    "falls; fewer epochs or more data.",
    "the learning rate is too low; all is well because the best weights are kept",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(
        desk.answers(70), train__max_steps=0, train__epochs=60.0, train__batch_size=16, train__evaluate_every=20
    )


@SETTINGS.add(
    "sft-rows-dropped", GITHUB + "hiyouga/LlamaFactory/issues/4055",
    "Of 800 rows only some tens are trained on; the user did not set the length limit and the rest was thrown "
    "away as too long.",
    "data.max_prompt_tokens 11 with too_long drop leaves out 92 rows in 100.",
    "Most rows are dropped because they are longer than data.max_prompt_tokens; raise it (or cut).",
    "the data set is small; overfitting, without a word on the dropped rows",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(desk.answers(), desk.policy, data__max_prompt_tokens=11)


@SETTINGS.add(
    "sft-max-samples-left", GITHUB + "hiyouga/LlamaFactory/issues/7017",
    "The example file's max_samples stayed in the user's settings. The model knows next to nothing of the "
    "large data set.",
    "data.max_samples 40 of 800 rows, over which the run goes again and again.",
    "data.max_samples leaves 40 rows of a far larger file; remove the limit.",
    "the data set is too small, without a word on data.max_samples",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(desk.answers(), data__max_samples=40, train__max_steps=120, train__evaluate_every=20)


@SETTINGS.add(
    "sft-batch-one", GITHUB + "huggingface/nanoVLM/pull/66",
    "With a batch of one and without clipping the loss jumps up and down and does not settle.",
    "train.batch_size 1, train.max_grad_norm 0 and the rate of a batch of 12.",
    "The batch is too small for this rate (one example a step, no clipping): noisy, unstable loss; raise the "
    "batch or lower the rate.",
    "the data is noisy",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(
        desk.answers(), train__batch_size=1, train__max_grad_norm=0.0, train__learning_rate=2e-2, train__max_steps=200,
        train__evaluate_every=40,
    )  # fmt: skip


@SETTINGS.add(
    "sft-scratch-finetune-rate", GITHUB + "huggingface/trl/issues/491",
    "The user trains a new model with the rate of a large pretrained one. The loss hardly moves.",
    "train.learning_rate 1e-5 on a model with random weights of about 0.1 M parameters, 42 steps.",
    "The learning rate is far too low for a model of this size that starts from random weights; raise it a "
    "hundredfold or so.",
    "the data does not fit the model",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.sft(desk.answers(), train__learning_rate=1e-5)


@SETTINGS.add(
    "dpo-rate-tiny", GITHUB + "hiyouga/LlamaFactory/issues/8798",
    "After DPO nothing has changed: loss 0.693 from first to last step.",
    "train.learning_rate 1e-8.",
    "The learning rate is far too low: loss and margins stay where they start; raise it.",
    "beta is wrong; the pairs are all alike; the reference is wrong",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(), train__learning_rate=1e-8)


@SETTINGS.add(
    "dpo-rate-high", GITHUB + "eric-mitchell/direct-preference-optimization/issues/36",
    "Loss falls, but the reward of chosen answers falls too, and what the model says is worse than before.",
    "train.learning_rate 1e-2, fifty times the usual one.",
    "The learning rate is too high: log-probs of both sides fall by tens of nats, KL explodes; lower the rate.",
    "chosen and rejected are exchanged",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(), train__learning_rate=1e-2)


@SETTINGS.add(
    "dpo-beta-zero", GITHUB + "huggingface/trl/issues/1627",
    "The loss stays at 0.6931 and the rewards at 0.0.",
    "beta is 0, so the loss does not depend on the policy.",
    "The program refuses beta 0 before the run.",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(100), beta=0.0)


@SETTINGS.add(
    "dpo-many-epochs", GITHUB + "hiyouga/LlamaFactory/issues/2910",
    "DPO for ten epochs on few pairs with a high rate: training accuracy 1.0, evaluation loss rising, answers "
    "broken.",
    "25 epochs over 100 pairs.",
    "Too many epochs over few pairs: the policy overfits (evaluation loss rises far above its best while the "
    "training loss goes to 0); one epoch, or more pairs.",
    "beta alone; label noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(130), train__max_steps=0, train__epochs=25.0, train__learning_rate=5e-4)


@SETTINGS.add(
    "reward-rate-tiny", GITHUB + "KlingAIResearch/VideoAlign/issues/23",
    "The reward model is trained with LoRA at 2e-6, as a paper did with a hundred times the data. The loss "
    "stays at 0.69.",
    "train.learning_rate 2e-6 with LoRA, 48 steps.",
    "The learning rate is far too low for LoRA and this number of steps; raise it a hundredfold or more.",
    "the labels are noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.reward(desk.pairs(), model__lora__rank=8, train__learning_rate=2e-6)


@SETTINGS.add(
    "reward-rate-high", GITHUB + "hiyouga/LlamaFactory/issues/41",
    "The loss of the reward model jumps, then stays about 0.69; the accuracy is no better than chance.",
    "train.learning_rate 0.1, a hundred times the usual one.",
    "The learning rate is far too high: the scores blow up; lower it.",
    "the labels are noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.reward(desk.pairs(), train__learning_rate=0.1)


@SETTINGS.add(
    "grpo-no-kl-many-passes", GITHUB + "huggingface/trl/pull/3138",
    "With beta 0 and several iterations on the same samples the policy ends in long gibberish.",
    "kl.coefficient 0, inner_epochs 10, rate three times the usual one.",
    "Nothing holds the policy (no KL) while each batch is used for too many passes: it drifts far from its "
    "start; fewer inner epochs and a KL penalty.",
    "the reward is noise; the reward is constant",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.grpo(kl__coefficient=0.0, inner_epochs=10, train__learning_rate=1.2e-3)


@SETTINGS.add(
    "ppo-top-k", GITHUB + "huggingface/trl/issues/925",
    "The user samples with top-k and gets a negative KL.",
    "sampling.top_k 20 in PPO.",
    "The program refuses top_k in PPO before the run and says why.",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(sampling__top_k=20)


@SETTINGS.add(
    "ppo-min-new-tokens", GITHUB + "huggingface/trl/pull/1003",
    "A minimum length ignores the end token. The KL goes far below 0, and answers go on in gibberish once the "
    "minimum is lifted.",
    "sampling.min_new_tokens 40 of 48 with allow_truncated_sampling: the policy wants to end earlier and may not.",
    "sampling.min_new_tokens forbids the end, so the sampler differs from the policy (KL estimate wrong, the "
    "end is not learnt); remove it.",
    "the KL coefficient, the critic",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(sampling__min_new_tokens=40, allow_truncated_sampling=True)


@SETTINGS.add(
    "grpo-temperature-low", GITHUB + "modelscope/ms-swift/issues/4789",
    "All answers of a group are the same, the reward's deviation is 0 and so is the loss.",
    "sampling.temperature 0.05.",
    "The temperature is so low that the answers of a group are equal: no spread, no gradient; use about 1.",
    "the reward function is constant; an exploding KL",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.grpo(sampling__temperature=0.05)


@SETTINGS.add(
    "grpo-lora-rate-tiny", GITHUB + "dhcode-cpp/X-R1/issues/66",
    "With LoRA at 1e-6 the reward goes up and down and does not rise; the KL stays at 0.",
    "train.learning_rate 1e-6 with LoRA of rank 8, 20 steps.",
    "The learning rate is far too low for LoRA and this number of steps: the policy does not move (KL 0); raise it.",
    "the reward is noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.grpo(model__lora__rank=8, train__learning_rate=1e-6)


@SETTINGS.add(
    "rloo-end-penalty", GITHUB + "huggingface/trl/pull/3248",
    "The penalty for unfinished answers takes over: answers become a few words long, the actual reward falls.",
    "missing_eos_penalty 20 with sampling.max_new_tokens 12, so that most answers are cut and all that counts "
    "is to end.",
    "missing_eos_penalty is far larger than the spread of the reward (and the limit cuts most answers), so the "
    "policy only learns to end early; lower the penalty, raise the limit.",
    "the reward model prefers short answers",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(advantage="rloo", missing_eos_penalty=20.0, sampling__max_new_tokens=12)


@SETTINGS.add(
    "grpo-one-sample", GITHUB + "dllm-reasoning/d1/issues/19",
    "The user samples one answer a prompt and groups over the batch.",
    "advantage grpo with sampling.n 1.",
    "The program refuses GRPO with one answer a prompt before the run.",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.grpo(sampling__n=1)


@SETTINGS.add(
    "ppo-kl-off", GITHUB + "huggingface/trl/issues/204",
    "The mean reward converges while the KL grows and grows; in the end every question gets the same answer.",
    "kl.coefficient 0 with a reward model, a high rate and 60 steps.",
    "Nothing holds the policy near the reference (kl.coefficient 0): it over-optimises the reward model, KL grows "
    "without bound and answers become alike; use a KL penalty.",
    "the reward is broken; all is well since the reward rises",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(kl__coefficient=0.0, train__learning_rate=1e-3, train__max_steps=60)


@SETTINGS.add(
    "ppo-thirty-passes", GITHUB + "huggingface/trl/issues/1857",
    "Warnings that the ratio exceeds its threshold; the policy diverges from the one that sampled.",
    "inner_epochs 30: each batch of answers is used thirty times.",
    "Too many passes over each batch: ratios and clip fraction are far above what is usual; use 1 to 4 inner epochs.",
    "the KL coefficient; the critic",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(inner_epochs=30, train__max_steps=12)


@SETTINGS.add(
    "ppo-kl-too-strong", GITHUB + "huggingface/trl/issues/1178",
    "The run cares for a low KL and stops raising the reward, whatever else is changed.",
    "kl.coefficient 20 where 0.05 to 0.2 is usual.",
    "The KL coefficient is far too large beside the reward's spread, so the policy stays where it is; lower it.",
    "the learning rate is too low; the critic learns too slowly",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(kl__coefficient=20.0)
