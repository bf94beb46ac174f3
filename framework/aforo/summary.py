"""What a model is made of, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .specs import count, written
from .tables import render

if TYPE_CHECKING:
    from .model import Model


def text(model: Model) -> str:
    rows, total, trainable = [], 0, 0
    seen: set[int] = set()
    uses = model.rows() if model.built else [(layer, ()) for layer in model.layers]
    for layer, outputs in uses:
        stage = outputs[0] if outputs else None
        own = [weight for weight in layer.weights if id(weight) not in seen]
        seen |= {id(weight) for weight in own}
        parameters = sum(weight.size for weight in own)
        total += parameters
        trainable += sum(weight.size for weight in own if weight.trainable)
        shape = written(stage.shape) if stage is not None else "?"
        values = "b × " + str(count(stage.shape[1:])).replace("·", " × ") if stage is not None else "?"
        rows.append((f"{layer.name} ({type(layer).__name__})", shape, values, f"{parameters:,}" if stage is not None else "?"))
    known = "" if model.built else " (sizes follow from the first data)"
    footer = [f"parameters: {total:,}, trainable: {trainable:,}{known}"]
    return render(f'model "{model.name}"', ("layer", "output shape", "activations", "parameters"), rows, footer)


def print_summary(model: Model) -> None:
    print(text(model))
