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
