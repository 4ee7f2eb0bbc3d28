"""docs/config.md, made from the config classes: ``python -m concordant.reference > docs/config.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from concordant.config.checks import needed
from concordant.config.fields import Field, Schema, schema
from concordant.config.help import default_text, describe
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.verbs import VERBS

_INTRO = """# Config keys

Made from the source by `python -m concordant.reference > docs/config.md`; a test checks this. Every key can be given in
a YAML file (`train: {max_steps: 10}`) and on the command line (`--train.max_steps=10`); [cli.md](cli.md) has the rules.
[Presets](presets.md) set some of them for known models.
A list is `[a, b]` in a file, and `--reward a b` or `--reward='[a,b]'` on the command line.
Ranges are written `[0, 1)`: square brackets include the end, round ones do not. A value out of its range, an unknown
key or two settings that contradict each other end the command with exit code 2 before anything is read or written.
"""

# Sections that many verbs have are listed once, from a verb that has them.
_COMMON = {
    "data": ("the source of the data", "sft"),
    "model": ("which model", "sft"),
    "train": ("the training loop", "sft"),
    "sampling": ("how answers are sampled", "generate"),
    "doctor": ("checks before and during a run", "sft"),
}


def reference() -> str:
    """The whole page."""
    parts = [_INTRO]
    for section, (title, verb) in _COMMON.items():
        keys = schema(VERBS[verb].config_class())
        parts.append(f"## {section}: {title}\n\n{_table(_inside(keys, section))}")
    parts += [_verb(verb, entry.summary, entry.config_class()) for verb, entry in VERBS.items()]
    return "\n".join(parts)


def _inside(keys: Schema, section: str) -> list[Field]:
    return [known for key, known in keys.fields.items() if key.startswith(section + ".")]


def _verb(verb: str, summary: str, config_class: type) -> str:
    keys = schema(config_class)
    models = [name for name, owner in keys.sections.items() if owner is ModelConfig and name != "model"]
    own = [known for key, known in keys.fields.items() if key.partition(".")[0] not in (*_COMMON, *models)]
    has = [f"`{name}`" for name in _COMMON if name in keys.sections] + [f"`{name}` (as `model`)" for name in models]
    must = needed(config_class)
    lines = [f"## {verb}\n\n{summary[0].upper()}{summary[1:]}."]
    if must:
        lines.append("Needs " + ", ".join(f"`{key}`" for key in must) + ".")
    if has:
        lines.append("Sections: " + ", ".join(has) + _other_defaults(keys) + ".")
    return "\n".join(lines) + "\n\n" + (_table(own) if own else "")


def _other_defaults(keys: Schema) -> str:
    """A sentence about defaults of shared sections that differ for this verb."""
    plain = {"train": TrainConfig(), "sampling": SamplingConfig()}
    differ = []
    for key, known in keys.fields.items():
        section, _, name = key.partition(".")
        if section in plain and vars(plain[section])[name] != known.default:
            differ.append(f"`{key}` is {_shown(known.default)}")
    return f" ({', '.join(differ)})" if differ else ""


def _table(fields: Iterable[Field]) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for known in fields:
        meaning = describe(known).replace("|", "\\|")
        rows.append(f"| `{known.key}` | {_shown(known.default)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    text = default_text(value)
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    print(reference(), end="")
