"""The second strange set: model folders, tokenizers and templates that do not belong together."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import doctor_strange2_tools as tools
from bench.doctor_strange2_tools import Cases, Desk
from concordant.config.stages import RunConfig

MODELS = Cases()
GITHUB = "https://github.com/"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EMPTY = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
OTHER_SIZE = {"doctor-a": "doctor-b", "doctor-b": "doctor-a", "doctor-c": "doctor-a"}


@MODELS.add(
    "ppo-random-reward-head", GITHUB + "huggingface/trl/issues/1379",
    "The reward model's head was not saved and came back with random weights. The reward wanders about.",
    "score.weight of the reward model is new random numbers; on the pairs of the data it is right in 1 of 3.",
    "The reward model cannot tell chosen from rejected answers (its head is random), so the reward is noise; "
    "train or restore the head.",
    "the critic learns too slowly; the KL coefficient",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    broken = desk.copy(desk.world.reward(desk.size), "reward")
    tools.random_head(broken, desk.seed)
    return desk.ppo(desk.pairs(400), str(broken))


@MODELS.add(
    "ppo-reward-foreign-tokenizer", GITHUB + "huggingface/trl/issues/1674",
    "The reward model gets ids of another tokenizer. Its scores have little to do with the answers.",
    "The reward model's folder holds the tokenizer of another model; the same ids mean other words.",
    "The reward model is read through a tokenizer that is not its own, so it ranks the data's pairs much worse (0.69 "
    "instead of 0.87, since only length and the like are left); restore its tokenizer.",
    "the reward is too hard; the critic",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    broken = desk.copy(desk.world.reward(desk.size), "reward")
    tools.foreign_tokenizer(broken)
    return desk.ppo(desk.pairs(400), str(broken))


@MODELS.add(
    "sft-foreign-tokenizer", GITHUB + "haotian-liu/LLaVA/issues/375",
    "Model and tokenizer are of different versions. The loss starts higher than from scratch.",
    "The model's folder holds the tokenizer of another model.",
    "The tokenizer does not belong to these weights: the start is worse than guessing at random; restore the "
    "model's own tokenizer.",
    "the learning rate is too high; the data is unlike what the model knows",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    mixed = desk.copy(desk.policy)
    tools.foreign_tokenizer(mixed)
    return desk.sft(desk.answers(), mixed)


@MODELS.add(
    "sft-lora-new-tokens", GITHUB + "unslothai/unsloth/issues/1273",
    "The user adds <|im_start|> and <|im_end|> and trains with LoRA. The model never ends its answers.",
    "The embedding rows of the new end and turn tokens are random and frozen, since LoRA trains only q_proj "
    "and v_proj.",
    "New special tokens (the end token among them) have untrained rows of the embedding that LoRA does not "
    "train, so the end is not learnt; train the embeddings or use the old tokens.",
    "the answers of the data have no end; too few steps",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    folder = desk.copy(desk.policy)
    tokenizer, policy = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    torch.manual_seed(desk.seed)
    policy.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    policy.config.eos_token_id = policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return desk.sft(desk.answers(), folder, model__lora__rank=4, model__lora__target_modules=["q_proj", "v_proj"])


@MODELS.add(
    "dpo-template-changed", GITHUB + "hiyouga/LlamaFactory/issues/5484",
    "DPO with \"template: empty\" on a model that learnt another template. The model is much worse than before.",
    "The policy's chat template was replaced by one without turns; SFT used user and assistant turns.",
    "The prompts are rendered by another template than the model learnt: the start's log-probs of the answers "
    "are far too low; use the template of SFT.",
    "the learning rate or beta",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    folder = desk.copy(desk.policy)
    tools.retemplate(folder, EMPTY)
    return desk.dpo(desk.pairs(), folder)


@MODELS.add(
    "dpo-reference-other-model", GITHUB + "hiyouga/LlamaFactory/issues/8459",
    "The reference is not the SFT model from which DPO starts. The loss at step 1 is not 0.69.",
    "reference names another model of another size.",
    "The reference is not the policy's start: the implicit rewards are not 0 at step 1 (loss unlike 0.693); "
    "leave reference empty or name the start.",
    "beta, the learning rate",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    size = "doctor-a" if desk.size == "doctor-c" else desk.size  # a and b share the tokenizer
    return desk.dpo(desk.pairs(), desk.world.sft(size), reference=str(desk.world.sft(OTHER_SIZE[size])))


@MODELS.add(
    "dpo-adapter-raw-base", GITHUB + "huggingface/alignment-handbook/issues/78",
    "The adapter of SFT is put on another base than it was trained on. Answers are word salad, DPO does not cure it.",
    "model.adapter was trained on the SFT model; model.name is a model of the same shape with random weights.",
    "The start is as bad as random weights: the adapter's base is not the one that it was trained on; name the "
    "right base.",
    "beta, the learning rate",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    before = desk.sft(
        desk.answers(200), desk.policy, model__lora__rank=4, train__max_steps=10, train__export="both",
        output=str(desk.files / "sft"),
    )  # fmt: skip
    adapter = tools.train_before(before) / "adapter"
    base = desk.copy(desk.policy, "base")
    raw = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(desk.seed)
    AutoModelForCausalLM.from_config(raw.config).save_pretrained(base)
    return desk.dpo(desk.pairs(), base, model__adapter=str(adapter))


@MODELS.add(
    "grpo-collapsed-start", GITHUB + "huggingface/open-r1/issues/407",
    "After a long SFT on few rows all answers to a prompt are the same; GRPO gets stuck from the beginning.",
    "The policy was overfitted on 16 rows, so it says one thing with certainty.",
    "The policy's start has almost no entropy (an overfitted SFT): the answers of a group are equal and give "
    "no signal; start from an earlier SFT checkpoint.",
    "the temperature is too low; the reward function is constant",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    before = desk.sft(
        desk.answers(16), desk.policy, train__max_steps=300, train__learning_rate=3e-3, train__keep_best=False,
        train__evaluate_every=0, output=str(desk.files / "sft"),
    )  # fmt: skip
    start = tools.train_before(before) / "model"
    return desk.grpo(start=start)


@MODELS.add(
    "grpo-foreign-system-prompt", GITHUB + "huggingface/trl/pull/4645",
    "The prompts of RL have a long system message, those of SFT had none. The samples are bad from the first "
    "step on.",
    "Every prompt carries a system message of about 60 words that the policy has never seen.",
    "The prompts are unlike those that the policy learnt from (a system message that SFT never had), so its "
    "first answers are poor and do not end; use the same system message in SFT and RL.",
    "the temperature is too high; the policy is untrained",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    system = (
        "You are an agent. You can call tools by writing code between tags. Think step by step about the task "
        "first, then "
        "call a tool, read what comes back, and repeat until you know the final answer; give it with final_answer(). "
        "Never give up, never invent results, and always explain what you do next in one short sentence."
    )
    rows = [
        {"prompt": [{"role": "system", "content": system}, {"role": "user", "content": f"Task: {row['prompt']}"}]}
        for row in desk.prompts()
    ]
    return desk.grpo(rows, data__max_prompt_tokens=400)


@MODELS.add(
    "sft-zero3-empty-weights", GITHUB + "OpenRLHF/OpenRLHF/issues/209",
    "A checkpoint that ZeRO-3 saved in pieces is used as a model. Its tensors are empty.",
    "Every tensor of the model's file has no elements.",
    "The program refuses the folder before the run because the weights do not fit the config.",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    folder = desk.copy(desk.policy)
    for path in folder.glob("*.safetensors"):
        save_file({name: torch.empty(0) for name in load_file(path)}, path, metadata={"format": "pt"})
    return desk.sft(desk.answers(100), folder)


@MODELS.add(
    "ppo-reward-is-a-language-model", GITHUB + "ethanyanjiali/minChatGPT/issues/11",
    "The user gives the SFT model where the reward model belongs.",
    "reward names a causal language model without a score head.",
    "The program refuses it before the run: the folder is no reward model.",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.ppo(None, str(desk.copy(desk.policy, "reward")))


@MODELS.add(
    "dpo-policy-of-other-task", GITHUB + "wdndev/tiny-llm-zh/issues/15",
    "DPO on pairs unlike anything that the model can say: the log-probs are hundreds of nats below 0 and fall.",
    "The pairs are in capitals with digits for vowels; the policy gives such answers almost no probability.",
    "Both answers are very unlikely under the policy (off-distribution data: log-prob a token near that of "
    "guessing); do SFT on the chosen answers first.",
    "the learning rate is too high; beta",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    leet = str.maketrans("AEIOU", "43107")
    rows = [{key: text.upper().translate(leet) for key, text in row.items()} for row in desk.pairs()]
    return desk.dpo(rows, data__max_prompt_tokens=256, data__max_response_tokens=256)
