"""Where a node comes from, and whether it is part of a model: what is known while a graph is built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from os.path import dirname

_PACKAGE = dirname(dirname(__file__))

FORWARD, LOSS, BACKWARD, UPDATE = "forward", "loss", "backward", "update"


@dataclass(frozen=True)
class Place:
    """Where a node comes from: the layer, the phase of a step, and the user's line."""

    layer: str = ""
    phase: str = FORWARD
    site: str = ""


_NOWHERE = Place()
_place: ContextVar[Place] = ContextVar("place", default=_NOWHERE)


@contextmanager
def within(layer: str | None = None, phase: str | None = None, site: str | None = None) -> Iterator[None]:
    """Nodes made inside belong to that layer, phase and line."""
    now = _place.get()
    token = _place.set(
        Place(
            now.layer if layer is None else layer,
            now.phase if phase is None else phase,
            now.site if site is None else site,
        )
    )
    try:
        yield
    finally:
        _place.reset(token)


_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


@contextmanager
def tracing(on: bool = True) -> Iterator[None]:
    """What is built inside belongs to a model: it reads its weights where they are, at every step."""
    token = _tracing.set(on or _tracing.get())
    try:
        yield
    finally:
        _tracing.reset(token)


def is_tracing() -> bool:
    return _tracing.get()


def current_layer() -> str:
    return _place.get().layer


def user_line() -> str:
    """The innermost line outside this package that led here."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        assert frame.f_back is not None
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def here() -> Place:
    """The place of a node that is made now."""
    place = _place.get()
    return place if place.site else Place(place.layer, place.phase, user_line())
