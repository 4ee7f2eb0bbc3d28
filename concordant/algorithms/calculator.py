"""The environment ``calculator``: a turn that has ``calc(EXPRESSION)`` gets the value of the expression as reply.

An expression is made of numbers, + - * / // % ** and parentheses. Nothing else is evaluated, and no number grows beyond
``LARGEST``. What cannot be computed is said in the reply, so that a policy can learn from it.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

LARGEST = 1e15  # the greatest size of a number: below it whole numbers are exact in double precision
LONGEST = 200  # characters of an expression
_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda a, b: _power(a, b),
}


class Calculator:
    """Replies to ``calc(34 + 58)`` with ``92``. A turn without ``calc(`` is the final answer."""

    role = "tool"

    def reply(self, said: str) -> str | None:
        expression = _asked(said)
        if expression is None:
            return None
        try:
            return _shown(evaluate(expression))
        except (ValueError, ArithmeticError) as error:
            return f"error: {error}"


def evaluate(expression: str) -> float:
    """The value of an expression. Raises ValueError or ArithmeticError, with the reason in words."""
    if len(expression) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        raise ValueError("this is no expression of numbers") from None
    return _value(tree.body)


def _asked(said: str) -> str | None:
    """The text inside the last ``calc(…)`` of a turn; the parenthesis that closes it may be missing."""
    _, call, rest = said.rpartition("calc(")
    if not call:
        return None
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place]
    return rest


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            result: float = number
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            result = -_value(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            result = _value(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            try:
                result = _OPERATIONS[type(op)](_value(left), _value(right))
            except ZeroDivisionError:
                raise ArithmeticError("division by zero") from None
        case _:
            raise ValueError("only numbers, + - * / // % ** and parentheses are known")
    if not abs(result) <= LARGEST:
        raise ArithmeticError("the number is too large")
    return result


def _power(base: float, exponent: float) -> float:
    """A power; of whole numbers the exact one, which is refused before it is computed if it would be too large."""
    if not isinstance(base, int) or not isinstance(exponent, int) or exponent < 0:
        return math.pow(base, exponent)
    if abs(base) > 1 and exponent * math.log(abs(base)) > math.log(LARGEST) + 1:
        raise ArithmeticError("the number is too large")
    return base**exponent


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.10g}"
