"""Primitives that pick rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, primitive
from ..graph.primitive import Spec
from ..settings import strict
from ..specs import INTEGERS, Dim, Size
from .operands import as_tensor


def _no_flops(node: Tensor) -> int:
    return 0


def _gather_spec(x: Tensor, rows: Tensor) -> Spec:
    if rows.dtype not in INTEGERS:
        raise InvalidType(explain("gather takes whole numbers as indices.", received=rows.dtype, fix='af.ops.cast(i, "int64")'))
    if not x.shape:
        raise InvalidValue(explain("gather takes rows of a tensor with axes.", received="shape ()"))
    return (*rows.shape, *x.shape[1:]), x.dtype


def _gather_gradient(y: Tensor, g: Tensor) -> tuple[Tensor, None]:
    x, rows = y.inputs
    return apply("scatter_add", g, rows, rows=x.shape[0]), None


primitive(
    "gather",
    spec=_gather_spec,
    gradient=_gather_gradient,
    operands="dense",
    flops=_no_flops,
    samples=(
        Sample(((5, 3), (4,)), dtypes=("float", "int64"), low=0, high=5),
        Sample(((4, 2), (2, 3)), dtypes=("float", "int64"), low=0, high=4),
    ),
)


def _scatter_spec(g: Tensor, indices: Tensor, *, rows: Size) -> Spec:
    return (rows, *g.shape[indices.ndim :]), g.dtype


primitive(
    "scatter_add",
    spec=_scatter_spec,
    gradient=lambda y, g: (apply("gather", g, y.inputs[1]), None),
    operands="dense",
    samples=(
        Sample(((4, 3), (4,)), {"rows": 5}, dtypes=("float", "int64"), low=0, high=5),
        Sample(((2, 3, 2), (2, 3)), {"rows": 4}, dtypes=("float", "int64"), low=0, high=4),
    ),
)


@strict
def gather(x: Any, indices: Any) -> Tensor:
    """Rows of x: shape (*indices.shape, *x.shape[1:]). Indices are whole numbers from 0.

    Raises for indices outside x when their values are known; a model checks those it is fed.
    """
    x, rows = as_tensor(x), as_tensor(indices, "int64" if hasattr(indices, "__index__") else None)
    size = x.shape[0] if x.shape else 1
    known = not rows.symbolic and not any(isinstance(n, Dim) for n in (size, *rows.shape))
    if known and rows.dtype in INTEGERS:
        values = np.asarray(indices) if not isinstance(indices, Tensor) else Tensor.evaluation.numpy(rows)
        if values.min() < 0 or values.max() >= size:
            raise InvalidValue(
                explain(
                    "gather is asked for rows that are not there.",
                    expected=f"indices from 0 to {size - 1}",
                    received=f"{values.min()} to {values.max()}",
                )
            )
    return apply("gather", x, rows)
