"""Matrix products."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, primitive
from ..graph.primitive import Spec
from ..specs import FLOATS, Size, count, written
from .elementwise import broadcast_shapes, cast
from .operands import as_tensor, where_it_happened
from .shape import broadcast_to, reshape, transpose


def _spec(a: Tensor, b: Tensor) -> Spec:
    if a.dtype != b.dtype or a.dtype not in FLOATS:
        raise InvalidType(
            explain(
                f"a matrix product takes two floating-point tensors of one dtype{where_it_happened()}.",
                received=f"{a.dtype} and {b.dtype}",
                fix='af.ops.cast(x, "float32")',
            )
        )
    if a.shape[-1] != b.shape[-2]:
        raise InvalidValue(
            explain(
                f"these shapes do not meet in a matrix product{where_it_happened()}.",
                expected="the last axis of the left equal to the first of the right: (b, n) @ (n, m)",
                received=f"{written(a.shape)} @ {written(b.shape)}: {a.shape[-1]} meets {b.shape[-2]}",
                fix="a @ b.T" if a.shape[-1] == b.shape[-1] else "self.add_weight([input_shape[-1], units]) follows the data",
            )
        )
    return (*a.shape[:-1], b.shape[-1]), a.dtype


def swapped(x: Tensor) -> Tensor:
    """x with its last two axes exchanged."""
    return transpose(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])


def _gradient(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    a, b = y.inputs
    # The right one first: its gradient is usually that of a kernel, and once it is there `a` can go.
    right = apply("matmul", swapped(a), g)
    return apply("matmul", g, swapped(b)), right


def _flops(node: Tensor) -> Size:
    return 2 * count(node.shape) * node.inputs[0].shape[-1]


primitive(
    "matmul",
    spec=_spec,
    gradient=_gradient,
    operands="matrix",
    flops=_flops,
    samples=(Sample(((3, 4), (4, 2))), Sample(((1, 5), (5, 1))), Sample(((2, 3, 4), (2, 4, 5)))),
)


def matmul(a: Any, b: Any) -> Tensor:
    """The matrix product over the last axis of `a` and the last but one of `b`, in any rank, as NumPy's `@`."""
    a = _factor(a, b)
    b = _factor(b, a)
    if not a.shape or not b.shape:
        raise InvalidValue(
            explain(
                "a matrix product takes tensors with axes.",
                received=f"{written(a.shape)} @ {written(b.shape)}",
                fix="a * b",
            )
        )
    if a.ndim == 1 and b.ndim == 1:
        return reshape(matmul(reshape(a, (1, *a.shape)), reshape(b, (*b.shape, 1))), ())
    if a.ndim == 1:
        out = matmul(reshape(a, (1, *a.shape)), b)
        return reshape(out, out.shape[:-2] + out.shape[-1:])
    if b.ndim == 1:
        out = matmul(a, reshape(b, (*b.shape, 1)))
        return reshape(out, out.shape[:-1])
    if b.ndim == 2:
        if a.ndim == 2:
            return apply("matmul", a, b)
        # One large product instead of many small ones.
        rows = apply("matmul", reshape(a, (count(a.shape[:-1]), a.shape[-1])), b)
        return reshape(rows, (*a.shape[:-1], b.shape[-1]))
    lead = broadcast_shapes("a matrix product", a.shape[:-2], b.shape[:-2])
    return apply("matmul", broadcast_to(a, lead + a.shape[-2:]), broadcast_to(b, lead + b.shape[-2:]))


def _factor(x: Any, other: Any) -> Tensor:
    """x as floating-point numbers, of the other's dtype if it says nothing else."""
    dtype = other.dtype if isinstance(other, Tensor) and other.dtype in FLOATS else "float32"
    x = as_tensor(x, dtype)
    return x if x.dtype in FLOATS else cast(x, dtype)
