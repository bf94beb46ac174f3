"""Batch × width: the memory of a family of models, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from .. import device as devices
from ..budget import as_bytes
from ..errors import InvalidState, InvalidType, InvalidValue, explain
from ..model import Model
from ..settings import strict, whole
from ..tables import bytes_written, render
from .files import write
from .formula import Formula, fit
from .measure import report
from .report import Report

Build = Callable[..., Any]
_COLUMNS = (
    "parameters_bytes", "optimizer_state_bytes", "state_bytes", "batch_bytes", "arena_bytes", "lower_bound_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A report for every batch size (rows) and width or length of sequences (columns). widths is None where build takes none.

    print shows the table and the formula behind it; a cell over the budget ends with an exclamation mark.
    """

    batch_sizes: tuple[int, ...]
    widths: tuple[int, ...] | None
    reports: tuple[tuple[Report, ...], ...]
    budget: int | None = None
    lengths: tuple[int, ...] | None = None
    dtype: str = "float32"

    @property
    def columns(self) -> tuple[int, ...] | None:
        """The widths, or the lengths."""
        return self.widths or self.lengths

    @property
    def total_bytes(self) -> np.ndarray[Any, Any]:
        """The bytes the steps own: a new array of shape (len(batch_sizes), len(widths)), of int64 as far as that reaches."""
        found = [[each.total_bytes for each in row] for row in self.reports]
        return np.array(found, np.int64 if max(map(max, found)) <= np.iinfo(np.int64).max else object)

    @cached_property
    def formula(self) -> Formula:
        symbol, means = ("T", "time steps") if self.lengths else ("n", "width")
        return fit(self.reports, self.batch_sizes, self.columns, symbol, means, self.dtype)

    @property
    def symbol(self) -> str:
        return "T" if self.lengths else "n"

    @property
    def exceeds(self) -> bool:
        """Whether any cell is over the budget."""
        return self.budget is not None and any(each.total_bytes > self.budget for row in self.reports for each in row)

    @property
    def title(self) -> str:
        first = self.reports[0][0]
        what = "a training step" if first.training else "a prediction"
        within = f", budget {bytes_written(self.budget)}" if self.budget is not None else ""
        return f"memory of {what} by batch size and {'length' if self.lengths else 'width'}, on {first.device}{within}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers, text, lists and dicts: what JSON can write, and gives back the same."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "widths": None if self.widths is None else list(self.widths),
            "lengths": None if self.lengths is None else list(self.lengths),
            "budget": self.budget,
            "total_bytes": self.total_bytes.tolist(),
            "formula": asdict(self.formula),
            "reports": [[each.to_dict() for each in row] for row in self.reports],
        }

    def to_csv(self, path: Any) -> None:
        """Write a line for each cell, all figures in bytes."""
        lines = [
            [
                "batch_size",
                "length" if self.lengths else "width",
                "total_bytes",
                *_COLUMNS,
                *(["fits"] if self.budget is not None else []),
            ]
        ]
        for batch_size, row in zip(self.batch_sizes, self.reports, strict=True):
            for width, each in zip(self.columns or ("",), row, strict=True):
                fits = [] if self.budget is None else [int(each.total_bytes <= self.budget)]
                cells = [batch_size, width, each.total_bytes, *(getattr(each, name) for name in _COLUMNS), *fits]
                lines.append([str(cell) for cell in cells])
        write(path, 'sweep.to_csv("plan.csv")', "".join(",".join(line) + "\n" for line in lines))

    def to_html(self, path: Any) -> None:
        """Write a page to look at and to share: the table as a map, and every cell's timeline. It needs no network."""
        from .page import write_page

        widths = self.columns or (None,)
        axis = ("time steps" if self.lengths else "width", self.symbol)
        formula = "\n".join(self.formula.lines())
        write_page(
            path, 'sweep.to_html("plan.html")', self.title, self.reports, self.batch_sizes, widths, self.budget, formula, axis
        )

    def plot(self, path: Any = None) -> Any:
        """A heat map with the budget drawn as a line; saved if a path is given. Needs matplotlib: pip install 'aforo[plot]'."""
        from .plot import sweep_figure

        return sweep_figure(self, path)

    def _repr_html_(self) -> str:
        from .notebook import sweep_html

        return sweep_html(self)

    def __str__(self) -> str:
        def cell(each: Report) -> str:
            over = self.budget is not None and each.total_bytes > self.budget
            return bytes_written(each.total_bytes) + (" !" if over else "  " if self.exceeds else "")

        heads = ("bytes",) if self.columns is None else tuple(f"{self.symbol} = {size}" for size in self.columns)
        rows = [(f"b = {batch_size}", *map(cell, row)) for batch_size, row in zip(self.batch_sizes, self.reports, strict=True)]
        outside = [f"outside: {r.name} about {bytes_written(r.nbytes)} ({r.measured})" for r in self.reports[0][0].reserve]
        over = ["! over the budget"] if self.exceeds else []
        return render(self.title, ("", *heads), rows, [*over, *self.formula.lines(), *outside])


@strict
def sweep(
    build: Build,
    batch_sizes: Sequence[int],
    widths: Sequence[int] | None = None,
    device: Any = None,
    *,
    training: bool = True,
    budget: Any = None,
    length: int | None = None,
    lengths: Sequence[int] | None = None,
) -> Sweep:
    """The memory of every batch size × width, or × length of the sequences. No weight is created, and no device needed.

    build(width) gives a compiled model; with widths=None, build() does. device: where the model would live, by default
    where it does. budget: bytes, or text such as "24GiB". length: time steps, for models of sequences; lengths: several, in
    place of widths.
    """
    rows = _sizes("batch_sizes", batch_sizes)
    columns = None if widths is None else _sizes("widths", widths)
    times = None if lengths is None else _sizes("lengths", lengths)
    if times is not None and (columns is not None or length is not None):
        raise InvalidValue(
            explain(
                "a table has batch sizes in its rows, and widths or lengths in its columns.",
                expected="lengths alone, or widths and one length",
                received=f"lengths={list(times)} and " + ("widths" if columns is not None else "length"),
                fix="lengths=[100, 1000] without widths",
            )
        )
    limit = None if budget is None else as_bytes(budget, "budget")
    target = None if device is None else devices.device(device)
    reports: list[list[Report]] = [[] for _ in rows]
    for width in columns or (None,):  # one graph serves all batch sizes
        model = built(build, width, training)
        for row, batch_size in zip(reports, rows, strict=True):
            row.extend(report(model, batch_size, training, target, time) for time in times or (length,))
    return Sweep(rows, columns, tuple(map(tuple, reports)), limit, times, model.outputs[0].dtype)


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, (str, bytes)) or not hasattr(sizes, "__iter__"):
        raise InvalidType(
            explain(f"{name} is a list of sizes.", expected="e.g. [32, 64]", received=repr(sizes), fix=f"{name}=[32, 64]")
        )
    given = list(sizes)
    meant = [max(1, round(float(size))) if isinstance(size, Real) and isfinite(size) else 32 for size in given]
    found = tuple(whole(name, size, 1, f"{name}={meant}") for size in given)
    if not found:
        raise InvalidValue(explain(f"{name} is empty.", expected="at least one size", fix=f"{name}=[32, 64]"))
    return found


def built(build: Build, width: int | None, training: bool) -> Model:
    """What `build` makes of a width. Raises, naming both, if it fails or gives no model that can be planned."""
    if isinstance(build, Model):
        raise InvalidType(
            explain(
                "a model is no build function: it has its width already.",
                expected="a function: build(width) -> compiled model",
                received=repr(build),
                fix="af.memory.sweep(lambda: model, batch_sizes=[32, 64])",
            )
        )
    if not callable(build):
        raise InvalidType(
            explain(
                "build makes a model of a width.",
                expected="a function: build(width) -> compiled model",
                received=repr(build),
                fix="def build(width): …; model.compile(loss=…); return model",
            )
        )
    name = getattr(build, "__name__", "")
    call = f"{name if name.isidentifier() else 'build'}({'' if width is None else width})"
    try:
        model = build() if width is None else build(width)
    except (Exception, SystemExit) as error:
        raise InvalidValue(
            explain(f"{call} fails.", expected="a compiled model", received=f"{type(error).__name__}: {error}")
        ) from error
    if not isinstance(model, Model):
        raise InvalidType(
            explain(f"{call} gives no model.", expected="a compiled model", received=repr(model), fix="end with: return model")
        )
    if not model.built:
        fix = "af.Dense(4, input_shape=[d_in]) as the first layer, or model.build((None, d_in))"
        raise InvalidState(explain(f"{call} gives a model that does not know its input size.", fix=fix))
    if training and model.optimizer is None:
        fix = 'model.compile(loss="mse", optimizer="sgd") before: return model'
        raise InvalidState(explain(f"{call} gives a model that is not compiled.", fix=fix))
    return model
