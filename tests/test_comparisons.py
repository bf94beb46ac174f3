"""Tensors where people expect numbers: compared, combined, printed, rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo import ops

A, B = np.array([[1.0, 2.0], [3.0, -4.0]]), np.array([[1.0, 5.0], [3.0, 4.0]])


# --- comparisons ------------------------------------------------------------------------------------------------------

SIDES: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("other", [B, B.tolist(), 3.0, 3, np.float32(3.0), B[:1]])
def test_comparisons_are_numpys_number_by_number(name: str, other: Any) -> None:
    compare, t = SIDES[name], af.tensor(A)
    for found, expected in (
        (compare(t, other), compare(A, np.asarray(other))),
        (compare(other, t), compare(np.asarray(other), A)),
        (compare(t, af.tensor(other)), compare(A, np.asarray(other))),
    ):
        assert found.dtype == "bool" and np.array_equal(found.numpy(), expected)


def test_what_is_no_number_equals_no_tensor() -> None:
    t = af.tensor(A)
    for other in (None, "a", object(), af.Dense(2)):
        assert (t == other) is False and (other == t) is False and (t != other) is True


def test_a_tensor_is_a_key_by_what_it_is() -> None:
    one, same = af.tensor(A), af.tensor(A)
    assert len({one: 1, same: 2}) == 2 and {one: 1}[one] == 1
    assert bool((one == same).numpy().all())


def test_masks_are_combined_and_turned_around() -> None:
    a, b = A > 0, np.asarray(B) > 3
    t, s = af.tensor(A) > 0, af.tensor(B) > 3
    assert np.array_equal((t & s).numpy(), a & b) and np.array_equal((t | s).numpy(), a | b)
    assert (
        np.array_equal((~t).numpy(), ~a) and np.array_equal((t & b).numpy(), a & b) and np.array_equal((b | t).numpy(), a | b)
    )
    with pytest.raises(af.Error, match="combines masks"):
        af.tensor(A) & t


def test_masks_and_numbers_of_python_go_together() -> None:
    mask = af.tensor(A) > 0
    assert (mask | True).numpy().all() and not (False & mask).numpy().any() and (mask & np.True_).numpy().sum() == 3
    assert ops.where(True, 1.0, 2.0).item() == 1.0
    assert ops.max(mask).item() == 1.0 and ops.min(mask).item() == 0.0 and ops.argmax(mask).numpy().tolist() == [0, 0]
    assert ops.gather(af.tensor(A), 1).numpy().tolist() == [3.0, -4.0]
    assert np.allclose((np.float64(2) ** af.tensor(A)).numpy(), 2**A)
    assert np.allclose(ops.softmax([[1, 2, 3]]).numpy(), ops.softmax([[1.0, 2.0, 3.0]]).numpy())
    assert np.allclose(af.Activation("softmax")([[1, 2, 3]]).numpy().sum(), 1)


def test_comparisons_between_layers_are_computed_there() -> None:
    model = af.Sequential([af.Activation(lambda z: (z == 0) * 5.0 + z * (z != 2)), af.Dense(1)])
    model.build((None, 3))
    model.set_weights([np.ones((3, 1)), np.zeros(1)])
    assert model.predict([[0.0, 1.0, 2.0]]).tolist() == [[6.0]]
    with pytest.raises(af.Error, match="branch on shapes"):
        af.Activation(lambda z: z if z[0, 0] == 1 else -z)(af.Input([2]))


def test_a_metric_of_the_users_own_counts_hits() -> None:
    def hits(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.argmax(y_true) == ops.argmax(y_pred))

    labels = np.eye(3)[np.arange(30) % 3]
    model = af.Sequential([af.Dense(3, activation="softmax", input_shape=[3])])
    model.compile(loss="categorical_crossentropy", metrics=[hits, "accuracy"])
    x = np.random.default_rng(2).normal(size=(30, 3))
    found = model.evaluate(x, labels, return_dict=True)
    expected = float(np.mean(model.predict(x).argmax(-1) == labels.argmax(-1)))
    assert found["hits"] == pytest.approx(expected) and found["accuracy"] == pytest.approx(expected) and 0 < expected < 1


# --- numbers to look at -----------------------------------------------------------------------------------------------


def test_a_tensor_prints_its_numbers_once_it_has_any() -> None:
    t = af.tensor(A)
    assert str(t) == str(A.astype("float32")) and str(ops.sum(t)) == "2.0" and f"{t[0]}" == "[1. 2.]"
    assert repr(t) == "<Tensor (2, 2) float32 on cpu>"
    assert str(af.Input([3])).startswith("<Tensor") and "numpy" not in str(af.Input([3]))


def test_one_number_is_formatted_and_rounded() -> None:
    error = ops.mean(ops.square(af.tensor([1.0, 2.0, 2.0])))
    assert f"{error:.3f}" == "3.000" and f"{error:8.1e}" == " 3.0e+00"
    assert round(af.tensor(2.46), 1) == pytest.approx(2.5) and round(af.tensor(2.6)) == 3
    with pytest.raises(af.Error, match="one value"):
        format(af.tensor(A), ".2f")


def test_numpy_does_not_write_into_a_copy_of_a_tensor() -> None:
    t = af.tensor(A)
    for write in (lambda: np.copyto(t, np.zeros((2, 2))), lambda: np.exp(A, out=t), lambda: np.put(t, [0], [1.0])):
        with pytest.raises(af.Error, match="into a copy"):
            write()
    assert np.array_equal(t.numpy(), A)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("max", "af.ops.max(t)"),
        ("argmax", "af.ops.argmax(t)"),
        ("flatten", "t.reshape(-1)"),
        ("detach", "af.ops.stop_gradient(t)"),
        ("grad", "af.grad(E, t)"),
        ("tolist", "t.numpy().tolist()"),
        ("nonsense", "t.numpy()"),
    ],
)
def test_a_method_that_tensors_lack_is_answered_with_what_does_it(name: str, fix: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(af.tensor(A), name)
    assert f"a tensor has no {name!r}" in str(caught.value) and fix in str(caught.value)
    assert not hasattr(af.tensor(A), name)
