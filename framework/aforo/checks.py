"""Data, checked before anything changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InvalidType, InvalidValue, explain
from .graph import Variable
from .specs import FLOATS, INTEGERS, TIME, Shape, fits, written

Array = np.ndarray[Any, Any]


def as_array(data: Any, what: str) -> Array:
    """Arrays, lists, and tables that offer `.to_numpy()`, as an array of numbers."""
    if data is None:
        raise InvalidType(
            explain(
                f"{what} is None.",
                expected="an array or a list of numbers, one row for each sample",
                received="None",
                fix=f"print({in_code(what)}) before the call: the function that makes it may have forgotten to return it",
            )
        )
    if isinstance(data, (Mapping, Iterator)):
        name = in_code(what)
        kind, fix = "a generator", f"{name} = np.array(list({name}))"
        if isinstance(data, Mapping):
            kind, fix = f"a dict of {', '.join(map(str, data))}", f"np.stack(list({name}.values()), axis=-1)"
        raise InvalidType(explain(f"{what} is no array.", expected="numbers, one row for each sample", received=kind, fix=fix))
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
    if array.dtype.kind in "fiub":
        return array
    odd = [value for value in np.asarray(data, object).flat if not isinstance(value, _NUMBERS)]
    if odd and isinstance(odd[0], np.ndarray):
        raise InvalidValue(
            explain(
                f"the rows of {what} differ in shape.",
                expected="rows of one shape",
                received=f"an array of arrays, the first {written(odd[0].shape)}",
                fix="pad them, or cut them, to one length",
            )
        )
    if odd or array.dtype != object:
        raise InvalidType(_no_numbers(odd, array.dtype, what))
    return array.astype(float)


_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


def _no_numbers(found: Sequence[Any], dtype: Any, what: str) -> str:
    """The text of the error for data that holds something else than numbers."""
    name, odd = in_code(what), next(iter(found), None)
    if isinstance(odd, (str, bytes)):
        csv = "af.datasets.load_csv(path, targets=[…], one_hot=True)"
        fix = f"{csv} maps text labels to numbers, and so does aforo.sklearn.Classifier"
        if all(map(_is_number, found)):
            fix = f"np.array({name}, dtype=float)"
        return explain(f"{what} holds text, not numbers.", expected="numbers", received=repr(odd), fix=fix)
    fix = f"{name} = np.array([[*row] for row in {name}], dtype=float)"
    if odd is None:
        fix = f"np.array({name}, dtype=float) makes nan of None"
    elif dtype.kind == "c" or isinstance(odd, complex):
        fix = f"{name}.real, or np.concatenate([{name}.real, {name}.imag], axis=-1)"
    elif dtype.kind in "Mm":
        fix = f"{name}.astype(int) counts units of {dtype}"
    received = f"an array of {dtype}" if dtype.kind != "O" else repr(odd)
    return explain(f"{what} must hold real numbers.", expected="numbers", received=received, fix=fix)


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def in_code(what: str) -> str:
    """The name of data as a line of code would have it."""
    return what.replace("validation x", "x_val").replace("validation y", "y_val")


def _ragged(data: Any) -> str:
    """Where the rows of a nested list first differ in length."""
    if not isinstance(data, (list, tuple)):
        return ""
    lengths = [len(row) if hasattr(row, "__len__") and not isinstance(row, str) else None for row in data]
    for i, length in enumerate(lengths):
        if length != lengths[0]:
            return f"row 0 has {lengths[0]} values, row {i} has {length}"
    return ""


def check_rows(array: Array, shape: Shape, what: str, other: str) -> None:
    """The shape of a batch: any number of rows, each of the sizes after the first of `shape`. other: what would fit instead."""
    name = in_code(what)
    expected = "(n, " + ", ".join(map(str, shape[1:])) + ")" if len(shape) > 1 else "(n,)"
    if array.ndim == len(shape) and fits(array.shape[1:], shape[1:]) and len(array):
        if not array.size:
            raise InvalidValue(
                explain(
                    f"{what} holds sequences of length 0.",
                    expected=f"shape {expected}, time at least 1",
                    received=written(array.shape),
                    fix=f"print({name}.shape) where it is made: a window may be longer than the data",
                )
            )
        return
    if array.ndim and not len(array):
        raise InvalidValue(
            explain(
                f"{what} is empty.",
                expected=f"shape {expected}, n at least 1",
                received=written(array.shape),
                fix=f"print(len({name})) where it is made: a filter may have dropped every row",
            )
        )
    fix = other
    if fits(array.shape, shape[1:]):
        fix = f"np.asarray({name})[None] adds a batch axis to one sample"
    elif array.ndim == 1 and len(shape) == 2 and shape[1] == 1:
        fix = f"np.asarray({name})[:, None] makes it one column"
    elif array.ndim == len(shape) == 2 and array.shape[0] == shape[1]:
        fix = f"{name}.T, if its rows and columns are exchanged"
    raise InvalidValue(
        explain(f"{what} does not fit the model.", expected=f"shape {expected}", received=written(array.shape), fix=fix)
    )


def check_finite(array: Array, dtype: str, what: str) -> None:
    """Every value is a number that the dtype can hold. Looks at the extremes only, so it allocates nothing."""
    if array.dtype.kind != "f" or not array.size:
        return
    limit = float(np.finfo(np.dtype(dtype)).max)
    low, high = float(array.min()), float(array.max())
    if -limit <= low and high <= limit:
        return
    row = next(i for i in range(len(array)) if not (np.abs(array[i]) <= limit).all())
    bad = np.atleast_1d(array[row])
    value = bad[~(np.abs(bad) <= limit)][0]
    name = in_code(what)
    raise InvalidValue(
        explain(
            f"{what} holds {value} in row {row}.",
            expected=f"finite numbers that {dtype} can hold",
            received=str(value),
            fix=_without(name, float(value), dtype),
        )
    )


def _without(name: str, value: float, dtype: str) -> str:
    """What to do about rows that hold a number that the dtype cannot hold; what is dropped is dropped of all data."""
    if np.isfinite(value):
        return f'{name} / {abs(value):g} makes it small enough; or a model of dtype="float64"' * (dtype == "float32")
    rest = {"x": ", and so for y", "y": ", and so for x", "x_val": ", and so for y_val", "y_val": ", and so for x_val"}
    keep = f"keep = np.isfinite(np.asarray({name})).reshape(len({name}), -1).all(axis=1)"
    zeros = f"np.nan_to_num({name}) makes 0 of nan; " * bool(np.isnan(value))
    return f"{zeros}{keep}; {name} = np.asarray({name})[keep]{rest.get(name, '')}"


def as_inputs(data: Any, variable: Variable, what: str = "x") -> Array:
    array = as_array(data, what)
    sizes = ", ".join(map(str, array.shape[1:]))
    other = f"input_shape=[{sizes}] in the first layer, or af.Input([{sizes}]), for such samples"
    if not sizes:
        one = written((1, *(10 if size == TIME else size for size in variable.shape[1:])))
        rows = f"np.asarray({in_code(what)}).reshape(-1, {', '.join(str(n) for n in variable.shape[1:])})"
        other = f"np.full({one}, {in_code(what)})" if not array.ndim else f"{rows}, if these are rows one after the other"
        if array.ndim and (TIME in variable.shape or array.size % math.prod(map(int, variable.shape[1:]))):
            other = f"{in_code(what)}[:, None] makes samples of one number, for a model of input_shape=[1]"
    check_rows(array, variable.shape, what, other)
    check_finite(array, variable.dtype if variable.dtype in FLOATS else "float64", what)
    if variable.dtype in INTEGERS:
        _check_whole(array, variable.limit, variable.dtype, what)
        return as_whole(array, variable.dtype)
    return _as_bool(array, what) if variable.dtype == "bool" else array


def _as_bool(array: Array, what: str) -> Array:
    """What is true and what is not, also from numbers that are 0 or 1."""
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise InvalidValue(
            explain(
                f"{what} must hold True and False, or 1 and 0.",
                received=array[~np.isin(array, (0, 1))][0],
                fix=f"{in_code(what)} > 0",
            )
        )
    return array.astype(bool, copy=False)


def as_whole(array: Array, dtype: str) -> Array:
    """Whole numbers that came as floats in the dtype of their slot. Others need no copy: the slot takes them as they are."""
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _check_whole(array: Array, limit: int | None, dtype: str, what: str) -> None:
    """Whole numbers that the dtype holds, from 0 to below the limit if there is one."""
    name = in_code(what)
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise InvalidValue(
            explain(
                f"{what} must hold whole numbers.",
                expected="e.g. word numbers",
                received=array[array != np.floor(array)][0],
                fix=f"np.round({name}).astype(int)",
            )
        )
    held = np.iinfo(np.dtype(dtype))
    if array.size and (int(array.min()) < held.min or int(array.max()) > held.max):
        raise InvalidValue(
            explain(
                f"{what} holds numbers that {dtype} cannot.",
                expected=f"from {held.min} to {held.max}",
                received=f"from {int(array.min())} to {int(array.max())}",
                fix='af.Input([…], dtype="int64")'
                if dtype == "int32"
                else f"np.asarray({name}, float), for an input of floats",
            )
        )
    if limit is not None and (array.min() < 0 or array.max() >= limit):
        raise InvalidValue(
            explain(
                f"{what} holds numbers that the embedding has no row for.",
                expected=f"from 0 to {limit - 1}",
                received=f"from {int(array.min())} to {int(array.max())}",
                fix=f"af.Embedding({int(array.max()) + 1}, …)" if array.min() >= 0 else f"{name} + {-int(array.min())}",
            )
        )


def sequence_length(columns: Sequence[tuple[Variable, Array]], steps: int | None) -> int:
    """How many time steps the sequences have, all the same number; 1 where nothing has a time axis."""
    lengths = [
        (variable.name, array.shape[variable.shape.index(TIME)]) for variable, array in columns if TIME in variable.shape
    ]
    if steps is not None:
        lengths.insert(0, ("the model", steps))
    for name, length in lengths:
        if length != lengths[0][1]:
            raise InvalidValue(
                explain(
                    "the sequences differ in their number of time steps.",
                    expected=f"{lengths[0][1]}, as in {lengths[0][0]}",
                    received=f"{length} in {name}",
                    fix="cut them, or pad them and give the layers a mask: layer(x, mask=mask)",
                )
            )
    return lengths[0][1] if lengths else 1


def check_same_rows(x: Array, y: Array, x_name: str = "x", y_name: str = "y") -> None:
    if x.shape[0] != (y.shape or (0,))[0]:
        x_name, y_name = in_code(x_name), in_code(y_name)
        raise InvalidValue(
            explain(
                f"{x_name} and {y_name} differ in their number of rows.",
                expected="as many rows in each",
                received=f"{len(x)} rows of {x_name}, {len(y) if y.shape else 'a single number'} of {y_name}",
                fix=f"drop the same rows of both: {x_name}, {y_name} = {x_name}[keep], {y_name}[keep]",
            )
        )
