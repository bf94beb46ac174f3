"""The backward: a transform from graph to graph.

Reverse accumulation (Griewank and Walther, Evaluating Derivatives, 2008, ch. 3). The rules build nodes, so a gradient can be
differentiated again, and what a backward needs of a forward is an edge like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import InvalidValue, explain
from .graph import BACKWARD, RESULT, SCAN, Tensor, ancestors, constant, within
from .ops import add, broadcast_to, concatenate
from .specs import FLOATS, Size, written


def gradient(of: Tensor, wrt: Sequence[Tensor], seed: Tensor | None = None) -> list[Tensor]:
    """d of / d w for each w, as nodes of w's shape.

    `of` is a single number. `seed` is the gradient that starts the walk: 1 unless given.
    Raises if `of` does not depend on one of them, naming the operation that has no gradient.
    """
    if of.shape:
        raise InvalidValue(
            explain(
                "only a single number can be differentiated.",
                expected="a tensor of shape ()",
                received=written(of.shape),
                fix="af.ops.mean(E) or af.ops.sum(E)",
            )
        )
    seeds = [(of, constant(1.0, of.dtype) if seed is None else seed)]
    found, stopped = _walk(seeds, wrt)
    return [_found(of, w, found, stopped) for w in wrt]


def pullback(seeds: Sequence[tuple[Tensor, Tensor]], wrt: Sequence[Tensor]) -> list[Tensor | None]:
    """Σ g · ∂y/∂w over pairs (y, g) of a value and the gradient it is given, for each w; None where there is no way."""
    found, _ = _walk(seeds, wrt)
    return [found.get(id(w)) for w in wrt]


def _walk(seeds: Sequence[tuple[Tensor, Tensor]], wrt: Sequence[Tensor]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """The gradients of all nodes between, by id, and the nodes where the way back ends."""
    nodes = ancestors([y for y, _ in seeds], min((w.serial for w in wrt), default=0))  # what is older depends on none
    depends = {id(w) for w in wrt}
    for node in nodes:
        if any(id(i) in depends for i in node.inputs):
            depends.add(id(node))

    parts: dict[int, list[Any]] = {}
    stopped: list[Tensor] = []
    for y, g in seeds:
        if id(y) in depends:
            parts.setdefault(id(y), []).append(g)
    for node in reversed(nodes):
        if id(node) not in parts or not any(id(i) in depends for i in node.inputs):
            continue
        total: Any = parts[id(node)]
        if node.op != SCAN:
            total = _sum(node, total)
            parts[id(node)] = [total]
        if node.op == RESULT:  # its loop gathers the gradients of all that it gives
            parts.setdefault(id(node.inputs[0]), []).append((node, total))
            continue
        rule = node.primitive.gradient
        if rule is None:
            stopped.append(node)
            continue
        with within(layer=node.place.layer, phase=BACKWARD, site=node.place.site):
            for x, gx in zip(node.inputs, rule(node, total), strict=True):
                if id(x) in depends and x.dtype not in FLOATS:
                    stopped.append(x)
                if gx is None or id(x) not in depends or x.dtype not in FLOATS:
                    continue
                parts.setdefault(id(x), []).append(gx)
    return {id(w): _sum(w, parts[id(w)]) for w in wrt if id(w) in parts}, stopped


def _sum(node: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The sum of what arrives at a node. Where slices were taken of it that cover it, it is put together from them."""
    if len(parts) == 1:
        return parts[0]
    with within(layer=node.place.layer, phase=BACKWARD, site=node.place.site):
        return _joined(parts)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    for axis in range(parts[0].ndim):
        pieces = _pieces(parts, axis)
        if pieces:
            return concatenate(pieces, axis)
    total = parts[0]
    for g in parts[1:]:
        total = add(total, g)
    return total


def _pieces(parts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """What lies one after the other along an axis, if each part is such a piece among zeros and they fill the whole."""
    shape, others = parts[0].shape, [i for i in range(parts[0].ndim) if i != axis]
    starts: dict[Size, Tensor] = {}
    for g in parts:
        before, step = g.attributes.get("before", ()), g.attributes.get("step", ())
        if (
            g.op != "pad"
            or any(n != 1 for n in step)
            or any(before[i] != 0 or g.inputs[0].shape[i] != shape[i] for i in others)
        ):
            return []
        starts[before[axis]] = g.inputs[0]
    pieces: list[Tensor] = []
    end: Size = 0
    while end in starts:
        pieces.append(starts.pop(end))
        end = end + pieces[-1].shape[axis]
    return pieces if end == shape[axis] and len(pieces) == len(parts) else []


def _found(of: Tensor, w: Tensor, gradients: dict[int, Tensor], stopped: Sequence[Tensor]) -> Tensor:
    g: Tensor | None = gradients.get(id(w))
    if g is not None:
        return broadcast_to(g, w.shape)
    variable = w.attributes.get("variable")
    name = f"{variable.owner}.{variable.name}" if variable is not None and variable.owner else repr(w)
    blocking = [node for node in stopped if any(node_w is w for node_w in ancestors(node.inputs))]
    if not blocking:
        raise InvalidValue(
            explain(
                f"the error does not depend on {name}.",
                expected="a path of differentiable operations from it to the error",
                received="no path",
                fix="leave it out, or use it in the forward",
            )
        )
    node = blocking[0]
    layer = f" in layer {node.place.layer!r}" if node.place.layer else ""
    raise InvalidValue(
        explain(
            f"{name} gets no gradient: {node.op}{layer} has none ({node.primitive.stops}).",
            expected="differentiable operations on the way from the weights to the loss",
            received=f"{node.op} at {node.place.site}",
            fix="use a differentiable function there, e.g. softmax instead of argmax",
        )
    )
