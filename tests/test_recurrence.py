"""Cyclic nets: feedback edges and recurrent layers, against their unrolled form, NumPy, and the allocator."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from nets import ON_HOST, Array, array_bytes, assert_close, budget_between, differences, gradients, on_the_device, tracing

import aforo as af
from aforo.device import CPU
from aforo.economy import Data, choose
from aforo.plan import make_plan, owned_bytes
from aforo.specs import sizes_of
from aforo.steps import TRAINING
from aforo_backends import simulated

needs_compiler = pytest.mark.skipif(simulated.compiler() is None, reason="the simulated device needs a C++ compiler")
ROWS, LENGTH = 3, 4


def data(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# --- random cyclic nets equal their unrolled form ---------------------------------------------------------------------

Values = list[af.Tensor]


class Recipe:
    """A random net of layers and operations on the last axis, with feedback edges between any of its values.

    `step` applies it to values of any number of leading axes: whole sequences with feedbacks, or one step with states.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.features = int(rng.integers(1, 4))
        self.widths = [int(n) for n in rng.integers(1, 4, rng.integers(1, 4))]  # of the feedback edges
        self.learnt = rng.random(len(self.widths)) < 0.3
        self.layers: list[Callable[[Values], af.Tensor]] = []
        sizes = [self.features, *self.widths]
        for _ in range(int(rng.integers(2, 6))):
            make, size = self._layer(sizes)
            self.layers.append(make)
            sizes.append(size)
        self.closing = [self._closing(width, len(sizes)) for width in self.widths]
        self.head = af.Dense(2)
        self.head_reads = sorted({int(i) for i in rng.integers(0, len(sizes), 3)} | {0, len(sizes) - 1})

    def _layer(self, sizes: list[int]) -> tuple[Callable[[Values], af.Tensor], int]:
        rng = self.rng
        kind = rng.choice(["dense", "concatenate", "add", "multiply", "normalize", "gate", "slice", "weight"])
        i, j = (int(n) for n in rng.integers(0, len(sizes), 2))
        if kind == "dense":
            layer = af.Dense(int(rng.integers(1, 5)), str(rng.choice(["tanh", "sigmoid", "softmax", "sin"])))
            return lambda values: layer(values[i]), layer.units
        if kind == "concatenate":
            layer = af.Dense(3, "tanh")
            return lambda values: layer(af.ops.concatenate([values[i], values[j], values[i]])), 3
        if kind in ("add", "multiply"):
            same = [k for k, size in enumerate(sizes) if size == sizes[i]]
            other = int(rng.choice(same))
            combine = af.ops.add if kind == "add" else af.ops.multiply
            return lambda values: af.ops.tanh(combine(values[i], values[other])), sizes[i]
        if kind == "normalize":
            layer = af.LayerNormalization()
            return lambda values: layer(values[i] * 0.5 + 0.1), sizes[i]
        if kind == "gate":
            return lambda values: af.ops.where(values[i] > 0.1, values[i] * 0.5, af.ops.sin(values[i])), sizes[i]
        if kind == "slice":
            return lambda values: values[i][..., : max(1, sizes[i] - 1)] * 0.7, max(1, sizes[i] - 1)
        layer = af.Dense(sizes[i], use_bias=False)
        return lambda values: af.ops.tanh(layer(values[i]) - values[i] * 0.3), sizes[i]

    def _closing(self, width: int, count: int) -> Callable[[Values], af.Tensor]:
        """What an edge carries on: a layer on one of the values, often one of another edge's."""
        layer, i = af.Dense(width, "tanh"), int(self.rng.integers(0, count))
        return lambda values: layer(values[i])

    def step(self, x: af.Tensor, states: Sequence[af.Tensor]) -> tuple[af.Tensor, Values]:
        values = [x, *states]
        for make in self.layers:
            values.append(make(values))
        return self.head(af.ops.concatenate([values[i] for i in self.head_reads])), [close(values) for close in self.closing]

    def model(self) -> tuple[af.Model, list[Any]]:
        x = af.Input([None, self.features], dtype="float64")
        backs = [
            af.Feedback([width], initial_state="learnt" if learnt else None, dtype="float64")
            for width, learnt in zip(self.widths, self.learnt, strict=True)
        ]
        y, nexts = self.step(x, backs)
        for back, value in zip(backs, nexts, strict=True):
            back.connect(value)
        return af.Model(x, y), backs


def starts(model: af.Model) -> list[af.Tensor]:
    return [weight for weight in model.weights if weight.name == "initial_state"]


@pytest.mark.parametrize("tenth", range(10))
def test_random_cyclic_nets_equal_their_unrolled_form_in_values_and_gradients(tenth: int) -> None:
    for seed in range(11 * tenth, 11 * tenth + 11):
        recipe = Recipe(seed)
        model, backs = recipe.model()
        rng = np.random.default_rng(seed)
        model.set_weights([rng.normal(size=weight.shape) * 0.7 for weight in model.get_weights()])
        x = data(ROWS, LENGTH, recipe.features, seed=seed)
        factor = rng.normal(size=(ROWS, LENGTH, 2))

        whole = af.tensor(x, "float64")
        y = model(whole)
        wanted = list(model.weights)
        found = af.grad(af.ops.sum(y * factor) + touched([*wanted, whole]), [*wanted, whole])

        steps = [af.tensor(x[:, t], "float64") for t in range(LENGTH)]
        learnt = iter(starts(model))
        states = [
            af.ops.broadcast_to(next(learnt), (ROWS, width))
            if own and used(model, back)
            else af.tensor(np.zeros((ROWS, width)), "float64")
            for width, own, back in zip(recipe.widths, recipe.learnt, backs, strict=True)
        ]
        error, shown = None, []
        for t, step in enumerate(steps):
            out, states = recipe.step(step, states)
            shown.append(out)
            part = af.ops.sum(out * factor[:, t])
            error = part if error is None else error + part
        expected = af.grad(error + touched([*wanted, *steps]), [*wanted, *steps])
        assert_close(y.numpy(), np.stack([out.numpy() for out in shown], 1), 1e-12, f"net {seed}")
        assert_close(model.predict(x), y.numpy(), 1e-12, f"net {seed}")
        for weight, a, b in zip(wanted, found, expected, strict=False):
            assert_close(a.numpy() + 1.0, b.numpy() + 1.0, 1e-10, f"net {seed}, {weight!r}")
        assert_close(found[-1].numpy(), np.stack([g.numpy() for g in expected[len(wanted) :]], 1), 1e-10, f"net {seed}")


def touched(tensors: Sequence[af.Tensor]) -> af.Tensor:
    """Nothing, that depends on all of these: what an edge carries may come too late to matter."""
    total = af.ops.sum(tensors[0]) * 0.0
    for x in tensors[1:]:
        total = total + af.ops.sum(x) * 0.0
    return total


def used(model: af.Model, back: Any) -> bool:
    return any(x is back for cycle in model._topology.cycles for x in cycle.feedbacks)


# --- feedback edges ---------------------------------------------------------------------------------------------------


def crossing(dtype: str = "float64") -> tuple[af.Model, dict[str, af.Layer]]:
    """Two feedback edges that cross, each into the other's layer, and a skip over both."""
    x = af.Input([None, 3], dtype=dtype)
    a, b = af.Feedback([4], dtype=dtype), af.Feedback([2], dtype=dtype)
    layers: dict[str, af.Layer] = {"low": af.Dense(4, "tanh"), "high": af.Dense(2, "tanh"), "head": af.Dense(1)}
    join = af.Concatenate
    low = layers["low"](join()([x, b]))
    high = layers["high"](join()([low, a]))
    a.connect(low)
    b.connect(high)
    return af.Model(x, layers["head"](join()([high, x]))), layers


def of_crossing(weights: Sequence[Array], x: Array) -> Array:
    """The same in NumPy."""
    k1, b1, k2, b2, k3, b3 = weights
    low, high, shown = np.zeros((len(x), 4)), np.zeros((len(x), 2)), []
    for t in range(x.shape[1]):
        low, before = np.tanh(np.concatenate([x[:, t], high], 1) @ k1 + b1), low
        high = np.tanh(np.concatenate([low, before], 1) @ k2 + b2)
        shown.append(np.concatenate([high, x[:, t]], 1) @ k3 + b3)
    return np.stack(shown, 1)


def test_two_crossing_feedback_edges_and_a_skip_equal_numpy_and_finite_differences() -> None:
    model, _ = crossing()
    assert len(model._topology.cycles) == 1
    weights = [data(*weight.shape, seed=i) for i, weight in enumerate(model.get_weights())]
    x, y = data(5, 6, 3), data(5, 6, 1, seed=1)
    model.set_weights(weights)
    assert_close(model.predict(x, batch_size=2), of_crossing(weights, x), 1e-13)
    found = gradients(model, "mse", x, y)
    wanted = differences(lambda now: float(((of_crossing(now, x) - y) ** 2).mean()), weights)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b, 1e-7)


@needs_compiler
def test_a_cyclic_net_trains_on_the_simulated_device_as_on_the_cpu() -> None:
    x, y = data(7, 5, 3).astype("float32"), data(7, 5, 1, seed=1).astype("float32")
    af.set_seed(5)
    here, _ = crossing("float32")
    af.set_seed(5)
    there = crossing("float32")[0].to("simulated")
    for model in (here, there):
        model.compile(loss="mse", optimizer="adam")
        model.fit(x, y, epochs=3, batch_size=3, shuffle=False, verbose=0)
    for a, b in zip(here.get_weights(), there.get_weights(), strict=True):
        assert_close(a, b, 1e-5)
    assert_close(there.predict(x), here.predict(x), 1e-5)
    there.train_on_batch(x[:3], y[:3])
    held = af.memory.allocated("simulated"), af.memory.allocations("simulated")
    there.train_on_batch(x[:3], y[:3])
    assert (af.memory.allocated("simulated"), af.memory.allocations("simulated")) == held


def test_cycles_that_do_not_touch_are_loops_of_their_own_and_what_is_off_them_sees_whole_sequences() -> None:
    x = af.Input([None, 3], dtype="float64")
    centred = x - af.ops.mean(x, 1, keepdims=True)  # before the cycles: over the whole sequence
    states = []
    for width in (2, 4):
        back = af.Feedback([width], dtype="float64")
        state = af.Dense(width, "tanh")(af.Concatenate()([centred, back]))
        back.connect(state)
        states.append(state)
    last = states[0] - af.ops.max(states[0], 1, keepdims=True)  # after them
    model = af.Model(x, [last, states[1]])
    assert len(model._topology.cycles) == 2
    data_x = data(2, 5, 3)
    k1, b1, k2, b2 = model.get_weights()
    expected = []
    for kernel, bias in ((k1, b1), (k2, b2)):
        h, shown = np.zeros((2, len(bias))), []
        for t in range(5):
            h = np.tanh(np.concatenate([(data_x - data_x.mean(1, keepdims=True))[:, t], h], 1) @ kernel + bias)
            shown.append(h)
        expected.append(np.stack(shown, 1))
    found = model.predict(data_x)
    assert_close(found[0], expected[0] - expected[0].max(1, keepdims=True), 1e-12)
    assert_close(found[1], expected[1], 1e-12)


def test_a_feedback_of_an_input_is_that_input_one_step_ago() -> None:
    x = af.Input([None, 2])
    back = af.Feedback([2], initial_state=[5.0, 7.0])
    back.connect(x)
    given = data(3, 4, 2).astype("float32")
    expected = np.concatenate([np.broadcast_to(np.float32([5, 7]), (3, 1, 2)), given[:, :-1]], 1)
    np.testing.assert_array_equal(af.Model(x, back * 1.0).predict(given), expected)


def test_a_cycle_starts_from_zeros_from_an_input_or_from_a_weight_and_runs_as_long_as_the_model_says() -> None:
    start = af.Input([3], dtype="float64")
    back = af.Feedback([3], initial_state=start, dtype="float64")
    back.connect(af.Dense(3, "sin")(back))
    model = af.Model(start, back.connected, steps=5)
    x = data(2, 3)
    kernel, bias = model.get_weights()
    h, shown = x, []
    for _ in range(5):
        h = np.sin(h @ kernel + bias)
        shown.append(h)
    assert_close(model.predict(x), np.stack(shown, 1), 1e-13)
    y = data(2, 5, 3, seed=3)
    model.compile(loss="mse", optimizer=af.SGD(0.05))
    assert model.fit(x, y, epochs=20, verbose=0).history["loss"][-1] < model.evaluate(x, y) * 1.5
    assert model.memory(2).total_bytes > 0

    x = af.Input([None, 1], dtype="float64")
    back = af.Feedback([2], initial_state="learnt", dtype="float64")
    back.connect(af.Dense(2, use_bias=False)(back))
    model = af.Model(x, back + x)
    (initial, kernel) = model.weights
    assert initial.name == "initial_state" and initial.trainable and initial.shape == (2,)
    initial.assign([1.0, 2.0])
    expected = np.stack([np.array([1.0, 2.0]) @ np.linalg.matrix_power(kernel.numpy(), t) for t in range(4)])
    assert_close(model.predict(np.zeros((1, 4, 1)))[0], expected, 1e-13)


def test_a_recurrent_layer_may_stand_on_a_cycle_of_others() -> None:
    """Its own states then belong to the loop around it."""
    x = af.Input([None, 3], dtype="float64")
    back = af.Feedback([2], dtype="float64")
    lstm = af.LSTM(4, return_sequences=True)
    out = af.Dense(2)(lstm(af.Concatenate()([x, back])))
    back.connect(out)
    model = af.Model(x, out)
    kernel, recurrent, bias, head, head_bias = model.get_weights()
    given = data(2, 5, 3)
    h, c, o = np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 2))
    shown = []
    for t in range(5):
        gates = np.concatenate([given[:, t], o], 1) @ kernel + h @ recurrent + bias
        i, f, g_o = (1 / (1 + np.exp(-z)) for z in np.split(gates[:, :12], 3, axis=1))
        c = f * c + i * np.tanh(gates[:, 12:])
        h = g_o * np.tanh(c)
        o = h @ head + head_bias
        shown.append(o)
    assert_close(model.predict(given), np.stack(shown, 1), 1e-12)


def test_a_cyclic_model_is_a_layer_and_is_called_on_data() -> None:
    inner, _ = crossing()
    x = af.Input([None, 3], dtype="float64")
    outer = af.Model(x, inner(af.ops.sin(x)) * 2.0)
    given = data(2, 4, 3)
    expected = of_crossing(inner.get_weights(), np.sin(given)) * 2.0
    assert_close(outer.predict(given), expected, 1e-12)
    assert_close(inner(af.tensor(np.sin(given), "float64")).numpy() * 2.0, expected, 1e-12)


@pytest.mark.parametrize("nested", [False, True])
def test_a_cyclic_model_may_stand_on_a_cycle_of_another(nested: bool) -> None:
    """Its states then belong to the loop around it, in training and step by step."""
    dense, head = af.Dense(3, "tanh"), af.Dense(2)

    def inner(z: Any) -> Any:
        own = af.Feedback([3], dtype="float64")
        own.connect(dense(af.Concatenate()([z, own])))
        return own.connected

    x, back = af.Input([None, 3], dtype="float64"), af.Feedback([2], dtype="float64")
    z = af.Concatenate()([x, back])
    if nested:
        start = af.Input([None, 5], dtype="float64")
        back.connect(head(af.Model(start, inner(start))(z)))
    else:
        back.connect(head(inner(z)))
    model = af.Model(x, back.connected)
    weights = [data(*weight.shape, seed=i) for i, weight in enumerate(model.get_weights())]
    model.set_weights(weights)

    def forward(now: Sequence[Array]) -> Array:
        kernel, bias, out, out_bias = now
        h, y, shown = np.zeros((2, 3)), np.zeros((2, 2)), []
        for t in range(5):
            h = np.tanh(np.concatenate([given[:, t], y, h], 1) @ kernel + bias)
            y = h @ out + out_bias
            shown.append(y)
        return np.stack(shown, 1)

    given, wanted = data(2, 5, 3, seed=8), data(2, 5, 2, seed=9)
    assert_close(model.predict(given), forward(weights), 1e-12)
    assert_close(np.stack([model.step(given[:, t]) for t in range(5)], 1), forward(weights), 1e-12)
    found = gradients(model, "mse", given, wanted)
    for a, b in zip(found, differences(lambda now: float(((forward(now) - wanted) ** 2).mean()), weights), strict=True):
        assert_close(a, b, 1e-6)


def dropping(trained: bool, **options: Any) -> af.Model:
    """What a Dropout on a cycle leaves of its input, or a unit that reads that."""
    x = af.Input([None, 6])
    back = af.Feedback([6], **options)
    left = af.Dropout(0.5)(x + back * 0.0)
    back.connect(left)
    return af.Model(x, af.Dense(1)(left) if trained else left)


def test_dropout_on_a_cycle_draws_anew_at_every_step() -> None:
    af.set_seed(5)
    kept = dropping(False)(af.tensor(np.ones((40, 50, 6), "float32")), training=True).numpy() > 0
    assert abs(kept.mean() - 0.5) < 0.03  # of 12,000 values; six standard deviations
    for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1]), (kept[..., 1:], kept[..., :-1])):
        assert abs((a == b).mean() - 0.5) < 0.03


@needs_compiler
@pytest.mark.parametrize("where", ["recompute", "simulated", "micro-batches"])
def test_masks_on_a_cycle_depend_on_nothing_else(where: str) -> None:
    x, y = data(12, 7, 6), np.zeros((12, 7, 1))
    weights = []
    for way in ("", where):
        af.set_seed(3)
        model = dropping(True, initial_state="learnt", recompute=way == "recompute")
        model.compile(loss="mse", optimizer=af.SGD(0.1))
        small = {"memory_budget": budget_between(model, 12, 0.0, data=Data(12, 0, 7))} if way == "micro-batches" else {}
        model.to("simulated" if way == "simulated" else "cpu")
        model.fit(x, y, batch_size=12, epochs=3, shuffle=False, verbose=0, **small)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        assert_close(a, b, 1e-5)


# --- lengths, masks, truncation ---------------------------------------------------------------------------------------


def test_sequences_of_other_lengths_run_at_the_same_plan_when_shorter() -> None:
    model, _ = crossing()
    weights = model.get_weights()
    x = data(6, 9, 3)
    model.predict(x)
    (plan,) = model._workspace.plans["prediction"]
    for rows, length in ((6, 4), (2, 9), (1, 1), (6, 9)):
        assert_close(model.predict(x[:rows, :length]), of_crossing(weights, x[:rows, :length]), 1e-12)
        assert model._workspace.plans["prediction"] == [plan]
    assert_close(model.predict(x[:, [*range(9), *range(9)]]), of_crossing(weights, x[:, [*range(9), *range(9)]]), 1e-12)
    assert [plan.sizes["time"] for plan in model._workspace.plans["prediction"]] == [18]


@pytest.mark.parametrize("sizes", [[(40, 5), (1, 200)], [(1, 200), (40, 5)], [(40, 5), (6, 40), (1, 200), (7, 5), (40, 5)]])
def test_many_short_sequences_and_few_long_ones_take_what_the_larger_plan_says(
    sizes: list[tuple[int, int]], uncollected: None
) -> None:
    """Not what the most rows of the most steps would."""

    def make() -> af.Sequential:
        af.set_seed(1)
        model = af.Sequential([af.GRU(3, return_sequences=True, input_shape=[None, 2]), af.Dense(1)], dtype="float64")
        model.compile("mse", "adam")
        return model

    held = af.memory.allocated("cpu")
    model, alone = make(), []
    for rows, length in sizes:
        x = data(rows, length, 2, seed=rows)
        alone.append(model.memory(rows, length=length).total_bytes)
        model.train_on_batch(x, x[:, :, :1])
    reports = [model.memory(rows, length=length) for rows, length in sizes]
    most = max(reports, key=lambda report: report.arena_bytes)
    slots = max(report.batch_bytes for report in reports)
    assert af.memory.allocated("cpu") - held == most.total_bytes - most.batch_bytes + slots
    assert alone == [report.total_bytes for report in reports]
    other = make()
    for rows, length in sizes:  # each in a workspace of its own
        other._changed()
        x = data(rows, length, 2, seed=rows)
        other.train_on_batch(x, x[:, :, :1])
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize("kind", [af.SimpleRNN, af.GRU, af.LSTM])
def test_masked_sequences_of_different_lengths_equal_each_sequence_alone(kind: Any) -> None:
    x = af.Input([None, 3], dtype="float64")
    mask = af.Input([None], dtype="bool")
    layer = kind(4, return_sequences=True)
    model = af.Model([x, mask], layer(x, mask=mask))
    given, lengths = data(3, 6, 3), [6, 2, 4]
    masks = np.arange(6)[None] < np.array(lengths)[:, None]
    found = model.predict([given, masks])
    for row, length in enumerate(lengths):
        alone = model.predict([given[row : row + 1, :length], np.ones((1, length), bool)])
        assert_close(found[row, :length], alone[0], 1e-12)
        assert (found[row, length:] == found[row, length - 1]).all()  # it stays as it was


def test_a_masked_feedback_keeps_its_value() -> None:
    x, mask = af.Input([None, 1]), af.Input([None], dtype="bool")
    total = af.Feedback([1], mask=mask)
    total.connect(total + x)
    model = af.Model([x, mask], total.connected)
    found = model.predict([[[[1.0], [2.0], [4.0], [8.0]]], [[True, False, True, True]]])
    assert found[0, :, 0].tolist() == [1.0, 3.0, 5.0, 13.0]  # what is masked is not remembered


LOSSES: dict[str, tuple[str | None, Callable[[Array, Array], Array]]] = {
    "mse": (None, lambda y, p: ((p - y) ** 2).mean(-1)),
    "categorical_crossentropy": ("softmax", lambda y, p: -(y * np.log(p)).sum(-1)),
    "sparse_categorical_crossentropy": ("softmax", lambda y, p: -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])),
    "binary_crossentropy": ("sigmoid", lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(-1)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_for_each_time_step_leaves_out_what_was_padded(loss: str) -> None:
    activation, each = LOSSES[loss]
    x = af.Input([None, 3], dtype="float64")
    model = af.Model(x, af.Dense(2, activation)(af.GRU(4, return_sequences=True)(x)))
    model.compile(loss=loss, optimizer=af.SGD(1.0))
    labels = np.random.default_rng(3).integers(0, 2, (5, 6))
    y = {"mse": data(5, 6, 2, seed=1), "sparse_categorical_crossentropy": labels}.get(loss, np.eye(2)[labels])
    given, weight = data(5, 6, 3), np.random.default_rng(4).uniform(0, 1, (5, 6))
    weight[:, 4:] = 0.0
    expected = (each(y, model.predict(given)) * weight).mean()
    assert_close(model.evaluate(given, y, sample_weight=weight, batch_size=2), expected, 1e-12)
    before = model.get_weights()
    model.train_on_batch(given, y, sample_weight=weight)
    after = model.get_weights()
    model.set_weights(before)
    model.train_on_batch(given[:, :4], y[:, :4], sample_weight=weight[:, :4] * 4 / 6)  # as if the rest were not there
    for a, b in zip(after, model.get_weights(), strict=True):
        assert_close(a, b, 1e-12)
    for_samples = (each(y, model.predict(given)).mean(1) * weight[:, 0]).mean()
    assert_close(model.evaluate(given, y, sample_weight=weight[:, 0]), for_samples, 1e-12)


@pytest.mark.parametrize("swapped", [False, True])
def test_weights_for_samples_and_for_time_steps_may_meet_in_one_fit(swapped: bool) -> None:
    """A weight of a sample is that of all its steps."""
    x, y = data(20, 5, 3), data(20, 5, 1, seed=1)
    by_sample = np.arange(1.0, 21.0)
    by_step = np.repeat(by_sample[:, None], 5, 1)
    found = []
    for one, other in ((by_step, by_step), (by_step, by_sample) if swapped else (by_sample, by_step)):
        af.set_seed(1)
        model = af.Sequential([af.GRU(4, return_sequences=True, input_shape=[None, 3]), af.Dense(1)], dtype="float64")
        model.compile("mse", af.SGD(0.01))
        held_out = x[10:], y[10:], other[10:]
        options = {"epochs": 3, "batch_size": 8, "seed": 1, "verbose": 0, "validation_data": held_out}
        found.append(model.fit(x[:10], y[:10], sample_weight=one[:10], **options).history)
    for name in ("loss", "val_loss"):
        assert_close(found[0][name], found[1][name], 1e-12)


def test_targets_to_validate_with_have_the_shape_of_those_to_train_with() -> None:
    x = data(8, 3, 3)[:, 0]
    model = af.Sequential([af.Dense(1, input_shape=[3])], dtype="float64")
    model.compile(lambda y, given: af.ops.square(af.ops.mean(y, -1) - given[:, 0]), "sgd")
    with pytest.raises(af.Error, match=r"targets to validate with(.|\n)*shape \(n, 2\)(.|\n)*\(8, 3\)"):
        model.fit(x, np.ones((8, 2)), validation_data=(x, np.ones((8, 3))), verbose=0)
    before = model.fit(x, np.ones((8, 2)), validation_data=(x, np.ones((8, 2))), shuffle=False, verbose=0).history
    assert np.isfinite(before["val_loss"]).all()


@pytest.mark.parametrize(
    "make", [lambda **o: af.LSTM(4, return_sequences=True, **o), lambda **o: af.GRU(4, return_sequences=True, **o)]
)
def test_truncated_back_propagation_is_that_of_pieces_whose_states_are_given(make: Callable[..., Any]) -> None:
    x, factor = data(2, 7, 3), data(2, 7, 4, seed=2)
    layer = make(truncate=3, return_state=True)
    whole = layer(af.tensor(x, "float64"))
    wanted = [layer.kernel, layer.recurrent_kernel, layer.bias]
    found = af.grad(af.ops.sum(whole[0] * factor), wanted)
    states: list[Any] = []
    error = None
    for first in range(0, 7, 3):
        out, *states = layer(
            af.tensor(x[:, first : first + 3], "float64"),
            initial_state=[af.tensor(s.numpy(), "float64") for s in states] or None,
        )
        part = af.ops.sum(out * factor[:, first : first + 3])
        error = part if error is None else error + part
    for a, b in zip(found, af.grad(error, wanted), strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-12)


# --- calling a cyclic model -------------------------------------------------------------------------------------------


class Squared(af.Layer):
    """A weight, and a value without a time axis, that are transformed within the cycle, the same at every step."""

    def build(self, input_shape: Any) -> None:
        self.k = self.add_weight([3], "ones", "k")

    def forward(self, x: Any, s: Any) -> Any:
        return af.ops.tanh(x * (self.k * self.k) * 0.3 + (s * s)[:, None])


def _own_layer() -> af.Model:
    x, s, back = af.Input([None, 3], dtype="float64"), af.Input([3], dtype="float64"), af.Feedback([3], dtype="float64")
    h = Squared()(x + back, s)
    back.connect(h)
    return af.Model([x, s], h + s[:, None])


def _shared_layer() -> af.Model:
    x, s, back = (
        af.Input([None, 3], dtype="float64"),
        af.Input([3], dtype="float64"),
        af.Feedback([3], "learnt", dtype="float64"),
    )
    layer = af.GRU(3, return_sequences=True)
    h = layer(x + back, initial_state=s)
    back.connect(h)
    return af.Model([x, s], layer(h))


@pytest.mark.parametrize("make", [_own_layer, _shared_layer])
def test_gradients_through_a_called_model_are_those_of_training(make: Callable[[], af.Model]) -> None:
    af.set_seed(1)
    model = make()
    x, s, y = data(2, 5, 3), data(2, 3, seed=1), data(2, 5, 3, seed=2)
    sequence, still = af.tensor(x, "float64"), af.tensor(s, "float64")
    error = af.losses.mse(af.tensor(y, "float64"), model([sequence, still]))
    found = af.grad(error, [*model.weights, still])
    model.compile("mse", af.SGD(1.0))
    before = model.get_weights()
    assert_close(float(error), model.evaluate([x, s], y), 1e-13)
    for each, (slope,) in zip([found[-1]], [differences(lambda w: model.evaluate([x, w[0]], y), [s])], strict=True):
        assert_close(each.numpy(), slope, 1e-6)
    model.train_on_batch([x, s], y)
    for each, a, b in zip(found, before, model.get_weights(), strict=False):
        assert_close(each.numpy(), a - b, 1e-9)


COUNTED: dict[str, Callable[[Any], Any]] = {
    "mean over time": lambda x: af.ops.mean(x, 1),
    "variance over time": lambda x: af.ops.var(x, 1),
    "mean of all": lambda x: x - af.ops.mean(x),
    "numbers of the steps": lambda x: x * af.ops.reshape(af.ops.iota(x.shape[1], "float64"), (1, x.shape[1], 1)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_counts_steps_or_rows_counts_those_it_is_called_with(name: str) -> None:
    """Between the layers of a model that is called on numbers, or stands in another model, of a length of its own or any."""
    x = data(3, 7, 2)
    inputs = af.Input([None, 2], dtype="float64")
    inner = af.Model(inputs, COUNTED[name](inputs))
    expected = COUNTED[name](af.tensor(x, "float64")).numpy()
    assert_close(inner.predict(x), expected, 1e-13)
    assert_close(inner(af.tensor(x, "float64")).numpy(), expected, 1e-13)
    for length in (7, None):
        outside = af.Input([length, 2], dtype="float64")
        assert_close(af.Model(outside, inner(outside)).predict(x), expected, 1e-13)


def test_the_gradient_through_a_called_model_of_two_cycles() -> None:
    x, a = af.Input([None, 3], dtype="float64"), af.Feedback([3], "learnt", dtype="float64")
    h = af.Dense(3, "tanh")(x + a)
    a.connect(h)
    b = af.Feedback([3], af.ops.mean(h, 1), dtype="float64")
    q = af.Dense(3, "tanh")(b + a + h)
    b.connect(q)
    model = af.Model(x, q)
    given, y = data(2, 6, 3), data(2, 6, 3, seed=1)
    error = af.losses.mse(af.tensor(y, "float64"), model(af.tensor(given, "float64")))
    found = af.grad(error, model.weights)
    for each, expected in zip(found, gradients(model, "mse", given, y), strict=True):  # type: ignore[arg-type]
        assert_close(each.numpy(), expected, 1e-9)


@pytest.mark.parametrize("kind", ["learnt start", "tied weights"])
def test_weights_between_layers_are_held_once(kind: str) -> None:
    def make() -> af.Model:
        x = af.Input([None, 3])
        if kind == "tied weights":
            dense = af.Dense(5)
            model = af.Model(x, dense(x) @ af.ops.transpose(dense.kernel))
        else:
            back = af.Feedback([3], "learnt")
            h = af.Dense(3, "tanh")(x + back)
            back.connect(h)
            model = af.Model(x, h)
        model.compile("mse", "sgd")
        return model

    x = data(4, 6, 3).astype("float32")
    make().train_on_batch(x, x)
    with tracing():
        held = array_bytes()
        model = make()
        for _ in range(3):
            model.train_on_batch(x, x)
        assert array_bytes() - held == model.memory(4, length=6).total_bytes


# --- recomputation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", [None, 5])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", [af.SimpleRNN, af.GRU, af.LSTM])
def test_states_kept_every_root_of_the_length_give_the_same_weights_and_hold_less(
    kind: Any, backwards: bool, truncate: int | None
) -> None:
    x, y = data(4, 50, 3), data(4, 2, seed=1)
    trained = []
    for recompute in (False, True):
        af.set_seed(2)
        inputs = af.Input([None, 3], dtype="float64")
        model = af.Model(inputs, af.Dense(2)(kind(6, recompute=recompute, go_backwards=backwards, truncate=truncate)(inputs)))
        model.compile(loss="mse", optimizer=af.SGD(0.1, momentum=0.9))
        for length in (50, 1, 2, 3, 4, 17, 49, 50):
            model.train_on_batch(x[:, :length], y)
        trained.append(model)
    plain, again = trained
    for a, b in zip(plain.get_weights(), again.get_weights(), strict=True):
        assert_close(a, b, 1e-12)
    assert_close(plain.predict(x), again.predict(x), 1e-12)

    def grown(model: af.Model) -> int:
        """What the arena takes for 9,000 steps more, beyond the sequence itself with its column of ones."""
        few, many = (model.memory(4, length=length).arena_bytes for length in (1_000, 10_000))
        return many - few - 9_000 * 4 * 4 * 8

    assert 0 < grown(again) < grown(plain) / 20


@pytest.mark.parametrize("truncate", [None, 4])
def test_a_cycle_is_computed_again_in_blocks_too_on_every_device(truncate: int | None) -> None:
    x, y = data(3, 11, 3).astype("float32"), data(3, 11, 2, seed=1).astype("float32")
    weights = []
    for recompute, device in ((False, "cpu"), (True, "cpu"), (True, "simulated")):
        if device == "simulated" and simulated.compiler() is None:
            continue
        af.set_seed(4)
        inputs = af.Input([None, 3])
        back = af.Feedback([2], recompute=recompute, truncate=truncate)
        out = af.Dense(2)(af.GRU(4, return_sequences=True)(af.Concatenate()([inputs, back])))
        back.connect(out)
        model = af.Model(inputs, out).to(device)
        model.compile(loss="mse", optimizer="adam")
        model.fit(x, y, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            assert_close(a, b, 1e-5)


def test_what_is_computed_again_is_held_as_planned() -> None:
    x, y = data(4, 30, 3).astype("float32"), data(4, 1, seed=1).astype("float32")

    def make() -> af.Sequential:
        model = af.Sequential([af.LSTM(6, recompute=True, input_shape=[None, 3]), af.Dense(1)])
        model.compile(loss="mse", optimizer="adam")
        return model

    make().train_on_batch(x, y)
    with tracing():
        held = array_bytes()
        model = make()
        model.train_on_batch(x, y)
        assert array_bytes() - held == model.memory(4, length=30).total_bytes


@pytest.mark.parametrize("kind", ["layers", "cycle"])
def test_a_budget_lets_loops_run_in_blocks(kind: str, uncollected: None) -> None:
    """With the same weights, in bytes that are those planned; below what micro-batches alone would need."""
    x, y = data(12, 60, 3), data(12, 1, seed=1)

    def make() -> af.Model:
        af.set_seed(3)
        inputs = af.Input([None, 3], dtype="float64")
        if kind == "layers":
            deep = af.GRU(5, return_sequences=True, truncate=7)(inputs)
            back = af.LSTM(6, go_backwards=True, return_sequences=True)(af.Dense(6, "tanh")(deep))
            out = af.SimpleRNN(4)(af.Concatenate()([deep, back]))
        else:
            back = af.Feedback([4], dtype="float64")
            state = af.Dense(4, "tanh")(af.GRU(5, return_sequences=True)(af.Concatenate()([inputs, back])))
            back.connect(state)
            out = af.ops.mean(state, 1)
        model = af.Model(inputs, af.Dense(1)(out))
        model.compile(loss="mse", optimizer="adam")
        return model

    rows = Data(12, time=60)
    plain = make()
    plain.fit(x, y, batch_size=12, epochs=2, verbose=0, shuffle=False)
    for share in (0.9, 0.0):
        model = make()
        budget = budget_between(model, 12, share, data=rows)
        held = af.memory.allocated("cpu")
        plan = model.fit(x, y, batch_size=12, epochs=2, verbose=0, shuffle=False, memory_budget=budget).plan
        report = model.memory(12, length=60, rows=12, memory_budget=budget)
        assert af.memory.allocated("cpu") - held == report.total_bytes == plan.total_bytes - on_the_device(report)
        assert plan.total_bytes <= budget and plan.way.blocks and plan.extra_flops > 0
        assert "loops over time in blocks" in str(plan)
        for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
            assert_close(a, b, 1e-9)
    assert plan.micro_batch == 1


def test_only_as_many_loops_run_in_blocks_as_the_budget_asks_for(uncollected: None) -> None:
    x, y = data(6, 80, 3), data(6, 1, seed=1)

    def make() -> af.Model:
        af.set_seed(3)
        layers = [af.LSTM(8, return_sequences=True, input_shape=[None, 3]), af.GRU(8, return_sequences=True), af.GRU(8)]
        model = af.Sequential([*layers, af.Dense(1)], dtype="float64")
        model.compile(loss="mse", optimizer="sgd")
        return model

    model, rows = make(), Data(time=80)

    def taken(blocks: int) -> int:
        graph = model.graph(TRAINING, blocks=blocks)
        return sum(owned_bytes([make_plan(graph, CPU.profile, sizes_of(6, 80))]).values())

    needed = [taken(blocks) for blocks in range(4)]
    assert needed == sorted(needed, reverse=True) and len(set(needed)) == 4
    found = [choose(model, 6, nbytes, CPU, data=rows) for nbytes in needed]
    assert [choice.way.blocks for choice in found] == [0, 1, 2, 3]
    assert [choice.total_bytes for choice in found] == needed
    assert [choice.extra_flops for choice in found] == sorted(choice.extra_flops for choice in found)
    assert [len(choice.recomputed) for choice in found] == [0, 1, 2, 3]
    plain = make()
    plain.fit(x, y, batch_size=6, epochs=2, verbose=0, shuffle=False)
    held = af.memory.allocated("cpu")
    again = make()
    plan = again.fit(x, y, batch_size=6, epochs=2, verbose=0, shuffle=False, memory_budget=needed[1]).plan
    assert af.memory.allocated("cpu") - held == plan.total_bytes - on_the_device(again.memory(6, length=80, rows=6))
    for a, b in zip(again.get_weights(), plain.get_weights(), strict=True):
        assert_close(a, b, 1e-10)


def test_longer_sequences_to_validate_with_are_within_the_budget(uncollected: None) -> None:
    def make() -> af.Sequential:
        model = af.Sequential([af.GRU(8, return_sequences=True, input_shape=[None, 3]), af.Dense(2)])
        model.compile("mse", "adam")
        return model

    x, y, v, w = (data(12, length, n).astype("float32") for length, n in ((20, 3), (20, 2), (200, 3), (200, 2)))
    budget = make().memory(12, length=20).total_bytes + 10_000
    held = af.memory.allocated("cpu")
    model = make()
    during: list[int] = []
    watch = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: during.append(af.memory.allocated("cpu") - held))
    options = {"batch_size": 12, "verbose": 0, "memory_budget": budget, "callbacks": watch}
    plan = model.fit(x, y, validation_data=(v, w), **options).plan
    assert during[-1] == plan.total_bytes <= budget
    assert plan.micro_batch < 12, "the sequences to validate with take nothing"


# --- one step at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("simulated", marks=needs_compiler)])
def test_steps_with_kept_states_equal_the_whole_sequence(device: str) -> None:
    model, _ = crossing("float32")
    x = data(3, 6, 3).astype("float32")
    expected = model.predict(x)
    model.to(device)
    assert_close(np.stack([model.step(x[:, t]) for t in range(6)], 1), expected, 1e-6)
    assert np.abs(model.step(x[:, 0]) - expected[:, 0]).max() > 1e-3  # it goes on from the last step
    model.reset_states()
    assert_close(np.concatenate([model.step(x[:, :2]), model.step(x[:, 2:])], 1), expected, 1e-6)
    model.reset_states()
    assert_close(model.step(x[:1, 0]), expected[:1, 0], 1e-6)  # after a reset, other sequences


def test_states_move_with_the_model_and_are_reset_by_name() -> None:
    model = af.Sequential([af.GRU(3, return_sequences=True, name="ear"), af.LSTM(2, name="mind"), af.Dense(1)])
    x = data(2, 5, 4).astype("float32")
    expected = model.predict(x)
    for t in range(3):
        model.step(x[:, t])
    if simulated.compiler() is not None:
        model.to("simulated").to("cpu")
    for t in range(3, 5):
        found = model.step(x[:, t])
    assert_close(found, expected, 1e-6)
    ear, mind = model.states["ear"][1], model.states["mind"][1]
    model.reset_states("mind")
    before = af.device.read(model.states["ear"][0]), af.device.read(model.states["mind"][0])
    assert before == (True, False)
    assert (ear.shape[1:], mind.shape[1:]) == ((3,), (2,))
    model.reset_states()
    assert_close(model.step(x)[:], expected, 1e-6)


def test_training_between_steps_changes_the_weights_and_not_the_states() -> None:
    model = af.Sequential([af.SimpleRNN(3, return_sequences=True), af.Dense(1)])
    model.compile(loss="mse", optimizer=af.SGD(0.1))
    x, y = data(2, 4, 2).astype("float32"), data(2, 4, 1, seed=1).astype("float32")
    model.fit(x, y, verbose=0)
    model.step(x[:, 0])
    held = [state.copy() for state in kept(model)]
    model.fit(x, y, verbose=0)
    model.predict(x)
    assert [a.tobytes() for a in kept(model)] == [a.tobytes() for a in held]


def kept(model: Any) -> list[Array]:
    backend = af.device.CPU.backend
    variables = [variable for own in model.states.values() for variable in own[1:]]
    return [
        backend.copy_out(backend.view(v.storage, af.device.strided(af.specs.Layout.dense((2, *v.shape[1:])), v.dtype, {})))
        for v in variables
    ]


# --- training and memory ----------------------------------------------------------------------------------------------


def recurrent_model(kind: Any, per_step: bool) -> af.Sequential:
    model = af.Sequential([kind(6, return_sequences=True), af.LSTM(5, return_sequences=per_step), af.Dense(2)])
    model.compile(loss="mse", optimizer="adam")
    return model


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("kind", [af.SimpleRNN, af.GRU, af.LSTM])
def test_a_training_step_holds_what_the_plan_says_to_the_byte_and_further_steps_allocate_nothing(
    kind: Any, per_step: bool
) -> None:
    x = data(8, 12, 3).astype("float32")
    y = data(8, 12, 2, seed=1).astype("float32")
    y = y if per_step else y[:, -1]
    warm = recurrent_model(kind, per_step)
    warm.train_on_batch(x, y)
    with tracing():
        held, ours = array_bytes(), af.memory.allocated("cpu")
        model = recurrent_model(kind, per_step)
        model.build((None, None, 3))
        report = model.memory(batch_size=8, length=12)
        assert array_bytes() == held, "planning took memory for arrays"
        model.train_on_batch(x, y)
        assert array_bytes() - held == report.total_bytes == af.memory.allocated("cpu") - ours
        made = af.memory.allocations("cpu")
        for part in (slice(0, 8), slice(0, 3)):
            rows = x[part, : 12 if per_step else 7], y[part]
            model.train_on_batch(*rows)
            now, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            model.train_on_batch(*rows)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - now < 64 * 1024 or not ON_HOST  # iterator buffers
        assert array_bytes() - held == report.total_bytes
        assert af.memory.allocations("cpu") == made


def test_memory_grows_with_the_length_and_the_number_of_instructions_does_not() -> None:
    model = recurrent_model(af.LSTM, True)
    model.build((None, None, 3))
    plans = [model.plan(4, length=length) for length in (2, 20, 200)]
    counts = {len(plan.steps) + sum(len(step.loop.plan.steps) for step in plan.steps if step.loop) for plan in plans}
    assert len(counts) == 1
    arenas = [plan.peak_bytes for plan in plans]
    assert (arenas[2] - arenas[1]) == pytest.approx(10 * (arenas[1] - arenas[0]), rel=0.05)
    assert model.memory(4, training=False, length=200).arena_bytes < arenas[2]


def test_targets_for_each_step_and_for_each_sequence_are_learnt() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (200, 8))
    parity = np.bitwise_xor.accumulate(bits, axis=1)
    af.set_seed(1)
    x = af.Input([None, 1])
    model = af.Model(x, af.Dense(1, "sigmoid")(af.GRU(8, return_sequences=True)(x)))
    model.compile(loss="binary_crossentropy", optimizer=af.Adam(0.03), metrics="accuracy")
    model.fit(bits[..., None], parity[..., None], epochs=60, batch_size=50, verbose=0, seed=1)
    assert model.evaluate(bits[..., None], parity[..., None], return_dict=True)["accuracy"] > 0.99
    longer = rng.integers(0, 2, (20, 30))
    found = model.predict(longer[..., None])[..., 0] > 0.5
    assert (found == np.bitwise_xor.accumulate(longer, axis=1)).mean() > 0.95  # any length

    words = af.Sequential([af.Embedding(2, 3, input_shape=[None]), af.SimpleRNN(6), af.Dense(2, "softmax")])
    words.compile(loss="sparse_categorical_crossentropy", optimizer=af.Adam(0.03), metrics="accuracy")
    first = bits[:, 0]
    words.fit(bits[:, :4], first, epochs=40, batch_size=50, verbose=0, seed=1)
    assert words.evaluate(bits[:, :4], first, return_dict=True)["accuracy"] > 0.99


def masked_model() -> af.Model:
    x, mask = af.Input([None, 3]), af.Input([None], dtype="bool", name="mask")
    model = af.Model([x, mask], af.Dense(1)(af.GRU(3)(x, mask=mask)))
    model.compile("mse", "sgd")
    return model


def test_masks_of_ones_and_zeros_and_states_for_all_are_taken() -> None:
    model, x = masked_model(), data(4, 5, 3)
    mask = np.random.default_rng(0).random((4, 5)) > 0.4
    expected = model.predict([x, mask])
    for dtype in ("float64", "float32", "int64", "uint8"):
        np.testing.assert_array_equal(model.predict([x, mask.astype(dtype)]), expected)
    layer = af.LSTM(3)
    states = [np.array([1, 2, 3]), [0.5, 0.5, 0.5]]
    rows = [np.tile(np.asarray(state, "float32"), (4, 1)) for state in states]
    np.testing.assert_array_equal(layer(x, initial_state=states).numpy(), layer(x, initial_state=rows).numpy())
    back = af.Feedback([3], [1, 2, 3])
    assert back.initial_state is not None and back.initial_state.dtype == "float32"


@pytest.mark.parametrize(
    "first", [lambda: af.Dense(3, "tanh"), lambda: af.Dropout(0.1), af.LayerNormalization, lambda: af.Lambda(af.ops.sin)]
)
def test_a_stack_with_a_recurrent_layer_takes_its_data_for_sequences_of_any_length(first: Callable[[], af.Layer]) -> None:
    x, y = data(6, 9, 4), data(6, 1, seed=1)
    model = af.Sequential([first(), af.GRU(3), af.Dense(1)])
    model.compile(loss="mse")
    model.fit(x, y, verbose=0)
    together = model.predict(x[:, :5])
    for t in range(5):
        one = model.step(x[:, t])
    assert_close(one, together, 1e-5)


def test_a_stack_that_needs_to_know_its_length_has_that_of_its_data() -> None:
    x, y = data(6, 9, 4), data(6, 1, seed=1)
    for layers in (
        [],
        [af.Dense(3)],
        [af.Lambda(lambda x: af.ops.concatenate([x[:, t : t + 1] for t in range(x.shape[1])], 1))],
    ):
        model = af.Sequential([*layers, af.LSTM(2, return_sequences=True), af.Flatten(), af.Dense(1)])
        model.compile(loss="mse")
        model.fit(x, y, verbose=0)
        assert model.input_shape == (None, 9, 4)
        with pytest.raises(af.Error, match=r"reads sequences of one length(.|\n)*input_shape=\[None, 4\]"):
            model.step(x[:, 0])
    table = af.Sequential([af.Dense(8), af.Reshape([4, 2]), af.LSTM(2), af.Dense(1)])
    table.compile(loss="mse")
    table.fit(x[:, 0], y, verbose=0)
    assert table.input_shape == (None, 4)


def test_frames_are_flattened_step_by_step() -> None:
    x = data(6, 5, 4, 2)
    model = af.Sequential([af.Reshape([None, -1]), af.GRU(3, return_sequences=True)])
    plain = af.Sequential([model.layers[1]])
    np.testing.assert_array_equal(model.predict(x), plain.predict(x.reshape(6, 5, 8)))
    with pytest.raises(af.Error, match=r"cannot put an axis of unknown length(.|\n)*af.Reshape\(\[None, 4 \* 2\]\)"):
        af.Flatten()(af.Input([None, 4, 2]))
    with pytest.raises(af.Error, match=r"samples of shape \(4, 2\), 8 values(.|\n)*af.Reshape\(\[None, 8\]\)"):
        af.Reshape([None, 3])(af.Input([None, 4, 2]))


# --- PyTorch's weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [(af.SimpleRNN, 1), (af.GRU, 3), (af.LSTM, 4)])
def test_weights_in_the_layout_of_pytorch_are_put_where_they_belong(kind: Any, gates: int) -> None:
    ih, hh = data(gates * 2, 3), data(gates * 2, 2, seed=1)
    bih, bhh = data(gates * 2, seed=2), data(gates * 2, seed=3)
    layer = kind(2, dtype="float64") if False else kind(2)
    layer.dtype = "float64"
    layer.load_pytorch(ih, hh, bih, bhh)
    order = {1: [0], 3: [1, 0, 2], 4: [0, 1, 3, 2]}[gates]
    assert_close(layer.kernel.numpy(), np.concatenate([ih[2 * g : 2 * g + 2] for g in order]).T, 1e-15)
    assert_close(layer.recurrent_kernel.numpy(), np.concatenate([hh[2 * g : 2 * g + 2] for g in order]).T, 1e-15)
    together = [np.concatenate([b[2 * g : 2 * g + 2] for g in order]) for b in (bih, bhh)]
    assert_close(layer.bias.numpy(), np.stack(together) if gates == 3 else sum(together), 1e-15)
    with pytest.raises(af.Error, match="has a bias"):
        layer.load_pytorch(ih, hh)
    before = layer.kernel.numpy()
    weights = (-ih, hh, bih, bhh)
    odd: list[tuple[Any, ...]] = [
        (ih[:-1],),
        (ih[:, :2],),
        (ih[0],),
        (3.0,),
        (-ih, hh[:, :1]),
        (-ih, hh, bih[:1]),
        (-ih, hh, bih, 0.0),
    ]
    for some in odd:
        with pytest.raises(af.Error, match=rf"these weights do not fit layer '{layer.name}'.*\n.*weight_ih \({gates * 2}, 3\)"):
            layer.load_pytorch(*some, *weights[len(some) :])
    with pytest.raises(af.Error, match="weight_hh takes an array of numbers"):
        layer.load_pytorch(-ih, hh.astype(str), bih, bhh)
    assert (layer.kernel.numpy() == before).all(), "a part was loaded"
    fresh = kind(2)
    with pytest.raises(af.Error, match="do not fit"):
        fresh.load_pytorch(ih, hh, bih[:1], bhh)
    assert not fresh.built


# --- memory over time -------------------------------------------------------------------------------------------------


def build(units: int = 8) -> af.Model:
    model = af.Sequential([af.LSTM(units, input_shape=[None, 3]), af.Dense(1)])
    model.compile(loss="mse", optimizer="adam")
    return model


def test_a_sweep_over_lengths_is_the_table_of_single_reports(tmp_path: Any) -> None:
    sweep = af.memory.sweep(build, [4, 16], lengths=[10, 100, 1000])
    expected = [[build().memory(rows, length=length).total_bytes for length in (10, 100, 1000)] for rows in (4, 16)]
    assert sweep.total_bytes.tolist() == expected
    assert sweep.formula.worst_error < 0.01  # bytes grow with b × T
    for text in ("batch size and length", "T = 1000", "T = time steps"):
        assert text in str(sweep)
    sweep.to_csv(tmp_path / "sweep.csv")
    assert (tmp_path / "sweep.csv").read_text().startswith("batch_size,length,total_bytes")
    sweep.to_html(tmp_path / "sweep.html")
    assert "Batch size × time steps" in (tmp_path / "sweep.html").read_text()
    wide = af.memory.sweep(build, [4], [8, 16], length=50)
    assert wide.total_bytes.tolist() == [[build(units).memory(4, length=50).total_bytes for units in (8, 16)]]
    with pytest.raises(af.Error, match="widths or lengths in its columns"):
        af.memory.sweep(build, [4], [8], lengths=[10])


def test_the_command_line_plans_lengths(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from aforo.cli import main

    file = tmp_path / "model.py"
    file.write_text(
        "import aforo as af\ndef build():\n    model = af.Sequential([af.LSTM(8, input_shape=[None, 3]), af.Dense(1)])\n"
        '    model.compile(loss="mse", optimizer="adam")\n    return model\n'
    )
    assert main(["plan", f"{file}:build", "--batch", "4,16", "--length", "10,1000", "--budget", "100KB"]) == 1
    out = capsys.readouterr().out
    assert "T = 1000" in out and "at b = 16, T = 1000" in out
    assert main(["plan", f"{file}:build", "--length", "50"]) == 0
    total = build().memory(32, length=50).total_bytes
    assert f"{total:,} B" in capsys.readouterr().out


def test_the_largest_batch_of_sequences_fits_and_one_more_does_not() -> None:
    model = build()
    rows = model.max_batch_size("1MiB", length=40)
    assert model.memory(rows, length=40).total_bytes <= 2**20 < model.memory(rows + 1, length=40).total_bytes
    report = model.memory(rows, length=40, rows=1000)
    assert report.length == 40 and "40 time steps" in str(report)
    assert report.data_bytes - on_the_device(report) == 1000 * (
        40 * 3 * 4 + 4 + 8
    )  # sequences, targets, and the order of the rows


@pytest.mark.parametrize("part", [0.9, 0.6, 0.35])
def test_sequences_are_fitted_within_a_budget_with_the_same_weights(part: float) -> None:
    x, y = data(40, 12, 3).astype("float32"), data(40, 1, seed=1).astype("float32")
    trained = []
    for within in (None, part):
        af.set_seed(3)
        inputs = af.Input([None, 3])
        back = af.Feedback([2])
        out = af.Dense(2)(af.GRU(6, return_sequences=True)(af.Concatenate()([inputs, back])))
        back.connect(out)
        deep = af.Dense(20, "tanh")(af.Dense(20, "tanh")(out))
        model = af.Model(inputs, af.Dense(1)(af.LSTM(5)(deep)))
        model.compile(loss="mse", optimizer="adam")
        budget = within and int(within * model.memory(20, length=12).total_bytes)
        model.fit(x, y, batch_size=20, epochs=2, verbose=0, seed=1, memory_budget=budget)
        if budget:
            assert model.memory(20, length=12, memory_budget=budget).total_bytes <= budget
        trained.append(model.get_weights())
    for a, b in zip(*trained, strict=True):
        assert_close(a, b, 1e-5)


def _started_by_a_sequence() -> af.Model:
    i, d = af.Input([None, 3]), af.Input([None, 2])
    _, h, c = af.LSTM(4, return_state=True)(i)
    return af.Model([i, d], af.LSTM(4, return_sequences=True)(d, initial_state=[h, c]))


def _started_by_a_mean() -> af.Model:
    i = af.Input([None, 3])
    back = af.Feedback([3], initial_state=af.ops.mean(i, 1))
    state = af.Dense(3, "tanh")(af.Concatenate()([i, back]))
    back.connect(state)
    return af.Model(i, state)


def _last_output_in_every_step() -> af.Model:
    i = af.Input([None, 3])
    last = af.GRU(4)(i)
    return af.Model(i, af.GRU(4, return_sequences=True)(i) + last[:, None, :])


@pytest.mark.parametrize("make", [_started_by_a_sequence, _started_by_a_mean, _last_output_in_every_step])
def test_what_is_known_only_at_the_end_cannot_run_one_step_at_a_time(make: Any) -> None:
    model = make()
    shapes = [(2, 5, x.shape[-1]) for x in model.inputs]
    data = [np.ones(shape, "float32") for shape in shapes]
    assert model.predict(data if len(data) > 1 else data[0]).shape[0] == 2
    step = [each[:, 0] for each in data]
    with pytest.raises(ValueError, match=r"one step at a time(.|\n)*model\.predict\(x\)"):
        model.step(step if len(step) > 1 else step[0])


def test_states_of_whole_numbers_run_one_step_at_a_time() -> None:
    i = af.Input([None, 3])
    back = af.Feedback([], dtype="int64")
    count = back + af.ops.cast(af.ops.sum(i, -1) > 0.0, "int64")
    back.connect(count)
    model = af.Model(i, af.Embedding(9, 2)(count))
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    whole = model.predict(x)
    np.testing.assert_allclose(np.stack([model.step(x[:, t]) for t in range(6)], 1), whole, atol=1e-6)
