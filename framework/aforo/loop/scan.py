"""Loops over time, as one node of the graph: a body that is planned once, whatever the number of steps.

A loop walks along sequences (time, …), carries states, and gives, for any value of its body, that value at every step; for a
state, also what it ends with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import ops
from ..errors import InvalidValue, explain
from ..graph import (
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
from ..graph.primitive import Spec
from ..graph.tensor import now
from ..specs import BLOCKS, FLOATS, SPAN, Shape, Size, in_blocks, written

FIXED = ("constant", "iota", "ones")
EACH, LAST = "each", "last"


# --- the two primitives -----------------------------------------------------------------------------------------------


def _scan_spec(*inputs: Tensor, body: Body, length: Size, reverse: bool) -> Spec:
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


def _scan_gradient(loop: Tensor, parts: Any) -> Sequence[Tensor | None]:
    from .backward import gradient_of  # it makes loops itself

    return gradient_of(loop, parts)


primitive(SCAN, spec=_scan_spec, gradient=_scan_gradient, flops=_flops)
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

    A loop in a loop is run again on the way back (see `stays`), from the states between blocks: all that is kept.
    """

    blocks: Made
    rest: Made
    reverse: bool

    def each(self, output: int) -> Tensor:
        first, rest = self.blocks.each(output), self.rest.each(output)
        whole = ops.reshape(first, (first.shape[0] * first.shape[1], *first.shape[2:]))
        return ops.concatenate([rest, whole] if self.reverse else [whole, rest], 0)

    def last(self, state: int) -> Tensor:
        return self.rest.last(state)


class Builder:
    """Makes a loop: what is computed from `along` and `carry` is its body.

    length: the number of steps. reverse: from the last step to the first. cut: no gradient passes to the step before after so
    many steps, counted from the one that runs first; what a state starts with gets that of the first ones. 0: it always passes.
    recompute: keep the states every √length steps for the way back, and
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
        self._turns: Tensor | None = None
        self._passes: Tensor | None = None

    def along(self, x: Tensor) -> Tensor:
        """This step of x, which is (length, …)."""
        for inside, outer in self._sequences:
            if outer is x:
                return inside
        self._sequences.append((placeholder(x.shape[1:], x.dtype, f"sequence {len(self._sequences)}"), x))
        return self._sequences[-1][0]

    def carry(self, initial: Tensor, name: str = "") -> Tensor:
        """A state as it is before this step; `initial` before the first."""
        inside = placeholder(initial.shape, initial.dtype, f"state {len(self._states)}")
        self._states.append((inside, initial))
        if not self.cut or initial.dtype not in FLOATS:
            return inside
        if self._passes is None:
            self._passes = _passes(self.length, self.cut, self.reverse)
        return apply("passing", inside, self.along(self._passes))

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
        self._nexts[id(state.inputs[0] if state.op == "passing" else state)] = after

    def turn(self) -> Tensor:
        """The number of this step, from 0, in the order of time."""
        if self._turns is None:
            self._turns = ops.iota(self.length, "int64")
        return self.along(self._turns)

    def made(self, outputs: Sequence[Tensor]) -> Made | InBlocks:
        """The loop, when everything has been said."""
        states = [inside for inside, _ in self._states]
        nexts = [self._nexts[id(state)] for state in states]
        body, around = closed([inside for inside, _ in self._sequences], states, nexts, outputs, self._began)
        along, starts = ([outer for _, outer in each] for each in (self._sequences, self._states))

        def run(along: Sequence[Tensor], starts: Sequence[Tensor], length: Size) -> Made:
            return Made(apply(SCAN, *along, *starts, *around, body=body, length=length, reverse=self.reverse), body.outputs)

        span, blocks = in_blocks(self.length) if isinstance(self.length, int) else (SPAN, BLOCKS)
        if not self.recompute or blocks == 0:
            return run(along, starts, self.length)
        whole: Size = blocks * span
        left: Size = self.length - whole
        (begin, end), (first_left, end_left) = (
            ((left, self.length), (0, left)) if self.reverse else ((0, whole), (whole, self.length))
        )
        outer = Builder(blocks, reverse=self.reverse)
        parts = [ops.reshape(_between(x, begin, end), (blocks, span, *x.shape[1:])) for x in along]
        states = [outer.carry(start) for start in starts]
        block = run([outer.along(x) for x in parts], states, span)
        for i, state in enumerate(states):
            outer.keep(state, block.last(i))
        first = outer.made([block.each(i) for i in range(len(body.outputs))])
        assert isinstance(first, Made)
        ends = [first.last(i) for i in range(len(states))]
        rest = run([_between(x, first_left, end_left) for x in along], ends, left)
        return InBlocks(first, rest, self.reverse)


def _passes(length: Size, cut: int, reverse: bool) -> Tensor:
    """False at steps cut, 2 · cut, …, in the order in which they run: shape (length,), bool."""
    here = ops.cast(ops.iota(length, "int64"), "float64")
    if reverse:
        here = constant(1.0, "float64", times=length) - 1.0 - here
    block, before = ops.floor((here + 0.5) * (1.0 / cut)), ops.floor(ops.maximum(here - 0.5, 0.0) * (1.0 / cut))
    return ops.logical_not(block > before)


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
            if node.serial >= began or stays(node):
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
            made[id(node)] = stand_in(node, f"around {len(around)}")
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


def stays(node: Tensor) -> bool:
    """Whether a node is made anew in every body that needs it: it costs no memory, or it is itself a loop."""
    return node.primitive.view is not None or node.op in (SCAN, RESULT)


def stand_in(node: Tensor, name: str) -> Tensor:
    """A leaf that looks like the node, at its place in the order of creation."""
    variable = Variable(name, node.shape, node.dtype, LOOP, owner="loop")
    place = Place(node.place.layer)
    return Tensor(PRIMITIVES["variable"], (), {"variable": variable}, node.shape, node.dtype, place, None, node.serial)
