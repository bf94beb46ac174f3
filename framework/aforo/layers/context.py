"""What a layer may ask of the graph it is traced into: the phase, the step, and a place for what is not its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from ..graph import Tensor, Variable


@dataclass
class Context:
    """What a model collects while it traces its layers.

    training   whether layers behave as in training (dropout, batch statistics)
    backward   whether derivatives may be taken of what is traced
    step       gives the number of the training step, as a value of the graph
    row        gives the number in the batch of the first sample, where a graph sees a part of it only
    updates    new values of variables that are not trained, such as moving averages
    penalties  numbers that are added to the loss
    draws      how often each layer has drawn random numbers in this step
    blocks     how many loops over time, the first ones, keep their states every √time steps only
    loops      an entry for each there was so far
    carrier    who carries states from one time step to the next, where that is not a loop of a layer's own
    """

    training: bool = False
    backward: bool = True
    step: Callable[[], Tensor] | None = None
    row: Callable[[], Tensor] | None = None
    updates: dict[Variable, Tensor] = field(default_factory=dict)
    penalties: list[Tensor] = field(default_factory=list)
    draws: dict[int, int] = field(default_factory=dict)
    blocks: int = 0
    loops: list[None] = field(default_factory=list)
    carrier: Carrier | None = None


class Carrier(Protocol):
    """Carries states along time."""

    @property
    def whole(self) -> bool:
        """Whether what it shows is the whole sequence at once, to see what operations do with it."""

    @property
    def cyclic(self) -> bool:
        """Whether what it runs stands on a cycle."""

    @property
    def cut(self) -> int:
        """After how many steps gradients stop; 0: never."""

    def carry(self, initial: Tensor, name: str) -> Tensor:
        """A state before this step. name: the layer or the feedback it belongs to."""

    def keep(self, state: Tensor, after: Tensor) -> None:
        """What that state is after this step."""

    def turn(self) -> Tensor | None:
        """The number of this time step, where steps are numbered."""


_context: ContextVar[Context | None] = ContextVar("context", default=None)


@contextmanager
def collecting(context: Context) -> Iterator[Context]:
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


def under_way() -> bool:
    """Whether somebody collects already."""
    return _context.get() is not None


def current() -> Context:
    return _context.get() or Context()
