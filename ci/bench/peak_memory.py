"""The most memory that a training step takes, beside peers on the same nets.

ReLU layers, softmax cross-entropy, SGD with momentum, float32; class numbers are int32, in PyTorch int64.

Aforo    what the framework holds after the first step: planned and allocated, which must be equal
JAX      memory_analysis() of the compiled step on the CPU, weights and momentum donated:
         arguments + outputs − aliases + temporaries
PyTorch  the most bytes of its CPU allocator that are in use at once, summed from every allocation and release that its profiler
         records from before the model is made to after the second step; the batch included

All three count weights, momentum, the batch and what lives within a step; code, threads and library buffers in none.

    python ci/bench/peak_memory.py        peers come from the extra `bench`; those that are not installed are left out
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETS = {
    "784-1024×4-10, b = 64": ([784, 1024, 1024, 1024, 1024, 10], 64),
    "784-1024×4-10, b = 16,384": ([784, 1024, 1024, 1024, 1024, 10], 16_384),
    "64-64×30-10, b = 1,024": ([64, *[64] * 30, 10], 1024),
}
SCRIPTS = {
    "aforo": """
import numpy as np, aforo as af
first, *rest = widths[1:-1]
model = af.Sequential([af.Dense(first, "relu", input_shape=[widths[0]]), *(af.Dense(n, "relu") for n in rest)])
model.add(af.Dense(widths[-1], "softmax"))
model.compile(loss="sparse_categorical_crossentropy", optimizer=af.SGD(0.01, momentum=0.9))
planned = model.memory(batch).total_bytes
x, y = np.zeros((batch, widths[0]), "float32"), np.zeros(batch, "int32")
model.train_on_batch(x, y)
assert af.memory.allocated() == planned, (af.memory.allocated(), planned)
print(planned)
""",
    "jax": """
import jax, jax.numpy as jnp
def loss(weights, x, y):
    for kernel, bias in weights[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    kernel, bias = weights[-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ kernel + bias), y[:, None], 1).mean()
def step(weights, momentum, x, y):
    value, gradients = jax.value_and_grad(loss)(weights, x, y)
    momentum = jax.tree.map(lambda v, g: 0.9 * v + g, momentum, gradients)
    return value, jax.tree.map(lambda w, v: w - 0.01 * v, weights, momentum), momentum
f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
weights = [(f32(m, n), f32(n)) for m, n in zip(widths, widths[1:])]
y = jax.ShapeDtypeStruct((batch,), jnp.int32)
compiled = jax.jit(step, donate_argnums=(0, 1)).lower(weights, weights, f32(batch, widths[0]), y).compile()
m = compiled.memory_analysis()
print(m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes)
""",
    "torch": """
import torch
from torch.profiler import ProfilerActivity, profile
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
    layers = []
    for m, n in zip(widths, widths[1:]):
        layers += [torch.nn.Linear(m, n), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.zeros(batch, widths[0]), torch.zeros(batch, dtype=torch.int64)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
live = most = 0
for event in sorted(events, key=lambda e: e.start_ns()):
    live += event.nbytes()
    most = max(most, live)
print(most)
""",
}
MODULES = {"aforo": "aforo", "jax": "jax", "torch": "torch"}


def peak(stack: str, widths: list[int], batch: int) -> int:
    paths = os.pathsep.join(str(ROOT / part) for part in ("framework", "backends"))
    source = f"widths, batch = {widths}, {batch}\n{SCRIPTS[stack]}"
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print plain data, in bytes")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "framework"), str(ROOT / "backends")]
    stacks = [stack for stack, module in MODULES.items() if find_spec(module)]
    found = {name: {stack: peak(stack, *net) for stack in stacks} for name, net in NETS.items()}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'MiB':28s}" + "".join(f"{stack:>12s}" for stack in stacks))
    for name, peaks in found.items():
        print(f"{name:28s}" + "".join(f"{peaks[stack] / 2**20:12.1f}" for stack in stacks))


if __name__ == "__main__":
    main()
