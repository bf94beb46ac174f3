"""fit, evaluate, predict and what they call, against float64 NumPy."""

from __future__ import annotations

import sys
from dataclasses import replace
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from nets import Array, Net, assert_close, assert_same_bits, differences, forward, gradients, per_sample

import aforo as af

NET = Net((3, 6, 2), ("tanh", "none"), optimizer={"learning_rate": 0.1, "momentum": 0.9}, batch=8, dtype="float64")
CLASSES = Net((4, 6, 3), ("tanh", "softmax"), "categorical_crossentropy", {"learning_rate": 0.3}, 10, "accuracy", "float64")


def loss_of(net: Net, weights: list[Array], x: Array, y: Array) -> float:
    return float(per_sample(net.loss, y, forward(weights, net.activations, x)).mean())


# --- the course's two scripts -----------------------------------------------------------------------------------------

REGRESSION = """
nx,d_in  = x.shape # x tiene tamaño n x d_in
ny,d_out = y.shape # y tiene tamaño n x d_out
import aforo as keras

model=keras.Sequential()
model.add(keras.Dense(4,input_shape=[d_in],activation='tanh'))
model.add(keras.Dense(5,activation='relu'))
model.add(keras.Dense(d_out,activation='none'))
model.compile(loss='mse', # error cuadrático medio
              optimizer='sgd') # descenso de gradiente
history = model.fit(x,y,epochs=100,batch_size=32)
y_predicted=model.predict(x)
"""

CLASSIFICATION = """
nx,d_in  = x.shape # x tiene tamaño n x d_in
ny,d_out = y.shape # y tiene tamaño n x d_out
import aforo as keras

model=keras.Sequential()
model.add(keras.Dense(4,input_shape=[d_in],activation='tanh'))
model.add(keras.Dense(5,activation='relu'))
model.add(keras.Dense(d_out,activation='softmax'))
model.compile(loss='categorical_crossentropy', # ent cruz
              optimizer='sgd', # descenso de gradiente
              metrics='accuracy')
history = model.fit(x,y,epochs=100,batch_size=32)
y_predicted=model.predict(x)
"""


def test_the_regression_of_the_slides_runs_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    y = np.column_stack([x @ [1.0, -2.0, 0.5] + 1, np.tanh(x[:, 0]) - x[:, 2]])
    af.set_seed(1)
    space: dict[str, Any] = {"x": x, "y": y}
    exec(REGRESSION, space)
    losses = space["history"].history["loss"]
    assert len(losses) == 100 and losses[-1] < 0.1 * losses[0]
    predicted = space["y_predicted"]
    assert predicted.shape == y.shape
    assert ((predicted - y) ** 2).mean() < 0.15 * y.var()
    assert ((predicted - y) ** 2).mean() == pytest.approx(space["model"].evaluate(x, y), rel=1e-5)
    assert len(capsys.readouterr().out.splitlines()) == 100  # a line an epoch, where there is no terminal


def test_the_classification_of_the_slides_runs_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 3)) + 3 * np.eye(3)[labels]
    y = np.eye(3)[labels]
    af.set_seed(1)
    space: dict[str, Any] = {"x": x, "y": y}
    exec(CLASSIFICATION, space)
    history = space["history"].history
    assert history["loss"][-1] < 0.4 * history["loss"][0]
    assert history["accuracy"][-1] > 0.9 > 0.75 > history["accuracy"][0]
    predicted = space["y_predicted"]
    assert np.allclose(predicted.sum(axis=1), 1, atol=1e-5) and predicted.min() >= 0
    assert (predicted.argmax(axis=1) == labels).mean() == pytest.approx(space["model"].evaluate(x, y)[1])
    assert "accuracy" in capsys.readouterr().out


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "sin", "cos", "softmax", "none"])
def test_the_derived_backward_of_three_layers_is_that_of_finite_differences(activation: str) -> None:
    net = Net((3, 5, 4, 2), (activation, activation, "none"), dtype="float64")
    model = net.model(3)
    x, y = net.data(7)
    expected = differences(lambda weights: loss_of(net, weights, x, y), model.get_weights())
    for found, wanted in zip(gradients(model, "mse", x, y), expected, strict=True):
        assert_close(found, wanted, 1e-6, activation)


OPTIMIZERS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.1},
    {"momentum": 0.6, "nesterov": True, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_steps_follow_the_rule_in_the_docs(options: dict[str, Any]) -> None:
    """v ← μv + g; w ← w − lr·v, Nesterov: w ← w − lr·(g + μv); g includes λw."""
    net = replace(NET, optimizer={"learning_rate": 0.2, **options})
    model = net.model()
    x, y = net.data(10)
    weights = model.get_weights()
    velocity = [np.zeros_like(w) for w in weights]
    mu, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    for _ in range(4):
        slopes = differences(lambda w: loss_of(net, w, x, y), weights)
        for i, slope in enumerate(slopes):
            g = slope + decay * weights[i]
            velocity[i] = mu * velocity[i] + g
            weights[i] = weights[i] - 0.2 * (g + mu * velocity[i] if options.get("nesterov") else velocity[i])
        model.train_on_batch(x, y)
    for found, wanted in zip(model.get_weights(), weights, strict=True):
        assert_close(found, wanted, 1e-7)


def test_train_on_batch_gives_the_loss_before_its_update() -> None:
    model = NET.model()
    x, y = NET.data(8)
    for _ in range(3):
        expected = loss_of(NET, model.get_weights(), x, y)
        evaluated = model.evaluate(x, y)
        before = model.get_weights()
        loss = model.train_on_batch(x, y)
        assert isinstance(loss, float)
        assert loss == evaluated == pytest.approx(expected, rel=1e-12)
        assert not np.array_equal(model.get_weights()[0], before[0])


def test_train_on_batch_gives_a_list_where_there_are_metrics() -> None:
    model = CLASSES.model()
    x, y = CLASSES.data(10)
    predicted = forward(model.get_weights(), CLASSES.activations, x)
    loss, accuracy = model.train_on_batch(x, y)
    assert loss == pytest.approx(per_sample(CLASSES.loss, y, predicted).mean(), rel=1e-12)
    assert accuracy == pytest.approx((predicted.argmax(axis=1) == y.argmax(axis=1)).mean())


def test_evaluate_weighs_each_sample_alike_whatever_the_batches() -> None:
    model = CLASSES.model()
    x, y = CLASSES.data(43)
    predicted = forward(model.get_weights(), CLASSES.activations, x)
    expected = {
        "loss": per_sample(CLASSES.loss, y, predicted).mean(),
        "accuracy": (predicted.argmax(1) == y.argmax(1)).mean(),
    }
    for batch_size in (1, 7, 32, 43, 1000):
        found = model.evaluate(x, y, batch_size=batch_size, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-12)
        assert model.evaluate(x, y, batch_size=batch_size) == [found["loss"], found["accuracy"]]
    assert isinstance(NET.model().evaluate(*NET.data(5)), float)


def test_evaluating_changes_no_weight() -> None:
    model = NET.model()
    x, y = NET.data(20)
    before = model.get_weights()
    model.evaluate(x, y)
    model.test_on_batch(x, y)
    model.predict(x)
    assert_same_bits(model.get_weights(), before)
    assert model.epochs_trained == 0


def test_predict_is_the_forward_whatever_the_batches() -> None:
    for net in (NET, CLASSES, Net((5, 9, 9, 1), ("sin", "cos", "sigmoid"), "binary_crossentropy", dtype="float64")):
        model = net.model(7)
        x, _ = net.data(45)
        expected = forward(model.get_weights(), net.activations, x)
        for batch_size in (1, 8, 45, 1000):
            assert_close(model.predict(x, batch_size=batch_size), expected, 1e-12)


def test_the_losses_of_an_epoch_are_means_over_samples_as_the_weights_moved() -> None:
    model, twin = NET.model(), NET.model()
    x, y = NET.data(30)
    history = model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for epoch in range(2):
        total = 0.0
        for start in range(0, 30, 8):
            rows = slice(start, start + 8)
            total += loss_of(NET, twin.get_weights(), x[rows], y[rows]) * len(x[rows])
            twin.train_on_batch(x[rows], y[rows])
        assert history.history["loss"][epoch] == pytest.approx(total / 30, rel=1e-12)
    assert_same_bits(model.get_weights(), twin.get_weights())


def test_small_last_batches_take_the_mean_over_their_own_rows() -> None:
    model, twin = NET.model(), NET.model()
    x, y = NET.data(9)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    twin.train_on_batch(x[:8], y[:8])
    expected = differences(lambda w: loss_of(NET, w, x[8:], y[8:]), twin.get_weights())
    velocity = [(a - b) / 0.1 for a, b in zip(NET.model().get_weights(), twin.get_weights(), strict=True)]
    for before, v, g, after in zip(twin.get_weights(), velocity, expected, model.get_weights(), strict=True):
        assert_close(after, before - 0.1 * (0.9 * v + g), 1e-7)


def test_a_model_whose_batches_grow_and_shrink_computes_what_a_fresh_one_does() -> None:
    """Programs of other models, predictions and evaluations between the steps must leave no trace."""
    x, y = NET.data(40)
    quiet, busy, other = NET.model(1), NET.model(1), CLASSES.model(2)
    ox, oy = CLASSES.data(40)
    sizes = [3, 17, 5, 40, 1, 39, *range(1, 25)]
    for rows in sizes:
        quiet.train_on_batch(x[:rows], y[:rows])
    for rows in sizes:
        busy.train_on_batch(x[:rows], y[:rows])
        other.train_on_batch(ox[:rows], oy[:rows])
        busy.predict(x[rows:] if rows < 40 else x)
        busy.evaluate(x, y, batch_size=max(1, 40 - rows))
    assert_same_bits(busy.get_weights(), quiet.get_weights())


# --- weights for samples and classes ----------------------------------------------------------------------------------


def test_sample_weights_weigh_the_loss_and_its_gradient() -> None:
    x, y = NET.data(12)
    weights = np.linspace(0, 2, 12)
    model = NET.model()
    before = model.get_weights()

    def weighted(w: list[Array]) -> float:
        return float((weights * per_sample("mse", y, forward(w, NET.activations, x))).mean())

    assert model.evaluate(x, y, sample_weight=weights) == pytest.approx(weighted(before), rel=1e-12)
    for found, wanted in zip(gradients(model, "mse", x, y, sample_weight=weights), differences(weighted, before), strict=True):
        assert_close(found, wanted, 1e-7)
    history = model.fit(x, y, sample_weight=weights, batch_size=12, verbose=0)
    assert history.history["loss"][0] == pytest.approx(weighted(before), rel=1e-12)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy"])
def test_class_weights_are_the_sample_weights_of_their_classes(loss: str) -> None:
    labels = np.random.default_rng(3).integers(0, 2 if loss.startswith("binary") else 3, 30)
    width = 1 if loss.startswith("binary") else 3
    net = Net((4, 5, width), ("tanh", "sigmoid" if width == 1 else "softmax"), loss, dtype="float64")
    y = labels if loss.startswith("sparse") else labels[:, None] if width == 1 else np.eye(3)[labels]
    x, _ = net.data(30)
    class_weight = {0: 0.5, 1: 3.0, 2: 1.0}
    own = np.linspace(1, 2, 30)
    by_class, by_sample = net.model(), net.model()
    by_class.fit(x, y, class_weight=class_weight, sample_weight=own, seed=1, batch_size=7, verbose=0)
    by_sample.fit(x, y, sample_weight=own * [class_weight[n] for n in labels], seed=1, batch_size=7, verbose=0)
    for a, b in zip(by_class.get_weights(), by_sample.get_weights(), strict=True):
        assert_close(a, b, 1e-12)
    plain = net.model()
    plain.fit(x, y, seed=1, batch_size=7, verbose=0)
    assert np.abs(plain.get_weights()[0] - by_class.get_weights()[0]).max() > 1e-6


def test_weights_of_one_change_nothing_and_weighted_and_plain_steps_mix() -> None:
    x, y = NET.data(20)
    plain, weighted = NET.model(), NET.model()
    for step in range(4):
        plain.train_on_batch(x, y)
        weighted.train_on_batch(x, y, **({"sample_weight": np.ones(20)} if step % 2 else {}))
    for a, b in zip(weighted.get_weights(), plain.get_weights(), strict=True):
        assert_close(a, b, 1e-12)


# --- validation and history -------------------------------------------------------------------------------------------


def test_validation_split_holds_out_the_last_rows_before_shuffling() -> None:
    x, y = CLASSES.data(40)
    split, given = CLASSES.model(), CLASSES.model()
    h1 = split.fit(x, y, validation_split=0.25, epochs=3, seed=1, verbose=0)
    h2 = given.fit(x[:30], y[:30], validation_data=(x[30:], y[30:]), epochs=3, seed=1, verbose=0)
    assert h1.history == h2.history
    assert_same_bits(split.get_weights(), given.get_weights())
    assert list(h1.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert split.evaluate(x[30:], y[30:]) == [h1.history["val_loss"][-1], h1.history["val_accuracy"][-1]]


def test_what_is_held_out_is_never_trained_on() -> None:
    x, y = NET.data(20)
    a, b = NET.model(), NET.model()
    a.fit(x, y, validation_split=0.5, epochs=2, seed=1, verbose=0)
    x[10:], y[10:] = 99.0, -99.0
    b.fit(x, y, validation_split=0.5, epochs=2, seed=1, verbose=0)
    assert_same_bits(a.get_weights(), b.get_weights())


def test_validation_data_may_be_weighted() -> None:
    x, y = NET.data(20)
    model = NET.model()
    weights = np.linspace(0, 1, 20)
    history = model.fit(x, y, validation_data=(x, y, weights), verbose=0)
    expected = (weights * per_sample("mse", y, forward(model.get_weights(), NET.activations, x))).mean()
    assert history.history["val_loss"][0] == pytest.approx(expected, rel=1e-12)


def test_history_has_the_users_names_and_the_epochs_numbers() -> None:
    model = replace(CLASSES, metrics=["acc", "mae"]).model()
    x, y = CLASSES.data(20)
    history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0)
    assert list(history.history) == ["loss", "acc", "mae", "val_loss", "val_acc", "val_mae"]
    assert all(len(values) == 3 and all(isinstance(v, float) for v in values) for values in history.history.values())
    assert history.epoch == [0, 1, 2]
    assert model.fit(x, y, epochs=7, initial_epoch=5, verbose=0).epoch == [5, 6]
    assert model.epochs_trained == 5


def test_epochs_trained_counts_whole_epochs_before_callbacks_see_their_end() -> None:
    model = NET.model()
    seen = []
    watch = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.epochs_trained))
    model.fit(*NET.data(10), epochs=3, callbacks=[watch], verbose=0)
    assert seen == [1, 2, 3]
    model.train_on_batch(*NET.data(10))
    assert model.epochs_trained == 3


def test_an_epoch_that_was_cut_short_does_not_count_as_whole() -> None:
    model = NET.model()

    class Stop(af.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    model.fit(*NET.data(20), batch_size=5, epochs=3, callbacks=[Stop()], verbose=0)
    assert model.epochs_trained == 0


def test_an_epoch_that_a_callback_broke_off_does_not_count_and_the_model_goes_on() -> None:
    model = NET.model()

    def fail(batch: int, logs: Any) -> None:
        raise KeyError("of the user")

    x, y = NET.data(20)
    with pytest.raises(KeyError):
        model.fit(x, y, callbacks=[af.callbacks.LambdaCallback(on_train_batch_end=fail)], verbose=0)
    assert model.epochs_trained == 0
    assert len(model.fit(x, y, epochs=2, verbose=0).history["loss"]) == 2


def test_class_weights_are_not_for_the_rows_that_are_held_out() -> None:
    x, labels = CLASSES.data(20)
    numbers = labels.argmax(-1)
    found = []
    for options in ({"validation_split": 0.25}, {"validation_data": (x[15:], numbers[15:])}):
        af.set_seed(3)
        model = af.Sequential([af.Dense(3, "softmax", input_shape=[4])])
        model.compile("sparse_categorical_crossentropy", metrics=["accuracy"])
        rows = slice(None) if "validation_split" in options else slice(0, 15)
        history = model.fit(x[rows], numbers[rows], class_weight={0: 1.0, 1: 10.0, 2: 0.1}, shuffle=False, verbose=0, **options)
        found.append(history.history)
    assert found[0] == found[1]


def test_the_loss_of_one_output_has_its_weight_too() -> None:
    x, y = NET.data(8)
    model = af.Sequential([af.Dense(2, input_shape=[3])])
    losses = []
    for weight in (None, [5.0], 5, {"dense": 5.0}):
        model.compile("mse", loss_weights=weight)
        losses.append(model.evaluate(x, y))
    assert_close(losses[1:], [5 * losses[0]] * 3, 1e-6)
    for wrong in ({"nope": 5}, [5, 3], "heavy", -1.0):
        with pytest.raises(af.Error, match=r"no output named 'nope'|one entry for each output|loss_weights"):
            model.compile("mse", loss_weights=wrong)


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (2, 3), ("auto", 3)])
def test_verbose_says_how_much_is_printed(verbose: Any, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    CLASSES.model().fit(*CLASSES.data(20), epochs=3, verbose=verbose)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == lines
    for number, line in enumerate(out, start=1):
        assert f"{number}/3" in line and "loss" in line and "accuracy" in line


def test_a_progress_bar_reports_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    history = CLASSES.model().fit(*CLASSES.data(20), epochs=2, verbose=1)
    out = capsys.readouterr().out
    assert "1/2" in out and "2/2" in out
    assert f"loss: {history.history['loss'][1]:.4f}" in out


# --- callbacks --------------------------------------------------------------------------------------------------------


class Recorder(af.callbacks.Callback):
    def __init__(self, stop_after: tuple[int, int] | None = None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.stop_after = stop_after
        self.epoch = -1

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append(("train begin",))

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append(("train end",))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        self.events.append(("epoch begin", epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append(("epoch end", epoch))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch begin", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch end", batch))
        if (self.epoch, batch) == self.stop_after:
            self.model.stop_training = True


def events(epochs: range, batches: int) -> list[tuple[Any, ...]]:
    expected: list[tuple[Any, ...]] = [("train begin",)]
    for epoch in epochs:
        expected.append(("epoch begin", epoch))
        for batch in range(batches):
            expected += [("batch begin", batch), ("batch end", batch)]
        expected.append(("epoch end", epoch))
    return [*expected, ("train end",)]


def test_callbacks_are_called_in_order() -> None:
    recorder = Recorder()
    model = NET.model()
    model.fit(*NET.data(20), batch_size=8, epochs=5, initial_epoch=3, callbacks=[recorder], verbose=0)
    assert recorder.events == events(range(3, 5), 3)
    assert recorder.model is model
    single = Recorder()
    model.fit(*NET.data(20), batch_size=20, callbacks=single, verbose=0)
    assert single.events == events(range(1), 1)


def test_a_batch_is_announced_before_it_changes_the_weights() -> None:
    model = NET.model()
    weights: list[Array] = []

    class Watch(af.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            weights.append(self.model.get_weights()[0])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            weights.append(self.model.get_weights()[0])

    first = model.get_weights()[0]
    model.fit(*NET.data(20), batch_size=8, callbacks=[Watch()], verbose=0)
    begins, ends = weights[::2], weights[1::2]
    assert_same_bits(begins, [first, *ends[:-1]])
    assert all(not np.array_equal(a, b) for a, b in zip(begins, ends, strict=True))


def test_stop_training_ends_the_fit_after_the_batch_and_calls_what_is_due() -> None:
    recorder = Recorder(stop_after=(1, 1))
    model, twin = NET.model(), NET.model()
    x, y = NET.data(40)
    history = model.fit(x, y, batch_size=8, epochs=5, shuffle=False, callbacks=[recorder], verbose=0)
    whole = events(range(1), 5)[:-1]
    cut = [
        ("epoch begin", 1),
        ("batch begin", 0),
        ("batch end", 0),
        ("batch begin", 1),
        ("batch end", 1),
        ("epoch end", 1),
    ]
    assert recorder.events == [*whole, *cut, ("train end",)]
    assert history.epoch == [0, 1]
    for start in [0, 8, 16, 24, 32, 0, 8]:
        twin.train_on_batch(x[start : start + 8], y[start : start + 8])
    assert_same_bits(model.get_weights(), twin.get_weights())
    assert len(model.fit(x, y, epochs=2, verbose=0).epoch) == 2  # the next fit starts afresh


def test_stop_training_at_an_epochs_end_ends_the_fit() -> None:
    model = NET.model()

    def stop(epoch: int, logs: Any) -> None:
        model.stop_training = epoch == 1

    stopper = af.callbacks.LambdaCallback(on_epoch_end=stop)
    assert model.fit(*NET.data(20), epochs=9, callbacks=[stopper], verbose=0).epoch == [0, 1]
    assert model.epochs_trained == 2


def test_epoch_logs_hold_all_that_history_records() -> None:
    seen = []
    watch = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    x, y = CLASSES.data(20)
    history = CLASSES.model().fit(x, y, epochs=2, validation_split=0.5, callbacks=[watch], verbose=0)
    assert seen == [{name: values[i] for name, values in history.history.items()} for i in range(2)]


def test_batch_logs_are_the_means_of_the_epoch_so_far() -> None:
    x, y = CLASSES.data(30)
    model, twin = CLASSES.model(), CLASSES.model()
    seen = []
    watch = af.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    model.fit(x, y, batch_size=8, shuffle=False, callbacks=[watch], verbose=0)
    rows, loss, hits = 0, 0.0, 0.0
    for logs, start in zip(seen, range(0, 30, 8), strict=True):
        batch = slice(start, start + 8)
        one, share = twin.train_on_batch(x[batch], y[batch])
        n = len(x[batch])
        rows, loss, hits = rows + n, loss + one * n, hits + share * n
        assert logs == pytest.approx({"loss": loss / rows, "accuracy": hits / rows}, rel=1e-12)


def test_batch_logs_read_nothing_until_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = af.device.read
    monkeypatch.setattr(af.device, "read", lambda variable: reads.append(variable.name) or read(variable))
    x, y = NET.data(40)
    silent = af.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: list(logs))
    NET.model().fit(x, y, batch_size=4, callbacks=[silent], verbose=0)
    assert len(reads) == 1  # at the end of the epoch
    reads.clear()
    asking = af.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batch == 3 and logs["loss"])
    NET.model().fit(x, y, batch_size=4, callbacks=[asking], verbose=0)
    assert len(reads) == 2


def test_batch_logs_that_were_kept_tell_no_lie_later() -> None:
    """They are lazy: asked after the next step they must give what they would have given, or refuse."""
    x, y = NET.data(40)
    kept, now = [], []

    class Keep(af.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kept.append(logs)

    class Read(af.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            now.append(logs["loss"])

    for callback in (Keep(), Read()):
        NET.model().fit(x, y, batch_size=8, shuffle=False, callbacks=[callback], verbose=0)
    for logs, expected in zip(kept, now, strict=True):
        try:
            found = logs["loss"]
        except af.Error:
            continue
        assert found == pytest.approx(expected, rel=1e-12)


def test_several_callbacks_see_one_another_in_the_order_given() -> None:
    calls = []
    a = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append("a"))
    b = af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append("b"))
    NET.model().fit(*NET.data(8), epochs=2, callbacks=[a, b], verbose=0)
    assert calls == ["a", "b", "a", "b"]


# --- the optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_the_learning_rate_can_change_during_training(options: dict[str, Any]) -> None:
    x, y = NET.data(24)
    net = replace(NET, optimizer={"learning_rate": 0.1, **options})
    changing, fixed = net.model(), net.model()

    def schedule(epoch: int, logs: Any) -> None:
        changing.optimizer.learning_rate = 0.1 if epoch == 0 else 0.0

    callback = af.callbacks.LambdaCallback(on_epoch_begin=schedule)
    changing.fit(x, y, epochs=3, seed=1, callbacks=[callback], verbose=0)
    fixed.fit(x, y, epochs=1, seed=1, verbose=0)
    assert_same_bits(changing.get_weights(), fixed.get_weights())
    assert changing.optimizer.learning_rate == 0.0


def test_half_the_learning_rate_takes_half_the_step() -> None:
    x, y = NET.data(8)
    steps = []
    for change in (1.0, 0.5):
        model = replace(NET, optimizer={"learning_rate": 0.1}).model()
        model.train_on_batch(x, y)
        model.optimizer.learning_rate = model.optimizer.learning_rate * change
        before = model.get_weights()
        model.train_on_batch(x, y)
        steps.append([a - b for a, b in zip(before, model.get_weights(), strict=True)])
    for full, half in zip(*steps, strict=True):
        assert_close(2 * half, full, 1e-9)


def test_compiling_again_starts_the_optimizer_afresh_and_keeps_the_weights() -> None:
    x, y = NET.data(8)
    model, fresh = NET.model(), NET.model()
    for _ in range(3):
        model.train_on_batch(x, y)
    weights = model.get_weights()
    model.compile(loss="mse", optimizer=af.SGD(**NET.optimizer))
    assert_same_bits(model.get_weights(), weights)
    fresh.set_weights(weights)
    for each in (model, fresh):
        each.train_on_batch(x, y)
        each.train_on_batch(x, y)
    assert_same_bits(model.get_weights(), fresh.get_weights())


def test_a_well_fit_classifier_makes_no_denormals() -> None:
    """Products of denormals are over a hundred times slower; float32 probabilities become denormal at e⁻⁸⁷."""
    net = Net((1, 2), ("softmax",), "sparse_categorical_crossentropy", {"learning_rate": 1.0})
    model = net.model()
    model.set_weights([np.array([[1.0, 0.0]], np.float32), np.zeros(2, np.float32)])
    x = np.linspace(0, 200, 801, dtype=np.float32)[:, None]
    p = model.predict(x)
    tiny = np.finfo(np.float32).tiny
    assert np.all((p == 0) | (p >= tiny)) and np.isfinite(p).all()
    for row in x[320:440:10]:
        assert np.isfinite(model.train_on_batch(row[None], [0]))
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    assert np.isfinite(weights).all() and np.all((weights == 0) | (np.abs(weights) >= tiny))


def test_relu_passes_nothing_back_where_it_is_exactly_at_zero() -> None:
    net = Net((3, 4, 2), ("relu", "none"), dtype="float64")
    model = net.model()
    kernel, bias, head, last = model.get_weights()
    model.set_weights([0 * kernel, 0 * bias, head, last])
    x, y = net.data(5)
    found = gradients(model, "mse", x, y)
    assert not found[0].any() and not found[1].any() and found[3].any()


def test_fits_of_one_model_from_several_threads_wait_for_one_another() -> None:
    model = NET.model()
    x, y = NET.data(64)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            model.fit(x, y, epochs=5, batch_size=8, verbose=0)
            model.predict(x)
        except af.Error:
            pass  # a named error is the other way out
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert model.epochs_trained % 5 == 0 and model.epochs_trained > 0
    assert all(np.isfinite(w).all() for w in model.get_weights())


# --- a backend from outside -------------------------------------------------------------------------------------------


def outside_backend() -> ModuleType:
    """A backend written against the contract alone: big pages, no tricks, every kernel by its plainest name."""
    from aforo_backends.contract import Backend, Instruction, Profile

    module = ModuleType("a_backend_from_outside")
    profile = Profile("outside", alignment=256, slack=0, rounding=512, product_sums=False)

    class Block:
        def __init__(self, owner: Any, nbytes: int) -> None:
            self.owner, self.memory = owner, np.full(profile.footprint(nbytes), 0xFF, np.uint8)  # NaN until written
            owner.held += self.nbytes
            owner.made += 1

        def __del__(self) -> None:
            self.owner.held -= self.nbytes

        @property
        def nbytes(self) -> int:
            return self.memory.nbytes

    def kernel(step: Instruction, inputs: list[Array], out: Array) -> None:
        op, a = step.op, step.attributes
        x = inputs[0] if inputs else None
        if op in ("sum", "amax"):
            out[...] = {"sum": np.sum, "amax": np.max}[op](x, axis=a["axes"])
        elif op == "argmax":
            out[...] = np.argmax(x, axis=-1)
        elif op in ("copy", "cast"):
            out[...] = x
        elif op == "logistic":
            out[...] = 1 / (1 + np.exp(-x))
        elif op == "softplus":
            out[...] = np.logaddexp(x, 0)
        elif op == "guard":
            out[...] = np.maximum(x, a["floor"])
        else:
            out[...] = getattr(np, op)(*inputs)

    class Rows:
        def __init__(self, columns: Any) -> None:
            self.columns, self.order = columns, None

        def arrange(self, order: Any) -> None:
            self.order = order

        def put(self, slots: Any, start: int, stop: int) -> None:
            for slot, values in zip(slots, self.columns, strict=True):
                slot[...] = values[start:stop] if self.order is None else values[self.order[start:stop]]

    class Outside:
        def __init__(self) -> None:
            self.profile, self.held, self.made, self.room = profile, 0, 0, 1000

        def open(self, nbytes: int) -> Block:
            if self.made >= self.room:
                raise MemoryError("the outside device is full")
            return Block(self, nbytes)

        def view(self, storage: Block, view: Any) -> Array:
            return np.ndarray(view.shape, view.dtype, storage.memory, view.offset, view.strides)

        def copy_in(self, array: Array, values: Any) -> None:
            array[...] = values

        def copy_out(self, array: Array) -> Array:
            return array.copy()

        def feed(self, columns: Any, most_rows: int, again: bool) -> Any:
            return Rows(columns)

        def compile(self, instruction: Instruction, inputs: Any, outputs: Any, scratch: Any) -> Any:
            return lambda: kernel(instruction, list(inputs), outputs[0])

        def program(self, calls: Any) -> Any:
            return lambda: [call() for call in calls] and None

        def synchronize(self) -> None: ...

        def free(self) -> None: ...

        def allocated(self) -> int:
            return self.held

        def allocations(self) -> int:
            return self.made

    made: list[Backend] = []

    def create() -> Backend:
        made.append(Outside())
        return made[-1]

    module.PROFILE, module.create, module.made = profile, create, made  # type: ignore[attr-defined]
    return module


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend, installed as another distribution would install it."""
    import importlib.metadata

    import aforo_backends

    module = outside_backend()
    entries = importlib.metadata.EntryPoints([importlib.metadata.EntryPoint("outside", module.__name__, "aforo.backends")])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: entries.select(**query))
    monkeypatch.setattr(aforo_backends, "_created", dict(aforo_backends._created))
    monkeypatch.setattr(af.device, "_devices", dict(af.device._devices))
    return module


@pytest.mark.parametrize("net", [NET, CLASSES, replace(CLASSES, loss="sparse_categorical_crossentropy")], ids=lambda n: n.loss)
def test_a_third_backend_trains_to_the_same_numbers(net: Net, outside: ModuleType) -> None:
    x, y = net.data(30)
    here, there = net.model(), net.model()
    assert there.to("outside") is there and there.device == "outside" and here.device == "cpu"
    histories = [model.fit(x, y, epochs=3, batch_size=8, seed=1, verbose=0).history for model in (here, there)]
    assert_close(list(histories[1].values()), list(histories[0].values()), 1e-12)
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        assert_close(a, b, 1e-12)
    assert_close(there.predict(x), here.predict(x), 1e-12)


def test_the_plan_for_a_backend_is_made_without_it_and_is_what_it_allocates(outside: ModuleType) -> None:
    model = CLASSES.model()
    report = model.memory(batch_size=10, device="outside")
    assert not outside.made  # planning asked for its data only
    cpu = model.memory(batch_size=10)
    model.to("outside")
    model.train_on_batch(*CLASSES.data(10))
    assert af.memory.allocated("outside") == report.total_bytes == model.memory(batch_size=10).total_bytes
    assert report.total_bytes % 512 == 0 and report.total_bytes != cpu.total_bytes
    made = af.memory.allocations("outside")
    model.train_on_batch(*CLASSES.data(10))
    assert af.memory.allocations("outside") == made


def test_moving_a_model_between_steps_changes_no_number(outside: ModuleType) -> None:
    x, y = NET.data(10)
    staying, moving = NET.model(), NET.model()
    held = af.memory.allocated("cpu")
    for device in ("cpu", "outside", "outside", "cpu", "outside"):
        moving.to(device)
        moving.train_on_batch(x, y)
        staying.train_on_batch(x, y)
        for a, b in zip(moving.get_weights(), staying.get_weights(), strict=True):
            assert_close(a, b, 1e-12)
    del staying
    assert af.memory.allocated("cpu") == held  # nothing of the moved model stayed behind
    moving.optimizer.learning_rate = 0.0
    before = moving.get_weights()
    moving.train_on_batch(x, y)
    assert_same_bits(moving.get_weights(), before)


def test_a_move_that_fails_leaves_the_model_where_it_was(outside: ModuleType) -> None:
    x, y = NET.data(10)
    model, twin = NET.model(), NET.model()
    for each in (model, twin):
        each.train_on_batch(x, y)
    af.memory.allocated("outside")
    outside.made[0].room = 3  # some of the weights fit, not all
    with pytest.raises(MemoryError):
        model.to("outside")
    assert outside.made[0].made == 3, "the move was to fail half-way"
    assert model.device == "cpu" and af.memory.allocated("outside") == 0
    for each in (model, twin):
        each.train_on_batch(x, y)
    assert_same_bits(model.get_weights(), twin.get_weights())
