"""What a fit shows while it runs: a bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from .errors import InvalidValue, explain


def level(verbose: Any) -> int:
    """0 silent, 1 a bar, 2 a line an epoch."""
    if verbose == "auto":
        return 1 if sys.stdout.isatty() else 2
    if verbose not in (0, 1, 2, True, False):
        raise InvalidValue(
            explain("verbose says how much to show.", expected='"auto", 0, 1 or 2', received=repr(verbose), fix="verbose=0")
        )
    return int(verbose)


def written_logs(logs: dict[str, float]) -> str:
    return " - ".join(f"{name}: {value:.4f}" if abs(value) >= 1e-3 or not value else f"{name}: {value:.3e}"
                      for name, value in logs.items())  # fmt: skip


class Lines:
    """A line an epoch, or nothing at all."""

    def __init__(self, epochs: int, shown: bool) -> None:
        self._epochs = epochs
        self._shown = shown

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, epoch: int, rows: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def end(self, epoch: int, logs: dict[str, float], seconds: float) -> None:
        if self._shown:
            print(f"Epoch {epoch + 1}/{self._epochs} - {seconds:.1f}s - {written_logs(logs)}")


class Bar:
    """A live bar over the rows of an epoch, and a line that stays when it ends."""

    def __init__(self, epochs: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, transient=True, refresh_per_second=10)
        self._epochs = epochs
        self._task: Any = None

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, epoch: int, rows: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(f"Epoch {epoch + 1}/{self._epochs}", total=rows)

    def advance(self, rows: int) -> None:
        self._progress.advance(self._task, rows)

    def end(self, epoch: int, logs: dict[str, float], seconds: float) -> None:
        self._progress.print(f"Epoch {epoch + 1}/{self._epochs} - {seconds:.1f}s - {written_logs(logs)}", highlight=False)


def reporter(verbose: int, epochs: int) -> Lines | Bar:
    return Bar(epochs) if verbose == 1 else Lines(epochs, bool(verbose))
