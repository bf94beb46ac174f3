"""Layers and vectors: a box or a bar for each node, an arrow for each edge."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import log2

from ..outline import Outline, Step, Value, shape_text
from .canvas import FAINT, INK, LATE, Canvas, Circle, Path, Polygon, Rect, Text, shortened, text_width
from .layout import Edge
from .neurons import Circuit, Population, circuit
from .sheet import NEURON, VALUE, Node, Paint, card, color_of, composed, edge_of, late_label, paint_all, place

_CELLS = 12


def _weights(step: Step) -> str:
    return ", ".join(f"{name}: {shape_text(shape)}" for name, shape in step.weights[:2]) + ", …" * (len(step.weights) > 2)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _value_lines(value: Value) -> tuple[str, str]:
    return shortened(value.name, 24), shape_text(value.shape)


def _step_lines(step: Step) -> list[str]:
    kind = f"{step.kind}, {step.activation}" if step.activation else step.kind
    lines = [shortened(step.name, 24), *([kind] if step.kind != "operation" and kind.lower() != step.name else [])]
    if step.weights:
        lines += [shortened(_weights(step), 40), _number(step.parameters, "parameter")] if step.parameters else [_weights(step)]
    return lines


def _layer_nodes(outline: Outline) -> tuple[list[Node], dict[int, int], list[tuple[Step, int]]]:
    """Boxes for inputs and layers; which box gives a value; the boxes of steps."""
    nodes: list[Node] = []
    giver: dict[int, int] = {}
    boxes: list[tuple[Step, int]] = []
    for value in outline.inputs:
        giver[value] = len(nodes)
        nodes.append(card(["input", shortened(outline.values[value].name, 24)], VALUE, 30))
    for step in outline.steps:
        if not step.late:
            giver.update(dict.fromkeys(step.outputs, len(nodes)))
            boxes.append((step, len(nodes)))
            nodes.append(card(_step_lines(step), color_of(step.kind)))
    return nodes, giver, boxes


def _late_sources(outline: Outline) -> dict[int, int]:
    """Which value each feedback value was, a step ago; through chains of them."""
    return {step.outputs[0]: step.inputs[0] for step in outline.steps if step.late}


def layers_as_nodes(outline: Outline) -> Canvas:
    """Nodes are layers, edges carry values."""
    nodes, giver, boxes = _layer_nodes(outline)
    late = _late_sources(outline)
    edges = [_between(giver, late, value, box) for step, box in boxes for value in step.inputs]
    carried: dict[int, list[int]] = {}
    for value, box in giver.items():
        carried.setdefault(box, []).append(value)
    for value in outline.outputs:
        edges.append(_between(giver, late, value, len(nodes)))
        nodes.append(card(["output", shortened(outline.values[value].name, 24)], VALUE, 30))
    for box, values in carried.items():
        first = outline.values[values[0]]
        name = ", ".join(outline.values[value].name for value in values)
        nodes[box] = replace(nodes[box], after=(shortened(name, 24), shape_text(first.shape)))
    return composed(f"{outline.name}: layers", "Nodes are layers; edges carry values.  b = rows of a batch", nodes, edges)


def _between(giver: dict[int, int], late: dict[int, int], value: int, target: int) -> Edge:
    behind = value in late
    while value in late:
        value = late[value]
    return Edge(giver[value], target, behind)


def values_as_nodes(outline: Outline) -> Canvas:
    """Nodes are values, edges are layers."""
    made = {value: step for step in outline.steps for value in step.outputs}
    nodes = []
    for i, value in enumerate(outline.values):
        plain = card(list(_value_lines(value)), VALUE, 30)
        step = made.get(i)
        nodes.append(replace(plain, before=_arrow_lines(step) if step else ()))
    edges = [Edge(source, target, step.late) for step in outline.steps for target in step.outputs for source in step.inputs]
    return composed(f"{outline.name}: values", "Nodes are values; edges are layers.  b = rows of a batch", nodes, edges)


def _arrow_lines(step: Step) -> tuple[str, ...]:
    if step.late:
        return ()
    return (shortened(step.function, 30), shortened(_weights(step), 34)) if step.weights else (shortened(step.function, 30),)


def _title(outline: Outline, population: Population) -> str:
    return shortened(outline.values[population.value].name, 24)


def _activation(population: Population) -> str:
    if population.step is None:
        return "input"
    if population.activation:
        return population.activation
    return "linear" if population.step.links == "dense" else population.step.function


def _synapse_lines(found: Circuit) -> list[tuple[str, ...]]:
    """For each population what is written along the synapses that lead to it."""
    counts: Counter[int] = Counter()
    for bundle in found.synapses:
        counts[bundle.target] += found.count(bundle)
    lines: list[tuple[str, ...]] = []
    for target, population in enumerate(found.populations):
        own = (_number(counts[target], "synapse"),) if counts[target] else ()
        step = population.step
        lines.append((*own, shortened(_weights(step), 34)) if own and step is not None and step.weights else own)
    return lines


def populations_as_nodes(outline: Outline) -> Canvas:
    """Nodes are populations of neurons, edges are synapses."""
    found = circuit(outline)
    along = _synapse_lines(found)
    nodes = []
    for i, population in enumerate(found.populations):
        lines = [_title(outline, population), _number(population.units, "neuron"), f"activation: {_activation(population)}"]
        if population.step is None:
            lines = [lines[0], _number(population.units, "input")]
        plain = card(lines, NEURON, 14)
        painted = _with_neurons(plain, population.units)
        nodes.append(replace(plain, height=plain.height + 16, paint=painted, before=along[i], port=plain.port - 3))
    edges = [Edge(bundle.source, bundle.target, bundle.late) for bundle in found.synapses]
    subtitle = "Nodes are populations of neurons with an activation; edges are synapses, which transform"
    return composed(f"{outline.name}: neurons", subtitle, nodes, list(dict.fromkeys(edges)))


def _with_neurons(plain: Node, units: int) -> Paint:
    def paint(canvas: Canvas, x: float, y: float) -> None:
        plain.paint(canvas, x, y - 8)
        shown = min(units, 7)
        for k in range(shown):
            canvas.add(Circle(x + 12.0 * (k - (shown - 1) / 2), y + plain.height / 2 + 2, 4.5, "#ffffff", edge_of(NEURON)))

    return paint


# --- vectors ----------------------------------------------------------------------------------------------------------


def _bar_height(units: int) -> float:
    return 26.0 + 15.0 * log2(units + 1)


def _bar(value: Value, before: tuple[str, ...] = (), neurons: bool = False, note: str = "") -> Node:
    """One bar for a vector: a cell for each number while they are few, its name above and its shape below."""
    name, shape = _value_lines(value)
    thick, height = (24.0, _bar_height(value.units) + 6) if neurons else (20.0, _bar_height(value.units))
    lines = [shape, *([note] if note else [])]
    width = max(thick, text_width(name, 13, True), *(text_width(line, 11) for line in lines)) + 8
    fill = NEURON if neurons else VALUE

    def paint(canvas: Canvas, x: float, y: float) -> None:
        top, left = y - height / 2, x - thick / 2
        canvas.add(Rect(left, top, thick, height, fill, edge_of(fill), thick / 2 if neurons else 2.0))
        cells = min(value.units, _CELLS)
        few = value.units <= _CELLS
        for k in range(cells):
            middle = top + (k + 0.5) * height / cells
            if neurons:
                middle = top + thick / 2 + (k + 0.0) * (height - thick) / max(cells - 1, 1) if cells > 1 else y
                radius = min(7.0, (height - thick) / max(cells - 1, 1) / 2.2) if cells > 1 else 7.0
                canvas.add(Circle(x, middle, max(radius, 2.0), "#ffffff", edge_of(fill)))
            elif few and k:
                canvas.add(
                    Path(((left, top + k * height / cells), (left + thick, top + k * height / cells)), edge_of(fill), 1.0)
                )
        canvas.add(Text(x, top - 7, name, 13, bold=True, halo=True))
        for k, line in enumerate(lines):
            canvas.add(Text(x, top + height + 15 + 14 * k, line, 11, FAINT, halo=True))

    return Node(width, height + 2 * (18 + 14 * len(lines)), paint, before, port=height / 2 - 6)


def bars_between_layers(outline: Outline) -> Canvas:
    """Layers in boxes, and a bar for each vector that goes from one to the next."""
    nodes: list[Node] = [_bar(value) for value in outline.values]
    edges: list[Edge] = []
    for step in outline.steps:
        if step.late:
            edges.append(Edge(step.inputs[0], step.outputs[0], True))
            continue
        edges += [Edge(value, len(nodes)) for value in step.inputs]
        edges += [Edge(len(nodes), value) for value in step.outputs]
        head = (
            step.function if step.kind in ("Dense", "Activation") else step.kind if step.kind != "operation" else step.function
        )
        lines = [shortened(head, 24)] + ([shortened(_weights(step), 40)] if step.weights else [])
        nodes.append(card(lines, color_of(step.kind)))
    return composed(f"{outline.name}: vectors between layers", "Boxes compute; each bar is one vector", nodes, edges)


def bars_as_nodes(outline: Outline) -> Canvas:
    """Nodes are vectors, edges are what makes one of another."""
    made = {value: step for step in outline.steps for value in step.outputs}
    nodes = [_bar(value, _arrow_lines(made[i]) if i in made else ()) for i, value in enumerate(outline.values)]
    edges = [Edge(source, target, step.late) for step in outline.steps for target in step.outputs for source in step.inputs]
    return composed(f"{outline.name}: vectors", "Each bar is one vector; edges are functions", nodes, edges)


def bars_of_neurons(outline: Outline) -> Canvas:
    """A bar of neurons for each population, and a band of synapses between those that are linked."""
    found = circuit(outline)
    along = _synapse_lines(found)
    nodes = []
    for i, population in enumerate(found.populations):
        value = outline.values[population.value]
        nodes.append(_bar(value, along[i], True, _activation(population)))
    edges = list(dict.fromkeys(Edge(bundle.source, bundle.target, bundle.late) for bundle in found.synapses))
    subtitle = "Each bar is a vector of neurons; bands are synapses from all or from each to each"
    canvas, layout = place(f"{outline.name}: vectors of neurons", subtitle, nodes, edges)
    for edge, route in zip(edges, layout.routes, strict=True):
        if edge.late:
            canvas.add(Path(route, LATE, 4.0, arrow=True, dashed=True))
            late_label(canvas, route)
            continue
        heights = [_bar_height(found.populations[end].units) / 2 for end in (edge.source, edge.target)]
        halves = [heights[0], *[5.0] * (len(route) - 2), heights[1]]
        x = (layout.centers[edge.source][0] + 12, layout.centers[edge.target][0] - 12)
        points = [(x[0], route[0][1]), *route[1:-1], (x[1], route[-1][1])]
        upper = [(px, py - half) for (px, py), half in zip(points, halves, strict=True)]
        lower = [(px, py + half) for (px, py), half in zip(points, halves, strict=True)]
        canvas.add(Polygon((*upper, *reversed(lower)), "#f3b8b0", 0.45))
    for node, (x0, y0) in zip(nodes, layout.centers, strict=True):
        for line, dy in zip(node.before, (-5.0, 13.0), strict=False):
            canvas.add(
                Text(x0 - (node.width + node.box.before) / 2, y0 + dy, line, 12, INK if dy < 0 else FAINT, ground="#f8dcd8")
            )
    paint_all(canvas, layout, nodes)
    return canvas
