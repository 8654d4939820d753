"""Bounded arithmetic on text without `eval`: numbers, + - * / // % ** and parentheses."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

Number = int | float

MAX_LENGTH = 200  # characters; also bounds the depth of the syntax tree
MAX_BITS = 4096  # of an integer, because 9**9**9 must not fill the memory

ONLY = "only numbers, + - * / // % ** and parentheses"
TOO_LARGE = "the result is too large"

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class CalculationError(ValueError):
    """Text that is not arithmetic, or a result that is too large, undefined or not real."""


def evaluate(expression: str) -> Number:
    """Return the value of an arithmetic expression.

    Args:
        expression: arithmetic text such as `(17 + 4) * 2`, at most 200 characters.

    Raises:
        CalculationError: the expression has no value; the text gives the reason.
    """
    if len(expression) > MAX_LENGTH:
        raise CalculationError(f"longer than {MAX_LENGTH} characters")
    if not re.fullmatch(r"[0-9eE_.\s+\-*/%()]+", expression, re.ASCII):
        raise CalculationError(ONLY)
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except OverflowError as error:
        raise CalculationError(TOO_LARGE) from error
    except (ZeroDivisionError, SyntaxError, RecursionError, MemoryError) as error:
        raise CalculationError(str(error) or type(error).__name__) from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _bounded(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _BINARY:
            return _bounded(_BINARY[type(symbol)](_value(left), _value(right)))
    raise CalculationError(ONLY)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise CalculationError(TOO_LARGE)
    result = base**exponent
    if isinstance(result, complex):
        raise CalculationError("the result is not a real number")
    return result


def _bounded(value: Number) -> Number:
    too_large = value.bit_length() > MAX_BITS if isinstance(value, int) else not math.isfinite(value)
    if too_large:
        raise CalculationError(TOO_LARGE)
    return value
