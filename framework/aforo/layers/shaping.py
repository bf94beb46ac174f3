"""Layers that change the shape of what they are given, or put several things together. They have no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from .. import ops
from ..errors import InvalidType, InvalidValue, explain
from ..graph import Tensor
from ..ops.elementwise import broadcast_shapes
from ..specs import Dim, as_shape, written
from .layer import Layer


class Flatten(Layer):
    """(batch, d1, d2, …) to (batch, d1 · d2 · …)."""

    takes = "one"

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[1:]
        if any(isinstance(size, Dim) for size in sizes):
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} cannot flatten an axis of unknown length.",
                    expected="sizes known before the data",
                    received=written(x.shape),
                    fix="af.Input([length, d]) instead of af.Input([None, d])",
                )
            )
        return ops.reshape(x, (x.shape[0], prod(int(size) for size in sizes)))


class Reshape(Layer):
    """(batch, …) to (batch, *target_shape). One size may be -1: it follows from the others."""

    takes = "one"

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(target_shape)
        as_shape([size for size in self.target_shape if size != -1], "target_shape")

    def forward(self, x: Tensor) -> Tensor:
        sizes = list(self.target_shape)
        values = prod(int(size) for size in x.shape[1:])
        if sizes.count(-1) == 1:
            known = -prod(sizes)
            sizes[sizes.index(-1)] = values // known if known and values % known == 0 else 0
        if prod(sizes) != values or sizes.count(-1):
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} cannot reshape what it is given.",
                    expected=f"samples of {abs(prod(self.target_shape))} values for target_shape {self.target_shape}",
                    received=f"samples of shape {written(x.shape[1:])}, {values} values",
                    fix=f"af.Reshape([{values}])",
                )
            )
        return ops.reshape(x, (x.shape[0], *sizes))


class Concatenate(Layer):
    """Several tensors, one after the other along an axis; the last one unless given."""

    takes = "list"

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def forward(self, x: Any) -> Tensor:
        return ops.concatenate(x, self.axis)


class _Merge(Layer):
    takes = "list"
    combine: Callable[[Any, Any], Tensor]

    def forward(self, x: Any) -> Tensor:
        total: Tensor = x[0]
        for each in x[1:]:
            broadcast_shapes(type(self).__name__, total.shape, each.shape)
            total = type(self).combine(total, each)
        return total


class Add(_Merge):
    """The sum of several tensors, elementwise; shapes broadcast as in NumPy."""

    combine = staticmethod(ops.add)


class Multiply(_Merge):
    """The product of several tensors, elementwise; shapes broadcast as in NumPy."""

    combine = staticmethod(ops.multiply)


class Lambda(Layer):
    """A function of tensors as a layer: Lambda(lambda x: af.ops.sin(x)), or of a list of tensors."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(**options)
        if not callable(function):
            raise InvalidType(
                explain(
                    "Lambda takes a function.", expected="lambda x: …", received=repr(function), fix="af.Lambda(af.ops.sin)"
                )
            )
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)
