"""Nets for the tests of the upper floors, and their float64 NumPy twins, which share no code with Aforo."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import aforo as af
from aforo.device import CPU
from aforo.economy import choose

Array = np.ndarray[Any, Any]
ON_HOST = os.environ.get("AFORO_TEST_DEVICE", "cpu") == "cpu"  # no other device stands in for the CPU
NUMPY_DOMAIN = 389047  # where tracemalloc counts the data of NumPy's arrays


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda z: z,
    "relu": lambda z: z * (z > 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: 2 / (1 + np.exp(-2 * z)) - 1,  # 2σ(2z) − 1
    "sin": np.sin,
    "cos": np.cos,
    "softmax": softmax,
}
HIDDEN = ("relu", "sigmoid", "tanh", "sin", "cos", "none")


def forward(weights: Sequence[Array], activations: Sequence[str], x: Array) -> Array:
    """The output of a stack of Dense layers in float64; weights are kernel, bias, kernel, bias, …"""
    out = np.asarray(x, np.float64)
    for kernel, bias, activation in zip(weights[::2], weights[1::2], activations, strict=True):
        out = ACTIVATIONS[activation](out @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64))
    return out


def per_sample(loss: str, y_true: Array, y_pred: Array) -> Array:
    """The textbook loss of each row, from probabilities."""
    rows = np.arange(len(y_pred))
    if loss == "mse":
        return ((y_pred - y_true) ** 2).mean(axis=1)
    if loss == "mae":
        return np.abs(y_pred - y_true).mean(axis=1)
    if loss == "categorical_crossentropy":
        return -(y_true * np.log(y_pred)).sum(axis=1)
    if loss == "sparse_categorical_crossentropy":
        return -np.log(y_pred[rows, y_true])
    assert loss == "binary_crossentropy"
    return -(y_true * np.log(y_pred) + (1 - y_true) * np.log(1 - y_pred)).mean(axis=1)


HEADS = {
    "mse": "none",
    "mae": "none",
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}


@dataclass(frozen=True)
class Net:
    """A stack of Dense layers and how it is trained."""

    widths: tuple[int, ...] = (3, 4, 5, 2)  # d_in first
    activations: tuple[str, ...] = ("tanh", "relu", "none")
    loss: str = "mse"
    optimizer: dict[str, Any] = field(default_factory=lambda: {"learning_rate": 0.05})
    batch: int = 8
    metrics: Any = None
    dtype: str = "float32"

    def layers(self) -> list[af.Layer]:
        first, *rest = zip(self.widths[1:], self.activations, strict=True)
        return [af.Dense(first[0], first[1], input_shape=[self.widths[0]]), *(af.Dense(n, f) for n, f in rest)]

    def model(self, seed: int = 1) -> af.Sequential:
        af.set_seed(seed)
        model = af.Sequential(self.layers(), dtype=self.dtype)
        model.compile(loss=self.loss, optimizer=af.SGD(**self.optimizer), metrics=self.metrics)
        return model

    def data(self, rows: int, seed: int = 0) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, self.widths[0])).astype(self.dtype)
        return x, targets(self.loss, rows, self.widths[-1], rng, self.dtype)


def targets(loss: str, rows: int, width: int, rng: np.random.Generator, dtype: str = "float64") -> Array:
    if loss in ("mse", "mae"):
        return rng.normal(size=(rows, width)).astype(dtype)
    if loss == "binary_crossentropy":
        return rng.integers(0, 2, (rows, width)).astype(dtype)
    labels = rng.integers(0, width, rows)
    return labels.astype(np.int32) if loss.startswith("sparse") else np.eye(width, dtype=dtype)[labels]


def random_net(number: int) -> Net:
    """Depth 1–6, widths 1–64, batch 1–50. Losses, optimizers and activations take turns, so that few nets meet all."""
    rng = np.random.default_rng([2024, number])
    depth = 1 + number % 6
    loss = list(HEADS)[number % 5]
    momenta = [
        {},
        {"momentum": 0.9},
        {"momentum": 0.8, "nesterov": True},
        {"weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 0.003},
        {"momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
        {"momentum": 0.9, "nesterov": True},
    ]
    hidden = [HIDDEN[(number + i * (1 + number % 3)) % len(HIDDEN)] for i in range(depth - 1)]
    widths = [int(n) for n in np.exp(rng.uniform(0, np.log(64.99), depth + 1))]
    if "categorical" in loss:
        widths[-1] = max(2, widths[-1])  # one class has nothing to learn
    return Net(
        widths=tuple(widths),
        activations=(*hidden, HEADS[loss]),
        loss=loss,
        optimizer={"learning_rate": 0.02, **momenta[number % len(momenta)]},
        batch=int(rng.integers(1, 51)),
        dtype="float64",
    )


def assert_close(found: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Equal up to `tolerance` of the largest magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}"
    scale = np.abs(expected).max()
    assert np.isfinite(found).all(), what
    worst = np.abs(found - expected).max()
    assert worst <= tolerance * scale, f"{what}: off by {worst:.3g} where the largest value is {scale:.3g}"


def assert_same_bits(found: Sequence[Array], expected: Sequence[Array]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def gradients(model: af.Sequential, loss: Any, x: Any, y: Any, **options: Any) -> list[Array]:
    """What one step of descent at rate 1 takes off each weight: the derived gradient."""
    model.compile(loss=loss, optimizer=af.SGD(learning_rate=1.0))
    before = model.get_weights()
    model.train_on_batch(x, y, **options)
    after = model.get_weights()
    model.set_weights(before)
    return [a - b for a, b in zip(before, after, strict=True)]


def differences(loss: Callable[[list[Array]], float], weights: Sequence[Array], step: float = 1e-6) -> list[Array]:
    """Central finite differences of a float64 function of all weights."""
    weights = [np.array(weight, np.float64) for weight in weights]
    found = []
    for weight in weights:
        out = np.empty_like(weight)
        for at in np.ndindex(weight.shape):
            value = weight[at]
            weight[at] = value + step
            high = loss(weights)
            weight[at] = value - step
            out[at] = (high - loss(weights)) / (2 * step)
            weight[at] = value
        found.append(out)
    return found


def least_budget(model: af.Model, batch: int, **options: Any) -> int:
    """The smallest budget in which batches of that size train, from the error for a budget of one byte."""
    try:
        choose(model, batch, 1, CPU, **options)
    except af.Error as error:
        return int(str(error).rpartition("memory_budget=")[2])
    raise AssertionError("everything fits into one byte")


def budget_between(model: af.Model, batch: int, share: float, **options: Any) -> int:
    """At this share of the way from the smallest budget to the bytes of whole batches."""
    least, whole = least_budget(model, batch, **options), choose(model, batch, 1 << 40, CPU, **options).total_bytes
    return least + round(share * (whole - least))


def on_the_device(report: af.memory.Report) -> int:
    """Bytes of a fit's data that lie on a device with its own memory."""
    return sum(held.nbytes for held in report.data if held.where != "host")


def array_bytes() -> int:
    """Bytes that NumPy's arrays hold now, by tracemalloc; those of its pool where another device stands in for the CPU."""
    if not ON_HOST:
        gc.collect()
        return af.memory.allocated()
    only = tracemalloc.DomainFilter(True, NUMPY_DOMAIN)
    traces = tracemalloc.take_snapshot().filter_traces([only]).traces
    return sum(trace.size for trace in traces)


@contextmanager
def tracing() -> Iterator[None]:
    """Count allocations from here on; no collection interferes with the counts."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()
