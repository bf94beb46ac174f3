"""Amounts of memory: what is understood, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aforo as af
from aforo.budget import as_bytes


@pytest.mark.parametrize(
    ("given", "nbytes"),
    [
        (1, 1),
        (8_000_000_000, 8_000_000_000),
        (np.int64(512), 512),
        ("512", 512),
        ("512 B", 512),
        ("8GiB", 8 * 1024**3),
        ("8 GiB", 8 * 1024**3),
        (" 8gib ", 8 * 1024**3),
        ("8 GB", 8 * 1000**3),
        ("500MB", 500 * 1000**2),
        ("500mb", 500 * 1000**2),
        ("3KiB", 3 * 1024),
        ("3 kB", 3000),
        ("1.5 GiB", 3 * 2**29),
        ("0.1GB", 100_000_000),
        ("2 TiB", 2**41),
        ("1TB", 10**12),
        ("1,000,000 B", 10**6),
        ("1_000 KiB", 1000 * 1024),
        ("1.0009 kB", 1000),
    ],
)
def test_bytes_and_text_with_a_unit_are_understood(given: Any, nbytes: int) -> None:
    assert as_bytes(given) == nbytes
    assert type(as_bytes(given)) is int


@pytest.mark.parametrize("given", [0, -1, "0", "0 GiB", "-8GiB", "0.5 B", np.int32(-3)])
def test_nothing_and_less_than_nothing_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"memory_budget must be at least one byte(.|\n)*GiB and TiB are binary"):
        as_bytes(given)


@pytest.mark.parametrize(
    "given", ["", "lots", "GiB", "8 gibibytes", "8GiB!", "8 9 GB", "1,2 GB", "nan", "1e9", "inf GiB", "٣ GB"]
)
def test_nonsense_is_refused_and_the_units_are_said(given: str) -> None:
    with pytest.raises(ValueError, match=r"no amount of memory(.|\n)*binary(.|\n)*decimal") as caught:
        as_bytes(given)
    assert isinstance(caught.value, af.Error) and repr(given) in str(caught.value)


def test_a_unit_that_may_be_either_is_asked_for() -> None:
    with pytest.raises(ValueError, match='fix: memory_budget="8GiB"'):
        as_bytes("8G")
    with pytest.raises(ValueError, match='fix: budget="512MiB"'):
        as_bytes("512 M", "budget")


@pytest.mark.parametrize("given", [None, True, 8e9, 0.5, float("nan"), ["8GiB"], b"8GiB"])
def test_what_is_no_number_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="budget is an amount of memory") as caught:
        as_bytes(given, "budget")
    assert isinstance(caught.value, af.Error)
    assert ("fix: budget=8000000000" in str(caught.value)) == (given == 8e9)
