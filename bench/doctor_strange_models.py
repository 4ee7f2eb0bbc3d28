"""Strange faults in model folders: weights, tokenizers, templates and configs that do not fit each other."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bench.doctor_strange_tools import Cases, Desk, edit, german
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig
from concordant.data.tokenizer import train_tokenizer

MODELS = Cases()
OTHER_TEMPLATE = (
    "{% for m in messages %}{{ '[INST] ' + m.role + ': ' + m.content + ' [/INST]' + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[INST] assistant: ' }}{% endif %}"
)


def _nothing(model: PreTrainedModel) -> None:
    """The weights stay as they are."""


def _linear(model: PreTrainedModel) -> list[nn.Linear]:
    return [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]


def _random(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
        else:
            parameter.fill_(1.0)


def _with_template(folder: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def _reward_model(desk: Desk) -> Path:
    return desk.copied(desk.world.reward(desk.size), "reward-model")


# -- policies -----------------------------------------------------------------------------------------


@MODELS.add(
    "sft-untrained-turn-tokens",
    "https://github.com/meta-pytorch/torchtune/issues/2429",
    "After LoRA on a base model with a chat template, answers do not end.",
    "The rows of the special tokens in the embedding were never trained (they are 0), and LoRA does not train them.",
    "The embeddings of the template's special tokens are untrained, and the adapter does not train them.",
)
def _(desk: Desk) -> SFTConfig:
    special = AutoTokenizer.from_pretrained(desk.world.sft(desk.size)).all_special_ids

    def forget(model: PreTrainedModel) -> None:
        model.get_input_embeddings().weight[special] = 0.0

    return desk.sft(desk.answers(900), start=desk.odd(forget), rank=8)


@MODELS.add(
    "sft-head-lost",
    "https://github.com/huggingface/transformers/issues/45127",
    "The loss of a trained model starts above 5 nats a token, and its answers are noise.",
    "The output layer was untied from the embedding when tokens were added, made anew, and saved untrained.",
    "The output layer of the start is untrained: it does not fit the rest of the weights.",
)
def _(desk: Desk) -> SFTConfig:
    def untie(model: PreTrainedModel) -> None:
        fresh = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
        _random(fresh)
        model.config.tie_word_embeddings = False
        model.set_output_embeddings(fresh)

    return desk.sft(desk.answers(900), start=desk.odd(untie))


@MODELS.add(
    "sft-rope-base",
    "https://github.com/Open-Athena/MarinFold/pull/184",
    "A converted model starts with a loss that is some tenths of a nat to nats too high.",
    "rope_theta in config.json is not the one with which the model was trained.",
    "The config does not fit the weights (rope_theta): the start's loss on ordinary answers is too high.",
)
def _(desk: Desk) -> SFTConfig:
    path = Path(desk.odd(_nothing))
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "rope_parameters" in config:
        edit(path / "config.json", rope_parameters={**config["rope_parameters"], "rope_theta": 3.0})
    else:
        edit(path / "config.json", rope_theta=3.0)
    return desk.sft(desk.answers(900), {"train.learning_rate": 1e-4}, start=str(path))


@MODELS.add(
    "sft-adapter-merged-too-strongly",
    "https://github.com/cloneofsimo/lora/issues/240",
    "A merged model talks garbage, and training starts from a very high loss.",
    "An adapter was merged with a scale of 8 instead of 1, which made the weights much too large.",
    "The weights of the start are damaged (too large): its loss at step 1 is like that of no trained model.",
)
def _(desk: Desk) -> SFTConfig:
    def scale(model: PreTrainedModel) -> None:
        for layer in _linear(model):
            layer.weight.mul_(2.5)

    return desk.sft(desk.answers(900), {"train.learning_rate": 2e-4}, start=desk.odd(scale))


@MODELS.add(
    "dpo-layer-lost",
    "https://github.com/allenai/longformer/issues/95",
    "A warning at loading was overlooked, and DPO starts from a model that talks badly.",
    "The names in the file did not fit, and the first layer starts with random weights.",
    "A part of the start's weights is random: the start gives its own data a very low probability.",
)
def _(desk: Desk) -> DPOConfig:
    return desk.dpo(desk.pairs(900), start=desk.odd(lambda model: _random(model.model.layers[0])))


@MODELS.add(
    "dpo-foreign-tokenizer",
    "https://github.com/OpenLMLab/MOSS-RLHF/issues/10",
    "All log-probs are very low, and samples are random words.",
    "The folder has the tokenizer of another model with as many tokens.",
    "The tokenizer does not belong to the model.",
)
def _(desk: Desk) -> DPOConfig:
    rows = desk.pairs(900)
    path = desk.odd(_nothing)
    size = len(AutoTokenizer.from_pretrained(path))
    train_tokenizer((german(r["chosen"]) for r in rows), size).save_pretrained(path)
    return desk.dpo(rows, {"data.max_response_tokens": 160, "data.max_prompt_tokens": 160}, start=path)


@MODELS.add(
    "dpo-foreign-template",
    "https://github.com/hiyouga/LlamaFactory/issues/5834",
    "A model that answered well answers badly as soon as training renders the dialogues.",
    "The chat template of the folder is that of another model family.",
    "The chat template is not the one that the model was trained with.",
)
def _(desk: Desk) -> DPOConfig:
    path = desk.odd(_nothing)
    _with_template(Path(path), OTHER_TEMPLATE)
    return desk.dpo(desk.pairs(900), {"data.max_prompt_tokens": 160, "data.max_response_tokens": 96}, start=path)


@MODELS.add(
    "dpo-weights-of-few-bits",
    "https://github.com/huggingface/transformers/issues/31293",
    "A merged, quantised model was trained further; it is worse than before, and DPO does not repair it.",
    "The weights were rounded to three values a row when an adapter was merged into a quantised model.",
    "The start is damaged: it gives ordinary answers a far lower probability than a trained model does.",
)
def _(desk: Desk) -> DPOConfig:
    def coarse(weight: Tensor) -> Tensor:
        step = weight.abs().amax(1, keepdim=True)
        return (weight / step).round() * step

    def quantise(model: PreTrainedModel) -> None:
        for layer in _linear(model):
            layer.weight.copy_(coarse(layer.weight))

    return desk.dpo(desk.pairs(900), start=desk.odd(quantise))


@MODELS.add(
    "reward-from-untrained",
    "https://github.com/CarperAI/trlx/issues/338",
    "The reward model stays clearly worse than one that starts from an SFT model.",
    "The reward model starts from random weights instead of an SFT model.",
    "The start is untrained.",
    named=True,
)
def _(desk: Desk) -> RewardConfig:
    return desk.reward_model(desk.pairs(900), {"train.learning_rate": 2e-4}, start=desk.odd(_random))


@MODELS.add(
    "ppo-wrong-end-token",
    "https://github.com/unslothai/unsloth/issues/5386",
    "No answer ends by itself although the SFT model ended its answers.",
    "The folder names another token as its end (eos) than the one that ends a turn.",
    "The end token of tokenizer and config is not the one that the model was trained to write.",
)
def _(desk: Desk) -> PPOConfig:
    path = Path(desk.odd(_nothing))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = tokenizer.pad_token = "<|system|>"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|end|>' }}", "('<|system|>' if message['role'] == 'assistant' else '<|end|>') }}"
    )
    tokenizer.save_pretrained(path)
    for name in ("config.json", "generation_config.json"):
        if (path / name).is_file():
            edit(path / name, eos_token_id=tokenizer.eos_token_id)
    return desk.ppo(desk.pairs(900), start=str(path))


@MODELS.add(
    "ppo-start-without-entropy",
    "https://github.com/modelscope/ms-swift/issues/4570",
    "All answers to a prompt are equal at temperature 1, and loss and gradient are 0.",
    "The start is so certain of each token that sampling always gives the same answer.",
    "The start has nearly no entropy, so answers of a group do not differ.",
)
def _(desk: Desk) -> PPOConfig:
    def sharpen(model: PreTrainedModel) -> None:
        model.model.norm.weight.mul_(12.0)

    return desk.ppo(desk.pairs(900), start=desk.odd(sharpen), advantage="grpo")


# -- reward models --------------------------------------------------------------------------------------


@MODELS.add(
    "ppo-reward-head-inverted",
    "https://github.com/llava-rlhf/LLaVA-RLHF/issues/35",
    "The reward rises, and answers become rude and wrong.",
    "The head of the reward model was saved with the wrong sign: chosen answers get lower scores than rejected ones.",
    "The reward model prefers the rejected answers of the data: its scores are inverted.",
)
def _(desk: Desk) -> PPOConfig:
    path = _reward_model(desk)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.score.weight.neg_()
    model.save_pretrained(path)
    return desk.ppo(desk.pairs(900), {"train.max_steps": 20}, reward=[str(path)], advantage="rloo")


@MODELS.add(
    "ppo-reward-head-random",
    "https://github.com/Applied-Machine-Learning-Lab/GeoRanker/issues/2",
    "The reward rises, and the answers do not get better.",
    "The head of the reward model was not in its files and is random.",
    "The reward model is as good as chance on the pairs of the data: its head is untrained.",
)
def _(desk: Desk) -> PPOConfig:
    path = _reward_model(desk)
    model = AutoModelForSequenceClassification.from_pretrained(desk.world.sft(desk.size), num_labels=1)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(desk.seed)
        model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=draw) * 0.1)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(path).pad_token_id
    model.save_pretrained(path)
    return desk.ppo(desk.pairs(900), {"train.max_steps": 20}, reward=[str(path)])


@MODELS.add(
    "ppo-reward-reads-other-template",
    "https://github.com/huggingface/trl/issues/1702",
    "The reward model was good in its own evaluation and gives strange scores in PPO.",
    "The reward model was trained with another chat template than the one in its folder now.",
    "The reward model reads dialogues in a form that it was not trained on (its template was changed).",
)
def _(desk: Desk) -> PPOConfig:
    path = _reward_model(desk)
    _with_template(path, OTHER_TEMPLATE)
    return desk.ppo(desk.pairs(900), reward=[str(path)], advantage="grpo")
