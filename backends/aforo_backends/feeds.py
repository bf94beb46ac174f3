"""How batches reach a device that does not read the host's memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from .contract import ITEM_BYTES, Instruction, View
from .driver import Driver, Event, HostArray
from .kernels import launches
from .source import Launch


class ResidentFeed:
    """The data set lies on the device, and a kernel gathers the rows of a batch; nothing is copied from the host for a step."""

    def __init__(self, driver: Driver, columns: Sequence[HostArray]) -> None:
        self._driver = driver
        self._columns = columns
        self._held = [driver.alloc(values.nbytes) for values in columns]
        for storage, values in zip(self._held, columns, strict=True):
            driver.write(storage.address, np.ascontiguousarray(values))
        self._kernels: dict[tuple[int, int], tuple[Any, Launch]] = {}
        self._order: Any = None
        self._ordered = False

    def arrange(self, order: HostArray | None) -> None:
        self._ordered = order is not None
        if order is not None:
            if self._order is None:
                self._order = self._driver.alloc(order.nbytes)
            self._driver.write(self._order.address, order)

    def put(self, slots: Sequence[Any], start: int, stop: int) -> None:
        for i, slot in enumerate(slots):
            if slot is None:
                continue
            held = self._held[i].address
            if self._ordered:
                function, launch = self._kernel(i, stop - start)
                pointers = slot.address, held, self._order.address + start * ITEM_BYTES["int64"]
                self._driver.launch(function, launch.blocks, launch.threads, pointers, launch.numbers)
            else:
                row = slot.nbytes // (stop - start)
                self._driver.copy(slot.address, held + start * row, slot.nbytes)

    def _kernel(self, column: int, rows: int) -> tuple[Any, Launch]:
        """The kernel that gathers so many rows of a column."""
        if (column, rows) not in self._kernels:
            values = self._columns[column]
            width, dtype = prod(values.shape[1:]), values.dtype.name
            row = width * values.itemsize
            whole, some = (View(0, (n, width), (row, values.itemsize), dtype) for n in (len(values), rows))
            order = View(0, (rows,), (ITEM_BYTES["int64"],), "int64")
            (launch,) = launches(Instruction("gather", (whole, order), (some,)))
            self._kernels[column, rows] = self._driver.function(launch), launch
        return self._kernels[column, rows]


class StagedFeed:
    """Two pinned slots on the host and two on the device: while a step runs, the next batch is gathered and copied."""

    def __init__(self, driver: Driver, columns: Sequence[HostArray], most_rows: int) -> None:
        self._driver = driver
        self._columns = columns
        self._order: HostArray | None = None
        self._turn = 0
        self._most_rows = most_rows
        self._lanes: list[_Lane] = []

    def arrange(self, order: HostArray | None) -> None:
        self._order = order

    def put(self, slots: Sequence[Any], start: int, stop: int) -> None:
        if not self._lanes:
            nbytes = [0 if slot is None else self._most_rows * slot.nbytes // slot.shape[0] for slot in slots]
            self._lanes = [_Lane(self._driver, nbytes) for _ in range(2)]
        lane = self._lanes[self._turn]
        self._turn = 1 - self._turn
        lane.pass_on(self._columns, slots, start, stop, self._order)


class _Lane:
    """One of the two: where a batch waits on the host and on the device, and until when."""

    def __init__(self, driver: Driver, nbytes: Sequence[int]) -> None:
        self._driver = driver
        self._host = {i: driver.pinned(n) for i, n in enumerate(nbytes) if n}
        self._device = {i: driver.alloc(n) for i, n in enumerate(nbytes) if n}
        self._uploaded: Event | None = None
        self._used: Event = driver.mark()  # the pool may have given memory that what is queued still uses

    def pass_on(
        self, columns: Sequence[HostArray], slots: Sequence[Any], start: int, stop: int, order: HostArray | None
    ) -> None:
        driver = self._driver
        if self._uploaded is not None:
            driver.finish(self._uploaded)  # or the gathering would change what is being copied
        used = {i: slot for i, slot in enumerate(slots) if slot is not None}
        for i, slot in used.items():
            values, rows = columns[i], self._host[i][: slot.nbytes].view(slot.view.dtype).reshape(slot.shape)
            if order is None:
                np.copyto(rows, values[start:stop], casting="same_kind")
            else:
                np.take(values, order[start:stop], axis=0, out=rows, mode="clip")
            self._uploaded = driver.upload(self._device[i].address, rows, self._used)
        if self._uploaded is not None:
            driver.wait(self._uploaded)
        for i, slot in used.items():
            driver.copy(slot.address, self._device[i].address, slot.nbytes)
        self._used = driver.mark()
