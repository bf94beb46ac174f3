"""The gradient of a loop: another loop, which runs the other way, and whose body is the gradient of the body.

Back-propagation through time (Werbos, 1990). What it needs of the forward are results of that loop: edges like any other.
Gradients of what is the same at every step are sums over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import ops
from ..gradient import pullback
from ..graph import SCAN, Body, Tensor, apply, constant
from ..graph.tensor import now
from ..specs import FLOATS, count
from .scan import EACH, FIXED, closed, each, last, placeholder, stand_in, stays


def gradient_of(loop: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor | None]:
    """Gradients of what a loop was given, from those of its results."""
    body: Body = loop.attributes["body"]
    length = loop.attributes["length"]
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
    nexts = []
    for i, g in carried.items():
        before = by_state[i]
        nexts.append(_zeros(g) if before is None else ops.broadcast_to(before, g.shape))
    totals = _Totals()
    summed = [None if g is None else totals.of(g) for g in by_rest]
    shown = {i: totals.shown(g) for i, g in enumerate(by_step) if g is not None}

    nexts += totals.nexts()
    saved = _saved(body, [*nexts, *totals.each])
    stand_ins = {id(node): stand_in(node, "saved") for node in saved}
    outer = {id(x): y for x, y in zip(body.invariants, loop.inputs[split[1] :], strict=True)}
    known_around = [(stand_ins[id(x)], outer[id(x)]) for x in saved if id(x) in outer]
    walked = [x for x in saved if id(x) not in outer]
    sequences += [stand_ins[id(x)] for x in walked]
    along += [each(loop, x) for x in walked]
    states = [*carried.values(), *totals.sums]
    initial = [ends.get(i) for i in carried] + [None] * len(totals.sums)
    back, around = closed(sequences, states, nexts, totals.each, began, stand_ins, known_around)
    starts = [_zeros(x) if start is None else start for x, start in zip(states, initial, strict=True)]
    backwards = {"body": back, "length": length, "reverse": not loop.attributes["reverse"]}
    result = Way(apply(SCAN, *along, *starts, *around, **backwards), back.outputs, len(carried))
    order = list(carried)
    return [
        *(result.each(shown[i]) if i in shown else None for i in range(len(body.sequences))),
        *(last(result.loop, order.index(i)) if i in carried else None for i in range(len(body.states))),
        *(None if total is None else total(result) for total in summed),
    ]


def _zeros(like: Tensor) -> Tensor:
    return ops.broadcast_to(constant(0.0, like.dtype), like.shape)


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
        if id(node) in body.number and node.op not in FIXED and not stays(node):
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
