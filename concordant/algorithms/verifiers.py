"""Rules that verify an answer: numbers, mathematics, regular expressions, JSON schemas, format, length and code.

Each rule has the signature ``f(prompt, response, **columns)``. The columns come from the row of the prompt. Every rule
returns 1 or 0, or None where the row has no reference. A fault of the row, such as a bad pattern, raises UserError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from concordant.algorithms.rewards import Dialogue
from concordant.algorithms.run_code import passes
from concordant.core.errors import UserError
from concordant.core.time_limit import at_most

SECONDS = 5.0  # a search, a check or a comparison may take
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FORMAT = re.compile(
    r"\s*<think>((?:(?!</?think>|</?answer>).)*)</think>\s*<answer>((?:(?!</?\w+>).)+)</answer>\s*", re.S
)


def number(prompt: Dialogue, response: str, ground_truth: object) -> float | None:
    """1 when the last number of the response is the ground truth to a relative 1e-9, else 0."""
    if ground_truth is None:
        return None
    try:
        expected = float(str(ground_truth).replace(",", ""))
    except ValueError:
        raise UserError(f'rule:number: expected a number as ground_truth, found "{ground_truth}"') from None
    found = _NUMBER.findall(response)
    return float(bool(found) and abs(float(found[-1].replace(",", "")) - expected) <= 1e-9 * max(1.0, abs(expected)))


def math_equal(prompt: Dialogue, response: str, ground_truth: object) -> float | None:
    """1 when ``math-verify`` finds the response and the ground truth equal, else 0."""
    if ground_truth is None:
        return None
    try:
        from math_verify import parse, verify
    except ImportError:
        raise UserError('rule:math needs the package math-verify: pip install "concordant[verify]"') from None
    # math-verify's own limits need the main thread. An answer that is too slow to compare is the answer's fault, not
    # the row's: the run goes on.
    try:
        with at_most(SECONDS, f"the comparison takes more than {SECONDS:g} s"):
            gold = parse(f"${ground_truth}$", parsing_timeout=None)
            return float(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))
    except UserError:
        return 0.0


def regex(prompt: Dialogue, response: str, pattern: str | None) -> float | None:
    """1 when the regular expression of the column ``pattern`` matches the whole response, else 0."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern, re.S)
    except (re.error, TypeError) as error:
        raise UserError(f"rule:regex: expected a regular expression as pattern, found {pattern!r} ({error})") from None
    with at_most(SECONDS, f"rule:regex: the pattern {pattern!r} takes more than {SECONDS:g} s"):
        return float(compiled.fullmatch(response.strip()) is not None)


def json_schema(prompt: Dialogue, response: str, schema: Any) -> float | None:
    """1 when the response is JSON that follows the schema of the column ``schema`` (an object or its text), else 0."""
    if schema is None:
        return None
    try:
        import jsonschema
        from referencing import Registry
    except ImportError:
        raise UserError('rule:json_schema needs the package jsonschema: pip install "concordant[verify]"') from None
    try:
        wanted = json.loads(schema) if isinstance(schema, str) else schema
        jsonschema.Draft202012Validator.check_schema(wanted)
    except (ValueError, jsonschema.SchemaError) as error:
        raise UserError(f"rule:json_schema: expected a JSON schema, found {str(schema)[:80]!r} ({error})") from None
    try:
        value = json.loads(response)
    except (ValueError, RecursionError):
        return 0.0
    registry = Registry()  # an empty one: the default would fetch a remote $ref over the network
    with at_most(SECONDS, f"rule:json_schema: the check takes more than {SECONDS:g} s"):
        return float(jsonschema.Draft202012Validator(wanted, registry=registry).is_valid(value))


def think_answer(prompt: Dialogue, response: str) -> float:
    """1 when the response is exactly ``<think>…</think><answer>…</answer>``, else 0."""
    return float(_FORMAT.fullmatch(response) is not None)


def length(prompt: Dialogue, response: str, max_characters: object) -> float | None:
    """1 when the response has at most ``max_characters`` characters, else 0."""
    if max_characters is None:
        return None
    try:
        most = float(str(max_characters))
    except ValueError:
        given = str(max_characters)[:80]
        raise UserError(f"rule:length: expected a number as max_characters, found {given!r}") from None
    return float(len(response) <= most)


def code(prompt: Dialogue, response: str, tests: object) -> float | None:
    """1 when the Python code of the response, then the code of the column ``tests``, runs without an error, else 0."""
    if tests is None:
        return None
    if not isinstance(tests, str):  # no answer could ever pass
        raise UserError(f"rule:code: expected Python code as tests, found {str(tests)[:80]!r}")
    fenced = re.findall(r"```(?:python)?\n(.*?)```", response, re.S)
    return float(passes(fenced[-1] if fenced else response, tests))


VERIFIERS: dict[str, Callable[..., float | None]] = {
    "number": number,
    "math": math_equal,
    "regex": regex,
    "json_schema": json_schema,
    "format": think_answer,
    "length": length,
    "code": code,
}
