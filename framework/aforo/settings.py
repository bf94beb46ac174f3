"""Hyperparameters, checked."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from math import isfinite
from typing import Any

import numpy as np

from .errors import InvalidType, InvalidValue, explain, nearest

# What people usually take, for the line that mends a mistake.
_USUAL = {
    "batch_size": 32, "beta_1": 0.9, "beta_2": 0.999, "end": 0.0, "epochs": 10, "epsilon": 1e-7, "every": 1000, "factor": 0.1,
    "initial_accumulator_value": 0.1, "initial_epoch": 0, "k": 5, "l1": 0.01, "l2": 0.01, "learning_rate": 0.01,
    "momentum": 0.9, "rate": 0.1, "rho": 0.9, "steps": 1000, "validation_split": 0.2, "weight_decay": 0.004,
}  # fmt: skip


def _fix(name: str, usual: float) -> str:
    return f"{name}={_USUAL.get(name, usual)}"


def number(name: str, value: Any, low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> float:
    """A finite number between low and high; the ends count unless they are open."""
    if isinstance(value, (bool, str, complex)) or not hasattr(value, "__float__"):
        raise InvalidType(explain(f"{name} must be a number.", received=repr(value), fix=_fix(name, 1.0)))
    found = float(value)
    inside = low <= found <= high and not (open_low and found == low) and not (open_high and found == high)
    if not isfinite(found) or not inside:
        bounds = f"{'more than' if open_low else 'at least'} {low:g}"
        if isfinite(high):
            bounds += f", {'less than' if open_high else 'at most'} {high:g}"
        raise InvalidValue(explain(f"{name} is out of range.", expected=bounds, received=found, fix=_fix(name, 1.0)))
    return found


def whole(name: str, value: Any, low: int, fix: str = "") -> int:
    """A whole number of at least `low`. fix: what would do, if that is not one number."""
    fix = fix or _fix(name, max(low, 32))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidType(explain(f"{name} must be a whole number.", received=repr(value), fix=fix))
    found: int = value.__index__()
    if found < low:
        raise InvalidValue(explain(f"{name} must be {low} or more.", received=found, fix=fix))
    return found


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's included."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidType(explain(f"{name} is True or False.", received=repr(value), fix=f"{name}=True"))
    return bool(value)


def title(value: Any) -> str | None:
    """A name, or None for one that follows from what is named."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidType(
            explain("name is text.", expected='e.g. "hidden"', received=repr(value), fix=f'name="{value or "hidden"}"')
        )
    return value


def refuse_options(owner: object, unknown: Mapping[str, Any]) -> None:
    """Raise for options that no constructor of the owner's classes takes. `owner.instead` says what does what some would do."""
    if not unknown:
        return
    parameters = [
        p
        for cls in type(owner).__mro__[:-1]
        if "__init__" in vars(cls)
        for p in list(signature(vars(cls)["__init__"]).parameters.values())[1:]
    ]
    known = list(dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)))
    name, value = next(iter(unknown.items()))
    near = nearest(name, known)
    instead = getattr(owner, "instead", {}).get(name) or (f"{near}={value!r}" if near else f"leave {name} out")
    raise InvalidType(
        explain(
            f"{type(owner).__name__} has no option {name!r}.",
            expected=", ".join(known),
            received=f"{name}={value!r}",
            fix=instead,
        )
    )
