"""Data, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InvalidType, InvalidValue, explain
from .graph import Variable
from .losses import CLASSES, Loss
from .specs import FLOATS, INTEGERS, Dim, Shape, written

Array = np.ndarray[Any, Any]


def as_array(data: Any, what: str) -> Array:
    """Arrays, lists, and tables that offer `.to_numpy()`, as an array of numbers."""
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    try:
        array = np.asarray(data)
    except ValueError:
        array = None
    if array is None or (array.dtype == object and _ragged(data)):
        raise InvalidValue(
            explain(
                f"the rows of {what} differ in length.",
                expected="rows of one length",
                received=_ragged(data) or type(data).__name__,
                fix="pad them, or cut them, to one length",
            )
        )
    if array.dtype.kind in "USTO" and not _all_numbers(array):
        first = next((value for value in array.flat if not isinstance(value, (int, float))), None)
        raise InvalidType(
            explain(
                f"{what} holds text, not numbers.",
                expected="numbers",
                received=f"{first!r}" if first is not None else str(array.dtype),
                fix="af.datasets.load_csv(path, targets=[…], one_hot=True) maps text labels to numbers, "
                "and so does aforo.sklearn.Classifier",
            )
        )
    if array.dtype.kind not in "fiubO":
        raise InvalidType(explain(f"{what} must hold real numbers.", received=f"an array of {array.dtype}"))
    return array.astype(float) if array.dtype == object else array


def _all_numbers(array: Array) -> bool:
    return array.dtype == object and all(isinstance(value, (int, float, np.number)) for value in array.flat)


def _ragged(data: Any) -> str:
    """Where the rows of a nested list first differ in length."""
    if not isinstance(data, (list, tuple)):
        return ""
    lengths = [len(row) if hasattr(row, "__len__") and not isinstance(row, str) else None for row in data]
    for i, length in enumerate(lengths):
        if length != lengths[0]:
            return f"row 0 has {lengths[0]} values, row {i} has {length}"
    return ""


def check_rows(array: Array, shape: Shape, what: str) -> None:
    """The shape of a batch: any number of rows, each of the sizes after the first of `shape`."""
    if array.shape[1:] == shape[1:] and array.ndim == len(shape) and len(array):
        return
    expected = "(n, " + ", ".join(map(str, shape[1:])) + ")" if len(shape) > 1 else "(n,)"
    if array.ndim and not len(array):
        raise InvalidValue(
            explain(f"{what} is empty.", expected=f"shape {expected}, n at least 1", received=written(array.shape))
        )
    fix = None
    if array.shape == shape[1:]:
        fix = f"{what}[None] adds a batch axis to one sample"
    elif array.ndim == 1 and len(shape) == 2 and shape[1] == 1:
        fix = f"{what}[:, None] makes it one column"
    raise InvalidValue(
        explain(f"{what} does not fit the model.", expected=f"shape {expected}", received=written(array.shape), fix=fix)
    )


def check_finite(array: Array, dtype: str, what: str) -> None:
    """Every value is a number that the dtype can hold. Looks at the extremes only, so it allocates nothing."""
    if array.dtype.kind != "f":
        return
    limit = float(np.finfo(np.dtype(dtype)).max)
    low, high = float(array.min()), float(array.max())
    if -limit <= low and high <= limit:
        return
    row = next(i for i in range(len(array)) if not (np.abs(array[i]) <= limit).all())
    bad = np.atleast_1d(array[row])
    value = bad[~(np.abs(bad) <= limit)][0]
    raise InvalidValue(
        explain(
            f"{what} holds {value} in row {row}.",
            expected=f"finite numbers that {dtype} can hold",
            received=str(value),
            fix=f"{what} = {what}[np.isfinite({what}).all(axis=-1)] drops such rows, np.nan_to_num replaces them",
        )
    )


def as_inputs(data: Any, variable: Variable, what: str = "x") -> Array:
    array = as_array(data, what)
    check_rows(array, variable.shape, what)
    check_finite(array, variable.dtype if variable.dtype in FLOATS else "float64", what)
    if variable.dtype in INTEGERS:
        _check_whole(array, variable.limit, what)
    return array


def _check_whole(array: Array, limit: int | None, what: str) -> None:
    """Whole numbers, from 0 to below the limit if there is one."""
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise InvalidValue(
            explain(
                f"{what} must hold whole numbers.", expected="e.g. word numbers", received=array[array != np.floor(array)][0]
            )
        )
    if limit is not None and (array.min() < 0 or array.max() >= limit):
        raise InvalidValue(
            explain(
                f"{what} holds numbers that the embedding has no row for.",
                expected=f"from 0 to {limit - 1}",
                received=f"from {int(array.min())} to {int(array.max())}",
                fix=f"af.Embedding({int(array.max()) + 1}, …)" if array.min() >= 0 else f"{what} - {what}.min()",
            )
        )


def as_targets(data: Any, shape: Shape, dtype: str, loss: Loss, head: Shape, what: str = "y") -> Array:
    """Targets that fit the loss and the head. Raises with the loss or the encoding that would."""
    array = as_array(data, what)
    if loss.target == CLASSES:
        return _as_classes(array, shape, head, what)
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        array = array[..., None]
    if array.shape[1:] != shape[1:] and len(array):
        _explain_targets(array, shape, loss, head, what)
    check_rows(array, shape, what)
    check_finite(array, dtype, what)
    if "categorical" in loss.name and array.min() < 0:
        raise InvalidValue(explain(f"{what} holds a negative probability.", expected="one-hot rows", received=array.min()))
    if loss.name == "binary_crossentropy" and (array.min() < 0 or array.max() > 1):
        raise InvalidValue(
            explain(
                f"{what} does not fit binary_crossentropy.",
                expected="values from 0 to 1",
                received=f"{array.min()} to {array.max()}",
            )
        )
    return array


def _explain_targets(array: Array, shape: Shape, loss: Loss, head: Shape, what: str) -> None:
    expected = f"shape (n, {', '.join(map(str, shape[1:]))})"
    labels = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    whole = array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if labels and whole and loss.name == "categorical_crossentropy":
        raise InvalidValue(
            explain(
                f"{what} holds class numbers, but categorical_crossentropy compares one-hot rows.",
                expected=expected,
                received=f"shape {written(array.shape)}",
                fix=f'loss="sparse_categorical_crossentropy", or one-hot: np.eye({head[-1]})[{what}.ravel()]',
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
                fix=f"a head with {array.shape[-1]} units",
            )
        )


def _as_classes(array: Array, shape: Shape, head: Shape, what: str) -> Array:
    classes = head[-1]
    assert not isinstance(classes, Dim)
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == len(head) and array.shape[1:] == head[1:]:
        raise InvalidValue(
            explain(
                f"{what} holds one-hot rows, but sparse_categorical_crossentropy takes class numbers.",
                expected="shape (n,)",
                received=f"shape {written(array.shape)}",
                fix=f'loss="categorical_crossentropy", or class numbers: {what}.argmax(axis=-1)',
            )
        )
    check_rows(array, shape, what)
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
        raise InvalidValue(
            explain(
                f"{what} holds class {value} in row {row}, but the head has {classes} outputs.",
                expected=f"classes from 0 to {classes - 1}",
                received=f"classes from {low} to {high}",
                fix=f"af.Dense({high + 1}, …) as the head" if low >= 0 else f"number the classes from 0: {what} - {low}",
            )
        )
    return array


def check_same_rows(x: Array, y: Array, x_name: str = "x", y_name: str = "y") -> None:
    if len(x) != len(y):
        raise InvalidValue(
            explain(
                f"{x_name} and {y_name} differ in their number of rows.",
                expected="one target for each sample",
                received=f"{len(x)} rows of {x_name}, {len(y)} of {y_name}",
                fix=f"n = min(len({x_name}), len({y_name}))",
            )
        )


def sample_weights(sample_weight: Any, class_weight: Mapping[int, float] | None, y: Array, n: int, dtype: str) -> Array | None:
    """One weight for each sample, from those given and from those of its class."""
    if sample_weight is None and class_weight is None:
        return None
    weights = np.ones(n, dtype)
    if sample_weight is not None:
        given = as_array(sample_weight, "sample_weight")
        if given.shape != (n,):
            raise InvalidValue(
                explain(
                    "sample_weight holds one weight for each sample.",
                    expected=f"shape ({n},)",
                    received=written(given.shape),
                )
            )
        check_finite(given, dtype, "sample_weight")
        if given.min() < 0:
            raise InvalidValue(explain("sample_weight must not be negative.", received=given.min()))
        weights *= given
    if class_weight is not None:
        labels = y if y.ndim == 1 else y[:, 0] if y.shape[1] == 1 else y.argmax(axis=-1)
        missing = sorted({int(label) for label in np.unique(labels)} - set(class_weight))
        if missing:
            raise InvalidValue(
                explain(
                    "class_weight leaves out classes that y holds.",
                    expected="a weight for every class, e.g. {0: 1.0, 1: 5.0}",
                    received=f"none for {missing}",
                )
            )
        for label, weight in class_weight.items():
            weights[labels == label] *= weight
    return weights
