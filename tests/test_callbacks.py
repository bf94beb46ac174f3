"""Callbacks: what Keras's do, on figures that are written out here."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import on_the_device

import aforo as af
from aforo import callbacks

RNG = np.random.default_rng(1)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")


def line(optimizer: Any = None, **compiled: Any) -> af.Sequential:
    af.set_seed(2)
    model = af.Sequential([af.Dense(1, input_shape=[3])])
    model.compile(**{"loss": "mse", "optimizer": optimizer or af.SGD(0.1), **compiled})
    return model


class Say(callbacks.Callback):
    """Report these figures, one an epoch."""

    def __init__(self, values: Sequence[float], name: str = "figure") -> None:
        self.values, self.name = values, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.values[epoch]


def run(model: af.Model, *called: callbacks.Callback, epochs: int = 8, **options: Any) -> Mapping[str, list[float]]:
    history = model.fit(X, Y, epochs=epochs, batch_size=8, seed=3, verbose=0, callbacks=called, **options)
    return history.history


# --- EarlyStopping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "stops"),
    [
        ([5, 4, 3, 3, 2, 9, 9, 9], {"patience": 0}, 3),
        ([5, 4, 3, 3, 2, 9, 9, 9], {"patience": 2}, 6),
        ([5, 6, 7, 8, 9, 9, 9, 9], {"patience": 0}, 1),
        ([5, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3], {"patience": 2, "min_delta": 1}, 2),
        ([5, 4.9, 4.8, 3.9, 3.8, 3.7, 3.6, 3.5], {"patience": 3, "min_delta": -1}, 6),
        ([1, 2, 3, 3, 3, 3, 3, 3], {"patience": 2, "mode": "max"}, 4),
        ([9, 8, 7, 6, 5, 4, 3, 2], {"patience": 3, "baseline": 1.0}, None),
        ([9, 9, 9, 6, 5, 4, 3, 2], {"patience": 3, "baseline": 1.0}, 2),
        ([1, 9, 9, 5, 5, 5, 5, 5], {"patience": 2, "start_from_epoch": 3}, 5),
        ([float("nan"), 3, float("nan"), 2, 2, 2, 2, 2], {"patience": 2}, 5),
    ],
)
def test_stopping_early(values: list[float], options: dict[str, Any], stops: int | None) -> None:
    early = callbacks.EarlyStopping("figure", **options)
    history = run(line(), Say(values), early)
    assert len(history["figure"]) == (8 if stops is None else stops + 1)
    assert early.stopped_epoch == (stops or 0)


def test_figures_that_grow_are_told_by_their_names() -> None:
    for name, better in (
        ("val_accuracy", 1),
        ("r2", 1),
        ("left_precision", 1),
        ("val_top_5", 1),
        ("loss", -1),
        ("val_mae", -1),
    ):
        assert callbacks.EarlyStopping(name).sign == better


def test_the_best_weights_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    for values, patience, best in (([5, 4, 1, 3, 2, 9, 9, 9], 2, 2), ([5, 4, 3, 2, 1, 0.5, 0.4, 0.3], 2, 7)):
        model, kept = line(), []

        def keep_weights(epoch: int, logs: Any, model: af.Model = model, kept: list[Any] = kept) -> None:
            kept.append(model.get_weights())

        keep = callbacks.LambdaCallback(on_epoch_end=keep_weights)
        early = callbacks.EarlyStopping("figure", patience=patience, restore_best_weights=True, verbose=1)
        run(model, Say(values), early, keep)
        assert early.best_epoch == best and early.best == values[best]
        assert all(map(np.array_equal, model.get_weights(), kept[best]))
    assert capsys.readouterr().out == "epoch 5: stopped early; figure was best in epoch 3\n"


def test_a_figure_that_is_not_reported_is_named() -> None:
    for options, fix in (
        ({"monitor": "val_loss"}, 'fix: validation_split=0.2 in fit, or monitor="loss"'),
        ({"monitor": "los"}, "fix: monitor='loss'"),
    ):
        for callback in (callbacks.EarlyStopping, callbacks.ReduceLROnPlateau):
            with pytest.raises(af.Error, match="which this fit does not report") as raised:
                run(line(), callback(**options))
            assert fix in str(raised.value) and "expected: one of loss" in str(raised.value)


# --- ModelCheckpoint --------------------------------------------------------------------------------------------------


def test_the_whole_model_is_saved_after_every_epoch(tmp_path: Path) -> None:
    model = line(af.Adam(0.1))
    assert callbacks.ModelCheckpoint is af.callbacks.ModelCheckpoint
    run(model, callbacks.ModelCheckpoint(tmp_path / "last.aforo"), epochs=2)
    again = af.load_model(tmp_path / "last.aforo")
    assert again.epochs_trained == 2
    for each in (model, again):
        run(each, epochs=4, initial_epoch=2)
    assert all(map(np.array_equal, model.get_weights(), again.get_weights()))


def test_paths_are_filled_in_and_only_the_best_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def saved(path: str, **options: Any) -> list[str]:
        for each in tmp_path.iterdir():
            each.unlink()
        run(line(), Say([5, 4, 6, 3], "val_figure"), callbacks.ModelCheckpoint(tmp_path / path, **options), epochs=4)
        return sorted(os.listdir(tmp_path))

    best: dict[str, Any] = {"monitor": "val_figure", "save_best_only": True}
    every = "{epoch:02d}-{val_figure:.1f}.aforo"
    assert saved(every) == ["01-5.0.aforo", "02-4.0.aforo", "03-6.0.aforo", "04-3.0.aforo"]
    assert saved(every, **best) == ["01-5.0.aforo", "02-4.0.aforo", "04-3.0.aforo"]
    assert saved(every, **best, initial_value_threshold=3.5) == ["04-3.0.aforo"]
    assert saved(every, **best, mode="max", verbose=1) == ["01-5.0.aforo", "03-6.0.aforo"]
    assert [text.split(": saved")[0] for text in capsys.readouterr().out.splitlines()] == ["epoch 1", "epoch 3"]
    assert saved("{epoch}-{batch}.aforo", save_freq=5) == ["2-2.aforo", "4-1.aforo"]
    assert saved("w.safetensors", save_weights_only=True) == ["w.safetensors"]
    line().load_weights(tmp_path / "w.safetensors")
    with pytest.raises(af.Error, match="holds weights only"):
        af.load_model(tmp_path / "w.safetensors")
    with pytest.raises(af.Error, match=r"cannot be filled in: 'val_los'(.|\n)*names out of epoch, loss, val_figure"):
        saved("{val_los}")
    with pytest.raises(af.Error, match="a file is given by its path"):
        callbacks.ModelCheckpoint(None)  # type: ignore[arg-type]


# --- learning rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "rates"),
    [
        ([5, 5, 5, 5, 5], {"patience": 2}, [1, 1, 0.1, 0.1, 0.01]),
        ([5, 4, 4, 4, 4], {"patience": 1, "factor": 0.5}, [1, 1, 0.5, 0.25, 0.125]),
        ([5, 4, 4, 4, 4], {"patience": 1, "factor": 0.5, "cooldown": 2}, [1, 1, 0.5, 0.5, 0.25]),
        ([5, 5, 5, 5, 5], {"patience": 1, "min_lr": 0.05}, [1, 0.1, 0.05, 0.05, 0.05]),
        ([1, 1.5, 1.50005, 1.50005, 2], {"patience": 2, "mode": "max"}, [1, 1, 1, 0.1, 0.1]),
    ],
)
def test_a_plateau_lowers_the_rate(values: list[float], options: dict[str, Any], rates: list[float]) -> None:
    after: list[float] = []
    model = line(af.SGD(0.125))
    look = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after.append(model.optimizer.learning_rate))  # type: ignore[union-attr]
    scaled = {**options, "min_lr": 0.125 * options.get("min_lr", 0.0)}
    history = run(model, Say(values), callbacks.ReduceLROnPlateau("figure", **scaled), look, epochs=5)
    assert after == pytest.approx([0.125 * rate for rate in rates])
    assert history["learning_rate"] == pytest.approx([0.125 * rate for rate in [1, *rates[:-1]]])


def test_a_rate_is_scheduled_by_epoch_and_trains_as_if_set_by_hand() -> None:
    model, by_hand = line(), line()
    history = run(model, callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5), epochs=3)
    assert history["learning_rate"] == [0.05, 0.025, 0.0125]
    for epoch, rate in enumerate([0.05, 0.025, 0.0125]):
        assert by_hand.optimizer is not None
        by_hand.optimizer.learning_rate = rate
        run(by_hand, epochs=epoch + 1, initial_epoch=epoch)
    assert all(map(np.array_equal, model.get_weights(), by_hand.get_weights()))
    assert run(line(), callbacks.LearningRateScheduler(lambda epoch: 1 / (epoch + 4)), epochs=2)["learning_rate"] == [0.25, 0.2]


def test_the_rate_that_a_callback_set_is_saved_with_the_model(tmp_path: Path) -> None:
    model = line(af.Adam(0.1))
    run(model, callbacks.ReduceLROnPlateau("loss", patience=0, mode="max"), epochs=3)
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    assert again.optimizer.learning_rate == model.optimizer.learning_rate < 0.1  # type: ignore[union-attr]


def test_rates_of_schedules_are_left_alone() -> None:
    for callback in (callbacks.ReduceLROnPlateau("loss"), callbacks.LearningRateScheduler(lambda epoch: 0.1)):
        model = line(af.SGD(af.schedules.CosineDecay(0.1, 9)))
        before = model.get_weights()
        with pytest.raises(af.Error, match="sets the learning rate, but the optimizer follows a schedule"):
            run(model, callback)
        assert all(map(np.array_equal, before, model.get_weights()))


def test_mistakes_in_options() -> None:
    for make, text in (
        (lambda: callbacks.EarlyStopping(mode="mix"), "no mode named 'mix'(.|\n)*did you mean 'min'"),
        (lambda: callbacks.EarlyStopping(patience=1.5), "patience must be a whole number"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "factor is out of range"),
        (lambda: callbacks.ModelCheckpoint("m", save_freq="batch"), "save_freq must be a whole number"),
        (lambda: callbacks.LearningRateScheduler(0.1), "takes a function"),
        (lambda: callbacks.CSVLogger("t.csv", separator="--"), "a separator is one character"),
    ):
        with pytest.raises(af.Error, match=text):
            make()  # type: ignore[no-untyped-call]
    with pytest.raises(af.Error, match="learning_rate is out of range"):
        run(line(), callbacks.LearningRateScheduler(lambda epoch: -1))
    with pytest.raises(AttributeError):
        callbacks.EarlyStoping  # type: ignore[attr-defined]  # noqa: B018


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_training(capsys: pytest.CaptureFixture[str]) -> None:
    model = line(af.SGD(1e25))
    history = run(model, callbacks.TerminateOnNaN())
    assert len(history["loss"]) == 1 and not np.isfinite(history["loss"][0])
    assert capsys.readouterr().out in ("batch 2: the loss is inf; training ends\n", "batch 2: the loss is nan; training ends\n")
    assert model.epochs_trained == 0
    assert len(run(line(), callbacks.TerminateOnNaN())["loss"]) == 8


def test_a_table_of_epochs(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    model = line(metrics=["mae"])
    history = run(model, callbacks.CSVLogger(path), epochs=2, validation_split=0.25)
    run(model, callbacks.CSVLogger(path, append=True), epochs=4, initial_epoch=2)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert [row[0] for row in rows[1:]] == ["0", "1", "2", "3"] and rows[3][3:] == ["NA", "NA"]
    assert [[float(value) for value in row[1:]] for row in rows[1:3]] == [
        [history[name][i] for name in rows[0][1:]] for i in (0, 1)
    ]
    run(model, callbacks.CSVLogger(path, separator=";"), epochs=1)
    assert path.read_text().startswith("epoch;loss;mae\n0;") and len(path.read_text().splitlines()) == 2
    fresh = tmp_path / "fresh.csv"
    run(model, callbacks.CSVLogger(fresh, append=True), epochs=1)
    assert fresh.read_text().startswith("epoch,loss,mae\n")
    with pytest.raises(af.Error, match="cannot be written"):
        run(model, callbacks.CSVLogger(tmp_path / "nowhere" / "t.csv"))


# --- calls of the model's methods in callbacks ------------------------------------------------------------------------


def at_every_batch(method: Any) -> Any:
    def call(batch: int, logs: Any) -> None:
        method()

    return callbacks.LambdaCallback(on_train_batch_end=call)


def history_beside(called: Any, **options: Any) -> tuple[Mapping[str, list[float]], Mapping[str, list[float]]]:
    """What fit reports by itself, and while something is called after every batch."""
    plain, other = line(metrics=["mae"]), line(metrics=["mae"])
    return run(plain, **options), run(other, at_every_batch(lambda: called(other)), **options)


def test_evaluating_in_a_callback_changes_nothing_that_fit_reports() -> None:
    x, y = X[:5], Y[:5]
    for called in (
        lambda model: model.evaluate(x, y),
        lambda model: model.test_on_batch(x, y),
        lambda model: model.predict(x),
        lambda model: model.evaluate(x, y, sample_weight=np.arange(5.0)),
    ):
        plain, other = history_beside(called)
        assert plain == other
    plain, other = history_beside(lambda model: model.evaluate(x, y), validation_data=(X, Y))
    assert plain == other
    plain, other = history_beside(lambda model: model.evaluate(x, y), sample_weight=np.arange(24.0))
    assert plain == other


def test_evaluating_before_the_first_batch_adds_nothing_to_the_figures() -> None:
    plain, other = line(), line()
    called = callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: other.evaluate(X, Y) and None)
    assert run(plain) == run(other, called)


def test_other_weights_in_a_callback_are_not_those_of_fit() -> None:
    """Weights for time steps, where fit has some for samples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5, 2))
    y, steps = x[:, :, :1], np.full((12, 5), 7.0)
    found = []
    for again in (False, True):
        af.set_seed(1)
        inputs = af.Input([None, 2])
        model = af.Model(inputs, af.Dense(1)(af.SimpleRNN(4, return_sequences=True)(inputs)))
        model.compile("mse", "sgd")
        called = [at_every_batch(lambda: model.evaluate(x, y, sample_weight=steps))] if again else []  # noqa: B023
        fitted = model.fit(x, y, epochs=3, batch_size=5, verbose=0, seed=1, sample_weight=np.arange(12.0), callbacks=called)
        found.append(fitted.history)
    assert found[0] == found[1]


def test_other_targets_in_a_callback_are_not_those_of_fit() -> None:
    """Targets of another width, which a loss of one's own takes."""
    found = []
    for again in (False, True):
        model = line()
        model.compile(lambda y, given: af.ops.square(af.ops.mean(y, -1) - given[:, 0]), af.SGD(0.1))
        called = [at_every_batch(lambda: model.evaluate(X, np.ones((24, 3))))] if again else []  # noqa: B023
        found.append(run(model, *called))
    assert found[0] == found[1]


def test_training_on_a_batch_in_a_callback_leaves_the_figures_of_fit_and_its_budget(uncollected: None) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 6)), np.zeros((512, 2))

    def make() -> af.Sequential:
        af.set_seed(0)
        model = af.Sequential([af.Dense(64, "relu", input_shape=[6]), *(af.Dense(64) for _ in range(5)), af.Dense(2)])
        model.compile("mse", af.SGD(0.0))
        return model

    histories, models = [], []  # these stay, so that what is held only grows
    for again in (False, True):
        held = af.memory.allocated("cpu")
        model = make()
        models.append(model)
        called = [at_every_batch(lambda: model.train_on_batch(x[:4], y[:4]))] if again else []  # noqa: B023
        fitted = model.fit(x, y, batch_size=256, epochs=2, verbose=0, seed=1, memory_budget=260_000, callbacks=called)
        assert fitted.plan is not None and fitted.plan.micro_batch < 256
        report = model.memory(256, rows=512, memory_budget=260_000)
        assert af.memory.allocated("cpu") - held == report.total_bytes == fitted.plan.total_bytes - on_the_device(report)
        assert fitted.plan.total_bytes <= 260_000
        histories.append(fitted.history)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("method", ["compile", "add", "pop", "fit"])
def test_what_would_change_the_model_under_its_fit_is_refused_in_a_callback(method: str) -> None:
    model = line()
    arguments: dict[str, tuple[Any, ...]] = {"compile": ("mse",), "add": (af.Dense(1),), "fit": (X, Y)}
    with pytest.raises(af.Error, match=rf"^{method} was called on model(.|\n)*while it is being fitted(.|\n)*stop_training"):
        run(model, at_every_batch(lambda: getattr(model, method)(*arguments.get(method, ()))))
    before = model.get_weights()
    getattr(model, method)(*arguments.get(method, ()))  # after it, all of them may be called
    assert method == "pop" or len(model.get_weights()) >= len(before)


def test_layers_thawed_in_a_callback_train_within_the_budget(uncollected: None) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)), np.arange(200) % 3
    held = af.memory.allocated("cpu")
    model = af.Sequential(
        [af.Dense(64, "tanh", input_shape=[6]), *(af.Dense(64, "tanh") for _ in range(4)), af.Dense(3, "softmax")]
    )
    model.compile("sparse_categorical_crossentropy", "adam")
    model.layers[0].trainable = model.layers[1].trainable = False

    def thaw(epoch: int, logs: Any) -> None:
        model.layers[0].trainable = model.layers[1].trainable = True

    frozen = model.memory(100, rows=200, memory_budget=310_000).total_bytes
    called = callbacks.LambdaCallback(on_epoch_end=thaw)
    fitted = model.fit(x, y, batch_size=100, epochs=3, memory_budget=310_000, verbose=0, callbacks=called)
    assert fitted.plan is not None
    report = model.memory(100, rows=200, memory_budget=310_000)
    assert af.memory.allocated("cpu") - held == report.total_bytes == fitted.plan.total_bytes - on_the_device(report)
    assert report.total_bytes != frozen and fitted.plan.total_bytes <= 310_000
