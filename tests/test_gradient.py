"""The backward: that the checker catches wrong gradients, gradients of gradients, kinks, and the errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from helpers import Array, Runner, check_gradient, result, sample_inputs, variable, weighted

import aforo as af
from aforo import ops
from aforo.gradient import gradient
from aforo.graph import BACKWARD, PRIMITIVES, Graph, Tensor, ancestors, apply, constant, leaf, merge, verify, within
from aforo.specs import FLOATS

rng = np.random.default_rng(5)
DIFFERENTIABLE = [
    name
    for name, record in PRIMITIVES.items()
    if record.gradient is not None
    and record.samples
    and (record.samples[0].dtypes is None or record.samples[0].dtypes[0] in ("float", *FLOATS))
]


def sampled(name: str) -> tuple[Callable[..., Tensor], list[Array]]:
    """A primitive on its first sample, in float64."""
    sample = PRIMITIVES[name].samples[0]
    attributes = {"dtype": "float64"} if name == "cast" else sample.attributes
    return lambda *x: apply(name, *x, **attributes), sample_inputs(sample, "float64")


def total(tensors: Iterable[Tensor]) -> Tensor:
    return reduce(ops.add, tensors)


# --- the checker ------------------------------------------------------------------------------------------------------


def scaled(rule: Any) -> Any:
    return lambda y, g: [None if x is None else x * (1 + 1e-5) for x in rule(y, g)]


def negated(rule: Any) -> Any:
    return lambda y, g: [None if x is None else -x for x in rule(y, g)]


def reversed_along_the_last_axis(rule: Any) -> Any:
    """Right numbers in the wrong places."""

    def wrong(y: Tensor, g: Tensor) -> list[Tensor | None]:
        gradients = list(rule(y, g))
        return [None if x is None else turned(x) for x in gradients]

    def turned(x: Tensor) -> Tensor:
        for axis in reversed(range(x.ndim)):
            if x.shape[axis] != 1:
                rows = [x[(slice(None),) * axis + (slice(i, i + 1),)] for i in reversed(range(int(x.shape[axis])))]
                return ops.concatenate(rows, axis=axis)
        return x * 2.0

    return wrong


def planted(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """A function in which one node of that name has a wrong gradient; the others keep theirs, since two faults may cancel."""
    function, _ = sampled(name)
    right = PRIMITIVES[name].gradient
    assert right is not None
    made: list[Tensor] = []

    def mixed(y: Tensor, g: Tensor) -> Sequence[Tensor | None]:
        rule = wrong if y is made[0] else right
        gradients: Sequence[Tensor | None] = rule(y, g)
        return gradients

    monkeypatch.setitem(PRIMITIVES, name, replace(PRIMITIVES[name], gradient=mixed))

    def call(*x: Tensor) -> Tensor:
        made.append(function(*x))
        return weighted(made[0])

    return call


@pytest.mark.parametrize("fault", [scaled, negated, reversed_along_the_last_axis])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_planted_wrong_gradient_is_caught(name: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function, arrays = sampled(name)
    check_gradient(lambda *x: weighted(function(*x)), arrays)
    wrong = planted(name, fault(PRIMITIVES[name].gradient), monkeypatch)
    with pytest.raises(AssertionError, match="the gradient says"):
        check_gradient(wrong, arrays)


@pytest.mark.parametrize("name", ["multiply", "divide", "subtract", "matmul", "maximum"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_wrong_gradient_of_only_one_input_is_caught(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = PRIMITIVES[name].gradient

    def wrong(y: Tensor, g: Tensor) -> list[Tensor | None]:
        gradients: list[Any] = list(right(y, g))  # type: ignore[misc]
        gradients[which] = gradients[which] * 0.999
        return gradients

    with pytest.raises(AssertionError, match="the gradient says"):
        check_gradient(planted(name, wrong, monkeypatch), sampled(name)[1])


def test_a_gradient_of_the_wrong_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    exp = PRIMITIVES["exp"]
    monkeypatch.setitem(PRIMITIVES, "exp", replace(exp, gradient=lambda y, g: ((g * y).T,)))
    with pytest.raises((AssertionError, af.Error)):
        check_gradient(lambda x: weighted(ops.exp(x)), [rng.standard_normal((3, 4))])


def test_the_checker_refuses_kinks() -> None:
    with pytest.raises(AssertionError, match="bends too sharply"):
        check_gradient(lambda x: ops.sum(ops.absolute(x)), [np.array([0.1e-6, 1.0])])


# --- second order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_gradient_of_a_gradient_equals_a_finite_difference_of_the_first(name: str) -> None:
    function, arrays = sampled(name)

    def slope(*x: Tensor) -> Tensor:
        firsts = gradient(weighted(function(*x)), [t for t in x if t.dtype in FLOATS])
        factors = [constant(np.cos(1.0 + np.arange(a.size)).reshape(a.shape), "float64") for a in arrays if a.dtype.kind == "f"]
        return total(ops.sum(first * factor) for first, factor in zip(firsts, factors, strict=True))

    check_gradient(slope, arrays)


def network(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    h = ops.tanh(x @ w1 + b1)
    return -ops.mean(ops.log_softmax(h @ w2)[:, 0])


NETWORK = [rng.standard_normal(shape) for shape in ((5, 3), (3, 4), (4,), (4, 2))]


def test_the_hessian_of_a_network_is_symmetric() -> None:
    # u·(H v) = v·(H u), where H v is the gradient of the gradient along v
    x = [leaf(variable(a)) for a in NETWORK]
    u, v = ([constant(rng.standard_normal(a.shape), "float64") for a in NETWORK] for _ in range(2))

    def dot(p: Sequence[Tensor], q: Sequence[Tensor]) -> Tensor:
        return total(ops.sum(a * b) for a, b in zip(p, q, strict=True))

    first = gradient(network(*x), x)
    left, right = dot(u, gradient(dot(first, v), x)), dot(v, gradient(dot(first, u), x))
    out = Runner(merge(Graph({"left": left, "right": right}, {}))).run()
    assert abs(out["left"]) > 1e-3
    np.testing.assert_allclose(out["left"], out["right"], 1e-12)


def test_a_third_derivative_is_right() -> None:
    x = leaf(variable(0.7))
    y = x**5
    for factor, power in ((5, 4), (20, 3), (60, 2), (120, 1)):
        (y,) = gradient(y, [x])
        np.testing.assert_allclose(result(y), factor * 0.7**power, 1e-14)


# --- composed functions -----------------------------------------------------------------------------------------------


def _softmax(x: Array, axis: int = -1) -> Array:
    e: Array = np.exp(x - x.max(axis, keepdims=True))
    out: Array = e / e.sum(axis, keepdims=True)
    return out


COMPOSED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Array]]] = {
    "relu": (ops.relu, lambda x: np.where(x > 0, x, 0)),
    "softmax": (ops.softmax, _softmax),
    "softmax along axis 0": (lambda x: ops.softmax(x, 0), lambda x: _softmax(x, 0)),
    "log_softmax": (ops.log_softmax, lambda x: np.log(_softmax(x))),
    "mean": (lambda x: ops.mean(x, 0), lambda x: x.mean(0)),
    "mean of all": (ops.mean, np.mean),
    "min": (lambda x: ops.min(x, 1, keepdims=True), lambda x: x.min(1, keepdims=True)),
    "a slice": (lambda x: x[1:, None, ::2], lambda x: x[1:, None, ::2]),
    "one row": (lambda x: x[-1], lambda x: x[-1]),
    "its square root of squares": (lambda x: (x**2 + 1.0) ** 0.5, lambda x: np.sqrt(x * x + 1)),
    "a number over it": (lambda x: 2.0 / (3.0 + x), lambda x: 2 / (3 + x)),
    "a number minus it": (lambda x: 2.0 - x, lambda x: 2 - x),
    "itself, many times": (lambda x: x * x + x / (x * x + 1.0) - x, lambda x: x * x + x / (x * x + 1) - x),
    "a broadcast sum": (lambda x: x + x[0] + x[:, 1:2], lambda x: x + x[0] + x[:, 1:2]),
    "its Gram matrix": (lambda x: x @ x.T, lambda x: x @ x.T),
    "a product with a vector": (lambda x: x @ x[0], lambda x: x @ x[0]),
    "a vector times it": (lambda x: x[:, 0] @ x, lambda x: x[:, 0] @ x),
    "a mask times it": (lambda x: (x > 0.1) * x, lambda x: (x > 0.1) * x),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_functions_and_their_gradients_are_right(name: str) -> None:
    function, reference = COMPOSED[name]
    x = rng.uniform(-1.5, 1.5, (4, 5))
    np.testing.assert_allclose(result(function(leaf(variable(x)))), reference(x), 1e-13, 1e-14)
    check_gradient(lambda t: weighted(function(t)), [x])


def test_a_matrix_product_of_any_rank_is_numpys() -> None:
    flat = ((2, 3, 4), (4, 5)), ((4,), (4,)), ((4,), (2, 4, 3))
    stacked = ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2))
    for p, q in (*flat, *stacked):
        a, b = rng.standard_normal(p), rng.standard_normal(q)
        np.testing.assert_allclose(result(leaf(variable(a)) @ leaf(variable(b))), a @ b, 1e-13, 1e-14)
        check_gradient(lambda s, t: weighted(s @ t), [a, b])


# --- kinks ------------------------------------------------------------------------------------------------------------


def slopes(function: Callable[..., Tensor], *arrays: Any) -> list[Array]:
    leaves = [leaf(variable(np.asarray(a, "float64"))) for a in arrays]
    return [result(g) for g in gradient(ops.sum(function(*leaves)), leaves)]


def test_the_documented_gradients_at_kinks() -> None:
    np.testing.assert_array_equal(slopes(ops.relu, [-1.0, 0.0, 2.0])[0], [0, 0, 1])
    np.testing.assert_array_equal(slopes(ops.absolute, [-1.0, 0.0, 2.0])[0], [-1, 0, 1])
    np.testing.assert_array_equal(slopes(ops.maximum, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]), [[0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(slopes(ops.minimum, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]), [[1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(slopes(ops.max, [3.0, 1.0, 3.0, 3.0])[0], [1 / 3, 0, 1 / 3, 1 / 3])
    halves = np.array([[0.5, 0.5], [1.0, 0.0]])
    np.testing.assert_allclose(slopes(lambda x: ops.min(x, 1), [[0.0, 0.0], [1.0, 2.0]])[0], halves)


@pytest.mark.parametrize(
    ("function", "slope"), [(ops.elu, 1.0), (ops.leaky_relu, 0.2), (lambda x: ops.clip(x, -1.0, 0.0), 1.0)]
)
def test_a_function_of_two_pieces_has_the_slope_of_one_of_them_where_they_meet(function: Any, slope: float) -> None:
    np.testing.assert_allclose(slopes(function, [0.0])[0], [slope], rtol=1e-15)


def test_the_gradients_of_the_larger_and_the_smaller_of_two_numbers_sum_to_one_each() -> None:
    both = slopes(lambda a, b: ops.maximum(a, b) + ops.minimum(a, b), [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(both, np.ones((2, 3)))


def test_the_gradients_of_a_maximum_with_itself_sum_to_one() -> None:
    np.testing.assert_array_equal(slopes(lambda x: ops.maximum(x, x), [1.0, -2.0])[0], [1, 1])


def test_a_guard_passes_the_gradient_as_if_it_were_not_there() -> None:
    np.testing.assert_array_equal(slopes(lambda x: apply("guard", x, floor=0.0), [-1.0, 2.0])[0], [1, 1])


def test_stop_gradient_is_a_constant_for_derivatives() -> None:
    np.testing.assert_array_equal(slopes(lambda x: x * ops.stop_gradient(x), [3.0])[0], [3.0])


# --- what the transform gives -----------------------------------------------------------------------------------------


def test_gradients_have_the_shape_and_dtype_of_what_they_belong_to() -> None:
    x32, w = leaf(variable(rng.standard_normal((4, 3)), dtype="float32")), leaf(variable(rng.standard_normal((3, 2))))
    f = ops.sum(ops.square(ops.cast(x32, "float64") @ w))
    dx, dw = gradient(f, [x32, w])
    assert (dx.shape, dx.dtype) == ((4, 3), "float32")
    assert (dw.shape, dw.dtype) == ((3, 2), "float64")


def test_every_node_of_a_backward_says_that_it_is_one_and_of_which_layer() -> None:
    x = leaf(variable(rng.standard_normal((4, 3))))
    with within(layer="hidden"):
        h = ops.tanh(x)
    f = ops.sum(h)
    forward = {id(node) for node in ancestors([f])}
    (g,) = gradient(f, [x])
    made = [node for node in ancestors([g]) if id(node) not in forward and node.inputs]
    assert made
    assert {node.place.phase for node in made} == {BACKWARD}
    assert "hidden" in {node.place.layer for node in made}
    verify(merge(Graph({"g": g}, {})))


def test_a_gradient_may_start_from_another_number_than_one() -> None:
    x = leaf(variable([1.0, 2.0]))
    (g,) = gradient(ops.sum(x * x), [x], seed=constant(0.5, "float64"))
    np.testing.assert_array_equal(result(g), [1.0, 2.0])


def test_the_gradient_of_a_value_by_itself_is_one_and_intermediates_have_gradients() -> None:
    x = leaf(variable([1.0, 2.0]))
    h = x * x
    f = ops.sum(h)
    np.testing.assert_array_equal([result(g) for g in gradient(f, [f])], [1.0])
    np.testing.assert_array_equal(result(gradient(f, [h])[0]), [1.0, 1.0])
    np.testing.assert_array_equal(result(gradient(f, [x])[0]), [2.0, 4.0])


def test_a_value_used_in_many_places_collects_all_their_gradients() -> None:
    x = leaf(variable(rng.standard_normal(6)))
    f = ops.sum(total([x, *(x * float(i) for i in range(1, 40))]))  # 1 + 780
    np.testing.assert_allclose(result(gradient(f, [x])[0]), np.full(6, 781.0), 1e-14)


def test_the_backward_does_not_recurse() -> None:
    x = leaf(variable([0.5]))
    y = x
    for _ in range(3000):
        y = ops.sin(y)
    (g,) = gradient(ops.sum(y), [x])
    value, slope = 0.5, 1.0
    for _ in range(3000):
        value, slope = math.sin(value), slope * math.cos(value)
    np.testing.assert_allclose(result(g), [slope], 1e-10)


# --- errors -----------------------------------------------------------------------------------------------------------


def message(function: Callable[[], object]) -> str:
    with pytest.raises(af.Error) as caught:
        function()
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("function", "op", "why"),
    [
        (lambda x: ops.cast(ops.argmax(x), "float64"), "argmax", "it gives a position, not a value"),
        (ops.sign, "sign", "it is constant between its jumps"),
        (lambda x: ops.cast(x > 0.0, "float64"), "greater", "it is constant between its jumps"),
        (ops.stop_gradient, "stop_gradient", "it was asked to"),
    ],
)
def test_an_operation_without_a_gradient_is_named_with_its_layer_and_line(function: Any, op: str, why: str) -> None:
    x = leaf(variable(rng.standard_normal((3, 4)), "kernel"))
    with within(layer="choice"):
        y = function(x)
    text = message(lambda: gradient(ops.sum(y), [x]))
    assert f"test.kernel gets no gradient: {op} in layer 'choice' has none ({why})." in text
    assert f"received: {op} at {__file__}:" in text
    assert "expected: differentiable operations" in text
    assert "fix: " in text


def test_a_layer_that_stops_gradients_is_named_when_the_model_is_compiled() -> None:
    model = af.Sequential([af.Dense(3, input_shape=[2], name="first"), af.Dense(1, activation=ops.sign, name="last")])
    text = message(lambda: model.compile(loss="mse"))
    assert "first.kernel gets no gradient: sign in layer 'last' has none" in text


def test_a_value_the_error_does_not_depend_on_is_named() -> None:
    x, w = leaf(variable([1.0], "x")), leaf(variable([1.0], "spare"))
    text = message(lambda: gradient(ops.sum(x), [x, w]))
    assert "the error does not depend on test.spare." in text
    assert "fix: leave it out, or use it in the forward" in text


def test_only_a_single_number_can_be_differentiated() -> None:
    x = leaf(variable([1.0, 2.0]))
    text = message(lambda: gradient(x * x, [x]))
    assert "only a single number can be differentiated." in text
    assert "received: (2,)" in text
    assert "af.ops.sum(E)" in text


SLICES: dict[str, tuple[Callable[[Tensor], Sequence[Tensor]], bool]] = {
    "they fill it": (lambda x: [x[:, 2:], x[:, :2]], True),
    "three of another axis": (lambda x: [x[1:2], x[:1], x[2:]], True),
    "some is left out": (lambda x: [x[:, :2], x[:, 2:3]], False),
    "they overlap": (lambda x: [x[:, :3], x[:, 2:]], False),
    "one comes twice": (lambda x: [x[:, :2], x[:, 2:], x[:, :2]], False),
    "every second": (lambda x: [x[:, ::2], x[:, 1::2]], False),
    "corners": (lambda x: [x[:2, :2], x[:2, 2:], x[2:]], False),
}


@pytest.mark.parametrize("name", SLICES)
def test_the_gradient_of_slices_is_put_together_where_they_fill_a_value(name: str) -> None:
    look, fill = SLICES[name]

    def function(x: Tensor) -> Tensor:
        return total(weighted(part, i + 1) for i, part in enumerate(look(ops.sin(x))))

    check_gradient(function, [rng.standard_normal((3, 4))])
    x = leaf(variable(rng.standard_normal((3, 4))))
    (g,) = gradient(function(x), [x])
    used = {node.op for node in ancestors([g]) if node.place.phase == BACKWARD}
    assert ("concatenate" in used, "pad" in used) == (fill, not fill)
