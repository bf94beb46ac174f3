"""One self-contained page: a map of batch × width, and every cell's parts, timeline and layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .files import write
from .report import Report, Timeline

_MOMENTS = 400  # points of a timeline; of instructions that share a point the one with the most bytes is shown
_HOLDERS = 12


def write_page(
    path: Any,
    call: str,
    title: str,
    reports: Sequence[Sequence[Report]],
    batch_sizes: Sequence[int],
    widths: Sequence[int | None],
    budget: int | None,
    formula: str,
    axis: tuple[str, str] = ("width", "n"),
) -> None:
    """call: how it is asked for. axis: what the columns are, and its letter."""
    names: dict[tuple[str, str, str], int] = {}
    data: dict[str, Any] = {
        "device": reports[0][0].device,
        "batch_sizes": list(batch_sizes),
        "widths": list(widths),
        "budget": budget,
        "formula": formula,
        "cells": [[_cell(each, names) for each in row] for row in reports],
        "reserve": [[line.name, line.nbytes, line.measured] for line in reports[0][0].reserve],
    }
    data["names"] = [list(name) for name in names]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = template.replace("{{axis}}", axis[0]).replace("{{symbol}}", axis[1])
    write(path, call, template.replace("{{title}}", escape(title)).replace("{{data}}", text))


def _cell(report: Report, names: dict[tuple[str, str, str], int]) -> dict[str, Any]:
    holders = report.timeline.holders
    rest = holders[_HOLDERS:]
    return {
        "total": report.total_bytes,
        "needed": report.device_bytes,
        "parts": [[name, nbytes] for name, nbytes in report.parts()],
        "lower": report.lower_bound_bytes,
        "flops": report.flops,
        "layers": [[r.name, list(r.output_shape), r.values, r.parameters, r.flops, r.held_bytes] for r in report.layers],
        "points": _points(report.timeline, names),
        "peak": report.timeline.peak,
        "instructions": len(report.timeline),
        "holders": [[h.layer, h.op, h.phase, list(h.shape), h.nbytes, h.start, h.end] for h in holders[:_HOLDERS]],
        "rest": [len(rest), sum(holder.nbytes for holder in rest)],
        "data": [[f"{held.name}, besides, {held.place}", held.nbytes] for held in report.data],
    }


def _points(timeline: Timeline, names: dict[tuple[str, str, str], int]) -> list[list[int]]:
    """Instruction, live bytes, and the number of its name, of the highest instruction in each stretch of the timeline."""
    stretch = -(-len(timeline) // _MOMENTS)
    points = []
    for start in range(0, len(timeline), stretch or 1):
        index = max(range(start, min(start + stretch, len(timeline))), key=lambda i: (timeline[i].live_bytes, -i))
        moment = timeline[index]
        name = names.setdefault((moment.op, moment.layer, moment.phase), len(names))
        points.append([index, moment.live_bytes, name])
    return points
