"""The body of a loop over time: a graph that runs once for each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .graph import ancestors
from .tensor import Tensor
from .variable import LOOP, Variable

SCAN, RESULT = "scan", "result"


@dataclass(frozen=True, eq=False)
class Body:
    """What a loop computes at one step. Two bodies of the same structure are equal.

    sequences   leaves: this step of the values that the loop walks along
    states      leaves: what is carried, as it was after the step before
    invariants  leaves: what is the same at every step
    nexts       the states after this step
    outputs     what else may be asked for
    """

    sequences: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    invariants: tuple[Tensor, ...]
    nexts: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    _rooms: dict[str, Variable] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> list[Tensor]:
        """Every node, in a topological order. Results of the loop are asked for by their place in it."""
        return ancestors([*self.leaves, *self.nexts, *self.outputs])

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What the body is given, in the order of the inputs of its loop."""
        return (*self.sequences, *self.states, *self.invariants)

    @cached_property
    def number(self) -> dict[int, int]:
        """The place of each node, by its id."""
        return {id(node): i for i, node in enumerate(self.nodes)}

    def room(self, name: str, like: Tensor) -> Variable:
        """Where a value is written at each step: the same variable for the same name, so that plans compare equal."""
        if name not in self._rooms:
            self._rooms[name] = Variable(name, like.shape, like.dtype, LOOP, owner=like.place.layer)
        return self._rooms[name]

    @cached_property
    def key(self) -> Any:
        """What the body computes, apart from who made it."""
        leaves = {id(x): i for i, x in enumerate(self.leaves)}

        def line(node: Tensor) -> Any:
            if id(node) in leaves:
                return leaves[id(node)], node.shape, node.dtype
            attributes = tuple(sorted(node.attributes.items(), key=lambda item: item[0]))
            return node.op, tuple(self.number[id(x)] for x in node.inputs), attributes

        nexts = tuple(self.number[id(x)] for x in self.nexts)
        return len(self.sequences), len(self.states), tuple(map(line, self.nodes)), nexts

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Body) and self.key == other.key)

    def __hash__(self) -> int:
        return hash(self.key)
