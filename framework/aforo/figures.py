"""Figures through matplotlib, an extra: without pyplot's windows and state, and with the install line if it is absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from os.path import isdir
from pathlib import Path
from typing import Any

from .errors import InvalidState, InvalidType, InvalidValue, explain

SUFFIXES = (".png", ".svg", ".pdf")


def figure(width: float, height: float, what: str = "this picture") -> Any:
    """An empty matplotlib figure of this size in inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidState(
            explain(
                f"{what} needs matplotlib, which is not installed.",
                expected="matplotlib 3.8 or later",
                received="none",
                fix="pip install 'aforo[plot]'",
            )
        ) from error
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made


def checked_path(path: Any, suffixes: tuple[str, ...], call: str) -> Path:
    """Where a picture goes. Raises if it cannot go there. call: how it is asked for, up to the path."""
    if not isinstance(path, (str, PathLike)):
        raise InvalidType(
            explain(
                "a picture is written to a file.", expected="a path", received=repr(path), fix=f'{call}("net{suffixes[0]}")'
            )
        )
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        raise InvalidValue(
            explain(
                "a picture is written in a format that its path ends with.",
                expected=" or ".join(suffixes),
                received=str(path),
                fix=f'{call}("{file.stem or "net"}{suffixes[0]}")',
            )
        )
    if isdir(file):
        raise InvalidValue(
            explain(
                "a picture is written to a file.",
                expected="the path of a file",
                received=f"{path}, a folder",
                fix=f'{call}("{file / "net"}{suffixes[0]}")',
            )
        )
    if not isdir(file.parent):
        raise InvalidValue(
            explain(
                "there is no such folder.",
                expected="a folder that is there",
                received=str(file.parent),
                fix=f'from pathlib import Path; Path("{file.parent}").mkdir(parents=True)',
            )
        )
    return file


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Raises, naming the file, if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise InvalidValue(
            explain(
                f"{str(file)!r} cannot be written.",
                expected="a path that may be written to",
                received=error.strerror or str(error),
                fix=f'"net{file.suffix}", in the folder that Python runs in',
            )
        ) from error


class Chart:
    """A matplotlib figure that a notebook shows by itself. `figure` is there to change it."""

    def __init__(self, figure: Any, call: str) -> None:
        self.figure = figure
        self._call = call

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as .png, .svg or .pdf."""
        file = checked_path(path, SUFFIXES, self._call)
        with writing(file):
            self.figure.savefig(file, dpi=144)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.figure.savefig(buffer, dpi=100, format="png")
        return buffer.getvalue()


def curves(history: dict[str, list[float]], epochs: list[int], path: str | PathLike[str] | None) -> Chart:
    """A panel for the loss, and one for each metric; what was validated lies beside what was trained."""
    call = "history.plot"
    if path is not None:
        checked_path(path, SUFFIXES, call)
    history = {name: values for name, values in history.items() if values}
    if not epochs or not history:
        raise InvalidState(explain("this history holds no epoch.", expected="a fit", fix="history = model.fit(x, y)"))
    names = [name for name in history if not name.startswith("val_")] or list(history)
    made = figure(5.2 * min(len(names), 3), 3.6 * -(-len(names) // 3), "history.plot()")
    for number, name in enumerate(names):
        axes = made.add_subplot(-(-len(names) // 3), min(len(names), 3), number + 1)
        drawn = [each for each in (name, f"val_{name}") if each in history]
        for each, color in zip(drawn, ("#1f4fb8", "#c2321f"), strict=False):
            axes.plot(
                epochs[-len(history[each]) :], history[each], color=color, marker="o" if len(epochs) < 15 else None, label=each
            )
        values = [value for each in drawn for value in history[each]]
        if min(values) > 0 and max(values) > 100 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    made.set_layout_engine("constrained")
    chart = Chart(made, call)
    if path is not None:
        chart.save(path)
    return chart
