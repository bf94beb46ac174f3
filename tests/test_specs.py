"""Symbolic sizes: a Dim computes like the number it stands for, and gives away nothing about it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import REPEATABLE, Runner
from hypothesis import assume, given
from hypothesis import strategies as st

import aforo as af
from aforo import ops
from aforo.graph import BATCH as BATCH_ROLE
from aforo.graph import Graph, Variable, leaf
from aforo.specs import BATCH, Dim, Layout, as_dtype, as_shape, at, count, strides, value_bytes, written

TIME = Dim.symbol("time")
SYMBOLS = ("batch", "time", "heads")
sizes = st.fixed_dictionaries({name: st.integers(1, 40) for name in SYMBOLS})

# An expression: how to compute it from the symbols, be they Dims or numbers.
Expression = Callable[[dict[str, Any]], Any]


def _symbol(name: str) -> Expression:
    return lambda values: values[name]


def _number(n: int) -> Expression:
    return lambda values: n


def _operation(op: Callable[[Any, Any], Any], a: Expression, b: Expression) -> Expression:
    return lambda values: op(a(values), b(values))


expressions: st.SearchStrategy[Expression] = st.recursive(
    st.sampled_from(SYMBOLS).map(_symbol) | st.integers(-6, 6).map(_number),
    lambda inner: st.builds(_operation, st.sampled_from([operator.add, operator.sub, operator.mul]), inner, inner),
    max_leaves=10,
)
DIMS = {name: Dim.symbol(name) for name in SYMBOLS}


@REPEATABLE
@given(expressions, sizes)
def test_arithmetic_of_sizes_equals_that_of_numbers(expression: Expression, values: dict[str, int]) -> None:
    assert at(expression(DIMS), values) == expression(values)


@REPEATABLE
@given(expressions, st.integers(1, 9), st.lists(st.sampled_from(SYMBOLS), max_size=3), sizes)
def test_exact_division_equals_that_of_numbers(
    expression: Expression, n: int, names: list[str], values: dict[str, int]
) -> None:
    divisor: Any = n
    for name in names:
        divisor = DIMS[name] * divisor
    dividend = expression(DIMS) * divisor
    assume(isinstance(dividend, Dim))
    quotient = dividend // divisor
    assert quotient == expression(DIMS)
    assert at(quotient, values) == at(dividend, values) // at(divisor, values)


@REPEATABLE
@given(expressions, expressions, sizes)
def test_equal_sizes_hash_alike_and_agree_everywhere(p: Expression, q: Expression, values: dict[str, int]) -> None:
    a, b = p(DIMS), q(DIMS)
    if a == b:
        assert hash(a) == hash(b)
        assert p(values) == q(values)
    assert a + b == b + a
    assert hash(a + b) == hash(b + a)
    assert a - a == 0
    assert isinstance(a - a, int)


@REPEATABLE
@given(expressions, expressions)
def test_different_polynomials_are_unequal_sizes(p: Expression, q: Expression) -> None:
    # Polynomials of such low degree that agree on this many points are one polynomial.
    points = [dict(zip(SYMBOLS, (11**k % 10_007, 23**k % 9_973, 37**k % 9_949), strict=True)) for k in range(40)]
    assert (p(DIMS) == q(DIMS)) == all(p(point) == q(point) for point in points)


@pytest.mark.parametrize("divisor", [3, TIME, BATCH * BATCH, BATCH + 1, BATCH * TIME])
def test_a_division_that_is_not_exact_for_every_size_is_refused(divisor: Any) -> None:
    with pytest.raises(af.Error, match="does not divide by"):
        (4 * BATCH) // divisor


ASKING: dict[str, Callable[[Any], object]] = {
    "int": int,
    "bool": bool,
    "float": float,
    "index": operator.index,
    "range": range,
    "<": lambda d: d < 3,
    "<=": lambda d: d <= 3,
    ">": lambda d: d > 3,
    ">=": lambda d: d >= 3,
    "3 <": lambda d: 3 < d,  # noqa: SIM300
    "between two": lambda d: d < TIME,
    "max": lambda d: max(d, 3),
    "if": lambda d: 1 if d else 2,
    "divided": lambda d: d / 2,
    "a remainder": lambda d: d % 2,
    "a square root": math.sqrt,
    "an array": lambda d: np.zeros(d),
    "a place in a list": lambda d: [1, 2][d],
}


@pytest.mark.parametrize("request_", ASKING)
def test_a_symbolic_size_has_no_value_and_says_what_to_do(request_: str) -> None:
    with pytest.raises(af.Error) as caught:
        ASKING[request_](BATCH)
    text = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "the size of a symbolic axis (batch) has no value while a graph is built: one graph serves every size." in text
    assert "received: a request for the value of batch" in text
    assert "fix: " in text
    assert "af.ops.mean" in text


@pytest.mark.parametrize("use", [lambda d: 1 / d, lambda d: 7 % d])
def test_dividing_by_a_symbolic_size_says_the_same(use: Callable[[Any], object]) -> None:
    with pytest.raises(af.Error, match="has no value while a graph is built"):
        use(BATCH)


@pytest.mark.parametrize("divide", [lambda d: 7 // d, lambda d: d // 0, lambda d: d // 2])
def test_a_whole_division_without_a_whole_result_is_an_error_of_aforo(divide: Callable[[Any], object]) -> None:
    with pytest.raises(af.Error, match="divide"):
        divide(BATCH)


def test_sizes_are_written_as_people_write_them() -> None:
    assert written((BATCH, 4)) == "(batch, 4)"
    assert written((BATCH,)) == "(batch,)"
    assert written(()) == "()"
    assert str(2 * BATCH) == "2·batch"
    assert str(BATCH * TIME + 1) == "batch·time + 1"


# --- shapes -----------------------------------------------------------------------------------------------------------


def _tensor(*shape: Any) -> Any:
    return leaf(Variable("x", shape, "float32", BATCH_ROLE, owner="batch"))


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        ((BATCH, 4), (-1,), (4 * BATCH,)),
        ((BATCH, 4), -1, (4 * BATCH,)),
        ((BATCH, 4), (-1, 2), (2 * BATCH, 2)),
        ((BATCH, 4), (2, -1), (2, 2 * BATCH)),
        ((BATCH, 4), (BATCH, -1), (BATCH, 4)),
        ((BATCH, 4), (-1, 4), (BATCH, 4)),
        ((BATCH, 4), (BATCH, 2, -1), (BATCH, 2, 2)),
        ((BATCH, TIME, 6), (-1, 6), (BATCH * TIME, 6)),
        ((BATCH, TIME, 6), (BATCH, -1, 3), (BATCH, 2 * TIME, 3)),
        ((BATCH * TIME, 6), (TIME, -1), (TIME, 6 * BATCH)),
        ((3, 4), (2, -1), (2, 6)),
        ((3, 4), (-1, 1, 12), (1, 1, 12)),
    ],
)
def test_minus_one_in_a_reshape_is_the_size_that_follows(shape: Any, asked: Any, expected: Any) -> None:
    assert _tensor(*shape).reshape(asked).shape == expected


@pytest.mark.parametrize(
    ("shape", "asked", "text"),
    [
        ((BATCH, 4), (-1, 3), r"\(batch, 4\) cannot be reshaped to \(-1, 3\): 4·batch values do not divide into rows of 3"),
        ((3, 4), (-1, 5), r"\(3, 4\) cannot be reshaped to \(-1, 5\): 12 values do not divide into rows of 5"),
        ((3, 4), (BATCH, -1), "do not divide into rows of batch"),
        ((BATCH, 4), (-1, -1), "only one size of a reshape may be -1"),
        ((BATCH, 4), (BATCH, 5), r"it holds 4·batch values, not 5·batch"),
        ((BATCH, 4), (4,), r"it holds 4·batch values, not 4"),
    ],
)
def test_a_reshape_that_does_not_fit_says_why(shape: Any, asked: Any, text: str) -> None:
    with pytest.raises(af.Error, match=text):
        _tensor(*shape).reshape(asked)


def test_a_reshape_to_rows_of_nothing_is_refused_in_words() -> None:
    for shape in ((3, 4), (BATCH, 4)):
        with pytest.raises(af.Error, match="cannot be reshaped"):
            _tensor(*shape).reshape((0, -1))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_reshape_with_symbolic_sizes_gives_numpys_values_at_every_size(batch: int) -> None:
    x = Variable("x", (BATCH, 4), "float32", BATCH_ROLE, owner="batch")
    t = leaf(x)
    outputs = {"flat": t.reshape(-1) * 1.0, "rows": t.T.reshape(-1, 2), "columns": ops.tanh(t).reshape(2, -1).T}
    array = np.random.default_rng(0).standard_normal((batch, 4)).astype("float32")
    found = Runner(Graph(outputs, {}), batch=5).at(batch).write({x: array}).run()
    np.testing.assert_array_equal(found["flat"], array.reshape(-1))
    np.testing.assert_array_equal(found["rows"], array.T.reshape(-1, 2))
    np.testing.assert_allclose(found["columns"], np.tanh(array).reshape(2, -1).T, 1e-6)


shapes = st.lists(st.sampled_from([1, 2, 3, 5, "batch", "time"]), max_size=4)


@REPEATABLE
@given(shapes, st.sampled_from(["float32", "float64", "int32", "int64", "bool"]), sizes)
def test_counts_strides_and_bytes_are_numpys(shape: list[Any], dtype: str, values: dict[str, int]) -> None:
    symbolic = tuple(DIMS.get(n, n) for n in shape)
    array = np.empty(tuple(values.get(n, n) for n in shape), dtype)
    assert at(count(symbolic), values) == array.size
    assert value_bytes(symbolic, dtype, values) == array.nbytes
    item = array.itemsize
    assert tuple(item * step for step in at(strides(symbolic), values)) == array.strides
    assert Layout.dense(symbolic).is_dense


def test_shapes_and_dtypes_are_checked() -> None:
    assert as_shape([3, BATCH], "it") == (3, BATCH)
    assert as_shape(np.int64(3).reshape(1), "it") == (3,)
    for bad in ([0], [-1], [2, 0]):
        with pytest.raises(ValueError, match="it must hold positive numbers"):
            as_shape(bad, "it")
    for wrong in ([1.5], ["3"], [True], [None]):
        with pytest.raises(TypeError, match="it must hold whole numbers"):
            as_shape(wrong, "it")
    assert as_dtype(np.float32) == as_dtype(np.dtype("float32")) == as_dtype("float32") == "float32"
    with pytest.raises(af.Error, match=r"'float16' is no dtype of Aforo.*\n.*float32"):
        as_dtype("float16")
