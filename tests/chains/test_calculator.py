"""The calculator: correct, and bounded for every expression."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains._calculator import MAX_BITS, MAX_LENGTH, CalculationError, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(17 + 4) * 2", 42),
        ("7 // 2", 3),
        ("-7 % 4", 1),
        ("2 ** -1", 0.5),
        (" 1.5e3 ", 1500.0),
        ("2 ** 1000", 2**1000),
    ],
)
def test_arithmetic_gives_its_value(expression: str, value: float) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "().__class__",
        "(1)(2)",
        "e",
        "True",
        "...",
        "",
        "1 +",
        "1 / 0",
        "(-1) ** 0.5",
        "9 ** 9 ** 9",
        "9 ** 1000 * 9 ** 1000",
        "2 ** -99999",
        "9.0 ** 999",
        "1e999",
        "10 ** 400 * 1.0",
        "((1)",
        "\x00",
        "\ud800",
        "1" * (MAX_LENGTH + 1),
    ],
)
def test_anything_else_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(CalculationError, match=r"\w"):
        evaluate(expression)


@given(st.text(alphabet="0123456789.eE+-*/%() _", max_size=MAX_LENGTH))
def test_no_expression_breaks_out_of_the_bounds(expression: str) -> None:
    try:
        value = evaluate(expression)
    except CalculationError:
        return
    assert isinstance(value, float) or value.bit_length() <= MAX_BITS
