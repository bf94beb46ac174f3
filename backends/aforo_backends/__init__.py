"""The array-backend abstraction: one contract, one module a backend.

`load(name)` gives a backend, `profile(name)` the data a planner needs of it. Backends from other distributions are found
through the entry-point group `aforo.backends`: each entry names a module with `PROFILE` and `create()`. A module whose `create`
takes an index has several devices: "cuda:1".
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .contract import Backend, OutOfMemory, Profile, Unavailable

__all__ = ["GROUP", "Backend", "OutOfMemory", "Profile", "Unavailable", "known", "load", "names", "profile"]

GROUP = "aforo.backends"
# Known without reading package metadata, which takes longer than importing NumPy.
_BUILT_IN = {"cpu": "aforo_backends.numpy", "cuda": "aforo_backends.cuda", "simulated": "aforo_backends.simulated"}
_created: dict[str, Backend] = {}


def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def known(name: str) -> bool:
    """Whether a backend of that name can be asked for."""
    return name in _BUILT_IN or name in _entry_points()


def names() -> list[str]:
    """The backends that can be asked for: built-in ones first, then those of other distributions."""
    return [*_BUILT_IN, *sorted(set(_entry_points()) - set(_BUILT_IN))]


def _module(name: str) -> ModuleType:
    path = _BUILT_IN.get(name) or _entry_points().get(name)
    if path is None:
        raise LookupError(name)
    return import_module(path)


def profile(name: str) -> Profile:
    """What a planner must know of the backend. LookupError if nothing of that name is installed."""
    found: Profile = _module(name).PROFILE
    return found


def load(name: str, index: int = 0) -> Backend:
    """The backend of that name, made at its first use; `index` chooses among several devices.

    LookupError if nothing of that name is installed, Unavailable if it cannot run here.
    """
    key = f"{name}:{index}"
    if key not in _created:
        module = _module(name)
        if index and not getattr(module, "INDEXED", False):
            raise Unavailable(f"there is no device {key}", f"one device, {name}", f'model.to("{name}")')
        _created[key] = module.create(index) if getattr(module, "INDEXED", False) else module.create()
    return _created[key]
