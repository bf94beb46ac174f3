"""Writing reports to files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..errors import InvalidType, InvalidValue, explain


@contextmanager
def opened(path: Any) -> Iterator[TextIO]:
    """A text file to write to. Raises, naming it, if it cannot be written."""
    try:
        name = os.fspath(path)
    except TypeError:
        fix = 'report.to_html("plan.html")'
        raise InvalidType(explain("a file is given by its path.", received=repr(path), fix=fix)) from None
    try:
        file = open(name, "w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidValue(
            explain(f"{name!r} cannot be written.", expected="a path in a folder that exists", received=error.strerror)
        ) from None
    with file:
        yield file
