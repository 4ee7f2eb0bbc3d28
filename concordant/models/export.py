"""Writes a model folder in the plain Hugging Face layout. The folder is written as a whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from concordant.data.chat import ChatEncoder
from concordant.models.card import CARD, is_hub_id, model_card
from concordant.models.lora import active_names, merged_state_dict
from concordant.models.peft_files import save_adapter
from concordant.models.reward_heads import Heads
from concordant.runs.atomic import whole_folder


def write_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    kind: str = "causal",
    heads: Heads | None = None,
) -> None:
    """Write config, safetensors, tokenizer, chat template and model card to ``folder``; old contents are replaced.

    The written weights have the adapters merged; ``model`` keeps its adapters. ``leave_out`` lists the first parts of
    the names of weights that other tools cannot read. ``kind`` is the kind of ``ChatEncoder``. If the tokenizer has no
    chat template, the default template of this kind is written, so that other tools render a dialogue in the same way.
    ``heads`` are those of a reward model with several: the model is written with their mean, and they beside it.
    """
    state = {name: w for name, w in plain_weights(model).items() if name.split(".")[0] not in leave_out}
    state |= heads.mean if heads else {}
    with whole_folder(folder) as partial, quiet():
        if heads:
            heads.write(partial)
        model.save_pretrained(partial, state_dict=state)
        _write_tokenizer(partial, tokenizer, kind)
        (partial / CARD).write_text(model_card(card or {}), encoding="utf-8")


def write_adapter(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: str,
    card: Mapping[str, Any] | None = None,
    head: Mapping[str, Tensor] | None = None,
    kind: str = "causal",
    heads: Heads | None = None,
) -> None:
    """Write the trained adapter in PEFT's layout to ``folder``; old contents are replaced.

    ``base`` is the folder or hub id from which PEFT loads the base. ``head`` is a reward model's head by its plain
    names; without one the adapter is a policy's. ``heads`` are as in ``write_model``. The tokenizer, with its chat
    template, and the model card lie beside the adapter, as ``write_model`` writes them. The card names no base for the
    hub unless ``base`` is on it: a model from which a local base was once trained is another base.
    """
    about = {**(card or {}), "base_model": base if is_hub_id(base) else ""}
    about["tags"] = ["lora", *about.get("tags", ())]
    head = {**(head or {}), **(heads.mean if heads else {})}
    with whole_folder(folder) as partial, quiet():
        if heads:
            heads.write(partial)
        save_adapter(model, partial, base, "SEQ_CLS" if head else "CAUSAL_LM", head=head)
        _write_tokenizer(partial, tokenizer, kind)
        (partial / CARD).write_text(model_card(about, "peft"), encoding="utf-8")


def _write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = ChatEncoder(tokenizer, kind=kind).template
    tokenizer.save_pretrained(folder)


def plain_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict of the plain model, with the active adapter merged into the weights."""
    return merged_state_dict(model, active_names(model))


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, transformers shows no progress bars and no load reports. Our own errors say what is wrong."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
