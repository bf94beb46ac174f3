"""Folding linear layers: the same predictions from fewer bytes, and nothing where an activation stands between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import Array

import aforo as af


def weight_bytes(model: af.Model) -> int:
    return sum(array.nbytes for array in model.get_weights())


def settled(model: af.Model, rng: np.random.Generator) -> None:
    """Weights and moving averages as after a training."""
    values = []
    for weight in model.weights:
        value = weight.numpy() + 0.3 * rng.normal(size=weight.shape)
        values.append(np.abs(value) + 0.2 if weight.name == "moving_variance" else value)
    model.set_weights(values)


def random_layer(rng: np.random.Generator) -> af.Layer:
    units = int(rng.integers(1, 12))
    active = str(rng.choice(["none", "none", "none", "relu", "tanh", "sigmoid"]))
    kinds = [
        lambda: af.Dense(units, active, use_bias=bool(rng.integers(2))),
        lambda: af.Dense(units),
        lambda: af.BatchNormalization(center=bool(rng.integers(2)), scale=bool(rng.integers(2))),
        lambda: af.Dropout(0.3),
        lambda: af.Activation(str(rng.choice(["linear", "relu"]))),
        lambda: af.LayerNormalization(),
        lambda: af.Flatten(),
    ]
    layer: af.Layer = kinds[int(rng.choice(len(kinds), p=[0.3, 0.25, 0.2, 0.1, 0.05, 0.05, 0.05]))]()
    return layer


def random_stack(number: int) -> tuple[af.Model, Array]:
    rng = np.random.default_rng([5, number])
    shape = [int(rng.integers(1, 9))] if number % 4 else [3, int(rng.integers(1, 9))]
    layers = [random_layer(rng) for _ in range(int(rng.integers(1, 9)))]
    if number % 7 == 0:
        layers.append(af.Sequential([af.Dense(3), af.Dense(4)], name="inner"))
    model = af.Sequential(layers)
    model.build((None, *shape))
    settled(model, rng)
    return model, rng.normal(size=(9, *shape)).astype("float32")


def random_graph(number: int) -> tuple[af.Model, Array]:
    """Layers on values chosen at random, so that some are read twice; merges; several outputs."""
    rng = np.random.default_rng([6, number])
    values = [af.Input([4])]
    for _ in range(int(rng.integers(3, 12))):
        at = values[-1 if rng.random() < 0.7 else int(rng.integers(len(values)))]
        kind = rng.random()
        if kind < 0.55:
            values.append(af.Dense(4, str(rng.choice(["none", "none", "relu"])))(at))
        elif kind < 0.7:
            values.append(af.BatchNormalization()(at))
        elif kind < 0.8:
            values.append(af.Dropout(0.2)(at))
        elif kind < 0.9:
            values.append(af.Add()([at, values[int(rng.integers(len(values)))]]))
        else:
            values.append(at * 0.5 + 1.0)
    outputs = [values[-1]] if number % 3 else [values[-1], af.Dense(2)(values[-2])]
    model = af.Model(values[0], outputs)
    settled(model, rng)
    return model, rng.normal(size=(9, 4)).astype("float32")


def assert_same(model: af.Model, simple: af.Model, x: Any) -> None:
    expected, found = model.predict(x), simple.predict(x)
    for a, b in zip(*([v] if isinstance(v, np.ndarray) else v for v in (expected, found)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(1.0, float(np.abs(a).max())))
    assert weight_bytes(simple) <= weight_bytes(model)


@pytest.mark.parametrize("part", range(4))
def test_a_hundred_random_models_predict_the_same_from_no_more_bytes(part: int) -> None:
    folded = 0
    for number in range(part, 100, 4):
        model, x = random_stack(number) if number % 2 else random_graph(number)
        before = model.get_weights()
        simple = model.simplify(verbose=0)
        assert_same(model, simple, x)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        lost = sum(each.bytes_before - each.bytes_after for each in simple.folded)
        assert lost == weight_bytes(model) - weight_bytes(simple)
        folded += len(simple.folded) > 0
        assert simple.simplify(verbose=0).folded == ()
    assert folded >= 8


def test_n_regressions_are_one_regression(capsys: pytest.CaptureFixture[str]) -> None:
    model = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(5), af.Dense(2)])
    (w1, b1, w2, b2, w3, b3) = model.get_weights()
    simple = model.simplify()
    assert capsys.readouterr().out == "dense + dense_1 + dense_2 → dense_2: 212 B of weights before, 32 B after\n"
    assert len(simple.layers) == 1
    kernel, bias = simple.get_weights()
    np.testing.assert_allclose(kernel, w1 @ w2 @ w3, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bias, b1 @ w2 @ w3 + b2 @ w3 + b3, rtol=1e-5, atol=1e-7)
    (folded,) = simple.folded
    assert folded.layers == ("dense", "dense_1", "dense_2") and (folded.bytes_before, folded.bytes_after) == (212, 32)


def test_batch_normalization_folds_as_it_predicts_and_dropout_goes() -> None:
    rng = np.random.default_rng(0)
    model = af.Sequential(
        [af.Dense(4, use_bias=False, input_shape=[3]), af.BatchNormalization(), af.Dropout(0.5), af.Dense(2, "tanh")]
    )
    model.compile("mse", "sgd")
    x = rng.normal(size=(64, 3))
    model.fit(x, rng.normal(size=(64, 2)), epochs=5, verbose=0)
    simple = model.simplify(verbose=0)
    assert [layer.name for layer in simple.layers] == ["dense_1"]
    assert_same(model, simple, x)
    assert {each.into for each in simple.folded} == {"", "dense_1"}


def test_nothing_folds_over_an_activation(capsys: pytest.CaptureFixture[str]) -> None:
    model = af.Sequential([af.Dense(4, "relu", input_shape=[3]), af.Dense(4), af.Activation("tanh"), af.Dense(2)])
    simple = model.simplify()
    assert "nothing to fold" in capsys.readouterr().out and simple.folded == ()
    assert [layer.name for layer in simple.layers] == [layer.name for layer in model.layers]
    assert_same(model, simple, np.ones((2, 3)))


def test_a_narrow_layer_between_wide_ones_stays() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[100]), af.Dense(100)])
    simple = model.simplify(verbose=0)
    assert simple.folded == () and weight_bytes(simple) == weight_bytes(model)
    # In a longer row it is the narrowest place that is kept.
    model = af.Sequential([af.Dense(50, input_shape=[60]), af.Dense(2), af.Dense(50), af.Dense(60)])
    simple = model.simplify(verbose=0)
    assert [layer.kernel.shape for layer in simple.layers] == [(60, 2), (2, 60)]
    assert_same(model, simple, np.random.default_rng(0).normal(size=(3, 60)))


def test_a_value_that_is_read_twice_or_given_out_is_not_folded_away() -> None:
    a = af.Input([3])
    h = af.Dense(3)(a)
    both = af.Model(a, af.Add()([af.Dense(3)(h), h]))
    assert both.simplify(verbose=0).folded == ()
    out = af.Dense(3)(a)
    given = af.Model(a, [out, af.Dense(2)(out)])
    assert given.simplify(verbose=0).folded == ()


def test_a_layer_used_twice_stays_one_layer() -> None:
    shared = af.Dense(3)
    a = af.Input([3])
    model = af.Model(a, shared(af.Dense(3)(shared(a))))
    simple = model.simplify(verbose=0)
    assert simple.folded == () and len(simple.layers) == 2
    assert_same(model, simple, np.ones((2, 3)))


def test_the_new_model_has_weights_of_its_own_and_can_be_used() -> None:
    model = af.Sequential([af.Dense(4, "relu", input_shape=[3]), af.Dense(4), af.Dense(2, "softmax")])
    model.compile("categorical_crossentropy", "adam", metrics="accuracy")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), np.eye(2)[rng.integers(0, 2, 40)]
    simple = model.simplify(verbose=0)
    np.testing.assert_allclose(simple.evaluate(x, y), model.evaluate(x, y), rtol=1e-5)
    before = model.get_weights()
    simple.fit(x, y, epochs=1, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_new_model_has_an_optimizer_of_its_own() -> None:
    model = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(2)])
    model.compile("mse", af.SGD(0.5, momentum=0.9, clipnorm=1.0))
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    model.fit(x, y, epochs=1, verbose=0)
    simple = model.simplify(verbose=0)
    assert simple.optimizer is not model.optimizer and type(simple.optimizer) is af.SGD
    assert (simple.optimizer.momentum, simple.optimizer.clip) == (0.9, ("clipnorm", 1.0))
    assert simple.optimizer.learning_rate == 0.5
    simple.optimizer.learning_rate = 0.0
    assert model.optimizer is not None and model.optimizer.learning_rate == 0.5
    before = [model.get_weights(), simple.get_weights()]
    for each in (model, simple):
        each.fit(x, y, epochs=1, verbose=0)
    assert any((a != b).any() for a, b in zip(before[0], model.get_weights(), strict=True))
    for a, b in zip(before[1], simple.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_keep_their_names_and_losses() -> None:
    a = af.Input([3])
    model = af.Model(a, {"one": af.Dense(2)(af.Dense(4)(a)), "two": af.Dropout(0.1)(af.Dense(1)(a))})
    model.compile({"one": "mse", "two": "mae"})
    simple = model.simplify(verbose=0)
    x = np.ones((2, 3))
    assert set(simple.predict(x)) == {"one", "two"}
    y = {"one": np.zeros((2, 2)), "two": np.zeros((2, 1))}
    np.testing.assert_allclose(simple.evaluate(x, y), model.evaluate(x, y), rtol=1e-5)


def test_a_layer_that_several_models_use_stays_one_layer() -> None:
    shared, rng = af.Dense(30), np.random.default_rng(0)
    one = af.Sequential([shared, af.Dense(30)], name="one")
    two = af.Sequential([af.Dropout(0.5), shared], name="two")
    a = af.Input([30])
    model = af.Model(a, af.Add()([one(a), two(a), af.Dense(30)(shared(a))]))
    simple = model.simplify(verbose=0)
    assert_same(model, simple, rng.normal(size=(5, 30)))
    assert weight_bytes(simple) == weight_bytes(model)
    assert len({id(layer) for layer in simple.all_sublayers() if layer.name == shared.name}) == 1
    assert [each.layers for each in simple.folded] == [("dropout",)]
    # What is used by one model alone folds there, and once, however often the model is called.
    inner = af.Sequential([af.Dense(4), af.Dense(30)], name="inner")
    twice = af.Model(a, inner(inner(a)))
    simple = twice.simplify(verbose=0)
    assert simple.folded == ()
    inner = af.Sequential([af.Dense(40), af.Dense(30)], name="inner")
    twice = af.Model(a, inner(inner(a)))
    simple = twice.simplify(verbose=0)
    assert len(simple.folded) == 1
    assert_same(twice, simple, rng.normal(size=(5, 30)))


@pytest.mark.parametrize(("dtype", "sizes"), [("float32", (1e25, 1e20)), ("float64", (1e200, 1e200))])
def test_a_fold_whose_weights_would_overflow_is_left_alone(dtype: str, sizes: tuple[float, float]) -> None:
    model = af.Sequential([af.Dense(4, input_shape=[4]), af.Dense(4)], dtype=dtype)
    for layer, size in zip(model.layers, sizes, strict=True):
        layer.kernel.assign(size * np.eye(4))
    simple = model.simplify(verbose=0)
    assert simple.folded == ()
    x = np.full((2, 4), 1.0 / sizes[0])
    np.testing.assert_array_equal(simple.predict(x), model.predict(x))
    assert np.isfinite(simple.predict(x)).all()


class Doubled(af.Dense):
    def forward(self, x: Any) -> Any:
        return 2.0 * super().forward(x) + af.ops.square(x)[..., :1]


class Cube(af.Activation):
    def forward(self, x: Any) -> Any:
        return x * x * x


class Always(af.Dropout):
    def forward(self, x: Any) -> Any:
        return x * 0.5


class Shifted(af.BatchNormalization):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1.0


class Turned(af.Reshape):
    def forward(self, x: Any) -> Any:
        return -super().forward(x)


class Plain(af.Dense):
    """A kind of its own that computes what Dense does."""


@pytest.mark.parametrize("layer", [lambda: Doubled(4), lambda: Cube(None), lambda: Always(0.5), Shifted, lambda: Turned([4])])
def test_a_kind_with_a_forward_of_its_own_is_not_folded(layer: Any) -> None:
    model = af.Sequential([af.Dense(4, input_shape=[4]), layer(), af.Dense(4)])
    simple = model.simplify(verbose=0)
    assert simple.folded == ()
    assert_same(model, simple, np.random.default_rng(0).normal(size=(5, 4)))


def test_a_kind_that_keeps_its_forward_is_folded() -> None:
    model = af.Sequential([Plain(4, input_shape=[4]), af.Dense(4)])
    simple = model.simplify(verbose=0)
    assert len(simple.layers) == 1
    assert_same(model, simple, np.random.default_rng(0).normal(size=(5, 4)))


def test_a_model_without_sizes_says_what_it_lacks() -> None:
    with pytest.raises(af.Error, match="does not know its input size"):
        af.Sequential([af.Dense(3), af.Dense(2)]).simplify()
