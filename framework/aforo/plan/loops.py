"""Loops: the body is a plan of its own, made once; what moves with time lies at `base + t · stride` in the plan around it.

A state whose value at every step is asked for is kept as a history of length + 1: a step reads it at one place and writes it at
the next, so that nothing is copied. Any other state has one place, and is updated there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graph import SCAN, Body, Graph, Tensor, Variable
from ..specs import Layout, Shape, Size, count, strides
from .draft import Draft, Operand, Step

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class Slot:
    """What a variable of the body is at the first step that runs, and how many elements further at each later one."""

    variable: Variable
    operand: Operand
    move: Size


@dataclass(frozen=True)
class Loop:
    """A loop in a plan: operands are values of the plan around it.

    starts   (from, to): what is copied before the first step
    memory   the arena of the body, if it needs one
    """

    plan: Plan
    length: Size
    slots: tuple[Slot, ...]
    starts: tuple[tuple[Operand, Operand], ...]
    memory: Operand | None

    def renumbered(self, number: Callable[[int], int]) -> Loop:
        """The same loop, where the values of the plan around it have other numbers."""

        def now(operand: Operand) -> Operand:
            return Operand(number(operand.value), operand.layout)

        slots = tuple(Slot(slot.variable, now(slot.operand), slot.move) for slot in self.slots)
        starts = tuple((now(source), now(target)) for source, target in self.starts)
        return Loop(self.plan, self.length, slots, starts, self.memory and now(self.memory))


def lower_loop(
    draft: Draft,
    node: Tensor,
    results: Sequence[Tensor],
    reads: Sequence[Operand],
    copied: Callable[[Operand, Tensor, frozenset[int]], Operand],
    waits: frozenset[int],
    planned: Callable[[Graph], Plan],
) -> dict[int, Operand]:
    """Add the step of a loop. Gives where its results lie, by their ids. What no result depends on is left out."""
    body: Body = node.attributes["body"]
    length: Size = node.attributes["length"]
    reverse: bool = node.attributes["reverse"]
    kinds = [(each, each.attributes["kind"] == "each", each.attributes["number"]) for each in results]
    shown = {number for _, is_shown, number in kinds if is_shown}
    needed = _needed(body, shown, {number for _, is_shown, number in kinds if not is_shown})
    numbers = [(body.number[id(x)], body.number[id(after)]) for x, after in zip(body.states, body.nexts, strict=True)]
    kept = {i for i in needed if shown & set(numbers[i])}

    updates: dict[Variable, Tensor] = {}
    homes: dict[Variable, tuple[int, Size, Size]] = {}  # value, first element, elements from step to step
    where: dict[int, Operand] = {}  # what is shown
    ends: dict[int, Operand] = {}
    starts: list[tuple[Operand, Operand]] = []
    taken: list[Operand] = []
    writes: list[int] = []

    def new(shape: Shape, like: Tensor) -> int:
        writes.append(draft.add_value(shape, like.dtype, like.place))
        return writes[-1]

    def dense(value: int, first: Size, shape: Shape) -> Operand:
        return Operand(value, Layout(first, shape, strides(shape)))

    for i in sorted(needed):
        state, after = body.states[i], body.nexts[i]
        step, start = count(state.shape), reads[len(body.sequences) + i]
        taken.append(start)
        if i not in kept:
            value = new(state.shape, after)
            homes[state.variable], updates[state.variable] = (value, 0, 0), after
            starts.append((start, dense(value, 0, state.shape)))
            ends[i] = dense(value, 0, state.shape)
            continue
        value, room = new((length + 1, *state.shape), after), body.room(f"state {i}", after)
        old, fresh = (length * step, (length - 1) * step) if reverse else (0, step)
        homes[state.variable] = value, old, -step if reverse else step
        homes[room], updates[room] = (value, fresh, -step if reverse else step), after
        starts.append((start, dense(value, old, state.shape)))
        ends[i] = dense(value, 0 if reverse else length * step, state.shape)
        for number, first in zip(numbers[i], (step, 0) if reverse else (0, step), strict=True):
            where.setdefault(number, dense(value, first, (length, *state.shape)))
    for number in sorted(shown - where.keys()):
        x = body.nodes[number]
        value, room, step = new((length, *x.shape), x), body.room(f"value {number}", x), count(x.shape)
        homes[room], updates[room] = (value, (length - 1) * step if reverse else 0, -step if reverse else step), x
        where[number] = dense(value, 0, (length, *x.shape))

    plan = planned(Graph({}, updates))
    slots = []
    inputs = {x.variable: i for i, x in enumerate(body.leaves)}
    for variable in plan.variables:
        if variable in homes:
            value, first, move = homes[variable]
            slots.append(Slot(variable, dense(value, first, variable.shape), move))
            continue
        read = reads[inputs[variable]]
        moves = inputs[variable] < len(body.sequences)
        layout = read.layout
        if not Layout(0, layout.shape[moves:], layout.strides[moves:]).is_dense:
            read = copied(read, node, waits)
            layout = read.layout
        taken.append(read)
        stride: Size = layout.strides[0] if moves else 0
        first = layout.offset + (length - 1) * stride if reverse and moves else layout.offset
        slots.append(Slot(variable, dense(read.value, first, variable.shape), -stride if reverse else stride))

    memory = draft.add_value((plan.peak_bytes,), "bool", node.place) if plan.peak_bytes else None
    arena = None if memory is None else Operand(memory, Layout.dense((plan.peak_bytes,)))
    loop = Loop(plan, length, tuple(slots), tuple(starts), arena)
    scratch = () if memory is None else (memory,)
    flops: Size = 0
    for each in plan.steps:
        flops = each.flops + flops
    draft.steps.append(Step(SCAN, node.place, tuple(taken), tuple(writes), scratch, {}, flops * length, waits, loop))
    return {id(each): where[number] if is_shown else ends[number] for each, is_shown, number in kinds}


def _needed(body: Body, shown: set[int], ended: set[int]) -> set[int]:
    """The states that what is asked for depends on."""
    states = {id(x): i for i, x in enumerate(body.states)}
    needed = set(ended)
    stack = [*(body.nodes[number] for number in shown), *(body.nexts[i] for i in ended)]
    seen: set[int] = set()
    while stack:
        x: Any = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        stack.extend(x.inputs)
        if id(x) in states and states[id(x)] not in needed:
            needed.add(states[id(x)])
        if id(x) in states:
            stack.append(body.nexts[states[id(x)]])
    return needed
