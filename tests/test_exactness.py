"""Planned minus allocated is 0: for every optimizer, for what a fit runs, on every device, and on hundreds of random nets."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from nets import ON_HOST, Array, array_bytes, on_the_device, tracing

import aforo as af
from aforo_backends import simulated

CASES, PARTS = 208, 8
needs_compiler = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")

OPTIMIZERS: dict[str, Callable[[], af.Optimizer]] = {
    "SGD": af.SGD,
    "momentum": lambda: af.SGD(momentum=0.9),
    "Nesterov, decay": lambda: af.SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    "schedule": lambda: af.SGD(af.schedules.ExponentialDecay(0.1, 100, 0.9)),
    "Adam": af.Adam,
    "Adam, clipped value": lambda: af.Adam(clipvalue=0.5),
    "AdamW": af.AdamW,
    "RMSprop": af.RMSprop,
    "RMSprop, momentum": lambda: af.RMSprop(momentum=0.9),
    "Adagrad": af.Adagrad,
    "clipped norm": lambda: af.SGD(clipnorm=1.0),
    "clipped by all": lambda: af.SGD(momentum=0.5, global_clipnorm=1.0),
}


def model(optimizer: af.Optimizer | str = "adam", activation: str = "relu", metrics: Any = "accuracy") -> af.Sequential:
    hidden = [af.Dense(16, activation), af.BatchNormalization(), af.Dropout(0.2)]
    made = af.Sequential([af.Dense(32, "sigmoid", input_shape=[5]), *hidden, af.Dense(3, "softmax")])
    made.compile(loss="sparse_categorical_crossentropy", optimizer=optimizer, metrics=metrics)
    return made


def data(rows: int, dtype: str = "float32") -> tuple[Array, Array]:
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, 5)).astype(dtype), rng.integers(0, 3, rows, "int32")


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_of_every_optimizer(optimizer: Callable[[], af.Optimizer]) -> None:
    x, y = data(50)
    with tracing():
        held, ours = array_bytes(), af.memory.allocated()
        made = model(optimizer())
        planned = made.memory(16).total_bytes
        made.fit(x, y, batch_size=16, epochs=2, verbose=0)
        assert array_bytes() - held == af.memory.allocated() - ours == planned


@pytest.mark.parametrize("programs", [["evaluation"], ["prediction"], ["training", "prediction"], ["evaluation", "prediction"],
                                      ["training", "evaluation", "prediction"]], ids=" and ".join)  # fmt: skip
@pytest.mark.parametrize("activation", ["relu", "sin"])
def test_of_programs_that_share_an_arena(programs: list[str], activation: str) -> None:
    x, y = data(40)
    with tracing():
        held = array_bytes()
        made = model(activation=activation)
        planned = made.memory(16, programs=programs)
        for _ in range(2):
            if "prediction" in programs:
                made.predict(x, batch_size=16)
            if "training" in programs:
                made.fit(x, y, batch_size=16, verbose=0)
            if "evaluation" in programs:
                made.evaluate(x, y, batch_size=16)
        assert array_bytes() - held == planned.total_bytes
    assert planned.arena_bytes == max(made.memory(16, programs=[each]).arena_bytes for each in programs)


@pytest.mark.parametrize(
    ("rows", "validation_rows", "weighted"), [(40, 0, False), (40, 20, True), (40, 7, False), (10, 40, False), (3, 3, True)]
)
def test_of_a_fit_with_its_validation_and_its_data(rows: int, validation_rows: int, weighted: bool) -> None:
    x, y = data(rows, "float64")
    validation: Any = data(validation_rows, "float64") if validation_rows else None
    weights = np.ones(rows) if weighted else None
    if validation and weighted:
        validation = (*validation, np.ones(validation_rows))
    seen: list[int] = []
    last = (rows - 1) // 16
    look = af.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batch == last and seen.append(array_bytes()))
    with tracing():
        held = array_bytes()
        made = model()
        m = made.memory(16, rows=rows, validation_rows=validation_rows, weighted=weighted)
        # Class numbers are int32 already and used where they lie.
        labels = 4 * (rows + validation_rows)
        made.fit(x, y, batch_size=16, epochs=2, verbose=0, validation_data=validation, sample_weight=weights, callbacks=look)
        assert array_bytes() - held == m.total_bytes
        assert seen[-1] - held == m.total_bytes + (m.data_bytes - labels if ON_HOST else on_the_device(m))
    given = 4 * 5 + 4 + 4 * weighted
    assert [(each.name, each.nbytes) for each in m.data if each.where == "host"] == [
        ("training data", rows * given),
        ("order of the rows", rows * 8),
        *([("validation data", validation_rows * given)] if validation_rows else []),
    ]


@pytest.mark.about_numpy("the order of the rows lies there")
def test_of_the_shuffle_there_is_one_order_at_a_time() -> None:
    rows, peaks = 100_000, []
    made = af.Sequential([af.Dense(1, input_shape=[1])])
    made.compile(loss="mse")
    x = np.ones((rows, 1), "float32")

    class Peak(af.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any) -> None:
            tracemalloc.reset_peak()
            self.before = tracemalloc.get_traced_memory()[0]

        def on_train_batch_begin(self, batch: int, logs: Any) -> None:
            if batch == 0 and hasattr(self, "before"):
                peaks.append(tracemalloc.get_traced_memory()[1] - self.before)

    with tracing():
        made.fit(x, x, batch_size=rows // 2, epochs=3, verbose=0, callbacks=Peak())
    assert len(peaks) == 2 and max(peaks) < rows * 4  # an order is 8 bytes a row


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_of_the_simulated_device(optimizer: str) -> None:
    x, y = data(40)
    held = af.memory.allocated("simulated")
    made = model(optimizer)
    planned = made.memory(16, device="simulated", rows=40, validation_rows=10).total_bytes
    made.to("simulated")
    made.fit(x, y, batch_size=16, verbose=0, validation_data=data(10))
    assert af.memory.allocated("simulated") - held == planned
    made.fit(x, y, batch_size=16, verbose=0, validation_data=data(10))
    assert af.memory.allocated("simulated") - held == planned
    assert planned == made.memory(16, device="cuda", rows=40, validation_rows=10).total_bytes
    del made
    assert af.memory.allocated("simulated") == held
    predicts = model(optimizer).to("simulated")
    planned = predicts.memory(16, training=False).total_bytes
    predicts.predict(x, batch_size=16)
    assert af.memory.allocated("simulated") - held == planned


# --- random cases -----------------------------------------------------------------------------------------------------


def random_model(rng: np.random.Generator) -> tuple[af.Model, Array, Any]:
    """Any acyclic net with one or two heads, compiled, and data for 60 rows of it."""
    pick = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    size = lambda: int(rng.integers(1, 20))  # noqa: E731
    width = size()
    x = af.Input([width])
    values = [x]
    for _ in range(int(rng.integers(1, 6))):
        h = pick(values[-3:])
        kind = pick(["dense", "dense", "dense", "batch", "layer", "dropout", "add", "concatenate", "multiply", "sine"])
        activation = pick(["relu", "sigmoid", "tanh", "sin", "none", "gelu"])
        if kind == "batch":
            h = af.BatchNormalization()(h)
        elif kind == "layer" and h.shape[-1] != 1:
            h = af.LayerNormalization()(h)
        elif kind == "dropout":
            h = af.Dropout(0.3)(h)
        elif kind == "add":
            h = af.Add()([h, af.Dense(int(h.shape[-1]))(pick(values))])
        elif kind == "multiply":
            h = af.Multiply()([h, af.Dense(int(h.shape[-1]), activation)(pick(values))])
        elif kind == "concatenate":
            h = af.Concatenate()([h, pick(values)])
        elif kind == "sine":
            h = af.ops.sin(h) * h
        else:
            h = af.Dense(size(), activation, use_bias=bool(rng.integers(2)))(h)
        values.append(h)
    loss = pick(["mse", "mae", "huber", "binary_crossentropy", "sparse_categorical_crossentropy"])
    units = max(2, size())
    final = {"binary_crossentropy": "sigmoid", "sparse_categorical_crossentropy": "softmax"}.get(loss, "none")
    heads = [af.Dense(units, final)(values[-1])]
    y: Any = {
        "sparse_categorical_crossentropy": rng.integers(0, units, 60),
        "binary_crossentropy": rng.integers(0, 2, (60, units)),
    }.get(loss, rng.normal(size=(60, units)))
    losses: Any = loss
    if rng.random() < 0.3:
        heads.append(af.Dense(3)(pick(values)))
        losses, y = [loss, "mse"], [y, rng.normal(size=(60, 3))]
    made = af.Model(x, heads if len(heads) > 1 else heads[0])
    metrics = pick([None, "mae", ["mae", "mse"]]) if loss != "sparse_categorical_crossentropy" else pick([None, "accuracy"])
    metrics = metrics if len(heads) == 1 or metrics is None else [metrics, "mae"]
    made.compile(loss=losses, optimizer=pick(list(OPTIMIZERS.values()))(), metrics=metrics)
    return made, rng.normal(size=(60, width)), y


def part(y: Any, rows: slice) -> Any:
    return [each[rows] for each in y] if isinstance(y, list) else y[rows]


@pytest.mark.parametrize("which", range(PARTS))
def test_of_random_nets_nothing_is_estimated_too_low(which: int, record_property: Callable[[str, object], None]) -> None:
    differences, kept = [], []
    for number in range(which, CASES, PARTS):
        rng = np.random.default_rng([5, number])
        batch, rows, kind = int(rng.integers(1, 33)), int(rng.integers(1, 50)), number % 4
        made, x, y = random_model(rng)
        kept.append(made)  # a model that goes away in between would be counted
        x, traced = x.astype("float32"), number // PARTS % 6 == 0  # NumPy's own count too for some: it takes time
        with tracing() if traced else nullcontext():
            held, ours = array_bytes() if traced else 0, af.memory.allocated()
            if kind == 0:
                planned = made.memory(batch).total_bytes
                made.train_on_batch(x[:batch], part(y, slice(batch)))
            elif kind == 1:
                planned = made.memory(batch, rows=rows, validation_rows=10).total_bytes
                validation = x[50:], part(y, slice(50, None))
                made.fit(x[:rows], part(y, slice(rows)), batch_size=batch, verbose=0, validation_data=validation)
                del validation
            elif kind == 2:
                planned = made.memory(batch, training=False).total_bytes
                made.predict(x, batch_size=batch)
            else:
                planned = made.memory(batch, programs=["training", "evaluation", "prediction"]).total_bytes
                made.fit(x, y, batch_size=batch, verbose=0)
                made.predict(x, batch_size=batch)
                made.evaluate(x, y, batch_size=batch)
            found = af.memory.allocated() - ours
            differences.append(planned - found)
            assert planned == found, f"case {number}: planned {planned}, held {found}"
            assert not traced or array_bytes() - held == found, f"case {number}: NumPy and the framework count differently"
    record_property("exactness", differences)
    assert len(differences) == CASES // PARTS
