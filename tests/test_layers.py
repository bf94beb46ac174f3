"""One contract for every layer, against references in float64 NumPy, and what is particular to each of them."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from nets import ACTIVATIONS, Array, array_bytes, assert_close, differences, tracing

import aforo as af

TRANSIENT = 64 * 1024  # what a step may take and give back: iterator buffers
ROWS = 6
erf = np.vectorize(math.erf, otypes=[np.float64])


# --- references -------------------------------------------------------------------------------------------------------


def gelu(z: Array) -> Array:
    return z * (1 + erf(z / math.sqrt(2))) / 2


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": gelu,
    "softplus": lambda z: np.logaddexp(0, z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "log_softmax": lambda z: z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)),
}


def normalized(x: Array, axes: tuple[int, ...] | int, gamma: Array, beta: Array, epsilon: float = 1e-3) -> Array:
    mean = x.mean(axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def philox_mask(layer: Any, step: int, shape: Sequence[int]) -> Array:
    """True where dropout keeps a value: row r of the step from Philox4x64 at counter (r · blocks, step), drawn row by row."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    blocks = -(-columns // 8)  # eight float32 numbers a block of four 64-bit words
    key = np.array(layer._stream.key("dropout"), np.uint64)
    drawn = np.empty((rows, blocks * 8), np.float32)
    for row in range(rows):
        counter = np.array([row * blocks, step, 0, 0], np.uint64)
        drawn[row] = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(blocks * 8, np.float32)
    return (drawn[:, :columns] >= np.float32(layer.rate)).reshape(shape)


# --- the table --------------------------------------------------------------------------------------------------------


class Gated(af.Layer):
    """A layer of one's own, with a weight and two layers inside."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.inner = [af.Dense(units, "sigmoid"), af.Dense(units)]

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight([self.units], "ones", name="scale")

    def forward(self, x: Any) -> Any:
        gate, value = (layer(x) for layer in self.inner)
        return gate * value * self.scale


def gated(weights: list[Array], x: Array) -> Array:
    scale, k1, b1, k2, b2 = weights
    return ACTIVATIONS["sigmoid"](x @ k1 + b1) * (x @ k2 + b2) * scale


def rnn(weights: list[Array], x: Array, activation: Callable[[Array], Array] = np.tanh) -> Array:
    kernel, recurrent, bias = weights
    states = [np.zeros((len(x), len(recurrent)))]
    for t in range(x.shape[1]):
        states.append(activation(x[:, t] @ kernel + states[-1] @ recurrent + bias))
    return np.stack(states[1:], 1)


def gru(weights: list[Array], x: Array) -> Array:
    """Gates in the order z, r, n."""
    kernel, recurrent, bias = weights
    sigmoid, n = ACTIVATIONS["sigmoid"], len(recurrent)
    states = [np.zeros((len(x), n))]
    for t in range(x.shape[1]):
        h = states[-1]
        a, b = x[:, t] @ kernel + bias[0], h @ recurrent + bias[1]
        z, r = sigmoid(a[:, :n] + b[:, :n]), sigmoid(a[:, n : 2 * n] + b[:, n : 2 * n])
        states.append(z * h + (1 - z) * np.tanh(a[:, 2 * n :] + r * b[:, 2 * n :]))
    return np.stack(states[1:], 1)


def lstm(weights: list[Array], x: Array) -> Array:
    """Gates in the order i, f, o, g."""
    kernel, recurrent, bias = weights
    sigmoid, n = ACTIVATIONS["sigmoid"], len(recurrent)
    h, c = np.zeros((2, len(x), n))
    states = []
    for t in range(x.shape[1]):
        i, f, o, g = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


@dataclass(frozen=True)
class Case:
    """A layer and what it computes: `predicts` and, where that differs, `trains`, from (weights, *inputs)."""

    make: Callable[..., af.Layer]
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    predicts: Callable[..., Array]
    trains: Callable[..., Array] | None = None
    weights: int = 0
    whole: int = 0  # inputs are whole numbers below this


CASES: dict[str, Case] = {
    "Dense": Case(lambda **o: af.Dense(5, "tanh", **o), ((4,),), (5,), lambda w, x: np.tanh(x @ w[0] + w[1]), weights=2),
    "Dense on a sequence": Case(
        lambda **o: af.Dense(5, use_bias=False, **o), ((3, 4),), (3, 5), lambda w, x: x @ w[0], weights=1
    ),
    "Activation": Case(lambda **o: af.Activation("gelu", **o), ((4,),), (4,), lambda w, x: gelu(x)),
    "Dropout": Case(lambda **o: af.Dropout(0.4, **o), ((9,),), (9,), lambda w, x: x),
    "Dropout on a sequence": Case(lambda **o: af.Dropout(0.4, **o), ((3, 5),), (3, 5), lambda w, x: x),
    "Flatten": Case(lambda **o: af.Flatten(**o), ((3, 4),), (12,), lambda w, x: x.reshape(len(x), 12)),
    "Reshape": Case(lambda **o: af.Reshape([2, -1], **o), ((6,),), (2, 3), lambda w, x: x.reshape(len(x), 2, 3)),
    "Concatenate": Case(lambda **o: af.Concatenate(**o), ((3,), (4,), (1,)), (8,), lambda w, *x: np.concatenate(x, -1)),
    "Concatenate on an axis": Case(
        lambda **o: af.Concatenate(axis=1, **o), ((2, 3), (4, 3)), (6, 3), lambda w, *x: np.concatenate(x, 1)
    ),
    "Add": Case(lambda **o: af.Add(**o), ((3,), (3,), (1,)), (3,), lambda w, a, b, c: a + b + c),
    "Multiply": Case(lambda **o: af.Multiply(**o), ((2, 3), (1, 3)), (2, 3), lambda w, a, b: a * b),
    "BatchNormalization": Case(
        lambda **o: af.BatchNormalization(momentum=0.7, **o),
        ((4,),),
        (4,),
        lambda w, x: (x - w[2]) / np.sqrt(w[3] + 1e-3) * w[0] + w[1],
        lambda w, x: normalized(x, 0, w[0], w[1]),
        weights=4,
    ),
    "BatchNormalization on a sequence": Case(
        lambda **o: af.BatchNormalization(center=False, **o),
        ((3, 4),),
        (3, 4),
        lambda w, x: (x - w[1]) / np.sqrt(w[2] + 1e-3) * w[0],
        lambda w, x: normalized(x, (0, 1), w[0], np.zeros(4)),
        weights=3,
    ),
    "LayerNormalization": Case(
        lambda **o: af.LayerNormalization(**o), ((4,),), (4,), lambda w, x: normalized(x, -1, w[0], w[1]), weights=2
    ),
    "LayerNormalization on a sequence": Case(
        lambda **o: af.LayerNormalization(scale=False, **o),
        ((3, 4),),
        (3, 4),
        lambda w, x: normalized(x, -1, np.ones(4), w[0]),
        weights=1,
    ),
    "Embedding": Case(lambda **o: af.Embedding(7, 4, **o), ((3,),), (3, 4), lambda w, x: w[0][x], weights=1, whole=7),
    "Lambda": Case(lambda **o: af.Lambda(lambda x: af.ops.sin(x) * x, **o), ((4,),), (4,), lambda w, x: np.sin(x) * x),
    "Lambda of two": Case(
        lambda **o: af.Lambda(lambda x: x[0] * af.ops.exp(x[1]), **o), ((4,), (1,)), (4,), lambda w, a, b: a * np.exp(b)
    ),
    "SimpleRNN": Case(lambda **o: af.SimpleRNN(5, **o), ((3, 4),), (5,), lambda w, x: rnn(w, x)[:, -1], weights=3),
    "SimpleRNN backwards": Case(
        lambda **o: af.SimpleRNN(5, "sigmoid", return_sequences=True, go_backwards=True, **o),
        ((3, 4),),
        (3, 5),
        lambda w, x: rnn(w, x[:, ::-1], ACTIVATIONS["sigmoid"])[:, ::-1],
        weights=3,
    ),
    "GRU": Case(lambda **o: af.GRU(5, return_sequences=True, **o), ((3, 4),), (3, 5), lambda w, x: gru(w, x), weights=3),
    "LSTM": Case(lambda **o: af.LSTM(5, return_sequences=True, **o), ((3, 4),), (3, 5), lambda w, x: lstm(w, x), weights=3),
    "LSTM without bias": Case(
        lambda **o: af.LSTM(5, use_bias=False, **o), ((3, 4),), (5,), lambda w, x: lstm([*w, 0.0], x)[:, -1], weights=2
    ),
    "a layer with layers inside": Case(lambda **o: Gated(5, **o), ((4,),), (5,), gated, weights=5),
}
every_layer = pytest.mark.parametrize("name", CASES)
LAYERS = {
    "Dense", "Activation", "Dropout", "Flatten", "Reshape", "Concatenate", "Add", "Multiply", "BatchNormalization",
    "LayerNormalization", "Embedding", "Lambda", "SimpleRNN", "GRU", "LSTM",
}  # fmt: skip


def test_the_contract_is_checked_for_every_layer() -> None:
    """A layer that is new in af must be put into the table."""
    built = {type(case.make()).__name__ for case in CASES.values()}
    public = {
        name for name in af.__all__
        if isinstance(getattr(af, name), type) and issubclass(getattr(af, name), af.Layer)
        and getattr(af, name) not in (af.Layer, af.Model, af.Sequential)
    }  # fmt: skip
    assert built - {"Gated"} == public >= LAYERS


def arrays(case: Case, dtype: str = "float64", rows: int = ROWS, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    if case.whole:
        return [rng.integers(0, case.whole, (rows, *shape)) for shape in case.shapes]
    return [rng.normal(size=(rows, *shape)).astype(dtype) for shape in case.shapes]


def kind(case: Case, dtype: str) -> str:
    return "int64" if case.whole else dtype


def together(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def alone(case: Case, dtype: str = "float64", **options: Any) -> tuple[af.Layer, af.Model]:
    """A model of nothing but the layer."""
    inputs = [af.Input(shape, dtype=kind(case, dtype)) for shape in case.shapes]
    layer = case.make(**options)
    layer.dtype = dtype  # said before it is built; it follows from the input, unless that is of whole numbers
    return layer, af.Model(together(inputs), layer(together(inputs)))


def net(case: Case, dtype: str = "float64") -> tuple[af.Layer, af.Model]:
    """The layer in the middle of a net: weights before it need the gradient of its inputs."""
    inputs = [af.Input(shape, dtype=kind(case, dtype)) for shape in case.shapes]
    before = inputs if case.whole else [af.Dense(shape[-1], "tanh")(x) for x, shape in zip(inputs, case.shapes, strict=True)]
    layer = case.make()
    layer.dtype = dtype
    model = af.Model(together(inputs), af.Dense(2)(af.Flatten()(layer(together(before)))))
    return layer, model


def weigh(model: af.Model, seed: int = 1) -> list[Array]:
    """Weights in general position: no zeros, ones or equal values; positive, for the variances among them."""
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(0.2, 1.2, weight.shape) for weight in model.get_weights()]
    model.set_weights(weights)
    return weights


def of_net(case: Case, weights: list[Array], inputs: Sequence[Array], layer: Callable[..., Array]) -> Array:
    """The net's output: weights stand in the order of first calls."""
    count = 0 if case.whole else 2 * len(inputs)
    if count:
        inputs = [np.tanh(x @ weights[2 * i] + weights[2 * i + 1]) for i, x in enumerate(inputs)]
    h = layer(weights[count : count + case.weights], *inputs)
    kernel, bias = weights[count + case.weights :]
    return h.reshape(len(h), -1) @ kernel + bias


# --- the contract -----------------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_layer_computes_its_formula_on_data_and_in_a_model(name: str, dtype: str) -> None:
    case = CASES[name]
    inputs = arrays(case, dtype)
    layer, model = alone(case, dtype)
    weights = weigh(model)
    assert len(weights) == case.weights
    expected = case.predicts(weights, *[x if case.whole else x.astype("float64") for x in inputs])
    predicted = model.predict(together(inputs), batch_size=4)  # a full and a smaller batch
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert predicted.shape == (ROWS, *case.output) and predicted.dtype == dtype
    assert_close(predicted, expected, tolerance, name)
    called = layer(together([af.tensor(x, x.dtype) for x in inputs]))
    assert called.shape == (ROWS, *case.output) and called.dtype == dtype
    assert_close(called.numpy(), expected, tolerance, f"{name}, called on data")


@every_layer
def test_a_layer_takes_its_sizes_from_data(name: str) -> None:
    case = CASES[name]
    inputs = arrays(case, "float32")
    layer = case.make()
    assert not layer.built
    found = layer(together([af.tensor(x, x.dtype) for x in inputs])).numpy()
    weights = [weight.numpy().astype("float64") for weight in layer.weights]
    assert layer.built and len(weights) == case.weights and layer.count_params() == sum(weight.size for weight in weights)
    assert_close(found, case.predicts(weights, *[x if case.whole else x.astype("float64") for x in inputs]), 1e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.shapes) == 1])
def test_a_layer_takes_its_sizes_from_an_input_shape(name: str) -> None:
    case = CASES[name]
    if case.whole:
        layer = case.make()
        model = af.Sequential([af.Input(case.shapes[0], dtype="int64"), layer])
    else:
        layer = case.make(input_shape=list(case.shapes[0]))
        model = af.Sequential([layer])
    assert layer.built and model.input_shape == (None, *case.shapes[0]) and model.output_shape == (None, *case.output)
    (x,) = arrays(case, "float32")
    weights = weigh(model)
    assert_close(model.predict(x), case.predicts(weights, x if case.whole else x.astype("float64")), 1e-6)


@every_layer
def test_a_layer_passes_the_gradient_of_finite_differences_to_weights_and_inputs(name: str) -> None:
    """A net with the layer in its middle, in float64: one step of descent at rate 1 takes the gradient off every weight."""
    case = CASES[name]
    inputs = arrays(case)
    layer, model = net(case)
    weights = weigh(model)
    y = np.random.default_rng(5).normal(size=(ROWS, 2))
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=1.0))
    function = case.trains or case.predicts
    if isinstance(layer, af.Dropout):
        keep = philox_mask(layer, 0, (ROWS, *case.shapes[0]))

        def function(w: list[Array], x: Array) -> Array:
            return x * keep / 0.6

    def loss(now: list[Array]) -> float:
        return float(((of_net(case, now, inputs, function) - y) ** 2).mean())

    assert_close(model.train_on_batch(together(inputs), y), loss(weights), 1e-12)
    trained = {id(weight) for weight in model.trainable_weights}
    wanted = differences(loss, weights)
    pairs = zip(model.weights, weights, model.get_weights(), wanted, strict=True)
    for weight, before, after, g in pairs:
        if id(weight) in trained:
            assert np.abs(g).max() > 1e-4, "nothing reaches this weight: the test shows nothing"
            assert_close(before - after, g, 1e-7, f"{name}, {weight!r}")


@every_layer
def test_a_layer_trains_in_a_model(name: str) -> None:
    case = CASES[name]
    af.set_seed(3)
    _, model = net(case, "float32")
    inputs = arrays(case, "float32")
    y = np.random.default_rng(5).normal(size=(ROWS, 2))
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.05))
    before = model.evaluate(together(inputs), y)
    model.fit(together(inputs), y, epochs=150, batch_size=ROWS, verbose=0)
    assert model.evaluate(together(inputs), y) < 0.6 * before


@every_layer
def test_a_layer_takes_the_bytes_that_the_plan_says_and_no_more(name: str) -> None:
    case = CASES[name]
    inputs = together(arrays(case, "float32"))
    few = [x[:4] for x in inputs] if isinstance(inputs, list) else inputs[:4]
    y = np.ones((ROWS, 2), "float32")
    with tracing():
        held, ours = array_bytes(), af.memory.allocated("cpu")
        _, model = net(case, "float32")
        model.compile(loss="mse", optimizer=af.SGD(momentum=0.9))
        report = model.memory(batch_size=ROWS)
        assert array_bytes() == held, "planning took memory for arrays"
        model.train_on_batch(inputs, y)
        assert array_bytes() - held == report.total_bytes == af.memory.allocated("cpu") - ours
        made = af.memory.allocations("cpu")
        model.train_on_batch(few, y[:4])
        for rows in ((inputs, y), (few, y[:4])):
            model.train_on_batch(*rows)
            now, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            model.train_on_batch(*rows)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - now < TRANSIENT
        assert array_bytes() - held == report.total_bytes
        assert af.memory.allocations("cpu") == made


# --- dropout ----------------------------------------------------------------------------------------------------------

Step = Callable[[int], Array]


def dropping(rate: float, rows: int, columns: int, dtype: str = "float32") -> tuple[af.Model, af.Dropout, Step]:
    """A model of which one step shows the mask of each value: the gradient of a kernel under one-hot rows."""
    layer = af.Dropout(rate)
    dense = af.Dense(columns, use_bias=False, kernel_initializer="ones", input_shape=[rows])
    model = af.Sequential([dense, layer], dtype=dtype)
    model.compile(loss=lambda y_true, y_pred: af.ops.sum(y_pred, -1), optimizer=af.SGD(learning_rate=1.0))

    def step(count: int) -> Array:
        """What the next step multiplies the first `count` rows with."""
        dense.kernel.assign(np.ones((rows, columns)))
        model.train_on_batch(np.eye(rows)[:count], np.zeros((count, columns)))
        return (1.0 - dense.kernel.numpy()[:count]) * count

    return model, layer, step


def test_dropout_keeps_the_share_it_says_and_scales_it() -> None:
    for rate in (0.1, 0.5, 0.8):
        _, _, step = dropping(rate, 8, 5000, "float64")
        factors = step(8)
        kept = factors != 0
        deviation = math.sqrt(rate * (1 - rate) / factors.size)
        assert abs(kept.mean() - (1 - rate)) < 5 * deviation
        assert np.abs(kept.mean(axis=1) - (1 - rate)).max() < 5 * deviation * math.sqrt(8)
        assert_close(factors[kept], np.full(kept.sum(), 1 / (1 - rate)), 1e-9)


@pytest.mark.parametrize("columns", [1, 3, 8, 21])
def test_dropout_masks_are_those_of_philox_row_by_row(columns: int) -> None:
    _, layer, step = dropping(0.3, 5, columns, "float64")
    for number in range(4):
        assert np.array_equal(step(5) != 0, philox_mask(layer, number, (5, columns)))


def test_the_mask_of_a_row_does_not_depend_on_the_batch_it_is_in() -> None:
    af.set_seed(4)
    _, _, step = dropping(0.5, 6, 33)
    af.set_seed(4)
    _, _, other = dropping(0.5, 6, 33)
    for count in (6, 2, 5, 6):
        assert np.array_equal(step(6)[:count] != 0, other(count) != 0)


def test_masks_differ_between_rows_steps_layers_and_seeds_and_repeat_with_the_seed() -> None:
    def masks(seed: int) -> list[Array]:
        af.set_seed(seed)
        nets = [dropping(0.5, 4, 64)[2] for _ in range(2)]
        return [step(4) != 0 for step in nets for _ in range(3)]

    first, again, other = masks(1), masks(1), masks(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    rows = [row.tobytes() for mask in [*first, *other] for row in mask]
    assert len(set(rows)) == len(rows)


def test_dropout_does_nothing_in_prediction_and_evaluation_and_they_do_not_move_the_masks_on() -> None:
    af.set_seed(6)
    model, layer, step = dropping(0.5, 4, 12, "float64")
    x, y = np.eye(4), np.zeros((4, 12))
    step(4)
    model.layers[0].kernel.assign(np.full((4, 12), 2.0))
    assert np.array_equal(model.predict(x), np.full((4, 12), 2.0))
    assert model.evaluate(x, y) == 24.0 == model.test_on_batch(x, y)
    assert np.array_equal(layer(np.ones((4, 12))).numpy(), np.ones((4, 12)))
    assert np.array_equal(step(4) != 0, philox_mask(layer, 1, (4, 12)))


def test_dropout_called_in_training_outside_a_model_draws_anew_at_each_call() -> None:
    layer = af.Dropout(0.5)
    x = af.tensor(np.ones((4, 40)), "float64")
    seen = [layer(x, training=True).numpy() for _ in range(3)]
    assert {float(value) for each in seen for value in each.flat} == {0.0, 2.0}
    assert len({each.tobytes() for each in seen}) == 3
    with pytest.raises(af.Error, match="rate"):
        af.Dropout(1.0)


# --- normalization ----------------------------------------------------------------------------------------------------


def test_batch_statistics_move_towards_those_of_each_training_batch() -> None:
    layer, model = alone(CASES["BatchNormalization"])
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.0))
    mean, variance = np.zeros(4), np.ones(4)
    rng = np.random.default_rng(1)
    for rows in (6, 3, 1, 6):
        x = rng.normal(3, 2, (rows, 4))
        model.train_on_batch(x, np.zeros((rows, 4)))
        model.evaluate(x, np.zeros((rows, 4)))
        model.predict(x)
        mean, variance = 0.7 * mean + 0.3 * x.mean(0), 0.7 * variance + 0.3 * x.var(0)
    assert_close(layer.moving_mean.numpy(), mean, 1e-12)
    assert_close(layer.moving_variance.numpy(), variance, 1e-12)
    assert [weight.name for weight in layer.weights if not weight.trainable] == ["moving_mean", "moving_variance"]


def test_a_frozen_batch_normalization_uses_and_keeps_its_averages() -> None:
    layer, model = net(CASES["BatchNormalization"])
    weights = weigh(model)
    layer.trainable = False
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1))
    (x,) = arrays(CASES["BatchNormalization"])
    y = np.zeros((ROWS, 2))
    assert_close(model.train_on_batch(x, y), (of_net(CASES["BatchNormalization"], weights, [x],
                                                      CASES["BatchNormalization"].predicts) ** 2).mean(), 1e-12)  # fmt: skip
    for weight, before in zip(layer.weights, weights[2:6], strict=True):
        assert np.array_equal(weight.numpy(), before)


def test_a_batch_normalization_used_twice_averages_over_both_uses() -> None:
    layer = af.BatchNormalization(momentum=0.5)
    a, b = af.Input([2], dtype="float64"), af.Input([2], dtype="float64")
    model = af.Model([a, b], af.Add()([layer(a), layer(b)]))
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.0))
    x = np.array([[0.0, 0.0], [2.0, 2.0]])
    model.train_on_batch([x, x + 10], np.zeros((2, 2)))
    assert_close(layer.moving_mean.numpy(), 0.5 * (0.5 * 0.0 + 0.5 * np.ones(2)) + 0.5 * np.full(2, 11.0), 1e-12)


def test_batch_normalization_trains_and_predicts_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    _, model = net(CASES["BatchNormalization"])
    weights = weigh(model)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1))
    first, norm, last = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.3), torch.nn.Linear(4, 2)
    theirs = [first.weight, first.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, last.weight, last.bias]
    stack = torch.nn.Sequential(first, torch.nn.Tanh(), norm, last).double()
    with torch.no_grad():
        theirs = [first.weight, first.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, last.weight, last.bias]
        for parameter, weight in zip(theirs, weights, strict=True):
            parameter.copy_(torch.tensor(weight.T))
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    rng = np.random.default_rng(2)
    variance = weights[5]
    for rows in (6, 4, 6, 2, 6):
        x, y = rng.normal(size=(rows, 4)), rng.normal(size=(rows, 2))
        optimizer.zero_grad()
        hidden = torch.tanh(first(torch.tensor(x))).detach().numpy()
        loss = torch.nn.functional.mse_loss(stack(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        variance = 0.7 * variance + 0.3 * hidden.var(0)  # PyTorch's own running variance is the unbiased one
        assert_close(model.train_on_batch(x, y), loss.item(), 1e-12)
    norm.running_var.copy_(torch.tensor(variance))
    for found, wanted in zip(model.get_weights(), theirs, strict=True):
        assert_close(found, wanted.detach().numpy().T, 1e-11)
    stack.eval()
    x = rng.normal(size=(5, 4))
    assert_close(model.predict(x), stack(torch.tensor(x)).detach().numpy(), 1e-11)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"scale": False, "center": False}])
@pytest.mark.parametrize("kind", [af.BatchNormalization, af.LayerNormalization])
@pytest.mark.parametrize("sizes", [(4, 1), (1, 4), (4, 3)])
def test_a_normalization_takes_vectors_of_the_size_it_was_built_for(kind: Any, options: Any, sizes: tuple[int, int]) -> None:
    layer, (first, second) = kind(**options), sizes
    layer(af.tensor(np.ones((2, first))))
    if not layer.weights:
        assert layer(af.tensor(np.ones((2, second)))).shape == (2, second)  # nothing in it has a size
        return
    for wrong in (af.tensor(np.ones((5, second))), af.Input([second])):
        with pytest.raises(af.Error) as caught:
            layer(wrong)
        for words in (
            "does not fit what it is given",
            f"vectors of {first} (its ",
            f"{second})",
            f"a new af.{kind.__name__}()",
        ):
            assert words in str(caught.value)
    assert layer(af.tensor(np.ones((2, 5, first)))).shape == (2, 5, first)


def test_layer_normalization_trains_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    layer, model = alone(CASES["LayerNormalization"])
    weights = weigh(model)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.5))
    norm = torch.nn.LayerNorm(4, eps=1e-3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(weights[0]))
        norm.bias.copy_(torch.tensor(weights[1]))
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.5)
    (x,) = arrays(CASES["LayerNormalization"])
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(norm(torch.tensor(x)), torch.zeros(ROWS, 4, dtype=torch.float64)).backward()
        optimizer.step()
        model.train_on_batch(x, np.zeros((ROWS, 4)))
    assert_close(layer.gamma.numpy(), norm.weight.detach().numpy(), 1e-12)
    assert_close(layer.beta.numpy(), norm.bias.detach().numpy(), 1e-12)


# --- embedding --------------------------------------------------------------------------------------------------------


def embedder() -> tuple[af.Embedding, af.Model]:
    layer = af.Embedding(6, 3)
    words = af.Input([4], dtype="int64")
    model = af.Model(words, layer(words))
    model.compile(loss=lambda y_true, y_pred: af.ops.sum(y_true * y_pred, (1, 2)), optimizer=af.SGD(learning_rate=1.0))
    return layer, model


def test_a_word_that_comes_up_again_collects_the_gradient_of_every_use() -> None:
    layer, model = embedder()
    before = layer.embeddings.numpy()
    words = np.array([[1, 1, 1, 5], [0, 5, 1, 3]])
    y = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    model.train_on_batch(words, y)
    expected = np.zeros((6, 3))
    for word, g in zip(words.ravel(), y.reshape(-1, 3), strict=True):
        expected[word] += g / 2
    assert_close(before - layer.embeddings.numpy(), expected, 1e-6)
    assert np.array_equal(before[[2, 4]], layer.embeddings.numpy()[[2, 4]])


def test_an_embedding_trains_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    layer, model = alone(CASES["Embedding"], "float32")
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.5, momentum=0.9))
    table = torch.tensor(layer.embeddings.numpy(), requires_grad=True)
    optimizer = torch.optim.SGD([table], lr=0.5, momentum=0.9)
    words, y = np.array([[1, 1, 2], [6, 1, 0]]), np.ones((2, 3, 4), "float32")
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(torch.nn.functional.embedding(torch.tensor(words), table), torch.tensor(y)).backward()
        optimizer.step()
        model.train_on_batch(words, y)
    assert_close(layer.embeddings.numpy(), table.detach().numpy(), 1e-6)


def test_words_without_a_row_are_refused_before_anything_changes() -> None:
    layer, model = embedder()
    before = layer.embeddings.numpy()
    for bad in (6, -1):
        with pytest.raises(af.Error, match="from 0 to 5"):
            model.train_on_batch([[0, 1, 2, bad]], np.ones((1, 4, 3)))
        with pytest.raises(af.Error, match="0 to 5"):
            layer(af.tensor([[0, 1, 2, bad]]))
    with pytest.raises(af.Error, match="whole numbers"):
        model.predict([[0.5, 1, 2, 3]])
    with pytest.raises(af.Error, match="takes whole numbers"):
        af.Embedding(3, 2)(af.tensor([[0.5]]))
    assert np.array_equal(layer.embeddings.numpy(), before)


@every_layer
def test_a_layer_called_on_arrays_gives_what_it_gives_on_tensors(name: str) -> None:
    case = CASES[name]
    inputs = arrays(case, "float32")
    layer = case.make()
    tensors = [af.tensor(x) for x in inputs]
    mixed = together([inputs[0], *tensors[1:]])  # a list of arrays only is one array, as in NumPy
    assert np.array_equal(layer(mixed).numpy(), layer(together(tensors)).numpy())


def test_an_embedding_called_on_an_array_or_a_list_of_words() -> None:
    layer = af.Embedding(5, 3)
    found = layer(np.array([[1, 2]])).numpy()
    assert np.array_equal(found, layer.embeddings.numpy()[[[1, 2]]])
    assert np.array_equal(layer([[1, 2]]).numpy(), found)


def test_an_embedding_with_an_input_shape_makes_the_input_of_a_sequential_whole() -> None:
    model = af.Sequential([af.Embedding(7, 4, input_shape=[3])])
    assert model.predict(np.array([[1, 2, 6]])).shape == (1, 3, 4)


def test_an_embedding_in_a_model_of_float64_is_of_float64() -> None:
    model = af.Sequential([af.Embedding(7, 4), af.Flatten(), af.Dense(2)], dtype="float64")
    assert model.predict(np.array([[1, 2, 6]])).dtype == "float64"


# --- activations ------------------------------------------------------------------------------------------------------


POINTS = np.concatenate([np.linspace(-30, 30, 121), np.linspace(-1e-3, 1e-3, 8), [-300.0, 300.0]]).reshape(1, -1)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_activation_is_its_formula(name: str, dtype: str) -> None:
    x = POINTS.astype(dtype)
    found = af.Activation(name)(af.tensor(x, dtype)).numpy()
    with np.errstate(over="ignore"):
        expected = FUNCTIONS[name](x.astype("float64"))
    assert found.dtype == dtype and np.isfinite(found).all()
    # elementwise, beside the 1 that elu subtracts and softmax divides by
    assert (np.abs(found - expected) <= (1e-14 if dtype == "float64" else 1e-6) * np.maximum(1, np.abs(expected))).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_and_its_gradient_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "leaky_relu": lambda z: functional.leaky_relu(z, 0.2),
        "elu": functional.elu,
        "gelu": functional.gelu,
        "softplus": lambda z: functional.softplus(z, threshold=1000),
        "silu": functional.silu,
        "log_softmax": lambda z: functional.log_softmax(z, -1),
    }
    c = np.random.default_rng(0).normal(size=POINTS.shape)
    z = torch.tensor(POINTS, requires_grad=True)
    out = theirs[name](z)
    (out * torch.tensor(c)).sum().backward()
    x = af.tensor(POINTS, "float64")
    found = af.Activation(name)(x)
    assert (np.abs(found.numpy() - out.detach().numpy()) <= 1e-13 * np.maximum(1, np.abs(out.detach().numpy()))).all()
    g = af.grad(af.ops.sum(found * af.tensor(c, "float64")), x).numpy()
    at_kink = np.zeros(POINTS.shape, bool) if name not in ("leaky_relu", "elu") else POINTS == 0
    wanted = z.grad.numpy()
    assert (np.abs(g - wanted) <= 1e-12 * np.maximum(1, np.abs(wanted)))[~at_kink].all()


def test_erf_is_that_of_the_standard_library_and_gelu_is_exact_to_a_millionth() -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), [-40.0, 1e-300, 0.0, 40.0]])
    expected = np.array([math.erf(v) for v in x])
    assert np.abs(af.ops.erf(af.tensor(x, "float64")).numpy() - expected).max() <= 4e-16
    single = x.astype("float32")
    expected = np.array([math.erf(v) for v in single])
    assert np.abs(af.ops.erf(af.tensor(single)).numpy() - expected).max() <= 2.5e-7
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in single.astype("float64")])
    found = af.ops.gelu(af.tensor(single)).numpy()
    assert (np.abs(found - exact) <= 1e-6 * np.maximum(1, np.abs(exact))).all()


@pytest.mark.parametrize("exponent", [25 * 5 - 584, 3, -2, 0.5, 2, 1, 0, -1, 2.7])
def test_a_constant_power_of_any_sign_has_the_gradient_of_its_formula(exponent: float) -> None:
    """The slides' g(x) = x^(25·5−584)."""
    x = np.linspace(0.97, 1.04, 9)
    t = af.tensor(x, "float64")
    assert_close((t**exponent).numpy(), x**exponent, 1e-12)
    total = af.ops.sum(af.Activation(lambda z: z**exponent)(t)) + af.ops.sum(t)  # x⁰ alone depends on no x
    wanted = exponent * x ** (exponent - 1) + 1 if exponent else np.ones(9)
    assert_close(af.grad(total, t).numpy(), wanted, 1e-12)


@pytest.mark.parametrize("exponent", [3, -2, -459 + 450])
def test_whole_powers_of_negative_numbers_are_right(exponent: int) -> None:
    x = np.array([-1.2, -0.9, 1.1])
    t = af.tensor(x, "float64")
    assert_close((t**exponent).numpy(), x**exponent, 1e-12)
    assert_close(af.grad(af.ops.sum(t**exponent), t).numpy(), exponent * x ** (exponent - 1), 1e-12)


def test_tanh_is_twice_the_sigmoid_of_twice_x_minus_one() -> None:
    """The slides' (sigmoid·2) − 1 is a slip."""
    x = af.tensor(np.linspace(-6, 6, 41), "float64")
    assert_close(af.ops.tanh(x).numpy(), (2.0 * af.ops.sigmoid(2.0 * x) - 1.0).numpy(), 1e-14)
    assert np.abs(af.ops.tanh(x).numpy() - (2.0 * af.ops.sigmoid(x) - 1.0).numpy()).max() > 0.1


# --- what is wrong is said --------------------------------------------------------------------------------------------


def sample(*shape: int) -> af.Tensor:
    return af.tensor(np.ones(shape))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: af.Dense(3, name="d")([sample(2, 3), sample(2, 3)]), ["'d'", "takes one tensor", "(2, 3)", "Concatenate"]),
        (lambda: af.Dense(3, name="d")(sample(2, 3), sample(2, 3)), ["'d'", "wrong number of inputs", "2: (2, 3), (2, 3)"]),
        (lambda: af.Add(name="sum")(sample(2, 3)), ["'sum'", "list of two", "(2, 3)", "af.Add()([a, b])"]),
        (lambda: af.Add(name="sum")([sample(2, 3)]), ["'sum'", "list of two"]),
        (lambda: af.Add(name="sum")([sample(2, 3), sample(2, 4)]), ["'sum'", "(2, 3) and (2, 4)", "axis -1", "3 meets 4"]),
        (lambda: af.Multiply(name="times")([sample(2, 3), sample(5, 3)]), ["'times'", "axis -2", "2 meets 5"]),
        (lambda: af.Concatenate(name="cat")([sample(2, 3, 1), sample(2, 4, 2)]), ["'cat'", "(2, 3, 1)", "(2, 4, 2)", "axis 2"]),
        (lambda: af.Concatenate(axis=5)([sample(2, 3), sample(2, 3)]), ["axis 5", "-2 to 1"]),
        (lambda: af.Reshape([2, 2], name="r")(sample(2, 3)), ["'r'", "4 values", "(3,)", "3 values"]),
        (lambda: af.Reshape([-1, 2], name="r")(sample(2, 3)), ["'r'", "3 values"]),
        (lambda: af.Reshape([-1, -1], name="r")(sample(2, 4)), ["'r'"]),
        (lambda: af.LayerNormalization(name="n")(sample(3)), ["'n'", "vectors of a known size", "(3,)"]),
        (lambda: af.Lambda(3), ["takes a function", "3"]),
        (lambda: af.Lambda(lambda x: 3, name="l")(sample(2, 3)), ["'l'", "must return a tensor", "int"]),
        (lambda: af.Dropout("half"), ["rate", "number"]),
        (lambda: af.Embedding(0, 3), ["input_dim"]),
        (lambda: af.Embedding(3, 2.5), ["output_dim", "whole"]),
    ],
)  # fmt: skip
def test_a_layer_says_what_does_not_fit_with_names_shapes_and_the_axis(use: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(af.Error) as caught:
        use()
    for word in words:
        assert word in str(caught.value)


def test_a_layer_that_was_built_for_another_size_says_so() -> None:
    layer = af.Dense(2, name="narrow")
    layer(sample(1, 3))
    with pytest.raises(af.Error, match=r"'narrow'[\s\S]*vectors of 3[\s\S]*\(1, 4\)"):
        layer(sample(1, 4))


def test_a_layer_without_a_size_says_so_when_asked_for_it() -> None:
    with pytest.raises(af.Error, match="does not know its size yet"):
        af.Dense(2).count_params()
    with pytest.raises(af.Error, match="has no forward"):
        af.Layer()(sample(1, 2))


def test_the_sizes_of_a_layer_with_layers_inside_count_every_weight_once() -> None:
    layer = Gated(5)
    layer(sample(2, 4))
    layer.again = layer.inner[0]
    assert layer.count_params() == 5 + 2 * (4 * 5 + 5)
    layer.trainable = False
    assert layer.trainable_weights == [] and len(layer.weights) == 5
    layer.trainable = True
    assert len(layer.trainable_weights) == 5


# --- configurations ---------------------------------------------------------------------------------------------------


def test_a_lambda_made_from_its_configuration_has_its_function() -> None:
    for function in (af.ops.relu, lambda x: x * 2.0):
        layer = af.Lambda(function, name="own")
        again = af.Lambda.from_config(layer.get_config())
        assert again.name == "own" and again.function is function


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("Lambda", "Custom", "a layer"))])
def test_a_layer_made_from_its_configuration_computes_the_same(name: str) -> None:
    case = CASES[name]
    layer = case.make()
    again = type(layer).from_config(copy.deepcopy(layer.get_config()))
    assert again.get_config() == layer.get_config()
    inputs = [af.tensor(x) for x in arrays(case, "float32")]
    given = inputs if len(inputs) > 1 else inputs[0]
    expected = layer(given)
    again(given)
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]
    for new, old in zip(again.weights, layer.weights, strict=True):
        new.assign(old.numpy())
    assert np.array_equal(again(given).numpy(), expected.numpy())


def test_a_stack_survives_json_and_names_what_it_does_not_know() -> None:
    class Own(af.Layer):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Any) -> Any:
            return x * self.factor

    inner = af.Sequential([af.Dense(3, af.ops.tanh)], name="inner")
    layers = [af.Dense(4, "relu", kernel_initializer=af.initializers.he_normal), af.Dropout(0.5), Own(2.0), inner]
    model = af.Sequential([*layers, af.Dense(2, kernel_regularizer="l2")], dtype="float64")
    model.build((None, 5))
    config = json.loads(json.dumps(model.get_config()))
    again = af.Sequential.from_config(config, custom_objects={"Own": Own})
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(6, 5))
    assert np.array_equal(again.predict(x), model.predict(x)) and again.predict(x).dtype == np.float64
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    config["layers"][0]["class"] = "Dens"
    with pytest.raises(af.Error, match="no layer named 'Dens'"):
        af.Sequential.from_config(config)
    with pytest.raises(af.Error, match="no configuration"):
        af.Dense.from_config(3)


def test_a_dropout_that_stands_twice_in_a_net_draws_twice() -> None:
    a = af.Input([40])
    layer = af.Dropout(0.5)
    model = af.Model(
        a, af.Dense(40, use_bias=False, kernel_initializer=lambda s, d, r: np.eye(40, dtype=d))(layer(a) - layer(a))
    )
    model.compile(loss="mse", optimizer=af.SGD(0.0))
    assert model.train_on_batch(np.ones((8, 40)), np.zeros((8, 40))) > 0.5
    assert model.evaluate(np.ones((8, 40)), np.zeros((8, 40))) == 0


def test_freezing_reaches_layers_that_are_made_or_added_later() -> None:
    class Inner(af.Layer):
        def build(self, input_shape: Any) -> None:
            self.parts = {"first": af.Dense(2), "second": af.Dense(3)}

        def forward(self, x: Any) -> Any:
            return self.parts["second"](self.parts["first"](x))

    layer = Inner(trainable=False)
    layer(np.ones((2, 4)))
    assert len(layer.weights) == 4
    stack = af.Sequential([af.Dense(2)])
    stack.trainable = False
    stack.add(af.Dense(2))
    stack.build((None, 3))
    assert not stack.trainable_weights and len(stack.weights) == 4


# --- what a layer is told, and asked ----------------------------------------------------------------------------------


def test_a_layer_gives_and_takes_its_weights() -> None:
    model = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(2)])
    layer = model.layers[1]
    assert [w.shape for w in layer.get_weights()] == [(4, 2), (2,)]
    layer.set_weights([np.ones((4, 2)), np.full(2, 3.0)])
    assert np.array_equal(model.get_weights()[2], np.ones((4, 2))) and np.array_equal(layer.get_weights()[1], [3.0, 3.0])
    for wrong in ([np.ones((4, 2))], [np.ones((4, 2)), np.ones(3)]):
        with pytest.raises(af.Error):
            layer.set_weights(wrong)
    assert np.array_equal(layer.get_weights()[1], [3.0, 3.0])
    with pytest.raises(af.Error, match="call it on data first"):
        af.Dense(2).set_weights([np.ones((4, 2)), np.ones(2)])


def test_a_weight_that_is_not_there_yet_says_why() -> None:
    with pytest.raises(AttributeError, match=r"no 'kernel' yet(.|\n)*input_shape"):
        af.Dense(3).kernel  # noqa: B018
    built = af.Dense(3)
    built(np.ones((2, 3)))
    for wrong, meant in (("fitt", "fit"), ("predit", "predict")):
        with pytest.raises(AttributeError, match=f"no '{wrong}'.\\n  fix: {meant}$"):
            getattr(af.Sequential([af.Dense(2)]), wrong)
    with pytest.raises(AttributeError, match="no 'kernle'") as caught:
        built.kernle  # noqa: B018
    assert "yet" not in str(caught.value)


def test_what_a_layer_is_told_is_what_it_is_held_to() -> None:
    with pytest.raises(af.Error, match=r"input_shape says(.|\n)*\(batch, 5\)(.|\n)*\(2, 3\)(.|\n)*input_shape=\[3\]"):
        af.Dense(4, input_shape=[5])(np.ones((2, 3)))
    assert af.Dense(4, input_shape=[3])(np.ones((2, 3))).shape == (2, 4)
    assert af.LSTM(4, input_shape=[None, 3])(np.ones((2, 7, 3))).shape == (2, 4)
    for wrong in ({"use_bias": "no"}, {"trainable": "yes"}):
        with pytest.raises(af.Error, match="is True or False"):
            af.Dense(3, **wrong)
    with pytest.raises(af.Error, match=r"a list of layers(.|\n)*af.Sequential\(\[layer"):
        af.Sequential(af.Dense(3))  # type: ignore[arg-type]
