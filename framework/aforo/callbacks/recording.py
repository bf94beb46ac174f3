"""Callbacks that write down how training goes, or end it when it has gone wrong."""

from __future__ import annotations

import os
from math import isfinite
from typing import IO, Any

from ..errors import InvalidType, InvalidValue, explain
from ..settings import flag, strict
from .base import Callback, Logs


def path_of(path: Any, fix: str) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise InvalidType(explain("a file is given by its path.", received=repr(path), fix=fix)) from None


class TerminateOnNaN(Callback):
    """End the fit when the loss is no finite number. It looks after every batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not isfinite(loss):
            print(f"batch {batch + 1}: the loss is {loss}; training ends")
            self.model.stop_training = True


class CSVLogger(Callback):
    """Write the figures of each epoch to a table as it ends: a row each, the epoch (from 0) first, then by name.

    append: go on with a file that is there, e.g. in training that is resumed.
    """

    @strict
    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = path_of(filename, 'af.callbacks.CSVLogger("training.csv")')
        self.separator = separator
        self.append = flag("append", append)
        if not isinstance(separator, str) or len(separator) != 1:
            raise InvalidValue(explain("a separator is one character.", received=repr(separator), fix='separator=","'))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        from csv import reader

        self.keys: list[str] | None = None
        if self.append and os.path.exists(self.filename):
            with self._open("r") as file:
                header = next(reader(file, delimiter=self.separator), None)
            self.keys = header and header[1:]
        else:
            self._rows("w", [])

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        figures = logs or {}
        rows: list[list[Any]] = []
        if self.keys is None:
            self.keys = sorted(figures)
            rows.append(["epoch", *self.keys])
        self._rows("a", [*rows, [epoch, *(figures.get(name, "NA") for name in self.keys)]])

    def _rows(self, mode: str, rows: list[list[Any]]) -> None:
        from csv import writer

        with self._open(mode) as file:
            writer(file, delimiter=self.separator, lineterminator="\n").writerows(rows)

    def _open(self, mode: str) -> IO[Any]:
        try:
            return open(self.filename, mode, encoding="utf-8", newline="")
        except OSError as error:
            raise InvalidValue(
                explain(
                    f"{self.filename!r} cannot be written.", expected="a path in a folder that exists", received=error.strerror
                )
            ) from None
