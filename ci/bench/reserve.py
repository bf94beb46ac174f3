"""Resident bytes that NumPy's BLAS takes for itself at its first products, outside any array."""

import os
from pathlib import Path

import numpy as np


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


taken = 0
for n in (512, 2048):
    a, out = np.ones((n, n), np.float32), np.ones((n, n), np.float32)
    before = resident()
    np.matmul(a, a, out=out)
    taken += resident() - before
print(f"NumPy {np.__version__}, {os.cpu_count()} cores: {taken:,} B")
