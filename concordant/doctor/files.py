"""``concordant doctor TARGET`` for data and for a model folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.trees import Layout
from concordant.data.card import DataCard, make_card
from concordant.data.chat import ChatEncoder
from concordant.data.dialogue import Drop
from concordant.data.splits import Loaded, load_all, reasons
from concordant.doctor.data_tokens import look_at_tokens, token_reader
from concordant.doctor.finding import Diagnosis, Finding
from concordant.doctor.preflight_memory import BYTES, gigabytes
from concordant.doctor.preflight_records import check_records
from concordant.doctor.preflight_tokens import template_turns
from concordant.engines.memory import available_memory
from concordant.engines.reward_model import RewardModel
from concordant.models.load import Policy, load_config, load_policy
from concordant.models.locate import ADAPTER_CONFIG, is_adapter, locate
from concordant.models.peft_config import PeftConfig
from concordant.models.reward_build import is_encoder_config
from concordant.models.shareable import read_headers

# -- data -----------------------------------------------------------------------------------------


def diagnose_data(name: str, model: ModelConfig | None = None) -> Diagnosis:
    """The data card's numbers, and what is wrong with the records. ``UserError`` for what is no data at all.

    ``model``: its tokenizer, where a name is given, says how long the rows are and whether its template suits them.
    """
    loaded = load_all(DataConfig(path=name, skip_bad_rows=True), seed=0)
    card = make_card(
        loaded.train,
        loaded.test,
        source=name,
        seed=0,
        rows_read=loaded.rows_read,
        formats=loaded.formats,
        dropped=loaded.dropped,
    )
    bad = bad_rows(loaded)
    facts, found = _card_facts(card), [*([bad] if bad else []), *check_records(loaded, card)]
    if model is not None and model.name:
        counted, about_tokens = look_at_tokens(loaded.train, token_reader(model, loaded.train))
        facts, found = facts | counted, found + about_tokens
    return Diagnosis(facts, found)


def _card_facts(card: DataCard) -> dict[str, str]:
    facts = {"data": card.headline()}
    for title, (head, *rows) in card.sections():
        for name, *cells in rows:
            words = [f"{column} {cell}".removeprefix("found ") for column, cell in zip(head[1:], cells, strict=True)]
            facts[f"{title}: {name}".lower()] = ", ".join(words)
    return facts


def bad_rows(loaded: Loaded[Any]) -> Finding | None:
    """Rows that cannot be read at all; the first of them stops a run."""
    bad = loaded.dropped.copy()
    for reason in Drop:
        del bad[reason]
    if not bad:
        return None
    return Finding(
        "bad_rows",
        "error",
        f"{bad.total():,} of {loaded.rows_read:,} rows cannot be read: {reasons(bad)}",
        "a file cut short, edited by hand, or joined from several",
        "Mend the rows (a run names file and line of the first), or leave them out: --data.skip_bad_rows true",
        numbers={"rows": bad.total()},
    )


# -- a model folder -------------------------------------------------------------------------------


def diagnose_model(name: str) -> Diagnosis:
    """What kind of model it is, whether its files are whole, and whether its tokens are as training needs them."""
    folder = locate(name)
    assert isinstance(folder, Path)
    facts: dict[str, str] = {"model": str(folder)}
    try:
        kind, facts["kind"] = _kind(folder)
        weights = sum(read_headers(folder).values())
        facts["weights"] = f"{weights:,}, whole in every file"
        need, free = BYTES * weights, available_memory()
        if need > free:
            facts["not loaded"] = f"needs {gigabytes(need)} of memory, {gigabytes(free)} are free"
            return Diagnosis(facts, [])
        if broken := weights_not_finite(folder):
            return Diagnosis(facts, [broken])
        model = _LOADERS[kind](name)
        encoder = ChatEncoder(model.tokenizer, kind="encoder" if _reads_both_ways(model) else "causal")
    except UserError as problem:
        return Diagnosis(facts, [model_unreadable(problem)])
    facts |= _model_facts(model, encoder)
    found = [pad_is_end(model), template_turns(encoder, []), flat_layout(model)]
    if isinstance(model, Policy):
        found += [end_not_in_generation_config(model, encoder), no_chat_template(model)]
    return Diagnosis(facts, [finding for finding in found if finding is not None])


_LOADERS: dict[str, Callable[[str], Policy | RewardModel]] = {
    "policy": lambda name: load_policy(ModelConfig(name=name)),
    "reward model": RewardModel.from_pretrained,
    "encoder": lambda name: RewardModel.from_backbone(ModelConfig(name=name)),
}


def _kind(folder: Path) -> tuple[str, str]:
    """Which loader reads the folder, and its kind in words. ``UserError`` for what is no model, or not safe to read."""
    if is_adapter(folder) and not (folder / "config.json").is_file():
        adapter = PeftConfig.read(folder / ADAPTER_CONFIG)
        of = "reward model" if adapter.task_type == "SEQ_CLS" else "policy"
        return of, f"adapter ({adapter.task_type}) of {adapter.base_name}"
    config = load_config(folder, trust_remote_code=False)
    made_for = ", ".join(config.architectures or ["an unnamed architecture"])
    if "ForSequenceClassification" in made_for:
        return "reward model", f"reward model, {made_for}"
    if is_encoder_config(config):
        return "encoder", f"encoder to start a reward model from, {made_for}"
    return "policy", f"policy, {made_for}"


def _reads_both_ways(model: Policy | RewardModel) -> bool:
    return isinstance(model, RewardModel) and model.is_encoder


def _model_facts(model: Policy | RewardModel, encoder: ChatEncoder) -> dict[str, str]:
    tokenizer = model.tokenizer
    shared = "a prompt is computed once for all its answers"
    return {
        "layout": f"{model.traits.layout} ({shared if model.traits.layout is Layout.TREE else 'a row an answer'})",
        "vocabulary": f"{len(tokenizer):,} tokens",
        "ends a response": ", ".join(map(str, tokenizer.convert_ids_to_tokens(list(encoder.end_ids)))),
        "pad": str(tokenizer.pad_token),
        "chat template": "its own" if tokenizer.chat_template else "none: HH-RLHF's Human: and Assistant: are used",
    }


def model_unreadable(problem: UserError) -> Finding:
    return Finding(
        "model_unreadable",
        "error",
        str(problem),
        "a copy or download that was cut short, a missing part, or a folder of another kind",
        "Copy or export it again; train a reward model with `concordant reward`, merge an adapter with "
        "`concordant merge`",
    )


def weights_not_finite(folder: Path) -> Finding | None:
    """Asked of the files, a tensor at a time: a model with NaN in it fails its load checks for stranger reasons."""
    broken = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            broken += [key for key in file.keys() if not bool(torch.isfinite(file.get_tensor(key)).all())]  # noqa: SIM118
    if not broken:
        return None
    return Finding(
        "not_finite",
        "error",
        f"NaN or infinity in {counted(len(broken), 'tensor')}: {', '.join(broken[:3])}",
        "the run that made it diverged, or the file was converted in too low a precision",
        "Export an earlier checkpoint, or train again with half the --train.learning_rate",
        numbers={"tensors": len(broken)},
        weight=0.95,
    )


def pad_is_end(model: Policy | RewardModel) -> Finding | None:
    """Harmless here, where masks are made from turns; not in other tools."""
    pad, end = model.tokenizer.pad_token_id, model.tokenizer.eos_token_id
    if pad is not None and pad != end:
        return None
    is_reward = isinstance(model, RewardModel)
    return Finding(
        "pad_is_end",
        "warning" if is_reward else "info",
        f"the pad token is {'not set' if pad is None else f'the end token, {model.tokenizer.eos_token}'}",
        "GPT-2 and Llama tokenizers come without a pad token, and EOS is often put in its place",
        "Train it again with `concordant reward`, which adds a pad token"
        if is_reward
        else "Nothing for Concordant; for other tools give the tokenizer a pad token of its own",
    )


def end_not_in_generation_config(policy: Policy, encoder: ChatEncoder) -> Finding | None:
    generation = policy.model.generation_config
    known = generation.eos_token_id if generation else None
    if encoder.end_id in (known if isinstance(known, list) else [known]):
        return None
    end = policy.tokenizer.convert_ids_to_tokens(encoder.end_id)
    return Finding(
        "end_not_in_generation_config",
        "warning",
        f'the chat template ends a turn with "{end}" ({encoder.end_id}), generation_config.json stops at {known}',
        "the folder was made by a tool that knows the tokenizer's EOS alone",
        f"Add {encoder.end_id} to eos_token_id in generation_config.json; what Concordant exports has it",
        numbers={"end": encoder.end_id},
    )


def no_chat_template(policy: Policy) -> Finding | None:
    if policy.tokenizer.chat_template:
        return None
    return Finding(
        "no_chat_template",
        "info",
        "the tokenizer has no chat template; Human: and Assistant: turns are used, as in HH-RLHF",
        "a base model, or a folder copied without chat_template.jinja",
        "Put the model's own chat_template.jinja into the folder; a base model needs none before SFT",
    )


def flat_layout(model: Policy | RewardModel) -> Finding | None:
    if model.traits.layout is Layout.TREE or _reads_both_ways(model):
        return None
    return Finding(
        "flat_layout",
        "info",
        "prompt trees are not exact for this architecture, so every answer has a row with its own prompt",
        "positions or masks that are given are not honoured (ALiBi, state-space layers, dynamic RoPE)",
        "Nothing, or another model, of which `concordant doctor MODEL` says that its layout is tree",
    )
