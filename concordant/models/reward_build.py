"""Makes a sequence classifier with one label from a causal LM, an encoder, or the folder of either."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.models.backbone import backbone, output_embedding
from concordant.models.export import plain_weights
from concordant.models.layout import is_causal
from concordant.models.load import Policy, embedding_rows, load_config, load_tokenizer, load_weights, make_deterministic

log = logging.getLogger(__name__)

PAD_TOKENS = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
)  # the first one in the vocabulary is used, else <|pad|> is added


def from_folder(place: Path | str, trust: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A reward model that was saved as a sequence classifier with one label."""
    config = load_config(place, trust)
    made_for = ", ".join(config.architectures or ()) or "an unnamed architecture"
    if "ForSequenceClassification" not in made_for:
        raise UserError(
            f'"{place}" is not a reward model but {made_for}: expected a sequence classifier with one label. '
            "Train one from it with `concordant reward`"
        )
    if config.num_labels != 1:
        raise UserError(f'"{place}" has num_labels = {config.num_labels}; a reward model has 1 label, its score')
    model, missing = load_weights(AutoModelForSequenceClassification, place, config, trust)
    if missing:
        raise UserError(f'"{place}" lacks weights: {", ".join(sorted(missing)[:3])}')
    make_deterministic(model)
    return model, load_tokenizer(place, trust)


def is_encoder_config(config: PretrainedConfig) -> bool:
    """True for models that are trained to fill gaps, such as BERT. After loading, numbers confirm the answer."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING


def from_encoder(
    place: Path | str, config: PretrainedConfig, trust: bool, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder with the head of its architecture. The head gets new weights where the folder has none."""
    _one_label(config)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "models/reward_head"))
        model, missing = load_weights(AutoModelForSequenceClassification, place, config, trust)
    prefix = f"{model.base_model_prefix}."
    lost = sorted(name for name in missing if name.startswith(prefix) and "pooler" not in name)
    if lost:
        raise UserError(f'"{place}" lacks weights of its encoder: {", ".join(lost[:3])} ({len(lost)} in all)')
    make_deterministic(model)
    if is_causal(model):
        raise UserError(f'"{place}" ({config.model_type}) reads one way only; expected an encoder or a causal LM')
    return model, load_tokenizer(place, trust)


def from_policy(policy: Policy, seed: int, keep_lm_head: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder with a linear head without bias, on a copy of the policy's backbone with adapters merged.

    With ``keep_lm_head`` the model keeps the language-model head as ``lm_head``, so that a language-model loss can be
    added to the training. This head is not saved.
    """
    config = copy.deepcopy(policy.model.config)
    _one_label(config)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, "models/reward_head"))
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UserError(
            f"transformers has no sequence classifier for {config.model_type} to save a reward in"
        ) from error
    weights = plain_weights(policy.model)
    heads = set(model.state_dict()) - {f"{model.base_model_prefix}.{n}" for n in backbone(model).state_dict()}
    if heads != {"score.weight"}:
        raise UserError(f"{type(model).__name__} has a head of {sorted(heads)}; expected score.weight alone")
    model.load_state_dict({name: w for name, w in weights.items() if name in model.state_dict()} | _head_of(model))
    tokenizer = copy.deepcopy(policy.tokenizer)
    set_pad(model, tokenizer)
    model.to(policy.model.device).train()
    make_deterministic(model)
    if keep_lm_head:
        model.lm_head = _language_model_head(policy.model, model)
    return model, tokenizer


def _head_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {"score.weight": model.state_dict()["score.weight"]}


def _language_model_head(policy: PreTrainedModel, model: PreTrainedModel) -> nn.Module:
    head = copy.deepcopy(output_embedding(policy))
    if output_embedding(policy).weight is policy.get_input_embeddings().weight:
        head.weight = model.get_input_embeddings().weight  # stays tied
    return head


def set_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a decoder a pad token that differs from EOS and has its own row in the model's embedding.

    transformers reads the score at the last token that is not padding. If the pad token were EOS, transformers would
    read the score at the token before the end.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        known = [t for t in PAD_TOKENS if t in vocabulary and t != tokenizer.eos_token]
        tokenizer.add_special_tokens({"pad_token": known[0] if known else PAD_TOKENS[0]})
    if len(tokenizer) > embedding_rows(model):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def check_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Warn if transformers would read the score at another token than we do, because of the pad token."""
    pad = model.config.get_text_config().pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        log.warning(
            '"%s": pad is %s, so transformers alone would score the token before the end; here the end is scored',
            name,
            "not set" if pad is None else "the same as EOS",
        )


def _one_label(config: PretrainedConfig) -> None:
    config.num_labels = 1
    config.problem_type = "regression"  # makes text-classification pipelines return the raw score without a sigmoid
