"""What operations are given: tensors, arrays, lists, numbers, of several dtypes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from itertools import product
from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo import ops

X = np.abs(np.random.default_rng(0).normal(size=(3, 4))) + 0.5
LABELS = np.array([[0, 2], [1, 1]])

# How functions are called that take something else than floating-point tensors alone.
CALLS: dict[str, Callable[[Any], Any]] = {
    "broadcast_to": lambda x: ops.broadcast_to(x, (2, 3, 4)),
    "cast": lambda x: ops.cast(x, "int32"),
    "clip": lambda x: ops.clip(x, 0.7, 1.0),
    "concatenate": lambda x: ops.concatenate([x, x], 0),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "gather": lambda x: ops.gather(x, [2, 0]),
    "matmul": lambda x: ops.matmul(x, np.ones((4, 2))),
    "power": lambda x: ops.power(x, 1.5),
    "reshape": lambda x: ops.reshape(x, (6, 2)),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 0), 0),
    "stack": lambda x: ops.stack([x, x], 1),
    "where": lambda x: ops.where(X > 1, x, 0.0),
}
OTHERS = {  # those of masks, of class numbers, of sizes
    "logical_not": (lambda x: ops.logical_not(x), X > 1),
    "one_hot": (lambda x: ops.one_hot(x, 3), LABELS),
    "iota": (lambda x: ops.iota(4) + x, np.array(2)),
}


def called(name: str, x: Any) -> Any:
    if name in CALLS:
        return CALLS[name](x)
    function = getattr(ops, name)
    needed = [p for p in signature(function).parameters.values() if p.default is Parameter.empty]
    return function(*[x] * len(needed))


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name not in OTHERS])
def test_every_operation_takes_arrays_and_lists_as_it_takes_tensors(name: str) -> None:
    expected = called(name, af.tensor(X)).numpy()
    for given in (X, X.tolist(), X.astype("float32"), X[:, ::-1][:, ::-1]):
        found = called(name, given)
        assert found.dtype == expected.dtype and np.array_equal(found.numpy(), expected)
    twice = called(name, af.tensor(X, "float64"))
    assert twice.dtype in ("float64", "bool", "int64", "int32")


@pytest.mark.parametrize("name", OTHERS)
def test_operations_on_masks_and_whole_numbers_take_arrays_and_lists(name: str) -> None:
    call, given = OTHERS[name]
    expected = call(af.tensor(given)).numpy()
    assert np.array_equal(call(given).numpy(), expected) and np.array_equal(call(given.tolist()).numpy(), expected)


MEETINGS: dict[str, Callable[[Any, Any], Any]] = {
    "add": ops.add,
    "maximum": ops.maximum,
    "where": lambda a, b: ops.where(X > 1, a, b),
    "concatenate": lambda a, b: ops.concatenate([a, b]),
    "stack": lambda a, b: ops.stack([a, b]),
}
ORDER = ("bool", "int32", "int64", "float32", "float64")


@pytest.mark.parametrize(("name", "first", "second"), [*product(MEETINGS, ORDER, ORDER)])
def test_tensors_of_two_dtypes_become_the_wider_one(name: str, first: str, second: str) -> None:
    a, b = (np.round(X * 3).astype(dtype) for dtype in (first, second))
    wider = max(first, second, key=ORDER.index)
    found = MEETINGS[name](af.tensor(a, first), af.tensor(b, second))
    twin: dict[str, Callable[[], Any]] = {
        "add": lambda: a.astype(wider) + b.astype(wider),
        "maximum": lambda: np.maximum(a.astype(wider), b.astype(wider)),
        "where": lambda: np.where(X > 1, a.astype(wider), b.astype(wider)),
        "concatenate": lambda: np.concatenate([a.astype(wider), b.astype(wider)], -1),
        "stack": lambda: np.stack([a.astype(wider), b.astype(wider)]),
    }
    assert found.dtype == wider
    np.testing.assert_array_equal(found.numpy(), twin[name]())


@pytest.mark.parametrize("name", MEETINGS)
def test_arrays_of_floats_take_the_dtype_of_the_tensor_beside_them(name: str) -> None:
    third = X / 3
    for dtype in ("float32", "float64"):
        for pair in ((af.tensor(third, dtype), third), (third, af.tensor(third, dtype))):
            found = MEETINGS[name](*pair)
            assert found.dtype == dtype
            both = MEETINGS[name](af.tensor(third, dtype), af.tensor(third, dtype))
            assert np.array_equal(found.numpy(), both.numpy())  # not rounded to float32 on the way
    assert MEETINGS[name](third, third).dtype == "float32"


def test_a_layer_that_joins_two_dtypes_gives_the_wider_one_and_is_trained() -> None:
    a, b = af.Input([2]), af.Input([3], dtype="float64")
    joined = af.Concatenate()([a, b])
    assert joined.dtype == "float64"
    model = af.Model([a, b], af.Dense(1)(joined))
    model.compile(loss="mse", optimizer="sgd")
    x, z = X[:, :2], X[:, 1:]
    first = model.fit([x, z], X[:, :1], epochs=20, verbose=0)
    assert first.history["loss"][-1] < first.history["loss"][0]
    expected = np.concatenate([x.astype("float32"), z], 1) @ model.layers[-1].kernel.numpy() + model.layers[-1].bias.numpy()
    np.testing.assert_allclose(model.predict([x, z]), expected, rtol=1e-12)


def test_a_product_of_two_dtypes_is_refused_with_a_fix_that_works() -> None:
    single, twice = af.tensor(X), af.tensor(X.T, "float64")
    with pytest.raises(af.Error, match="one dtype"):
        ops.matmul(single, twice)
    assert ops.matmul(single, ops.cast(twice, "float32")).dtype == "float32"


# --- numbers that are easily confused ---------------------------------------------------------------------------------


def test_whole_numbers_go_through_a_forward_as_they_go_through_predict() -> None:
    table = np.array([[2, 24, 4], [1, 30, 7]])
    model = af.Sequential([af.Dense(4, activation="tanh"), af.LayerNormalization(), af.Dense(2)])
    model.build((None, 3))
    for given in (table, table.tolist(), af.tensor(table)):
        np.testing.assert_allclose(model(given).numpy(), model.predict(table), rtol=1e-6)
    w = np.linspace(-1, 1, 6).reshape(3, 2)
    np.testing.assert_allclose((af.tensor(table) @ w).numpy(), table @ w, rtol=1e-6)
    np.testing.assert_allclose((af.tensor(table) @ af.tensor(table.T)).numpy(), table @ table.T)
    for function, twin in ((ops.tanh, np.tanh), (ops.mean, np.mean), (ops.sqrt, np.sqrt), (ops.std, np.std)):
        np.testing.assert_allclose(function(table).numpy(), twin(table), rtol=1e-6)
    np.testing.assert_allclose(ops.mean(table > 3).numpy(), np.mean(table > 3), rtol=1e-6)
    assert ops.sum(table > 3).numpy() == np.sum(table > 3)
    sequence = np.arange(12).reshape(2, 3, 2)
    layer = af.LSTM(3)
    np.testing.assert_allclose(layer(sequence).numpy(), layer(sequence.astype("float32")).numpy(), rtol=1e-6)


def test_zero_and_minus_zero_are_two_constants() -> None:
    c = af.tensor([1.0, -2.0])
    for zeros in ((0.0, -0.0), (-0.0, 0.0)):
        for zero in zeros:
            with np.errstate(divide="ignore"):
                assert np.array_equal((c / zero).numpy(), np.array([1.0, -2.0], "float32") / zero)
    with np.errstate(divide="ignore"):
        both = (c / 0.0 + 0.0 * c, c / -0.0)
        assert both[1].numpy().tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("change", ["+= 0.5", "/= 2", "-= 1.0"])
def test_whole_numbers_are_not_cut_in_place(change: str) -> None:
    t = af.tensor([1, 2, 3])
    with pytest.raises(af.Error, match="cannot hold"):
        exec(f"t {change}", {"t": t})
    with pytest.raises(af.Error, match="would cut"):
        t.assign([1.5, 2.0, 3.0])
    t += 2
    t.assign([2.0, 4.0, 6.0])
    assert t.numpy().tolist() == [2, 4, 6]


def test_large_whole_numbers_stay_what_they_are() -> None:
    big = 2**53 + 1
    assert bool(af.tensor(big) == big) and (af.tensor(0) + big).item() == big
    assert (-af.tensor([2**24 + 1])).numpy().tolist() == [-(2**24) - 1] and abs(af.tensor([-(2**24) - 1])).item() == 2**24 + 1
    assert af.tensor(np.array([2**32 - 1], np.uint32)).numpy().tolist() == [2**32 - 1]
    assert (af.tensor(0) + np.array([2**32 - 1], np.uint32)).numpy().tolist() == [2**32 - 1]
    small = af.tensor(np.array([1, 2], np.int32))
    for wrong in (
        lambda: af.tensor(np.array([2**63], np.uint64)),
        lambda: small + 2**40,
        lambda: small < np.int64(2**40),
        lambda: af.tensor([1]) == 2**70,
        lambda: af.tensor([1.0]) + 10**400,
        lambda: small + np.array([2**63], np.uint64),
    ):
        with pytest.raises(af.Error, match="cannot hold"):
            wrong()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ops.one_hot(np.array([True]), 4), "class numbers"),
        (lambda: ops.iota(4, "bool"), "iota counts"),
        (lambda: ops.iota(4, "foo"), "foo"),
        (lambda: ops.iota(0), "size must be 1 or more"),
        (lambda: ops.iota(2.5), "size must be a whole number"),  # type: ignore[arg-type]
        (lambda: af.tensor(X)[af.tensor(X) > 0], "af.ops.where"),
        (lambda: af.grad(ops.sum(af.tensor([1, 2]) * 2.0), af.tensor([1, 2])), "only floating-point tensors have gradients"),
        (lambda: af.losses.sparse_categorical_crossentropy([0.5], [[0.5, 0.5]]), r"np\.round"),
    ],
)
def test_what_cannot_be_is_said_in_words(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(af.Error, match=says):
        wrong()
