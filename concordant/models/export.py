"""Writes a model folder in the plain Hugging Face layout. The folder is written as a whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from concordant.data.chat import ChatEncoder
from concordant.models.lora import lora_layers, merged_state_dict
from concordant.runs.atomic import whole_folder

FRONT_MATTER = ("base_model", "datasets", "tags", "license", "language")  # keys of the card that the hub reads


def write_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    kind: str = "causal",
) -> None:
    """Write config, safetensors, tokenizer, chat template and model card to ``folder``; old contents are replaced.

    The written weights have the adapters merged; ``model`` keeps its adapters. ``leave_out`` lists the first parts of
    the names of weights that other tools cannot read. ``kind`` is the kind of ``ChatEncoder``. If the tokenizer has no
    chat template, the default template of this kind is written, so that other tools render a dialogue in the same way.
    """
    state = {name: w for name, w in plain_weights(model).items() if name.split(".")[0] not in leave_out}
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = ChatEncoder(tokenizer, kind=kind).template
    with whole_folder(folder) as partial, quiet():
        model.save_pretrained(partial, state_dict=state)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(model_card(folder.name, card or {}), encoding="utf-8")


def plain_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict of the plain model, with the active adapter merged into the weights."""
    adapted = list(lora_layers(model).values())
    return merged_state_dict(model, adapted[0].active) if adapted else model.state_dict()


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


def model_card(name: str, card: Mapping[str, Any]) -> str:
    """The text of README.md: YAML for the hub, then ``description``, then a table for every mapping in ``card``."""
    front: dict[str, Any] = {"library_name": "transformers"}
    front |= {key: card[key] for key in FRONT_MATTER if card.get(key)}
    front["tags"] = ["concordant", *(tag for tag in card.get("tags", ()) if tag != "concordant")]
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {name}"]
    if card.get("description"):
        parts.append(str(card["description"]))
    for title, section in card.items():
        if title in FRONT_MATTER or title == "description":
            continue
        heading = title.replace("_", " ").capitalize()
        if isinstance(section, Mapping):
            rows = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in section.items())
            parts.append(f"## {heading}\n\n| | |\n|---|---|\n{rows}")
        else:
            parts.append(f"## {heading}\n\n{section}")
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
