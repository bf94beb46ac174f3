"""The numbers that colour a picture: those of one row of data, in the forward or in the backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..batches import Batches, checked_inputs, prepare
from ..checks import sequence_length
from ..errors import InvalidState, explain
from ..outline import Outline
from ..probe import first_rows, probe
from .numbers import Numbers

if TYPE_CHECKING:
    from ..model import Model


def measured(model: Model, plan: Outline, x: Any, y: Any, colour: str) -> Numbers:
    """Activations and weights, or the derivatives of the error by them, for the first row of x."""
    backward = colour == "gradient"
    if backward and y is None:
        raise InvalidState(
            explain(
                "a gradient needs targets.", expected="x and y", received="x", fix='model.draw(…, x=x, y=y, colour="gradient")'
            )
        )
    if backward:
        data = first_rows(prepare(model, x, y), 1)
    else:
        columns = checked_inputs(model, x, "x")
        data = first_rows(Batches(columns, len(columns[0][1]), time=sequence_length(columns, model.steps)), 1)
    found = probe(model, training=False)
    by_name = {value.name: value.tensor for value in found.outline.values}
    wanted = {str(i): by_name[value.name] for i, value in enumerate(plan.values)}
    kernels = {step.name: step.kernel for step in plan.steps if step.kernel is not None}
    tensors = {key: tensor for key, tensor in wanted.items() if tensor is not None}
    if backward:
        slopes = found.derivatives([*tensors.values(), *kernels.values()])
        tensors = {key: slopes[id(tensor)] for key, tensor in tensors.items() if id(tensor) in slopes}
        weights = {f"kernel {name}": slopes[id(kernel)] for name, kernel in kernels.items() if id(kernel) in slopes}
        numbers = found.run({**tensors, **weights}, data)
    else:
        numbers = found.run(tensors, data)
        numbers.update({f"kernel {name}": kernel.numpy() for name, kernel in kernels.items()})
    values = {int(key): _last_step(array, plan.values[int(key)].units) for key, array in numbers.items() if key in wanted}
    kernel_values = {key.removeprefix("kernel "): array for key, array in numbers.items() if key not in wanted}
    note = "Colours: the first row of the data" + (", its last time step" if data.time > 1 else "")
    what = ("δE/δ value", "δE/δ weight") if backward else ("activation", "weight")
    return Numbers(values, kernel_values, what, note)


def _last_step(array: Any, units: int) -> Any:
    """The numbers of one sample; of its last time step, where it has several."""
    return array.reshape(-1)[-units:]
