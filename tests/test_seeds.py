"""Seeds: what is drawn depends on the seed and on what it is for, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Array, Net, assert_same_bits

import aforo as af

NET = Net((3, 6, 2), ("tanh", "none"), optimizer={"learning_rate": 0.1, "momentum": 0.9}, batch=8)


def order_of_rows(rows: int, epochs: int, **options: Any) -> list[list[float]]:
    """In which order a fit meets the rows, epoch by epoch: the loss of a row is its number."""
    model = af.Sequential([af.Dense(1, use_bias=False, kernel_initializer="zeros", input_shape=[1])], dtype="float64")
    model.compile(loss=lambda y_true, y_pred: y_true + 0 * y_pred, optimizer=af.SGD(learning_rate=0.0))
    seen: list[list[float]] = []

    class Watch(af.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append([])
            self.before = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            total = logs["loss"] * (batch + 1)
            seen[-1].append(round(total - self.before))
            self.before = total

    number = np.arange(rows, dtype=float)[:, None]
    model.fit(np.zeros((rows, 1)), number, epochs=epochs, batch_size=1, callbacks=[Watch()], verbose=0, **options)
    return seen


def trained(seed: int | None, fit_seed: int | None = None, epochs: int = 3) -> list[Array]:
    if seed is not None:
        af.set_seed(seed)
    model = af.Sequential(NET.layers())
    model.compile(loss="mse", optimizer=af.SGD(**NET.optimizer))
    x, y = NET.data(30)
    model.fit(x, y, epochs=epochs, batch_size=8, seed=fit_seed, verbose=0)
    return model.get_weights()


def test_the_same_seed_gives_the_same_training_bit_for_bit() -> None:
    assert_same_bits(trained(11), trained(11))
    assert_same_bits(trained(11, fit_seed=4), trained(11, fit_seed=4))


def test_another_seed_gives_other_weights_and_other_shuffles() -> None:
    assert not np.array_equal(trained(11)[0], trained(12)[0])
    assert not np.array_equal(trained(11, fit_seed=4)[0], trained(11, fit_seed=5)[0])


def test_the_same_seed_gives_the_same_training_in_another_process() -> None:
    root = Path(__file__).parents[1]
    paths = [str(root / "framework"), str(root / "backends"), str(root / "tests")]
    code = f"import sys; sys.path[:0] = {paths}; import conftest, test_seeds as t; print([w.tobytes() for w in t.trained(11)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([w.tobytes() for w in trained(11)])


def test_numpys_global_state_is_neither_used_nor_changed() -> None:
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    a = trained(11)
    assert np.random.random() == expected
    assert_same_bits(a, trained(11))


def test_every_layer_and_every_model_starts_elsewhere() -> None:
    af.set_seed(3)
    first = af.Sequential([af.Dense(4, input_shape=[4]), af.Dense(4)]).get_weights()
    second = af.Sequential([af.Dense(4, input_shape=[4]), af.Dense(4)]).get_weights()
    kernels = [first[0], first[2], second[0], second[2]]
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert not np.any(kernel == other)


def test_models_differ_without_any_seed() -> None:
    code = "import aforo as af; print(af.Sequential([af.Dense(4, input_shape=[4])]).get_weights()[0].tobytes().hex())"
    root = Path(__file__).parents[1]
    code = f"import sys; sys.path[:0] = {[str(root / 'framework'), str(root / 'backends')]}; {code}"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 2


def test_when_weights_are_drawn_does_not_change_them() -> None:
    """They are drawn when first needed, keyed by the seed and the parameter."""
    drawn = []
    for first in ("read", "predict", "train", "other model", "set_seed"):
        af.set_seed(5)
        model = af.Sequential([af.Dense(3, input_shape=[2]), af.Dense(2)])
        model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.0))
        if first == "predict":
            model.predict(np.ones((4, 2)))
        elif first == "train":
            model.train_on_batch(np.ones((4, 2)), np.ones((4, 2)))
        elif first == "other model":
            af.Sequential([af.Dense(7, input_shape=[2])]).predict(np.ones((1, 2)))
        elif first == "set_seed":
            af.set_seed(6)
        drawn.append(model.get_weights())
    for other in drawn[1:]:
        assert_same_bits(other, drawn[0])


def test_weights_that_were_read_before_they_have_memory_are_those_that_train() -> None:
    af.set_seed(8)
    model = af.Sequential([af.Dense(3, input_shape=[2])])
    before = model.get_weights()
    assert_same_bits(model.get_weights(), before)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    assert np.allclose(model.predict(x), x @ before[0] + before[1], rtol=1e-5)


@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", "he_uniform", "lecun_uniform", "glorot_normal", "he_normal", "lecun_normal"]
)
def test_initial_weights_have_the_spread_of_their_formula(initializer: str) -> None:
    d_in, d_out = 300, 500
    variance = {"glorot": 2 / (d_in + d_out), "he": 2 / d_in, "lecun": 1 / d_in}[initializer.split("_")[0]]
    af.set_seed(9)
    kernel, bias = af.Sequential([af.Dense(d_out, kernel_initializer=initializer, input_shape=[d_in])]).get_weights()
    n = kernel.size
    assert abs(kernel.mean()) < 6 * np.sqrt(variance / n)
    assert abs(kernel.var() / variance - 1) < 6 * np.sqrt(2 / n)
    if initializer.endswith("uniform"):
        assert np.sqrt(3 * variance) * 0.999 < np.abs(kernel).max() <= np.sqrt(3 * variance) * (1 + 1e-6)
    assert not bias.any()


def test_an_epoch_meets_each_row_once_in_a_new_order() -> None:
    first, second = order_of_rows(50, 2, seed=1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != list(range(50))


def test_without_shuffling_rows_keep_their_order() -> None:
    assert order_of_rows(12, 2, shuffle=False) == [list(range(12))] * 2


def test_the_seed_of_a_fit_fixes_the_shuffles_whatever_was_drawn_before() -> None:
    af.set_seed(1)
    a = order_of_rows(30, 3, seed=7)
    af.set_seed(2)
    order_of_rows(30, 1)
    assert order_of_rows(30, 3, seed=7) == a
    assert order_of_rows(30, 3, seed=8) != a


def test_each_epoch_of_a_seeded_fit_has_its_own_shuffle() -> None:
    both = order_of_rows(30, 2, seed=7)
    assert order_of_rows(30, 1, seed=7) == both[:1]
    assert order_of_rows(30, 2, seed=7, initial_epoch=1) == both[1:]


def test_two_epochs_are_one_epoch_and_then_another() -> None:
    x, y = NET.data(30)
    whole, parts = NET.model(), NET.model()
    whole.fit(x, y, epochs=2, batch_size=8, seed=3, verbose=0)
    parts.fit(x, y, epochs=1, batch_size=8, seed=3, verbose=0)
    history = parts.fit(x, y, epochs=2, initial_epoch=1, batch_size=8, seed=3, verbose=0)
    assert history.epoch == [1]
    assert_same_bits(parts.get_weights(), whole.get_weights())


def test_two_fits_in_a_row_shuffle_differently_and_reproducibly() -> None:
    def orders() -> list[list[list[float]]]:
        seen: list[list[list[float]]] = []
        af.set_seed(21)
        model = af.Sequential([af.Dense(1, kernel_initializer="zeros", input_shape=[1])], dtype="float64")
        model.compile(loss=lambda y_true, y_pred: y_true + 0 * y_pred, optimizer=af.SGD(learning_rate=0.0))
        number = np.arange(20.0)[:, None]
        for _ in range(2):
            losses: list[Any] = []
            watch = af.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, losses=losses: losses.append(logs["loss"])
            )
            model.fit(number, number, batch_size=1, callbacks=[watch], verbose=0)
            seen.append(losses)
        return seen

    first = orders()
    assert first[0] != first[1]
    assert orders() == first


def test_shuffling_keeps_targets_and_weights_beside_their_rows() -> None:
    """With y = 2x and the weight of every other row 0, only the exact relation leaves the loss at 0."""
    x = np.arange(1.0, 41.0)[:, None]
    y = np.where(np.arange(40)[:, None] % 2, 2 * x, -1.0)
    model = af.Sequential([af.Dense(1, use_bias=False, input_shape=[1])], dtype="float64")
    model.set_weights([[[2.0]]])
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=1e-3))
    history = model.fit(x, y, sample_weight=np.arange(40) % 2, epochs=3, batch_size=7, seed=1, verbose=0)
    assert history.history["loss"] == [0.0] * 3
    assert model.get_weights()[0] == [[2.0]]


def test_predicting_and_evaluating_disturb_no_later_draw() -> None:
    x, y = NET.data(30)
    plain, busy = NET.model(), NET.model()
    plain.fit(x, y, epochs=3, seed=2, verbose=0)
    for epoch in range(3):
        busy.predict(x)
        busy.fit(x, y, epochs=epoch + 1, initial_epoch=epoch, seed=2, verbose=0)
        busy.evaluate(x, y)
    assert_same_bits(busy.get_weights(), plain.get_weights())
