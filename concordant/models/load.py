"""Loads a transformers causal LM and its tokenizer as a policy that is ready to train, and saves policies to folders.

Weights are loaded in fp32; the engine decides about autocast. Dropout is 0 in the configuration and in every module.
The model stays in train mode, because ``eval()`` would also switch activation checkpointing off.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.core.recompute import same_context
from concordant.core.time_limit import awaited_at_most
from concordant.data.chat import ChatEncoder
from concordant.models import builtin
from concordant.models.export import quiet, write_adapter, write_model
from concordant.models.finite import refuse_not_finite
from concordant.models.four_bits import keep_base_in_four_bits
from concordant.models.locate import ADAPTER_CONFIG, is_adapter, locate, read_settings
from concordant.models.lora import adapter_names, apply_lora_to_model, merge_lora_weights
from concordant.models.peft_files import load_adapter
from concordant.models.settings_files import read_object, refuse_code
from concordant.models.traits import ModelTraits, prepare_model

log = logging.getLogger(__name__)

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>")  # tried in this order
TOKENIZER_SECONDS = 120.0  # that a tokenizer's files may take to load; the largest take some seconds
HUB_SECONDS = 1200.0  # that a tokenizer's files may take to come from a hub and to load
RANDOM_WHILE_TRAINING = ("drop", "jitter")  # parts of the names of settings that make a forward pass random


@dataclass(slots=True, kw_only=True)
class Policy:
    """A causal language model with its tokenizer and its traits, which were measured when it was loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    traits: ModelTraits
    name: str
    adapter_base: str = ""  # what a file of its adapter names as the base; "": no adapter, or a base that is on no disk


def load_policy(
    config: ModelConfig,
    texts: Iterable[str] | None = None,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Policy:
    """Load the model that ``config.name`` names, or make a built-in one, on the CPU. Adds its adapter or a new one.

    ``texts`` are the training texts of a built-in model's tokenizer, unless ``tokenizer`` is given for it. ``seed`` is
    the seed of new weights.

    Raises:
        UserError: the model is not a causal language model, or it cannot be read. The message says what was found.
    """
    name = config.name or config.adapter
    place, adapter = base_and_adapter(config)
    if isinstance(place, str) and place.startswith("builtin:"):
        model, tokenizer = builtin.build(place.removeprefix("builtin:"), texts, seed, tokenizer)
    else:
        model, tokenizer = _load_causal_lm(place, config.trust_remote_code)
    make_deterministic(model)
    with readable_errors(place):
        traits = prepare_model(model)
    adapt(model, config, adapter, seed)
    if adapter:
        take_template(tokenizer, Path(adapter))
    base = base_name(place) if adapter_names(model) and not config.lora.on_top else ""
    policy = Policy(model=model, tokenizer=tokenizer, traits=traits, name=name, adapter_base=base)
    if config.activation_checkpointing:
        checkpoint_activations(model)
    return policy


def save_policy(policy: Policy, folder: Path | str, card: Mapping[str, Any] | None = None) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` reads. The written weights have adapters merged."""
    stop_at(policy.model, ChatEncoder(policy.tokenizer).end_ids)
    write_model(Path(folder), policy.model, policy.tokenizer, card)


def save_policy_adapter(policy: Policy, folder: Path | str, card: Mapping[str, Any] | None = None) -> None:
    """Write the policy's adapter in PEFT's layout, for the base that ``policy.adapter_base`` names."""
    write_adapter(Path(folder), policy.model, policy.tokenizer, policy.adapter_base, card)


def base_and_adapter(config: ModelConfig) -> tuple[Path | str, str]:
    """The folder or hub id of the base, and the folder of the adapter on it ("" for none). ``name`` may be either."""
    name, adapter = config.name or config.adapter, config.adapter if config.name else ""
    if name.startswith("builtin:"):
        return name, adapter
    place = locate(name)
    if not (isinstance(place, Path) and is_adapter(place) and not (place / "config.json").is_file()):
        return place, adapter
    if adapter:
        raise UserError(f'"{place}" is itself an adapter: give its base as --model.name, or leave --model.adapter out')
    return base_of_adapter(place), str(place)


def base_name(place: Path | str) -> str:
    """What an adapter's file names as its base, so that PEFT finds it from any folder; "" for a built-in model.

    A built-in model is made anew for every run and is on no disk.
    """
    return "" if str(place).startswith("builtin:") else str(place.resolve() if isinstance(place, Path) else place)


def adapt(model: PreTrainedModel, config: ModelConfig, adapter: str = "", seed: int = 0) -> None:
    """Give ``model`` the adapter of the folder ``adapter``, or a new adapter if ``config.lora.rank`` is not 0.

    With ``config.lora.on_top`` the folder's adapter is merged into the weights, and the new adapter lies over them.
    """
    lora = config.lora
    if lora.on_top and not adapter:
        raise UserError("model.lora.on_top: there is no adapter to merge; give one as --model.adapter, or leave it out")
    if adapter:
        if lora.rank and not lora.on_top:  # model.name may be an adapter folder
            raise UserError(
                f'"{adapter}" is an adapter, and training continues with it: leave model.lora.rank 0, or set '
                "model.lora.on_top true for a new adapter over it"
            )
        head = load_adapter(model, Path(adapter), name="default")
        if head:
            raise UserError(f'"{adapter}" is the adapter of a reward model ({", ".join(head)}); expected a policy\'s')
        if lora.on_top:
            merge_lora_weights(model)
    if lora.rank:
        targets = lora.target_modules or None
        apply_lora_to_model(
            model, targets, r=lora.rank, alpha=lora.alpha, dropout=lora.dropout, seed=seed,
            rank_stabilised=lora.rslora, dora=lora.dora, start=lora.start,
        )  # fmt: skip
    if config.quantize == "nf4" and adapter_names(model):
        keep_base_in_four_bits(model, fresh=bool(lora.rank))


def base_of_adapter(folder: Path) -> Path | str:
    """The base model of a PEFT adapter folder."""
    base = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise UserError(f'"{folder}" does not name its base model: pass --model.name BASE --model.adapter {folder}')
    return locate(base)


# -- reading transformers models ------------------------------------------------------------------


def load_config(place: Path | str, trust_remote_code: bool) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        UserError: the folder is not a model folder, or the hub cannot be reached.
    """
    if isinstance(place, Path):
        read_settings(place, trust_remote_code)
    with readable_errors(place):
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    if not trust_remote_code:  # of a hub's model too
        refuse_code(config.to_dict() | {"_attn_implementation": config._attn_implementation}, str(place))
    _check_config(config, place)
    return config


def _check_config(config: PretrainedConfig, place: Path | str) -> None:
    """What transformers takes from config.json as it stands, and what is read here."""
    made_for = config.architectures
    if made_for is not None and not (isinstance(made_for, list) and all(isinstance(name, str) for name in made_for)):
        raise UserError(f'"{place}": architectures is {str(made_for)[:80]!r}; expected a list of names')
    if not _are_ids(config.get_text_config().eos_token_id):
        raise UserError(f'"{place}": eos_token_id is no token id; expected a whole number, a list of them or null')


def _are_ids(value: object) -> bool:
    """Whether ``value`` is a token's id, a list of ids, or None."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def load_tokenizer(place: Path | str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UserError: there is no tokenizer, or it cannot be read.
    """

    def load() -> PreTrainedTokenizerBase:
        found = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
        found("try")  # some faults show at the first text
        return found

    try:
        seconds = TOKENIZER_SECONDS if isinstance(place, Path) else HUB_SECONDS
        tokenizer = awaited_at_most(seconds, f'the tokenizer of "{place}" takes more than {seconds:g} s to load', load)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(f"model_max_length is {tokenizer.model_max_length!r}, no number")
        return tokenizer
    except BaseException as error:
        if _is_ours_to_pass(error):
            raise
        raise UserError(
            f'no readable tokenizer in "{place}" ({_first_line(error)}); expected tokenizer.json, tokenizer_config.json'
        ) from error


def take_template(tokenizer: PreTrainedTokenizerBase, adapter: Path) -> None:
    """Give the base's tokenizer the chat template that lies beside the adapter: the adapter was trained with it.

    The tokens stay the base's own, because its embedding has a row for each of them and no others.
    """
    file, settings = adapter / "chat_template.jinja", adapter / "tokenizer_config.json"
    with readable_errors(adapter):
        if file.is_file():
            tokenizer.chat_template = file.read_text(encoding="utf-8")
        elif settings.is_file() and isinstance(template := read_object(settings).get("chat_template"), str):
            tokenizer.chat_template = template


def load_weights(auto_class: Any, place: Path | str, config: PretrainedConfig, trust: bool) -> tuple[Any, set[str]]:
    """The model, in fp32 and train mode, and the names of weights that the files lack. Reads only safetensors."""
    with readable_errors(place), quiet():
        model, info = auto_class.from_pretrained(
            place,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust,
            output_loading_info=True,
        )
    refuse_not_finite(place, dict(model.named_parameters()))
    return model.train(), set(info["missing_keys"])


@contextmanager
def readable_errors(place: Path | str) -> Iterator[None]:
    """Inside the block, the errors of transformers become a ``UserError`` with one sentence that says what to do."""
    try:
        yield
    except BaseException as error:
        if _is_ours_to_pass(error):
            raise
        if isinstance(place, Path):
            raise UserError(f'"{place}" cannot be loaded: {_first_line(error)}') from error
        raise UserError(
            f'"{place}" is no folder here, and could not be loaded from the hub: {_first_line(error)} '
            "Without network, fetch it elsewhere and give its folder in place of the name "
            "(config.json, *.safetensors and the tokenizer's files)"
        ) from error


def _is_ours_to_pass(error: BaseException) -> bool:
    """True for what says nothing of a file that was read: our own errors, a signal, the end of memory.

    Anything else comes from a file that another library did not understand, and such a library raises what it likes;
    those written in Rust raise a ``PanicException``, which is no ``Exception``.
    """
    if isinstance(error, Exception):
        return isinstance(error, UserError | MemoryError)
    return type(error).__name__ != "PanicException"


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line[:300] if isinstance(error, OSError | ValueError) and line else f"{type(error).__name__}: {line[:300]}"


def _load_causal_lm(place: Path | str, trust: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = load_config(place, trust)
    made_for = ", ".join(config.architectures or ())
    if "ForSequenceClassification" in made_for:
        raise UserError(f'"{place}" is a reward model or classifier ({made_for}); expected a causal language model')
    if config.is_encoder_decoder or (type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not trust):
        raise UserError(f'"{place}" is a {config.model_type} model ({made_for}); expected a causal language model')
    model, missing = load_weights(AutoModelForCausalLM, place, config, trust)
    if missing:
        raise UserError(
            f'"{place}" lacks weights of a causal language model: {", ".join(sorted(missing)[:3])} '
            f"({len(missing)} in all; it was saved as {made_for or 'an unnamed architecture'})"
        )
    if model.generation_config is not None and not _are_ids(model.generation_config.eos_token_id):
        raise UserError(f'"{place}": eos_token_id of generation_config.json is no token id, nor a list of ids')
    tokenizer = load_tokenizer(place, trust)
    if len(tokenizer) > embedding_rows(model):
        raise UserError(
            f'"{place}": its tokenizer has {len(tokenizer)} tokens, its embedding {embedding_rows(model)} rows only'
        )
    define_end(model, tokenizer, str(place))
    return model, tokenizer


def embedding_rows(model: PreTrainedModel) -> int:
    """The number of token ids that the model has an embedding for. The tokenizer may have fewer tokens."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def define_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer without an end token the model's own, or else a usual end token of its vocabulary.

    No token is added to the vocabulary.
    """
    if tokenizer.eos_token_id is None:
        ids = model.config.get_text_config().eos_token_id
        candidates = ids if isinstance(ids, list) else [] if ids is None else [ids]
        vocabulary = tokenizer.get_vocab()
        token = tokenizer.convert_ids_to_tokens(candidates[0]) if candidates else None
        token = token or next((t for t in END_TOKENS if t in vocabulary), None)
        if token is None:
            raise UserError(
                f'"{name}" has no end-of-sequence token, so the model could never learn to stop: '
                "set eos_token in its tokenizer_config.json"
            )
        log.warning('"%s" has no end-of-sequence token: using "%s"', name, token)
        tokenizer.eos_token = token
    if model.config.eos_token_id is None:
        model.config.eos_token_id = tokenizer.eos_token_id


def stop_at(model: PreTrainedModel, ends: tuple[int, ...]) -> None:
    """Make transformers' own ``generate`` end a response where our generator ends it: at any token of ``ends``."""
    generation = model.generation_config
    assert generation is not None  # every causal LM has one
    known = generation.eos_token_id
    known = known if isinstance(known, list) else [] if known is None else [known]
    every = list(dict.fromkeys([*known, *ends]))
    generation.eos_token_id = every if len(every) > 1 else every[0]


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again in the context of its call.

    A pass without gradient recomputes nothing. transformers would switch off its cache of keys and values, because the
    model stays in train mode while it samples.
    """
    with warnings.catch_warnings():
        # Newer versions of transformers warn about this name, but the older ones that pyproject.toml allows need it.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": same_context}
        )
    for module in model.modules():
        kind: Any = type(module)
        if vars(module).get("gradient_checkpointing"):
            module.__class__ = _recomputing(kind)


@cache
def _recomputing(kind: Any) -> type[nn.Module]:
    """A subclass of ``kind`` whose ``gradient_checkpointing`` is true only while gradients are recorded."""

    def wanted(self: Any) -> bool:
        return vars(self)["gradient_checkpointing"] and torch.is_grad_enabled()

    def set_wanted(self: Any, value: bool) -> None:
        vars(self)["gradient_checkpointing"] = value

    recomputes = property(wanted, set_wanted)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {"gradient_checkpointing": recomputes, **names})


# -- forward passes without randomness ------------------------------------------------------------


def make_deterministic(model: PreTrainedModel) -> None:
    """Set dropout and jitter to 0 in the configuration and in every module, so that one input gives one result."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _zero_rates(module, vars(module))  # OPT and others keep a copy of the rate and have no nn.Dropout
    for config in (model.config, model.config.get_text_config()):
        _zero_rates(config, config.to_dict())


def _zero_rates(owner: object, settings: Mapping[str, Any]) -> None:
    for name, value in list(settings.items()):
        if any(word in name for word in RANDOM_WHILE_TRAINING) and isinstance(value, float):
            setattr(owner, name, 0.0)
