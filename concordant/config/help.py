"""The help page of a verb. ``--help`` shows the common keys on one screen, ``--help all`` shows every key."""

from __future__ import annotations

import shutil
import textwrap
import typing
from collections.abc import Iterable
from typing import Any

from concordant.config.checks import expected, needed
from concordant.config.common import COMMON
from concordant.config.fields import BARE_WORDS, MAIN_KEY, Field, schema
from concordant.config.no_effect import useless
from concordant.config.presets import MACHINES, method_names, models
from concordant.config.stages import RunConfig

NARROW, WIDE = 60, 110  # columns; a page is as wide as the terminal within these bounds
NEEDED = "needed"
LIST = "a list: A B or '[A,B]'"
FEW = 6  # names of a choice; more are listed by ``--help all`` alone


def help_page(verb: str, config_class: type, summary: str, example: str, *, everything: bool = False) -> str:
    """The page that ``concordant VERB --help`` prints, or ``--help all`` with ``everything``."""
    keys, must, no_use = schema(config_class), needed(config_class), useless(config_class)
    shown = {key: known for key, known in keys.fields.items() if key not in no_use}  # the verb would refuse the others
    bare = "".join(f" [{key.upper()}]" for key in BARE_WORDS.get(config_class, ()))
    preset = " [--preset NAME]" if issubclass(config_class, RunConfig) else ""
    lines = [
        f"usage: concordant {verb}{bare}{preset} [--config FILE.yaml] [--KEY VALUE | --SECTION.KEY=VALUE ...]"
        + (" [--print_config]" if len(bare) < 20 else "\n       [--print_config]"),
        "",
        f"{summary[0].upper()}{summary[1:]}.",
        "",
        f"example: {example}",
    ]
    if everything:
        sections: dict[str, list[Field]] = {"": []}
        for key, known in shown.items():
            sections.setdefault(key.rpartition(".")[0], []).append(known)
        for section, fields in sections.items():
            main = MAIN_KEY.get(keys.sections[section]) if section else None
            note = f" (--{section} VALUE means --{section}.{main} VALUE)" if main else ""
            lines += ["", f"{section}:{note}" if section else "keys of the verb:", *table(fields, must)]
        end = "--config FILE reads keys from a YAML file; the command line overrides them."
    else:
        common = [shown[key] for key in dict.fromkeys([*must, *common_keys(config_class)]) if key in shown]
        lines += ["", "common keys:", *table(common, must, brief=True)]
        end = f"`concordant {verb} --help all` shows all {len(shown)} keys; --config FILE reads keys from YAML."
    if preset:
        end += f"\n--preset MODEL/MACHINE gives settings: {', '.join(models())} / {', '.join(MACHINES)}."
        if methods := method_names(verb):
            end += f"\n--preset METHOD, alone or beside it: {', '.join(methods)}."
    return "\n".join([*lines, "", end, "--print_config prints the resulting value of every key and stops."])


def common_keys(config_class: type) -> list[str]:
    """The dotted keys of ``COMMON`` for a verb's class, its own before those of the classes that it extends."""
    return [key for owner in config_class.__mro__[:-1] for key in COMMON.get(owner, ())]


def table(fields: Iterable[Field], must: Iterable[str], brief: bool = False) -> list[str]:
    """One entry for each key: its option, and its text, wrapped to the width of the terminal."""
    rows = [(f"  --{known.key}", sentence(known, known.key in must, brief)) for known in fields]
    column = max((len(option) for option, _ in rows), default=0) + 2
    width = max(NARROW, min(WIDE, shutil.get_terminal_size((WIDE, 24)).columns))
    lines = []
    for option, text in rows:
        wrapped = textwrap.wrap(text, width - column, break_on_hyphens=False) or [""]
        lines += [f"{option:<{column}}{wrapped[0]}", *(" " * column + more for more in wrapped[1:])]
    return lines


def sentence(known: Field, is_needed: bool, brief: bool) -> str:
    """What the page says of a key: whether the verb needs it, its meaning, its range and its default.

    A ``brief`` sentence leaves out ranges of numbers, and the names of a choice of many.
    """
    kind = {bool: "true or false", list[str]: LIST}.get(known.kind, "")
    default = default_text(known.default)
    leave_out = brief and not (known.is_choice and len(typing.get_args(known.kind)) <= FEW)
    meaning = known.comment if leave_out else describe(known)
    parts = [NEEDED if is_needed else "", meaning, kind, f"default {default}" if default else ""]
    return "; ".join(filter(None, parts))


def describe(known: Field) -> str:
    """The comment of the source, with the range if the comment does not state the range."""
    allowed = expected(known)
    new = [part for part in allowed.split(" | ") if part.strip('"') not in known.comment]
    return "; ".join(filter(None, [known.comment, allowed if new else ""]))


def default_text(value: Any) -> str:
    """The default as on the command line; '' for an empty text or list."""
    if value in ("", []):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
