"""Loops over time, as one node of the graph: a body that is planned once, whatever the number of steps.

A loop walks along sequences (time, …), carries states, and gives, for any value of its body, that value at every step; for a
state, also what it ends with. Its gradient is another loop that runs the other way, whose body is the gradient of the body
(back-propagation through time; Werbos, 1990). What that needs of the forward are results of the forward loop: edges like any
other. Gradients of what is the same at every step are sums over time: those of kernels and biases are taken after the loop, as
one product over all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import ops
from .errors import InvalidValue, explain
from .gradient import pullback
from .graph import (
    LOOP,
    PRIMITIVES,
    RESULT,
    SCAN,
    Body,
    Graph,
    Place,
    Tensor,
    Variable,
    apply,
    constant,
    leaf,
    merge,
    primitive,
    rebuilt,
)
from .graph.primitive import Spec
from .graph.tensor import now
from .specs import BLOCKS, FLOATS, SPAN, Shape, Size, count, in_blocks, written

FIXED = ("constant", "iota", "ones")
EACH, LAST = "each", "last"


# --- the two primitives -----------------------------------------------------------------------------------------------


def _scan_spec(*inputs: Tensor, body: Body, length: Size, reverse: bool, cut: int) -> Spec:
    for i, (x, inside) in enumerate(zip(inputs, body.leaves, strict=True)):
        shape = (length, *inside.shape) if i < len(body.sequences) else inside.shape
        if (x.shape, x.dtype) != (shape, inside.dtype):
            raise InvalidValue(
                explain(
                    "a loop is given something else than its body takes.",
                    expected=f"{written(shape)} {inside.dtype}",
                    received=f"{written(x.shape)} {x.dtype}",
                )
            )
    return (), "float32"


def _result_spec(loop: Tensor, *, kind: str, number: int) -> Spec:
    body: Body = loop.attributes["body"]
    if kind == LAST:
        return body.states[number].shape, body.states[number].dtype
    return (loop.attributes["length"], *body.nodes[number].shape), body.nodes[number].dtype


def _flops(node: Tensor) -> Size:
    body: Body = node.attributes["body"]
    once: Size = 0
    for each in body.nodes:
        if each.inputs:
            once = each.primitive.flops(each) + once
    total: Size = once * node.attributes["length"]
    return total


primitive(SCAN, spec=_scan_spec, gradient=lambda loop, parts: _gradient(loop, parts), flops=_flops)
primitive(RESULT, spec=_result_spec, stops="its loop gathers the gradients of all that it gives", flops=lambda node: 0)


def each(loop: Tensor, node: Tensor) -> Tensor:
    """A value of the body at every step: (time, …), in the order of time."""
    body: Body = loop.attributes["body"]
    place = body.number[id(node)]
    leaves = {id(x): i for i, x in enumerate(body.leaves)}
    length = loop.attributes["length"]
    if id(node) in leaves and not any(node is state for state in body.states):
        x = loop.inputs[leaves[id(node)]]
        return x if leaves[id(node)] < len(body.sequences) else ops.broadcast_to(x, (length, *x.shape))
    if node.op == "reshape":
        return ops.reshape(each(loop, node.inputs[0]), (length, *node.shape))
    if node.op == "transpose":
        return ops.transpose(each(loop, node.inputs[0]), [0, *(axis + 1 for axis in node.attributes["axes"])])
    return apply(RESULT, loop, kind=EACH, number=place)


def last(loop: Tensor, state: int) -> Tensor:
    """What a state ends with; what it began with if there are no steps."""
    return apply(RESULT, loop, kind=LAST, number=state)


# --- making one -------------------------------------------------------------------------------------------------------


def placeholder(shape: Shape, dtype: str, name: str) -> Tensor:
    """What a body is given, as a leaf."""
    return leaf(Variable(name, shape, dtype, LOOP, owner="loop"))


@dataclass(frozen=True)
class Made:
    """A loop, and the nodes of its body that stand for the outputs its builder was given."""

    loop: Tensor
    outputs: tuple[Tensor, ...]

    def each(self, output: int) -> Tensor:
        """An output at every step."""
        return each(self.loop, self.outputs[output])

    def last(self, state: int) -> Tensor:
        """What a state ends with."""
        return last(self.loop, state)


@dataclass(frozen=True)
class InBlocks:
    """A loop over blocks of steps, whose body is a loop over the steps of one; then the steps that are left.

    A loop in a loop is run again on the way back (see `_stays`), from the states between blocks: all that is kept.
    """

    blocks: Made
    rest: Made

    def each(self, output: int) -> Tensor:
        first, rest = self.blocks.each(output), self.rest.each(output)
        return ops.concatenate([ops.reshape(first, (first.shape[0] * first.shape[1], *first.shape[2:])), rest], 0)

    def last(self, state: int) -> Tensor:
        return self.rest.last(state)


class Builder:
    """Makes a loop: what is computed from `along` and `carry` is its body.

    length: the number of steps. reverse: from the last step to the first. cut: no gradient passes from step t to step t − 1
    where t is a multiple of it; 0: it always passes. recompute: keep the states every √length steps for the way back, and
    compute what is between again.
    """

    whole = False  # a body sees one step, not the whole sequence
    cyclic = True

    def __init__(self, length: Size, *, reverse: bool = False, cut: int = 0, recompute: bool = False) -> None:
        self.length, self.reverse, self.cut, self.recompute = length, reverse, cut, recompute
        self._began = now()
        self._sequences: list[tuple[Tensor, Tensor]] = []
        self._states: list[tuple[Tensor, Tensor]] = []
        self._nexts: dict[int, Tensor] = {}

    def along(self, x: Tensor) -> Tensor:
        """This step of x, which is (length, …)."""
        for inside, outer in self._sequences:
            if outer is x:
                return inside
        self._sequences.append((placeholder(x.shape[1:], x.dtype, f"sequence {len(self._sequences)}"), x))
        return self._sequences[-1][0]

    def carry(self, initial: Tensor, name: str = "") -> Tensor:
        """A state as it is before this step; `initial` before the first."""
        self._states.append((placeholder(initial.shape, initial.dtype, f"state {len(self._states)}"), initial))
        return self._states[-1][0]

    def keep(self, state: Tensor, after: Tensor) -> None:
        """Say what a state is after this step."""
        if (state.shape, state.dtype) != (after.shape, after.dtype):
            raise InvalidValue(
                explain(
                    "a state has another shape after a step than before it.",
                    expected=f"{written(state.shape)} {state.dtype}",
                    received=f"{written(after.shape)} {after.dtype}",
                )
            )
        self._nexts[id(state)] = after

    def made(self, outputs: Sequence[Tensor]) -> Made | InBlocks:
        """The loop, when everything has been said."""
        states = [inside for inside, _ in self._states]
        nexts = [self._nexts[id(state)] for state in states]
        body, around = closed([inside for inside, _ in self._sequences], states, nexts, outputs, self._began)
        along, starts = ([outer for _, outer in each] for each in (self._sequences, self._states))

        def run(along: Sequence[Tensor], starts: Sequence[Tensor], length: Size) -> Made:
            options = {"length": length, "reverse": self.reverse, "cut": self.cut}
            return Made(apply(SCAN, *along, *starts, *around, body=body, **options), body.outputs)

        span, blocks = in_blocks(self.length) if isinstance(self.length, int) else (SPAN, BLOCKS)
        if not self.recompute or blocks == 0:
            return run(along, starts, self.length)
        whole: Size = blocks * span
        outer = Builder(blocks)
        parts = [ops.reshape(_between(x, 0, whole), (blocks, span, *x.shape[1:])) for x in along]
        states = [outer.carry(start) for start in starts]
        block = run([outer.along(x) for x in parts], states, span)
        for i, state in enumerate(states):
            outer.keep(state, block.last(i))
        first = outer.made([block.each(i) for i in range(len(body.outputs))])
        assert isinstance(first, Made)
        ends = [first.last(i) for i in range(len(states))]
        return InBlocks(first, run([_between(x, whole, self.length) for x in along], ends, self.length - whole))


def _between(x: Tensor, first: Size, end: Size) -> Tensor:
    """x[first:end], for sizes that may be symbolic."""
    others = x.shape[1:]
    start, stop = (first, *[0] * len(others)), (end, *others)
    return apply("slice", x, start=start, stop=stop, step=(1,) * x.ndim)


def closed(
    sequences: Sequence[Tensor],
    states: Sequence[Tensor],
    nexts: Sequence[Tensor],
    outputs: Sequence[Tensor],
    began: float,
    stand_ins: Mapping[int, Tensor] | None = None,
    known: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Body, list[Tensor]]:
    """A body cut off from what is around it, and the values around it that it reads.

    What was made before `began`, and what does not depend on a step, is computed once outside: also transposed matrices, which
    are then copied once. Constants and other views stay inside.
    stand_ins: leaves to put in place of certain nodes, by their ids; known: leaves that stand for values around the body.
    """
    replaced = stand_ins or {}
    given = {id(x) for x in (*sequences, *states)}
    outer: dict[int, Tensor] = {id(inside): outside for inside, outside in known}
    found: dict[int, Tensor] = {}
    stack = [*nexts, *outputs]
    while stack:
        node = stack.pop()
        node = replaced.get(id(node), node)
        if id(node) not in found:
            found[id(node)] = node
            if node.serial >= began or _stays(node):
                stack.extend(node.inputs)

    moves: set[int] = set(given)  # what differs from step to step
    made: dict[int, Tensor] = {}
    around = list(known)
    for node in sorted(found.values(), key=lambda node: node.serial):
        inputs = [replaced.get(id(x), x) for x in node.inputs]
        if id(node) in given or id(node) in outer or node.op in FIXED:
            made[id(node)] = node
            continue
        if any(id(x) in moves for x in inputs):
            moves.add(id(node))
        elif all(id(x) in found for x in inputs):
            same = all(outer.get(id(x), x) is x for x in inputs)
            outer[id(node)] = node if same else rebuilt(node, tuple(outer.get(id(x), x) for x in inputs))
        if id(node) in moves or (node.primitive.view is not None and node.op != "transpose"):
            made[id(node)] = rebuilt(node, tuple(made[id(x)] for x in inputs))
        else:
            made[id(node)] = _stand_in(node, f"around {len(around)}")
            around.append((made[id(node)], outer.get(id(node), node)))

    def inside_of(nodes: Sequence[Tensor], name: str) -> dict[str, Tensor]:
        return {f"{name} {i}": made[id(replaced.get(id(x), x))] for i, x in enumerate(nodes)}

    merged = merge(Graph(inside_of(nexts, "next") | inside_of(outputs, "output"), {}))
    used = {id(node) for node in merged.nodes}
    around = [(inside, outer) for inside, outer in around if id(inside) in used]
    body = Body(
        tuple(sequences),
        tuple(states),
        tuple(inside for inside, _ in around),
        tuple(merged.outputs[f"next {i}"] for i in range(len(nexts))),
        tuple(merged.outputs[f"output {i}"] for i in range(len(outputs))),
    )
    return body, [outer for _, outer in around]


def _stays(node: Tensor) -> bool:
    """Whether a node is made anew in every body that needs it: it costs no memory, or it is itself a loop."""
    return node.primitive.view is not None or node.op in (SCAN, RESULT)


def _stand_in(node: Tensor, name: str) -> Tensor:
    """A leaf that looks like the node, at its place in the order of creation."""
    variable = Variable(name, node.shape, node.dtype, LOOP, owner="loop")
    place = Place(node.place.layer)
    return Tensor(PRIMITIVES["variable"], (), {"variable": variable}, node.shape, node.dtype, place, None, node.serial)


# --- the way back -----------------------------------------------------------------------------------------------------


def _gradient(loop: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor | None]:
    """Gradients of what a loop was given, from those of its results."""
    body: Body = loop.attributes["body"]
    length, cut = loop.attributes["length"], loop.attributes["cut"]
    began = now()
    given: dict[int, Tensor] = {}  # by the node that the result shows at every step
    ends: dict[int, Tensor] = {}  # by the state
    for part, g in parts:
        known = given if part.attributes["kind"] == EACH else ends
        place = part.attributes["number"]
        known[place] = ops.add(known[place], g) if place in known else g

    arriving = {place: placeholder(body.nodes[place].shape, body.nodes[place].dtype, "gradient") for place in given}
    carried = {i: placeholder(x.shape, x.dtype, "gradient") for i, x in enumerate(body.states) if x.dtype in FLOATS}
    seeds = [(body.nodes[place], g) for place, g in arriving.items()] + [(body.nexts[i], g) for i, g in carried.items()]
    found = pullback(seeds, body.leaves)
    split = len(body.sequences), len(body.sequences) + len(body.states)
    by_step, by_state, by_rest = found[: split[0]], found[split[0] : split[1]], found[split[1] :]

    sequences, along = list(arriving.values()), list(given.values())
    if cut:
        sequences.append(placeholder((), "bool", "kept"))
        along.append(_kept(length, cut))
    nexts = []
    for i, g in carried.items():
        before = by_state[i]
        if before is None:
            nexts.append(_zeros(g))
        else:
            nexts.append(before * ops.broadcast_to(sequences[-1], g.shape) if cut else ops.broadcast_to(before, g.shape))
    totals = _Totals()
    summed = [None if g is None else totals.of(g) for g in by_rest]
    shown = {i: totals.shown(g) for i, g in enumerate(by_step) if g is not None}

    nexts += totals.nexts()
    saved = _saved(body, [*nexts, *totals.each])
    stand_ins = {id(node): _stand_in(node, "saved") for node in saved}
    outer = {id(x): y for x, y in zip(body.invariants, loop.inputs[split[1] :], strict=True)}
    known_around = [(stand_ins[id(x)], outer[id(x)]) for x in saved if id(x) in outer]
    walked = [x for x in saved if id(x) not in outer]
    sequences += [stand_ins[id(x)] for x in walked]
    along += [each(loop, x) for x in walked]
    states = [*carried.values(), *totals.sums]
    initial = [ends.get(i) for i in carried] + [None] * len(totals.sums)
    back, around = closed(sequences, states, nexts, totals.each, began, stand_ins, known_around)
    starts = [_zeros(x) if start is None else start for x, start in zip(states, initial, strict=True)]
    backwards = {"body": back, "length": length, "reverse": not loop.attributes["reverse"], "cut": 0}
    result = Way(apply(SCAN, *along, *starts, *around, **backwards), back.outputs, len(carried))
    order = list(carried)
    return [
        *(result.each(shown[i]) if i in shown else None for i in range(len(body.sequences))),
        *(last(result.loop, order.index(i)) if i in carried else None for i in range(len(body.states))),
        *(None if total is None else total(result) for total in summed),
    ]


def _zeros(like: Tensor) -> Tensor:
    return ops.broadcast_to(constant(0.0, like.dtype), like.shape)


def _kept(length: Size, cut: int) -> Tensor:
    """False at steps 0, cut, 2 · cut, …: shape (length,), bool."""
    here = ops.cast(ops.iota(length, "int64"), "float64")
    block, before = ops.floor((here + 0.5) * (1.0 / cut)), ops.floor((here - 0.5) * (1.0 / cut))
    return ops.logical_not(block > before)


def _saved(body: Body, wanted: Sequence[Tensor]) -> list[Tensor]:
    """The values of the forward body that a backward one reads."""
    seen: set[int] = set()
    saved = []
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if id(node) in body.number and node.op not in FIXED and not _stays(node):
            saved.append(node)
        else:
            stack.extend(node.inputs)
    return sorted(saved, key=lambda node: body.number[id(node)])


@dataclass(frozen=True)
class Way:
    """A loop that runs back, its values that are shown at every step, and how many states it has before its sums."""

    loop: Tensor
    outputs: tuple[Tensor, ...]
    carried: int

    def each(self, place: int) -> Tensor:
        return each(self.loop, self.outputs[place])


Total = Callable[[Way], Tensor]


class _Totals:
    """Sums over all steps of values of a body. Products with transposed matrices and sums over axes are taken after the loop,
    over all steps at once; what else there is, step by step, in a state of its own."""

    def __init__(self) -> None:
        self.each: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.terms: list[Tensor] = []

    def nexts(self) -> list[Tensor]:
        return [total + term for total, term in zip(self.sums, self.terms, strict=True)]

    def shown(self, node: Tensor) -> int:
        """Ask for a value at every step."""
        self.each.append(node)
        return len(self.each) - 1

    def of(self, node: Tensor) -> Total:
        """What gives the sum of a value, once the loop is there."""
        if node.op == "add":
            a, b = map(self.of, node.inputs)
            return lambda way: a(way) + b(way)
        if node.op in ("reshape", "transpose", "negative"):
            inner = self.of(node.inputs[0])
            if node.op == "negative":
                return lambda way: -inner(way)
            if node.op == "reshape":
                return lambda way: ops.reshape(inner(way), node.shape)
            return lambda way: ops.transpose(inner(way), node.attributes["axes"])
        if node.op == "matmul" and node.ndim == 2 and node.inputs[0].op == "transpose":
            left, right = self.shown(node.inputs[0].inputs[0]), self.shown(node.inputs[1])
            return lambda way: ops.transpose(_rows(way.each(left))) @ _rows(way.each(right))
        if node.op == "sum":
            place, axes = self.shown(node.inputs[0]), (0, *(axis + 1 for axis in node.attributes["axes"]))
            return lambda way: ops.sum(way.each(place), axes)
        self.sums.append(placeholder(node.shape, node.dtype, "sum"))
        self.terms.append(node)
        state = len(self.sums) - 1
        return lambda way: last(way.loop, way.carried + state)


def _rows(x: Tensor) -> Tensor:
    return ops.reshape(x, (count(x.shape[:-1]), x.shape[-1]))
