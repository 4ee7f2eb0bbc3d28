"""Rules that verify an answer: numbers, mathematics, regular expressions, JSON schemas, format, length and code.

Each rule has the signature ``f(prompt, response, **columns)``. The columns come from the row of the prompt. Every rule
returns 1 or 0, or None where the row has no reference. A fault of the row, such as a bad pattern, raises UserError;
``check_rows`` finds it before anything is learnt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from concordant.algorithms.rewards import Dialogue
from concordant.algorithms.run_code import passes
from concordant.core.errors import UserError
from concordant.core.time_limit import at_most
from concordant.data.carried import value
from concordant.data.records import Prompt

SECONDS = 5.0  # a search, a check or a comparison may take
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FORMAT = re.compile(
    r"\s*<think>((?:(?!</?think>|</?answer>).)*)</think>\s*<answer>((?:(?!</?\w+>).)+)</answer>\s*", re.S
)


def number(prompt: Dialogue, response: str, ground_truth: object) -> float | None:
    """1 when the last number of the response is the ground truth to a relative 1e-9, else 0."""
    if ground_truth is None:
        return None
    expected = _number(ground_truth)
    found = _NUMBER.findall(response)
    return float(bool(found) and abs(float(found[-1].replace(",", "")) - expected) <= 1e-9 * max(1.0, abs(expected)))


def _number(ground_truth: object) -> float:
    try:
        return float(str(ground_truth).replace(",", ""))
    except ValueError:
        raise UserError(f'rule:number: expected a number as ground_truth, found "{ground_truth}"') from None


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
    compiled = _pattern(pattern)
    with at_most(SECONDS, f"rule:regex: the pattern {pattern!r} takes more than {SECONDS:g} s"):
        return float(compiled.fullmatch(response.strip()) is not None)


def _pattern(pattern: Any) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.S)
    except (re.error, TypeError) as error:
        raise UserError(f"rule:regex: expected a regular expression as pattern, found {pattern!r} ({error})") from None


def json_schema(prompt: Dialogue, response: str, schema: Any) -> float | None:
    """1 when the response is JSON that follows the schema of the column ``schema`` (an object or its text), else 0."""
    if schema is None:
        return None
    validator = _schema(schema)
    try:
        found = json.loads(response)
    except (ValueError, RecursionError):
        return 0.0
    with at_most(SECONDS, f"rule:json_schema: the check takes more than {SECONDS:g} s"):
        return float(validator.is_valid(found))


def _schema(schema: Any) -> Any:
    """The validator of a schema, given as an object or as its text."""
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
    # An empty registry: the default would fetch a remote $ref over the network.
    return jsonschema.Draft202012Validator(wanted, registry=Registry())


def think_answer(prompt: Dialogue, response: str) -> float:
    """1 when the response is exactly ``<think>…</think><answer>…</answer>``, else 0."""
    return float(_FORMAT.fullmatch(response) is not None)


def length(prompt: Dialogue, response: str, max_characters: object) -> float | None:
    """1 when the response has at most ``max_characters`` characters, else 0."""
    return None if max_characters is None else float(len(response) <= _most(max_characters))


def _most(max_characters: object) -> float:
    try:
        return float(str(max_characters))
    except ValueError:
        given = str(max_characters)[:80]
        raise UserError(f"rule:length: expected a number as max_characters, found {given!r}") from None


def code(prompt: Dialogue, response: str, tests: object) -> float | None:
    """1 when the Python code of the response, then the code of the column ``tests``, runs without an error, else 0."""
    if tests is None:
        return None
    fenced = re.findall(r"```(?:python)?\n(.*?)```", response, re.S)
    return float(passes(fenced[-1] if fenced else response, _code(tests)))


def _code(tests: object) -> str:
    if not isinstance(tests, str):  # no answer could ever pass
        raise UserError(f"rule:code: expected Python code as tests, found {str(tests)[:80]!r}")
    return tests


VERIFIERS: dict[str, Callable[..., float | None]] = {
    "number": number,
    "math": math_equal,
    "regex": regex,
    "json_schema": json_schema,
    "format": think_answer,
    "length": length,
    "code": code,
}

# The column that a rule reads, and the function that reads it and knows its faults.
_READS: tuple[tuple[Callable[..., float | None], str, Callable[[Any], object]], ...] = (
    (number, "ground_truth", _number),
    (regex, "pattern", _pattern),
    (json_schema, "schema", _schema),
    (length, "max_characters", _most),
    (code, "tests", _code),
)


def check_rows(rule: Callable[..., Any], prompts: Sequence[Prompt]) -> None:
    """Raise UserError for the first prompt whose row has a fault that ``rule`` would meet in a later step."""
    for column, read in ((column, read) for known, column, read in _READS if known is rule):
        seen: set[str] = set()
        for prompt in prompts:
            found = value(prompt.extra, column)
            if found is None or repr(found) in seen:
                continue
            seen.add(repr(found))
            try:
                read(found)
            except UserError as fault:
                raise UserError(f"{prompt.where}: {fault}" if prompt.where else str(fault)) from None
