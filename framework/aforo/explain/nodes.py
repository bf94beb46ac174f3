"""Nodes of a graph as formulas. What has no sign of its own is written as a function of that name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..graph import PARAMETERS, Tensor
from ..ops.elementwise import scalar_source
from ..specs import Dim, Size, count
from . import expression as e
from .expression import Expression, Scalar

_SEE_THROUGH = {"broadcast", "identity", "copy", "cast", "stop_gradient", "guard"}
_FUNCTIONS = {"logistic": "σ", "absolute": "abs", "amax": "max"}
_COMPARED = {"greater": ">", "greater_equal": "≥", "equal": "="}


def factors(size: Size) -> tuple[str, ...]:
    """A size as it stands below a fraction: b·2."""
    if not isinstance(size, Dim):
        return () if size == 1 else (str(size),)
    if len(size.terms) != 1:
        return (f"({size})",)
    ((symbols, number),) = size.terms.items()
    return (*({"batch": "b", "time": "T"}.get(symbol, symbol) for symbol in symbols), *([str(number)] if number != 1 else []))


def see_through(node: Tensor) -> bool:
    """Whether a whiteboard would not mention this operation: rows may be counted in several axes."""
    if node.op == "reshape":
        before, after = ([size for size in shape if size != 1][-1:] for shape in (node.inputs[0].shape, node.shape))
        return before == after or not after or not before
    return node.op in _SEE_THROUGH


def children(node: Tensor) -> tuple[Tensor, ...]:
    """What a formula of this node mentions."""
    return node.spelling.inputs if node.spelling is not None else node.inputs


def axes_sign(axes: Sequence[int], ndim: int) -> str:
    """ᵢ for the rows, ⱼ for the last axis, ᵢⱼ for all."""
    if len(axes) == ndim:
        return "ᵢⱼ" if ndim > 1 else "ᵢ"
    return "ⱼ" if list(axes) == [ndim - 1] else "ᵢ" if ndim - 1 not in axes else "ᵢⱼ"


class Writer:
    """Formulas of nodes: those that have a name by their name, the others by what they are made of."""

    def __init__(self, weight_name: Callable[[Tensor], str]) -> None:
        self.names: dict[int, Expression] = {}
        self.known: dict[int, tuple[Tensor, Expression]] = {}  # the tensor is kept, so that its identity stays its own
        self._weight_name = weight_name

    def name(self, node: Tensor, text: str | Expression) -> None:
        self.names[id(node)] = e.name(text) if isinstance(text, str) else text
        self.known[id(node)] = node, self.names[id(node)]

    def write(self, node: Tensor) -> Expression:
        """The formula of a node, by name if it has one."""
        stack = [node]
        while stack:  # no recursion: formulas may be deep
            top = stack[-1]
            missing = [x for x in children(top) if id(x) not in self.known]
            if id(top) in self.known or not missing:
                stack.pop()
                if id(top) not in self.known:
                    self.known[id(top)] = top, self.made_of(top)
            else:
                stack += missing
        return self.known[id(node)][1]

    def made_of(self, node: Tensor) -> Expression:
        """The formula of a node in terms of what it is computed from."""
        parts = [self.write(x) for x in children(node)]
        if node.spelling is not None:
            return e.call(node.spelling.name, *parts)
        op, attributes = node.op, node.attributes
        if see_through(node):
            return parts[0]
        if op == "variable":
            return e.name(self._weight_name(node) if node.variable.role == PARAMETERS else node.variable.name or "x")
        if op == "constant":
            if isinstance(attributes["value"], bytes):
                return e.name("C")
            return e.scaled(Scalar(attributes["value"]) * _size_factor(attributes["times"], attributes["per"]), None)
        if op == "add":
            return e.total(parts)
        if op == "subtract":
            return e.minus(*parts)
        if op == "negative":
            return e.scaled(Scalar(-1.0), parts[0])
        if op == "multiply":
            return self._product(node, parts)
        if op == "divide":
            return e.over(*parts)
        if op == "matmul":
            return e.dot(*parts)
        if op == "transpose":
            swaps = list(attributes["axes"])[-2:] == [node.ndim - 1, node.ndim - 2]
            return e.transposed(parts[0]) if swaps else e.call("transpose", parts[0])
        if op in ("square", "power"):
            return e.power(parts[0], 2.0 if op == "square" else attributes["exponent"])
        if op == "sqrt":
            return e.root(parts[0])
        if op == "reciprocal":
            return e.over(e.number(1.0), parts[0])
        if op in _COMPARED:
            return e.name("mask") if _drawn(node) else e.compared(parts[0], _COMPARED[op], parts[1])
        if op == "sum":
            sign = axes_sign(attributes["axes"], node.inputs[0].ndim)
            return e.summed("Σ" if sign == "ᵢ" else "Σ" + sign, parts[0])
        if op == "amax":
            return e.call("max" + axes_sign(attributes["axes"], node.inputs[0].ndim), parts[0])
        if op == "maximum" and parts[1].text == "0":
            return e.call("relu", parts[0])
        if op == "concatenate":
            return e.beside(parts)
        if op == "gather":
            return e.indexed(parts[0], parts[1].text)
        if op == "slice":
            return e.indexed(parts[0], _key(node))
        return e.call(_FUNCTIONS.get(op, op), *parts)

    def _product(self, node: Tensor, parts: Sequence[Expression]) -> Expression:
        for value, factor in (node.inputs, node.inputs[::-1]):
            number = scalar_source(factor)
            value = value.inputs[0] if value.op == "reshape" and see_through(value) else value
            if value.op != "sum" or number is None or number.op != "constant" or id(value) in self.names:
                continue
            x = value.inputs[0]
            reduced = count(x.shape[axis] for axis in value.attributes["axes"])
            if number.attributes["value"] == 1.0 and number.attributes["times"] == 1 and number.attributes["per"] == reduced:
                sign = axes_sign(value.attributes["axes"], x.ndim)
                return e.call("mean" + ("" if len(value.attributes["axes"]) == x.ndim else sign), self.write(x))
        return e.times(*parts)


def _drawn(node: Tensor) -> bool:
    """Whether a comparison is one of random numbers."""
    x = node.inputs[0]
    while x.op in ("slice", "reshape"):
        x = x.inputs[0]
    return x.op == "uniform"


def _size_factor(times: Size, per: Size) -> Scalar:
    return Scalar(1.0, factors(times), factors(per))


def _key(node: Tensor) -> str:
    """A slice as Python writes it, without the axes that are whole."""
    whole = node.inputs[0].shape
    keys = []
    for start, stop, step, size in zip(*(node.attributes[k] for k in ("start", "stop", "step")), whole, strict=True):
        full = start == 0 and stop == size and step == 1
        keys.append(":" if full else f"{start}:{stop}" + (f":{step}" if step != 1 else ""))
    return ", ".join(keys)
