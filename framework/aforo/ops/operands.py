"""What operations are given: tensors, numbers, arrays. What meets in one becomes of one dtype.

A number, and an array of floating-point numbers, takes the dtype of the tensors beside it, float32 where there are none.
Tensors of two dtypes become the wider one: bool, int32, int64, float32, float64. Functions of real numbers make float32 of
whole numbers and masks. A matrix product takes floats of one dtype: a second copy of a matrix is not made unasked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Tensor, apply, constant, current_layer
from ..specs import FLOATS, Dim, wider


def where_it_happened() -> str:
    layer = current_layer()
    return f" in layer {layer!r}" if layer else ""


def as_tensor(x: Any, dtype: str | None = None) -> Tensor:
    """x as a tensor: numbers and arrays become constants, of `dtype` unless they are arrays of whole numbers or masks."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, (bool, int, float)):
        return constant(x, dtype or ("bool" if isinstance(x, bool) else "float32"))
    if isinstance(x, Dim):
        x.no_value()
    try:
        array = np.asarray(x)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "fiub":
        raise InvalidType(
            explain(
                f"this cannot take part in a forward{where_it_happened()}.",
                expected="a tensor, a number, or an array of numbers",
                received=type(x).__name__,
            )
        )
    if array.dtype.kind == "f":
        kind = dtype if dtype in FLOATS else "float32"
    else:
        kind = stored_as(array.dtype)
        if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(kind).max:
            raise InvalidValue(explain(f"{kind} cannot hold these numbers.", received=int(array.max())))
    return constant(array if array.ndim else array.item(), kind)


def stored_as(dtype: Any) -> str:
    """The dtype of a tensor that holds an array of whole numbers or of truth."""
    small = dtype.itemsize < 4 or (dtype.itemsize == 4 and dtype.kind == "i")
    return "bool" if dtype.kind == "b" else "int32" if small else "int64"


def met(x: Any, dtype: str) -> str:
    """The dtype of a number that meets a tensor of this one: its own, unless it would not fit."""
    if isinstance(x, (float, np.floating)) and dtype not in FLOATS:
        return "float32"
    return "int32" if dtype == "bool" and isinstance(x, (int, np.integer)) and not isinstance(x, bool) else dtype


def real(x: Any) -> Tensor:
    """x as a tensor for a function of real numbers: whole numbers and masks become float32."""
    x = as_tensor(x)
    return x if x.dtype in FLOATS else apply("cast", x, dtype="float32")


def alike(values: Iterable[Any]) -> list[Tensor]:
    """All as tensors of one dtype."""
    values = list(values)
    known = [x.dtype for x in values if isinstance(x, Tensor)]
    tensors = [as_tensor(x, met(x, wider(*known)) if known else None) for x in values]
    if not tensors:
        return tensors
    dtype = wider(*(x.dtype for x in tensors))
    return [x if x.dtype == dtype else apply("cast", x, dtype=dtype) for x in tensors]
