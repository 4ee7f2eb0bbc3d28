"""The settings of a foreign run, from the log and from the files beside it, under our names.

training_args.bin would have them all, but it is a pickle: reading it would run code of whoever wrote it, so it is never
opened. trainer_state.json, config.json, adapter_config.json, README.md, LLaMA-Factory's training_args.yaml and verl's
``.hydra/config.yaml`` are plain data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.runs.foreign.log import EVAL, Raw, number
from concordant.runs.foreign.method import CHANCE, REFERENCE_FREE, Guess
from concordant.runs.foreign.names import THEIR_NAMES
from concordant.runs.logs import Row, read_json

_NO_SIGMOID = {"kto": "kto", "orpo": "orpo", "cpo": "cpo"}  # losses of pairs that are not ln 2 at chance
_METHODS = {  # how TRL's model cards call the methods: method, our verb
    "sft": ("sft", "sft"),
    "reward": ("reward", "reward"),
    "dpo": ("dpo", "dpo"),
    "online dpo": ("online-dpo", "dpo"),
    "kto": ("kto", "dpo"),
    "orpo": ("orpo", "dpo"),
    "cpo": ("cpo", "dpo"),
    "grpo": ("grpo", "ppo"),
    "rloo": ("rloo", "ppo"),
    "ppo": ("ppo", "ppo"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    config: dict[str, Any]  # by our dotted key
    facts: dict[str, str]
    guess: Guess


def settings_of(raw: Raw, guess: Guess) -> Settings:
    """What is known of the run, and the guess corrected by the files beside the log."""
    folders = _folders(raw.path)
    facts: dict[str, str] = {}
    found = _of_model(folders, guess, facts)
    config = {**_of_state(raw, facts), **_of_rows(raw.rows, found)}
    config |= _of_yaml(folders, found.framework, facts)
    if found.verb == "dpo":
        config.setdefault("loss", _NO_SIGMOID.get(found.method) or pair_loss(raw.rows))
        if found.beta:
            config.setdefault("beta", found.beta)
    return Settings(config, facts, found)


def pair_loss(rows: Sequence[Row]) -> str:
    """Which loss the pairs have: "sigmoid", unless the numbers speak against it; then "another".

    The mean of -log σ(margin) is at least -log σ of the mean margin, and where the margins are 0 it is ln 2.
    """
    for row in rows:
        loss, margin = row.get("loss", math.nan), row.get("rewards/margins", math.nan)
        if not math.isfinite(loss) or not math.isfinite(margin):
            continue
        least = math.log1p(math.exp(-margin)) if margin > -30 else -margin
        if loss < least - 0.02 or (abs(margin) < 1e-3 and abs(loss - CHANCE) > 0.1):
            return "another"
    return "sigmoid"


def _folders(path: Path) -> list[Path]:
    """The log's folder, the run's folder above a checkpoint or above TensorBoard's, and the newest checkpoint."""
    here = path.resolve().parent
    found = [here]
    if here.name.startswith("checkpoint-"):
        found.append(here.parent)
    elif here.parent.name in ("runs", "logs", "logging_dir"):  # transformers writes to OUTPUT/runs/DATE_HOST
        found.append(here.parent.parent)
    return [*found, *newest_checkpoints(found[-1])[:1]]


def newest_checkpoints(folder: Path) -> list[Path]:
    """The folders ``checkpoint-N`` in ``folder``, the greatest N first."""
    found = [(int(p.name[11:]), p) for p in folder.glob("checkpoint-*") if p.name[11:].isdigit() and p.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def _of_state(raw: Raw, facts: dict[str, str]) -> dict[str, Any]:
    """From trainer_state.json: how long the run is, and how many examples a step has."""
    state, config = raw.state, dict[str, Any]()
    steps, epochs, batch = (_positive(state.get(k)) for k in ("max_steps", "num_train_epochs", "train_batch_size"))
    if steps:
        config["train.max_steps"] = int(steps)
    if epochs:
        config["train.epochs"] = epochs
    samples_a_second = _positive(state.get("train_samples_per_second"))
    steps_a_second = _positive(state.get("train_steps_per_second"))
    if samples_a_second and steps_a_second >= 0.02:  # with less, rounding to 0.001 hides the number
        config["train.batch_size"] = max(1, round(samples_a_second / steps_a_second))
    elif batch:
        config["train.batch_size"] = int(batch)
        facts["batch size"] = f"{batch:g} a device; gradient accumulation is not known"
    gaps = [b["step"] - a["step"] for a, b in zip(raw.rows, raw.rows[1:], strict=False) if "loss" in a and "loss" in b]
    if gaps and min(gaps) > 1:
        facts["logged"] = f"every {min(gaps)} steps; each row is the mean of these steps"
    return config


def _of_rows(rows: Sequence[Row], guess: Guess) -> dict[str, Any]:
    """What the metrics themselves give away."""
    config: dict[str, Any] = {}
    names = ("learning_rate", "lr", "actor/lr", "actor_lr", "ppo/learning_rate")
    rates = [row[name] for row in rows for name in names if math.isfinite(row.get(name, math.nan))]
    rates += [row["lr(1e-3)"] / 1000 for row in rows if math.isfinite(row.get("lr(1e-3)", math.nan))]
    if rates and max(rates) > 0:
        config["train.learning_rate"] = max(rates)  # the rate after the warm-up
    cut = ("completions/clipped_ratio", "response_length/clip_ratio")
    longest = ("completions/max_length", "response_length/max")
    for clipped, length in zip(cut, longest, strict=True):
        limits = [row[length] for row in rows if row.get(clipped, 0) > 0 and math.isfinite(row.get(length, math.nan))]
        if limits:
            config["sampling.max_new_tokens"] = int(max(limits))  # an answer that was cut has this length
    if guess.verb == "dpo":
        given = [row["beta"] for row in rows if row.get("beta", 0) > 0]  # Online DPO logs it
        beta = given[-1] if given else None if guess.method in REFERENCE_FREE else beta_of(rows)
        config |= {"beta": beta} if beta else {}
    return config


def beta_of(rows: Sequence[Row]) -> float | None:
    """DPO's beta from the evaluations; None if they do not give it.

    All evaluations have the same pairs and the same reference. So an implicit reward, beta times (log-prob less the
    reference's log-prob), changes from one evaluation to another by beta times the change of the log-prob.
    """
    changes: list[tuple[float, float]] = []  # of the log-prob and of the reward, since the first evaluation
    for side in ("chosen", "rejected"):
        names = (f"{EVAL}logps/{side}", f"{EVAL}rewards/{side}")
        found = [
            [row[name] for name in names] for row in rows if all(math.isfinite(row.get(n, math.nan)) for n in names)
        ]
        changes += [(logp - found[0][0], reward - found[0][1]) for logp, reward in found[1:]]
    moved = sum(logp * logp for logp, _ in changes)
    if moved < 1e-4:  # nats squared; less is rounding
        return None
    beta = sum(logp * reward for logp, reward in changes) / moved
    apart = sum((reward - beta * logp) ** 2 for logp, reward in changes)
    is_one = beta > 0 and apart < 0.01 * beta * beta * moved
    return float(f"{beta:.2g}") if is_one else None


def _of_model(folders: Sequence[Path], guess: Guess, facts: dict[str, str]) -> Guess:
    """What config.json, adapter_config.json and README.md say, and the guess with what they say of the method."""
    framework, method, verb, because = guess.framework, guess.method, guess.verb, guess.because
    adapter = _first(folders, "adapter_config.json")
    model = _first(folders, "config.json")
    if adapter:
        base = adapter.get("base_model_name_or_path")
        facts["adapter"] = f"LoRA of rank {adapter.get('r')}, alpha {adapter.get('lora_alpha')}, over {base}"
    named = model.get("architectures") if model else None
    kind = ", ".join(map(str, named)) if isinstance(named, list) else ""
    if kind:
        facts["model"] = kind
    scores = (adapter or {}).get("task_type") == "SEQ_CLS" or "SequenceClassification" in kind
    if scores and verb == "sft":
        method, verb = "reward", "reward"
        because = f"the model beside the log is a sequence classifier; {because}"
    card = _card(folders)
    if card:
        told, version = card
        if version:
            facts["TRL"] = version
        if framework in ("transformers", ""):
            framework = "TRL"
        of_card = _METHODS.get(told.lower()) if told else None
        if of_card and of_card[0] != method and (of_card[1] == verb or not verb or verb == "sft"):
            method, verb = of_card
            because = f"README.md says that the model was trained with {told}; {because}"
    if framework in ("TRL", "transformers") and any((folder / "trainer_log.jsonl").is_file() for folder in folders):
        framework = "LLaMA-Factory"
    return Guess(framework, method, verb, because, guess.beta)


def _card(folders: Sequence[Path]) -> tuple[str, str] | None:
    """The method and TRL's version in a model card that TRL wrote; None if there is no such card."""
    for folder in folders:
        try:
            text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        method = re.search(r"This model was trained with ([\w -]+?)(?:,|\.|\n)", text)
        version = re.search(r"^- TRL: (\S+)", text, re.MULTILINE)
        if method or version:
            return (method[1] if method else ""), (version[1] if version else "")
    return None


_FACTORY = {
    "learning_rate": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "pref_beta": "beta",
    "pref_loss": "loss",
    "lora_rank": "model.lora.rank",
    "max_new_tokens": "sampling.max_new_tokens",
    "temperature": "sampling.temperature",
}


def _of_yaml(folders: Sequence[Path], framework: str, facts: dict[str, str]) -> dict[str, Any]:
    """LLaMA-Factory's training_args.yaml and the config that Hydra writes for verl, under our keys."""
    names = _FACTORY if framework == "LLaMA-Factory" else {t: o for o, t in THEIR_NAMES["verl"].items()}
    file = "training_args.yaml" if framework == "LLaMA-Factory" else ".hydra/config.yaml"
    if framework not in ("LLaMA-Factory", "verl"):
        return {}
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None:
        return {}
    try:
        given = load_yaml(path)
    except UserError as problem:
        facts["settings file"] = str(problem)
        return {}
    facts["settings file"] = str(path)
    values = {ours: _at(given, theirs) for theirs, ours in names.items()}
    return {ours: value for ours, value in values.items() if isinstance(value, int | float | str)}


def _at(mapping: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        mapping = mapping.get(name) if isinstance(mapping, Mapping) else None
    return mapping


def _first(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    return next((found for folder in folders if (found := read_json(folder / name))), None)


def _positive(value: Any) -> float:
    """The value, if it is a positive number; else 0."""
    known = number(value)
    return known if known is not None and known > 0 else 0.0
