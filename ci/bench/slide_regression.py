"""The course's regression as whole processes, side by side: Aforo, PyTorch, Keras on two backends, scikit-learn.

1,024 rows, 3-4-5-2 (tanh, relu, linear), mean squared error, SGD, 100 epochs of batches of 32. Every stack runs in a process of
its own, imports included, in turn, at one thread each; the medians and their ratios to Aforo are printed.

    python ci/bench/slide_regression.py [--rounds 5]        peers come from the extra `bench`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
DATA = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(size=(1024, 3)).astype("float32")
y = np.stack([np.sin(x[:, 0]) + x[:, 1], x[:, 2] * x[:, 0]], axis=1).astype("float32")
"""
KERAS = """
import keras
model = keras.Sequential([
    keras.Input([3]), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(2)
])
model.compile(loss="mse", optimizer="sgd")
history = model.fit(x, y, epochs=100, batch_size=32, verbose=0)
print(history.history["loss"][-1])
"""
SCRIPTS = {
    "aforo": """
import aforo as keras
model = keras.Sequential()
model.add(keras.Dense(4, input_shape=[3], activation="tanh"))
model.add(keras.Dense(5, activation="relu"))
model.add(keras.Dense(2, activation="none"))
model.compile(loss="mse", optimizer="sgd")
history = model.fit(x, y, epochs=100, batch_size=32, verbose=0)
print(history.history["loss"][-1])
""",
    "torch": """
import torch
torch.set_num_threads(1)
from torch.utils.data import DataLoader, TensorDataset
model = torch.nn.Sequential(
    torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=32, shuffle=True)
for epoch in range(100):
    for a, b in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(a), b)
        loss.backward()
        optimizer.step()
print(loss.item())
""",
    "keras-torch": KERAS,
    "keras-jax": KERAS,
    "scikit-learn": """
import warnings
warnings.simplefilter("ignore")
from sklearn.neural_network import MLPRegressor
model = MLPRegressor(
    hidden_layer_sizes=(4, 5), solver="sgd", learning_rate_init=0.01, momentum=0.0, batch_size=32, max_iter=100, alpha=0,
    tol=1e-12, n_iter_no_change=1000
)
model.fit(x, y)
print(model.loss_)
""",
}
NEEDS = {"aforo": ["aforo"], "torch": ["torch"], "keras-torch": ["keras", "torch"], "keras-jax": ["keras", "jax"],
         "scikit-learn": ["sklearn"]}  # fmt: skip


def seconds(stack: str) -> float:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = os.pathsep.join(str(ROOT / part) for part in ("framework", "backends"))
    environment = {**os.environ, **threads, "PYTHONPATH": paths, "KERAS_BACKEND": stack.removeprefix("keras-")}
    started = perf_counter()
    subprocess.run([sys.executable, "-c", DATA + SCRIPTS[stack]], env=environment, check=True, capture_output=True)
    return perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "framework"), str(ROOT / "backends")]
    stacks = [stack for stack in SCRIPTS if all(find_spec(name) for name in NEEDS[stack])]
    times: dict[str, list[float]] = {stack: [] for stack in stacks}
    for stack in stacks:
        seconds(stack)
    for _ in range(options.rounds):
        for stack in stacks:
            times[stack].append(seconds(stack))
    medians = {stack: median(values) for stack, values in times.items()}
    ratios = {
        stack: median(other / own for other, own in zip(values, times["aforo"], strict=True)) for stack, values in times.items()
    }
    if options.json:
        print(json.dumps({"seconds": medians, "ratio to aforo": ratios}, indent=2))
        return
    print(f"whole processes, median of {options.rounds}, one thread")
    for stack in stacks:
        print(f"  {stack:12s} {medians[stack]:7.2f} s   {ratios[stack]:5.1f} x")


if __name__ == "__main__":
    main()
