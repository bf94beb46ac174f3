"""A data set on its way to wherever its model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .device import roomy

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
        if backend is not self._backend:
            with roomy(self._model.device, "the data"):
                self._feed = backend.feed(self._columns, self._most_rows, self._again)
                self._feed.arrange(self._order)
            self._backend = backend

    def arrange(self, order: Array | None) -> None:
        """The order of the rows from here on; None: as they lie."""
        self._follow()
        self._order = order
        with roomy(self._model.device, "the order of the rows"):
            self._feed.arrange(order)

    def put(self, slots: Sequence[Any], start: int, stop: int) -> None:
        """Fill a slot for each column with these rows."""
        self._follow()
        with roomy(self._model.device, "batches on their way"):
            self._feed.put(slots, start, stop)
