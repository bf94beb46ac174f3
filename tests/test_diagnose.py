"""Diagnoses: each planted fault is found where it was planted, healthy nets are left in peace, and no model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nets import Array, assert_same_bits

import aforo as af
from aforo.batches import Batches
from aforo.device import read
from aforo.probe import probe

Dense = af.Dense
ROWS = 300


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
    af.set_seed(5)


def plain(seed: int = 0) -> tuple[Array, Array]:
    """Standard inputs, and targets of about 1 that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 5))
    return x, np.tanh(x @ rng.normal(size=(5, 1)))


def classes(n: int = 3) -> tuple[Array, Array]:
    x, _ = plain(1)
    return x, np.eye(n)[(x[:, :n]).argmax(axis=1)]


def normal(scale: float) -> Callable[..., Any]:
    return lambda shape, dtype, generator: (generator.normal(size=shape) * scale).astype(dtype)


def filled(value: float) -> Callable[..., Any]:
    return lambda shape, dtype, generator: np.full(shape, value, dtype)


def stack(*layers: af.Layer, loss: Any = "mse", optimizer: Any = None, x: Any = None) -> af.Sequential:
    model = af.Sequential(list(layers))
    model.build((None, *(plain()[0] if x is None else x).shape[1:]))
    model.compile(loss, optimizer if optimizer is not None else af.SGD(0.05))
    return model


def with_broken_weights() -> af.Sequential:
    model = stack(Dense(8, "relu"), Dense(1))
    weights = model.get_weights()
    weights[0][0, 0] = np.nan
    model.set_weights(weights)
    return model


X, Y = plain()
ONE_HOT = classes()[1]

# name -> (the layer it is in, the model, x, y)
FAULTS: dict[str, tuple[str, Callable[[], af.Model], Any, Any]] = {
    "dead ReLU units": ("dense", lambda: stack(Dense(8, "relu", bias_initializer=filled(-30)), Dense(1)), X, Y),
    "saturated tanh": ("dense", lambda: stack(Dense(8, "tanh", kernel_initializer=normal(30)), Dense(1)), X, Y),
    "saturated sigmoid": ("dense", lambda: stack(Dense(8, "sigmoid", kernel_initializer=normal(60)), Dense(1)), X, Y),
    "vanishing gradients": ("dense", lambda: stack(*[Dense(8, "sigmoid") for _ in range(8)], Dense(1)), X, Y),
    "exploding gradients": (
        "dense", lambda: stack(*[Dense(16, "relu", kernel_initializer=normal(3)) for _ in range(5)], Dense(1)), X, Y
    ),
    "exploding activations": (
        "dense_3", lambda: stack(*[Dense(16, "relu", kernel_initializer=normal(8)) for _ in range(4)], Dense(1)), X, Y
    ),
    "unscaled inputs": ("x", lambda: stack(Dense(8, "relu"), Dense(1)), X * [1, 1, 1, 1, 255.0], Y),
    "constant features": ("x", lambda: stack(Dense(8, "relu"), Dense(1)), np.where(np.arange(5) == 2, 1.0, X), Y),
    "duplicate features": ("x", lambda: stack(Dense(8, "relu"), Dense(1)), X[:, [0, 1, 2, 3, 1]], Y),
    "learning rate far too large": ("optimizer", lambda: stack(Dense(8, "relu"), Dense(1), optimizer=af.SGD(8.0)), X, Y),
    "learning rate far too small": ("optimizer", lambda: stack(Dense(8, "relu"), Dense(1), optimizer=af.SGD(1e-8)), X, Y),
    "targets that do not fit the head": (
        "dense_1",
        lambda: stack(Dense(8, "relu"), Dense(3, "softmax"), loss="categorical_crossentropy"),
        X,
        (X[:, :3] > 0) * 1.0,
    ),
    "targets of a large scale": ("y", lambda: stack(Dense(8, "relu"), Dense(1)), X, 5000.0 + 900 * Y),
    "constant targets": ("y", lambda: stack(Dense(8, "relu"), Dense(1)), X, np.full_like(Y, 3.0)),
    "unbalanced classes": (
        "y",
        lambda: stack(Dense(8, "relu"), Dense(1, "sigmoid"), loss="binary_crossentropy"),
        X,
        (np.arange(ROWS) < 3)[:, None] * 1.0,
    ),
    "classes that never occur": (
        "y", lambda: stack(Dense(8, "relu"), Dense(12, "softmax"), loss="sparse_categorical_crossentropy"), X, ONE_HOT.argmax(1)
    ),
    "units that are all the same": ("dense", lambda: stack(Dense(8, "relu", kernel_initializer="zeros"), Dense(1)), X, Y),
    "no activation between layers": ("dense", lambda: stack(Dense(8), Dense(8), Dense(1)), X, Y),
    "constant predictions": ("dense_1", lambda: stack(Dense(8, "relu"), Dense(1, kernel_initializer="zeros")), X, Y),
    "much dropout": ("dropout", lambda: stack(Dense(8, "relu"), af.Dropout(0.95), Dense(1)), X, Y),
    "weights that are no numbers": ("dense", with_broken_weights, X, Y),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_found_where_it_is(what: str) -> None:
    layer, make, x, y = FAULTS[what]
    found = make().diagnose(x, y)
    assert not found.healthy
    assert (layer, what) in [(each.layer, each.what) for each in found], found
    each = next(each for each in found if (each.layer, each.what) == (layer, what))
    assert each.shown and each.advice and f"{layer}: {what}" in str(found)


@pytest.mark.parametrize(
    ("head", "loss", "y"),
    [
        ("sigmoid", "mse", 5 * Y),
        ("tanh", "mse", 5 * Y),
        ("relu", "mae", Y),
        ("softmax", "mse", np.ones((ROWS, 3))),
    ],
)
def test_targets_out_of_the_heads_reach_are_found(head: str, loss: str, y: Array) -> None:
    found = stack(Dense(8, "relu"), Dense(y.shape[1], head), loss=loss).diagnose(X, y)
    assert ("dense_1", "targets that do not fit the head") in [(each.layer, each.what) for each in found]


@pytest.mark.parametrize("optimizer", [af.SGD(30.0, momentum=0.9), af.Adam(20.0), af.RMSprop(20.0)])
def test_any_optimizers_rate_is_found_too_large(optimizer: Any) -> None:
    model = stack(Dense(8, "tanh"), Dense(1), optimizer=optimizer)
    assert "learning rate far too large" in [each.what for each in model.diagnose(X, Y)]


@pytest.mark.parametrize("optimizer", [af.SGD(1e-9, momentum=0.9), af.Adam(1e-9)])
def test_any_optimizers_rate_is_found_too_small(optimizer: Any) -> None:
    model = stack(Dense(8, "tanh"), Dense(1), optimizer=optimizer)
    found = model.diagnose(X, Y)
    assert [each.what for each in found] == ["learning rate far too small"] and found[0].figure == pytest.approx(1e-9)


def test_the_advice_for_a_learning_rate_helps() -> None:
    for rate in (8.0, 1e-8):
        advice = stack(Dense(8, "relu"), Dense(1), optimizer=af.SGD(rate)).diagnose(X, Y)[-1].advice
        better = float(advice.removeprefix("learning_rate="))
        model = stack(Dense(8, "relu"), Dense(1), optimizer=af.SGD(better))
        history = model.fit(X, Y, epochs=10, verbose=0, seed=0).history["loss"]
        assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize(
    ("what", "function"),
    [
        ("saturated tanh", lambda z: af.ops.tanh(z)),
        ("saturated sigmoid", lambda z: af.ops.sigmoid(z)),
        ("dead ReLU units", lambda z: af.ops.relu(z)),
        ("dead ReLU units", lambda z: af.ops.maximum(z, 0.0)),
    ],
)
def test_an_activation_is_what_it_computes_and_not_what_it_is_called(what: str, function: Any) -> None:
    dead = what == "dead ReLU units"
    options = {"bias_initializer": filled(-30)} if dead else {"kernel_initializer": normal(60)}
    found = stack(Dense(8, function, **options), Dense(1)).diagnose(X, Y)
    assert ("dense", what) in [(each.layer, each.what) for each in found], found
    found = stack(Dense(8, **options), af.Activation(function), Dense(1)).diagnose(X, Y)
    assert ("activation", what) in [(each.layer, each.what) for each in found], found
    healthy = stack(Dense(8, function), Dense(1), optimizer="adam").diagnose(X, Y)
    assert what not in [each.what for each in healthy]


@pytest.mark.parametrize(("classes", "advice"), [(1, "rows of the other classes"), (2, "a head of 2 units")])
def test_the_advice_for_classes_that_never_occur_is_a_head_that_can_be_compiled(classes: int, advice: str) -> None:
    labels = np.arange(ROWS) % classes
    for loss, y in (("sparse_categorical_crossentropy", labels), ("categorical_crossentropy", np.eye(6)[labels])):
        found = stack(Dense(8, "relu"), Dense(6, "softmax"), loss=loss).diagnose(X, y)
        (each,) = [each for each in found if each.what == "classes that never occur"]
        assert each.advice.startswith(advice), each


INNER: dict[str, Callable[[], af.Layer]] = {
    "dead ReLU units": lambda: af.Sequential([Dense(8, "relu", bias_initializer=filled(-30), name="culprit"), Dense(8)]),
    "saturated tanh": lambda: af.Sequential(
        [af.Sequential([Dense(8, "tanh", kernel_initializer=normal(30), name="culprit")], name="deep"), Dense(8, "relu")]
    ),
    "vanishing gradients": lambda: af.Sequential([Dense(8, "sigmoid", name=f"s{i}" if i else "culprit") for i in range(8)]),
    "exploding activations": lambda: af.Sequential([Dense(16, kernel_initializer=normal(1e5), name="culprit")]),
    "no activation between layers": lambda: af.Sequential([Dense(8, name="culprit"), Dense(8, "relu")]),
    "much dropout": lambda: af.Sequential([Dense(8, "relu"), af.Dropout(0.95, name="culprit")]),
}


@pytest.mark.parametrize("what", INNER)
def test_a_fault_inside_a_model_within_the_model_is_found_where_it_is(what: str) -> None:
    inner = INNER[what]()
    found = stack(inner, Dense(1)).diagnose(X, Y)
    assert ("culprit", what) in [(each.layer, each.what) for each in found], found
    a, b = af.Input([5], name="one"), af.Input([5], name="two")
    both = af.Model({"one": a, "two": b}, [INNER[what]()(a), b * 2.0], name="both")
    c = af.Input([5])
    first, second = both({"two": c, "one": c})
    model = af.Model(c, Dense(1)(af.Concatenate()([first, second])))
    model.compile("mse", af.SGD(0.05))
    found = model.diagnose(X, Y)
    assert ("culprit", what) in [(each.layer, each.what) for each in found], found


def test_a_head_inside_a_model_is_named_and_the_numbers_are_the_models() -> None:
    inner = af.Sequential([Dense(4, "tanh"), Dense(3, "softmax", name="chances")], name="inner")
    model = stack(Dense(8, "relu"), inner, loss="categorical_crossentropy")
    found = model.diagnose(X, (X[:, :3] > 0) * 1.0)
    assert ("chances", "targets that do not fit the head") in [(each.layer, each.what) for each in found]
    seen = probe(model, training=False, inside=True)
    names = [step.name for step in seen.outline.steps]
    assert "chances activation" in names and "inner" not in names
    assert len({value.name for value in seen.outline.values}) == len(seen.outline.values)
    tensor = seen.outline.values[seen.outline.outputs[0]].tensor
    assert tensor is not None
    x = X.astype("float32")
    np.testing.assert_allclose(seen.run({"N": tensor}, Batches([(model.inputs[0], x)], ROWS))["N"], model.predict(x), atol=1e-6)


# --- healthy nets -----------------------------------------------------------------------------------------------------


def skip() -> af.Model:
    a = af.Input([5])
    h = Dense(16, activation="relu")(a)
    return af.Model(a, {"m": Dense(1)(af.Concatenate()([h, a])), "p": Dense(1, activation="sigmoid")(h)})


WORDS = np.random.default_rng(2).integers(0, 20, (ROWS, 5))
DIGITS = af.datasets.load_digits(one_hot=True)
DIABETES = af.datasets.load_diabetes()

HEALTHY: dict[str, tuple[Callable[[], Any], Any, Any, Any, Any]] = {
    "the course's regression": (lambda: [Dense(4, "tanh"), Dense(5, "relu"), Dense(1)], "mse", "sgd", *DIABETES),
    "the course's classifier": (
        lambda: [Dense(4, "tanh"), Dense(5, "relu"), Dense(10, "softmax")], "categorical_crossentropy", "sgd", *DIGITS
    ),
    "digits": (lambda: [Dense(32, "relu"), Dense(10, "softmax")], "categorical_crossentropy", "adam", *DIGITS),
    "one regression": (lambda: [Dense(1)], "mse", "sgd", X, Y),
    "deep": (lambda: [*[Dense(24, "relu") for _ in range(6)], Dense(1)], "mse", "adam", X, Y),
    "normalized": (
        lambda: [Dense(16), af.BatchNormalization(), af.Activation("relu"), af.Dropout(0.3), Dense(1, "sigmoid")],
        "binary_crossentropy", "adam", X, (Y > 0) * 1.0,
    ),
    "skip, two heads": (skip, {"m": "mse", "p": "binary_crossentropy"}, "adam", X, {"m": Y, "p": (Y > 0) * 1.0}),
    "autoencoder": (lambda: [Dense(3), Dense(5)], "mse", "adam", X, X),
    "words": (
        lambda: [af.Embedding(20, 8, input_shape=[5]), af.Flatten(), Dense(16, "relu"), Dense(1)], "mse", "adam", WORDS, Y
    ),
    "sigmoids": (lambda: [Dense(16, "sigmoid"), Dense(16, "sigmoid"), Dense(1)], "huber", af.Adam(0.01), X, Y),
    "momentum": (lambda: [Dense(16, "tanh"), Dense(16, "gelu"), Dense(1)], "mae", af.SGD(0.05, momentum=0.9), X, Y),
    "normalized first": (lambda: [af.BatchNormalization(), Dense(16, "relu"), Dense(1)], "mse", "adam", X * 300, Y),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_net_is_left_in_peace_before_and_after_training(name: str) -> None:
    make, loss, optimizer, x, y = HEALTHY[name]
    made = make()
    model = made if isinstance(made, af.Model) else af.Sequential(made)
    model.compile(loss, optimizer)
    found = model.diagnose(x, y)
    assert found.healthy and len(found) == 0 and "nothing found" in str(found), found
    model.fit(x, y, epochs=8, verbose=0, seed=1)
    assert list(model.diagnose(x, y)) == []


# --- nothing changes --------------------------------------------------------------------------------------------------


def state(model: af.Model) -> list[Array]:
    """Weights, slots, counters, learning rate, totals, and what batch normalization moves."""
    slots = [slot for own in model._slots.values() for slot in own.values()]
    totals = [v for total in model.totals.values() for v in total.variables.values()]
    own = [weight.variable for weight in model.weights]
    optimizer = model.require_compiled()
    return [
        read(variable) for variable in (*own, *slots, *totals, model.step_counter, *optimizer.variables(model.step_counter))
    ]


def trained() -> af.Sequential:
    af.set_seed(5)
    model = stack(Dense(8, "relu"), af.BatchNormalization(), af.Dropout(0.5), Dense(1), optimizer="adam")
    model.fit(X, Y, epochs=2, verbose=0, seed=0)
    return model


def test_a_diagnosis_changes_nothing() -> None:
    model, twin = trained(), trained()
    before = state(model)
    epochs = model.epochs_trained
    model.diagnose(X, Y)
    assert_same_bits(state(model), before)
    assert model.epochs_trained == epochs
    # Training goes on as if nothing had been: the same masks, the same steps.
    for each in (model, twin):
        each.fit(X, Y, epochs=1, verbose=0, seed=0)
    assert_same_bits(state(model), state(twin))


def test_a_diagnosis_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    before = state(model)
    with pytest.raises(af.Error, match="does not fit"):
        model.diagnose(X[:, :3], Y)
    import aforo.diagnose.rehearsal as rehearsal

    def broken(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal.devices, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        model.diagnose(X, Y)
    assert_same_bits(state(model), before)


def test_the_rehearsal_is_the_models_own_training() -> None:
    """Without shuffling, the loss of its last epoch is that of a fit of as many epochs."""
    from aforo.batches import prepare
    from aforo.diagnose.rehearsal import Rehearsal

    model = stack(Dense(8, "tanh"), Dense(1), optimizer=af.Adam(0.01))
    rows = 96
    rehearsal = Rehearsal(model, prepare(model, X[:rows], Y[:rows]))
    expected = rehearsal.loss(1.0)
    assert rehearsal.epochs == 11 and rehearsal.loss(1.0) == expected  # each starts from the beginning
    found = model.fit(X[:rows], Y[:rows], epochs=11, shuffle=False, verbose=0).history["loss"][-1]
    assert expected == pytest.approx(found, rel=1e-6)
    model.optimizer.learning_rate = 0.02  # type: ignore[union-attr]
    again = stack(Dense(8, "tanh"), Dense(1), optimizer=af.Adam(0.01))
    assert Rehearsal(again, prepare(again, X[:rows], Y[:rows])).loss(2.0) != pytest.approx(expected, rel=1e-3)


def test_mistakes_are_explained() -> None:
    with pytest.raises(af.Error, match="not compiled"):
        af.Sequential([Dense(1, input_shape=[5])]).diagnose(X, Y)
    model = stack(Dense(8, "relu"), Dense(1))
    with pytest.raises(af.Error, match="y is None"):
        model.diagnose(X, None)


def test_a_frozen_model_has_nothing_to_train() -> None:
    model = stack(Dense(8, "relu"), Dense(1))
    model.trainable = False
    assert [each.what for each in model.diagnose(X, Y)] == ["nothing to train"]


# --- advice that works when it is typed -------------------------------------------------------------------------------


def advice(found: Any, problem: str) -> str:
    return str(next(each for each in found if each.what == problem).advice)


def test_columns_that_never_change_are_scaled_and_left_out_as_advised() -> None:
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(200, 5)) * 300, np.full(200, 0.1), np.zeros(200)]
    model = af.Sequential([Dense(8, "relu", input_shape=[7]), Dense(1)])
    model.compile("mse", "adam")
    found = model.diagnose(x, x[:, :1] / 300)
    scaled = eval(advice(found, "unscaled inputs").partition(", or")[0], {"x": x})
    assert np.isfinite(scaled).all() and scaled[:, :5].std() == pytest.approx(1, rel=1e-3)
    kept = eval(advice(found, "constant features").partition(": ")[2], {"x": x, "abs": abs})
    assert kept.shape == (200, 5)


def test_heads_side_by_side_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    inputs = af.Input([5])
    h = Dense(8, "relu")(inputs)
    heads = {"marks": Dense(1, name="marks")(h), "passed": Dense(1, "sigmoid", name="passed")(h)}
    model = af.Model(inputs, heads)
    model.compile({"marks": "mse", "passed": "binary_crossentropy"}, "adam", loss_weights={"marks": 1, "passed": 1e-3})
    found = model.diagnose(x, {"marks": x[:, :1], "passed": (x[:, :1] > 0) * 1})
    assert not [each for each in found if "gradients" in each.what]


@pytest.mark.parametrize("rate", [0.0, 1e-12])
def test_a_rate_with_which_nothing_moves_is_found(rate: float) -> None:
    x, y = af.datasets.load_diabetes()
    model = af.Sequential([Dense(4, "relu"), Dense(1)])
    model.compile("mse", af.SGD(rate))
    assert advice(model.diagnose(x, y), "learning rate far too small") == "learning_rate=0.01"
