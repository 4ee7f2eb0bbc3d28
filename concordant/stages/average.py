"""``concordant average``: one reward model whose weights are the mean of several (WARM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from concordant.config.checks import checked
from concordant.config.stages import AverageConfig
from concordant.config.yaml_io import load_yaml
from concordant.core.averaging import averaged, cosine
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.card import short
from concordant.models.export import plain_weights
from concordant.models.lora import lora_layers, merge_lora_weights
from concordant.models.peft_files import is_head
from concordant.runs.names import CONFIG
from concordant.runs.writable import check_folder
from concordant.stages import common

# The least cosine between the weights of two models of one start. Training moves weights by a few percent of their
# size, and models that were drawn apart have a cosine near 0.
ONE_START = 0.5


@checked
def average(config: AverageConfig) -> Path:
    """Write the average of the reward models to ``output`` and return this model folder.

    Raises UserError where the models cannot be averaged: other shapes, another tokenizer, or another start.
    """
    check_folder(config.output)
    output = Path(config.output)
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise UserError(f"{output} holds something else than a model, which would be replaced; give another --output")
    members = [_Member.of(name) for name in config.models]
    for other in members[1:]:
        _check_alike(members[0], other)
    first = members[0].model
    if lora_layers(first.model):
        merge_lora_weights(first.model)
    first.model.load_state_dict(averaged([member.weights for member in members]))
    first.save(output, _card(config.models))
    common.message(f"average of {counted(len(members), 'reward model')} in {output}")
    return output


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    model: RewardModel
    weights: Mapping[str, Tensor]  # an adapter merged

    @classmethod
    def of(cls, name: str) -> _Member:
        model = RewardModel.from_pretrained(name)
        return cls(name, model, plain_weights(model.model))


def _check_alike(one: _Member, other: _Member) -> None:
    """Raises UserError with the reason why the two models cannot be averaged."""

    def refused(why: str) -> UserError:
        return UserError(f"{other.name} cannot be averaged with {one.name}: {why}")

    shapes, theirs = ({name: tuple(w.shape) for name, w in m.weights.items()} for m in (one, other))
    if shapes != theirs:
        apart = next(name for name in [*shapes, *theirs] if shapes.get(name) != theirs.get(name))
        raise refused(f"its {apart} has the shape {theirs.get(apart)}, and that of the other {shapes.get(apart)}")
    if one.model.tokenizer.get_vocab() != other.model.tokenizer.get_vocab():
        raise refused("their tokenizers differ, so one row of the embeddings stands for two tokens")
    starts = _start_of(one.name), _start_of(other.name)
    if None not in starts and starts[0] != starts[1]:
        raise refused(f"it started from {starts[1]}, and the other from {starts[0]}; both must have one start")
    head = [name for name in shapes if is_head(one.model.model, name)]
    body = [name for name, w in one.weights.items() if name not in head and w.is_floating_point()]
    for part, names in (("weights", body), ("heads", head)):
        found = cosine(one.weights, other.weights, names)
        if found < ONE_START:
            raise refused(
                f"their {part} have a cosine of {found:.2f}, and those of one start have nearly 1; train both from one "
                "reward model, which `concordant reward` has trained for some steps, so that they share its head"
            )


def _start_of(name: str) -> str | None:
    """The model that the run of the reward model ``name`` started from; None if it is in no run folder."""
    config = Path(name).parent / CONFIG
    if not config.is_file():
        return None
    return str(load_yaml(str(config)).get("model", {}).get("name")) or None


def _card(names: Sequence[str]) -> dict[str, object]:
    return {
        "title": f"The average of {counted(len(names), 'reward model')}",
        "tags": ["reward-model", "averaged"],
        "description": "A sequence classifier whose score is a reward. Its weights are the mean of "
        f"{', '.join(map(short, names))}, made by `concordant average` (WARM, 2401.12187).",
    }
