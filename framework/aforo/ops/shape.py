"""Primitives that look at memory in another way, and those that put pieces together.

A view costs no time and no bytes: the plan gives it the memory of its input.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, current_layer, primitive
from ..graph.primitive import Spec
from ..settings import strict
from ..specs import TIME, Dim, Layout, Shape, Size, count, strides, written
from .operands import alike, as_tensor


def _no_flops(node: Tensor) -> int:
    return 0


# --- identity ---------------------------------------------------------------------------------------------------------


def _identity_spec(x: Tensor) -> Spec:
    return x.shape, x.dtype


def _second_aside(x: Tensor, second: Tensor) -> Spec:
    return x.shape, x.dtype


def _identity_view(layout: Layout, node: Tensor) -> Layout:
    return layout


primitive(
    "identity",
    spec=_identity_spec,
    gradient=lambda y, g: (g,),
    view=_identity_view,
    flops=_no_flops,
    samples=(Sample(((3, 4),)),),
)
primitive("copy", spec=_identity_spec, gradient=lambda y, g: (g,), flops=_no_flops, samples=(Sample(((3, 4),)),))
primitive(
    "stop_gradient",
    spec=_identity_spec,
    stops="it was asked to",
    view=_identity_view,
    flops=_no_flops,
    samples=(Sample(((3, 4),)),),
)


def _passing_gradient(y: Tensor, g: Tensor) -> tuple[Tensor, None]:
    return g * broadcast_to(y.inputs[1], g.shape), None


primitive(
    "passing",  # x, whose derivatives pass if the second input, one mask for all of it, is true
    spec=_second_aside,
    gradient=_passing_gradient,
    view=_identity_view,
    flops=_no_flops,
    samples=(Sample(((3, 4), ()), dtypes=("float", "true")),),  # with false, the gradient is not that of the function
)
primitive(
    "after",  # x, for readers that wait until the second input has been computed
    spec=_second_aside,
    stops="it orders what a finished graph does",
    view=_identity_view,
    flops=_no_flops,
    samples=(Sample(((3, 4), (2,))),),
)


def stop_gradient(x: Any) -> Tensor:
    """x, as a constant for derivatives."""
    return apply("stop_gradient", as_tensor(x))


# --- reshape ----------------------------------------------------------------------------------------------------------


def _reshape_spec(x: Tensor, *, shape: Shape) -> Spec:
    if count(shape) != count(x.shape):
        raise InvalidValue(
            explain(
                f"a tensor of shape {written(x.shape)} cannot be reshaped to {written(shape)}: "
                f"it holds {count(x.shape)} values, not {count(shape)}.",
                fix="use -1 for the one size that follows from the others",
            )
        )
    return shape, x.dtype


def _reshape_view(layout: Layout, node: Tensor) -> Layout | None:
    shape = node.shape
    if tuple(n for n in shape if n != 1) == tuple(n for n in layout.shape if n != 1):
        steps = iter(layout.strides_matter)
        return Layout(layout.offset, shape, tuple(0 if n == 1 else next(steps) for n in shape))
    if layout.strides_matter == Layout.dense(layout.shape).strides_matter:
        return Layout(layout.offset, shape, strides(shape))
    return None


primitive(
    "reshape",
    spec=_reshape_spec,
    gradient=lambda y, g: (reshape(g, y.inputs[0].shape),),
    view=_reshape_view,
    flops=_no_flops,
    samples=(Sample(((3, 4),), {"shape": (2, 6)}), Sample(((3, 4),), {"shape": (3, 1, 4)})),
)


def reshape(x: Any, shape: Sequence[Size] | int) -> Tensor:
    """x with another shape and the same values in the same order. One size may be -1: it follows from the others."""
    x = as_tensor(x)
    sizes: list[Size] = [shape] if isinstance(shape, (int, Dim)) else list(shape)
    if sizes.count(-1) > 1:
        raise InvalidValue(explain("only one size of a reshape may be -1.", received=tuple(sizes)))
    if -1 in sizes:
        known = count(n for n in sizes if n != -1)
        total = count(x.shape)
        exact = isinstance(known, Dim) or isinstance(total, Dim) or (known > 0 and total % known == 0)
        try:
            sizes[sizes.index(-1)] = total // known if exact else 0
        except InvalidValue:
            exact = False
        if not exact:
            raise InvalidValue(
                explain(
                    f"a tensor of shape {written(x.shape)} cannot be reshaped to {tuple(shape)}: "  # type: ignore[arg-type]
                    f"{total} values do not divide into rows of {known}."
                )
            )
    if tuple(sizes) == x.shape:
        return as_tensor(x).used()
    if x.folds("reshape"):
        return reshape(x.inputs[0], sizes)
    return apply("reshape", x, shape=tuple(sizes))


# --- transpose --------------------------------------------------------------------------------------------------------


def _transpose_spec(x: Tensor, *, axes: tuple[int, ...]) -> Spec:
    return tuple(x.shape[axis] for axis in axes), x.dtype


def _transpose_view(layout: Layout, node: Tensor) -> Layout:
    axes = node.attributes["axes"]
    return Layout(layout.offset, node.shape, tuple(layout.strides[axis] for axis in axes))


def _transpose_gradient(y: Tensor, g: Tensor) -> tuple[Tensor]:
    axes = y.attributes["axes"]
    return (transpose(g, [axes.index(i) for i in range(len(axes))]),)


primitive(
    "transpose",
    spec=_transpose_spec,
    gradient=_transpose_gradient,
    view=_transpose_view,
    flops=_no_flops,
    samples=(Sample(((3, 4),), {"axes": (1, 0)}), Sample(((2, 3, 4),), {"axes": (1, 2, 0)})),
)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """x with its axes in another order; reversed if none is given."""
    x = as_tensor(x)
    order = tuple(reversed(range(x.ndim))) if axes is None else tuple(as_axis(x, axis) for axis in axes)
    if sorted(order) != list(range(x.ndim)):
        raise InvalidValue(explain("transpose takes each axis once.", expected=f"{x.ndim} axes", received=axes))
    if order == tuple(range(x.ndim)):
        return as_tensor(x).used()
    if x.folds("transpose"):
        inner = x.attributes["axes"]
        return transpose(x.inputs[0], [inner[axis] for axis in order])
    return apply("transpose", x, axes=order)


def as_axis(x: Tensor, axis: Any) -> int:
    """An axis counted from the front. Raises if x does not have it."""
    return axis_of(x.ndim, axis, x.shape)


def axis_of(count: int, axis: Any, shape: Shape) -> int:
    """One of so many axes, counted from the front. shape: of what it is asked."""
    if not hasattr(axis, "__index__"):
        raise InvalidType(explain("an axis must be a whole number.", received=axis))
    if not -count <= int(axis) < count:
        raise InvalidValue(
            explain(
                f"axis {axis} does not exist.",
                expected=f"-{count} to {count - 1}" if count else "none",
                received=f"shape {written(shape)}",
            )
        )
    return int(axis) % count


# --- broadcast --------------------------------------------------------------------------------------------------------


def _broadcast_spec(x: Tensor, *, shape: Shape) -> Spec:
    aligned = (1,) * (len(shape) - x.ndim) + x.shape
    if len(aligned) != len(shape) or any(m not in (1, n) for m, n in zip(aligned, shape, strict=True)):
        raise InvalidValue(explain(f"a tensor of shape {written(x.shape)} does not broadcast to {written(shape)}."))
    return shape, x.dtype


def _broadcast_view(layout: Layout, node: Tensor) -> Layout:
    new = len(node.shape) - len(layout.shape)
    steps = tuple(0 if m != n else step for m, n, step in zip(layout.shape, node.shape[new:], layout.strides, strict=True))
    return Layout(layout.offset, node.shape, (0,) * new + steps)


def _broadcast_gradient(y: Tensor, g: Tensor) -> tuple[Tensor]:
    from .reduce import sum  # a broadcast and a sum are each other's gradients

    x = y.inputs[0]
    new = y.ndim - x.ndim
    axes = [i for i in range(y.ndim) if i < new or x.shape[i - new] != y.shape[i]]
    return (reshape(sum(g, axes), x.shape),)


primitive(
    "broadcast",
    spec=_broadcast_spec,
    gradient=_broadcast_gradient,
    view=_broadcast_view,
    flops=_no_flops,
    samples=(
        Sample(((4,),), {"shape": (3, 4)}),
        Sample(((3, 1),), {"shape": (3, 4)}),
        Sample(((),), {"shape": (2, 3)}),
        Sample(((1, 2),), {"shape": (3, 4, 2)}),
    ),
)


def broadcast_to(x: Any, shape: Sequence[Size]) -> Tensor:
    """x repeated to a larger shape, by NumPy's rule, without a byte of memory."""
    return repeated(as_tensor(x), tuple(shape)).used()


def repeated(x: Tensor, shape: Shape) -> Tensor:
    """x, or x repeated to the shape: what goes into another operation."""
    return x if x.shape == shape else apply("broadcast", x, shape=shape)


# --- slices -----------------------------------------------------------------------------------------------------------


def _slice_shape(start: Shape, stop: Shape, step: tuple[int, ...]) -> Shape:
    return tuple((n - m + (s - 1)) // s for m, n, s in zip(start, stop, step, strict=True))


def _slice_spec(x: Tensor, *, start: Shape, stop: Shape, step: tuple[int, ...]) -> Spec:
    return _slice_shape(start, stop, step), x.dtype


def _slice_view(layout: Layout, node: Tensor) -> Layout:
    start, step = node.attributes["start"], node.attributes["step"]
    offset = layout.offset
    for first, stride in zip(start, layout.strides, strict=True):
        offset = offset + first * stride
    return Layout(offset, node.shape, tuple(s * stride for s, stride in zip(step, layout.strides, strict=True)))


def _slice_gradient(y: Tensor, g: Tensor) -> tuple[Tensor]:
    return (apply("pad", g, before=y.attributes["start"], step=y.attributes["step"], shape=y.inputs[0].shape),)


primitive(
    "slice",
    spec=_slice_spec,
    gradient=_slice_gradient,
    view=_slice_view,
    flops=_no_flops,
    samples=(
        Sample(((3, 4),), {"start": (0, 1), "stop": (3, 3), "step": (1, 1)}),
        Sample(((5, 4),), {"start": (1, 0), "stop": (5, 4), "step": (2, 3)}),
    ),
)


def _pad_spec(x: Tensor, *, before: Shape, step: tuple[int, ...], shape: Shape) -> Spec:
    return shape, x.dtype


def _pad_gradient(y: Tensor, g: Tensor) -> tuple[Tensor]:
    start, step = y.attributes["before"], y.attributes["step"]
    stop = tuple(m + (n - 1) * s + 1 for m, n, s in zip(start, y.inputs[0].shape, step, strict=True))
    return (apply("slice", g, start=start, stop=stop, step=step),)


primitive(
    "pad",
    spec=_pad_spec,
    gradient=_pad_gradient,
    flops=_no_flops,
    samples=(
        Sample(((3, 2),), {"before": (0, 1), "step": (1, 1), "shape": (3, 4)}),
        Sample(((2, 2),), {"before": (1, 0), "step": (2, 3), "shape": (5, 4)}),
    ),
)


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key] for whole numbers, slices with positive steps, None and `...`, as in NumPy."""
    keys = list(key) if isinstance(key, tuple) else [key]
    taken = builtins.sum(k is not None and k is not Ellipsis for k in keys)
    if taken > x.ndim:
        raise InvalidValue(explain(f"{taken} indices for a tensor of shape {written(x.shape)}."))
    if not builtins.any(k is Ellipsis for k in keys):  # not `in`: an array among them would be compared
        keys.append(Ellipsis)
    where = next(i for i, k in enumerate(keys) if k is Ellipsis)
    keys[where : where + 1] = [slice(None)] * (x.ndim - taken)

    start: list[Size] = []
    stop: list[Size] = []
    step: list[int] = []
    shape: list[Size] = []
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        size = x.shape[len(start)]
        first, last, by = _bounds(k, size)
        start.append(first)
        stop.append(last)
        step.append(by)
        if isinstance(k, slice):
            shape.append((last - first + (by - 1)) // by)
    full = all(m == 0 and n == size and s == 1 for m, n, s, size in zip(start, stop, step, x.shape, strict=True))
    part = x if full else apply("slice", x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    return reshape(part, tuple(shape))


def _bounds(key: int | slice | EllipsisType, size: Size) -> tuple[Size, Size, int]:
    if isinstance(key, slice):
        by = 1 if key.step is None else int(key.step)
        if by < 1:
            raise InvalidValue(explain("a slice of a tensor takes a positive step.", received=key))
        first = _position(0 if key.start is None else key.start, size)
        last = size if key.stop is None else _position(key.stop, size)
        if isinstance(first, int) and isinstance(last, int) and first >= last:
            raise InvalidValue(explain(f"this slice of an axis of size {size} is empty.", received=key))
        return first, last, by
    try:
        index = operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidType(
            explain(
                "a tensor is indexed by whole numbers, slices, None and `...`.",
                received=type(key).__name__,
                fix="af.ops.where(mask, x, 0.0), which keeps the shape"
                if str(getattr(key, "dtype", "")) == "bool"
                else "af.ops.gather(x, indices) for an array of indices",
            )
        ) from None
    position = _position(key, size)
    if isinstance(size, int) and not -size <= index < size:
        raise InvalidValue(explain(f"index {key} is outside an axis of size {size}."))
    return position, position + 1, 1


def _position(index: Any, size: Size) -> Size:
    """A position counted from the front; slices that reach beyond the end stop there, as in NumPy."""
    if isinstance(index, Dim):
        return index
    number: int = index.__index__()
    if number < 0:
        found = size + number
        return max(found, 0) if isinstance(found, int) else found
    return min(number, size) if isinstance(size, int) else number


# --- concatenate ------------------------------------------------------------------------------------------------------


_TIMED = "af.Input([None, d]) has a time axis of any length, as an af.Feedback has"


def _concatenate_spec(*tensors: Tensor, axis: int) -> Spec:
    first = tensors[0]
    total: Size = 0
    for tensor in tensors:
        rest = [n for i, n in enumerate(tensor.shape) if i != axis]
        if tensor.dtype != first.dtype or rest != [n for i, n in enumerate(first.shape) if i != axis]:
            layer = f" in layer {current_layer()!r}" if current_layer() else ""
            raise InvalidValue(
                explain(
                    f"these tensors cannot be concatenated along axis {axis}{layer}.",
                    expected="one dtype, and equal sizes on every other axis",
                    received=", ".join(f"{written(t.shape)} {t.dtype}" for t in tensors),
                    fix=_TIMED if len({TIME in t.shape for t in tensors}) > 1 else None,
                )
            )
        total = total + tensor.shape[axis]
    return (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype


def _concatenate_gradient(y: Tensor, g: Tensor) -> list[Tensor]:
    axis = y.attributes["axis"]
    pieces = []
    start: Size = 0
    for x in y.inputs:
        key = [slice(None)] * axis + [slice(start, start + x.shape[axis])]
        pieces.append(getitem(g, tuple(key)))
        start = start + x.shape[axis]
    return pieces


primitive(
    "concatenate",
    spec=_concatenate_spec,
    gradient=_concatenate_gradient,
    flops=_no_flops,
    samples=(Sample(((3, 2), (3, 4)), {"axis": 1}), Sample(((1, 2), (3, 2), (2, 2)), {"axis": 0})),
)


@strict
def concatenate(tensors: Sequence[Any], axis: int = -1) -> Tensor:
    """Tensors one after the other along an axis they have in common; of the wider dtype, if they have two."""
    tensors = alike(tensors)
    if not tensors:
        raise InvalidValue(explain("there is nothing to concatenate."))
    return tensors[0].used() if len(tensors) == 1 else apply("concatenate", *tensors, axis=as_axis(tensors[0], axis))
