"""A data set on its way to wherever its model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aforo_backends import OutOfMemory

from .device import device, full

if TYPE_CHECKING:
    from aforo_backends.contract import Backend, Feed

    from .compiled import Compiled

Array = np.ndarray[Any, Any]


class Feeding:
    """The columns of a data set, in an order, for batch slots on the model's device; made anew there when the model moves."""

    def __init__(self, model: Compiled, columns: Sequence[Array], most_rows: int, again: bool = False) -> None:
        self._model = model
        self._columns = columns
        self._most_rows = most_rows
        self._again = again
        self._order: Array | None = None
        self._backend: Backend | None = None
        self._feed: Feed
        self._follow()

    def _follow(self) -> None:
        backend = self._model.backend
        if backend is self._backend:
            return
        try:
            self._feed = backend.feed(self._columns, self._most_rows, self._again)
            self._feed.arrange(self._order)
        except OutOfMemory:
            raise full(device(self._model.device), "the data") from None
        self._backend = backend

    def arrange(self, order: Array | None) -> None:
        """The order of the rows from here on; None: as they lie."""
        self._follow()
        self._order = order
        try:
            self._feed.arrange(order)
        except OutOfMemory:
            raise full(device(self._model.device), "the order of the rows") from None

    def put(self, slots: Sequence[Any], start: int, stop: int) -> None:
        """Fill a slot for each column with these rows."""
        self._follow()
        try:
            self._feed.put(slots, start, stop)
        except OutOfMemory:
            raise full(device(self._model.device), "two batches on their way") from None
