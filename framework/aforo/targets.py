"""Targets and their weights, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .checks import Array, as_array, as_whole, check_finite, check_rows, in_code
from .errors import InvalidType, InvalidValue, explain
from .losses import CLASSES, Loss
from .settings import number
from .specs import Dim, Shape, fits, written


def as_targets(data: Any, shape: Shape, dtype: str, loss: Loss, head: Shape, rows: int, what: str = "y") -> Array:
    """Targets that fit the loss and the head. Raises with the loss or the encoding that would."""
    array = as_array(data, what)
    if loss.target == CLASSES:
        return _as_classes(array, shape, dtype, head, what)
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        array = array[..., None]
    if not fits(array.shape[1:], shape[1:]) and len(array):
        _explain_targets(array, shape, loss, head, rows, what)
    check_rows(array, shape, what, "a head of one unit: af.Dense(1)")
    check_finite(array, dtype, what)
    if "categorical" in loss.name and array.min() < 0:
        raise InvalidValue(
            explain(
                f"{what} holds a negative probability.",
                expected="one-hot rows",
                received=array.min(),
                fix=f"one-hot rows from class numbers: np.eye({shape[-1]})[labels]",
            )
        )
    if loss.name == "binary_crossentropy" and (array.min() < 0 or array.max() > 1):
        low, high = array.min(), array.max()
        if low < 0:
            fix = f"({in_code(what)} + {-low}) / {high - low}"
        elif high != int(high):
            fix = f"{in_code(what)} / {high}"
        else:
            fix = f'af.Dense({int(high) + 1}, activation="softmax") with loss="sparse_categorical_crossentropy"'
        raise InvalidValue(
            explain(
                f"{what} does not fit binary_crossentropy.",
                expected="values from 0 to 1",
                received=f"{low} to {high}",
                fix=fix,
            )
        )
    return array


def _explain_targets(array: Array, shape: Shape, loss: Loss, head: Shape, rows: int, what: str) -> None:
    expected = f"shape (n, {', '.join(map(str, shape[1:]))})"
    labels = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if labels and whole and loss.name == "categorical_crossentropy":
        raise InvalidValue(
            explain(
                f"{what} holds class numbers, but categorical_crossentropy compares one-hot rows.",
                expected=expected,
                received=f"shape {written(array.shape)}",
                fix=f'loss="sparse_categorical_crossentropy", or one-hot: np.eye({head[-1]})[{in_code(what)}.ravel()]',
            )
        )
    if labels and whole and loss.name == "binary_crossentropy":
        raise InvalidValue(
            explain(
                f"{what} holds one label a row, but the head has {head[-1]} outputs.",
                expected=expected,
                received=f"shape {written(array.shape)}",
                fix='a head of af.Dense(1, activation="sigmoid"), or loss="sparse_categorical_crossentropy" with softmax',
            )
        )
    if array.ndim == len(shape):
        raise InvalidValue(
            explain(
                f"{what} does not fit the head: its rows are {written(array.shape[1:])}, the head's are {written(shape[1:])}.",
                expected=expected,
                received=f"shape {written(array.shape)}",
                fix=f"{in_code(what)}.T"
                if array.ndim == 2 and fits(array.shape[:1], shape[1:]) and array.shape[1] == rows
                else f"a head with {array.shape[-1]} units: af.Dense({array.shape[-1]})",
            )
        )


def _as_classes(array: Array, shape: Shape, dtype: str, head: Shape, what: str) -> Array:
    classes = head[-1]
    assert not isinstance(classes, Dim)
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == len(head) and fits(array.shape[1:], head[1:]):
        raise InvalidValue(
            explain(
                f"{what} holds one-hot rows, but sparse_categorical_crossentropy takes class numbers.",
                expected="shape (n,)",
                received=f"shape {written(array.shape)}",
                fix=f'loss="categorical_crossentropy", or class numbers: {in_code(what)}.argmax(axis=-1)',
            )
        )
    check_rows(
        array, shape, what, f"class numbers, one for each sample: {in_code(what)}.argmax(axis=-1) if the rows are one-hot"
    )
    if array.dtype.kind == "f":
        check_finite(array, "float64", what)
        if (array != np.floor(array)).any():
            raise InvalidValue(
                explain(
                    f"{what} holds fractions, but sparse_categorical_crossentropy takes class numbers.",
                    expected=f"whole numbers from 0 to {classes - 1}",
                    received=array[array != np.floor(array)][0],
                    fix='loss="mse" for a regression',
                )
            )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= classes:
        row = int(np.flatnonzero((array < 0) | (array >= classes))[0])
        value = int(array.reshape(-1)[row])
        fix = f"af.Dense({high + 1}, …) as the head"
        if low < 0:
            fix = f"number the classes from 0: {in_code(what)} + {-low}, with a head of af.Dense({high - low + 1}, …)"
        elif low == 1 and high == classes:
            fix = f"number the classes from 0: {in_code(what)} - 1"
        raise InvalidValue(
            explain(
                f"{what} holds class {value} in row {row}, but the head has {classes} outputs.",
                expected=f"classes from 0 to {classes - 1}",
                received=f"classes from {low} to {high}",
                fix=fix,
            )
        )
    return as_whole(array, dtype)


def sample_weights(
    sample_weight: Any, class_weight: Any, y: Array, loss: Loss, n: int, dtype: str, time: int | None
) -> Array | None:
    """One weight for each sample, or for each of its time steps; from those given and from those of its class.

    time: how many steps all outputs have, None if there is one without.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights: Array = np.ones(n, dtype)
    if sample_weight is not None:
        given = as_array(sample_weight, "sample_weight")
        if given.shape == (n, time):
            weights = np.ones((n, time), dtype)
        elif given.shape != (n,):
            raise InvalidValue(
                explain(
                    "sample_weight holds one weight for each sample.",
                    expected=f"shape ({n},)" + f", or ({n}, {time}) for each time step" * (time is not None),
                    received=written(given.shape),
                    fix="sample_weight=np.ones(len(x))",
                )
            )
        check_finite(given, dtype, "sample_weight")
        if given.min() < 0:
            raise InvalidValue(
                explain(
                    "sample_weight must not be negative.",
                    expected="weights of 0 or more",
                    received=given.min(),
                    fix="np.maximum(sample_weight, 0)",
                )
            )
        weights *= given
    if class_weight is not None:
        labels = _classes(y, loss)
        for label, weight in _checked_class_weight(class_weight, labels).items():
            weights[labels == label] *= weight  # of a sample: for all its steps
    return weights


def _classes(y: Array, loss: Loss) -> Array:
    """The class of each sample."""
    column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if column.ndim == 1 and (column == np.floor(column)).all():
        return column
    one_hot = column.ndim == 2 and ((y == 0) | (y == 1)).all() and (y.sum(axis=-1) == 1).all()
    if one_hot or (column.ndim == 2 and loss.name == "categorical_crossentropy"):
        found: Array = y.argmax(axis=-1)
        return found
    raise InvalidValue(
        explain(
            f"class_weight weighs classes, but y holds none for {loss.name}.",
            expected="one class for each sample: class numbers, or one-hot rows",
            received=f"shape {written(y.shape)}, values from {y.min()} to {y.max()}",
            fix="sample_weight=weights, one for each sample",
        )
    )


def _checked_class_weight(given: Any, labels: Array) -> Mapping[int, float]:
    if not isinstance(given, Mapping):
        raise InvalidType(
            explain(
                "class_weight is a dict.",
                expected="a weight for every class",
                received=type(given).__name__,
                fix="class_weight={0: 1.0, 1: 5.0}",
            )
        )
    weights = {label: number(f"class_weight[{label!r}]", weight, 0.0, float("inf")) for label, weight in given.items()}
    missing = sorted({int(label) for label in np.unique(labels)} - set(weights))
    if missing:
        raise InvalidValue(
            explain(
                "class_weight leaves out classes that y holds.",
                expected="a weight for every class",
                received="none for " + ", ".join(map(str, missing[:10])) + ", …" * (len(missing) > 10),
                fix=f"class_weight={weights | dict.fromkeys(missing[:10], 1.0)}",
            )
        )
    return weights
