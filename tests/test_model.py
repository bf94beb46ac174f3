"""What a model is: its layers, its weights, and what people build from them."""

from __future__ import annotations

from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import HIDDEN, Array, Net, assert_close, assert_same_bits, differences, forward, gradients

import aforo as af

NET = Net((3, 6, 4, 2), ("tanh", "relu", "none"), optimizer={"learning_rate": 0.1, "momentum": 0.9}, dtype="float64")


def names(model: af.Sequential) -> list[str]:
    return [layer.name for layer in model.layers]


# --- layers -----------------------------------------------------------------------------------------------------------


def test_layers_stand_in_the_order_they_were_added() -> None:
    a, b, c = af.Dense(4, input_shape=[3]), af.Dense(5), af.Activation("relu")
    model = af.Sequential([a])
    model.add(b)
    model.add(c)
    assert model.layers == [a, b, c]
    assert model.pop() is c
    assert model.layers == [a, b]
    assert model.input_shape == (None, 3) and model.output_shape == (None, 5)
    assert model.count_params() == 4 * 4 + 5 * 5


def test_layers_without_a_name_get_one_of_their_own() -> None:
    model = af.Sequential(
        [af.Dense(2, input_shape=[2]), af.Dense(2), af.Dense(2, name="head"), af.Activation("relu"), af.Dense(2)]
    )
    assert names(model) == ["dense", "dense_1", "head", "activation", "dense_2"]
    assert len({id(layer) for layer in model.layers}) == 5


def test_sizes_that_were_not_said_follow_from_the_data() -> None:
    x, y = NET.data(10)
    model = af.Sequential([af.Dense(4, "tanh"), af.Dense(2)], dtype="float64")
    model.compile(loss="mse")
    assert not model.built
    model.fit(x, y, verbose=0)
    assert model.built and model.input_shape == (None, 3)
    assert [w.shape for w in model.get_weights()] == [(3, 4), (4,), (4, 2), (2,)]
    built = af.Sequential([af.Dense(4), af.Dense(2)])
    built.build((None, 7))
    assert built.count_params() == 7 * 4 + 4 + 4 * 2 + 2


def test_a_first_fit_that_fails_leaves_the_sizes_open() -> None:
    model = af.Sequential([af.Dense(4, "tanh"), af.Dense(2)], dtype="float64")
    model.compile(loss="mse")
    x, y = NET.data(10)
    for bad_x, bad_y in [
        (np.full((10, 5), np.nan), y),
        (np.ones((10, 5)), y[:7]),
        (np.ones((10, 5)), np.ones((10, 9))),
    ]:
        with pytest.raises(af.Error):
            model.fit(bad_x, bad_y, verbose=0)
        assert not model.built
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("activation", [None, "none", "linear", "None"])
def test_none_and_linear_are_no_activation(activation: Any) -> None:
    model = af.Sequential([af.Dense(2, activation, input_shape=[3])], dtype="float64")
    x = np.random.default_rng(0).normal(size=(5, 3))
    kernel, bias = model.get_weights()
    assert_close(model.predict(x), x @ kernel + bias, 1e-12)


def test_a_layer_without_a_bias_has_a_kernel_only() -> None:
    model = af.Sequential([af.Dense(2, use_bias=False, input_shape=[3])], dtype="float64")
    assert [w.shape for w in model.get_weights()] == [(3, 2)]
    assert model.layers[0].bias is None
    x = np.ones((1, 3))
    assert_close(model.predict(x), x @ model.get_weights()[0], 1e-12)


def test_a_layer_may_stand_in_the_stack_twice_and_is_counted_once() -> None:
    shared = af.Dense(4, "tanh")
    model = af.Sequential([af.Dense(4, input_shape=[3]), shared, shared, af.Dense(1)], dtype="float64")
    assert len(model.get_weights()) == 6 and model.count_params() == 16 + 20 + 5
    x, y = np.random.default_rng(0).normal(size=(5, 3)), np.zeros((5, 1))

    def textbook(w: list[Array]) -> float:
        out = forward([*w[:4], *w[2:]], ["none", "tanh", "tanh", "none"], x)
        return float((out**2).mean())

    for found, wanted in zip(gradients(model, "mse", x, y), differences(textbook, model.get_weights()), strict=True):
        assert_close(found, wanted, 1e-7)
    report = model.memory(batch_size=5)
    assert sum(row.held_bytes for row in report.layers) == report.lower_bound_bytes
    assert sum(row.parameters for row in report.layers) == 41


def test_layers_shared_by_two_models_share_their_training() -> None:
    body = af.Dense(4, "tanh", input_shape=[3])
    a, b = af.Sequential([body, af.Dense(2)], dtype="float64"), af.Sequential([body, af.Dense(1)], dtype="float64")
    x, y = NET.data(6)
    for model in (a, b):
        model.compile(loss="mse")
    before = b.get_weights()
    a.train_on_batch(x, y)
    assert_same_bits(b.get_weights()[:2], a.get_weights()[:2])
    assert not np.array_equal(b.get_weights()[0], before[0])
    b.train_on_batch(x, y[:, :1])
    assert_same_bits(b.get_weights()[:2], a.get_weights()[:2])


# --- replacing the head -----------------------------------------------------------------------------------------------


def test_replacing_the_head_keeps_what_the_other_layers_learned() -> None:
    x, y = NET.data(20)
    model = NET.model()
    model.fit(x, y, epochs=2, verbose=0)
    trained = model.get_weights()
    model.pop()
    assert_close(model.predict(x), forward(trained[:4], NET.activations[:2], x), 1e-12)
    model.add(af.Dense(3, activation="softmax"))
    assert_same_bits(model.get_weights()[:4], trained[:4])
    assert model.get_weights()[4].shape == (4, 3)
    model.compile(loss="sparse_categorical_crossentropy", metrics="accuracy")
    history = model.fit(x, np.arange(20) % 3, epochs=2, verbose=0)
    assert list(history.history) == ["loss", "accuracy"]
    assert not np.array_equal(model.get_weights()[0], trained[0])
    assert_close(model.predict(x), forward(model.get_weights(), ("tanh", "relu", "softmax"), x), 1e-12)


def test_a_new_head_trains_from_the_same_loss_where_compiling_is_not_repeated() -> None:
    x, y = NET.data(20)
    model = NET.model()
    model.fit(x, y, verbose=0)
    model.pop()
    model.add(af.Dense(2))
    first = model.train_on_batch(x, y)
    for _ in range(30):
        model.train_on_batch(x, y)
    assert model.evaluate(x, y) < first
    assert model.metrics_names == ["loss"]


def test_a_new_head_starts_elsewhere_than_the_old_one() -> None:
    model = NET.model()
    old = model.get_weights()[4]
    model.pop()
    model.add(af.Dense(2))
    assert not np.array_equal(model.get_weights()[4], old)


def test_a_model_can_be_emptied_and_built_anew() -> None:
    model = NET.model()
    model.fit(*NET.data(10), verbose=0)
    while model.layers:
        model.pop()
    model.add(af.Dense(2, input_shape=[5]))
    assert model.input_shape == (None, 5)
    assert model.predict(np.ones((3, 5))).shape == (3, 2)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_in_the_order_of_the_layers_kernel_before_bias() -> None:
    model = NET.model()
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(3, 6), (6,), (6, 4), (4,), (4, 2), (2,)]
    for i, layer in enumerate(model.layers):
        assert_same_bits([layer.kernel.numpy(), layer.bias.numpy()], weights[2 * i : 2 * i + 2])
        assert layer.kernel.shape == weights[2 * i].shape
    assert all(w.dtype == np.float64 for w in weights)


def test_set_weights_is_what_get_weights_gives_and_predict_uses() -> None:
    rng = np.random.default_rng(5)
    model = NET.model()
    for trained in (False, True):
        if trained:
            model.fit(*NET.data(10), verbose=0)
        weights = [rng.normal(size=w.shape) for w in model.get_weights()]
        model.set_weights(weights)
        assert_same_bits(model.get_weights(), weights)
        x = rng.normal(size=(4, 3))
        assert_close(model.predict(x), forward(weights, NET.activations, x), 1e-12)


def test_set_weights_copies_what_it_is_given() -> None:
    model = NET.model()
    weights = model.get_weights()
    model.set_weights(weights)
    weights[0][:] = 9
    assert not np.any(model.get_weights()[0] == 9)


def test_set_weights_takes_lists_other_dtypes_and_transposed_arrays() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[2])])
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    for form in (kernel.tolist(), kernel.astype(int), kernel.T.copy().T, kernel[::-1][::-1]):
        model.set_weights([form, [5, 6]])
        assert_same_bits(model.get_weights(), [kernel.astype(np.float32), np.array([5, 6], np.float32)])
        assert model.predict([[1.0, 1.0]]).tolist() == [[9.0, 12.0]]


def test_set_weights_changes_all_or_nothing() -> None:
    model = NET.model()
    model.train_on_batch(*NET.data(5))
    before = model.get_weights()
    new = [w + 1 for w in before]
    for bad in (new[:-1], [*new, new[0]], [*new[:-1], np.ones(3)], [*new[:-1], ["a", "b"]], [*new[:-1], None], []):
        with pytest.raises(af.Error) as caught:
            model.set_weights(bad)
        assert isinstance(caught.value, (ValueError, TypeError))
        assert_same_bits(model.get_weights(), before)


def test_a_weight_can_be_read_and_assigned_by_itself() -> None:
    model = NET.model()
    kernel = model.layers[1].kernel
    values = np.arange(24.0).reshape(6, 4)
    kernel.assign(values)
    assert_same_bits([kernel.numpy(), model.get_weights()[2]], [values, values])
    assert np.asarray(kernel).tolist() == values.tolist()
    handed = kernel.numpy()
    handed[:] = -1
    assert_same_bits([kernel.numpy()], [values])
    with pytest.raises(af.Error, match=r"dense_1\.kernel(.|\n)*\(6, 4\)(.|\n)*\(4, 6\)"):
        kernel.assign(values.T)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    rows=st.integers(1, 12),
    batch_size=st.integers(1, 14),
    pick=st.randoms(use_true_random=False),
)
def test_predict_equals_a_numpy_forward(widths: list[int], rows: int, batch_size: int, pick: Any) -> None:
    activations = tuple(pick.choice([*HIDDEN, "softmax"]) for _ in widths[1:])
    net = Net(tuple(widths), activations, dtype="float64")
    model = net.model(3)
    x, _ = net.data(rows)
    assert_close(model.predict(x, batch_size=batch_size), forward(model.get_weights(), activations, x), 1e-11)


# --- layers, activations and losses of one's own ----------------------------------------------------------------------


class RL(af.Layer):
    """The layer of API.md."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight([input_shape[-1], self.units], initializer="glorot_uniform", name="kernel")

    def forward(self, x: Any) -> Any:
        return x @ self.kernel


class Scaled(af.Layer):
    """Several weights, one of which is not trained, and a forward that branches on a shape."""

    def build(self, input_shape: Any) -> None:
        d = input_shape[-1]
        self.scale = self.add_weight([d], "ones", "scale")
        self.fixed = self.add_weight([d], lambda shape, dtype, rng: np.full(shape, 0.5, dtype), "fixed", trainable=False)

    def forward(self, x: Any) -> Any:
        x = x * self.scale + self.fixed
        return af.ops.sin(x) if x.shape[-1] > 2 else x


def test_a_layer_of_ones_own_trains_by_its_derived_backward() -> None:
    af.set_seed(4)
    model = af.Sequential([RL(4, input_shape=[3]), af.Activation("tanh"), RL(2)], dtype="float64")
    x, y = NET.data(6)
    kernels = model.get_weights()
    assert [k.shape for k in kernels] == [(3, 4), (4, 2)]
    assert names(model) == ["rl", "activation", "rl_1"]
    assert_close(model.predict(x), np.tanh(x @ kernels[0]) @ kernels[1], 1e-12)
    expected = differences(lambda w: float(((np.tanh(x @ w[0]) @ w[1] - y) ** 2).mean()), kernels)
    for found, wanted in zip(gradients(model, "mse", x, y), expected, strict=True):
        assert_close(found, wanted, 1e-7)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.05, momentum=0.9))
    losses = model.fit(x, y, epochs=100, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_a_layer_may_have_weights_that_are_not_trained() -> None:
    model = af.Sequential([af.Dense(4, input_shape=[3]), Scaled(), af.Dense(2)], dtype="float64")
    x, y = NET.data(6)
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(3, 4), (4,), (4,), (4,), (4, 2), (2,)]
    assert weights[2].tolist() == [1.0] * 4 and weights[3].tolist() == [0.5] * 4
    assert len(model.trainable_weights) == 5

    def textbook(w: list[Array]) -> float:
        h = np.sin((x @ w[0] + w[1]) * w[2] + w[3])
        return float(((h @ w[4] + w[5] - y) ** 2).mean())

    expected = differences(textbook, weights)
    expected[3] = np.zeros(4)
    for i, (found, wanted) in enumerate(zip(gradients(model, "mse", x, y), expected, strict=True)):
        assert not found.any() if i == 3 else assert_close(found, wanted, 1e-7) is None


def test_a_function_is_an_activation() -> None:
    for place in ("argument", "layer"):

        def own(z: Any) -> Any:
            return af.ops.sin(z) * z

        first = [af.Dense(4, activation=own, input_shape=[3])]
        if place == "layer":
            first = [af.Dense(4, input_shape=[3]), af.Activation(own)]
        model = af.Sequential([*first, af.Dense(2)], dtype="float64")
        x, y = NET.data(6)

        def textbook(w: list[Array], x: Array = x, y: Array = y) -> float:
            z = x @ w[0] + w[1]
            return float((((np.sin(z) * z) @ w[2] + w[3] - y) ** 2).mean())

        expected = differences(textbook, model.get_weights())
        for found, wanted in zip(gradients(model, "mse", x, y), expected, strict=True):
            assert_close(found, wanted, 1e-7, place)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", lambda z, m: 0.5 * z * (1 + m.tanh(0.7978845608028654 * (z + 0.044715 * z**3)))),
        ("square", lambda z, m: z**2),
        ("a masked relu", lambda z, m: z * (z > 0)),
        ("silu", lambda z, m: z / (1 + m.exp(-z))),
        ("x to the −459", lambda z, m: (1 + 0.001 * z) ** (25 * 5 - 584.0)),
    ],
)
def test_any_differentiable_function_of_the_slides_is_an_activation(name: str, function: Any) -> None:
    model = af.Sequential([af.Dense(4, lambda z: function(z, af.ops), input_shape=[3]), af.Dense(2)], dtype="float64")
    x, y = NET.data(6)

    def textbook(w: list[Array]) -> float:
        return float(((function(x @ w[0] + w[1], np) @ w[2] + w[3] - y) ** 2).mean())

    expected = differences(textbook, model.get_weights())
    for found, wanted in zip(gradients(model, "mse", x, y), expected, strict=True):
        assert_close(found, wanted, 1e-6, name)


def test_a_lambda_is_a_loss_as_the_docs_say() -> None:
    x, y = NET.data(20)
    named, own = NET.model(), NET.model()
    own.compile(
        loss=lambda y_true, y_pred: af.ops.mean((y_true - y_pred) ** 2),
        optimizer=af.SGD(learning_rate=0.01, momentum=0.9),
    )
    named.compile(loss="mse", optimizer=af.SGD(learning_rate=0.01, momentum=0.9))
    histories = [model.fit(x, y, epochs=3, batch_size=7, seed=1, verbose=0).history["loss"] for model in (named, own)]
    assert_close(histories[1], histories[0], 1e-12)
    for a, b in zip(own.get_weights(), named.get_weights(), strict=True):
        assert_close(a, b, 1e-12)


def test_an_initializer_of_ones_own_gets_shape_dtype_and_generator() -> None:
    calls = []

    def own(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
        calls.append((shape, dtype))
        return rng.integers(0, 10, shape).astype(dtype)

    model = af.Sequential([af.Dense(4, kernel_initializer=own, bias_initializer="ones", input_shape=[3])])
    kernel, bias = model.get_weights()
    assert set(calls) == {((3, 4), "float32")}
    assert np.all(kernel == kernel.round()) and bias.tolist() == [1.0] * 4


# --- data -------------------------------------------------------------------------------------------------------------


class Table:
    """What pandas and polars offer."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def to_numpy(self) -> Array:
        return self.values


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a.tolist(),
        lambda a: tuple(map(tuple, a.tolist())),
        Table,
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1][::-1],
        lambda a: a.astype(object),
        lambda a: a.astype(np.float32),
    ],
    ids=["list", "tuple", "table", "fortran", "strided", "reversed", "object", "float32"],
)
def test_data_may_come_as_anything_that_holds_numbers(form: Any) -> None:
    x, y = NET.data(10)
    x, y = x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    plain, other = NET.model(), NET.model()
    plain.fit(x, y, epochs=2, batch_size=4, seed=1, verbose=0)
    other.fit(form(x), form(y), epochs=2, batch_size=4, seed=1, verbose=0)
    assert_same_bits(other.get_weights(), plain.get_weights())
    assert_same_bits([other.predict(form(x))], [plain.predict(x)])
    assert other.evaluate(form(x), form(y)) == plain.evaluate(x, y)
    assert other.train_on_batch(form(x), form(y)) == plain.train_on_batch(x, y)


def test_training_leaves_the_users_arrays_alone() -> None:
    x, y = NET.data(20)
    weights = np.ones(20)
    copies = x.copy(), y.copy(), weights.copy()
    for array in (x, y, weights):
        array.setflags(write=False)
    model = NET.model()
    model.fit(x, y, sample_weight=weights, validation_split=0.2, verbose=0)
    model.predict(x)
    model.evaluate(x, y)
    for array, copy in zip((x, y, weights), copies, strict=True):
        assert_same_bits([array], [copy])


def test_predictions_are_new_numpy_arrays() -> None:
    model = NET.model()
    x, _ = NET.data(5)
    a, b = model.predict(x), model.predict(x)
    assert type(a) is np.ndarray and a.dtype == np.float64 and a.flags.owndata and a.flags.writeable
    assert a is not b and np.array_equal(a, b) and not np.shares_memory(a, b)
    assert af.Sequential([af.Dense(2, input_shape=[3])]).predict(x).dtype == np.float32


# --- devices and text -------------------------------------------------------------------------------------------------


def test_to_gives_the_model_back_before_and_after_it_is_built_compiled_and_trained() -> None:
    model = af.Sequential([af.Dense(2)])
    assert model.to("cpu") is model and model.device == "cpu"
    model.compile(loss="mse", optimizer=af.SGD(momentum=0.9))
    assert model.to("CPU") is model
    model.fit(np.ones((3, 4)), np.ones((3, 2)), verbose=0)
    before = model.get_weights()
    assert model.to(" cpu ") is model and model.device == "cpu"
    assert_same_bits(model.get_weights(), before)


def test_a_summary_counts_each_parameter_once(capsys: pytest.CaptureFixture[str]) -> None:
    shared = af.Dense(4)
    model = af.Sequential([af.Dense(4, input_shape=[3]), shared, shared], name="twice")
    model.summary()
    out = capsys.readouterr().out
    assert "twice" in out and "36" in out.split("parameters:")[1].split(",")[0]
    open_ended = af.Sequential([af.Dense(4)])
    open_ended.summary()
    assert "?" in capsys.readouterr().out


def test_planning_a_thousand_layers_takes_time_in_proportion_and_no_recursion() -> None:
    def seconds(layers: int) -> float:
        start = process_time()
        model = af.Sequential([af.Dense(8, "tanh", input_shape=[8]), *(af.Dense(8, "tanh") for _ in range(layers - 1))])
        model.compile(loss="mse")
        model.memory(batch_size=4)
        return process_time() - start

    seconds(10)
    assert seconds(1000) < 8 * seconds(250)  # 4 where it is linear, 16 where it is quadratic
