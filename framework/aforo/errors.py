"""Errors: what happened, what was expected and received, and the fix as a line of code.

Every error Aforo raises is an `Error`, and also the built-in exception a Python user would catch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Error(Exception):
    """The base of every error Aforo raises."""


class InvalidValue(Error, ValueError):
    """A value, shape or name that cannot be used."""


class InvalidType(Error, TypeError):
    """An object of a type that cannot be used."""


class InvalidState(Error, RuntimeError):
    """A call that needs something that is not there: a device, a compiled model, data."""


class Missing(Error, AttributeError):
    """A method or an attribute that is not there."""


def explain(happened: str, *, expected: object = None, received: object = None, fix: str | None = None) -> str:
    """The text of an error, in the order in which a reader needs it."""
    lines = [happened]
    if expected is not None:
        lines.append(f"  expected: {expected}")
    if received is not None:
        lines.append(f"  received: {received}")
    if fix is not None:
        lines.append(f"  fix: {fix}")
    return "\n".join(lines)


@contextmanager
def located(kind: str, name: str) -> Iterator[None]:
    """Errors raised inside begin with where that is, unless they name it already."""
    try:
        yield
    except Error as error:
        text = str(error)
        if f"{name}'" not in text:
            error.args = (f"{kind} {name!r}: {text}",)
        raise


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled most like this one."""
    from difflib import get_close_matches  # only an error needs it

    spelled = {each.lower(): each for each in known}
    begun = [each for each in spelled if each.startswith(name.lower())]
    if len(begun) == 1 and len(name) > 1:
        return spelled[begun[0]]
    return next((spelled[each] for each in get_close_matches(name.lower(), spelled, n=1)), None)


def unknown_name(kind: str, name: str, known: Iterable[str], *, fix: str | None = None) -> InvalidValue:
    """The error for a name that is not known, with the nearest known one."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else None
    return InvalidValue(explain(f"there is no {kind} named {name!r}.", expected="one of " + ", ".join(known), fix=hint or fix))
