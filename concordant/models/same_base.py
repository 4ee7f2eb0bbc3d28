"""Puts the adapter of a saved reward model on the frozen base of a policy, where both were made for the same base."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from concordant.core.errors import UserError
from concordant.models.load import Policy, base_name, base_of_adapter
from concordant.models.locate import ADAPTER_CONFIG, is_adapter, locate
from concordant.models.lora import adapter_names, changed_base, set_active_adapter
from concordant.models.peft_base import replaced_weights
from concordant.models.peft_config import PeftConfig
from concordant.models.peft_files import load_adapter
from concordant.models.reward_heads import check_mean, read_heads
from concordant.models.settings_files import read_object

HEAD = "score"  # the head of a decoder's reward model


def add_reward_adapter(policy: Policy, source: str) -> tuple[str, Tensor, Path]:
    """Add the adapter of the reward model ``source`` to the policy's model, frozen; the policy's own stays active.

    Returns the adapter's name there, the weight of its heads (K, H), and its folder.

    Raises:
        UserError: ``source`` is not the adapter of a reward model, or its base is not the policy's. The model is
            unchanged then.
    """
    folder = _adapter_of(source)
    _check_same_base(policy, folder)
    heads = read_heads(folder)
    name = f"reward-{1 + sum(n.startswith('reward-') for n in adapter_names(policy.model))}"
    head = load_adapter(policy.model, folder, name, trainable=False)
    set_active_adapter(policy.model, "default")  # the one with which the policy samples
    assert head is not None, "a SEQ_CLS adapter is never loaded without its head"
    weight_KH = head[f"{HEAD}.weight"]
    if heads is not None:
        check_mean(heads, weight_KH, folder)
        weight_KH = heads["weight"]
    return name, weight_KH, folder


def _adapter_of(source: str) -> Path:
    found = locate(source)
    if not (isinstance(found, Path) and is_adapter(found) and not (found / "config.json").is_file()):
        raise UserError("it is a whole model and not the folder of an adapter")
    config = PeftConfig.read(found / ADAPTER_CONFIG)
    if config.task_type != "SEQ_CLS":
        raise UserError("it is the adapter of a language model and not of a reward model")
    if config.modules_to_save != (HEAD,):
        brought = ", ".join(config.modules_to_save) or "nothing"
        raise UserError(f"beside its adapter it brings {brought}, and only a head named {HEAD} can be added to a base")
    return found


def _check_same_base(policy: Policy, folder: Path) -> None:
    own, its = policy.adapter_base, base_name(base_of_adapter(folder))
    if not own:
        raise UserError(
            "the policy's base is in no folder: it is a built-in model, or an adapter was merged into it "
            "(model.lora.on_top)"
        )
    if changed_base(policy.model):
        raise UserError("the policy's adapter began as PiSSA, which took a part out of the base")
    if replaced_weights(policy.model):
        raise UserError("the policy's adapter brought an embedding or an output layer, which changed the base")
    if own != its and not _same_model(Path(own), Path(its)):
        raise UserError(f"its base is {its}, and the policy's base is {own}")


def _same_model(a: Path, b: Path) -> bool:
    """Whether two folders hold the same model: an equal config.json, and weights with equal hashes."""
    if not (a.is_dir() and b.is_dir()) or read_object(a / "config.json") != read_object(b / "config.json"):
        return False
    files = [sorted(folder.glob("*.safetensors")) for folder in (a, b)]
    if [f.stat().st_size for f in files[0]] != [f.stat().st_size for f in files[1]]:
        return False
    return [_hash(f) for f in files[0]] == [_hash(f) for f in files[1]]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
