"""One BLAS thread for the tests: two that spin while another process has the cores made a test forty times slower."""

import os
import sys
from typing import Any

assert "numpy" not in sys.modules, "set the threads before NumPy is loaded"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figure the tests of exactness arrive at, however many processes ran them."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    properties = [value for each in reports for name, value in each.user_properties if name == "exactness"]
    differences = [difference for values in properties for difference in values]
    if differences:
        low, off = sum(each < 0 for each in differences), max(map(abs, differences))
        terminalreporter.write_line(f"memory: {len(differences)} random cases, {low} estimated too low, off by {off} B at most")
