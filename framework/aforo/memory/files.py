"""Writing reports to files."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InvalidType, InvalidValue, explain


def path_of(path: Any, call: str) -> str:
    """A path as text. call: how it is asked for."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise InvalidType(explain("a file is given by its path.", received=repr(path), fix=call)) from None


def write(path: Any, call: str, text: str) -> None:
    """Write a text file, as the call asks. Raises, naming it, if it cannot be written."""
    name = path_of(path, call)
    try:
        with open(name, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise unwritable(name, error) from None


def unwritable(name: str, error: OSError) -> InvalidValue:
    return InvalidValue(
        explain(f"{name!r} cannot be written.", expected="a path in a folder that exists", received=error.strerror)
    )
