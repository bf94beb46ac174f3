"""Cyclic nets in pictures, on whiteboards, folded and diagnosed: numbers equal those of the loop that the model runs."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from nets import Array, assert_close, gradients
from test_draw import drawn, faults, words

import aforo as af
from aforo.draw import NOTATIONS, SCALES
from aforo.outline import outline
from aforo.summary import text

STEPS = 5


def cyclic(start: Any = None, masked: bool = False, width: int = 4) -> af.Model:
    x = af.Input([None, 3])
    mask = af.Input([None], dtype="bool", name="mask") if masked else None
    back = af.Feedback([width], initial_state=start, mask=mask)
    state = af.Dense(width, activation="tanh")(af.Concatenate()([x, back]))
    back.connect(state)
    return af.Model([x, mask] if masked else x, af.Dense(2)(state), name="cyclic")


def two_cycles() -> af.Model:
    """One edge across both layers, one around the first, one around the second; a sigmoid gate between them."""
    x = af.Input([None, 3])
    far, near, own = af.Feedback([2], name="far"), af.Feedback([4]), af.Feedback([2])
    h = af.Dense(4, activation="tanh")(af.Concatenate()([x, far, near]))
    near.connect(h)
    y = af.Dense(2, activation="sigmoid")(af.Concatenate()([h, own]))
    own.connect(y)
    far.connect(y)
    return af.Model(x, af.Dense(2)(y), name="two")


def data(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, STEPS, 3)).astype("float32"), rng.normal(size=(6, STEPS, 2)).astype("float32")


MODELS = {
    "cyclic": cyclic,
    "learnt start": lambda: cyclic("learnt"),
    "given start": lambda: cyclic(np.full(4, 0.5)),
    "two": two_cycles,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_cyclic_net_is_drawn_in_nine_ways(name: str) -> None:
    model = MODELS[name]()
    pictures = set()
    for scale, notation in product(SCALES, NOTATIONS):
        canvas = model.draw(scale=scale, notation=notation).canvas
        assert faults(canvas) == [], (scale, notation)
        assert words(canvas).count("one step late") >= (3 if name == "two" else 1)
        pictures.add(drawn(canvas.svg()))
    assert len(pictures) == 9


def test_an_outline_says_what_is_late() -> None:
    plan = outline(two_cycles(), split=True)
    late = {plan.values[step.outputs[0]].name: plan.values[step.inputs[0]].name for step in plan.steps if step.late}
    assert late == {"far": "h2", "h1(t−1)": "h1", "h2(t−1)": "h2"}
    lines = {line.split()[0]: line for line in text(two_cycles()).splitlines() if "(batch" in line}
    assert lines["concatenate"].endswith("x, dense_1 one step late, dense one step late")


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_of_the_whiteboard_are_those_of_the_loop(name: str) -> None:
    af.set_seed(2)
    model = MODELS[name]()
    model.compile("mse", "sgd")
    x, y = data()
    found = model.explain(x, y)
    assert_close(found["N"].value, model.predict(x), 1e-6)
    assert_close(found["E"].value, model.evaluate(x, y), 1e-6)
    slopes = [line.value for line in found if line.phase == "backward" and line.value is not None]
    for weight, expected in zip(model.weights, gradients(model, "mse", x, y), strict=True):
        near = [s for s in slopes if s.shape == expected.shape and np.allclose(s, expected, rtol=1e-3, atol=1e-6)]
        assert near, weight


def test_a_cycle_on_the_whiteboard() -> None:
    model = cyclic("learnt")
    model.compile("mse", "sgd")
    texts = {line.name: line.text for line in model.explain()}
    assert texts["h1(t−1)"] == "previous(h1, s1)" and texts["c1"] == "[X, h1(t−1)]" and texts["t1"] == "c1·W1 + B1"
    assert texts["δE/δh1"] == "next(δE/δh1(t−1)) + δ2·W2ᵀ" and texts["δE/δh1(t−1)"] == "δE/δc1[:, :, 3:7]"
    assert texts["δE/δW1"] == "c1ᵀ·δ1" and texts["δE/δs1"] == "Σ first(δE/δh1(t−1))"
    assert r"h_{1}^{(t-1)} &= \mathrm{previous}\left(h_{1}, s_{1}\right)" in model.explain().latex()


def test_values_at_each_step_are_shifted_by_one() -> None:
    model = cyclic("learnt")
    x, _ = data()
    found = model.explain(x)
    late, h = found["h1(t−1)"].value, found["h1"].value
    assert late is not None and h is not None
    np.testing.assert_array_equal(late[:, 1:], h[:, :-1])
    np.testing.assert_array_equal(late[:, 0], np.zeros((6, 4)))


@pytest.mark.parametrize("layer", [af.SimpleRNN, af.GRU, af.LSTM])
def test_recurrent_layers_are_functions_of_their_own(layer: Any) -> None:
    af.set_seed(1)
    model = af.Sequential([layer(4, input_shape=[None, 3], return_sequences=True), af.Dense(3, "tanh"), layer(2), af.Dense(1)])
    model.compile("mse", "sgd")
    x, y = data()
    found = model.explain(x, y[:, 0, :1])
    assert found["h1"].text.startswith(f"{layer.__name__}(X, W1, ")
    assert found["δE/δW1"].text == f"{layer.__name__}′(δW1, δE/δh1)"
    slopes = [line.value for line in found if line.phase == "backward" and line.value is not None]
    for weight, expected in zip(model.weights, gradients(model, "mse", x, y[:, 0, :1]), strict=True):
        assert any(s.shape == expected.shape and np.allclose(s, expected, rtol=1e-3, atol=1e-6) for s in slopes), weight
    for scale, notation in product(SCALES, NOTATIONS):
        assert faults(model.draw(scale=scale, notation=notation).canvas) == []
    model.compile("mse", "adam")
    assert model.diagnose(x, y[:, 0, :1]).healthy


def test_a_picture_with_data_shows_the_last_time_step() -> None:
    from aforo.draw.measured import measured

    model = cyclic()
    x, y = data()
    model.compile("mse", "sgd")
    plan = outline(model, split=True)
    numbers = measured(model, plan, x, None, "value")
    out = next(i for i, value in enumerate(plan.values) if value.name == "N")
    np.testing.assert_allclose(numbers.values[out], model.predict(x)[0, -1], rtol=1e-5)
    assert "last time step" in numbers.note
    for colour in ("value", "gradient"):
        for notation in NOTATIONS:
            canvas = model.draw(scale="numbers", notation=notation, x=x, y=y, colour=colour).canvas
            assert faults(canvas) == []


@pytest.mark.parametrize("start", [None, "learnt"])
def test_linear_layers_on_a_cycle_fold(start: Any) -> None:
    x = af.Input([None, 3])
    back = af.Feedback([4], initial_state=start)
    state = af.Dense(4, activation="tanh")(af.Dense(6)(af.Dense(7)(af.Concatenate()([x, back]))))
    back.connect(state)
    model = af.Model(x, af.Dense(2)(af.BatchNormalization()(state)))
    model.compile("mse", "sgd")
    values = [w + 0.1 for w in model.get_weights()]
    model.set_weights(values)
    simple = model.simplify(verbose=0)
    assert [each.into for each in simple.folded] == ["dense_2", "dense_3"]
    found, expected = simple.predict(data()[0]), model.predict(data()[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert sum(w.nbytes for w in simple.get_weights()) < sum(w.nbytes for w in model.get_weights())


def test_what_feeds_back_is_not_folded_away() -> None:
    x = af.Input([None, 3])
    back = af.Feedback([4])
    state = af.Dense(4)(af.Concatenate()([x, back]))
    back.connect(state)
    model = af.Model(x, af.Dense(2)(state))
    simple = model.simplify(verbose=0)
    assert simple.folded == ()
    np.testing.assert_allclose(simple.predict(data()[0]), model.predict(data()[0]), rtol=1e-5, atol=1e-6)


def test_a_cyclic_net_is_diagnosed() -> None:
    af.set_seed(4)
    x, y = data()
    model = cyclic()
    model.compile("mse", "adam")
    assert model.diagnose(x, y).healthy
    assert "unscaled inputs" in [each.what for each in model.diagnose(300 * x, y)]
    broken = cyclic()
    broken.compile("mse", af.SGD(1e-9))
    assert [each.what for each in broken.diagnose(x, y)] == ["learning rate far too small"]


def held(masked: bool, cut: int | None, start: str | None, inner: bool = False) -> af.Model:
    af.set_seed(1)
    x = af.Input([None, 3], dtype="float64")
    mask = af.Input([None], dtype="bool") if masked else None
    back = af.Feedback([2], mask=mask, truncate=cut, initial_state=start, dtype="float64")
    below = af.Concatenate()([x, back])
    state = af.Dense(2, "tanh")(af.GRU(3, return_sequences=True)(below) if inner else below)
    back.connect(state)
    model = af.Model(x if mask is None else [x, mask], af.Dense(1)(state))
    model.compile(loss="mse", optimizer=af.SGD(1.0))
    return model


@pytest.mark.parametrize("start", [None, "learnt"])
@pytest.mark.parametrize("cut", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_numbers_within_a_cycle_are_those_of_training(masked: bool, cut: int | None, start: str | None) -> None:
    model, rng = held(masked, cut, start), np.random.default_rng(0)
    model.set_weights([w + 0.1 for w in model.get_weights()])
    x, y = rng.normal(size=(4, 8, 3)), rng.normal(size=(4, 8, 1))
    given = [x, rng.random((4, 8)) > 0.4] if masked else x
    found = model.explain(given, y)
    assert_close(found["N"].value, model.predict(given), 1e-13)
    before = model.get_weights()
    assert model.diagnose(given, y) is not None
    model.train_on_batch(given, y)
    slopes = [line.value for line in found if line.phase == "backward" and line.value is not None]
    for a, b in zip(before, model.get_weights(), strict=True):
        assert any(each.shape == a.shape and np.allclose(each, a - b, rtol=1e-9, atol=1e-12) for each in slopes), a.shape


def test_a_mask_that_the_input_says_and_a_cycle_without_layers() -> None:
    x = af.Input([None, 3])
    model = af.Model(x, af.Dense(1)(af.GRU(3)(x, mask=x[:, :, 0] > -0.5)))
    model.compile("mse", "sgd")
    given, y = np.random.default_rng(0).normal(size=(4, 6, 3)), np.zeros((4, 1))
    assert model.diagnose(given, y) is not None
    assert model.draw(scale="numbers", notation="neurons", x=given, y=y, colour="gradient").svg
    back = af.Feedback([3])
    back.connect(af.ops.tanh(x + back))
    assert "x one step late" in text(af.Model(x, af.Dense(2)(back)))


def test_what_two_feedbacks_start_from_stays_one_weight() -> None:
    x = af.Input([None, 2])
    a = af.Feedback([2], "learnt")
    b = af.Feedback([2], a.initial_state)
    h = af.Dense(2, "tanh")(af.Dense(3)(af.Concatenate()([x, a, b])))
    a.connect(h)
    b.connect(h * 0.5)
    model = af.Model(x, h)
    simple = model.simplify(verbose=0)
    assert simple.count_params() < model.count_params()
    given = np.random.default_rng(0).normal(size=(4, 6, 2))
    assert_close(simple.predict(given), model.predict(given), 1e-6)


def test_derivatives_that_would_not_stop_where_their_cycle_does_are_refused() -> None:
    model, x = held(False, 3, None, inner=True), np.ones((2, 5, 3))
    assert "h2(t−1)" in str(model.explain()) and model.explain(x)["N"].value is not None
    with pytest.raises(af.Error, match=r"truncated gradients and recurrent layers(.|\n)*truncate=3"):
        model.explain(x, np.ones((2, 5, 1)))
