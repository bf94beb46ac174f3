"""Devices, and the memory of variables on them."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

import numpy as np

import aforo_backends
from aforo_backends.contract import Backend, Profile, Storage, View

from .errors import InvalidState, InvalidType, InvalidValue, explain, unknown_name
from .graph import PARAMETERS, TENSOR, Variable
from .specs import DTYPES, FLOATS, Dim, Layout, Shape, at, value_bytes, written

Array = np.ndarray[Any, Any]


class Device:
    """Where tensors live and programs run. It belongs to a model or a tensor, never to the process."""

    def __init__(self, kind: str, index: int = 0) -> None:
        self.kind = kind
        self.index = index
        self.name = f"{kind}:{index}" if index else kind

    @property
    def backend(self) -> Backend:
        """What runs there. Raises, saying why, if this machine cannot."""
        try:
            return aforo_backends.load(self.kind, self.index)
        except aforo_backends.Unavailable as error:
            raise InvalidState(
                explain(
                    f"{self.name} cannot be used here: {error.what}. Nothing moved: a model is still where it was, and works.",
                    expected=f"a machine and an installation with {self.name}",
                    received=error.found,
                    fix=error.fix,
                )
            ) from error

    @property
    def profile(self) -> Profile:
        """What a planner must know; needs neither the hardware nor its libraries."""
        return aforo_backends.profile(self.kind)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.name,)  # there is one of each


_devices: dict[str, Device] = {}
_ALIASES = {"gpu": "cuda"}


def device(name: Any) -> Device:
    """The device of that name: "cpu", "cuda", "cuda:1". Raises, with the nearest known name, if there is none."""
    if isinstance(name, Device):
        return name
    if not isinstance(name, str):
        raise InvalidType(
            explain("a device is given by its name.", expected='e.g. "cpu"', received=repr(name), fix='model.to("cpu")')
        )
    kind, colon, index = name.strip().lower().partition(":")
    kind = _ALIASES.get(kind, kind)
    if not aforo_backends.known(kind):
        raise unknown_name("device", name, aforo_backends.names(), fix='model.to("cpu"); af.devices() says what there is')
    if colon and not (index.isdecimal() and index.isascii()):
        raise InvalidValue(
            explain(
                f"{name!r} is no device.",
                expected='a number after the colon, e.g. "cuda:1"',
                received=repr(name),
                fix=f'model.to("{kind}")',
            )
        )
    found = Device(kind, int(index or 0))
    return _devices.setdefault(found.name, found)


def devices() -> dict[str, str]:
    """The devices of this machine, and why what is not here is not: name -> "available", or the reason."""
    return {kind: _state(kind) for kind in aforo_backends.names()}


def _state(kind: str) -> str:
    try:
        aforo_backends.load(kind)
    except aforo_backends.Unavailable as error:
        return f"{error.what} ({error.found}); {error.fix}"
    return "available"


CPU = device("cpu")


class Generation:
    """Counts how often a variable's memory was replaced. Programs bound before are rebuilt before they run again."""

    current = 0


class DeviceFull(InvalidState):
    """A device has no room."""


def full(target: Device, what: str) -> DeviceFull:
    """The error for a device without room for something."""
    free = target.backend.free()
    return DeviceFull(
        explain(
            f"{target} has no room for {what}.",
            received=None if free is None else f"{free:,} bytes that are free",
            fix="a smaller batch, or fewer models and tensors on this device",
        )
    )


def opened(target: Device, nbytes: int) -> Storage:
    """A new storage on the device."""
    try:
        return target.backend.open(nbytes)
    except aforo_backends.OutOfMemory:
        raise full(target, f"{nbytes:,} bytes") from None


def strided(layout: Layout, dtype: str, sizes: Mapping[str, int], base: int = 0) -> View:
    """A layout at certain sizes, in bytes, for a value that starts at `base`."""
    item = DTYPES[dtype]
    steps = tuple(item * step for step in at(layout.strides, sizes))
    return View(base + item * at(layout.offset, sizes), at(layout.shape, sizes), steps, dtype)


def grows(variable: Variable, sizes: Mapping[str, int], target: Device) -> bool:
    """Whether it has memory, but too little for these sizes."""
    needed = value_bytes(variable.shape, variable.dtype, sizes)
    return variable.storage is not None and variable.storage.nbytes < target.profile.footprint(needed)


def materialise(variable: Variable, sizes: Mapping[str, int], target: Device) -> None:
    """Give a variable memory on the device, and its first value. A batch slot grows when it must."""
    needed = value_bytes(variable.shape, variable.dtype, sizes)
    if variable.storage is not None:
        if variable.device is not target and variable.role == TENSOR:
            move([variable], target, sizes)  # one that a model computes with; it came to it after the model had moved
        if variable.device is not target:
            raise InvalidValue(
                explain(
                    f"{variable.owner}.{variable.name} is on {variable.device}, but it is needed on {target}.",
                    fix=f'model.to("{target}")',
                )
            )
        if not grows(variable, sizes, target):
            return
        forget(variable)
        Generation.current += 1
    storage = opened(target, needed)
    if variable.source is not None:
        fill(target, storage, variable.shape, variable.dtype, read(variable.source), sizes)
    elif variable.initial is not None:
        fill(target, storage, variable.shape, variable.dtype, variable.initial(), sizes)
    variable.storage, variable.array, variable.device = storage, None, target


def forget(variable: Variable) -> None:
    """Take a variable's memory away."""
    variable.storage = variable.array = None


def preserve(variable: Variable) -> None:
    """Before a weight changes: give expressions that were written with its present value a copy of that."""
    leaf = variable.snapshot() if variable.snapshot is not None else None
    if leaf is not None:
        snapshot = leaf.variable
        home = variable.device or CPU
        snapshot.storage = opened(home, value_bytes(variable.shape, variable.dtype, {}))
        fill(home, snapshot.storage, variable.shape, variable.dtype, read(variable), {})
        snapshot.device, snapshot.source = home, None
    variable.snapshot = None


def fill(target: Device, storage: Storage, shape: Shape, dtype: str, values: Any, sizes: Mapping[str, int]) -> None:
    """Write host values into a storage that holds one dense array."""
    array = target.backend.view(storage, strided(Layout.dense(shape), dtype, sizes))
    target.backend.copy_in(array, values)


def contents(variable: Variable) -> Any:
    """The backend's array over all of a variable that has memory and no symbolic axis."""
    if variable.array is None:
        dense = strided(Layout.dense(variable.shape), variable.dtype, {})
        variable.array = variable.device.backend.view(variable.storage, dense)
    return variable.array


def read(variable: Variable) -> Array:
    """A host copy of a variable's value: what it would start with, if it has no memory yet."""
    if variable.source is not None:
        return read(variable.source)
    if variable.storage is not None:
        values: Array = variable.device.backend.copy_out(contents(variable))
        return values
    assert variable.initial is not None
    return np.array(np.broadcast_to(variable.initial(), variable.shape), variable.dtype)  # type: ignore[arg-type]


_KEPT = ("name", "shape", "dtype", "role", "initial", "owner", "trainable", "trained", "source", "origin", "limit", "anywhere")


def _reduced(variable: Variable) -> tuple[Any, ...]:
    """For copy and pickle: what it is, and its value by way of the host, if it has one of its own."""
    drawn = variable.storage is not None or (variable.role == PARAMETERS and variable.initial is not None)
    holds = drawn and not any(isinstance(size, Dim) for size in variable.shape)
    kept = {name: None if holds and name == "initial" else getattr(variable, name) for name in _KEPT}
    return _again, (kept, read(variable) if holds else None, variable.device)


def _again(kept: dict[str, Any], values: Array | None, home: Device | None) -> Variable:
    variable = Variable(kept["name"], kept["shape"], kept["dtype"], kept["role"])
    for name, value in kept.items():
        setattr(variable, name, value)
    variable.device = home
    if values is not None:
        write(variable, values, home or CPU)
    return variable


copyreg.pickle(Variable, _reduced)


def check_values(variable: Variable, values: Any) -> Array:
    """Host values that a variable can take. Raises if their shape differs or they are no numbers."""
    array = np.asarray(values)
    name = f"{variable.owner}.{variable.name}" if variable.owner else variable.name
    if array.dtype.kind not in "fiub":
        raise InvalidType(
            explain(f"{name} takes numbers.", received=f"an array of {array.dtype}", fix="np.array(values, dtype=float)")
        )
    if array.shape != variable.shape:
        raise InvalidValue(
            explain(
                f"these values do not fit {name}.",
                expected=f"shape {written(variable.shape)}",
                received=f"shape {written(array.shape)}",
                fix="values.T"
                if array.shape == variable.shape[::-1]
                else f"np.zeros({written(variable.shape)}) has the right shape",
            )
        )
    taken = array.astype(variable.dtype, copy=False)
    if variable.dtype not in FLOATS and array.dtype.kind == "f" and not np.array_equal(taken, array):
        raise InvalidValue(
            explain(
                f"{name} holds {'masks' if variable.dtype == 'bool' else 'whole numbers'}, and would cut these values.",
                expected=variable.dtype,
                received=array[taken != array][0] if array.shape else array,
                fix="np.round(values)",
            )
        )
    return taken


def write(variable: Variable, values: Array, target: Device) -> None:
    """Give a variable a value; on its own device if it has memory, else on `target`."""
    preserve(variable)
    if variable.storage is None:
        materialise(variable, {}, target)
    variable.device.backend.copy_in(contents(variable), values)


def move(variables: list[Variable], target: Device, sizes: Mapping[str, int]) -> None:
    """Move variables to a device, all or none: those that have no memory yet will get it there."""
    held = [v for v in variables if v.storage is not None and v.device is not target]
    arrived = []
    for variable in held:
        view = strided(Layout.dense(variable.shape), variable.dtype, sizes)
        storage = opened(target, value_bytes(variable.shape, variable.dtype, sizes))
        home = variable.device.backend
        target.backend.copy_in(target.backend.view(storage, view), home.copy_out(home.view(variable.storage, view)))
        arrived.append(storage)
    for variable, storage in zip(held, arrived, strict=True):
        variable.storage, variable.array = storage, None
    for variable in variables:
        variable.device = target
    Generation.current += bool(held)
