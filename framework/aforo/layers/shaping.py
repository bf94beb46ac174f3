"""Layers that change the shape of what they are given, or put several things together. They have no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from math import prod
from typing import Any

from .. import ops
from ..errors import InvalidType, InvalidValue, explain
from ..graph import Tensor
from ..ops.elementwise import broadcast_shapes
from ..settings import takes
from ..specs import Dim, Shape, as_sample, written
from .layer import Layer


class Flatten(Layer):
    """(batch, d1, d2, …) to (batch, d1 · d2 · …)."""

    takes = "one"

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (x.shape[0], _values(self, x, x.shape[1:])))


class Reshape(Layer):
    """(batch, …) to (batch, *target_shape). One size may be -1: it follows from the others.

    Where target_shape begins with None, the time axis stays: (batch, time, …) to (batch, time, *target_shape[1:]).
    """

    takes = "one"

    def __init__(self, target_shape: Sequence[int | None], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(target_shape)
        as_sample([size for size in self.target_shape if size != -1], "target_shape")

    def forward(self, x: Tensor) -> Tensor:
        kept = x.shape[: 1 + (self.target_shape[:1] == (None,))]
        given = x.shape[len(kept) :]
        wanted = [size for size in self.target_shape if size is not None]
        sizes, values = [*wanted], _values(self, x, given)
        if sizes.count(-1) == 1:
            known = -prod(sizes)
            sizes[sizes.index(-1)] = values // known if known and values % known == 0 else 0
        if prod(sizes) != values or sizes.count(-1):
            raise InvalidValue(
                explain(
                    f"layer {self.name!r} cannot reshape what it is given.",
                    expected=f"samples of {abs(prod(wanted))} values for target_shape {self.target_shape}",
                    received=f"samples of shape {written(given)}, {values} values",
                    fix=f"af.Reshape([{'None, ' * (len(kept) - 1)}{values}])",
                )
            )
        return ops.reshape(x, (*kept, *sizes))


def _values(layer: Layer, x: Tensor, sizes: Shape) -> int:
    """How many values there are in axes of known length."""
    if any(isinstance(size, Dim) for size in sizes):
        frames = isinstance(x.shape[1], Dim) and x.ndim > 3 and not any(isinstance(size, Dim) for size in x.shape[2:])
        raise InvalidValue(
            explain(
                f"layer {layer.name!r} cannot put an axis of unknown length together with others.",
                expected="sizes known before the data",
                received=written(x.shape),
                fix=f"af.Reshape([None, {written(x.shape[2:])[1:-1].replace(', ', ' * ')}]), for each time step"
                if frames
                else "af.Input([length, d]) instead of af.Input([None, d])",
            )
        )
    return prod(int(size) for size in sizes)


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
        if not takes(function, 1):
            raise InvalidType(
                explain(
                    "the function of a Lambda takes one value: a tensor, or a list of tensors.",
                    expected="lambda x: …",
                    received=f"a function of {len(signature(function).parameters)}",
                    fix="af.Lambda(lambda xs: xs[0] * xs[1])",
                )
            )
        self.function = function

    def get_config(self) -> dict[str, Any]:
        """As of any layer; the function is there itself, no text stands for it."""
        return {**super().get_config(), "function": self.function}

    def forward(self, x: Any) -> Any:
        return self.function(x)
