"""The numbers of a net, before they are painted: a column of units for each node, a bundle of links for each edge.

Every unit and every link is there up to EDGES links; beyond, units are sampled evenly, and the columns say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..outline import DENSE, EACH, JOIN, MIXED, Outline, Step
from .neurons import circuit

EDGES = 4000
UNITS = 400  # shown of one column, however few its links
_SAMPLES = (64, 48, 40, 32, 24, 20, 16, 12, 10, 8, 6, 4, 3, 2)


@dataclass(frozen=True)
class Column:
    """units numbers side by side; `given` of them come in, where that differs. shown: which of them are drawn.

    look   "circle" (a value), "square" (a function of numbers), "box" (a function of vectors), "dot" (an end of the net)
    sign   what stands in a square or a box
    value  the value of the outline whose numbers these are
    """

    name: str
    note: str
    units: int
    look: str
    sign: str = ""
    value: int = -1
    given: int = 0
    over: str = ""  # written over the links that come in
    shown: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """Links between two columns. first, given: where they begin among what the target is given, and how many that are."""

    source: int
    target: int
    links: str
    first: int
    given: int
    step: Step | None = None
    late: bool = False
    offset: int = 0  # where the value begins in its column

    def pairs(self, columns: Sequence[Column]) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
        """Unit of the source, unit of the target, and the place of their weight in the kernel: for all that are shown."""
        source, target = columns[self.source], columns[self.target]
        boxed = target.look == "box"
        goals = target.taken if boxed else target.shown
        there = set(goals)
        for unit in source.shown:
            i = unit - self.offset
            if not 0 <= i < self.width(columns):
                continue
            if boxed or self.links == JOIN:
                if self.first + i in there:
                    yield unit, self.first + i, None
            elif self.links == EACH:
                if i in there:
                    yield unit, i, None
            elif self.links == DENSE and self.step is not None and self.step.weights:
                rows, width = self.step.weights[0][1]
                block, row = divmod(self.first + i, rows)
                for j in goals:
                    if j // width == block:
                        yield unit, j, (row, j % width)
            else:
                for j in goals:
                    yield unit, j, None

    def width(self, columns: Sequence[Column]) -> int:
        return min(columns[self.source].units - self.offset, self.given - self.first)


@dataclass(frozen=True)
class Columns:
    columns: tuple[Column, ...]
    bundles: tuple[Bundle, ...]

    def links(self) -> int:
        return sum(1 for bundle in self.bundles for _ in bundle.pairs(self.columns))

    def all_links(self) -> int:
        """How many there are, drawn or not."""
        total = 0
        for bundle in self.bundles:
            width, target = bundle.width(self.columns), self.columns[bundle.target]
            if target.look == "box" or bundle.links in (EACH, JOIN):
                total += width
            elif bundle.links == DENSE and bundle.step is not None and bundle.step.weights:
                total += width * bundle.step.weights[0][1][1]
            else:
                total += width * target.units
        return total


def spread(units: int, most: int) -> tuple[int, ...]:
    """At most so many units, evenly spaced, the first and the last among them."""
    if units <= most:
        return tuple(range(units))
    return tuple(sorted({round(k * (units - 1) / (most - 1)) for k in range(most)}))


def sampled(found: Columns, links: int = EDGES) -> Columns:
    """The columns with the units that are drawn, so that there are at most so many links."""
    if found.all_links() <= links and all(column.units <= UNITS for column in found.columns):
        return _shown(found, UNITS)
    for most in _SAMPLES:
        some = _shown(found, most)
        if some.links() <= links:
            break
    return some


def _shown(found: Columns, most: int) -> Columns:
    columns = list(found.columns)
    leading: dict[int, list[Bundle]] = {}
    for bundle in found.bundles:
        if not bundle.late and bundle.source < bundle.target:
            leading.setdefault(bundle.target, []).append(bundle)
    for i, column in enumerate(columns):
        given = column.given or column.units
        units, taken = spread(column.units, most), spread(given, most)
        own = leading.get(i, [])
        if own and column.units > most and all(bundle.links == JOIN for bundle in own):  # what its sources show
            units = tuple(
                sorted(
                    bundle.first + unit - bundle.offset
                    for bundle in own
                    for unit in columns[bundle.source].shown
                    if 0 <= unit - bundle.offset < bundle.width(columns)
                )
            )
            taken = units
        columns[i] = replace(column, shown=units or spread(column.units, most), taken=taken)
    return Columns(tuple(columns), found.bundles)


def _runs(outline: Outline, step: Step) -> list[tuple[int, int, int]]:
    """Each input of a step, where it begins among all that the step is given, and how many numbers that are."""
    sizes = [outline.values[value].units for value in step.inputs]
    if step.links == EACH:
        return [(value, 0, size) for value, size in zip(step.inputs, sizes, strict=True)]
    return [(value, sum(sizes[:k]), sum(sizes)) for k, value in enumerate(step.inputs)]


def of_values(outline: Outline) -> Columns:
    """A circle for each number; links are functions."""
    made = {value: step for step in outline.steps for value in step.outputs}
    columns = tuple(
        Column(value.name, "", value.units, "circle", value=i, over=made[i].function if i in made and not made[i].late else "")
        for i, value in enumerate(outline.values)
    )
    bundles = tuple(
        Bundle(value, target, step.links, first, given, step, step.late)
        for step in outline.steps
        for target in step.outputs
        for value, first, given in _runs(outline, step)
    )
    return Columns(columns, bundles)


def of_layers(outline: Outline) -> Columns:
    """A square for each function of numbers; links carry numbers."""
    columns = [
        Column(outline.values[value].name, "input", outline.values[value].units, "dot", value=value) for value in outline.inputs
    ]
    giver = {value: (i, 0) for i, value in enumerate(outline.inputs)}
    late = {step.outputs[0]: step.inputs[0] for step in outline.steps if step.late}
    steps: list[tuple[Step, int]] = []
    for step in outline.steps:
        if step.late:
            continue
        offset = 0
        for value in step.outputs:
            giver[value] = (len(columns), offset)
            offset += outline.values[value].units
        given = max(given for *_, given in _runs(outline, step))
        look = "square" if step.links in (DENSE, EACH) and len(step.outputs) == 1 else "box"
        sign = (
            "Σ"
            if step.links == DENSE
            else step.function
            if look == "square"
            else step.kind
            if step.kind != "Activation"
            else step.function
        )
        name = step.name.removesuffix(" activation")
        steps.append((step, len(columns)))
        note = "" if look == "box" and step.function in (sign, sign.lower()) else step.function
        columns.append(Column(name, note, offset, look, sign, step.outputs[0], given))
    bundles = []

    def link(value: int, target: int, links: str, first: int, given: int, step: Step | None) -> None:
        behind = value in late
        while value in late:
            value = late[value]
        source, offset = giver[value]
        bundles.append(Bundle(source, target, links, first, given, step, behind, offset))

    for step, target in steps:
        for value, first, given in _runs(outline, step):
            link(value, target, step.links, first, given, step)
    for value in outline.outputs:
        units = outline.values[value].units
        columns.append(Column(outline.values[value].name, "output", units, "dot", value=value))
        link(value, len(columns) - 1, EACH, 0, units, None)
    return Columns(tuple(columns), tuple(bundles))


def of_neurons(outline: Outline) -> Columns:
    """A neuron for each unit, with its activation; links are synapses."""
    found = circuit(outline)
    columns = []
    for population in found.populations:
        step = population.step
        note = "inputs" if step is None else population.activation or ("linear" if step.links == DENSE else step.function)
        columns.append(Column(outline.values[population.value].name, note, population.units, "circle", value=population.value))
    bundles = tuple(
        Bundle(
            s.source,
            s.target,
            MIXED if s.links == JOIN else s.links,
            s.first,
            s.given,
            found.populations[s.target].step,
            s.late,
        )
        for s in found.synapses
    )
    return Columns(tuple(columns), bundles)
