"""Hyperparameters, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from math import isfinite
from typing import Any, ParamSpec, TypeVar

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


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called on so many values, as far as its signature is known."""
    try:
        signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a function of C's
        pass
    return True


# What does here what options of other frameworks do: the name of an option, or words.
_INSTEAD = {
    "activity_regularizer": "leave it out",
    "batch_input_shape": "input_shape=[…], without the batch",
    "batch_shape": "af.Input([…]), without the batch",
    "bias": "use_bias",
    "decay": "learning_rate=af.schedules.ExponentialDecay(0.1, every=1000, factor=0.9)",
    "dim": "axis",
    "dtype": 'af.Input([…], dtype="float64"), or Sequential([…], dtype="float64"): a layer computes in the dtype of its input',
    "embedding_dim": "output_dim",
    "hidden_size": "units",
    "in_features": "leave it out: a layer takes its width from the data",
    "input_dim": "input_shape=[{0}]",
    "lr": "learning_rate",
    "num_embeddings": "input_dim",
    "out_features": "units",
    "p": "rate",
    "steps_per_epoch": "leave it out: an epoch goes through all rows",
    "validation_batch_size": "leave it out: batch_size is that of the validation, too",
    "validation_freq": "leave it out: each epoch is validated",
    "validation_steps": "leave it out, or validation_data=(x[:n], y[:n])",
    "weighted_metrics": "metrics",
}
_WITHOUT = ("jit_compile", "max_queue_size", "run_eagerly", "steps_per_execution", "use_multiprocessing", "workers")


def refuse_options(owner: object, unknown: Mapping[str, Any]) -> None:
    """Raise for options that no constructor of the owner's classes takes. `owner.instead` says what does what some would do."""
    if not unknown:
        return
    parameters = [
        name for cls in type(owner).__mro__[:-1] if "__init__" in vars(cls) for name in _options(vars(cls)["__init__"])
    ]
    known = list(dict.fromkeys(parameters))
    raise _no_option(type(owner).__name__, known, *next(iter(unknown.items())), getattr(owner, "instead", {}))


def _options(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


P = ParamSpec("P")
R = TypeVar("R")


def strict(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with a clear error for options that it does not have."""
    code = function.__code__  # quicker than a signature: this runs for every function, at import
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    needed = known[: code.co_argcount - len(function.__defaults__ or ())]
    owner = function.__name__

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name not in known:
                own = type(args[0]).__init__ if owner == "__init__" else checked
                more = [] if own is checked else _options(own)  # of a subclass
                raise _no_option(_called(args, owner), list(dict.fromkeys([*more, *known])), name, value, {})
        if len(args) < len(needed):
            missing = [name for name in needed[len(args) :] if name not in kwargs]
            if missing:
                raise _missing(_called(args, owner), needed, missing[0])
        return function(*args, **kwargs)

    return checked


def _called(args: Sequence[Any], name: str) -> str:
    return type(args[0]).__name__ if name == "__init__" else name


def _missing(owner: str, needed: Sequence[str], name: str) -> InvalidType:
    call = ", ".join(each for each in needed if each != "self")
    return InvalidType(explain(f"{owner} needs {name}.", expected=call, received=f"no {name}", fix=f"{owner}({call})"))


def _no_option(owner: str, known: Sequence[str], name: str, value: Any, own: Mapping[str, str]) -> InvalidType:
    known = [each for each in known if each != "self"]
    words = own.get(name) or _INSTEAD.get(name, "")
    near = words if words in known else "" if name in _WITHOUT else nearest(name, known)
    said = "" if words.isidentifier() else words.format(value)
    fix = said or (f"{near}={value!r}" if near else f"leave {name} out")
    return InvalidType(
        explain(f"{owner} has no option {name!r}.", expected=", ".join(known), received=f"{name}={value!r}", fix=fix)
    )
