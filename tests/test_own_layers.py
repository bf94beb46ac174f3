"""Layers that users write: what becomes a part of them, what their forward is given, and mistakes in writing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import assert_close

import aforo as af

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = (X @ np.array([[1.0], [2.0], [3.0], [4.0]])).astype("float32")


class Blocks(af.Layer):
    """Layers in containers within containers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [[af.Dense(4), af.Dense(4)], {"last": (af.Dense(1),)}]

    def forward(self, x: Any) -> Any:
        first, last = self.blocks
        for layer in (*first, *last["last"]):
            x = layer(x)
        return x


def test_layers_in_containers_however_deep_are_trained_counted_and_saved(tmp_path: Path) -> None:
    model = af.Sequential([Blocks(), af.Dense(1)])
    model.compile("mse")
    model.fit(X, Y, verbose=0)
    assert model.count_params() == 2 * (4 * 4 + 4) + (4 + 1) + (1 + 1)
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", custom_objects={"Blocks": Blocks})
    assert np.array_equal(again.predict(X), model.predict(X))


class Child(af.Layer):
    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent

    def forward(self, x: Any) -> Any:
        return x * 2


class Parent(af.Layer):
    """Its child knows it; and it has a list that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.child, self.dense = Child(self), af.Dense(4)
        self.all: list[Any] = [self.dense]
        self.all.append(self.all)

    def forward(self, x: Any) -> Any:
        return self.child(self.dense(x))


def test_layers_that_know_one_another_are_counted_once(tmp_path: Path) -> None:
    model = af.Sequential([af.Input([4]), Parent(), af.Dense(2)])
    assert model.count_params() == 4 * 4 + 4 + 4 * 2 + 2
    model.layers[0].trainable = False
    assert len(model.trainable_weights) == 2
    model.save_weights(tmp_path / "weights.safetensors")
    again = af.Sequential([af.Input([4]), Parent(), af.Dense(2)])
    again.load_weights(tmp_path / "weights.safetensors")
    assert np.array_equal(again.predict(X), model.predict(X))


class Grows(af.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.bag: list[Any] = []

    def build(self, input_shape: Any) -> None:
        self.bag += [af.Dense(4), af.Dense(4)]

    def forward(self, x: Any) -> Any:
        for layer in self.bag:
            x = layer(x)
        return af.ops.reshape(x, (8, 2, 2))


def test_layers_from_a_build_in_vain_are_gone() -> None:
    layer = Grows()
    with pytest.raises(af.Error):
        layer(X[:3])
    layer(X[:8])
    assert len(layer.bag) == 2


def test_a_layer_that_was_exchanged_is_seen() -> None:
    model = af.Sequential([af.Input([4]), SaysNothing(af.Dense(4)), af.Dense(1)])
    model.compile("mse")
    model.fit(X, Y, verbose=0)
    before = model.predict(X)
    model.layers[0].inner = af.Dense(4)
    assert not np.allclose(model.predict(X), before) and len(model.weights) == 4
    model.fit(X, Y, verbose=0)


class Listed(af.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.inner = [af.Dense(4)]

    def forward(self, x: Any) -> Any:
        return self.inner[0](x)


def test_a_layer_that_was_exchanged_in_a_list_is_seen_by_the_next_fit_and_evaluation() -> None:
    model = af.Sequential([af.Input([4]), Listed(), af.Dense(1)])
    model.compile("mse")
    model.fit(X, Y, verbose=0)
    loss, old = model.evaluate(X, Y), model.layers[0].inner[0]
    kernel = old.kernel.numpy()
    model.layers[0].inner[0] = af.Dense(4)
    assert model.evaluate(X, Y) != loss and len(model.weights) == 4
    model.layers[0].inner[0] = af.Dense(4)
    model.fit(X, Y, verbose=0)
    assert np.array_equal(old.kernel.numpy(), kernel), "the layer that is gone was trained"
    assert model.layers[0].inner[0].built and len(model.get_weights()) == 4


# --- what a forward is given ------------------------------------------------------------------------------------------


class Told(af.Layer):
    def forward(self, x: Any, training: bool = False) -> Any:
        return x * 0.0 if training else x


class ToldByName(Told):
    def forward(self, x: Any, *, training: bool) -> Any:  # type: ignore[override]
        return super().forward(x, training) + 1.0


class ToldFirst(af.Layer):
    def forward(self, training: bool, x: Any, y: Any) -> Any:
        return x - y if training else x + y


@pytest.mark.parametrize("kind", [Told, ToldByName])
def test_a_forward_with_training_is_told(kind: Callable[[], Any]) -> None:
    model = af.Sequential([kind(), af.Dense(1, use_bias=False)])
    model.compile("mse", af.SGD(0.0))
    loss = model.fit(X, Y, batch_size=12, verbose=0).history["loss"][0]
    w = model.get_weights()[0]
    plus = kind is ToldByName
    assert_close(loss, ((np.full_like(X, plus) @ w - Y) ** 2).mean(), 1e-5)
    assert_close(model.evaluate(X, Y), (((X + plus) @ w - Y) ** 2).mean(), 1e-5)
    assert np.array_equal(kind()(X, training=True).numpy(), np.full_like(X, plus))
    assert np.array_equal(kind()(X).numpy(), X + plus)


def test_training_may_stand_anywhere_among_the_inputs() -> None:
    assert np.array_equal(ToldFirst()(X, X, training=True).numpy(), X * 0)
    assert np.array_equal(ToldFirst()(X, X).numpy(), X + X)


class ToldAmong(af.Layer):
    def forward(self, a: Any, training: Any = None, b: Any = None) -> Any:
        return (a if b is None else a + b) * (2.0 if training else 1.0)


class ToldAmongToo(ToldAmong):
    def forward(self, a: Any, training: Any = None, b: Any = None) -> Any:
        return super().forward(a, training)


def test_training_that_is_handed_on_by_its_place_is_no_input() -> None:
    assert np.array_equal(ToldAmong()(X, training=True).numpy(), 2 * X)
    assert np.array_equal(ToldAmongToo()(X, training=True).numpy(), 2 * X)
    assert np.array_equal(ToldAmong()(X, b=None).numpy(), X), "None is what is left out"
    assert np.array_equal(ToldAmong()(X, X, training=True).numpy(), 4 * X)


class HandsOn(af.Layer):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any, training: bool = False) -> Any:
        return self.inner(x, training=training)


class SaysNothing(HandsOn):
    def forward(self, x: Any) -> Any:  # type: ignore[override]
        return self.inner(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: af.BatchNormalization(),
        lambda: af.Dropout(0.5),
        lambda: af.Dense(4, kernel_regularizer="l2"),
        lambda: af.Sequential([af.Dense(4), af.BatchNormalization()]),
    ],
)
def test_a_layer_that_hands_training_on_is_part_of_the_step(make: Callable[[], Any]) -> None:
    """Its updates, penalties and masks are those of the step, as without a word."""
    found = []
    for outer in (SaysNothing, HandsOn):
        af.set_seed(3)
        model = af.Sequential([af.Input([4]), outer(make()), af.Dense(1)])
        model.compile("mse", af.SGD(0.05))
        losses = [model.train_on_batch(X, Y) for _ in range(3)]
        found.append([*losses, *(array.tolist() for array in model.get_weights()), model.evaluate(X, Y)])
    assert found[0] == found[1]


def test_a_recurrent_layer_that_is_told_runs_step_by_step_too() -> None:
    model = af.Sequential([af.Input([None, 4]), HandsOn(af.GRU(3, return_sequences=True))])
    x = np.stack([X[:3]] * 5, 1)
    expected = model.predict(x)
    assert_close(np.stack([model.step(x[:, t]) for t in range(5)], 1), expected, 1e-6)


class Scaled(af.Layer):
    def forward(self, x: Any, scale: Any = 2.0, shift: Any = 0.0) -> Any:
        return x * scale + shift


def test_inputs_may_be_given_by_name() -> None:
    assert np.array_equal(Scaled()(X, scale=3.0).numpy(), X * 3)
    assert np.array_equal(Scaled()(x=X, scale=3.0, shift=1.0).numpy(), X * 3 + 1)
    a, b = af.Input([4]), af.Input([4])
    model = af.Model([a, b], Scaled()(a, scale=b))
    assert_close(model.predict([X, X]), X * X, 1e-6)


def test_arrays_in_a_list_are_inputs_of_their_own() -> None:
    assert np.array_equal(af.Add()([X, X]).numpy(), X + X)
    a, b = af.Input([4]), af.Input([4])
    model = af.Model([a, b], af.Concatenate()([a, b]))
    assert np.array_equal(model([X, X + 1]).numpy(), np.concatenate([X, X + 1], 1))
    assert af.Dense(2)([X[0], X[1]]).shape == (2, 2), "rows make one input"


# --- initializers, and updates by hand --------------------------------------------------------------------------------


def test_an_initializer_of_ones_own_is_given_shape_dtype_and_random_numbers() -> None:
    layer = af.Dense(3, kernel_initializer=lambda shape, dtype, rng: np.full(shape, 2, dtype))
    assert np.array_equal(layer(X).numpy(), X @ np.full((4, 3), 2, np.float32))


def test_averages_follow_the_batches_of_a_loop_by_hand() -> None:
    model = af.Sequential([af.BatchNormalization(momentum=0.9, input_shape=[4]), af.Dense(1)])
    trained = af.Sequential([af.BatchNormalization(momentum=0.9, input_shape=[4]), af.Dense(1)])
    trained.compile("mse", af.SGD(0.0))
    for i in range(5):
        model(X + i, training=True)
        trained.train_on_batch(X + i, Y)
    for a, b in zip(model.layers[0].get_weights(), trained.layers[0].get_weights(), strict=True):
        assert_close(a, b, 1e-6)
    before = model.layers[0].get_weights()
    model(X)
    model(X, training=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.layers[0].get_weights(), strict=True))


class Insists(af.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.inner = af.BatchNormalization()

    def forward(self, x: Any) -> Any:
        return self.inner(x, training=True)


def test_statistics_of_a_batch_by_hand_in_what_is_built_just_then() -> None:
    stack = af.Sequential([af.BatchNormalization(momentum=0.0)])
    stack(X, training=True)
    assert_close(stack.layers[0].moving_mean.numpy(), X.mean(0), 1e-5)
    assert_close(Insists()(X).numpy().mean(0) + 1, np.ones(4), 1e-6)


# --- mistakes ---------------------------------------------------------------------------------------------------------


class MadeInForward(af.Layer):
    def forward(self, x: Any) -> Any:
        return af.Dense(4)(x)


class DeclaresInForward(af.Layer):
    def forward(self, x: Any) -> Any:
        return x * self.add_weight([4], "ones", "w")


class BuildsFromTwo(af.Layer):
    def build(self, a: Any, b: Any) -> None:  # type: ignore[override]
        """Takes two shapes instead of a list of them."""

    def forward(self, a: Any, b: Any) -> Any:  # type: ignore[override]
        return a + b


class ByNameOnly(af.Layer):
    def forward(self, x: Any, *, scale: float = 2.0) -> Any:
        return x * scale


class BuildsFromNothing(af.Layer):
    def build(self) -> None:  # type: ignore[override]
        """Takes no shape."""

    def forward(self, x: Any) -> Any:
        return x


def named_as_inside() -> Any:
    return type("Named", (af.Layer,), {"identity": lambda self, x: x, "__module__": "mine"})


class Hides(af.Layer):
    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, 2.0)

    def forward(self, x: Any) -> Any:
        return x


class Names(af.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight([4], **self.options)

    def forward(self, x: Any) -> Any:
        return x * self.w


def started(initializer: Any) -> Any:
    return af.Dense(3, kernel_initializer=initializer)(X).numpy()


def crossed() -> af.Sequential:
    """Each sample with every other."""
    return af.Sequential([af.Lambda(lambda z: z @ z.T, input_shape=[4])])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: MadeInForward()(X), r"'dense' is used in 'made_in_forward' but is no part of it(.|\n)*self.dense = af.Dense"),
        (lambda: DeclaresInForward()(X), r"would be a new one at every call(.|\n)*def build"),
        (lambda: BuildsFromTwo()(X, X), r"takes one argument(.|\n)*a, b = input_shape"),
        (lambda: Scaled()(X, shift=1.0), r"'shift' that can be given without those before it(.|\n)*layer\(x, scale, shift\)"),
        (lambda: Scaled()(X, scal=1.0), r"no input 'scal'(.|\n)*fix: scale=…"),
        (lambda: af.LSTM(3)(np.ones((2, 5, 3)), masks=1), r"no input 'masks'(.|\n)*initial_state(.|\n)*fix: mask=…"),
        (lambda: af.Dense(3)(X, foo=1), r"no input 'foo'(.|\n)*fix: layer\(x\)"),
        (lambda: af.Dense(2)(X, x=X), r"is given 'x' twice"),
        (lambda: ByNameOnly()(X, scale=3.0), r"takes 'scale' by name only(.|\n)*forward\(self, x, scale\)"),
        (lambda: BuildsFromNothing()(X), r"takes one argument(.|\n)*def build\(self, input_shape\)"),
        (named_as_inside, r"'identity' is something that every layer has(.|\n)*own_identity"),
        (lambda: Hides("snapshot"), r"'snapshot' is something that every layer has(.|\n)*self.own_snapshot"),
        (lambda: Hides("weights"), "'weights' is something that every layer has"),
        (lambda: Hides("arity"), "'arity' is something that every layer has"),
        (lambda: Names(regularizer="l2")(X), r"add_weight has no option 'regularizer'"),
        (lambda: Names(name=3)(X), r"name is text"),
        (lambda: Names(trainable="yes")(X), r"trainable is True or False"),
        (lambda: started(np.ones), r"initializer of dense.kernel failed(.|\n)*\(shape, dtype, rng\) -> array"),
        (lambda: started(lambda shape, dtype: 1), r"is called with a shape, a dtype and a source of random numbers"),
        (lambda: started(lambda shape, dtype, rng: np.ones(3)), r"shape \(4, 3\)(.|\n)*shape \(3,\)(.|\n)*np.full\(shape"),
        (lambda: started(lambda shape, dtype, rng: None), r"gives something else than its values"),
        (lambda: crossed().predict(X), r"as wide in every batch(.|\n)*\(batch, batch\)"),
    ],
)
def test_mistakes_in_a_layer_of_ones_own_are_told(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(af.Error, match=says):
        wrong()


@pytest.mark.parametrize("name", ["state", "cell", "units", "activation", "steps"])
def test_ordinary_names_are_free(name: str) -> None:
    assert np.array_equal(Hides(name)(X).numpy(), X)


def test_a_model_is_no_layer_of_its_own() -> None:
    model = af.Sequential([af.Dense(1)])
    for wrong in (model, af.Sequential([model])):
        with pytest.raises(af.Error, match="one of its own layers"):
            model.add(wrong)
