"""Tensors in a notebook: expressions, their gradients and assignment, against NumPy, finite differences and PyTorch."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import REPEATABLE
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import ON_HOST, Array, array_bytes, assert_close, differences, tracing

import aforo as af
from aforo import evaluate, ops

FEW = settings(REPEATABLE, max_examples=25)


def double(x: Any) -> af.Tensor:
    return af.tensor(x, "float64")


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


# --- making them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (3, "int64", ()),
        (2.5, "float32", ()),
        (True, "bool", ()),
        ([1.0, 2.0], "float32", (2,)),
        ([[1], [2]], "int64", (2, 1)),
        (np.ones((2, 3)), "float32", (2, 3)),
        (np.ones(2, np.float16), "float32", (2,)),
        (np.arange(3, dtype=np.int32), "int32", (3,)),
        (np.arange(3, dtype=np.uint8), "int32", (3,)),
        (np.array([True, False]), "bool", (2,)),
        (np.ones((4, 3)).T[::2], "float32", (2, 4)),
    ],
)
def test_a_tensor_holds_the_numbers_it_is_given(data: Any, dtype: str, shape: tuple[int, ...]) -> None:
    t = af.tensor(data)
    assert (t.shape, t.dtype, t.device, t.ndim) == (shape, dtype, "cpu", len(shape))
    assert t.numpy().dtype == dtype and np.array_equal(t.numpy(), data)
    assert af.tensor(data, dtype="float64").numpy().dtype == "float64"
    assert np.array_equal(af.tensor(t).numpy(), data)


def test_memory_handed_out_is_never_the_tensors_own() -> None:
    data = np.ones(3, np.float32)
    t = af.tensor(data)
    data[:] = 5
    t.numpy()[:] = 7
    y = t + 1.0
    y.numpy()[:] = 9
    np.asarray(t)[:] = 3
    assert np.array_equal(t.numpy(), [1, 1, 1]) and np.array_equal(y.numpy(), [2, 2, 2])
    moved = t.to("cpu")
    t.assign([4, 4, 4])
    assert np.array_equal(moved.numpy(), [1, 1, 1]) and moved.device == "cpu"


def test_numpy_reads_a_tensor_and_python_its_one_number() -> None:
    t = af.tensor([[1.5, -2.0]])
    assert np.array_equal(np.asarray(t), [[1.5, -2.0]]) and np.asarray(t, np.float64).dtype == "float64"
    assert np.array_equal(np.concatenate([t, t]), [[1.5, -2.0]] * 2)
    total = ops.sum(t)
    assert float(total) == -0.5 and int(total) == 0 and total.item() == -0.5 and bool(total) and len(t) == 1
    assert f"{float(total):.1f}" == "-0.5"
    for use in (float, bool, int):
        with pytest.raises(af.Error, match=r"one value[\s\S]*\(1, 2\)"):
            use(t)
    with pytest.raises(TypeError, match="iterated"):
        list(t)


# --- operators --------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "mask": lambda a, b: (a > b) * a + (a <= b) * b,
    "chain": lambda a, b: -(a - 2.0 * b) * (1.0 - a) / (2.0 + b * b),
}


@st.composite
def broadcastable(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    full = draw(st.lists(st.integers(1, 3), min_size=0, max_size=4))
    shapes = []
    for _ in range(2):
        axes = [draw(st.sampled_from([n, 1])) for n in full]
        shapes.append(tuple(axes[draw(st.integers(0, len(axes))) :]))
    return shapes[0], shapes[1]


@pytest.mark.parametrize("name", OPERATORS)
@FEW
@given(shapes=broadcastable(), seed=st.integers(0, 99), plain=st.sampled_from(["", "left", "right"]))
def test_operators_broadcast_as_in_numpy(name: str, shapes: Any, seed: int, plain: str) -> None:
    a, b = (np.asarray(drawn(*shape, seed=seed + i)) for i, shape in enumerate(shapes))
    if seed % 3 == 0 and a.shape == b.shape:
        b = a.copy()  # equal values, for the comparisons
    expected = np.asarray(OPERATORS[name](a, b))
    plain = plain if name != "mask" else ""  # a mask knows no float64: an array that meets it is float32
    found = OPERATORS[name](a if plain == "left" else double(a), b if plain == "right" else double(b))
    assert isinstance(found, af.Tensor) and found.shape == expected.shape
    assert found.numpy().dtype == expected.dtype and np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("number", [0, 1, -2, 0.5, True, np.float32(1.5), np.int64(3)])
def test_operators_take_numbers_of_any_kind_and_keep_the_tensors_dtype(number: Any) -> None:
    for dtype in ("float32", "float64"):
        x = np.array([1.5, -2.0, 0.25], dtype)
        t = af.tensor(x, dtype)
        for name in ("+", "-", "*", ">", "chain"):
            for found, expected in (
                (OPERATORS[name](t, number), OPERATORS[name](x, float(number))),
                (OPERATORS[name](number, t), OPERATORS[name](float(number), x)),
            ):
                assert found.dtype == (dtype if name != ">" else "bool")
                assert_close(found.numpy(), expected, 1e-6 if dtype == "float32" else 1e-14) if name != ">" else None
                assert name != ">" or np.array_equal(found.numpy(), expected)


def test_masks_pick_numbers_as_the_error_about_branches_advises() -> None:
    """`(x > 0) * a + (x <= 0) * b` in place of `a if x > 0 else b`."""
    x = af.tensor([1.0, -1.0])
    assert np.array_equal(((x > 0) * 2.5 + (x <= 0) * 0.5).numpy(), [2.5, 0.5])
    assert np.array_equal((1.0 - (x > 0)).numpy(), [0.0, 1.0])


def test_mixed_dtypes_give_the_wider_one() -> None:
    single, twice, whole = af.tensor([1.5]), double([2.5]), af.tensor([2])
    assert (single + twice).dtype == "float64" and (single + twice).numpy() == [4.0]
    assert (whole + single).dtype == "float32" and (whole * single).numpy() == [3.0]
    assert (whole + 1).dtype == "int64" and (whole + 1).numpy() == [3]
    assert ((single > 1.0) * single).dtype == "float32"


def test_fractions_that_meet_whole_numbers_are_not_cut() -> None:
    t = af.tensor([1, 2, 3])
    assert np.array_equal((t * 0.5).numpy(), [0.5, 1.0, 1.5])
    assert np.array_equal((t + 0.5).numpy(), [1.5, 2.5, 3.5])


def test_whole_numbers_divide_to_fractions_or_are_refused_in_words() -> None:
    try:
        found = af.tensor([1, 2, 3]) / 2
    except af.Error:
        return
    assert np.array_equal(found.numpy(), [0.5, 1.0, 1.5])


@given(
    st.sampled_from(
        [
            ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)),
            ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)),
            ((2, 5, 2, 3), (3, 4)), ((2, 5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (2, 5, 3, 4)), ((2, 5, 2, 3), (3,)),
            ((1, 1), (1, 1)), ((4, 1), (1, 4)), ((1, 5, 2, 3), (2, 1, 3, 1)),
        ]
    ),
    st.integers(0, 9),
)  # fmt: skip
@FEW
def test_matrix_products_of_ranks_one_to_four_are_numpys(shapes: Any, seed: int) -> None:
    a, b = drawn(*shapes[0], seed=seed), drawn(*shapes[1], seed=seed + 1)
    expected = np.asarray(a @ b)
    for found in (double(a) @ double(b), a @ double(b), double(a) @ b):
        assert found.shape == expected.shape and found.dtype == "float64"
        assert_close(found.numpy(), expected, 1e-13)
    ta, tb = double(a), double(b)
    c = drawn(*expected.shape, seed=7) if expected.shape else np.ones(())
    ga, gb = af.grad(ops.sum((ta @ tb) * double(c)), [ta, tb])
    wanted = differences(lambda w: float(((w[0] @ w[1]) * c).sum()), [a, b])
    assert_close(ga.numpy(), wanted[0], 1e-7)
    assert_close(gb.numpy(), wanted[1], 1e-7)


def test_a_vector_times_a_vector_is_a_number() -> None:
    a = np.array([1.0, 2.0, 3.0])
    found = double(a) @ double(a)
    assert found.shape == () and float(found) == 14.0


def test_matrix_products_of_transposed_and_sliced_tensors_are_numpys() -> None:
    a, b = drawn(4, 6), drawn(4, 6, seed=1)
    ta, tb = double(a), double(b)
    assert_close((ta.T @ tb).numpy(), a.T @ b, 1e-13)
    assert_close((ta[:, ::2] @ tb[1:, :4].T[:3, :1]).numpy(), a[:, ::2] @ b[1:, :4].T[:3, :1], 1e-13)
    assert_close((ta[1:3, 1:4] @ tb[:3]).numpy(), a[1:3, 1:4] @ b[:3], 1e-13)


# --- indexing and shape -----------------------------------------------------------------------------------------------


@st.composite
def indexed(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    keys: list[Any] = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        if draw(st.booleans()):
            keys.append(draw(st.integers(-n, n - 1)))
        else:
            start = draw(st.integers(0, n - 1))
            stop = draw(st.integers(start + 1, n + 2))
            keys.append(
                slice(
                    draw(st.sampled_from([start, start - n, None] if start else [None, 0, -n])),
                    draw(st.sampled_from([stop, None])),
                    draw(st.sampled_from([None, 1, 2, 3])),
                )
            )
    if draw(st.booleans()):
        # An ellipsis before the last keys: those then count from the end.
        keys = [Ellipsis] if not keys or draw(st.booleans()) else [*keys, Ellipsis]
    for _ in range(draw(st.integers(0, 2))):
        keys.insert(draw(st.integers(0, len(keys))), None)
    return shape, tuple(keys)


@given(indexed())
@settings(REPEATABLE, max_examples=150)
def test_indexing_is_numpys(case: tuple[tuple[int, ...], tuple[Any, ...]]) -> None:
    shape, key = case
    x = drawn(*shape)
    expected = x[key]
    t = double(x)
    found = t[key]
    assert found.shape == expected.shape and np.array_equal(found.numpy(), expected)
    g = np.zeros(shape)
    np.add.at(g, key, 2 * expected)
    assert np.array_equal(af.grad(ops.sum(ops.square(found)), t).numpy(), g)


@pytest.mark.parametrize(
    "key", [(..., 0), (..., -1), (0, ..., slice(1, 3)), (slice(None), ..., None, 1), (None, ..., None), ...]
)
def test_an_ellipsis_stands_for_the_axes_that_are_not_named(key: Any) -> None:
    x = drawn(2, 3, 4)
    assert np.array_equal(double(x)[key].numpy(), x[key])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (3, ["index 3", "size 3"]),
        (-4, ["index -4", "size 3"]),
        ((0, 0, 0), ["3 indices", "(3, 2)"]),
        (slice(2, 2), ["empty", "size 3"]),
        (slice(None, None, -1), ["positive step"]),
        (1.5, ["whole numbers, slices", "float"]),
        ([0, 1], ["whole numbers, slices", "list", "af.ops.gather"]),
        ("a", ["str"]),
    ],
)
def test_an_index_that_cannot_be_says_why(key: Any, words: list[str]) -> None:
    with pytest.raises(af.Error) as caught:
        af.tensor(np.ones((3, 2)))[key]
    for word in words:
        assert word in str(caught.value)


def test_reshapes_transposes_broadcasts_and_concatenations_are_numpys() -> None:
    x = drawn(2, 3, 4)
    t = double(x)
    assert np.array_equal(t.reshape(6, -1).numpy(), x.reshape(6, -1)) and t.reshape([4, 6]).shape == (4, 6)
    assert np.array_equal(t.T.numpy(), x.T) and np.array_equal(t.T.reshape(-1).numpy(), x.T.reshape(-1))
    assert np.array_equal(ops.transpose(t, [1, 2, 0]).numpy(), x.transpose(1, 2, 0))
    assert np.array_equal(ops.transpose(t[0], [-1, 0]).reshape(2, 6).numpy(), x[0].T.reshape(2, 6))
    assert np.array_equal(ops.broadcast_to(t[:, :1], (5, 2, 3, 4)).numpy(), np.broadcast_to(x[:, :1], (5, 2, 3, 4)))
    assert np.array_equal(ops.concatenate([t, t[:, :1], t], 1).numpy(), np.concatenate([x, x[:, :1], x], 1))
    assert np.array_equal(ops.gather(t, [[1, 0], [1, 1]]).numpy(), x[[[1, 0], [1, 1]]])


REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


@pytest.mark.parametrize("name", REDUCTIONS)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple),
    pick=st.lists(st.integers(-4, 3), max_size=3),
    keepdims=st.booleans(),
)
@FEW
def test_reductions_are_numpys(name: str, shape: tuple[int, ...], pick: list[int], keepdims: bool) -> None:
    axes = tuple({axis % len(shape) for axis in pick}) if shape else ()
    x = np.asarray(drawn(*shape))
    t = double(x)
    for axis in (None, *([axes, axes[0] - len(shape)] if axes else [])):
        expected = REDUCTIONS[name](x, axis=axis, keepdims=keepdims)
        found = getattr(ops, name)(t, axis, keepdims)
        assert found.shape == expected.shape
        assert_close(found.numpy(), expected, 1e-13) if name in ("sum", "mean") else None
        assert name in ("sum", "mean") or np.array_equal(found.numpy(), expected)
    if shape:
        assert np.array_equal(ops.argmax(t, len(pick) % len(shape)).numpy(), x.argmax(len(pick) % len(shape)))


def test_sums_of_products_with_factors_that_do_not_vary_are_right() -> None:
    """Rewritings take common factors out of sums: they must keep shape and value."""
    x, c = drawn(3, 4), drawn(4, seed=2)
    t, k = double(x), double(2.5)
    for axis in (None, 0, 1, (0, 1)):
        for found, expected in (
            (ops.sum(t * 3.0, axis), (x * 3).sum(axis)),
            (ops.sum(k * t, axis), (2.5 * x).sum(axis)),
            (ops.sum(t * double(c), axis), (x * c).sum(axis)),
            (ops.sum(ops.sum(t * 2.0, 0, keepdims=True) * 3.0, axis), (x.sum(0, keepdims=True) * 6).sum(axis)),
            (ops.mean(ops.mean(t, 1, keepdims=True), axis), x.mean(1, keepdims=True).mean(axis)),
            (ops.sum(ops.broadcast_to(k, (3, 4)) * 2.0, axis), np.full((3, 4), 5.0).sum(axis)),
            (t.sum(axis), x.sum(axis)),
            (t.mean(axis, True), x.mean(axis, keepdims=True)),
        ):
            assert found.shape == np.shape(expected)
            assert_close(found.numpy(), expected, 1e-13)


ELEMENTWISE: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "exp": (ops.exp, np.exp),
    "log": (lambda t: ops.log(ops.abs(t)), lambda x: np.log(np.abs(x))),
    "sqrt": (lambda t: ops.sqrt(t * t + 1.0), lambda x: np.sqrt(x * x + 1)),
    "sin": (ops.sin, np.sin),
    "cos": (ops.cos, np.cos),
    "tan": (ops.tan, np.tan),
    "tanh": (ops.tanh, np.tanh),
    "abs": (ops.absolute, np.abs),
    "reciprocal": (ops.reciprocal, np.reciprocal),
    "square": (ops.square, np.square),
    "relu": (ops.relu, lambda x: np.maximum(x, 0)),
    "maximum": (lambda t: ops.maximum(t, 0.3), lambda x: np.maximum(x, 0.3)),
    "minimum": (lambda t: ops.minimum(0.3, t), lambda x: np.minimum(x, 0.3)),
    "floor": (ops.floor, np.floor),
    "sign": (ops.sign, np.sign),
    "softmax": (ops.softmax, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "softmax on an axis": (lambda t: ops.softmax(t, 0), lambda x: np.exp(x) / np.exp(x).sum(0)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_and_their_gradients_are_numpys_and_finite_differences(name: str) -> None:
    ours, numpys = ELEMENTWISE[name]
    x, c = drawn(3, 5), drawn(3, 5, seed=1)
    t = double(x)
    y = ours(t)
    assert_close(y.numpy(), numpys(x), 1e-14)
    if name not in ("floor", "sign"):
        (wanted,) = differences(lambda w: float((numpys(w[0]) * c).sum()), [x])
        assert_close(af.grad(ops.sum(y * double(c)), t).numpy(), wanted, 1e-7)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_by_weights_tensors_and_intermediates_are_those_of_finite_differences() -> None:
    """The example of the API: two layers, an error, and what it depends on."""
    rl1, rl2 = af.Dense(4, "tanh"), af.Dense(2)
    x, y = drawn(5, 3), drawn(5, 2, seed=1)
    X = double(x)
    t1 = rl1(X)
    t2 = rl2(t1)
    E = af.losses.mse(y, t2)
    wrt = [rl1.kernel, rl1.bias, t1, X, rl2.kernel, t2]
    found = af.grad(E, wrt)
    w1, b1, w2, b2 = (weight.numpy() for weight in (rl1.kernel, rl1.bias, rl2.kernel, rl2.bias))
    h1 = np.tanh(x @ w1 + b1)
    h2 = h1 @ w2 + b2
    assert_close(float(E), ((h2 - y) ** 2).mean(), 1e-12)

    def error(w1: Array = w1, b1: Array = b1, x: Array = x, w2: Array = w2) -> float:
        return float(((np.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean())

    wanted = [
        *differences(lambda w: error(w1=w[0], b1=w[1]), [w1, b1]),
        *differences(lambda w: float(((w[0] @ w2 + b2 - y) ** 2).mean()), [h1]),
        *differences(lambda w: error(x=w[0], w2=w[1]), [x, w2]),
        *differences(lambda w: float(((w[0] - y) ** 2).mean()), [h2]),
    ]
    for w, g, expected in zip(wrt, found, wanted, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        assert_close(g.numpy(), expected, 1e-7)
    assert isinstance(af.grad(E, t1), af.Tensor)
    assert np.array_equal(af.grad(E, t1).numpy(), found[2].numpy())


def test_gradients_of_gradients_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x, w = drawn(4, 3), drawn(3, 2, seed=1)

    def value(x: Any, w: Any, m: Any) -> Any:
        h = m.tanh(x @ w)
        return (h * h * m.sin(h)).sum() + (m.exp(h * 0.3)[1:] * h[:-1]).sum()

    X, W = double(x), double(w)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    dx, dw = af.grad(value(X, W, ops), [X, W])
    tdx, tdw = torch.autograd.grad(value(tx, tw, torch), [tx, tw], create_graph=True)
    assert_close(dx.numpy(), tdx.detach().numpy(), 1e-13)
    assert_close(dw.numpy(), tdw.detach().numpy(), 1e-13)
    second = af.grad(ops.sum(dx * dx) + ops.sum(ops.sin(dw)), [X, W])
    theirs = torch.autograd.grad((tdx * tdx).sum() + torch.sin(tdw).sum(), [tx, tw])
    for found, wanted in zip(second, theirs, strict=True):
        assert_close(found.numpy(), wanted.numpy(), 1e-12)


def test_gradients_of_any_order_are_those_of_the_formula() -> None:
    x = np.linspace(-1, 2, 7)
    t = double(x)
    d = [ops.sin(t) * t]
    for _ in range(4):
        d.append(af.grad(ops.sum(d[-1]), t))
    s, c = np.sin(x), np.cos(x)
    for found, wanted in zip(d, [x * s, s + x * c, 2 * c - x * s, -3 * s - x * c, -4 * c + x * s], strict=True):
        assert_close(found.numpy(), wanted, 1e-12)


def test_a_penalty_on_a_gradient_trains() -> None:
    """Descent on an error that holds a gradient: the first line of many papers."""
    layer = af.Dense(1, "tanh")
    x = drawn(6, 2)
    X = double(x)

    def penalty() -> af.Tensor:
        return ops.sum(ops.square(af.grad(ops.sum(layer(X)), X)))

    def textbook(w: list[Array]) -> float:
        z = x @ w[0] + w[1]
        return float((((1 - np.tanh(z) ** 2) * w[0].T) ** 2).sum())

    P = penalty()
    weights = [layer.kernel.numpy(), layer.bias.numpy()]
    for g, wanted in zip(af.grad(P, [layer.kernel, layer.bias]), differences(textbook, weights), strict=True):
        assert_close(g.numpy(), wanted, 1e-7)


def test_what_cannot_be_differentiated_says_so() -> None:
    X, other = af.tensor([[1.0, 2.0]]), af.tensor([1.0])
    with pytest.raises(af.Error, match=r"only a single number[\s\S]*\(1, 2\)"):
        af.grad(X * 2.0, X)
    with pytest.raises(af.Error, match="does not depend on"):
        af.grad(ops.sum(X), other)
    with pytest.raises(af.Error, match=r"floor[\s\S]*test_tensors.py"):
        af.grad(ops.sum(ops.floor(X)), X)
    layer = af.Lambda(lambda x: ops.cast(ops.argmax(x), "float32"), name="picks")
    with pytest.raises(af.Error, match=r"argmax in layer 'picks'"):
        af.grad(ops.sum(layer(X)), X)


def test_a_gradient_by_an_array_is_refused_in_words() -> None:
    X = af.tensor([1.0, 2.0])
    with pytest.raises(af.Error, match="only tensors have gradients"):
        af.grad(ops.sum(X * X), [np.ones(2)])


def test_the_gradient_of_an_error_by_a_weight_that_was_assigned_since() -> None:
    w = double([1.0, 2.0])
    E = ops.sum(w * w)
    w.assign([5.0, 5.0])
    assert np.array_equal(af.grad(E, w).numpy(), [2.0, 4.0])


# --- assignment -------------------------------------------------------------------------------------------------------


def test_an_expression_keeps_the_values_it_was_written_with() -> None:
    w = double([1.0, 2.0])
    before, seen = w * 10.0, w + 1.0
    assert np.array_equal(seen.numpy(), [2, 3])
    w.assign([3.0, 4.0])
    between = w * 10.0
    w.assign(w + between)  # its own new value, of its own old one
    assert np.array_equal(before.numpy(), [10, 20]), "looked at only after the assignment"
    assert np.array_equal(seen.numpy(), [2, 3])
    assert np.array_equal(between.numpy(), [30, 40])
    assert np.array_equal(w.numpy(), [33, 44]) and np.array_equal((w * 1.0).numpy(), [33, 44])
    assert np.array_equal((before + w).numpy(), [43, 64])


NOTHING: dict[str, Callable[[Any], Any]] = {
    "times one": lambda w: w * 1.0,
    "plus zero": lambda w: w + 0.0,
    "to the first": lambda w: w**1,
    "all of it": lambda w: w[:],
    "its own shape": lambda w: w.reshape(2),
    "cast": lambda w: ops.cast(w, "float64"),
    "broadcast": lambda w: ops.broadcast_to(w, (2,)),
    "one to concatenate": lambda w: ops.concatenate([w], 0),
    "linear": af.Activation(None),
}


@pytest.mark.parametrize("name", NOTHING)
def test_an_expression_that_changes_nothing_keeps_its_values_too(name: str) -> None:
    w = double([1.0, 2.0])
    before = NOTHING[name](w)
    w.assign([3.0, 4.0])
    assert np.array_equal(before.numpy(), [1, 2])


@pytest.mark.parametrize("change", ["fit", "train_on_batch", "set_weights", "assign"])
def test_an_expression_of_a_weight_keeps_its_value_through_training(change: str) -> None:
    model = af.Sequential([af.Dense(3, input_shape=[2]), af.BatchNormalization()])
    model.compile(loss="mse", optimizer=af.SGD(0.5))
    x, y = drawn(8, 2), drawn(8, 3)
    dense, norm = model.layers
    model.train_on_batch(x, y)
    for _ in range(2):
        kernel, mean = dense.kernel.numpy(), norm.moving_mean.numpy()
        written = [dense.kernel * 2.0, norm.moving_mean * 2.0, dense(af.tensor(x))]
        called = x.astype("float32") @ kernel + dense.bias.numpy()
        if change == "fit":
            model.fit(x, y, epochs=2, batch_size=4, verbose=0)
        elif change == "train_on_batch":
            model.train_on_batch(x, y)
        elif change == "set_weights":
            model.set_weights([weight + 1 for weight in model.get_weights()])
        else:
            dense.kernel.assign(kernel + 1.0)
            norm.moving_mean.assign(mean + 1.0)
        assert np.abs(dense.kernel.numpy() - kernel).max() > 1e-3 < np.abs(norm.moving_mean.numpy() - mean).max()
        assert np.array_equal(written[0].numpy(), kernel * 2) and np.array_equal(written[1].numpy(), mean * 2)
        assert_close(written[2].numpy(), called, 1e-6)
        assert np.array_equal((dense.kernel * 1.0).numpy(), dense.kernel.numpy())


def test_an_expression_of_a_weight_that_was_never_drawn_keeps_its_first_value() -> None:
    af.set_seed(8)
    layer = af.Dense(2, input_shape=[3])
    model = af.Sequential([layer])
    first = layer.kernel * 2.0
    af.set_seed(8)
    twin = af.Dense(2)
    twin(af.tensor(np.ones((1, 3))))
    model.compile(loss="mse", optimizer=af.SGD(0.5))
    model.train_on_batch(np.ones((1, 3)), np.ones((1, 2)))
    assert np.array_equal(first.numpy(), 2 * twin.kernel.numpy())
    assert not np.array_equal(layer.kernel.numpy(), twin.kernel.numpy())


def test_assignment_takes_what_fits_and_nothing_else() -> None:
    w = af.tensor([1.0, 2.0])
    w.assign([3, 4])
    w.assign(np.array([5.0, 6.0]))
    assert w.dtype == "float32" and np.array_equal(w.numpy(), [5, 6])
    with pytest.raises(ValueError, match=r"\(2,\)[\s\S]*\(3,\)"):
        w.assign([1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="numbers"):
        w.assign(["a", "b"])
    assert np.array_equal(w.numpy(), [5, 6])


# --- gradient descent by hand -----------------------------------------------------------------------------------------


def forward(x: Any, RL1: Any, RL2: Any, RL3: Any) -> Any:
    t1 = RL1.forward(x)
    t2 = RL2.forward(t1)
    N = RL3.forward(t2)
    return N  # noqa: RET504 — as on the slide


def test_the_forward_of_the_slides_runs_as_written() -> None:
    X = drawn(5, 3).astype("float32")
    layers = af.Dense(3), af.Dense(4), af.Dense(2)
    N = forward(X, *layers)
    expected = X.astype("float64")
    for layer in layers:
        expected = expected @ layer.kernel.numpy().astype("float64") + layer.bias.numpy()
    assert N.shape == (5, 2)
    assert_close(N.numpy(), expected, 1e-6)
    assert_close(layers[2](layers[1](layers[0](af.tensor(X)))).numpy(), expected, 1e-6)


def test_three_regressions_are_one() -> None:
    X = double(drawn(5, 3))
    RL1, RL2, RL3 = af.Dense(3), af.Dense(4), af.Dense(2)
    N = forward(X, RL1, RL2, RL3)
    for layer in (RL1, RL2, RL3):
        layer.bias.assign(drawn(layer.units))
    N = forward(X, RL1, RL2, RL3)
    W5 = RL1.kernel @ RL2.kernel @ RL3.kernel
    B5 = (RL1.bias @ RL2.kernel + RL2.bias) @ RL3.kernel + RL3.bias
    assert_close(N.numpy(), (X @ W5 + B5).numpy(), 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_descent_by_hand_is_a_step_of_sgd(dtype: str) -> None:
    x, y = drawn(7, 3).astype(dtype), drawn(7, 2, seed=3).astype(dtype)
    af.set_seed(5)
    model = af.Sequential([af.Dense(4, "tanh", input_shape=[3]), af.Dense(2)], dtype=dtype)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1))
    af.set_seed(5)
    layers = [af.Dense(4, "tanh"), af.Dense(2)]
    X, target = af.tensor(x, dtype), af.tensor(y, dtype)
    layers[1](layers[0](X))
    for found, wanted in zip(model.layers, layers, strict=True):
        wanted.kernel.assign(found.kernel)
    for _ in range(5):
        E = af.losses.mse(target, layers[1](layers[0](X)))
        weights = [weight for layer in layers for weight in layer.weights]
        for weight, g in zip(weights, af.grad(E, weights), strict=True):
            weight.assign(weight - 0.1 * g)
        loss = model.fit(x, y, batch_size=7, verbose=0).history["loss"][0]
        tolerance = 1e-6 if dtype == "float32" else 1e-13
        assert_close(float(E), loss, tolerance)
        for weight, wanted in zip(weights, model.get_weights(), strict=True):
            assert_close(weight.numpy(), wanted, tolerance)


def test_ten_thousand_steps_by_hand_stay_flat_in_memory_and_learn() -> None:
    x = drawn(8, 2)
    X, target = double(x), double(x @ [[1.5], [-0.5]])
    layer = af.Dense(1, use_bias=False)
    step_size = 0.02

    def step() -> float:
        E = af.losses.mse(target, layer(X))
        layer.kernel.assign(layer.kernel - step_size * af.grad(E, layer.kernel))
        return float(E)

    first = step()
    started = time.perf_counter()
    for _ in range(9_749):
        step()
    seconds = time.perf_counter() - started
    assert seconds < 60, f"{seconds / 9_749:.2e} s a step"
    with tracing():
        ours, programs = af.memory.allocated("cpu"), len(evaluate._programs)
        for _ in range(50):
            step()
        now, _ = tracemalloc.get_traced_memory()
        held = array_bytes()
        for _ in range(200):
            E = step()
        gc.collect()
        assert array_bytes() == held and af.memory.allocated("cpu") == ours and len(evaluate._programs) == programs
        # a few records that Python itself replaces now and then; a leak of one tensor a step would be over 40 KB
        assert tracemalloc.get_traced_memory()[0] - now < 20_000
    assert E < 1e-12 < first
    assert_close(layer.kernel.numpy(), [[1.5], [-0.5]], 1e-6)


def test_a_loop_may_ask_for_the_value_of_an_error() -> None:
    w = double(4.0)
    steps = 0
    while (w * w > 0.01) and float(w) > 0:
        w.assign(w - 0.25 * af.grad(w * w, w))
        steps += 1
    assert steps == 6 and float(w) == 4.0 * 0.5**6


# --- values while a graph is built ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [bool, float, int, np.asarray, lambda x: x.numpy(), lambda x: 1 if x[0, 0] > 0 else 2])
def test_a_forward_that_asks_for_a_value_is_told_so_at_its_line(ask: Callable[[Any], Any]) -> None:
    class Asking(af.Layer):
        def forward(self, x: Any) -> Any:
            ask(ops.sum(x) if ask in (bool, float, int) else x)
            return x

    with pytest.raises(TypeError, match="may branch on shapes, not on values") as caught:
        af.Sequential([Asking(input_shape=[2])]).predict(np.ones((1, 2)))
    assert isinstance(caught.value, af.Error)
    assert any("test_tensors" in str(entry.path) for entry in caught.traceback)
    with pytest.raises(af.Error, match="not on values"):
        ask(ops.sum(af.Input([2])) if ask in (bool, float, int) else af.Input([2]))


# --- programs ---------------------------------------------------------------------------------------------------------


def test_equal_expressions_share_one_program_and_different_ones_are_bounded() -> None:
    def expression(n: int) -> af.Tensor:
        return ops.sum(ops.sin(double(np.full(n, 0.5))) * 3.0)

    expression(5).numpy()
    count = len(evaluate._programs)
    for _ in range(20):
        assert_close(float(expression(5)), 15 * np.sin(0.5), 1e-14)
    assert len(evaluate._programs) == count
    held = []
    for n in range(1, 80):
        assert_close(float(expression(n)), 3 * n * np.sin(0.5), 1e-13)
        held.append(af.memory.allocated("cpu"))
    assert len(evaluate._programs) <= 32
    assert held[-1] - held[40] < 64 * 1024, "programs that fell out of the cache keep their memory"


def test_programs_of_one_structure_and_other_numbers_are_not_confused() -> None:
    t = double([1.0, 2.0])
    assert np.array_equal([float(ops.sum(t * k)) for k in (2.0, 3.0)], [6.0, 9.0])
    assert np.array_equal([(t ** float(k)).numpy()[1] for k in (3, 4)], [8.0, 16.0])
    assert np.array_equal((t + np.array([1.0, 1.0])).numpy(), [2, 3]) and np.array_equal(
        (t + np.array([2.0, 2.0])).numpy(), [3, 4]
    )
    assert np.array_equal((t - double([1.0, 1.0])).numpy(), [0, 1]) and np.array_equal((t - t).numpy(), [0, 0])
    single = af.tensor([1.0, 2.0])
    assert (single * 2.0).numpy().dtype == "float32" and (t * 2.0).numpy().dtype == "float64"
    assert np.array_equal((t[:1] + t[1:]).numpy(), [3]) and np.array_equal((t[1:] + t[1:]).numpy(), [4])


def test_values_that_were_looked_at_are_not_computed_again() -> None:
    t = double(np.ones(4))
    y = t
    for _ in range(200):
        y = y * 1.01 + 0.1
        y.numpy()
    started = time.perf_counter()
    float(ops.sum(y))
    assert time.perf_counter() - started < 1.0
    deep = t
    for _ in range(3000):
        deep = deep + 0.5
    assert np.array_equal(deep.numpy(), np.full(4, 1501.0)), "no recursion over the graph"


# --- wrong shapes, dtypes and data ------------------------------------------------------------------------------------


def ones(*shape: int) -> af.Tensor:
    return af.tensor(np.ones(shape))


@pytest.mark.parametrize(
    ("use", "kind", "words"),
    [
        (lambda: ones(2, 3) + ones(2, 4), ValueError, ["add", "axis -1", "3 meets 4", "(2, 3) and (2, 4)"]),
        (lambda: ones(2, 3) @ ones(2, 3), ValueError, ["matrix product", "(2, 3) @ (2, 3)", "3 meets 2"]),
        (lambda: af.tensor(3.0) @ af.tensor([1.0]), ValueError, ["with axes", "a * b"]),
        (lambda: ones(2, 3) @ af.tensor(np.ones((3, 2)), "float64"), TypeError, ["floating-point", "float32 and float64"]),
        (lambda: af.tensor([True]) & af.tensor([1]), TypeError, ["masks", "bool and int64"]),
        (lambda: ops.sum(af.tensor([1, 2])), TypeError, ["floating-point", "int64"]),
        (lambda: af.tensor([1.0]) + "a", TypeError, ["number", "str"]),
        (lambda: af.tensor([1.0]) ** af.tensor([2.0]), TypeError, ["constant number", "exp"]),
        (lambda: af.tensor(["a"]), TypeError, ["holds numbers"]),
        (lambda: af.tensor([[1.0], [1.0, 2.0]]), ValueError, ["differ in length"]),
        (lambda: af.tensor([]), ValueError, ["at least one value", "(0,)"]),
        (lambda: af.tensor([1.0], "float"), TypeError, ["'float'", "float32"]),
        (lambda: af.tensor([1.0], device="gpu9"), ValueError, ["gpu9"]),
        (lambda: af.tensor([1.0]).to("cup"), ValueError, ["cpu"]),
        (lambda: af.tensor(np.ones((2, 3))).reshape(4, 2), ValueError, ["(2, 3)", "(4, 2)", "6 values, not 8"]),
        (lambda: ops.transpose(af.tensor(np.ones((2, 3))), [0, 0]), ValueError, ["each axis once"]),
        (lambda: ops.sum(af.tensor([1.0]), 1), ValueError, ["axis 1", "(1,)"]),
        (lambda: ops.concatenate([ones(2, 3), ones(3, 4)], 0), ValueError, ["axis 0", "(2, 3)", "(3, 4)"]),
        (lambda: ops.gather(af.tensor([1.0, 2.0]), [2]), ValueError, ["from 0 to 1", "2 to 2"]),
        (lambda: len(af.tensor(1.0)), TypeError, ["no length"]),
    ],
)  # fmt: skip
def test_a_mistake_with_tensors_is_named_at_its_line(
    use: Callable[[], object], kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        use()
    assert isinstance(caught.value, af.Error)
    for word in words:
        assert word in str(caught.value)


# --- losses as functions ----------------------------------------------------------------------------------------------


def test_a_loss_is_a_layer_that_predictions_know_nothing_of() -> None:
    y, p = drawn(6, 3), drawn(6, 3, seed=1)
    assert_close(float(af.losses.mse(y, double(p))), ((y - p) ** 2).mean(), 1e-14)
    assert_close(float(af.losses.mae(double(y), double(p))), np.abs(y - p).mean(), 1e-14)
    model = af.Sequential([af.Dense(3, input_shape=[3])])
    model.compile(loss="mse")
    trained = {step.place.phase for step in model.plan(4).steps}
    predicted = {step.place.phase for step in model.plan(4, training=False).steps}
    assert predicted == {"forward"} and trained >= {"forward", "backward", "update"}
    assert "loss" in trained or not ON_HOST  # a fused step has one phase
    with pytest.raises(af.Error, match=r"mse[\s\S]*\(6, 3\)[\s\S]*\(6, 2\)"):
        af.losses.mse(y[:, :2], double(p))


@pytest.mark.parametrize("key", [np.array([0, 2]), [0, 2], 1.5, "a", np.zeros(3)])
def test_a_tensor_is_not_indexed_by_arrays(key: Any) -> None:
    for x in (double(drawn(4, 3)), af.Input([3])):
        for index in (key, (slice(None), key), (..., key)):
            with pytest.raises(af.Error, match=r"indexed by whole numbers(.|\n)*af.ops.gather"):
                x[index]
    assert double(drawn(4, 3))[:, np.array(2)].shape == (4,) == double(drawn(4, 3))[:, np.int64(2)].shape


def test_what_is_true_is_not_subtracted() -> None:
    t = af.tensor([True, False], dtype="bool")
    with pytest.raises(af.Error, match=r"subtract takes numbers(.|\n)*af.ops.cast\(a"):
        t - t
    assert (af.ops.cast(t, "float32") - af.ops.cast(t, "float32")).numpy().tolist() == [0.0, 0.0]


def test_magnitudes_and_varying_powers_are_numpys() -> None:
    t = double([-1.5, 2.0])
    assert np.array_equal(abs(t).numpy(), [1.5, 2.0])
    assert_close((2**t).numpy(), 2.0 ** np.array([-1.5, 2.0]), 1e-15)
    assert_close(ops.sum(double([[1.0, 2.0]]), np.int64(1)).numpy(), [3.0], 0.0)
    with pytest.raises(af.Error, match="above 0"):
        (-2) ** t


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(af.Error, match=r"float32 cannot hold(.|\n)*float64"):
        af.tensor(1e40)
    assert af.tensor(1e40, dtype="float64").item() == 1e40
