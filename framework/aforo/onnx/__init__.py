"""ONNX: the graph of a prediction in the operators of another standard.

https://onnx.ai: operator set 18, in which every operator has the meaning that ONNX 1.16's reference gives it.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState, InvalidType, InvalidValue, explain
from .builder import Builder
from .rules import REASONS, RULES

if TYPE_CHECKING:
    from ..layers import Layer
    from ..model import Model

__all__ = ["REASONS", "RULES", "export"]

_OPSET, _IR = 18, 8
_LARGEST = 2**31 - 2**24  # bytes of weights in one file of protocol buffers; the rest is for the graph


def export(model: Model, path: Any) -> None:
    """Write the model's prediction as an ONNX file. Weights beyond 2 GiB lie beside it, in `path`.data."""
    onnx = _onnx()
    try:
        name = os.fsdecode(path)
    except TypeError:
        fix = 'model.export_onnx("model.onnx")'
        raise InvalidType(explain("a file is given by its path.", received=repr(path), fix=fix)) from None
    if os.path.isdir(name) or not os.path.isdir(os.path.dirname(name) or "."):
        raise InvalidValue(
            explain(
                f"{name!r} cannot be written.",
                expected="a path in a folder that exists",
                received="a folder" if os.path.isdir(name) else "a path in a folder that does not",
                fix='model.export_onnx("model.onnx")',
            )
        )
    with model.lock:
        made = translated(model, onnx)
    large = sum(each.ByteSize() for each in made.graph.initializer) > _LARGEST
    options = {"save_as_external_data": True, "location": f"{os.path.basename(name)}.data"} if large else {}
    if large and os.path.exists(f"{name}.data"):
        os.remove(f"{name}.data")  # onnx would append to it
    try:
        onnx.save_model(made, name, **options)
    except OSError as error:
        raise InvalidValue(explain(f"{name!r} cannot be written.", received=error.strerror)) from None


def translated(model: Model, onnx: Any) -> Any:
    """The model's prediction as an ONNX model in memory."""
    graph = model.graph("prediction")
    same = {variable.name for variable in model.inputs} & set(graph.outputs)
    if same:
        shared = min(same)
        raise InvalidValue(
            explain(
                f"an input and an output of the model are both named {shared!r}.",
                expected="names that differ: an ONNX graph knows its values by name",
                received=f"inputs {[each.name for each in model.inputs]}, outputs {[*graph.outputs]}",
                fix=f'a name of its own for the last layer, e.g. name="{shared}_out"',
            )
        )
    fixed = {} if model.steps is None else {"time": model.steps}
    builder = Builder(onnx, model.inputs, graph.outputs, _weight_names(model), fixed)
    builder.translate_all(graph.nodes)
    return onnx.helper.make_model(
        builder.finished(model.name, graph.outputs),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="aforo",
    )


def _weight_names(model: Model) -> dict[Any, str]:
    """layer/weight for every weight, with all layers on the way where they nest; that of the first layer that holds it."""
    names: dict[Any, str] = {}

    def visit(layer: Layer, path: str, around: tuple[Layer, ...] = ()) -> None:
        for each in layer.sublayers():
            if each not in (*around, layer):
                visit(each, f"{path}{each.name}/", (*around, layer))
        for weight in layer.weights:
            names.setdefault(weight.variable, path + weight.name)

    visit(model, "")
    return names


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError as error:
        raise InvalidState(
            explain(
                "export_onnx needs the package onnx, which is not installed.",
                expected="onnx 1.16 or later",
                received="none",
                fix="pip install 'aforo[onnx]'",
            )
        ) from error
