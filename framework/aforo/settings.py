"""Hyperparameters, checked."""

from __future__ import annotations

from math import isfinite
from typing import Any

from .errors import InvalidType, InvalidValue, explain


def number(name: str, value: Any, low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> float:
    """A finite number between low and high; the ends count unless they are open."""
    if isinstance(value, (bool, str, complex)) or not hasattr(value, "__float__"):
        raise InvalidType(explain(f"{name} must be a number.", received=repr(value)))
    found = float(value)
    inside = low <= found <= high and not (open_low and found == low) and not (open_high and found == high)
    if not isfinite(found) or not inside:
        bounds = f"{'more than' if open_low else 'at least'} {low:g}"
        if isfinite(high):
            bounds += f", {'less than' if open_high else 'at most'} {high:g}"
        raise InvalidValue(explain(f"{name} is out of range.", expected=bounds, received=found))
    return found


def whole(name: str, value: Any, low: int) -> int:
    """A whole number of at least `low`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidType(explain(f"{name} must be a whole number.", received=repr(value), fix=f"{name}={max(low, 32)}"))
    found: int = value.__index__()
    if found < low:
        raise InvalidValue(explain(f"{name} must be {low} or more.", received=found, fix=f"{name}={max(low, 32)}"))
    return found
