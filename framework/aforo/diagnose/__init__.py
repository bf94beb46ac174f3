"""Why isn't it learning? A model and its data, looked through for what usually is the matter. Nothing in the model changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Tensor
from ..layers.call import revertible
from ..outline import Outline, outline
from ..parameter import Parameter
from ..probe import Probe, probe
from . import data as of_data
from . import layers as of_layers
from .finding import Finding
from .rehearsal import of_learning_rate

if TYPE_CHECKING:
    from ..batches import Batches
    from ..model import Model

Array = np.ndarray[Any, Any]
ROWS = 256  # looked at inside the model; the data is looked at whole


class Diagnosis:
    """Findings, the most basic first; empty for a healthy model."""

    def __init__(self, model: str, findings: tuple[Finding, ...]) -> None:
        self.model = model
        self.findings = findings

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, number: int) -> Finding:
        return self.findings[number]

    @property
    def healthy(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        if self.healthy:
            return f"{self.model}: nothing found that keeps it from learning"
        return "\n".join([f"{self.model}: {len(self)} finding{'s' * (len(self) > 1)}", *map(str, self.findings)])

    __repr__ = __str__


def diagnosed(model: Model, x: Any, y: Any) -> Diagnosis:
    """See `Model.diagnose`."""
    from ..batches import prepare

    with model.lock, revertible(), np.errstate(all="ignore"):
        everything = prepare(model, x, y)
        found = probe(model, training=True, inside=True)
        return Diagnosis(model.name, tuple(dict.fromkeys(_findings(model, found, everything))))


def _findings(model: Model, found: Probe, everything: Batches) -> Iterator[Finding]:
    plan, layers = found.outline, outline(model, inside=True)
    arrays = dict(everything.columns)
    many = len(model.inputs) > 1
    for variable, value in zip(model.inputs, plan.inputs, strict=True):
        name = f"x[{variable.name!r}]" if many else "x"
        yield from of_data.of_inputs(layers, name, layers.inputs[plan.inputs.index(value)], arrays[variable])
    givers = [_giver(plan, value) for value in plan.outputs]
    names = [f"y[{head.name!r}]" if head.name else "y" for head in model.heads]
    for number, (head, name, layer) in enumerate(zip(model.heads, names, givers, strict=True)):
        if head.target is not None and head.target in arrays:
            yield from of_data.of_targets(found, number, name, layer, arrays[head.target])
    weights = _weights(model)
    broken = list(of_layers.of_weights(weights))
    yield from broken
    yield from of_layers.of_structure(plan)

    sample = _sample(everything, ROWS)
    values, slopes, kernels, before = _measured(found, sample, model)
    blind = float(found.run({"error": _error(found)}, _shuffled(found, sample))["error"])
    yield from of_layers.of_activations(plan, values)
    yield from of_layers.of_gradients(plan, slopes, kernels)
    for head, name, layer, value in zip(model.heads, names, givers, plan.outputs, strict=True):
        if head.target is not None and value in values:
            target = dict(sample.columns)[head.target]
            yield from of_layers.of_predictions(name, layer, values[value], target)
    if not model.trainable_weights:
        yield Finding("model", "nothing to train", 0.0, "none of its weights is trainable", "layer.trainable = True")
    elif not any(finding.what == "weights that are no numbers" for finding in broken):
        yield from of_learning_rate(model, sample, before, blind)


def _giver(plan: Outline, value: int) -> str:
    """The layer that gives a value."""
    return next((of_layers.owner(step) for step in plan.steps if value in step.outputs), "x")


def _weights(model: Model) -> dict[str, list[Parameter]]:
    """The weights of each layer, however deep it lies, by its name."""
    found: dict[str, list[Parameter]] = {}
    for weight in model.weights:
        found.setdefault(weight.variable.owner, []).append(weight)
    return found


def _sample(data: Batches, most: int) -> Batches:
    """At most so many rows, evenly spread over the data."""
    if data.rows <= most:
        return data
    chosen = np.linspace(0, data.rows - 1, most).astype(int)
    return replace(data, columns=[(variable, values[chosen]) for variable, values in data.columns], rows=most)


def _error(found: Probe) -> Tensor:
    assert found.error is not None
    return found.error


def _shuffled(found: Probe, data: Batches) -> Batches:
    """The same inputs with the targets of other rows."""
    targets = {target.variable for target in found.targets}
    half = data.rows // 2
    return replace(data, columns=[(v, np.roll(a, half, axis=0) if v in targets else a) for v, a in data.columns])


def _measured(found: Probe, data: Batches, model: Model) -> tuple[dict[int, Array], dict[int, Array], dict[str, Array], float]:
    """What every value is, and the derivatives of the error by values and by kernels; and the error itself."""
    tensors = {i: value.tensor for i, value in enumerate(found.outline.values) if value.tensor is not None}
    kernels = {w.variable.owner: w for w in model.trainable_weights if w.name == "kernel"}
    slopes = found.derivatives([*tensors.values(), *kernels.values()])
    wanted = {f"value {i}": tensor for i, tensor in tensors.items()}
    wanted |= {f"slope {i}": slopes[id(tensor)] for i, tensor in tensors.items() if id(tensor) in slopes}
    wanted |= {f"kernel {name}": slopes[id(kernel)] for name, kernel in kernels.items() if id(kernel) in slopes}
    numbers = found.run({**wanted, "error": _error(found)}, data)

    def taken(kind: str) -> dict[str, Array]:
        return {key.removeprefix(f"{kind} "): array for key, array in numbers.items() if key.startswith(f"{kind} ")}

    values = {int(i): array for i, array in taken("value").items()}
    return values, {int(i): array for i, array in taken("slope").items()}, taken("kernel"), float(numbers["error"])
