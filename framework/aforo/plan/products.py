"""Matrix products that are added straight to a variable: w ← w − aᵀg and v ← μv + aᵀg without the product in memory."""

from __future__ import annotations

from aforo_backends.contract import ADDED_PRODUCT

from ..graph import Graph, Variable
from ..specs import Layout
from .draft import Draft, Operand, Step


def add_products(draft: Draft, graph: Graph, operands: dict[int, Operand]) -> Draft:
    """The draft with such updates made one step each: output = beta · last input + alpha · product."""
    writer, readers = draft.writers(), draft.readers()
    outside = {operand.value for operand in draft.outputs.values()}

    def single(read: Operand, variable: Variable, op: str) -> Step | None:
        """The step that made a value for this reader alone."""
        index = writer.get(read.value)
        if index is None or len(readers[read.value]) > 1 or read.value in outside:
            return None
        step = draft.steps[index]
        return step if step.op == op and read.layout == Layout.dense(variable.shape) else None

    def factor(read: Operand, variable: Variable) -> float | None:
        """What the variable's old value is multiplied by, if the operand is that and nothing else."""
        old = Operand(draft.old.get(variable, -1), Layout.dense(variable.shape))
        if read == old:
            return 1.0
        step = single(read, variable, "multiply")
        if step is None or step.reads[0] != old:
            return None
        constant = draft.values[step.reads[1].value].constant
        return None if constant is None or constant.is_sized or constant.shape else float(constant.at({}))

    gone: set[int] = set()
    made: dict[int, Step] = {}
    for variable, node in graph.updates.items():
        index = writer.get(operands[id(node)].value)
        step = draft.steps[index] if index is not None else None
        if index is None or step is None or step.op not in ("add", "subtract") or len(variable.shape) != 2:
            continue
        for kept, added in (step.reads, step.reads[::-1])[: 1 + (step.op == "add")]:
            beta, product = factor(kept, variable), single(added, variable, "matmul")
            if beta is None or product is None:
                continue
            gone.add(writer[added.value])
            if kept.value in writer:
                gone.add(writer[kept.value])
            old = Operand(draft.old[variable], Layout.dense(variable.shape))
            alpha = -1.0 if step.op == "subtract" else 1.0
            made[index] = Step(
                ADDED_PRODUCT, step.place, (*product.reads, old), step.writes, product.scratch, {"alpha": alpha, "beta": beta},
                product.flops + step.flops, product.after | step.after,
            )  # fmt: skip
            break
    steps = [made.get(index, step) for index, step in enumerate(draft.steps) if index not in gone]
    return Draft(draft.values, steps, draft.outputs, old=draft.old) if made else draft
