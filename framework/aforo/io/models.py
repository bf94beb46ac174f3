"""Models and weights to files and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import device as devices
from ..callbacks.recording import path_of
from ..errors import InvalidState, InvalidType, InvalidValue, explain, located
from ..graph import Variable
from ..layers.layer import Layer
from ..model import Model
from ..settings import strict
from ..specs import written
from ..stepping import go_on, kept
from .archive import Archive, Array, damaged, read, write
from .describe import Writer, kind_of
from .remake import Reader, check_custom


def _named(layer: Layer, prefix: str, around: tuple[Layer, ...] = ()) -> dict[int, str]:
    """A name for each weight of a layer, those of the layers in it included. around: what it is in, and may know."""
    found: dict[int, str] = {}
    for each in layer.sublayers():
        if each not in (*around, layer):
            found = {**_named(each, f"{prefix}{each.name}/", (*around, layer)), **found}
    return found | {id(weight): prefix + weight.name for weight in layer.weights if id(weight) not in found}


def keys(model: Model) -> dict[str, Variable]:
    """The weights in order, by the names of the layers that lead to them."""
    paths = _named(model, "")
    found: dict[str, Variable] = {}
    seen: Counter[str] = Counter()
    for weight in model.weights:
        path = paths[id(weight)]
        seen[path] += 1
        found[path if seen[path] == 1 else f"{path}_{seen[path]}"] = weight.variable
    return found


def _weights(model: Model) -> dict[str, Array]:
    """The values of all weights. Those that are not there yet are drawn, for good."""
    found = keys(model)
    for variable in found.values():
        if variable.storage is None:
            devices.materialise(variable, {}, devices.device(model.device))
    return {key: devices.read(variable) for key, variable in found.items()}


def save_weights(model: Model, path: Any) -> None:
    name = path_of(path, 'model.save_weights("w.safetensors")')
    with model.lock:
        model.require_built()
        weights = _weights(model)
        write(name, {"weights": list(weights)}, weights)


def load_weights(model: Model, path: Any) -> None:
    name = path_of(path, 'model.load_weights("w.safetensors")')
    model.require_built()
    archive = read(name)
    _check(archive, keys(model))
    model.set_weights([archive.arrays[key] for key in archive.config["weights"]])


def _check(archive: Archive, wanted: Mapping[str, Variable]) -> None:
    """Raise unless the weights of a file are those of a model: as many, in the same order, with the same names and shapes."""
    stored: list[str] = archive.config["weights"]
    if any(key not in archive.arrays for key in stored):
        raise damaged(archive.path)
    fix = "the model that it was saved from: af.load_model(path), for a file of model.save"
    if len(stored) != len(wanted):
        raise InvalidValue(
            explain(
                f"{archive.path!r} holds another number of weights than the model.",
                expected=f"{len(wanted)}: {_listed(list(wanted))}",
                received=f"{len(stored)}: {_listed(stored)}",
                fix=fix,
            )
        )
    for number, (key, (own, variable)) in enumerate(zip(stored, wanted.items(), strict=True)):
        shape = archive.arrays[key].shape
        # Layers may be called otherwise than in the file, but not be each other's.
        moved = key != own and (own in stored or key in wanted)
        if shape != variable.shape or key.rpartition("/")[2] != own.rpartition("/")[2] or moved:
            raise InvalidValue(
                explain(
                    f"weight {number} in {archive.path!r} does not fit the model. Nothing was changed.",
                    expected=f"{own} {written(variable.shape)}",
                    received=f"{key} {written(shape)}",
                    fix=fix,
                )
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def save_model(model: Model, path: Any) -> None:
    name = path_of(path, 'model.save("model.aforo")')
    config, arrays, _ = packed(model)
    write(name, config, arrays)


def packed(model: Model) -> tuple[dict[str, Any], dict[str, Array], dict[str, Any]]:
    """A whole model as data: its configuration, its arrays, and the user's own functions and classes by name."""
    with model.lock:
        if not model.built and model.weights:
            raise InvalidState(
                explain(
                    f"model {model.name!r} has layers with weights, but does not know its input size yet.",
                    expected="a model that is built, or has no weights yet",
                    fix="model.build((None, d_in))",
                )
            )
        writer = Writer()
        number = writer.layer(model)
        training = _training(model, writer) if model.optimizer is not None else None
        weights = _weights(model) if model.built else {}
        slots = {
            f"optimizer/{key}/{slot}": devices.read(kept)
            for key, variable in keys(model).items()
            for slot, kept in model.slots.get(variable, {}).items()
        }
        config = {
            "model": number,
            "layers": writer.layers,
            "custom": {each: kind_of(own) for each, own in writer.custom.items()},
            "weights": list(weights),
            "training": training,
            "epochs_trained": model.epochs_trained,
            "stepped_rows": model.stepped_rows,
        }
        states = {f"states/{key}": values for key, values in kept(model).items()} if model.stepped_rows is not None else {}
        return config, {**weights, **slots, **states, **writer.arrays}, writer.custom


def unpacked(config: dict[str, Any], arrays: dict[str, Array], custom: dict[str, Any], device: str, tf32: bool) -> Model:
    """The model that was `packed`, on a device."""
    model = _loaded(Archive(f"a copy of {config['layers'][config['model']]['net']['name']}", config, arrays), custom)
    return model.to(device, tf32=tf32) if tf32 else model.to(device)


def _training(model: Model, writer: Writer) -> dict[str, Any]:
    targets = [head.target and [head.target.shape, head.target.dtype] for head in model.heads]
    return {
        "compiled": [writer.value(x, name) for x, name in zip(model.compiled or (), _COMPILED, strict=True)],
        "optimizer": writer.value(model.optimizer, "optimizer"),
        "targets": writer.value(targets, "targets"),
        "learning_rate": model.optimizer and writer.value(model.optimizer.learning_rate, "optimizer.learning_rate"),
        "step": int(devices.read(model.step_counter)),
    }


_COMPILED = ("loss", "metrics", "loss_weights")


@strict
def load_model(path: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model of a file that `model.save` wrote, on the CPU. Its training goes on as if it had not stopped.

    custom_objects: your own layers, activations, losses and other functions that the model uses, by the names in the file; an
    error names those that are missing.
    """
    name = path_of(path, 'af.load_model("model.aforo")')
    archive = read(name)
    if "model" not in archive.config:
        raise InvalidType(
            explain(
                f"{name!r} holds weights only.",
                expected="what model.save wrote",
                received="what model.save_weights wrote",
                fix=f"model.load_weights({name!r}), with a model of the same layers",
            )
        )
    try:
        with located("file", name):
            return _loaded(archive, check_custom(archive, custom_objects))
    except (KeyError, IndexError) as error:
        raise damaged(name) from error


def _loaded(archive: Archive, custom: Mapping[str, Any]) -> Model:
    reader = Reader(archive, custom)
    config = archive.config
    model: Model = reader.layer(config["model"])
    reader.finish()
    wanted = keys(model) if model.built else {}
    _check(archive, wanted)
    for key, variable in zip(config["weights"], wanted.values(), strict=True):
        _write(variable, archive.arrays[key])
    training = config["training"]
    if training is not None:
        loss, metrics, weights = map(reader.value, training["compiled"])
        targets = [target and (target[0], target[1]) for target in reader.value(training["targets"])]
        optimizer, rate = reader.value(training["optimizer"]), training["learning_rate"]
        if isinstance(rate, float):  # a class of the user's may remember the one it was made with
            optimizer.learning_rate = rate
        model.compile_again((loss, metrics, weights), optimizer, targets)
        for key, variable in wanted.items():
            for slot, kept in model.slots.get(variable, {}).items():
                values = archive.arrays.get(f"optimizer/{key}/{slot}")
                if values is not None:
                    _write(kept, values)
        _write(model.step_counter, np.asarray(training["step"]))
    model.epochs_trained = config["epochs_trained"]
    rows = config.get("stepped_rows")  # files of earlier versions say nothing of it
    if rows is not None:
        go_on(model, rows, {key.removeprefix("states/"): values for key, values in archive.arrays.items()})
    return model


def _write(variable: Variable, values: Array) -> None:
    devices.write(variable, devices.check_values(variable, values), devices.CPU)
