"""Reports and tables in a notebook: plain HTML, without scripts, in the notebook's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..tables import bytes_written, shape_written

if TYPE_CHECKING:
    from .report import Report, Timeline
    from .sweep import Sweep

_POINTS = 240
_CELL = "padding:.15em .7em;text-align:right;font-variant-numeric:tabular-nums"


def _row(cells: Sequence[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f'<{tag} style="{_CELL}">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"<thead>{_row(heads, 'th')}</thead>" if heads else ""
    return f'<table style="border-collapse:collapse;margin:.5em 0">{head}<tbody>{"".join(map(_row, rows))}</tbody></table>'


def report_html(report: Report) -> str:
    parts = [
        (name, f"{nbytes:,} B", bytes_written(nbytes)) for name, nbytes in [*report.parts(), ("total", report.total_bytes)]
    ]
    parts += [(f"{held.name}, besides, {held.place}", f"{held.nbytes:,} B", bytes_written(held.nbytes)) for held in report.data]
    layers = [
        (
            row.name,
            shape_written(row.output_shape) if row.output_shape else "",
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.flops:,}" if row.flops else "",
            bytes_written(row.held_bytes),
        )
        for row in report.layers
    ]
    outside = "".join(
        f"<div>outside: {escape(line.name)} about {bytes_written(line.nbytes)} ({escape(line.measured)})</div>"
        for line in report.reserve
    )
    return (
        f"<div><strong>{escape(report.title)}</strong>{_table((), parts)}{_curve(report.timeline)}"
        f"{_table(('layer', 'output b × n', 'parameters', 'flops', 'held at peak'), layers)}{outside}</div>"
    )


def _curve(timeline: Timeline) -> str:
    """The live bytes of each instruction as an area."""
    if not timeline:
        return ""
    stretch = -(-len(timeline) // _POINTS)
    live = [max(m.live_bytes for m in timeline[i : i + stretch]) for i in range(0, len(timeline), stretch)]
    most = max(*live, 1)
    steps = "".join(f"L{i} {100 - 100 * n / most:.2f}L{i + 1} {100 - 100 * n / most:.2f}" for i, n in enumerate(live))
    label = f"live bytes by instruction, at most {bytes_written(most)}"
    return (
        f'<div>{label}</div><svg viewBox="0 0 {len(live)} 100" preserveAspectRatio="none" role="img" aria-label="{label}" '
        f'style="width:100%;max-width:48em;height:6em"><path d="M0 100{steps}L{len(live)} 100Z" fill="#0f7b6c"/></svg>'
    )


def sweep_html(sweep: Sweep) -> str:
    heads = ["", *(["bytes"] if sweep.columns is None else [f"{sweep.symbol} = {size}" for size in sweep.columns])]
    rows = [
        [
            f"b = {batch_size}",
            *(
                bytes_written(each.total_bytes)
                + (" (over)" if sweep.budget is not None and each.total_bytes > sweep.budget else "")
                for each in row
            ),
        ]
        for batch_size, row in zip(sweep.batch_sizes, sweep.reports, strict=True)
    ]
    formula = "<br>".join(map(escape, sweep.formula.lines()))
    return f"<div><strong>{escape(sweep.title)}</strong>{_table(heads, rows)}<div>{formula}</div></div>"
