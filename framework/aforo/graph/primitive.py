"""Primitives: the closed set of operations everything is composed of, one record each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..specs import Layout, Shape, Size, count

if TYPE_CHECKING:
    from .tensor import Tensor

Spec = tuple[Shape, str]  # shape and dtype
Gradient = Callable[["Tensor", "Tensor"], "Sequence[Tensor | None]"]


@dataclass(frozen=True)
class Sample:
    """Inputs a primitive is tested on: shapes, the range their values are drawn from, dtypes, and attributes."""

    shapes: tuple[tuple[int, ...], ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    dtypes: tuple[str, ...] | None = None


def _one_per_value(node: Tensor) -> Size:
    return count(node.shape)


@dataclass(frozen=True)
class Primitive:
    """All there is to know about one operation.

    spec        (inputs, **attributes) -> (shape, dtype) of the output; raises when the inputs do not fit
    gradient    (output, gradient of the output) -> gradients of the inputs, as nodes; None: it has none
    stops       why there is no gradient
    overwrites  inputs whose memory the output may take, when both have the same layout
    view        (layout of the input, node) -> layout of the output, for operations that only look at memory otherwise;
                None from it means the input has to be copied first
    operands    the layouts a kernel takes: "any", "matrix" (the last two axes as BLAS takes them), "dense"
    flops       (node) -> floating-point operations
    """

    name: str
    spec: Callable[..., Spec]
    gradient: Gradient | None = None
    stops: str = ""
    overwrites: tuple[int, ...] = ()
    view: Callable[[Layout, Tensor], Layout | None] | None = None
    operands: str = "any"
    flops: Callable[[Tensor], Size] = _one_per_value
    samples: tuple[Sample, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_name, (self.name,)


PRIMITIVES: dict[str, Primitive] = {}


def primitive(name: str, **record: Any) -> Primitive:
    """Add a record to the table."""
    assert name not in PRIMITIVES, name
    PRIMITIVES[name] = Primitive(name, **record)
    return PRIMITIVES[name]


def _of_name(name: str) -> Primitive:
    return PRIMITIVES[name]
