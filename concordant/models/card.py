"""The model card, README.md of a model folder: front matter that the hub reads, a title, then text and tables.

A card is meant to be shared. So it names local models and data by their last names, and no folder of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from concordant.config.yaml_io import parse_yaml
from concordant.core.errors import UserError

CARD = "README.md"
FRONT_MATTER = ("base_model", "datasets", "tags", "license", "language")  # keys of the card that the hub reads
_INSIDE_A_RUN = ("model", "adapter")  # folders whose run has the name that says something
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(card: Mapping[str, Any], library: str = "transformers") -> str:
    """The text of README.md.

    ``title`` becomes the heading, ``description`` the text below it, and every other key that is not in
    ``FRONT_MATTER`` a section: a mapping a table, text a paragraph. ``library`` is the one that loads the folder.
    """
    front: dict[str, Any] = {"library_name": library}
    front |= {key: card[key] for key in FRONT_MATTER if card.get(key)}
    front["tags"] = ["concordant", *(tag for tag in card.get("tags", ()) if tag != "concordant")]
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"]
    parts.append(f"# {_line(card.get('title') or 'A model saved by Concordant')}")
    if card.get("description"):
        parts.append(str(card["description"]))
    parts += [
        section(title, content)
        for title, content in card.items()
        if content and title not in (*FRONT_MATTER, "title", "description")
    ]
    text = "\n\n".join(parts) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a file's name may be no text


def section(title: str, content: Any) -> str:
    """A heading with a table of the mapping ``content``, or with the text ``content``."""
    heading = f"## {title.replace('_', ' ').capitalize()}"
    if not isinstance(content, Mapping):
        return f"{heading}\n\n{content}"
    rows = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in content.items())
    return f"{heading}\n\n| | |\n|---|---|\n{rows}"


def front_matter(folder: Path) -> dict[str, Any]:
    """What the card in ``folder`` says to the hub; empty where there is no card or none that can be read."""
    try:
        _, front, _ = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
        found = parse_yaml(front, CARD)
    except (OSError, ValueError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can only be ``OWNER/NAME`` of a hub: it has this form, and no file or folder is there."""
    return bool(_HUB_ID.fullmatch(name)) and not os.path.exists(name)


def origin_of(name: str) -> str:
    """The hub id that the model ``name`` comes from, as its card says where it is a folder; "" if there is none."""
    if is_hub_id(name):
        return name
    base = front_matter(Path(os.path.expanduser(name))).get("base_model")
    return base if isinstance(base, str) and is_hub_id(base) else ""


def short(name: str) -> str:
    """A name to show others: ``runs/sft/model`` is ``sft``, a hub id stays, a file is its last name."""
    if is_hub_id(name) or name.startswith(("builtin:", "package:", "rule:")):
        return name
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    while len(parts) > 1 and parts[-1] in _INSIDE_A_RUN:
        parts.pop()
    return parts[-1] if parts else name


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _line(text: str) -> str:
    return " ".join(text.split())
