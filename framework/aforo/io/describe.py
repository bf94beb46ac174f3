"""Objects as data: arguments, layers and the nets between them, so that they can be made again.

A number, a text and a list stand for themselves; everything else is an object with one key that says what it is. What a user
wrote (a class, a function) is in the file by its name only.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from ..device import read
from ..errors import InvalidType, InvalidValue, explain
from ..graph import PARAMETERS, Tensor, Variable
from ..layers.call import Call, mapped
from ..layers.layer import Layer
from ..losses import Loss
from ..metrics import Metric
from ..model import Model
from ..optimizers import Optimizer
from ..recurrence import Feedback, Record, turn
from ..schedules import Schedule
from ..sequential import Sequential
from ..specs import Dim
from .known import CLASSES, name_of

Array = np.ndarray[Any, Any]


def refuse(what: str, received: object, fix: str = "model.save_weights(path)") -> InvalidType:
    return InvalidType(
        explain(
            f"{what} cannot be saved.",
            expected="numbers, texts, lists, dicts, arrays, functions, layers",
            received=received,
            fix=fix,
        )
    )


@dataclass(frozen=True)
class _At:
    """Where in a net a tensor comes from."""

    place: dict[str, Any]


class Writer:
    """Describes a model. Each layer is described once, however often it is used.

    layers: the descriptions; arrays: what is too large for a text; custom: the user's own, by name
    """

    def __init__(self) -> None:
        self.layers: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self.arrays: dict[str, Array] = {}
        self.custom: dict[str, Any] = {}

    def value(self, value: Any, where: str) -> Any:
        """Any argument. where: what it is called, for names and errors."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, list):
            return [self.value(each, f"{where}[{i}]") for i, each in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": self.value(list(value), where)}
        if isinstance(value, Mapping):
            return {"dict": [[self.value(key, where), self.value(each, f"{where}[{key!r}]")] for key, each in value.items()]}
        if isinstance(value, _At):
            return {"at": value.place}
        if isinstance(value, Dim):
            return {"dim": [[list(symbols), n] for symbols, n in value.terms.items()]}
        if isinstance(value, bytes):
            return {"bytes": b64encode(value).decode()}
        if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
            return np.dtype(value).name
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return self._array(value)
        if isinstance(value, Layer):
            return {"layer": self.layer(value)}
        if isinstance(value, Tensor):
            raise refuse(where, f"a tensor of shape {value.shape}", "keep the array: x.numpy()")
        known = name_of(value)
        if known is not None:
            return {"aforo": known}
        if isinstance(value, (Optimizer, Schedule)) or type(value) in CLASSES.values():
            return self._made(value, where)
        if callable(value) or isinstance(value, (Loss, Metric)):
            return {"custom": self._named(value, where)}
        raise refuse(where, f"an object of {type(value).__name__}")

    def _array(self, values: Array) -> dict[str, Any]:
        key = f"values/{len(self.arrays)}"
        self.arrays[key] = values
        return {"array": key}

    def _named(self, thing: Any, where: str) -> str:
        """The name of something of the user's: its own, or where it is used, if it has none or shares it with another."""
        for name, known in self.custom.items():
            if known is thing:
                return name
        own = thing.name if isinstance(thing, (Loss, Metric)) else getattr(thing, "__name__", type(thing).__name__)
        name = where if own == "<lambda>" or own in self.custom else own
        while name in self.custom:
            name += "'"
        self.custom[name] = thing
        return name

    def _class(self, cls: type, where: str) -> dict[str, Any]:
        known = name_of(cls)
        return {"custom": self._named(cls, where)} if known is None else {"aforo": known}

    def _made(self, made: Any, where: str) -> dict[str, Any]:
        """An object whose options are attributes of the same names."""
        options: dict[str, Any] = {}
        clip = getattr(made, "clip", None) if isinstance(made, Optimizer) else None
        for name in _options(type(made)):
            if name in ("clipvalue", "clipnorm", "global_clipnorm") and isinstance(made, Optimizer):
                continue
            if not hasattr(made, name):
                kind = type(made).__name__
                raise refuse(f"{where}, a {kind},", f"no attribute {name!r}, which its __init__ takes", f"self.{name} = {name}")
            options[name] = self.value(getattr(made, name), f"{where}.{name}")
        if clip is not None:
            options[clip[0]] = clip[1]
        return {"made": self._class(type(made), where), "options": options}

    # --- layers -------------------------------------------------------------------------------------------------------

    def layer(self, layer: Layer) -> int:
        """The number of a layer's description."""
        if id(layer) in self._numbers:
            return self._numbers[id(layer)]
        if isinstance(layer, Model):
            described = {"net": self._net(layer)}
        else:
            options = vars(layer).get("made_with", {}) if type(layer).get_config is Layer.get_config else layer.get_config()
            if any(p.kind is p.VAR_POSITIONAL for p in signature(type(layer).__init__).parameters.values()):
                what = f"layer {layer.name!r}, whose __init__ takes *args,"
                raise refuse(what, type(layer).__name__, "name the arguments: def __init__(self, units, …)")
            described = {
                "class": self._class(type(layer), layer.name),
                "options": {name: self.value(each, f"{layer.name}.{name}") for name, each in options.items()},
            }
        self._numbers[id(layer)] = len(self.layers)
        self.layers.append({**described, "dtype": layer.dtype, "parts": [each.identity() for each in parts(layer)]})
        return len(self.layers) - 1

    def _net(self, model: Model) -> dict[str, Any]:
        if type(model) is Sequential:
            inputs = [self._input(x) for x in model.inputs]
            return {"name": model.name, "inputs": inputs, "stack": [self.layer(each) for each in model.layers]}
        if type(model) is not Model:
            raise InvalidType(
                explain(
                    f"{type(model).__name__} {model.name!r}, a class derived from Model, cannot be saved whole.",
                    expected="af.Sequential or af.Model",
                    received=type(model).__name__,
                    fix="model.save_weights(path), and load_weights in a model made by the same code",
                )
            )
        return self._functional(model)

    def _input(self, x: Variable) -> dict[str, Any]:
        sizes = [None if isinstance(size, Dim) else size for size in x.shape[1:]]
        return {"name": x.name, "shape": sizes, "dtype": x.dtype}

    def _functional(self, model: Model) -> dict[str, Any]:
        inputs, records = model.records()
        feedbacks = [feedback for cycle in model.cycles for feedback in cycle.feedbacks]
        places: dict[int, Any] = {id(x): {"input": i} for i, x in enumerate(inputs)}
        described: list[dict[str, Any]] = []
        called: list[Layer] = []

        def place(x: Tensor) -> _At:
            if id(x) not in places:
                places[id(x)] = self._leaf(x, model, called)
            return _At(places[id(x)])

        for number, record in enumerate(sorted([*records, *feedbacks], key=_made)):
            if isinstance(record, Feedback):
                options = {
                    "shape": list(record.shape[2:]),
                    "dtype": record.dtype,
                    "name": record.variable.name,
                    "truncate": record.truncate or None,
                    "recompute": record.recompute,
                    **{
                        what: place(x)
                        for what, x in (("initial_state", record.initial_state), ("mask", record.mask))
                        if x is not None
                    },
                }
                described.append({"feedback": self.value(options, record.variable.name)})
                places[id(record)] = {"record": [number, 0]}
                continue
            if isinstance(record, Call):
                given = [self.value(mapped(x, place), record.layer.name) for x in record.inputs]
                described.append({"call": self.layer(record.layer), "inputs": given})
                called.append(record.layer)
                places.update({id(x): {"record": [number, k]} for k, x in enumerate(record.outputs)})
                continue
            entry = {"op": record.op, "inputs": [place(x) for x in record.inputs], "attributes": record.attributes}
            if record.spelling is not None:
                entry["spelling"] = [record.spelling.name, [place(x) for x in record.spelling.inputs]]
            described.append({key: self.value(each, f"{model.name}.{record.op}") for key, each in entry.items()})
            places[id(record)] = {"record": [number, 0]}
        forms = [mapped(form, place) for form in model.given_as(inputs, model.outputs)]
        closed = [[place(feedback), place(feedback.connected)] for feedback in feedbacks if feedback.connected is not None]
        return {
            "name": model.name,
            "steps": model.steps,
            "connections": self.value(closed, model.name),
            "inputs": [self._input(x.variable) for x in inputs],
            "records": described,
            "forms": [self.value(form, model.name) for form in forms],
        }

    def _leaf(self, x: Tensor, model: Model, called: Iterable[Layer]) -> dict[str, Any]:
        """A weight, a constant or an array in an expression between layers."""
        if x.op == "constant":
            return {"constant": self.value(x.attributes, "constant")}
        if x.op != "variable":  # counts rows or steps
            return {"leaf": [x.op, self.value(x.attributes, x.op)]}
        assert not x.symbolic
        variable = x.variable.origin or x.variable
        for layer in called:
            for number, weight in enumerate(layer.weights):
                if weight.variable is variable:
                    return {"weight": [self.layer(layer), number]}
        if variable.role == PARAMETERS:
            raise InvalidValue(
                explain(
                    f"{model.name!r} uses {variable.owner}.{variable.name}, whose layer it does not hold.",
                    expected="weights of layers that are called before",
                    received=f"{variable.owner}.{variable.name}",
                    fix=f"call {variable.owner} in the model, or model.save_weights(path)",
                )
            )
        return self._array(read(variable))


def _made(record: Record | Feedback) -> tuple[float, bool]:
    """When it was made; a feedback, after what it starts from, also if that was made for it."""
    if not isinstance(record, Feedback):
        return turn(record), False
    return max(x.serial for x in (record, record.initial_state, record.mask) if x is not None), True


def parts(layer: Layer) -> list[Layer]:
    """A layer and the layers in it; the layers of a model are described apart."""
    return [layer] if isinstance(layer, Model) else list({id(each): each for each in (layer, *layer.all_sublayers())}.values())


def _options(cls: type) -> list[str]:
    """What the constructors of a class take by name."""
    found: dict[str, None] = {}
    for each in cls.__mro__[:-1]:
        if "__init__" in vars(each):
            takes = list(signature(vars(each)["__init__"]).parameters.values())
            found.update({p.name: None for p in takes[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)})
            if not any(p.kind is p.VAR_KEYWORD for p in takes):
                break
    return list(found)


def kind_of(thing: Any) -> str:
    """What something of the user's is, in a word."""
    kinds = ((type, "class"), (Loss, "loss"), (Metric, "metric"))
    return next((word for kind, word in kinds if isinstance(thing, kind)), "function")
