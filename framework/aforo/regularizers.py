"""Penalties on weights, added to the loss. A regularizer is a callable from a weight to a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import ops
from .errors import InvalidType, explain, unknown_name
from .graph import Tensor
from .settings import number

Regularizer = Callable[[Tensor], Tensor]


class L1:
    """l1 · Σ|w|."""

    def __init__(self, l1: float = 0.01) -> None:
        self.l1 = number("l1", l1, 0.0, float("inf"))

    def __call__(self, weight: Tensor) -> Tensor:
        return ops.sum(ops.absolute(weight)) * self.l1


class L2:
    """l2 · Σw²."""

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = number("l2", l2, 0.0, float("inf"))

    def __call__(self, weight: Tensor) -> Tensor:
        return ops.sum(ops.square(weight)) * self.l2


class L1L2:
    """l1 · Σ|w| + l2 · Σw²."""

    def __init__(self, l1: float = 0.01, l2: float = 0.01) -> None:
        self.parts = L1(l1), L2(l2)
        self.l1, self.l2 = self.parts[0].l1, self.parts[1].l2

    def __call__(self, weight: Tensor) -> Tensor:
        return self.parts[0](weight) + self.parts[1](weight)


KNOWN: dict[str, Callable[[], Regularizer]] = {"l1": L1, "l2": L2, "l1_l2": L1L2}


def get(identifier: Any) -> Regularizer | None:
    """The regularizer of that name, or the callable itself."""
    if identifier is None:
        return None
    if isinstance(identifier, str):
        if identifier.lower() not in KNOWN:
            raise unknown_name("regularizer", identifier, KNOWN)
        return KNOWN[identifier.lower()]()
    if not callable(identifier):
        raise InvalidType(
            explain(
                "this is no regularizer.",
                expected="'l1', 'l2', or a callable",
                received=repr(identifier),
                fix='kernel_regularizer="l2"',
            )
        )
    found: Regularizer = identifier
    return found
