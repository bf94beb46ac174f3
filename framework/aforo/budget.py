"""Amounts of memory as people give them: bytes, or text with a unit."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from .errors import InvalidType, InvalidValue, explain

BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {unit.lower(): nbytes for unit, nbytes in {**BINARY, **DECIMAL}.items()}
_WRITTEN = re.compile(r"\s*([+-]?\d+(?:[_,]\d{3})*(?:\.\d+)?)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)
_EXPECTED = (
    "whole bytes, or a number and a unit: KiB, MiB, GiB and TiB are binary (1 GiB = 2^30 B), "
    "kB, MB, GB and TB are decimal (1 GB = 10^9 B)"
)


def as_bytes(budget: Any, what: str = "memory_budget") -> int:
    """An amount of memory in bytes: 8_000_000_000, "8GiB" (binary), "8 GB" or "500MB" (decimal), in any case.

    A fraction of a byte is dropped. Raises for zero, negative amounts and anything else.
    """
    if isinstance(budget, str):
        nbytes = _parsed(budget, what)
    elif isinstance(budget, bool) or not hasattr(budget, "__index__"):
        whole = isinstance(budget, float) and budget.is_integer() and budget > 0
        fix = f"{what}={int(budget)}" if whole else f'{what}="8GiB"'
        raise InvalidType(explain(f"{what} is an amount of memory.", expected=_EXPECTED, received=repr(budget), fix=fix))
    else:
        nbytes = budget.__index__()
    if nbytes < 1:
        raise InvalidValue(
            explain(f"{what} must be at least one byte.", expected=_EXPECTED, received=repr(budget), fix=f'{what}="8GiB"')
        )
    return nbytes


def _parsed(text: str, what: str) -> int:
    found = _WRITTEN.fullmatch(text)
    number, unit = found.groups() if found else ("", "")
    size = _UNITS.get(unit.lower() or "b") if found else None
    if size is None:
        letter = unit[:1].upper()
        meant = f"{number}{letter}iB" if letter and f"{letter.lower()}ib" in _UNITS else "8GiB"
        raise InvalidValue(
            explain(f"{what} is no amount of memory.", expected=_EXPECTED, received=repr(text), fix=f'{what}="{meant}"')
        )
    return int(Fraction(re.sub("[_,]", "", number)) * size)
