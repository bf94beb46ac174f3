"""A training step of an LSTM (64 units, 100 time steps, batch 32) beside PyTorch's on the CPU, at equal numbers of threads.

python ci/bench/recurrent.py [--threads 2] [--rounds 15]

Both take the same steps on the same data, in turns; medians. Memory: what Aforo owns, planned and held, beside what PyTorch's
step adds to its own at its peak, by the CPU allocations that its profiler counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

UNITS, LENGTH, ROWS, FEATURES = 64, 100, 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5, help="training steps in a round")
    options = parser.parse_args()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)

    import numpy as np
    import torch

    import aforo as af

    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, LENGTH, FEATURES)).astype("float32")
    y = rng.standard_normal((ROWS, 1)).astype("float32")

    model = af.Sequential([af.LSTM(UNITS, input_shape=[None, FEATURES]), af.Dense(1)])
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.01))
    before = af.memory.allocated("cpu")
    started = perf_counter()
    model.train_on_batch(x, y)
    first = perf_counter() - started
    planned = model.memory(ROWS, length=LENGTH).total_bytes
    held = af.memory.allocated("cpu") - before

    lstm, head = torch.nn.LSTM(FEATURES, UNITS, batch_first=True), torch.nn.Linear(UNITS, 1)
    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    xt, yt = torch.tensor(x), torch.tensor(y)

    def torch_steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(head(lstm(xt)[0][:, -1]), yt)
            loss.backward()
            optimizer.step()

    def aforo_steps(count: int) -> None:
        model.fit(x, y, epochs=count, batch_size=ROWS, shuffle=False, verbose=0)

    torch_steps(1)
    aforo_steps(1)
    times: dict[str, list[float]] = {"Aforo": [], "PyTorch": []}
    for _ in range(options.rounds):
        for name, take in (("Aforo", aforo_steps), ("PyTorch", torch_steps)):
            started = perf_counter()
            take(options.steps)
            times[name].append((perf_counter() - started) / options.steps)
    medians = {name: statistics.median(each) for name, each in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["Aforo"], times["PyTorch"], strict=True))

    print(f"an LSTM of {UNITS} units, {LENGTH} steps of {FEATURES} features, batch {ROWS}, {options.threads} threads")
    for name, median in medians.items():
        print(f"  {name:<8} {1000 * median:7.2f} ms a training step")
    print(f"  Aforo / PyTorch: {ratio:.2f} (median of {options.rounds} pairs)")
    print(f"  first step, with planning and binding: {first:.2f} s")
    print(f"  Aforo owns {held:,} B, planned {planned:,} B, difference {planned - held} B")
    print(f"  PyTorch allocates {_torch_peak(torch, torch_steps, parameters):,} B at the peak of a step")


def _torch_peak(torch: Any, take: Callable[[int], None], parameters: Any) -> int:
    """The most bytes that PyTorch's tensors hold during a step, weights included."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        take(1)
    changes = [
        (event.start_ns(), event.nbytes()) for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    live = most = 0
    for _, nbytes in sorted(changes):
        live += nbytes
        most = max(most, live)
    return most + sum(p.numel() * p.element_size() for p in parameters)


if __name__ == "__main__":
    main()
