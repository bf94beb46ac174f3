"""A graph: what a program computes, and which variables it updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import Error
from ..specs import written
from .place import within
from .tensor import Tensor
from .variable import Variable


def ancestors(tensors: Iterable[Tensor], since: float = -1) -> list[Tensor]:
    """These tensors and all they are computed from, inputs first. No recursion: a net may be thousands of layers deep.

    since: leave out what is older, by serial.
    """
    found = {id(tensor): tensor for tensor in tensors}
    stack = list(found.values())
    while stack:
        for tensor in stack.pop().inputs:
            if id(tensor) not in found and tensor.serial >= since:
                found[id(tensor)] = tensor
                stack.append(tensor)
    return sorted(found.values(), key=lambda tensor: tensor.serial)


@dataclass(frozen=True)
class Graph:
    """Named outputs, and for each updated variable the value it has after the program."""

    outputs: Mapping[str, Tensor]
    updates: Mapping[Variable, Tensor]

    @cached_property
    def nodes(self) -> list[Tensor]:
        """Every node, in a topological order (that of creation)."""
        return ancestors([*self.outputs.values(), *self.updates.values()])

    @cached_property
    def variables(self) -> list[Variable]:
        """Every variable that is read or updated, in the order of first use."""
        leaves = [node.variable for node in self.nodes if node.op == "variable"]
        return list(dict.fromkeys([*leaves, *self.updates]))

    def __str__(self) -> str:
        names = {id(node): f"%{i}" for i, node in enumerate(self.nodes)}
        lines = [_line(node, names) for node in self.nodes]
        lines += [f"{name} = {names[id(node)]}" for name, node in self.outputs.items()]
        lines += [f"{variable.owner}/{variable.name} <- {names[id(node)]}" for variable, node in self.updates.items()]
        return "\n".join(lines)


def _line(node: Tensor, names: Mapping[int, str]) -> str:
    inputs = ", ".join(names.get(id(i), "?") for i in node.inputs)
    shown = {key: value for key, value in node.attributes.items() if not isinstance(value, bytes)}
    return f"{names[id(node)]} = {node.op}({inputs}) {shown or ''} : {written(node.shape)} {node.dtype}  {node.place.layer}"


def _key(node: Tensor, inputs: tuple[Tensor, ...]) -> Any:
    attributes = tuple(sorted(node.attributes.items(), key=lambda item: item[0]))
    return node.op, tuple(map(id, inputs)), attributes, node.dtype


def merge(graph: Graph) -> Graph:
    """The same graph with equal nodes made one (common subexpressions) and unused ones gone."""
    kept: dict[Any, Tensor] = {}
    now: dict[int, Tensor] = {}
    for node in graph.nodes:
        inputs = tuple(now[id(i)] for i in node.inputs)
        key = _key(node, inputs)
        if key not in kept:
            same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
            kept[key] = node if same else rebuilt(node, inputs)
        now[id(node)] = kept[key]
    return Graph(
        {name: now[id(node)] for name, node in graph.outputs.items()},
        {variable: now[id(node)] for variable, node in graph.updates.items()},
    )


def rebuilt(node: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """The node with other inputs of the same shapes. It keeps its place in the order of creation."""
    return Tensor(node.primitive, inputs, node.attributes, node.shape, node.dtype, node.place, node.spelling, node.serial)


def verify(graph: Graph) -> None:
    """Check what every transform must keep: order, specs, updates. Prints the neighbourhood of a fault."""
    names = {id(node): f"%{i}" for i, node in enumerate(graph.nodes)}

    def fault(node: Tensor, what: str) -> Error:
        around = [*node.inputs, node]
        return Error(f"the graph is not sound: {what}\n" + "\n".join(_line(each, names) for each in around))

    for node in graph.nodes:
        if any(i.serial >= node.serial for i in node.inputs):
            raise fault(node, "an input was made after the node that reads it")
        with within(site=node.place.site):
            spec = node.primitive.spec(*node.inputs, **node.attributes)
        if spec != (node.shape, node.dtype):
            raise fault(node, f"its rule says {spec}")
    for variable, node in graph.updates.items():
        if (variable.shape, variable.dtype) != (node.shape, node.dtype):
            raise fault(node, f"it updates {variable!r}")
