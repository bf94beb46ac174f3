"""Training steps of dense nets beside PyTorch, JAX and the bare matrix products, and planned beside measured bytes.

    PYTHONPATH=framework:backends python ci/bench/gpu.py [--device cuda] [--tf32] [--quick] [--out receipt.json]

Each net is trained with SGD and softmax cross-entropy on one batch that stays on the device. All stacks run in one process and
in turn; a figure is the median over rounds of the time of many steps, waited for once. Peers that are not installed, or that
fail, are named with the reason. `--device cpu` and `--device simulated` rehearse it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory

import numpy as np

import aforo as af
import aforo_backends

NETS = [
    ([3, 4, 5, 2], 32),
    ([64, 64, 10], 32),
    ([784, 128, 10], 32),
    ([784, 512, 10], 128),
    ([784, 1024, 1024, 10], 256),
    ([2048, 4096, 4096, 1000], 512),
    ([8192, 8192, 8192, 1000], 1024),
]
RATE = 0.01
Steps = Callable[[int], None]  # runs so many steps, and waits for them


def data(widths: list[int], batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, widths[0])).astype("float32"), rng.integers(0, widths[-1], batch).astype("int32")


def aforo(widths: list[int], batch: int, device: str, tf32: bool) -> tuple[Steps, dict[str, int]]:
    af.set_seed(1)
    model = af.Sequential([af.Dense(units, "relu") for units in widths[1:-1]])
    model.add(af.Dense(widths[-1], "softmax"))
    model.build((None, widths[0]))
    model.compile(loss="sparse_categorical_crossentropy", optimizer=af.SGD(RATE))
    planned = model.memory(batch, device=device)
    before = af.memory.allocated(device)
    model.to(device, tf32=tf32)
    x, y = data(widths, batch)
    model.train_on_batch(x, y)
    held = af.memory.allocated(device) - before
    program, backend = model.program("training", batch), aforo_backends.load(device)
    made = af.memory.allocations(device)

    def steps(n: int) -> None:
        for _ in range(n):
            program.run()
        backend.synchronize()

    steps(3)
    memory = {
        "planned_bytes": planned.total_bytes,
        "held_bytes": held,
        "allocations_in_steps": af.memory.allocations(device) - made,
    }
    return steps, memory


def torch_steps(widths: list[int], batch: int, device: str, tf32: bool, compiled: bool) -> Steps:
    import torch
    from torch import nn

    torch.backends.cuda.matmul.allow_tf32 = tf32
    layers: list[Any] = []
    for m, n in pairwise(widths):
        layers += [nn.Linear(m, n), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).to(device)
    x, y = (torch.from_numpy(array).to(device) for array in data(widths, batch))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    y = y.long()

    def loss_of() -> Any:
        return nn.functional.cross_entropy(net(x), y)

    def update() -> None:
        optimizer.step()

    if compiled:
        loss_of = torch.compile(loss_of, mode="reduce-overhead")
        update = torch.compile(update, mode="reduce-overhead")

    def steps(n: int) -> None:
        for _ in range(n):
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=not compiled)
            loss_of().backward()
            update()
        if device == "cuda":
            torch.cuda.synchronize()

    steps(12)
    return steps


def bare_products(widths: list[int], batch: int, device: str, tf32: bool) -> Steps:
    """The products of a step and nothing else: forward, of every kernel, and of every layer's input but the first."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = tf32
    calls = []
    for i, (m, n) in enumerate(pairwise(widths)):
        x, w, g = (torch.randn(shape, device=device) for shape in ((batch, m), (m, n), (batch, n)))
        shapes = [(x, w, torch.empty(batch, n, device=device)), (x.T, g, torch.empty(m, n, device=device))]
        calls += shapes + [(g, w.T, torch.empty(batch, m, device=device))] * (i > 0)

    def once() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    once()
    if device != "cuda":

        def steps(n: int) -> None:
            for _ in range(n):
                once()

        return steps
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    def replay(n: int) -> None:
        for _ in range(n):
            graph.replay()
        torch.cuda.synchronize()

    replay(3)
    return replay


def jax_steps(widths: list[int], batch: int, tf32: bool) -> Steps:
    import jax
    import jax.numpy as jnp

    precision = "tensorfloat32" if tf32 else "highest"
    rng = np.random.default_rng(1)
    sizes = pairwise(widths)
    weights = [(jnp.asarray(rng.normal(size=(m, n)) / m**0.5, jnp.float32), jnp.zeros(n)) for m, n in sizes]
    x, y = map(jnp.asarray, data(widths, batch))

    def loss(weights: Any) -> Any:
        h = x
        for i, (kernel, bias) in enumerate(weights):
            h = jnp.dot(h, kernel, precision=precision) + bias
            h = jax.nn.relu(h) if i < len(weights) - 1 else h
        return -jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], 1).mean()

    def step(weights: Any) -> Any:
        return jax.tree.map(lambda w, g: w - RATE * g, weights, jax.grad(loss)(weights))

    jitted = jax.jit(step, donate_argnums=0)
    state = [weights]

    def steps(n: int) -> None:
        for _ in range(n):
            state[0] = jitted(state[0])
        jax.block_until_ready(state[0])

    steps(3)
    return steps


def timed(stacks: dict[str, Steps], budget: float, rounds: int) -> dict[str, float]:
    """Microseconds a step, the median over rounds in which the stacks take turns."""
    counts = {}
    for name, steps in stacks.items():
        started = perf_counter()
        steps(5)
        counts[name] = max(5, min(2000, int(budget / max(1e-6, (perf_counter() - started) / 5))))
    found: dict[str, list[float]] = {name: [] for name in stacks}
    for _ in range(rounds):
        for name, steps in stacks.items():
            started = perf_counter()
            steps(counts[name])
            found[name].append((perf_counter() - started) / counts[name] * 1e6)
    return {name: median(times) for name, times in found.items()}


def attempted(make: Callable[[], Steps]) -> Steps | str:
    """A peer, or why it cannot run here: a line of the receipt, not the end of it."""
    try:
        return make()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def version(name: str) -> str:
    try:
        return str(__import__(name).__version__)
    except ImportError:
        return "not installed"


def measure(widths: list[int], batch: int, device: str, tf32: bool, quick: bool) -> dict[str, Any]:
    makers: dict[str, Callable[[], Steps]] = {
        "torch_eager": lambda: torch_steps(widths, batch, device, tf32, compiled=False),
        "torch_reduce_overhead": lambda: torch_steps(widths, batch, device, tf32, compiled=True),
        "jax_jit": lambda: jax_steps(widths, batch, tf32),
        "bare_products": lambda: bare_products(widths, batch, device, tf32),
    }
    if device == "simulated":
        makers = {}
    elif device == "cpu":
        del makers["torch_reduce_overhead"]
    steps, memory = aforo(widths, batch, device, tf32)
    made = {name: attempted(make) for name, make in makers.items()}
    failed = {name: steps for name, steps in made.items() if isinstance(steps, str)}
    stacks: dict[str, Steps] = {"aforo": steps, **{name: each for name, each in made.items() if not isinstance(each, str)}}
    times = timed(stacks, 0.02 if quick else 0.3, 3 if quick else 7)
    return {
        "widths": widths,
        "batch": batch,
        "tf32": tf32,
        "microseconds": {name: round(value, 2) for name, value in times.items()},
        "times_aforo": {name: round(value / times["aforo"], 3) for name, value in times.items()},
        "not_run": failed,
        **memory,
    }


def hardware(device: str) -> dict[str, Any]:
    """The device, and what CUDA takes before and beside what is planned."""
    if device != "cuda":
        return {"device": device}
    import cupy

    runtime = cupy.cuda.runtime
    runtime.free(0)
    free, total = runtime.memGetInfo()
    aforo_backends.load("cuda").synchronize()
    return {
        "device": runtime.getDeviceProperties(0)["name"].decode(),
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "total_bytes": total,
        "context_bytes": total - free,
        "handle_and_workspace_bytes": free - runtime.memGetInfo()[0],
    }


def pool() -> dict[str, int]:
    """What CuPy's pool holds beside what the framework says it holds."""
    import gc

    import cupy

    gc.collect()
    return {"pool_used_bytes": cupy.get_default_memory_pool().used_bytes(), "framework_bytes": af.memory.allocated("cuda")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu", "simulated"])
    parser.add_argument("--tf32", action="store_true", help="measure once more with TF32 on all sides")
    parser.add_argument("--quick", action="store_true", help="small nets, few rounds: a rehearsal")
    parser.add_argument("--out", help="write the figures to this file, as JSON")
    options = parser.parse_args()
    receipt: dict[str, Any] = {"date": date.today().isoformat(), **hardware(options.device)}
    receipt["versions"] = {"python": sys.version.split()[0]} | {
        n: version(n) for n in ("aforo", "numpy", "cupy", "torch", "jax")
    }
    receipt["nets"] = []

    def keep() -> None:  # after every net: whatever ends this early, what was measured stays
        if options.out:
            with open(options.out, "w") as file:
                json.dump(receipt, file, indent=1)

    for tf32 in (False, True) if options.tf32 else (False,):
        for widths, batch in NETS[: 4 if options.quick else len(NETS)]:
            try:
                row = measure(widths, batch, options.device, tf32, options.quick)
            except Exception as error:
                traceback.print_exc()
                row = {"widths": widths, "batch": batch, "tf32": tf32, "failed": f"{type(error).__name__}: {error}"}
            receipt["nets"].append(row)
            keep()
            if "failed" in row:
                continue
            shown = "  ".join(
                f"{name} {us:.1f} µs ({row['times_aforo'][name]:.2f})" for name, us in row["microseconds"].items()
            )
            print("-".join(map(str, widths)), f"b {batch}", "tf32" if tf32 else "", shown, row["not_run"] or "", flush=True)
            print(f"  planned {row['planned_bytes']:,} B, held {row['held_bytes']:,} B", flush=True)
    if options.device == "cuda":
        receipt.update(pool())
    keep()
    wrong = [
        row
        for row in receipt["nets"]
        if "failed" in row or row["planned_bytes"] != row["held_bytes"] or row["allocations_in_steps"]
    ]
    if wrong:
        sys.exit(f"a net failed, planned and held bytes differ, or a step allocated: {wrong}")


if __name__ == "__main__":
    main()
