"""Reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, constant, primitive
from ..graph.primitive import Spec
from ..settings import strict
from ..specs import FLOATS, Shape, count
from .elementwise import cast, equal, scalar_source
from .operands import as_tensor, real
from .shape import as_axis, broadcast_to, reshape, transpose

Axes = int | Sequence[int] | None


def _reduced_spec(x: Tensor, *, axes: tuple[int, ...]) -> Spec:
    if x.dtype not in FLOATS:
        raise InvalidType(explain("reductions take floating-point tensors.", received=x.dtype, fix='af.ops.cast(x, "float32")'))
    return tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype


def _kept(x: Tensor, axes: Sequence[int]) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def _restored(g: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """A reduced tensor repeated along the axes it lost."""
    return broadcast_to(g if not g.shape else reshape(g, _kept(x, axes)), x.shape)


def _input_size(node: Tensor) -> Any:
    return count(node.inputs[0].shape)


_SAMPLES = (
    Sample(((3, 4),), {"axes": (0,)}),
    Sample(((3, 4),), {"axes": (1,)}),
    Sample(((2, 3, 4),), {"axes": (0, 2)}),
    Sample(((3, 4),), {"axes": (0, 1)}),
)

primitive(
    "sum",
    spec=_reduced_spec,
    gradient=lambda y, g: (_restored(g, y.inputs[0], y.attributes["axes"]),),
    flops=_input_size,
    samples=_SAMPLES,
)


def _amax_gradient(y: Tensor, g: Tensor) -> tuple[Tensor]:
    x, axes = y.inputs[0], y.attributes["axes"]
    largest = equal(x, _restored(y, x, axes))
    ties = _restored(sum(cast(largest, x.dtype), axes), x, axes)
    return (_restored(g, x, axes) / ties * largest,)


primitive("amax", spec=_reduced_spec, gradient=_amax_gradient, flops=_input_size, samples=_SAMPLES)


def _argmax_spec(x: Tensor) -> Spec:
    return x.shape[:-1], "int64"


primitive(
    "argmax",
    spec=_argmax_spec,
    stops="it gives a position, not a value",
    operands="dense",  # NumPy would copy any other layout
    flops=_input_size,
    samples=(Sample(((3, 4),)), Sample(((2, 3, 4),))),
)


def _axes(x: Tensor, axis: Axes) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    chosen = [axis] if hasattr(axis, "__index__") else list(axis)
    axes = tuple(sorted(as_axis(x, a) for a in chosen))
    if len(set(axes)) != len(axes):
        raise InvalidValue(explain("each axis can be reduced once.", received=axis))
    return axes


def _reduce(name: str, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if all(x.shape[i] == 1 for i in axes):
        out = reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))
    else:
        out = apply(name, x, axes=axes)
    return reshape(out, _kept(x, axes)) if keepdims else out


def _counted(x: Any) -> Tensor:
    """x, with 1.0 and 0.0 for what is true and what is not."""
    x = as_tensor(x)
    return real(x) if x.dtype == "bool" else x


def _factored(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """A product as a tensor and a number, if it is one."""
    for value, factor in (x.inputs, x.inputs[::-1]):
        number = scalar_source(factor)
        if number is not None and value.dtype in FLOATS and number.dtype == value.dtype:
            return value, number
    return None


@strict
def sum(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over one axis, several, or all of them; of a mask, how often it is true, as float32."""
    x = _counted(x)
    axes = _axes(x, axis)
    factors: list[Tensor] = []
    while len(axes) == x.ndim and x.folds("multiply"):  # a common factor leaves the sum: it is then applied to one value
        found = _factored(x)
        if found is None:
            break
        x, factor = found
        factors.append(factor)
    if factors:
        out = sum(x, axes, keepdims)
        for factor in reversed(factors):
            out = out * factor
        return out
    if x.folds("sum") and axes:
        inner = x.attributes["axes"]
        outer = [i for i in range(x.inputs[0].ndim) if i not in inner]
        merged = sorted([*inner, *(outer[i] for i in axes)])
        out = sum(x.inputs[0], merged)
        return reshape(out, _kept(x, axes)) if keepdims else out
    return _reduce("sum", x, axes, keepdims)


@strict
def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The mean over one axis, several, or all of them. The count may be symbolic: it is data, not structure."""
    x = real(x)
    number = count(x.shape[i] for i in _axes(x, axis))
    return sum(x, axis, keepdims) * constant(1.0, x.dtype, per=number)


@strict
def max(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The largest value over one axis, several, or all of them; of a mask, 1.0 if any is true. Ties share the gradient."""
    x = _counted(x)
    return _reduce("amax", x, _axes(x, axis), keepdims)


@strict
def min(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The smallest value over one axis, several, or all of them. Ties share the gradient."""
    return -max(-_counted(x), axis, keepdims)


@strict
def argmax(x: Any, axis: int = -1) -> Tensor:
    """The position of the (first) largest value along an axis, as int64."""
    x = _counted(x)
    last = as_axis(x, axis)
    return apply("argmax", transpose(x, [*(i for i in range(x.ndim) if i != last), last]))
