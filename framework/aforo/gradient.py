"""The backward: a transform from graph to graph.

Reverse accumulation (Griewank and Walther, Evaluating Derivatives, 2008, ch. 3). The rules build nodes, so a gradient can be
differentiated again, and what a backward needs of a forward is an edge like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import InvalidValue, explain
from .graph import BACKWARD, Tensor, ancestors, constant, within
from .ops import add, broadcast_to
from .specs import FLOATS, written


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
    nodes = ancestors([of])
    depends = {id(w) for w in wrt}
    for node in nodes:
        if any(id(i) in depends for i in node.inputs):
            depends.add(id(node))

    gradients: dict[int, Tensor] = {}
    stopped: list[Tensor] = []
    if id(of) in depends:
        gradients[id(of)] = constant(1.0, of.dtype) if seed is None else seed
    for node in reversed(nodes):
        g = gradients.get(id(node))
        if g is None or not any(id(i) in depends for i in node.inputs):
            continue
        rule = node.primitive.gradient
        if rule is None:
            stopped.append(node)
            continue
        with within(layer=node.place.layer, phase=BACKWARD, site=node.place.site):
            for x, gx in zip(node.inputs, rule(node, g), strict=True):
                if id(x) in depends and x.dtype not in FLOATS:
                    stopped.append(x)
                if gx is None or id(x) not in depends or x.dtype not in FLOATS:
                    continue
                known = gradients.get(id(x))
                gradients[id(x)] = gx if known is None else add(known, gx)
    return [_found(of, w, gradients, stopped) for w in wrt]


def _found(of: Tensor, w: Tensor, gradients: dict[int, Tensor], stopped: Sequence[Tensor]) -> Tensor:
    g = gradients.get(id(w))
    if g is not None:
        return broadcast_to(g, w.shape)
    variable = w.attributes.get("variable")
    name = f"{variable.owner}.{variable.name}" if variable is not None else repr(w)
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
