"""The README's smaller figures, each from processes of its own: import, one-row prediction, deep and wide plans.

python ci/bench/figures.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "import aforo, beyond NumPy (ms)": """
import numpy, time
started = time.perf_counter()
import aforo
print(1e3 * (time.perf_counter() - started))
""",
    "predict one row, 64-64-10 (µs)": """
import time, numpy as np, aforo as af
model = af.Sequential([af.Dense(64, activation="relu", input_shape=[64]), af.Dense(10, activation="softmax")])
x = np.zeros((1, 64), "float32")
for n in (200, 2000):
    started = time.perf_counter()
    for _ in range(n):
        model.predict(x)
print(1e6 * (time.perf_counter() - started) / n)
""",
    "a thousand layers: build, differentiate, plan, verify (s)": """
import time, aforo as af
started = time.perf_counter()
layers = [af.Dense(8, activation="relu") for _ in range(999)]
model = af.Sequential([af.Dense(8, activation="relu", input_shape=[8]), *layers])
model.compile(loss="mse", optimizer="sgd")
model.memory(32)
print(time.perf_counter() - started)
""",
    "a sweep of 10 batch sizes × 10 widths, five layers, for CUDA (s)": """
import time, aforo as af
def build(width):
    layers = [af.Dense(width, activation="relu") for _ in range(3)]
    model = af.Sequential([af.Dense(width, activation="relu", input_shape=[784]), *layers, af.Dense(10, activation="softmax")])
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics="accuracy")
    return model
started = time.perf_counter()
af.memory.sweep(build, [2**i for i in range(4, 14)], [64 * i for i in range(1, 11)], "cuda")
print(time.perf_counter() - started)
""",
    "784-200,000-200,000-10: build, compile, plan (s)": """
import time, aforo as af
started = time.perf_counter()
wide = [af.Dense(200_000, input_shape=[784], activation="relu"), af.Dense(200_000, activation="relu")]
model = af.Sequential([*wide, af.Dense(10)])
model.compile(loss="mse", optimizer="sgd")
model.memory(32)
print(time.perf_counter() - started)
""",
    "its peak of process memory (MiB)": """
import resource, aforo as af
wide = [af.Dense(200_000, input_shape=[784], activation="relu"), af.Dense(200_000, activation="relu")]
model = af.Sequential([*wide, af.Dense(10)])
model.compile(loss="mse", optimizer="sgd")
model.memory(32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
""",
}


def main() -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in ("framework", "backends"))
    environment = {**os.environ, "PYTHONPATH": paths}
    for name, script in SCRIPTS.items():
        runs = [
            float(subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True).stdout)
            for _ in range(6)
        ]
        print(f"{median(runs[1:]):9.2f}  {name}")


if __name__ == "__main__":
    main()
