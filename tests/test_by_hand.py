"""Weights that people change by hand: in place, and down a slope."""

from __future__ import annotations

import copy
import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo import ops

A, B = np.array([[1.0, 2.0], [3.0, -4.0]]), np.array([[1.0, 5.0], [3.0, 4.0]])
X = np.random.default_rng(0).normal(size=(23, 3))
Y = np.random.default_rng(1).normal(size=(23, 2))


# --- in place ---------------------------------------------------------------------------------------------------------


def test_a_tensor_and_a_weight_are_changed_in_place() -> None:
    t = af.tensor(A, "float64")
    before, doubled = t, t * 2.0
    t += 1.0
    t *= B
    t -= af.tensor(B, "float64")
    t /= 2
    expected = ((A + 1) * B - B) / 2
    assert t is before and np.array_equal(t.numpy(), expected)
    assert np.array_equal(doubled.numpy(), A * 2)  # what was written before keeps the old numbers
    layer = af.Dense(2, input_shape=[3])
    layer(X)
    kernel, old = layer.kernel, layer.kernel.numpy()
    layer.kernel -= 0.5 * old
    assert layer.kernel is kernel and np.allclose(kernel.numpy(), 0.5 * old)
    model = af.Sequential([layer])
    np.testing.assert_allclose(model.predict(X), X @ (0.5 * old), rtol=1e-5, atol=1e-6)


def test_a_weight_is_not_replaced_by_a_value() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[3])])
    layer = model.layers[0]
    before = model.get_weights()
    for value in (layer.kernel * 0.0, np.zeros((3, 2)), None):
        with pytest.raises(af.Error, match=r"'dense' keeps its weight 'kernel'(.|\n)*fix: layer.kernel.assign") as caught:
            layer.kernel = value
        assert isinstance(caught.value, TypeError)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    layer.kernel.assign(layer.kernel * 0.0)
    assert not model.get_weights()[0].any()
    model.compile(loss="mse")
    model.fit(X, Y, verbose=0)


def test_a_forward_may_not_assign_to_its_weights() -> None:
    class Growing(af.Layer):
        def build(self, input_shape: Any) -> None:
            self.w = self.add_weight([3], "ones", "w")

        def forward(self, x: Any) -> Any:
            self.w *= 2.0
            return x * self.w

    for given in (X, af.Input([3])):
        with pytest.raises(af.Error, match="a forward may not do"):
            Growing()(given)


# --- descent ----------------------------------------------------------------------------------------------------------


def slope(w: Any, b: Any) -> tuple[Any, Any, Any]:
    error = ops.mean(ops.square(af.tensor(X) @ w + b - Y))
    return error, *af.grad(error, [w, b])


def descended(steps: int) -> tuple[Any, Any]:
    w, b = np.zeros((3, 2)), np.zeros(2)
    for _ in range(steps):
        rest = (X @ w + b - Y) * 2 / Y.size
        w, b = w - 0.1 * X.T @ rest, b - 0.1 * rest.sum(0)
    return w, b


def test_descent_as_the_slides_write_it_gives_the_weights_of_numpy() -> None:
    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    for _ in range(60):
        _, dw, db = slope(w, b)
        w, b = w - 0.1 * dw, b - 0.1 * db
    v, c = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    for _ in range(60):
        _, dv, dc = slope(v, c)
        v -= 0.1 * dv
        c -= 0.1 * dc
    for found, expected in zip((w, b, v, c), descended(60) * 2, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_descent_in_place_holds_no_more_after_many_steps() -> None:
    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))

    def walk(steps: int) -> None:
        nonlocal w, b
        for _ in range(steps):
            _, dw, db = slope(w, b)
            w -= 0.1 * dw
            b -= 0.1 * db

    walk(20)
    gc.collect()
    tracemalloc.start()
    walk(10)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    walk(100)
    gc.collect()
    more = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert more < 64 * 1024  # a step that stayed would hold several KiB


def test_a_step_by_new_names_looks_no_further_back_than_it_must() -> None:
    """The graph behind a derivative begins at what it is taken by, not at the first step."""
    from aforo.graph import ancestors

    w, b = af.tensor(np.zeros((3, 2))), af.tensor(np.zeros(2))
    lengths = []
    for _ in range(30):
        error, dw, db = slope(w, b)
        lengths.append(len(ancestors([error], since=min(w.serial, b.serial))))
        w, b = w - 0.1 * dw, b - 0.1 * db
    assert len(set(lengths[1:])) == 1
    assert w.value is None and b.value is None
    slope(w, b)
    assert w.value is not None and b.value is not None  # the next step begins at numbers


def test_momentum_by_hand_begins_at_the_velocity_it_has() -> None:
    from aforo import evaluate

    w, v = af.tensor(np.linspace(1, 2, 5)), 0.0
    expected, u = np.linspace(1, 2, 5), np.zeros(5)
    known: list[int] = []
    for _ in range(40):
        v = 0.9 * v + af.grad(ops.sum(w * w), w)
        w -= 0.01 * v
        u = 0.9 * u + 2 * expected
        expected = expected - 0.01 * u
        known.append(len(evaluate._programs))
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-5)
    assert known[3] == known[-1]  # every step runs the programs of the step before
    assert isinstance(v, af.Tensor) and v.value is not None


def test_what_is_held_on_the_way_is_computed_once() -> None:
    x = af.tensor(A)
    hidden = ops.tanh(x * 2.0)
    error = ops.sum(hidden * 3.0)
    float(error)
    assert hidden.value is not None and np.allclose(hidden.numpy(), np.tanh(A * 2))
    assert error.inputs[0].value is None  # nobody else knows the product
    (dx,) = af.grad(error, [x])
    assert np.allclose(dx.numpy(), 6 * (1 - np.tanh(2 * A) ** 2), atol=1e-5)


def test_a_number_is_its_own_derivative_by_itself() -> None:
    w = af.tensor(3.0)
    assert float(af.grad(w, w)) == 1.0 and float(af.grad(w * w, w)) == 6.0


# --- losses that look behind probabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy"])
def test_the_gradient_of_probabilities_is_that_of_the_loss_as_it_is_written(loss: str) -> None:
    """Though its value comes from the logits; those get theirs as ever, and so do layers."""
    rng = np.random.default_rng(0)
    z = af.tensor(rng.normal(size=(4, 3)), "float64")
    layer = af.Dense(3, "sigmoid" if loss.startswith("binary") else "softmax")
    p = layer(z)
    labels = np.array([0, 2, 1, 1])
    y = np.eye(3)[labels]
    of = getattr(af.losses, loss)(labels if loss.startswith("sparse") else y, p) + af.ops.mean(p * p)
    q = p.numpy()
    written = (-y / q + (1 - y) / (1 - q)) / 12 if loss.startswith("binary") else -y / q / 4
    found = af.grad(of, [p, z, layer.kernel])
    np.testing.assert_allclose(found[0].numpy(), written + 2 * q / 12, rtol=1e-12)
    if loss.startswith("binary"):
        slope = found[0].numpy() * q * (1 - q)
    else:
        slope = q * (found[0].numpy() - (found[0].numpy() * q).sum(1, keepdims=True))
    np.testing.assert_allclose(found[1].numpy(), slope @ layer.kernel.numpy().T, rtol=1e-9)
    np.testing.assert_allclose(found[2].numpy(), z.numpy().T @ slope, rtol=1e-9)


def test_a_long_chain_of_factors_leaves_a_sum() -> None:
    t = x = af.tensor(np.linspace(0.5, 1.5, 12).reshape(3, 4), "float64")
    for _ in range(3000):
        t = t * 0.999
    assert af.ops.mean(t).numpy() == pytest.approx(x.numpy().mean() * 0.999**3000, rel=1e-10)


def test_gradients_of_probabilities_through_whatever_is_made_of_the_loss() -> None:
    """Factors, sums, a target that is the prediction, and a loss within another's logits; against differences."""
    z = af.tensor(np.random.default_rng(1).normal(size=(4, 3)), "float64")
    labels = np.array([0, 1, 2, 1])
    at = np.arange(4), labels
    ce, soft = af.losses.sparse_categorical_crossentropy, af.ops.softmax

    def entropy(q: Any) -> Any:
        return -np.log(q[at]).mean()

    def nested(q: Any) -> Any:
        e = np.exp(z.numpy() * entropy(q))
        return entropy(e / e.sum(1, keepdims=True)) + q.sum()

    cases: list[tuple[Any, Any]] = [
        (lambda p: 2.0 * ce(labels, p), lambda q: 2 * entropy(q)),
        (lambda p: 2.0 * ce(labels, p) + af.ops.sum(p * p), lambda q: 2 * entropy(q) + (q * q).sum()),
        (lambda p: af.ops.sum(ce(labels, p)) / 3.0, lambda q: entropy(q) / 3),
        (lambda p: af.losses.categorical_crossentropy(p, p), lambda q: -(q * np.log(q)).sum(1).mean()),
        (lambda p: ce(labels, soft(z * ce(labels, p))) + af.ops.sum(p), nested),
    ]
    for of, written in cases:
        p = soft(z)
        q, slope = p.numpy(), np.zeros((4, 3))
        for place in np.ndindex(4, 3):
            d = np.zeros((4, 3))
            d[place] = 1e-6
            slope[place] = (written(q + d) - written(q - d)) / 2e-6
        np.testing.assert_allclose(af.grad(of(p), p).numpy(), slope, rtol=1e-6, atol=1e-8)


def test_copies_of_tensors_are_the_tensors() -> None:
    t = af.tensor([1.0, 2.0])
    for copied in (copy.copy(t * t), copy.deepcopy(t * t)):
        assert np.array_equal(af.grad(af.ops.sum(copied), t).numpy(), [2.0, 4.0])
    h = af.Dense(3)(af.Input([4]))
    assert copy.copy(h) is h


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [5.0, 20.0, 40.0, 800.0])
def test_the_gradient_of_logits_is_exact_where_probabilities_underflow(size: float, dtype: str) -> None:
    """Also of logits that are a tensor of the user's own."""
    x = af.tensor(np.array([[size, 0.0, -size]]), dtype)
    e = np.exp(np.array([0.0, -size, -2 * size]))
    expected = e / e.sum() - [0.0, 1.0, 0.0]
    for z in (x, x * 1.0 + 0.0):
        loss = af.losses.sparse_categorical_crossentropy(np.array([1]), af.ops.softmax(z))
        np.testing.assert_allclose(af.grad(loss, x).numpy()[0], expected, rtol=1e-5, atol=1e-7)
