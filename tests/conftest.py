"""Threads and the device of the tests.

AFORO_TEST_DEVICE=simulated (or cuda) lets that backend stand in wherever a test says nothing, or "cpu".
"""

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# One BLAS thread: two that spin while another process has the cores made a test forty times slower.
assert "numpy" not in sys.modules, "set the threads before NumPy is loaded"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

DEVICE = os.environ.get("AFORO_TEST_DEVICE", "cpu")

if DEVICE != "cpu":
    import aforo_backends

    aforo_backends._BUILT_IN["cpu"] = aforo_backends._BUILT_IN[DEVICE]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about the CPU itself when another device stands in for it."""
    if DEVICE != "cpu":
        for item in items:
            if mark := item.get_closest_marker("about_numpy"):
                (why,) = mark.args
                item.add_marker(pytest.mark.skip(reason=f"{DEVICE} stands in for the CPU, and {why}"))


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collection of older models interferes with the count of bytes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figure the tests of exactness arrive at, however many processes ran them."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    properties = [value for each in reports for name, value in each.user_properties if name == "exactness"]
    differences = [difference for values in properties for difference in values]
    if differences:
        low, off = sum(each < 0 for each in differences), max(map(abs, differences))
        terminalreporter.write_line(f"memory: {len(differences)} random cases, {low} estimated too low, off by {off} B at most")
