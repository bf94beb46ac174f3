"""What a model is made of, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .graph import Tensor
from .layers.call import Call, flattened
from .recurrence import Feedback
from .specs import count, written
from .tables import render

if TYPE_CHECKING:
    from .model import Model


def _sources(model: Model) -> list[str]:
    """For each use of a layer, what feeds it; empty for a stack, where that is the line above."""
    if not model.built:
        return []
    inputs, records = model.records()
    calls = [record for record in records if isinstance(record, Call)]
    given = [flattened(list(call.inputs)) for call in calls]
    last = inputs[0] if len(inputs) == 1 else None
    chained = len(calls) == len(records)
    names = {id(x): variable.name for x, variable in zip(inputs, model.inputs, strict=True)}
    for call, before in zip(calls, given, strict=True):
        chained = chained and len(before) == 1 and before[0] is last
        last = call.outputs[0]
        names.update((id(x), call.layer.name) for x in call.outputs)
    if chained:
        return []
    return [", ".join(dict.fromkeys(name for x in before for name in _named(x, names))) or "weights" for before in given]


def _named(x: Tensor, names: dict[int, str]) -> list[str]:
    """The layers and inputs behind a value, also through operations between layers."""
    found: list[str] = []
    stack, met = [(x, "")], set()
    while stack:
        node, late = stack.pop()
        if isinstance(node, Feedback) and node.connected is not None:
            if id(node) not in met:  # a cycle of operations alone has no name
                met.add(id(node))
                stack.append((node.connected, " one step late"))
        elif id(node) in names:
            found.append(names[id(node)] + late)
        else:
            stack += [(each, late) for each in node.inputs[::-1]]
    return found


def text(model: Model) -> str:
    rows, total, trainable = [], 0, 0
    sources = _sources(model)
    seen: set[int] = set()
    uses = model.rows() if model.built else [(layer, ()) for layer in model.layers]
    for number, (layer, outputs) in enumerate(uses):
        stage = outputs[0] if outputs else None
        own = [weight for weight in layer.weights if id(weight) not in seen]
        seen |= {id(weight) for weight in own}
        parameters = sum(weight.size for weight in own)
        total += parameters
        trainable += sum(weight.size for weight in own if weight.trainable)
        shape = written(stage.shape) if stage is not None else "?"
        values = "b × " + str(count(stage.shape[1:])).replace("·", " × ") if stage is not None else "?"
        row = [f"{layer.name} ({type(layer).__name__})", shape, values, f"{parameters:,}" if stage is not None else "?"]
        rows.append(row + sources[number : number + 1])
    known = "" if model.built else " (sizes follow from the first data)"
    footer = [f"parameters: {total:,}, trainable: {trainable:,}{known}"]
    columns = ["layer", "output shape", "activations", "parameters", *(["fed by"] if sources else [])]
    return render(f'model "{model.name}"', columns, rows, footer)


def print_summary(model: Model) -> None:
    print(text(model))
