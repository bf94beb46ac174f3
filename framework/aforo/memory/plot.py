"""Figures of reports and tables. Needs matplotlib, and none of its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures import SUFFIXES, checked_path, figure, writing
from ..tables import bytes_written

if TYPE_CHECKING:
    from .report import Report
    from .sweep import Sweep

_SHOWN_LAYERS = 30
_PHASES = {"forward": "#0b57d0", "loss": "#8a5a00", "backward": "#0f7b6c", "update": "#6f42c1"}
_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def _figure(width: float, height: float) -> Any:
    made = figure(width, height, "the figure of a memory plan")
    made.set_layout_engine("constrained")
    return made


def _saved(figure: Any, file: Path | None) -> Any:
    if file is not None:
        with writing(file):
            figure.savefig(file, dpi=150)
    return figure


def _unit(most: float) -> tuple[str, int]:
    return next((unit for unit in _UNITS if most >= unit[1]), _UNITS[-1])


def report_figure(report: Report, path: Any) -> Any:
    """Live bytes by instruction, coloured by phase; beside it the layers' parts of the peak."""
    file = None if path is None else checked_path(path, SUFFIXES, "report.plot")
    figure = _figure(11, 4.5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    live = np.array([moment.live_bytes for moment in report.timeline])
    unit, size = _unit(live.max(initial=1))
    phases = [moment.phase for moment in report.timeline]
    known = [phase for phase in _PHASES if phase in phases]
    for phase in known:
        here = np.where([each == phase for each in phases], live / size, 0.0)
        left.stairs(here, np.arange(len(live) + 1), fill=True, color=_PHASES[phase], label=phase)
    left.axhline(report.arena_bytes / size, color="black", linewidth=1, linestyle=":", label="arena")
    left.plot([report.timeline.peak + 0.5], [live.max(initial=0) / size], "kv", markersize=7)
    left.set(title="live in the arena", xlabel="instruction", ylabel=unit, xlim=(0, max(1, len(live))))
    left.legend(loc="upper left", fontsize="small")
    rows = sorted((row for row in report.layers if row.held_bytes), key=lambda row: -row.held_bytes)[:_SHOWN_LAYERS][::-1]
    right.barh([row.name for row in rows], [row.held_bytes / size for row in rows], color="#0f7b6c")
    right.set(title="held at the peak", xlabel=unit)
    figure.suptitle(f"{report.title}: {bytes_written(report.total_bytes)} in all")
    return _saved(figure, file)


def sweep_figure(sweep: Sweep, path: Any) -> Any:
    """A heat map of batch size × width; the budget is a line around the cells that fit."""
    file = None if path is None else checked_path(path, SUFFIXES, "sweep.plot")
    rows, columns = len(sweep.batch_sizes), len(sweep.columns or (0,))
    figure = _figure(3 + 0.9 * columns, 2 + 0.45 * rows)
    axes = figure.subplots()
    total = sweep.total_bytes
    from matplotlib.colors import LogNorm

    image = axes.imshow(
        total, cmap="Blues", norm=LogNorm(vmin=total.min(), vmax=max(total.max(), total.min() + 1)), aspect="auto"
    )
    axes.set_xticks(range(columns), [str(size) for size in sweep.columns] if sweep.columns else [""])
    axes.set_yticks(range(rows), [str(size) for size in sweep.batch_sizes])
    axes.set(xlabel="time steps" if sweep.lengths else "width" if sweep.widths else "", ylabel="batch size", title=sweep.title)
    for i in range(rows):
        for j in range(columns):
            shade = image.norm(total[i, j])
            ink = "white" if shade > 0.55 else "black"
            axes.text(j, i, bytes_written(int(total[i, j])), ha="center", va="center", color=ink, fontsize="small")
    if sweep.budget is not None:
        for x, y in _boundary(total > sweep.budget):
            axes.plot(x, y, color="#b3261e", linewidth=3, solid_capstyle="butt")
    return _saved(figure, file)


def _boundary(over: np.ndarray[Any, Any]) -> Sequence[tuple[tuple[float, float], tuple[float, float]]]:
    """The edges between cells on different sides of the budget, as x and y of their ends."""
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for i, j in np.argwhere(over[:, 1:] != over[:, :-1]).tolist():
        edges.append(((j + 0.5, j + 0.5), (i - 0.5, i + 0.5)))
    for i, j in np.argwhere(over[1:] != over[:-1]).tolist():
        edges.append(((j - 0.5, j + 0.5), (i + 0.5, i + 0.5)))
    return edges
