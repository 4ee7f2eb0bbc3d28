"""Reads and writes YAML with plain values only. A tag such as ``!!python/name:os.system`` is refused and not run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from concordant.core.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads ``1e-4`` as a number and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # a list as a key fails below; "<<" may be given more than once
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f'key "{key}" is given twice', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    """The value of the YAML ``text``. An error names ``source``."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as problem:
        raise UserError(f"{source} is not plain YAML: {' '.join(str(problem).split())}") from None


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
