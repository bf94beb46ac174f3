"""Choosing between values."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidType, InvalidValue, explain
from ..graph import Sample, Tensor, apply, primitive
from ..graph.primitive import Spec
from .elementwise import broadcast_shapes, maximum, multiply, promoted
from .operands import as_tensor
from .shape import broadcast_to


def _where_spec(mask: Tensor, a: Tensor, b: Tensor) -> Spec:
    if mask.dtype != "bool":
        raise InvalidType(
            explain("where chooses by a mask.", expected="bool", received=mask.dtype, fix="af.ops.where(x > 0, a, b)")
        )
    if not mask.shape == a.shape == b.shape or a.dtype != b.dtype:
        raise InvalidValue(explain("where takes tensors of one shape and dtype.", received=f"{mask!r}, {a!r} and {b!r}"))
    return a.shape, a.dtype


def _where_gradient(y: Tensor, g: Tensor) -> tuple[None, Tensor, Tensor]:
    mask = y.inputs[0]
    return None, g * mask, g * apply("logical_not", mask)


primitive(
    "where",
    spec=_where_spec,
    gradient=_where_gradient,
    samples=(Sample(((3, 4), (3, 4), (3, 4)), dtypes=("bool", "float", "float")),),
)


def _mask_spec(mask: Tensor) -> Spec:
    if mask.dtype != "bool":
        raise InvalidType(explain("logical_not takes a mask.", expected="bool", received=mask.dtype, fix="x > 0"))
    return mask.shape, "bool"


primitive(
    "logical_not",
    spec=_mask_spec,
    stops="it is constant between its jumps",
    samples=(Sample(((3, 4),), dtypes=("bool",)),),
)


def where(mask: Any, a: Any, b: Any) -> Tensor:
    """a where the mask is true, b elsewhere; shapes broadcast as in NumPy. What is not chosen gets no gradient."""
    chosen = as_tensor(mask)
    a, b = promoted("where", a, b)
    shape = broadcast_shapes("where", chosen.shape, broadcast_shapes("where", a.shape, b.shape))
    return apply("where", *(broadcast_to(x, shape) for x in (chosen, a, b)))


def logical_not(mask: Any) -> Tensor:
    """The opposite of a mask, elementwise."""
    return apply("logical_not", as_tensor(mask))


def both(a: Any, b: Any) -> Tensor:
    """Where two masks are true, elementwise."""
    return multiply(*_masks("&", a, b))


def either(a: Any, b: Any) -> Tensor:
    """Where one of two masks is true, elementwise."""
    return maximum(*_masks("|", a, b))


def _masks(operator: str, *masks: Any) -> list[Tensor]:
    given = [as_tensor(mask) for mask in masks]
    if any(mask.dtype != "bool" for mask in given):
        received = " and ".join(mask.dtype for mask in given)
        raise InvalidType(explain(f"{operator!r} combines masks.", expected="bool", received=received, fix="(x > 0) & (x < 1)"))
    return given
