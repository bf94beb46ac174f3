"""Data, checked against a model, and the batch slots it goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import as_array, as_inputs, check_finite, check_same_rows, sequence_length
from .errors import InvalidValue, explain
from .graph import BATCH as BATCH_ROLE
from .graph import Variable
from .losses import ANY
from .specs import BATCH, INTEGERS, TIME, Shape, fits, written
from .steps import EVALUATION
from .targets import as_targets, sample_weights

if TYPE_CHECKING:
    from .model import Model

Array = np.ndarray[Any, Any]


@dataclass
class Batches:
    """Checked data, and the batch slots it goes into."""

    columns: list[tuple[Variable, Array]]
    rows: int
    weighted: bool = False
    time: int = 1

    def converted(self) -> Batches:
        """The same data in the dtypes of the slots, in rows that lie one after the other; copied only where it is not."""
        return Batches(
            [(slot, np.ascontiguousarray(values, slot.dtype)) for slot, values in self.columns],
            self.rows,
            self.weighted,
            self.time,
        )

    def part(self, rows: slice) -> Batches:
        start, stop, _ = rows.indices(self.rows)
        return Batches([(slot, values[rows]) for slot, values in self.columns], stop - start, self.weighted, self.time)


def prepare(
    model: Model,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    prefix: str = "",
) -> Batches:
    """Check data against the model. Raises before anything changes."""
    model.require_compiled()
    model.build_from(x)
    model.require_built()
    columns = checked_inputs(model, x, prefix + "x")
    rows = len(columns[0][1])
    many = len(model.heads) > 1
    targets = []
    for head, y_pred, data in zip(model.heads, model.outputs, model.split_targets(y, prefix + "y"), strict=True):
        name = f"{prefix}y[{head.name!r}]" if many else prefix + "y"
        if head.loss.target == ANY:
            values = as_array(data, name)
            if values.ndim == 1 and y_pred.ndim == 2 and y_pred.shape[-1] == 1:
                values = values[:, None]
            check_finite(values, y_pred.dtype, name)
            alike = fits(values.shape[1:], y_pred.shape[1:])
            dtype = y_pred.dtype if alike or values.dtype.kind not in "iu" else INTEGERS[0]
            shape = y_pred.shape if alike else (BATCH, *values.shape[1:])
        else:
            shape, dtype = head.loss.target_spec(y_pred)
            _check_steps(model, columns, shape, as_array(data, name), name)
            values = as_targets(data, shape, dtype, head.loss, y_pred.shape, rows, name)
        check_same_rows(columns[0][1], values, columns[0][0].name if len(columns) > 1 else prefix + "x", name)
        targets.append((head, shape, dtype, values))
    expected = [(Variable(head.name or "y", shape, dtype, BATCH_ROLE), values) for head, shape, dtype, values in targets]
    time = sequence_length([*columns, *expected], model.steps)
    steps = time if all(TIME in y_pred.shape for y_pred in model.outputs) else None
    first, dtype = targets[0], model.outputs[0].dtype
    weights = sample_weights(sample_weight, class_weight, first[3], first[0].loss, rows, dtype, steps)
    for head, shape, dtype, values in targets:
        model.set_target(head, shape, dtype)
        assert head.target is not None
        columns.append((head.target, values))
    if weights is not None:
        model.set_sample_weight((BATCH, TIME) if weights.ndim == 2 else (BATCH,))
        model.graph(EVALUATION, weighted=True)
        assert model.sample_weight is not None
        columns.append((model.sample_weight, weights))
    return Batches(columns, rows, weights is not None, time)


def aligned(model: Model, batches: Batches, validation: Batches | None) -> tuple[Batches, Batches | None]:
    """Data to train with and to validate with, for the same batch slots.

    Weights for samples become weights for time steps where the others are. Raises if their targets differ in shape.
    """
    if validation is None:
        return batches, None
    parts = batches, validation
    if any(part.weighted and part.columns[-1][1].ndim == 2 for part in parts):
        model.set_sample_weight((BATCH, TIME))
    for part in parts:
        if part.weighted:
            assert model.sample_weight is not None
            weights = part.columns[-1][1]
            if weights.ndim < len(model.sample_weight.shape):
                weights = np.repeat(weights[:, None], part.time, 1)
            part.columns[-1] = model.sample_weight, weights
    slots = [*model.inputs, *(head.target for head in model.heads), model.sample_weight]
    for (slot, values), (_, others) in zip(batches.columns, validation.columns, strict=False):
        if slot not in slots:  # the validation's took its place
            raise InvalidValue(
                explain(
                    "the targets to validate with have another shape than those to train with.",
                    expected=f"shape (n, {', '.join(map(str, values.shape[1:]))})",
                    received=written(others.shape),
                    fix="validation_data=(x_val, y_val), with y_val made as y is",
                )
            )
    return batches, validation


def _check_steps(model: Model, columns: Sequence[tuple[Variable, Array]], shape: Shape, y: Array, name: str) -> None:
    """Refuse targets for each step where the head gives one for each sequence, and the other way round."""
    recurrent = [each for layer in model.layers for each in (layer, *layer.all_sublayers()) if each.any_length]
    steps = {values.shape[variable.shape.index(TIME)] for variable, values in columns if TIME in variable.shape}
    if not recurrent or not steps:
        return
    (length,) = steps if len(steps) == 1 else (0,)
    if TIME in shape:
        rows = len(columns[0][1])
        single = y.ndim == len(shape) - 1 and len(y) == rows > 1 and fits(y.shape[1:], shape[2:])
        wrong = single or y.ndim < len(shape) - 1 or (y.ndim == 2 and y.shape[1] == 1 != length)
        said, fix = "one target for each sequence, but the head gives one for each step", "return_sequences=False in"
    else:
        wrong = y.ndim == len(shape) + 1 and y.shape[1] == length
        said, fix = "a target for each step, but the head gives one for each sequence", "return_sequences=True in"
    if wrong and len(y):
        raise InvalidValue(
            explain(
                f"{name} holds {said}.",
                expected=f"shape (n, {', '.join(map(str, shape[1:]))})",
                received=written(y.shape),
                fix=f"{fix} layer {recurrent[-1].name!r}",
            )
        )


def checked_inputs(model: Model, x: Any, what: str) -> list[tuple[Variable, Array]]:
    """Checked arrays for the model's inputs."""
    columns: list[tuple[Variable, Array]] = []
    many = len(model.inputs) > 1
    for variable, data in zip(model.inputs, model.split_inputs(x, what), strict=True):
        name = f"{what}[{variable.name!r}]" if many else what
        array = as_inputs(data, variable, name)
        if columns:
            check_same_rows(columns[0][1], array, f"{what}[{columns[0][0].name!r}]", name)
        columns.append((variable, array))
    return columns
