"""Strange faults in settings, each with files and models that are right."""

from __future__ import annotations

from transformers import PreTrainedModel

from bench.doctor_strange_tools import Cases, Desk, german
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig

SETTINGS = Cases()


# -- SFT and reward models --------------------------------------------------------------------------


@SETTINGS.add(
    "sft-warmup-longer-than-run",
    "https://github.com/facebookresearch/d2go/issues/19",
    "The loss hardly falls, and the logged learning rate is still rising at the end.",
    "train.warmup_steps is 2,000, and the run has 60 steps: the learning rate stays below 3 % of its value.",
    "The warm-up is longer than the run, so the learning rate is never reached.",
)
def _(desk: Desk) -> SFTConfig:
    keys = {"train.warmup_steps": 2_000, "train.max_steps": 60, "train.schedule": "linear"}
    return desk.sft(desk.answers(), keys, start=f"builtin:{desk.size}")


@SETTINGS.add(
    "sft-learnt-by-heart",
    "https://github.com/tatsu-lab/stanford_alpaca/issues/236",
    "The training loss falls in steps at each new epoch while the held-out loss rises.",
    "80 rows are seen sixty times, and the last weights are kept.",
    "Too many epochs over too little data: the model learns the rows by heart.",
)
def _(desk: Desk) -> SFTConfig:
    keys = {"train.epochs": 60.0, "train.max_steps": 0, "train.learning_rate": 2e-3, "train.keep_best": False}
    return desk.sft(desk.answers(107, preset="human"), {**keys, "train.batch_size": 40, "train.evaluate_every": 20})


@SETTINGS.add(
    "sft-lora-alpha",
    "https://github.com/Blaizzy/mlx-vlm/issues/841",
    "With LoRA the loss jumps to many times its start, and answers are garbage.",
    "model.lora.alpha is 2,048 at rank 4, so that the adapter's update counts 512 times.",
    "alpha / rank is far too large.",
)
def _(desk: Desk) -> SFTConfig:
    return desk.sft(desk.answers(900), {"model.lora.alpha": 2_048.0}, rank=4)


@SETTINGS.add(
    "sft-lora-rate-of-full-training",
    "https://github.com/ARahim3/mlx-tune/issues/15",
    "After LoRA training the model answers as it did before.",
    "The learning rate is 1e-5, a rate for all weights of a large model, and the adapter hardly moves.",
    "The learning rate is too low for LoRA on this model, so that nothing is learnt.",
)
def _(desk: Desk) -> SFTConfig:
    rows = [{**r, "response": f"{r['response']} (checked)"} for r in desk.answers(900)]
    return desk.sft(rows, {"train.learning_rate": 1e-5}, rank=16)


@SETTINGS.add(
    "sft-lora-too-narrow",
    "https://github.com/hiyouga/LlamaFactory/issues/2156",
    "The loss stops falling early, whatever the learning rate is.",
    "Only q_proj has an adapter, of rank 1, and the text is of a new kind.",
    "The adapter is too small for the task: rank 1 on one kind of layer.",
)
def _(desk: Desk) -> SFTConfig:
    rows = [{"prompt": r["prompt"], "response": german(r["response"])} for r in desk.answers(900)]
    keys = {"model.lora.target_modules": ["q_proj"], "train.max_steps": 80, "data.max_response_tokens": 128}
    return desk.sft(rows, keys, rank=1)


@SETTINGS.add(
    "sft-prompts-cut",
    "https://github.com/unslothai/unsloth/issues/3019",
    "The model answers in good language, but not what was asked.",
    "data.max_prompt_tokens is 3 with cut_prompt_start, so the question is cut away and only its last tokens stay.",
    "The prompts are cut so far that the question is lost.",
)
def _(desk: Desk) -> SFTConfig:
    return desk.sft(desk.answers(), {"data.max_prompt_tokens": 3, "data.too_long": "cut_prompt_start"})


@SETTINGS.add(
    "sft-nearly-all-dropped",
    "https://github.com/turbo-llm/turbo-alignment/issues/27",
    "The run ends quickly, and all answers of the model are very short.",
    "data.max_response_tokens is 8 and longer rows are dropped: some tens of 1,200 rows remain.",
    "The limit of length drops nearly all rows.",
)
def _(desk: Desk) -> SFTConfig:
    return desk.sft(desk.answers(1_200), {"data.max_response_tokens": 8})


@SETTINGS.add(
    "reward-centering-rules",
    "https://github.com/axolotl-ai-cloud/axolotl/pull/3124",
    "All scores are 0.00 and the loss stays at 0.69.",
    "centering is 50 where 0.01 is usual, so the model is only taught to give 0.",
    "The weight of centering is far too large and holds all scores at 0.",
)
def _(desk: Desk) -> RewardConfig:
    return desk.reward_model(desk.pairs(900), {"centering": 50.0})


# -- DPO --------------------------------------------------------------------------------------------


@SETTINGS.add(
    "dpo-rate-of-sft",
    "https://github.com/stanleylsx/llms_tool/issues/46",
    "The loss jumps to tens, both log-probs fall by hundreds of nats, and answers are broken.",
    "DPO was started with the learning rate of SFT from scratch, 25 times too high.",
    "The learning rate is too high for DPO.",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), {"train.learning_rate": 8e-3, "train.keep_best": False})


@SETTINGS.add(
    "dpo-beta-tiny",
    "https://github.com/eric-mitchell/direct-preference-optimization/issues/4",
    "The policy goes very far from the reference, answers break, and the loss is still near 0.69.",
    "beta is 0.001, so that leaving the reference costs nothing.",
    "beta is far too low.",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), {"beta": 0.001, "train.learning_rate": 6e-4, "train.max_steps": 60})


@SETTINGS.add(
    "dpo-beta-huge",
    "https://github.com/CodeGoat24/UnifiedReward/issues/52",
    "Rewards and margins are in the hundreds, the loss jumps, and the policy is hardly another.",
    "beta is 200, copied from a recipe for pictures, where losses have another scale.",
    "beta is far too high.",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), {"beta": 200.0, "train.learning_rate": 1e-4})


@SETTINGS.add(
    "dpo-ipo-with-tiny-beta",
    "https://github.com/huggingface/trl/issues/1294",
    "With the loss ipo the loss starts at 10,000 and hardly changes.",
    "beta is 0.005: IPO aims at a log-ratio of 1 / (2 beta) = 100 nats, which cannot be reached.",
    "beta is too low for IPO, whose target is 1 / (2 beta).",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), {"loss": "ipo", "beta": 0.005})


@SETTINGS.add(
    "dpo-smoothing-half",
    "https://github.com/huggingface/trl/pull/1035",
    "The loss stays at 0.69 and the margins stay near 0, although the pairs are clear.",
    "label_smoothing is 0.48, as if nearly half of the labels were wrong.",
    "label_smoothing is so high that the labels have nearly no effect.",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), {"label_smoothing": 0.48}, rank=8)


@SETTINGS.add(
    "dpo-other-reference",
    "https://github.com/hiyouga/LlamaFactory/issues/6314",
    "At step 1 the loss is not 0.69, and the implicit rewards are large before anything is learnt.",
    "The reference is not the model that the policy starts from, but an older, damaged copy.",
    "The reference is another model than the start of the policy.",
    named=True,
)
def _(desk: Desk) -> DPOConfig:
    def forget(model: PreTrainedModel) -> None:
        for parameter in model.parameters():
            parameter.mul_(0.4)

    return desk.dpo(desk.pairs(900), {"reference": desk.odd(forget, "older")})


# -- PPO, RLOO and GRPO -------------------------------------------------------------------------------


@SETTINGS.add(
    "ppo-no-kl",
    "https://github.com/huggingface/open-r1/issues/257",
    "The reward rises at first, the KL grows without an end, and answers become strange.",
    "kl.coefficient is 0 and the learning rate is high, so nothing holds the policy near the reference.",
    "There is no KL penalty, and the policy leaves the reference (or: it exploits the reward model).",
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"kl.coefficient": 0.0, "train.learning_rate": 1.5e-3, "train.max_steps": 24})


@SETTINGS.add(
    "ppo-hot-sampling",
    "https://github.com/tenstorrent/tt-metal/pull/56016",
    "Sampled answers are random words from the first step on, and scores are low.",
    "sampling.temperature is 3.",
    "The temperature of sampling is far too high.",
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"sampling.temperature": 3.0}, advantage="rloo")


@SETTINGS.add(
    "ppo-cold-sampling",
    "https://github.com/billy-enrizky/openbrowser-ai/pull/60",
    "The answers to a prompt are all the same, and most steps teach nothing.",
    "sampling.temperature is 0.05, so that groups have no differences to learn from.",
    "The temperature of sampling is too low for answers of a group to differ.",
    named=True,
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"sampling.temperature": 0.05}, advantage="grpo")


@SETTINGS.add(
    "ppo-answers-cut",
    "https://github.com/huggingface/trl/issues/5697",
    "No answer ends, all have the same length, and the reward stays low.",
    "sampling.max_new_tokens is 5, and no answer fits.",
    "max_new_tokens is too small: nearly all answers are cut off.",
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"sampling.max_new_tokens": 5})


@SETTINGS.add(
    "ppo-end-forbidden",
    "https://github.com/huggingface/trl/issues/736",
    "Answers go on after they are finished, every one to the limit.",
    "sampling.min_new_tokens equals max_new_tokens, so the end token is never allowed.",
    "min_new_tokens forbids the end token.",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"sampling.min_new_tokens": 40, "allow_truncated_sampling": True}
    return desk.ppo(desk.pairs(900), keys, advantage="rloo")


@SETTINGS.add(
    "ppo-two-answers-yes-or-no",
    "https://github.com/jsboige/CoursIA/issues/10603",
    "The reward does not rise; in most groups both answers have the same reward.",
    "With sampling.n 2 and a reward of 0 or 1 that is mostly 0, most groups have no difference.",
    "Most groups have no spread of reward: the group is too small for a yes-or-no reward (or: the reward is too rare).",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"sampling.n": 2, "train.batch_size": 10}
    return desk.ppo(desk.prompts(), keys, reward=["rule:exact_match"], advantage="grpo")


@SETTINGS.add(
    "ppo-inner-epochs",
    "https://github.com/huggingface/trl/issues/454",
    "The ratio and the clip fraction explode within a step.",
    "Each batch of samples is used for 12 passes of 4 minibatches.",
    "Too many passes over the same samples (inner_epochs).",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"inner_epochs": 12, "minibatches": 4, "train.max_steps": 8, "train.learning_rate": 6e-4}
    return desk.ppo(desk.pairs(900), keys)


@SETTINGS.add(
    "ppo-critic-stands-still",
    "https://github.com/Human-Agent-Society/reef/pull/341",
    "The explained variance stays at 0 and the value loss does not fall.",
    "critic_learning_rate is 1e-8, so the critic does not learn.",
    "The critic does not learn: its learning rate is far too low.",
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"critic_learning_rate": 1e-8, "train.max_steps": 20})


@SETTINGS.add(
    "ppo-entropy-bonus",
    "https://github.com/verl-project/verl/pull/781",
    "The entropy rises and rises, and answers become random words.",
    "entropy_coefficient is 0.6 and pays more for randomness than the reward pays for quality.",
    "The entropy bonus is too large.",
)
def _(desk: Desk) -> PPOConfig:
    return desk.ppo(desk.pairs(900), {"entropy_coefficient": 0.6, "train.learning_rate": 8e-4})


@SETTINGS.add(
    "ppo-eos-penalty-rules",
    "https://github.com/huggingface/trl/issues/2012",
    "The reward of a step depends only on how many answers ended; answers become very short.",
    "missing_eos_penalty is 60, and the scores differ by about 1.",
    "The penalty for a missing end is far larger than the spread of the scores.",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"missing_eos_penalty": 60.0, "sampling.max_new_tokens": 16}
    return desk.ppo(desk.pairs(900), keys, advantage="rloo")


@SETTINGS.add(
    "ppo-adaptive-kl-explodes",
    "https://github.com/ray-project/ray/issues/18492",
    "The KL coefficient grows from step to step, and the policy returns to the reference.",
    "The adaptive controller aims at 0.0001 nats and reacts at once (horizon 12).",
    "The adaptive KL controller makes the coefficient explode: its target is too small (or its horizon too short).",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"kl.controller": "adaptive", "kl.target": 1e-4, "kl.horizon": 12, "train.max_steps": 24}
    return desk.ppo(desk.pairs(900), keys)


@SETTINGS.add(
    "ppo-sampler-bends-distribution",
    "https://github.com/huggingface/trl/issues/235",
    "The KL is negative, and the learner's log-probs do not fit the samples.",
    "Samples are drawn with a repetition penalty of 2.5 and top_k 3; the learner has the plain distribution.",
    "The sampler's settings (repetition penalty, top_k) change the distribution that the learner assumes.",
)
def _(desk: Desk) -> PPOConfig:
    keys = {"sampling.repetition_penalty": 2.5, "sampling.top_k": 3, "allow_truncated_sampling": True}
    return desk.ppo(desk.pairs(900), keys)


@SETTINGS.add(
    "ppo-value-clip-and-large-returns",
    "https://github.com/deepspeedai/DeepSpeedExamples/issues/556",
    "The value loss is in the thousands and hardly falls, and the explained variance stays near 0.",
    "The reward goes to 100 without normalisation, and value_clip lets the values move by 0.2 a step.",
    "The returns are too large for the critic: reward_normalize is off while value_clip is 0.2.",
)
def _(desk: Desk) -> PPOConfig:
    percent = desk.function(
        "def reward(prompt, response):\n    return 100.0 * min(len(set(response.split())) / 12, 1)\n"
    )
    return desk.ppo(desk.prompts(), {"reward_normalize": "none"}, reward=[percent])
