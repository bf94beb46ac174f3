"""Updates: new values of variables written straight into their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..graph import Graph, Variable
from ..specs import Layout, count
from .draft import Draft, Operand, Step


@dataclass(frozen=True)
class _Uses:
    """Who writes and who reads every value."""

    draft: Draft
    writer: dict[int, int]
    readers: list[list[int]]
    kept: set[int]

    def chain(self, variable: Variable, value: int, depth: int = 8) -> list[int] | None:
        """The values that can lie in the variable's memory, from one made of its old value to this one, if there are any."""
        step, dense, old = self.draft.steps[self.writer[value]], Layout.dense(variable.shape), self.draft.old.get(variable)
        overwrites = step.overwrites
        if any(read.value == old for read in step.reads):
            return [value] if _in_place(step, old, dense, overwrites) else None
        for read in step.reads if depth else ():
            if self.single(read.value) and self.fills(read.value, variable) and _in_place(step, read.value, dense, overwrites):
                earlier = self.chain(variable, read.value, depth - 1)
                if earlier:
                    return [*earlier, value]
        return None

    def fills(self, value: int, variable: Variable) -> bool:
        """Whether a value is as large as the variable's memory: what is read of it may be a part."""
        return count(self.draft.values[value].shape) == count(variable.shape)

    def single(self, value: int) -> bool:
        """Whether a value of the arena has one reader and is no output."""
        written = value in self.writer and self.draft.values[value].in_arena
        return written and len(self.readers[value]) == 1 and value not in self.kept


def pin_updates(draft: Draft, graph: Graph, operands: dict[int, Operand]) -> None:
    """Let the new value of each variable be written straight into its memory, wherever that is possible."""
    targets = {operands[id(node)].value for node in graph.updates.values()}
    uses = _Uses(
        draft,
        draft.writers(),
        draft.readers(),
        {operand.value for operand in draft.outputs.values()} | targets,
    )
    for variable, node in graph.updates.items():
        operand = operands[id(node)]
        if operand.value == draft.old.get(variable):
            if operand.layout == Layout.dense(variable.shape):
                continue  # it keeps its value
            operand = draft.add_copy(operand, node.place)  # its own values in another arrangement
        last = uses.writer.get(operand.value)
        members = None
        dense = operand.layout == Layout.dense(variable.shape) and uses.fills(operand.value, variable)
        if last is not None and draft.values[operand.value].in_arena and dense:
            reads_old = any(read.value == draft.old.get(variable) for read in draft.steps[last].reads)
            members = uses.chain(variable, operand.value) or (None if reads_old else [operand.value])
        if members is None:
            draft.chains[variable] = [draft.add_copy(operand, node.place, variable).value]
            continue
        for value in members:
            draft.values[value].variable = variable
        draft.chains[variable] = members


def _in_place(step: Step, value: int | None, dense: Layout, overwrites: Sequence[int]) -> bool:
    """Whether a step may write where one of its inputs lies: it looks at it only densely, and its kernel allows it."""
    looks = [(i, read.layout.walk) for i, read in enumerate(step.reads) if read.value == value]
    return any(i in overwrites for i, _ in looks) and all(walk == dense.walk for _, walk in looks)
