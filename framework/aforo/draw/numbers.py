"""The picture of every unit and every weight."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from ..outline import Outline, Step
from .canvas import (
    FAINT,
    LATE,
    LINE,
    PAPER,
    Canvas,
    Circle,
    Path,
    Point,
    Rect,
    Text,
    along,
    mixed,
    readable_on,
    shortened,
    text_width,
)
from .columns import EDGES, Bundle, Column, Columns, of_layers, of_neurons, of_values, sampled
from .layout import Edge
from .sheet import HEAD, MARGIN, NEURON, VALUE, Node, color_of, edge_of, late_label, place

Array = np.ndarray[Any, Any]
_NEGATIVE, _ZERO, _POSITIVE, _NO_NUMBER = "#1f4fb8", "#f4f4f6", "#c2321f", "#8a8a8a"
_BYTES = 1_900_000
_RAISED = 12  # places for a label along links, each a little above the last; higher up, it would seem another column's
_RIBBON = 46.0  # height of a lane for many late links side by side
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Numbers:
    """What colours the picture: numbers of values by their place in the outline, and of weights by their step.

    what: how the two are called, e.g. "activation" and "weight"
    """

    values: Mapping[int, Array]
    weights: Mapping[str, Array]
    what: tuple[str, str]
    note: str

    @property
    def limits(self) -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            max((float(np.abs(array).max()) for array in arrays.values() if array.size), default=0.0) or 1.0
            for arrays in (self.values, self.weights)
        )


def shade(value: float, limit: float) -> str:
    """Blue for negative numbers, red for positive ones, the stronger the larger."""
    share = abs(value) / limit if limit else 0.0
    if isnan(share):
        return _NO_NUMBER
    share = min(share, 1.0) ** 0.7
    return mixed(_ZERO, _POSITIVE if value > 0 else _NEGATIVE, share)


def pitch_of(shown: int) -> float:
    return 40.0 if shown <= 14 else 26.0 if shown <= 26 else 15.0 if shown <= 64 else 9.0


def short_number(value: float, room: float, size: float) -> str:
    """As many digits as there is room for."""
    for spec in (".2f", ".1f", ".0f", ".0e"):
        text = f"{value:{spec}}"
        if float(text) == 0:
            text = "0"
        for short in (
            text,
            text.replace("0.", ".", 1) if abs(value) < 1 else text,
            text.replace("e+0", "e").replace("e-0", "e-"),
        ):
            if text_width(short.replace("-", "−"), size) <= room:
                return short.replace("-", "−")
    return ""


def _unit_names(column: Column) -> Callable[[int], str]:
    base = "x" if column.name == "X" else column.name if len(column.name) <= 2 else ""
    return lambda unit: base + str(unit + 1).translate(_SUBSCRIPTS) if base else str(unit + 1)


@dataclass(frozen=True)
class _Placed:
    """A column and where its units are."""

    column: Column
    x: float
    y: float

    @property
    def pitch(self) -> float:
        return pitch_of(max(len(self.column.shown), len(self.column.taken) if self.column.look == "box" else 0))

    @property
    def radius(self) -> float:
        return 2.5 if self.column.look == "dot" and self.pitch < 26 else 4.0 if self.column.look == "dot" else 0.4 * self.pitch

    @property
    def height(self) -> float:
        rows = max(len(self.column.shown), len(self.column.taken) if self.column.look == "box" else 0)
        return self.pitch * rows

    def at(self, unit: int, incoming: bool) -> tuple[float, float]:
        """Where links of this unit end, or begin."""
        boxed = self.column.look == "box"
        order = self.column.taken if boxed and incoming else self.column.shown
        step = self.height / len(order) if boxed else self.pitch
        y = self.y + (order.index(unit) - (len(order) - 1) / 2) * step
        half = _box_width(self.column) / 2 if boxed else self.radius
        return self.x + (-half if incoming else half), y


def _box_width(column: Column) -> float:
    return max(44.0, text_width(column.sign, 11.5) + 16.0)


def _notes(column: Column) -> list[str]:
    lines = [shortened(column.note, 24)] if column.note else []
    if len(column.shown) < column.units:
        lines.append(f"{len(column.shown)} of {column.units:,} shown")
    return lines


def _node(column: Column, notation: str, numbers: Numbers | None) -> Node:
    notes, name = _notes(column), shortened(column.name, 20)
    placed = _Placed(column, 0.0, 0.0)
    core = _box_width(column) if column.look == "box" else 2 * placed.radius
    width = max(core, text_width(name, 13, True), *(text_width(line, 11) for line in notes), 20.0) + 10
    height = placed.height + 2 * (26.0 + 14.0 * len(notes))

    def paint(canvas: Canvas, x: float, y: float) -> None:
        here = _Placed(column, x, y)
        _paint_units(canvas, here, notation, numbers)
        top, bottom = y - here.height / 2, y + here.height / 2
        canvas.add(Text(x, top - 10, name, 13, bold=True, halo=True))
        for k, line in enumerate(notes):
            canvas.add(Text(x, bottom + 16 + 14 * k, line, 11, FAINT, halo=True))

    over = (shortened(column.over, 26),) if column.over else ()
    return Node(width, height, paint, before=over)


def _paint_units(canvas: Canvas, here: _Placed, notation: str, numbers: Numbers | None) -> None:
    column, radius = here.column, here.radius
    plain = {"values": VALUE, "neurons": NEURON}.get(notation, color_of("Dense" if column.sign == "Σ" else "Activation"))
    if column.look == "box":
        width = _box_width(column)
        fill = color_of(column.sign if column.sign[0].isupper() else "Activation")
        canvas.add(Rect(here.x - width / 2, here.y - here.height / 2, width, here.height, fill, edge_of(fill)))
        canvas.add(Text(here.x, here.y + 4, column.sign, 11.5, ground=fill))
        return
    values = numbers.values.get(column.value) if numbers else None
    limit = numbers.limits[0] if numbers else 1.0
    name = _unit_names(column)
    for unit in column.shown:
        y = here.at(unit, True)[1]
        fill = shade(float(values[unit]), limit) if values is not None and unit < len(values) else plain
        edge = edge_of(plain)
        if column.look == "dot":
            canvas.add(Circle(here.x, y, radius, fill if values is not None else LINE, LINE))
            if here.pitch >= 26:
                side = (here.x - radius - 5, "end") if column.note == "input" else (here.x + radius + 5, "start")
                canvas.add(Text(side[0], y + 4, name(unit), 11, anchor=side[1]))
            continue
        if column.look == "square":
            canvas.add(Rect(here.x - radius, y - radius, 2 * radius, 2 * radius, fill, edge, 3.0))
        else:
            canvas.add(Circle(here.x, y, radius, fill, edge))
        if radius < 9:
            continue
        size = 10.0 if radius > 12 else 8.0
        text = column.sign if column.look == "square" else name(unit)
        if values is not None and unit < len(values) and column.look == "circle":
            text = short_number(float(values[unit]), 2 * radius - 3, size)
        if text and text_width(text, size) <= 2 * radius:
            canvas.add(Text(here.x, y + size * 0.36, text, size, readable_on(fill), ground=fill))


def numbers_as(notation: str, outline: Outline, numbers: Numbers | None = None) -> Canvas:
    """Every unit, and every weight while they are few. For "neurons" the outline is not split."""
    whole = {"layers": of_layers, "values": of_values, "neurons": of_neurons}[notation](outline)
    most = EDGES
    while True:
        found = sampled(whole, most)
        canvas = _painted(notation, outline, whole, found, numbers)
        nbytes = len(canvas.svg().encode())
        if nbytes <= _BYTES or found == sampled(whole, 0):
            return canvas
        most = int(0.9 * min(most, found.links()) * _BYTES / nbytes)  # links that pass many columns are long


def _painted(notation: str, outline: Outline, whole: Columns, found: Columns, numbers: Numbers | None) -> Canvas:
    """The picture of the units and links that are drawn, of all that there are."""
    drawn, total = found.links(), whole.all_links()
    what = {
        "layers": "Squares compute one number each; links carry numbers",
        "values": "Circles are numbers; links are functions",
    }.get(notation, "Circles are neurons with an activation; links are synapses")
    subtitle = what if drawn == total else f"{what}.  Sampled: {drawn:,} of {total:,} links are drawn"
    if numbers is not None:
        subtitle += f".  {numbers.note}"
    nodes = [_node(column, notation, numbers) for column in found.columns]
    pairs = list(dict.fromkeys((bundle.source, bundle.target, bundle.late) for bundle in found.bundles))
    edges = [Edge(*pair) for pair in pairs]
    title = {"layers": "every function", "values": "every value", "neurons": "every neuron"}[notation]
    canvas, layout = place(f"{outline.name}: {title}", subtitle, nodes, edges, _RIBBON)
    placed = [_Placed(column, *center) for column, center in zip(found.columns, layout.centers, strict=True)]
    routes = dict(zip(pairs, layout.routes, strict=True))
    for bundle in found.bundles:
        _paint_links(canvas, found, bundle, placed, routes[bundle.source, bundle.target, bundle.late], numbers)
    written = any(node.before for node in nodes)
    links = sorted(point for shape in canvas.shapes if written and isinstance(shape, Path) for point in along(shape))
    painted = []
    for node, (x, y) in zip(nodes, layout.centers, strict=True):
        painted.append(Canvas(""))
        node.paint(painted[-1], x, y)
    own = [text for units in painted for text in units.texts if text.ground == PAPER]
    over: list[Text] = []
    for node, here in zip(nodes, placed, strict=True):
        for line in node.before:
            x, y = here.x - (node.width + node.box.before) / 2, here.y - here.height / 2 - 10
            options = [Text(x, y - 8.0 * k, line, 12) for k in range(_RAISED) if not k or y - 8.0 * k > HEAD]
            over.append(_free(options, [*own, *over], links))
    canvas.add(*map(_ground, [*own, *over]), *(shape for units in painted for shape in units.shapes), *over)
    if numbers is not None:
        _legend(canvas, numbers)
    return canvas


def _free(options: list[Text], labels: list[Text], links: list[Point]) -> Text:
    """The first place, of several above one another, that no label takes and no link passes; else the one that fewest pass."""
    left, _, right, _ = options[0].box
    beside = [text.box for text in labels if left < text.box[2] and text.box[0] < right]
    heights = sorted(y for _, y in links[bisect_left(links, (left, 0.0)) : bisect_left(links, (right, 0.0))])
    best, fewest = options[0], (True, len(heights) + 1)
    for text in options:
        _, top, _, bottom = text.box
        passing = bisect_left(heights, bottom) - bisect_left(heights, top)
        found = any(top < other[3] and other[1] < bottom for other in beside), passing
        if found < fewest:
            best, fewest = text, found
        if fewest == (False, 0):
            break
    return best


def _ground(text: Text) -> Rect:
    """What a label stands on, so that links end behind it."""
    left, top, right, bottom = text.box
    return Rect(left - 2, top - 1, right - left + 4, bottom - top + 2, PAPER, PAPER, 0.0)


def _paint_links(
    canvas: Canvas,
    found: Columns,
    bundle: Bundle,
    placed: list[_Placed],
    route: tuple[tuple[float, float], ...],
    numbers: Numbers | None,
) -> None:
    source, target = placed[bundle.source], placed[bundle.target]
    kernel = _kernel(bundle.step, numbers)
    limit = numbers.limits[1] if numbers else 1.0
    links = list(bundle.pairs(found.columns))
    opacity = 0.85 if len(links) <= 60 else 0.5 if len(links) <= 600 else 0.2
    for k, (i, j, weight) in enumerate(links):
        start, end = source.at(i, False), target.at(j, True)
        color, strength = LATE if bundle.late else LINE, opacity
        if kernel is not None and weight is not None:
            value = float(kernel[weight])
            color, strength = shade(value, limit), 0.35 + 0.65 * min(abs(value) / limit, 1.0)
        thickness = 1.0 if len(links) > 60 else 1.3
        if bundle.late:
            apart = min(4.0, 26.0 / len(links))
            aside = (k - (len(links) - 1) / 2) * apart
            (down, _), (_, below), (up, _) = route[1:4]
            points = (
                start,
                (down + aside, start[1]),
                (down + aside, below + aside),
                (up - aside, below + aside),
                (up - aside, end[1]),
                end,
            )
            few = apart >= 3.0
            canvas.add(Path(points, color, 1.2 if few else 0.7, dashed=few, arrow=few, opacity=strength))
            continue
        if len(route) == 2:
            canvas.add(Path((start, end), color, thickness, opacity=strength))
            continue
        aside = (k / max(len(links) - 1, 1) - 0.5) * 10.0
        through = tuple((x, y + aside) for x, y in route[1:-1])
        canvas.add(Path((start, *through, end), color, thickness, curved=True, opacity=strength))
    if bundle.late:
        late_label(canvas, tuple((x, y - (14.0 if i in (2, 3) else 0.0)) for i, (x, y) in enumerate(route)))


def _kernel(step: Step | None, numbers: Numbers | None) -> Array | None:
    return None if step is None or numbers is None else numbers.weights.get(step.name)


def _legend(canvas: Canvas, numbers: Numbers) -> None:
    """Two scales of colours below the picture."""
    x, y = MARGIN, canvas.height
    for what, limit in zip(numbers.what, numbers.limits, strict=True):
        low, high = f"−{limit:.3g}", f"{limit:.3g}"
        canvas.add(Text(x, y + 12, what, 11, anchor="start"))
        x += text_width(what, 11) + 8
        canvas.add(Text(x, y + 12, low, 11, anchor="start"))
        x += text_width(low, 11) + 6
        for k in range(21):
            canvas.add(Rect(x + 5 * k, y + 2, 5.2, 12, shade((k - 10) / 10, 1.0), shade((k - 10) / 10, 1.0), 0.0))
        canvas.add(Text(x + 111, y + 12, high, 11, anchor="start"))
        x += 111 + text_width(high, 11) + 30
    canvas.width = max(canvas.width, x)
    canvas.height += MARGIN + 12
