"""From a graph to steps: which nodes are views, which need a copy first, and which write straight into a variable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aforo_backends.contract import Profile, Scratch

from ..graph import PRIMITIVES, RESULT, SCAN, Graph, Tensor, rebuilt
from ..specs import DTYPES, Layout, Shape, Size, at, count
from .draft import Constant, Draft, Operand, Step
from .fuse import fuse
from .products import add_products
from .update import pin_updates

LEAVES = ("constant", "iota", "ones")


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


def lower(
    graph: Graph, profile: Profile, sizes: Mapping[str, int], lower_loop: Callable[..., dict[int, Operand]] | None = None
) -> Draft:
    """lower_loop: adds the step of a loop, and says where its results lie; for graphs with loops."""
    draft = Draft()
    results: dict[int, list[Tensor]] = {}
    for node in graph.nodes:
        if node.op == RESULT:
            results.setdefault(id(node.inputs[0]), []).append(node)
    operands: dict[int, Operand] = {}
    copies: dict[tuple[Operand, frozenset[int]], Operand] = {}
    homes: dict[Any, int] = {}
    waits: dict[int, frozenset[int]] = {}  # views of what may be read after these values only
    rules = {rule.op: rule for rule in profile.scratch}

    known: dict[Any, Size] = {}

    def flops(node: Tensor) -> Size:
        key = node.op, node.shape, tuple(x.shape for x in node.inputs)
        if key not in known:
            known[key] = node.primitive.flops(node)
        return known[key]

    def copied(operand: Operand, node: Tensor, after: frozenset[int]) -> Operand:
        if (operand, after) not in copies:
            copies[operand, after] = draft.add_copy(operand, node.place, after=after)
        return copies[operand, after]

    for node in graph.nodes:
        record = node.primitive
        if node.op == RESULT:
            continue  # its loop has said where it lies
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
        if node.op == SCAN:
            assert lower_loop is not None
            operands.update(lower_loop(draft, node, results[id(node)], reads, copied, after))
            continue
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
        shapes = _scratch(node, rules[node.op], sizes) if node.op in rules else []
        scratch = tuple(draft.add_value(shape, node.dtype, node.place) for shape in shapes)
        write = draft.add_value(node.shape, node.dtype, node.place)
        draft.steps.append(Step(node.op, node.place, tuple(reads), (write,), scratch, node.attributes, flops(node), after))
        operands[id(node)] = Operand(write, Layout.dense(node.shape))

    for name, node in graph.outputs.items():
        operand = operands[id(node)]
        changes = draft.values[operand.value].variable in graph.updates
        draft.outputs[name] = draft.add_copy(operand, node.place) if changes else operand
    if profile.accumulates:
        draft = add_products(draft, graph, operands)
    if profile.fuses:
        draft, operands = fuse(draft, graph, operands, profile, sizes)
    pin_updates(draft, graph, operands)
    return draft


def _scratch(node: Tensor, rule: Scratch, sizes: Mapping[str, int]) -> list[Shape]:
    """The shapes of what a kernel needs beside its operands. What has a limit is sized for the plan, and enough for less."""
    if not rule.every:
        return [node.shape] * rule.arrays
    arrays = min(rule.times, at(node.inputs[0].shape[-1], sizes) // rule.every)
    values = min(arrays * at(count(node.shape), sizes), rule.most // DTYPES[node.dtype])
    return [(values,)] if values * DTYPES[node.dtype] > rule.least else []


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
