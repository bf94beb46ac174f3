"""From nodes and arrows to a canvas: everything laid out, painted, titled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .canvas import FAINT, INK, LATE, LINE, Canvas, Path, Rect, Text, mixed, shortened, text_width
from .layout import LANE, Box, Edge, Layout, arrange

MARGIN, HEAD = 28.0, 64.0
LABEL = 12.0  # size of what is written along arrows
ONE_STEP_LATE = "one step late"

_COLORS = {
    "Dense": "#dbe8fb", "Activation": "#fde7c8", "Dropout": "#e6e8ee", "BatchNormalization": "#d3f0ea",
    "LayerNormalization": "#d3f0ea", "Concatenate": "#eadff7", "Add": "#eadff7", "Multiply": "#eadff7",
    "Embedding": "#f3e3d3", "SimpleRNN": "#d9f2d6", "GRU": "#d9f2d6", "LSTM": "#d9f2d6",
}  # fmt: skip
OTHER, VALUE, NEURON = "#eef0f4", "#fff6d6", "#ffe3e0"


def color_of(kind: str) -> str:
    return _COLORS.get(kind, OTHER)


def edge_of(fill: str) -> str:
    return mixed(fill, INK, 0.45)


class Paint(Protocol):
    def __call__(self, canvas: Canvas, x: float, y: float) -> None: ...


@dataclass(frozen=True)
class Node:
    """A thing of the picture: its size, how it is painted around its centre, and the lines along its arrows.

    The first line is written over the arrow, the second below it.
    """

    width: float
    height: float
    paint: Paint
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    port: float = 0.0

    @property
    def box(self) -> Box:
        return Box(self.width, self.height, _label_width(self.before), _label_width(self.after), self.port)


def _label_width(lines: Sequence[str]) -> float:
    return max((text_width(line, LABEL) for line in lines), default=0.0) + 20.0 if lines else 0.0


def card(lines: Sequence[str], fill: str, radius: float = 7.0) -> Node:
    """A box with lines of text; the first one is its title."""
    size = 13.0
    widths = [text_width(line, size if i == 0 else 11.5, i == 0) for i, line in enumerate(lines)]
    width, height = max(84.0, max(widths) + 24.0), max(56.0, 16.0 + 17.0 * len(lines))
    if radius > height / 2:
        width += height / 2

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Rect(x - width / 2, y - height / 2, width, height, fill, edge_of(fill), min(radius, height / 2)))
        top = y - 17.0 * (len(lines) - 1) / 2 + 4.5
        for i, line in enumerate(lines):
            look = (13.0, INK, True) if i == 0 else (11.5, FAINT, False)
            canvas.add(Text(x, top + 17.0 * i, line, look[0], look[1], bold=look[2], ground=fill))

    return Node(width, height, paint, port=height / 2 - 8.0)


def place(title: str, subtitle: str, nodes: Sequence[Node], edges: Sequence[Edge], lane: float = LANE) -> tuple[Canvas, Layout]:
    """A canvas with its title, and the layout shifted to lie below it."""
    found = arrange([node.box for node in nodes], edges, lane)
    heading, below = shortened(title, 60), subtitle
    wide = max(text_width(heading, 16, True), text_width(below, 11.5))
    width = max(found.width, wide)
    dx, dy = MARGIN + (width - found.width) / 2, HEAD + MARGIN / 2
    moved = Layout(
        tuple((x + dx, y + dy) for x, y in found.centers),
        tuple(tuple((x + dx, y + dy) for x, y in route) for route in found.routes),
        found.ranks,
        found.width,
        found.height,
    )
    canvas = Canvas(title, width + 2 * MARGIN, dy + found.height + MARGIN)
    canvas.add(Text(MARGIN, 30, heading, 16, anchor="start", bold=True), Text(MARGIN, 50, below, 11.5, FAINT, "start"))
    return canvas, moved


def arrows(canvas: Canvas, layout: Layout, nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
    """Every edge as one arrow, straight where something is written along it; feedback dashed, below everything."""
    for edge, route in zip(edges, layout.routes, strict=True):
        source, target = nodes[edge.source].box, nodes[edge.target].box
        start, end = route[0], route[-1]
        if edge.late:
            canvas.add(Path(route, LATE, 1.8, arrow=True, dashed=True))
            late_label(canvas, route)
            continue
        points = [start, *([(start[0] + source.after, start[1])] if source.after else []), *route[1:-1]]
        points += [*([(end[0] - target.before, end[1])] if target.before else []), end]
        canvas.add(Path(tuple(points), LINE, 1.5, arrow=True, curved=True))
    for node, (x, y) in zip(nodes, layout.centers, strict=True):
        for side, lines in ((-1, node.before), (1, node.after)):
            room = node.box.before if side < 0 else node.box.after
            for line, dy in zip(lines, (-6.0, 14.0), strict=False):
                canvas.add(Text(x + side * (node.width + room) / 2, y + dy, line, LABEL, INK if dy < 0 else FAINT, halo=True))


def late_label(canvas: Canvas, route: Sequence[tuple[float, float]]) -> None:
    (x1, y), (x2, _) = route[2], route[3]
    canvas.add(Text((x1 + x2) / 2, y - 5, ONE_STEP_LATE, 11.0, LATE, halo=True))


def paint_all(canvas: Canvas, layout: Layout, nodes: Sequence[Node]) -> None:
    for node, (x, y) in zip(nodes, layout.centers, strict=True):
        node.paint(canvas, x, y)


def composed(title: str, subtitle: str, nodes: Sequence[Node], edges: Sequence[Edge]) -> Canvas:
    canvas, layout = place(title, subtitle, nodes, edges)
    arrows(canvas, layout, nodes, edges)
    paint_all(canvas, layout, nodes)
    return canvas
