"""Faults of the data: inputs that are not scaled or say nothing, targets that the head cannot give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..losses import CLASSES
from ..outline import Outline
from ..probe import Probe
from ..specs import FLOATS
from .finding import Finding
from .layers import activation_of

Array = np.ndarray[Any, Any]

LARGE_INPUT = 10.0  # root mean square of a feature
UNEVEN_INPUT = 100.0  # between the standard deviations of two features
SMALL_INPUT = 1e-3
LARGE_TARGET = 100.0
MAJORITY = 0.95
_ENOUGH = 10  # rows, below which nothing is said about columns
_NORMALIZED = {"BatchNormalization", "LayerNormalization", "Embedding"}


def of_inputs(plan: Outline, name: str, value: int, values: Array) -> Iterator[Finding]:
    """Faults of one input. name: what it is called, "x" where there is one."""
    readers = plan.readers(value)
    if values.dtype.kind not in "fiu" or (readers and all(s.kind in _NORMALIZED for s in readers)):
        return
    table = values.reshape(-1, values.shape[-1]).astype(np.float64) if values.ndim > 1 else values[:, None].astype(np.float64)
    columns = table.shape[1]
    if len(table) < _ENOUGH:
        return
    size, spread = np.sqrt((table**2).mean(0)), table.std(0)
    constant = spread <= 1e-7 * np.maximum(size, 1e-30)
    said = constant & (size > 0)
    if constant.all() or constant.sum() > columns / 2 or said.any():
        which = np.flatnonzero(constant)
        yield Finding(
            name, "constant features", float(len(which)),
            f"{len(which)} of {columns} features never change, e.g. column {which[0]}",
            f"leave them out: {name}[:, {name}.std(axis=0) > 1e-6 * abs({name}).max(axis=0)]",
        )  # fmt: skip
    twins = _twins(table, constant)
    if twins is not None:
        yield Finding(
            name, "duplicate features", 2.0, f"columns {twins[0]} and {twins[1]} are equal in every row",
            f"leave one out: np.delete({name}, {twins[1]}, axis=1)",
        )  # fmt: skip
    varying = spread[~constant]
    worst = int(size.argmax())
    advice = f"({name} - {name}.mean(axis=0)) / ({name}.std(axis=0) + 1e-7), or af.BatchNormalization() as the first layer"
    if size[worst] > LARGE_INPUT:
        yield Finding(
            name, "unscaled inputs", float(size[worst]), f"column {worst} has a root mean square of {size[worst]:.4g}", advice
        )
    elif len(varying) and varying.max() > UNEVEN_INPUT * varying.min() and varying.max() > 1.0:
        ratio = float(varying.max() / varying.min())
        yield Finding(name, "unscaled inputs", ratio, f"the spread of one feature is {ratio:.4g} times that of another", advice)
    elif len(varying) and varying.max() < SMALL_INPUT:
        yield Finding(
            name, "unscaled inputs", float(varying.max()), f"no feature varies by more than {varying.max():.3g}", advice
        )


def _twins(table: Array, constant: Array) -> tuple[int, int] | None:
    """Two features that are equal in every row."""
    seen: dict[bytes, int] = {}
    for column in np.flatnonzero(~constant):
        first = seen.setdefault(table[:, column].tobytes(), int(column))
        if first != column:
            return first, int(column)
    return None


def of_targets(found: Probe, number: int, name: str, layer: str, values: Array) -> Iterator[Finding]:
    """Faults of the targets of one output. layer: what gives that output."""
    head = found.model.heads[number]
    value = found.outline.outputs[number]
    tensor = found.outline.values[value].tensor
    assert tensor is not None
    if head.loss.target == CLASSES:
        yield from _classes(name, values.reshape(-1).astype(np.int64), int(tensor.shape[-1]))
        return
    if tensor.dtype not in FLOATS or values.shape[1:] != tuple(tensor.shape[1:]):
        return
    table = values.astype(np.float64)
    active = activation_of(tensor)
    low, high = float(table.min()), float(table.max())
    if active == "softmax":
        off = float(np.abs(table.sum(-1) - 1.0).max())
        if off > 1e-3:
            yield Finding(
                layer, "targets that do not fit the head", off,
                f"rows of {name} sum to 1 ± {off:.4g}, what softmax gives sums to 1",
                "one-hot rows; or a sigmoid head with binary_crossentropy where several classes may hold",
            )  # fmt: skip
            return
        yield from _classes(name, table.reshape(-1, table.shape[-1]).argmax(-1), table.shape[-1])
        return
    limits = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}.get(active)
    if limits is not None and (low < limits[0] - 1e-6 or high > limits[1] + 1e-6):
        share = float(((table < limits[0]) | (table > limits[1])).mean())
        yield Finding(
            layer, "targets that do not fit the head", share,
            f"{share:.1%} of {name} lies outside what {active} can give ({low:.4g} to {high:.4g})",
            'a linear head, af.Dense(units), or targets scaled into its range',
        )  # fmt: skip
        return
    spread = float(table.std(0).max()) if len(table) > 1 else 0.0
    size = float(np.sqrt((table**2).mean()))
    if len(table) >= _ENOUGH and spread <= 1e-9 * max(size, 1e-30):
        yield Finding(name, "constant targets", low, f"every target is {low:.4g}", f"look at where {name} is made")
    elif active == "sigmoid" and table.shape[-1] == 1 and set(np.unique(table)) <= {0.0, 1.0}:
        yield from _classes(name, table.reshape(-1).astype(np.int64), 2)
    elif size > LARGE_TARGET:
        yield Finding(
            name, "targets of a large scale", size, f"the root mean square of {name} is {size:.4g}; a new net predicts about 1",
            f"({name} - {name}.mean(axis=0)) / ({name}.std(axis=0) + 1e-7), and the inverse of what predict gives",
        )  # fmt: skip


def _classes(name: str, labels: Array, classes: int) -> Iterator[Finding]:
    counts = np.bincount(labels, minlength=classes)
    share = float(counts.max() / len(labels))
    if len(labels) < 2 * _ENOUGH:
        return
    if share > MAJORITY:
        yield Finding(
            name, "unbalanced classes", share, f"{share:.1%} of the rows are of class {int(counts.argmax())}",
            "class_weight={…} in fit, or as many rows of each class",
        )  # fmt: skip
    missing = int((counts == 0).sum())
    if classes > 2 and missing > classes / 2 and len(labels) >= _ENOUGH * classes:
        fewer = f"a head of {classes - missing} units, or labels that use them all"
        yield Finding(
            name, "classes that never occur", float(missing), f"{missing} of the head's {classes} classes are in no row",
            fewer if classes - missing > 1 else "rows of the other classes: with one class there is nothing to tell apart",
        )  # fmt: skip
