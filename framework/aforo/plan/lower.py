"""From a graph to steps: which nodes are views, which need a copy first, and which write straight into a variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aforo_backends.contract import Profile

from ..graph import PRIMITIVES, Graph, Place, Tensor, Variable, rebuilt
from ..specs import FLOATS, Layout, Shape, Size, at, count

LEAVES = ("constant", "iota", "ones")


@dataclass(frozen=True)
class Operand:
    """A way of looking at a value."""

    value: int
    layout: Layout


@dataclass(frozen=True)
class Constant:
    """A value that is the same at every step: `constant`, `iota` or `ones`, and what describes it."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    shape: Shape
    dtype: str

    @staticmethod
    def of(node: Tensor) -> Constant:
        return Constant(node.op, tuple(sorted(node.attributes.items())), node.shape, node.dtype)

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {self.dtype}"

    @property
    def is_sized(self) -> bool:
        """Whether its value depends on the sizes a program runs at."""
        a = dict(self.attributes)
        return self.op == "constant" and not (isinstance(a["times"], int) and isinstance(a["per"], int))

    def at(self, sizes: Mapping[str, int]) -> Any:
        """What it holds: a number, or an array."""
        a = dict(self.attributes)
        if self.op != "constant":
            size = at(a["size"], sizes)
            return np.arange(size, dtype=self.dtype) if self.op == "iota" else np.ones(size, self.dtype)
        if isinstance(a["value"], bytes):
            return np.frombuffer(a["value"], self.dtype).reshape(self.shape)
        number = a["value"] * at(a["times"], sizes) / at(a["per"], sizes)
        return number if self.dtype in FLOATS else int(number)


@dataclass
class Value:
    """Something with memory of its own while a program runs.

    In the arena, unless it is what `variable` holds (before or after the program), or a constant.
    """

    shape: Shape
    dtype: str
    place: Place
    variable: Variable | None = None
    constant: Constant | None = None

    @property
    def in_arena(self) -> bool:
        return self.variable is None and self.constant is None


@dataclass
class Step:
    """One instruction: reads, then writes one dense value."""

    op: str
    node: Tensor
    reads: tuple[Operand, ...]
    write: int
    scratch: tuple[int, ...] = ()
    after: frozenset[int] = frozenset()  # values that must have been computed, though it does not read them


@dataclass
class Draft:
    """Steps in the order of creation, before anyone decides on order and memory.

    chains   variable -> the steps that write its new value in place, first to last; a variable that is given its own value
             has none
    """

    values: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, Operand] = field(default_factory=dict)
    chains: dict[Variable, list[int]] = field(default_factory=dict)
    old: dict[Variable, int] = field(default_factory=dict)

    _readers: list[list[int]] = field(default_factory=list)
    _read_steps: int = 0

    def readers(self) -> list[list[int]]:
        """For every value, the steps that read it."""
        found = self._readers
        found.extend([] for _ in range(len(found), len(self.values)))
        for index in range(self._read_steps, len(self.steps)):
            for operand in self.steps[index].reads:
                if index not in found[operand.value][-1:]:
                    found[operand.value].append(index)
        self._read_steps = len(self.steps)
        return found

    def add_value(self, shape: Shape, dtype: str, place: Place, **home: object) -> int:
        self.values.append(Value(shape, dtype, place, **home))  # type: ignore[arg-type]
        return len(self.values) - 1

    def add_copy(
        self, operand: Operand, node: Tensor, variable: Variable | None = None, after: frozenset[int] = frozenset()
    ) -> Operand:
        shape, dtype = operand.layout.shape, self.values[operand.value].dtype
        write = self.add_value(shape, dtype, node.place, variable=variable)
        self.steps.append(Step("copy", node, (operand,), write, after=after))
        return Operand(write, Layout.dense(shape))

    def release(self, variable: Variable) -> None:
        """Compute the variable's new value in the arena, and copy it into place when nothing reads the old one any more."""
        last = self.steps[self.chains[variable][-1]]
        for index in self.chains[variable]:
            self.values[self.steps[index].write].variable = None
        self.chains[variable] = [len(self.steps)]
        self.add_copy(Operand(last.write, Layout.dense(variable.shape)), last.node, variable)


def for_backend(graph: Graph, profile: Profile) -> Graph:
    """The graph with what the backend's data asks for."""
    if not profile.product_sums:
        return graph
    now: dict[int, Tensor] = {}
    ones: dict[tuple[Size, str], Tensor] = {}
    for node in graph.nodes:
        inputs = tuple(now[id(i)] for i in node.inputs)
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        product = _product_sum(node, inputs, ones)
        now[id(node)] = product if product is not None else node if same else rebuilt(node, inputs)
    return Graph(
        {name: now[id(node)] for name, node in graph.outputs.items()},
        {variable: now[id(node)] for variable, node in graph.updates.items()},
    )


def _product_sum(node: Tensor, inputs: tuple[Tensor, ...], ones: dict[tuple[Size, str], Tensor]) -> Tensor | None:
    """A sum over leading axes as a row of ones times a matrix: two to three times quicker in BLAS."""
    if node.op != "sum" or not node.shape:
        return None
    (x,) = inputs
    source = x
    while source.op == "after":
        source = source.inputs[0]
    if source.primitive.view is not None:
        return None
    axes = node.attributes["axes"]
    if axes != tuple(range(len(axes))):
        return None
    rows, columns = count(x.shape[: len(axes)]), count(node.shape)

    def built(name: str, turn: int, made_of: tuple[Tensor, ...], out: Shape, **attributes: object) -> Tensor:
        serial = node.serial - (4 - turn) / 8  # after the node's inputs, in this order, the last in the node's own place
        return Tensor(PRIMITIVES[name], made_of, attributes, out, node.dtype, node.place, serial=serial)

    if (rows, node.dtype) not in ones:
        ones[rows, node.dtype] = built("ones", 0, (), (rows,), size=rows, dtype=node.dtype)
    row = built("reshape", 1, (ones[rows, node.dtype],), (1, rows), shape=(1, rows))
    matrix = x if x.shape == (rows, columns) else built("reshape", 2, (x,), (rows, columns), shape=(rows, columns))
    product = built("matmul", 3, (row, matrix), (1, columns))
    return built("reshape", 4, (product,), node.shape, shape=node.shape)


def lower(graph: Graph) -> Draft:
    draft = Draft()
    operands: dict[int, Operand] = {}
    copies: dict[tuple[Operand, frozenset[int]], Operand] = {}
    homes: dict[Any, int] = {}
    waits: dict[int, frozenset[int]] = {}  # views of what may be read after these values only

    def copied(operand: Operand, node: Tensor, after: frozenset[int]) -> Operand:
        if (operand, after) not in copies:
            copies[operand, after] = draft.add_copy(operand, node, after=after)
        return copies[operand, after]

    for node in graph.nodes:
        record = node.primitive
        if node.op == "variable" or node.op in LEAVES:
            home: Any = node.variable if node.op == "variable" else Constant.of(node)
            if home not in homes:
                kind = {"variable": home} if node.op == "variable" else {"constant": home}
                homes[home] = draft.add_value(node.shape, node.dtype, node.place, **kind)
            value = homes[home]
            if node.op == "variable":
                draft.old[home] = value
            operands[id(node)] = Operand(value, Layout.dense(node.shape))
            continue
        reads = [operands[id(i)] for i in node.inputs]
        after = frozenset().union(*(waits[id(i)] for i in node.inputs if id(i) in waits)) if waits else frozenset()
        if record.view is not None:
            if node.op == "after":
                after |= {reads[1].value}
            layout = record.view(reads[0].layout, node)
            if layout is None:
                reads[0] = copied(reads[0], node, after)
                layout = record.view(reads[0].layout, node)
                assert layout is not None
            operands[id(node)] = Operand(reads[0].value, layout)
            if after:
                waits[id(node)] = after
            continue
        reads = [read if _taken(read.layout, record.operands) else copied(read, node, after) for read in reads]
        scratch = tuple(
            draft.add_value(shape, dtype, node.place) for shape, dtype in (record.scratch(node) if record.scratch else ())
        )
        write = draft.add_value(node.shape, node.dtype, node.place)
        draft.steps.append(Step(node.op, node, tuple(reads), write, scratch, after))
        operands[id(node)] = Operand(write, Layout.dense(node.shape))

    for name, node in graph.outputs.items():
        operand = operands[id(node)]
        changes = draft.values[operand.value].variable in graph.updates
        draft.outputs[name] = draft.add_copy(operand, node) if changes else operand
    _pin_updates(draft, graph, operands)
    return draft


def _taken(layout: Layout, operands: str) -> bool:
    """Whether a kernel takes a layout as it is."""
    if operands == "any":
        return True
    if operands == "dense":
        return layout.is_dense
    sizes, steps = layout.shape[-2:], layout.strides[-2:]
    rows, columns = (size == 1 or step != 0 for size, step in zip(sizes, steps, strict=True))
    unit = any(size == 1 or step == 1 for size, step in zip(sizes, steps, strict=True))
    return rows and columns and unit


@dataclass(frozen=True)
class _Uses:
    """Who writes and who reads every value."""

    draft: Draft
    writer: dict[int, int]
    readers: list[list[int]]
    kept: set[int]

    def chain(self, variable: Variable, index: int, depth: int = 8) -> list[int] | None:
        """The steps that can work in the variable's memory, from one that reads its old value to this one, if there are any."""
        step, dense, old = self.draft.steps[index], Layout.dense(variable.shape), self.draft.old.get(variable)
        overwrites = PRIMITIVES[step.op].overwrites
        if any(read.value == old for read in step.reads):
            return [index] if _in_place(step, old, dense, overwrites) else None
        for read in step.reads if depth else ():
            if self.single(read.value) and _in_place(step, read.value, dense, overwrites):
                earlier = self.chain(variable, self.writer[read.value], depth - 1)
                if earlier:
                    return [*earlier, index]
        return None

    def single(self, value: int) -> bool:
        """Whether a value of the arena has one reader and is no output."""
        written = value in self.writer and self.draft.values[value].in_arena
        return written and len(self.readers[value]) == 1 and value not in self.kept


def _pin_updates(draft: Draft, graph: Graph, operands: dict[int, Operand]) -> None:
    """Let the new value of each variable be written straight into its memory, wherever that is possible."""
    targets = {operands[id(node)].value for node in graph.updates.values()}
    uses = _Uses(
        draft,
        {step.write: index for index, step in enumerate(draft.steps)},
        draft.readers(),
        {operand.value for operand in draft.outputs.values()} | targets,
    )
    for variable, node in graph.updates.items():
        operand = operands[id(node)]
        if operand.value == draft.old.get(variable):
            if operand.layout == Layout.dense(variable.shape):
                continue  # it keeps its value
            operand = draft.add_copy(operand, node)  # its own values in another arrangement
        last = uses.writer.get(operand.value)
        members = None
        if last is not None and draft.values[operand.value].in_arena and operand.layout == Layout.dense(variable.shape):
            reads_old = any(read.value == draft.old.get(variable) for read in draft.steps[last].reads)
            members = uses.chain(variable, last) or (None if reads_old else [last])
        if members is None:
            draft.chains[variable] = [len(draft.steps)]
            draft.add_copy(operand, node, variable)
            continue
        for index in members:
            draft.values[draft.steps[index].write].variable = variable
        draft.chains[variable] = members


def _in_place(step: Step, value: int | None, dense: Layout, overwrites: tuple[int, ...]) -> bool:
    """Whether a step may write where one of its inputs lies: it looks at it only densely, and its kernel allows it."""
    looks = [(i, read.layout) for i, read in enumerate(step.reads) if read.value == value]
    return any(i in overwrites for i, _ in looks) and all(layout == dense for _, layout in looks)
