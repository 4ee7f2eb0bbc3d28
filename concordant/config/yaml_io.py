"""Reads and writes YAML with plain values only. A tag such as ``!!python/name:os.system`` is refused and not run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from concordant.core.errors import UserError

LARGEST = 100_000  # values of a file, where each alias counts as all that it stands for


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with a few differences.

    It also reads ``1e-4`` as a number, and a date as text. It refuses a key that is given twice, a value that does not
    fit its tag, and aliases that stand for more than ``LARGEST`` values or for themselves.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > LARGEST:
            raise _refused(f"its aliases stand for more than {LARGEST:,} values", node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # a list as a key fails below; "<<" may be given more than once
            if key in seen:
                raise _refused(f'key "{key}" is given twice', key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):  # !!bool x; a very long number
            kind = node.tag.rpartition(":")[2]
            raise _refused(f'"{str(node.value)[:_LONGEST]}" is no {kind}', node) from None


def _refused(why: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values ``node`` stands for. ``known`` has the numbers of the nodes so far, 0 while one is counted."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    number = id(node)
    if number not in known:
        known[number] = 0
        inner = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[number] = 1 + sum(_unfolded(n, known) for n in inner)
    elif not known[number]:
        raise _refused("an alias stands for something that holds the alias itself", node)
    return known[number]


_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$")
_DATE = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, form) for tag, form in forms if tag != _DATE]
    for letter, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))

_LONGEST = 60  # characters of a value in a message
# What PyYAML says of a file, and what that means for somebody who wrote the file.
_MEANINGS = (
    ("mapping values are not allowed", 'a ": " that cannot stand here; put a text that holds one into quotes'),
    ("could not find expected ':'", "a line without a colon after its key; expected KEY: VALUE"),
    ("found character '\\t'", "a tab; indent with spaces"),
    ("cannot start any token", "a text cannot begin with this character; put the text into quotes"),
    ("could not determine a constructor", "a tag, which is not followed; write a plain value"),
    ("found undefined alias", 'a "*" with a name that no "&" has given; put a text that begins with "*" into quotes'),
    ("second occurrence", 'a name that an "&" has given before'),
    ("alphabetic or numeric character", 'a "&" or "*" without a name; put a text that begins so into quotes'),
    ("unexpected end of stream", "the end, within a text; a quote is not closed"),
    ("expected <block end>", "something that does not fit what stands above it; look at indentation, quotes, brackets"),
    ("expected ',' or ']'", "a list in brackets that is not closed; expected a comma or ]"),
    ("expected ',' or '}'", "a mapping in braces that is not closed; expected a comma or }"),
    ("expected the node content", "the end, or a bracket, where a value is expected"),
    ("unhashable key", "a list or a mapping as a key; expected a text"),
    ("another document", "a second document; expected one"),
    ("<document start>", "something behind the end of the only value; expected lines of KEY: VALUE"),
    ("sequence entries are not allowed", "a list on the line of its key; begin it on the next line"),
    ("unknown escape character", 'an unknown escape in a text in "double quotes"; use single quotes'),
)


def parse_yaml(text: str, source: str) -> Any:
    """The value of the YAML ``text``. An error names ``source``, line and column, and says what is wrong there."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as problem:
        raise UserError(f"{source} is not plain YAML: {_in_plain_words(problem, text)}") from None
    except RecursionError:
        raise UserError(f"{source} is not plain YAML: it is nested too deeply") from None


def _in_plain_words(problem: yaml.YAMLError, text: str) -> str:
    """The place of the problem and its meaning."""
    if isinstance(problem, yaml.reader.ReaderError):
        before = text[: problem.position]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        words = "a character that no YAML file may hold"
    elif isinstance(problem, yaml.MarkedYAMLError) and (mark := problem.problem_mark or problem.context_mark):
        line, column = mark.line, mark.column
        said = " ".join(str(problem.problem or problem.context).split())
        words = next((meaning for part, meaning in _MEANINGS if part in said), said)
    else:
        return " ".join(str(problem).split())
    return f"line {line + 1} column {column + 1}: {words}"


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in the file at ``path``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; expected a YAML file") from None
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}; expected a mapping of keys to values")
    return {str(key): item for key, item in value.items()}


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Plain YAML with the keys in the given order."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
