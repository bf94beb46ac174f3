"""Faults inside a model: units that say nothing, derivatives that vanish or explode, weights that cannot tell units apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..graph import Tensor
from ..ops.elementwise import scalar_source
from ..outline import DENSE, Outline, Step
from ..parameter import Parameter
from .finding import Finding

Array = np.ndarray[Any, Any]

DEAD = 0.5  # of a layer's units
SATURATED = 0.75  # of a layer's values
VANISHED, EXPLODED = 1e-3, 1e2  # the derivative before a layer over that before the last
LARGE_VALUE = 1e4
_FLAT = {"tanh": (-0.98, 0.98), "sigmoid": (0.02, 0.98)}  # beyond these, the derivative is below 4 % of its largest
_MUCH_DROPOUT = 0.8


def owner(step: Step) -> str:
    """The layer a step belongs to."""
    return step.name.removesuffix(" activation")


def activation_of(value: Tensor | None) -> str:
    """The activation that gives a value, however it was written: "relu", "tanh", "softmax", …, or "" for none."""
    if value is None:
        return ""
    if value.spelling is not None:
        return value.spelling.name
    if value.op == "maximum":
        zero = scalar_source(value.inputs[1])
        return "relu" if zero is not None and zero.op == "constant" and zero.attributes["value"] == 0 else ""
    return {"logistic": "sigmoid", "tanh": "tanh"}.get(value.op, "")


def of_weights(weights: Mapping[str, list[Parameter]]) -> Iterator[Finding]:
    """Kernels that are not finite, or in which every unit is the same."""
    for layer, own in weights.items():
        for weight in own:
            array = weight.numpy()
            if not np.isfinite(array).all():
                bad = int((~np.isfinite(array)).sum())
                yield Finding(
                    layer, "weights that are no numbers", float(bad),
                    f"{bad} of the {array.size} numbers of {weight.name} are nan or infinite",
                    "build the model anew with a learning rate ten times smaller, or clipping: af.SGD(0.001, clipnorm=1.0)",
                )  # fmt: skip
            elif weight.name == "kernel" and array.ndim == 2 and array.shape[1] > 1 and (array == array[:, :1]).all():
                value = float(array[0, 0])
                yield Finding(
                    layer, "units that are all the same", float(array.shape[1]),
                    f"its {array.shape[1]} units have equal weights ({value:.4g} …): they get equal gradients and stay equal",
                    'kernel_initializer="glorot_uniform"',
                )  # fmt: skip


def of_structure(plan: Outline) -> Iterator[Finding]:
    """Layers that could be one: no activation stands between them."""
    for step in plan.steps:
        if step.links != DENSE or not step.weights:
            continue
        readers = plan.readers(step.outputs[0])
        if len(readers) != 1 or step.outputs[0] in plan.outputs:
            continue
        after = readers[0]
        if after.kind == "Dropout" and len(plan.readers(after.outputs[0])) == 1:
            after = plan.readers(after.outputs[0])[0]
        if after.links != DENSE or not after.weights:
            continue
        rows, width = step.weights[0][1]
        columns = after.weights[0][1][1]
        if width < min(rows, columns):
            continue  # a bottleneck is meant: one regression of that rank
        yield Finding(
            step.name, "no activation between layers", 2.0,
            f"{step.name} and {after.name} are linear one after the other: together they are one regression",
            f'activation="relu" in {step.name}; model.simplify() folds those that one model has in a row',
        )  # fmt: skip
    for step in plan.steps:
        if step.kind == "Dropout" and float(step.function.removeprefix("dropout ")) > _MUCH_DROPOUT:
            rate = float(step.function.removeprefix("dropout "))
            yield Finding(step.name, "much dropout", rate, f"it drops {rate:.0%} of what it is given", "af.Dropout(0.3)")


def of_activations(plan: Outline, values: Mapping[int, Array]) -> Iterator[Finding]:
    """Units that are dead or saturated, and values that grow without bound."""
    for step in plan.steps:
        for out in step.outputs:
            array = values.get(out)
            if array is None or array.dtype.kind != "f":
                continue
            if not np.isfinite(array).all():
                share = float((~np.isfinite(array)).mean())
                yield Finding(
                    owner(step), "values that are no numbers", share, f"{share:.1%} of what it gives is nan or infinite",
                    "scaled inputs and a smaller learning rate; log, sqrt and division need positive arguments",
                )  # fmt: skip
                return
            size = float(np.sqrt((array.astype(np.float64) ** 2).mean()))
            if size > LARGE_VALUE:
                yield Finding(
                    owner(step), "exploding activations", size, f"the root mean square of what it gives is {size:.4g}",
                    'scaled inputs, kernel_initializer="glorot_uniform", af.BatchNormalization() before the activation',
                )  # fmt: skip
                return
            table, active = array.reshape(-1, array.shape[-1]), activation_of(plan.values[out].tensor)
            if active == "relu" and len(table) > 1 and out not in plan.outputs:
                dead = int((table.max(0) <= 0).sum())
                if dead >= DEAD * table.shape[1] and (dead > 1 or table.shape[1] == 1):
                    yield Finding(
                        owner(step), "dead ReLU units", dead / table.shape[1],
                        f"{dead} of {table.shape[1]} units give 0 for every row: no gradient passes them",
                        'a smaller learning rate, bias_initializer="zeros", activation="leaky_relu"',
                    )  # fmt: skip
            if active in _FLAT and out not in plan.outputs:
                low, high = _FLAT[active]
                share = float(((table < low) | (table > high)).mean())
                if share > SATURATED:
                    yield Finding(
                        owner(step), f"saturated {active}", share,
                        f"{share:.1%} of its values lie where {active} is flat",
                        'scaled inputs, smaller initial weights, or activation="relu"',
                    )  # fmt: skip


def of_gradients(plan: Outline, slopes: Mapping[int, Array], kernels: Mapping[str, Array]) -> Iterator[Finding]:
    """Derivatives that vanish or explode on their way from the last layer to the first."""
    linear = [step for step in plan.steps if step.links == DENSE and step.outputs[0] in slopes]
    sizes = [float(np.sqrt((slopes[step.outputs[0]].astype(np.float64) ** 2).mean())) for step in linear]
    for name, array in kernels.items():
        if not np.isfinite(array).all():
            yield Finding(
                name, "exploding gradients", float("inf"), "the derivative of the error by its kernel is nan or infinite",
                "scaled inputs and targets, smaller initial weights, af.SGD(…, clipnorm=1.0)",
            )  # fmt: skip
            return
    last = [not _followed(plan, step) for step in linear]  # parallel heads are not compared with one another
    heads = [(size, step) for size, step, is_last in zip(sizes, linear, last, strict=True) if is_last]
    inner = [(size, step) for size, step, is_last in zip(sizes, linear, last, strict=True) if not is_last]
    if not heads or not inner or not max(size for size, _ in heads):
        return
    size_of_head, head = max(heads, key=lambda each: each[0])
    linear = [step for _, step in inner]
    ratios = [size / size_of_head for size, _ in inner]
    least, most = min(ratios), max(ratios)
    if most > EXPLODED:
        yield Finding(
            linear[ratios.index(most)].name, "exploding gradients", most,
            f"the derivative that arrives there is {most:.3g} times that of {head.name}",
            'kernel_initializer="glorot_uniform", af.BatchNormalization(), af.SGD(…, clipnorm=1.0)',
        )  # fmt: skip
    if 0 < least < VANISHED:
        yield Finding(
            linear[ratios.index(least)].name, "vanishing gradients", least,
            f"the derivative that arrives there is {least:.3g} times that of {head.name}",
            'activation="relu", fewer layers, af.BatchNormalization(), or a skip: af.Concatenate()([h, x])',
        )  # fmt: skip


def _followed(plan: Outline, step: Step) -> bool:
    """Whether another linear layer comes after it, however much later."""
    seen: set[int] = set()
    stack = [*step.outputs]
    while stack:
        value = stack.pop()
        for reader in plan.readers(value) if value not in seen else ():
            if reader.links == DENSE:
                return True
            stack.extend(reader.outputs)
        seen.add(value)
    return False


def of_predictions(name: str, layer: str, predicted: Array, target: Array) -> Iterator[Finding]:
    """An output that is the same for every row, where the targets are not."""
    if len(predicted) < 10 or predicted.dtype.kind != "f" or not np.isfinite(predicted).all():
        return
    spread = float(predicted.astype(np.float64).std(0).max())
    wanted = float(target.astype(np.float64).std(0).max())
    size = float(np.abs(predicted).max())
    if wanted > 0 and spread <= 1e-5 * max(size, 1e-3):
        yield Finding(
            layer, "constant predictions", spread,
            f"it gives the same for every row (spread {spread:.3g}), {name} varies by {wanted:.3g}",
            "look at the layers before it: dead or saturated units, zero weights, inputs that never change",
        )  # fmt: skip
