"""Files: what is saved goes on, bit for bit, and what cannot be used says so before anything changes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import assert_close
from safetensors.numpy import load_file, save_file
from test_devices import needs_compiler

import aforo as af
from aforo.io.archive import read
from aforo.metrics import Metric
from aforo_backends import simulated

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 6)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")


def stack(optimizer: Any = "adam", **compiled: Any) -> af.Sequential:
    """Everything that remembers: dropout, running averages, slots, a penalty."""
    af.set_seed(3)
    model = af.Sequential(
        [
            af.Dense(8, activation="relu", input_shape=[6], kernel_regularizer=af.regularizers.L1L2(0.01, 0.02)),
            af.BatchNormalization(momentum=0.9),
            af.Dropout(0.4),
            af.Dense(5, activation=af.ops.gelu, kernel_initializer="he_normal"),
            af.LayerNormalization(),
            af.Dropout(0.2),
            af.Dense(2),
        ]
    )
    model.compile(**{"loss": "mse", "metrics": ["mae", af.metrics.r2], "optimizer": optimizer, **compiled})
    return model


def same(a: af.Model, b: af.Model) -> bool:
    """Whether all that training carries is equal to the last bit."""
    slots = [[list(own.values()) for own in model.slots.values()] for model in (a, b)]
    values = [
        [*model.get_weights(), *(af.device.read(v) for own in kept for v in own), af.device.read(model.step_counter)]
        for model, kept in zip((a, b), slots, strict=True)
    ]
    assert all(np.isfinite(each).all() for each in values[0])
    return len(values[0]) == len(values[1]) and all(map(np.array_equal, *values)) and a.epochs_trained == b.epochs_trained


def train(model: af.Model, epochs: int, start: int = 0) -> af.Model:
    model.fit(X, Y, epochs=epochs, initial_epoch=start, batch_size=16, seed=7, verbose=0)
    return model


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: af.SGD(0.05, momentum=0.9, nesterov=True, clipnorm=1.0),
    "adam": lambda: af.Adam(af.schedules.CosineDecay(0.01, steps=12)),
    "adamw": lambda: af.AdamW(af.schedules.WarmUp(af.schedules.StepDecay(0.01, every=4), 5), weight_decay=0.1),
    "rmsprop": lambda: af.RMSprop(0.003, momentum=0.5, clipvalue=0.5),
    "adagrad": lambda: af.Adagrad(0.1, global_clipnorm=2.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    straight = train(stack(OPTIMIZERS[name]()), 4)
    stopped = train(stack(OPTIMIZERS[name]()), 2)
    stopped.save(tmp_path / "model.aforo")
    af.set_seed(99)
    again = af.load_model(tmp_path / "model.aforo")
    assert same(again, stopped) and not same(again, straight)
    assert again.epochs_trained == 2 and again.metrics_names == ["loss", "mae", "r2"]
    assert same(train(again, 4, start=2), straight)
    assert same(stopped, train(stack(OPTIMIZERS[name]()), 2))


def test_training_goes_on_in_another_process(tmp_path: Path) -> None:
    train(stack(), 2).save(tmp_path / "model.aforo")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    code = (
        "import conftest, sys, numpy as np, aforo as af; assert 'safetensors' not in sys.modules; data = np.load('data.npz');"
        "model = af.load_model('model.aforo');"
        "model.fit(data['x'], data['y'], epochs=4, initial_epoch=2, batch_size=16, seed=7, verbose=0);"
        "model.save('model.aforo')"
    )
    roots = [str(Path(__file__).parent.parent / each) for each in ("framework", "backends", "tests")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)
    assert same(af.load_model(tmp_path / "model.aforo"), train(stack(), 4))


def test_a_learning_rate_that_was_changed_and_layers_that_were_frozen_stay_so(tmp_path: Path) -> None:
    def begun() -> af.Sequential:
        model = stack(af.SGD(0.1, momentum=0.9))
        train(model, 1)
        assert model.optimizer is not None
        model.optimizer.learning_rate = 0.003
        model.layers[0].trainable = model.layers[1].trainable = False
        return model

    model = begun()
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    assert again.optimizer.learning_rate == 0.003
    assert [layer.trainable for layer in again.layers] == [False, False, True, True, True, True, True]
    straight = train(begun(), 3, start=1)
    assert same(train(again, 3, start=1), straight)
    again.layers[0].trainable = True
    assert len(again.trainable_weights) == 8


def test_a_model_that_lives_elsewhere_loads_on_the_cpu_and_moves(tmp_path: Path) -> None:
    model = train(stack().to("simulated"), 2)
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    assert (again.device, model.device) == ("cpu", "simulated") and same(again, model)
    assert same(train(again.to("simulated"), 3, start=2), train(model, 3, start=2))


def test_weights_that_are_not_there_yet_are_drawn_before_they_are_saved(tmp_path: Path) -> None:
    turn = iter(range(9))

    def counted(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
        return np.full(shape, next(turn), dtype)

    model = af.Sequential([af.Dense(3, input_shape=[2], kernel_initializer=counted)])
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", {"counted": counted})
    assert again.get_weights()[0].tolist() == model.get_weights()[0].tolist() == [[0.0] * 3] * 2


def test_arrays_that_lie_column_by_column_arrive_as_they_are(tmp_path: Path) -> None:
    def transposed(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
        return np.arange(np.prod(shape), dtype=dtype).reshape(shape[::-1]).T

    model = af.Sequential([af.Dense(3, input_shape=[2], kernel_initializer=transposed)])
    model.save_weights(tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["dense/kernel"].tolist() == [[0, 2, 4], [1, 3, 5]]
    other = af.Sequential([af.Dense(3, input_shape=[2])])
    other.load_weights(tmp_path / "w.safetensors")
    assert other.get_weights()[0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_the_writer_itself_lays_arrays_row_by_row(tmp_path: Path) -> None:
    from aforo.io.archive import read, write

    arrays = {"t": np.arange(6.0).reshape(2, 3).T, "strided": np.arange(8)[::2], "number": np.array(3.5)}
    write(str(tmp_path / "a"), {"weights": []}, arrays)
    for name, values in read(str(tmp_path / "a")).arrays.items():
        assert values.shape == arrays[name].shape and np.array_equal(values, arrays[name])


def test_a_model_without_sizes_or_training_keeps_its_seeds(tmp_path: Path) -> None:
    af.set_seed(4)
    model = af.Sequential([af.Dense(3), af.Dense(2)], name="small", dtype="float64")
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    assert (again.name, again.built, again.optimizer) == ("small", False, None)
    assert np.array_equal(again.predict(X), model.predict(X)) and again.predict(X).dtype == np.float64
    with pytest.raises(af.Error, match="does not know its input size"):
        unfit = af.Sequential([layer := af.Dense(3)])
        layer(X)
        unfit.save(tmp_path / "model.aforo")


# --- the user's own ---------------------------------------------------------------------------------------------------


class Block(af.Layer):
    def __init__(self, units: int, rates: tuple[float, ...], options: dict[str, Any], activation: Any = None) -> None:
        super().__init__()
        self.inner = [af.Dense(units, activation=activation), af.Dropout(rates[0])]
        self.scale = options["scale"]

    def build(self, input_shape: Any) -> None:
        self.shift = self.add_weight([1], "zeros", "shift")
        self.later = af.Dropout(0.3)

    def forward(self, x: Any) -> Any:
        for layer in self.inner:
            x = layer(x)
        return self.later(x) * self.scale + self.shift


def bent(z: Any) -> Any:
    return af.ops.sin(z) * z


def far(y_true: Any, y_pred: Any) -> Any:
    return af.ops.mean(af.ops.absolute(y_true - y_pred))


class Half(af.SGD):
    def __init__(self, lr: float) -> None:
        super().__init__(lr / 2)
        self.lr = lr


def own() -> af.Sequential:
    af.set_seed(8)
    model = af.Sequential(
        [Block(4, (0.5,), {"scale": np.float32(2)}, activation=bent), af.Dense(2, activation=lambda z: z * 2)]
    )
    model.compile(loss=far, optimizer=Half(0.02), metrics=[af.losses.mse, lambda y_true, y_pred: y_true * y_pred])
    return model


def test_what_a_user_wrote_is_named_and_given_back(tmp_path: Path) -> None:
    objects = {"Block": Block, "bent": bent, "far": far, "Half": Half, "dense.activation": lambda z: z * 2}
    objects["metrics[1]"] = lambda y_true, y_pred: y_true * y_pred
    train(own(), 2).save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", custom_objects=objects)
    assert again.layers[0].later._stream == own().layers[0].inner[1]._stream.__class__(8, 5)
    assert same(train(again, 4, start=2), train(own(), 4))
    with pytest.raises(af.Error) as raised:
        af.load_model(tmp_path / "model.aforo", {"Block": Block, "bend": bent, "far": far, "Half": Half})
    text = str(raised.value)
    assert "uses what only you have: 'bent' (a function; not 'bend'?), 'dense.activation' (a function), 'metrics[1]'" in text
    assert "received: 'Block', 'bend', 'far', 'Half'" in text
    assert f'fix: af.load_model({str(tmp_path / "model.aforo")!r}, custom_objects={{"Block": Block, "bent": bent,' in text
    with pytest.raises(af.Error, match=r"custom_objects\['Block'\] must be a class"):
        af.load_model(tmp_path / "model.aforo", {**objects, "Block": bent})
    with pytest.raises(af.Error, match="custom_objects maps names"):
        af.load_model(tmp_path / "model.aforo", [Block])  # type: ignore[arg-type]


def test_two_functions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def make(n: float) -> Callable[[Any], Any]:
        def scaled(z: Any) -> Any:
            return z * n

        return scaled

    two, three = make(2.0), make(3.0)
    model = af.Sequential([af.Dense(2, two, input_shape=[6]), af.Dense(2, three), af.Activation(two)])
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", {"scaled": two, "dense_1.activation": three})
    assert np.array_equal(again.predict(X), model.predict(X))


def test_losses_metrics_and_rates_of_ones_own_are_given_back(tmp_path: Path) -> None:
    def rate(step: Any) -> Any:
        return 0.1 / (1.0 + step)

    def far(y_true: Any, y_pred: Any) -> Any:
        return {"sum": af.ops.sum(af.ops.absolute(y_true - y_pred))}

    top, loss = Metric("far", far), af.losses.Loss("ends", lambda y_true, y_pred: af.losses.mse.per_sample(y_true, y_pred))
    model = af.Sequential([af.Dense(2, input_shape=[6])])
    model.compile(loss, af.SGD(rate), [top, "mae"])
    train(model, 1).save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", {"far": top, "ends": loss, "rate": rate})
    assert same(train(again, 2, start=1), train(model, 2, start=1)) and again.metrics_names == ["loss", "far", "mae"]
    with pytest.raises(af.Error, match=r"'ends' \(a loss\), 'far' \(a metric\), 'rate' \(a function\)"):
        af.load_model(tmp_path / "model.aforo")
    with pytest.raises(af.Error, match=r"custom_objects\['far'\] must be a metric"):
        af.load_model(tmp_path / "model.aforo", {"far": rate, "ends": loss, "rate": rate})


def test_how_often_the_right_class_is_among_the_first_is_aforos_own_for_any_number(tmp_path: Path) -> None:
    model = af.Sequential([af.Dense(4, "softmax", input_shape=[6])])
    model.compile("sparse_categorical_crossentropy", metrics=[af.metrics.top_k(2), "top_3"])
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    labels = np.arange(len(X)) % 4
    assert again.metrics_names == ["loss", "top_2", "top_3"]
    assert again.evaluate(X, labels) == model.evaluate(X, labels) == pickle.loads(pickle.dumps(model)).evaluate(X, labels)
    p = model.predict(X)
    first = np.mean([label in np.argsort(row)[-2:] for label, row in zip(labels, p, strict=True)])
    assert model.evaluate(X, labels)[1] == pytest.approx(first)


def test_what_models_are_made_of_can_be_pickled() -> None:
    layer, x = af.Dense(3), af.tensor(X)
    unbuilt = pickle.loads(pickle.dumps(af.Dense(3, "relu")))
    assert unbuilt(x).shape == (len(X), 3)
    expected = layer(x).numpy()
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert np.array_equal(copied(x).numpy(), expected)
        copied.kernel.assign(np.zeros((6, 3)))
    assert np.array_equal(layer(x).numpy(), expected), "a copy shares its weights"
    drawn = af.Dense(3, input_shape=[6])
    af.Sequential([drawn])  # it has weights, whose values nobody has asked for yet
    assert np.array_equal(pickle.loads(pickle.dumps(drawn)).kernel.numpy(), drawn.kernel.numpy())
    sequences = af.tensor(np.stack([X[:4]] * 3, 1))
    for kind in (af.LSTM, af.GRU, af.SimpleRNN):
        used, declared = kind(3), kind(3)
        expected = used(sequences).numpy()
        af.Sequential([af.Input([None, 6]), declared])
        for again in (copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
            assert np.array_equal(again(used)(sequences).numpy(), expected)
            assert np.array_equal(again(used.weights[2]).numpy(), used.weights[2].numpy())
            assert np.array_equal(again(declared).bias.numpy(), declared.bias.numpy())
    product = pickle.loads(pickle.dumps(x * 2.0))
    assert np.array_equal(product.numpy(), 2 * X) and copy.deepcopy(x * 2.0).numpy().shape == X.shape
    adam = pickle.loads(pickle.dumps(af.Adam(0.25, clipnorm=1.0)))
    assert (adam.learning_rate, adam.clip) == (0.25, ("clipnorm", 1.0))
    for function in (af.ops.sin, af.ops.add, af.ops.relu, af.losses.mse, af.metrics.r2):
        assert pickle.loads(pickle.dumps(function)) == function


def test_a_tensor_from_elsewhere_has_its_place_before_what_is_made_of_it(tmp_path: Path) -> None:
    """Also in a process that has made fewer tensors than the one it comes from."""
    made = "import pickle, aforo as af\nfor _ in range(5000): t = af.tensor([1.0, 2.0])\npickle.dump(t, open('t', 'wb'))"
    taken = (
        "import pickle, aforo as af\nt = pickle.load(open('t', 'rb'))\ny = t * t\nassert t.serial < y.serial\n"
        "assert (af.grad(af.ops.sum(y * t), t).numpy() == [3.0, 12.0]).all()"
    )
    for code in (made, taken):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_class_that_has_changed_is_named(tmp_path: Path) -> None:
    own().save(tmp_path / "model.aforo")
    objects: dict[str, Any] = {
        "Block": Block,
        "bent": bent,
        "far": far,
        "Half": Half,
        "metrics[1]": far,
        "dense.activation": bent,
    }

    class Other(af.Layer):
        def __init__(self) -> None:
            super().__init__()

    with pytest.raises(af.Error, match=r"Other cannot be made with the options in the file: .*unexpected keyword") as raised:
        af.load_model(tmp_path / "model.aforo", {**objects, "Block": Other})
    assert "a class that takes units, rates, options, activation" in str(raised.value)

    train(own(), 1).save(tmp_path / "model.aforo")

    class Wider(Block):
        def __init__(self, units: int, rates: Any, options: Any, activation: Any = None) -> None:
            super().__init__(units + 1, rates, options, activation)

    with pytest.raises(af.Error, match=r"weight 1 in .* does not fit the model") as raised:
        af.load_model(tmp_path / "model.aforo", {**objects, "Block": Wider})
    assert "expected: block/dense/kernel (6, 5)\n  received: block/dense/kernel (6, 4)" in str(raised.value)


def test_targets_that_only_the_data_said_are_remembered(tmp_path: Path) -> None:
    def picked(y_true: Any, y_pred: Any) -> Any:
        return -af.ops.sum(af.ops.one_hot(y_true, 2) * y_pred, -1)

    model = af.Sequential([af.Dense(2, "softmax")])
    model.compile(loss=picked, optimizer="sgd")
    labels = (X[:, 0] > 0).astype("int64")
    model.fit(X, labels, epochs=1, verbose=0)
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo", {"picked": picked})
    assert again.evaluate(X, labels) == model.evaluate(X, labels)


def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    class Net(af.Sequential):
        pass

    class Many(af.Layer):
        def __init__(self, *sizes: int) -> None:
            super().__init__()

    class Held(af.Layer):
        def __init__(self, thing: Any) -> None:
            super().__init__()

    class Forgetful(af.SGD):
        def __init__(self, speed: float) -> None:
            super().__init__(speed)

    path = tmp_path / "model.aforo"
    path.write_text("old")
    forgetful = af.Sequential([af.Dense(1, input_shape=[2])])
    forgetful.compile(loss="mse", optimizer=Forgetful(0.1))
    for model, text in (
        (Net([af.Dense(1, input_shape=[2])], name="n"), "Net 'n', a class derived from Model, cannot be saved whole"),
        (af.Sequential([Many(1, 2)]), "layer 'many', whose __init__ takes [*]args, cannot be saved"),
        (
            af.Sequential([Held(object())]),
            "held.thing cannot be saved.\n  expected: numbers.*\n  received: an object of object",
        ),
        (forgetful, "optimizer, a Forgetful, cannot be saved(.|\n)*no attribute 'speed'(.|\n)*fix: self.speed = speed"),
    ):
        with pytest.raises(af.Error, match=text):
            model.save(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["model.aforo"]


# --- files that cannot be used ----------------------------------------------------------------------------------------


def change(path: Path, edit: Callable[[dict[str, str]], None]) -> None:
    """Write a file again with other metadata."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    edit(metadata)
    save_file(load_file(path), path, metadata)


def damage(path: Path, **changes: Any) -> None:
    change(path, lambda metadata: metadata.update(config=json.dumps({**json.loads(metadata["config"]), **changes})))


def test_files_that_are_none_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.aforo"
    model = stack()
    before = model.get_weights()

    def refused(text: str) -> None:
        for load in (af.load_model, model.load_weights):
            with pytest.raises(af.Error, match=text) as raised:
                load(path)
            assert repr(str(path)) in str(raised.value)

    refused("cannot be read.\n  expected: a file that exists\n  received: No such file")
    for text in ("", "a text", "x" * 5000):
        path.write_text(text)
        refused("is no file of Aforo's, or only a part of one")
    model.save(path)
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(f"only a part of one(.|\n)*received: {size:,} bytes")
    save_file({"a": np.zeros(3)}, path)
    refused("was not written by Aforo(.|\n)*of format None")
    path.write_bytes(whole)
    change(path, lambda metadata: metadata.update(version="2"))
    refused(
        "another version of Aforo.\n  expected: version 1 of the format\n  received: version 2\n  fix: pip install -U aforo"
    )
    path.write_bytes(whole)
    change(path, lambda metadata: metadata.update(config="{"))
    refused("the configuration in .* is damaged")
    path.write_bytes(whole)
    damage(path, weights=["nowhere/kernel"])
    refused("the configuration in .* is damaged")
    path.write_bytes(whole)
    damage(path, layers=[])
    with pytest.raises(af.Error, match=r"the configuration in .* is damaged"):
        af.load_model(path)
    assert all(map(np.array_equal, before, model.get_weights()))
    with pytest.raises(af.Error, match="a file is given by its path"):
        af.load_model(3)
    path.unlink()
    path.mkdir()
    refused("cannot be read")


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.aforo"
    train(stack(), 1).save(path)
    before = path.read_bytes()

    def torn(arrays: Any, name: str, metadata: Any) -> None:
        Path(name).write_bytes(before[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.numpy.save_file", torn)
        with pytest.raises(af.Error, match=r"cannot be written. What was there before is untouched(.|\n)*No space left"):
            stack().save(path)

    def stopped(source: str, target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            stack().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.aforo"]
    with pytest.raises(af.Error, match="cannot be written"):
        stack().save(tmp_path / "nowhere" / "model.aforo")
    with pytest.raises(af.Error, match="a file is given by its path"):
        stack().save(None)  # type: ignore[arg-type]
    link = tmp_path / "link.aforo"
    link.symlink_to(path)
    stack().save(link)
    assert link.is_symlink() and path.read_bytes() != before


# --- weights alone ----------------------------------------------------------------------------------------------------


def test_weights_go_by_order_and_must_fit(tmp_path: Path) -> None:
    def pair(first: str, second: str, width: int = 4, bias: bool = True) -> af.Sequential:
        layers = [af.Dense(4, name=first, input_shape=[4]), af.Dense(width, name=second, use_bias=bias)]
        return af.Sequential(layers)

    saved = pair("a", "b")
    saved.save_weights(tmp_path / "w.safetensors")
    for path, write in ((tmp_path / "w.safetensors", saved.save_weights), (tmp_path / "m.aforo", saved.save)):
        write(path)
        other = pair("c", "d")
        other.load_weights(path)
        assert all(map(np.array_equal, saved.get_weights(), other.get_weights()))
    for other, text in (
        (pair("a", "b", bias=False), "another number of weights(.|\n)*3: a/kernel, a/bias, b/kernel\n  received: 4: a/kernel"),
        (pair("a", "b", width=3), r"weight 2 in(.|\n)*expected: b/kernel \(4, 3\)\n  received: b/kernel \(4, 4\)"),
        (pair("b", "a"), r"weight 0 in(.|\n)*expected: b/kernel \(4, 4\)\n  received: a/kernel \(4, 4\)"),
    ):
        before = other.get_weights()
        with pytest.raises(af.Error, match=text):
            other.load_weights(tmp_path / "w.safetensors")
        assert all(map(np.array_equal, before, other.get_weights()))
    norm = af.Sequential([af.BatchNormalization(input_shape=[4]), af.BatchNormalization(center=False, scale=False)])
    norm.save_weights(tmp_path / "n.safetensors")
    with pytest.raises(af.Error, match=r"expected: layer_normalization/gamma \(4,\)"):
        swapped = af.Sequential([af.LayerNormalization(input_shape=[4]), af.BatchNormalization(), af.Dropout(0.1)])
        swapped.load_weights(tmp_path / "n.safetensors")
    with pytest.raises(af.Error, match=r"holds weights only(.|\n)*fix: model.load_weights\("):
        af.load_model(tmp_path / "w.safetensors")
    with pytest.raises(af.Error, match="does not know its input size"):
        af.Sequential([af.Dense(2)]).load_weights(tmp_path / "w.safetensors")


# --- any arrangement --------------------------------------------------------------------------------------------------


def branched() -> af.Model:
    """Shared and nested layers, operations, constants, arrays and weights between them, several inputs and outputs."""
    af.set_seed(21)
    encoder = af.Sequential([af.Dense(4, activation="tanh", input_shape=[6]), af.Dropout(0.3)], name="encoder")
    a, b, words = af.Input([6], name="a"), af.Input([6], name="b"), af.Input([3], dtype="int64", name="words")
    code = encoder(a) * 2.0 + encoder(b)[:, 1:3].mean(-1, keepdims=True)
    text = af.Flatten()(af.Embedding(10, 2)(words))
    again = af.Dense(4)
    h = again(again(code)) @ again.kernel.T + af.tensor(np.arange(4.0)) * again.bias
    inner_in = af.Input([4])
    inner = af.Model(inner_in, encoder.layers[0](af.Concatenate()([inner_in, inner_in[:, :2]])), name="inner")
    joined = af.Concatenate(name="joined")([inner(h), text, af.ops.mean(af.ops.softmax(code), -1, keepdims=True)])
    outputs = {"left": af.Dense(2, name="l")(joined), "right": af.ops.sigmoid(af.Dense(2, name="r")(joined))}
    model = af.Model([a, b, words], outputs, name="branched")
    model.compile({"left": "mse", "right": "huber"}, af.Adam(0.01), {"left": ["mae"]}, {"left": 0.5})
    return model


def test_a_net_of_any_arrangement_comes_back_and_trains_on(tmp_path: Path) -> None:
    data = [X, X[::-1].copy(), RNG.integers(0, 10, (40, 3))]
    targets = {"left": Y, "right": Y}

    def fit(model: af.Model, epochs: int, start: int = 0) -> af.Model:
        model.fit(data, targets, epochs=epochs, initial_epoch=start, batch_size=16, seed=2, verbose=0)
        return model

    model = fit(branched(), 2)
    model.save(tmp_path / "model.aforo")
    af.set_seed(0)
    again = af.load_model(tmp_path / "model.aforo")
    assert again.name == "branched" and [x.name for x in again.inputs] == ["a", "b", "words"]
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert again.metrics_names == model.metrics_names and again.output_names == ("left", "right")
    found, expected = again.predict(data), model.predict(data)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    shared = next(layer for layer in again.layers if layer.name == "inner").layers
    assert again.layers[0].layers[0] in shared
    assert again.memory(16).total_bytes == model.memory(16).total_bytes
    assert same(fit(again, 4, start=2), fit(branched(), 4))
    again.save(tmp_path / "again.aforo")
    assert same(af.load_model(tmp_path / "again.aforo"), again)


def test_a_layer_that_stands_twice_in_a_stack_is_one_layer(tmp_path: Path) -> None:
    twice = af.Dense(6, name="twice")
    model = af.Sequential([af.Dense(6, input_shape=[6]), twice, af.Sequential([twice, af.Dropout(0.5)], name="inside")])
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    assert again.layers[1] is again.layers[2].layers[0]
    assert np.array_equal(again.predict(X), model.predict(X))


def test_a_weight_of_a_layer_outside_the_net_is_refused(tmp_path: Path) -> None:
    outside = af.Dense(3, name="outside")
    outside(X)
    x = af.Input([6])
    with pytest.raises(af.Error, match=r"uses outside.kernel, whose layer it does not hold"):
        af.Model(x, x @ outside.kernel).save(tmp_path / "model.aforo")


def test_what_counts_rows_or_steps_counts_them_again(tmp_path: Path) -> None:
    x = af.Input([None, 3])
    numbers = af.ops.reshape(af.ops.iota(x.shape[1], "float32"), (1, x.shape[1], 1))
    model = af.Model(x, af.Dense(2)(x * numbers + af.ops.mean(x, 1, keepdims=True)))
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    for length in (5, 9):
        series = RNG.normal(size=(4, length, 3))
        assert np.array_equal(again.predict(series), model.predict(series))


def test_recurrent_layers_are_layers(tmp_path: Path) -> None:
    af.set_seed(6)
    x = af.Input([None, 3])
    model = af.Model(x, af.Dense(2)(af.GRU(3)(af.LSTM(4, return_sequences=True)(x))))
    model.compile("mse", af.Adam(0.01))
    series = RNG.normal(size=(8, 5, 3))
    model.fit(series, Y[:8], epochs=1, seed=1, verbose=0)
    stacked = af.Sequential([af.Input([None, 3]), af.SimpleRNN(4), af.Dense(1)])  # type: ignore[list-item]
    for each in (model, stacked):
        each.save(tmp_path / "model.aforo")
        again = af.load_model(tmp_path / "model.aforo")
        assert np.array_equal(again.predict(series), each.predict(series))


def _crossing() -> tuple[af.Model, Any]:
    """Two edges that cross, one with a mask and a learnt start, one with a start that an input gives; a layer between."""
    x, mask, start = af.Input([None, 3]), af.Input([None], dtype="bool"), af.Input([4])
    far = af.Feedback([2], initial_state="learnt", mask=mask, name="far")
    near = af.Feedback([4], initial_state=af.Dense(4)(start) * 0.5)
    h = af.Dense(4, activation="tanh")(af.Concatenate()([x, far, near]))
    near.connect(h)
    y = af.Dense(2, activation="sigmoid")(af.GRU(3, return_sequences=True)(h) + af.ops.mean(near, -1, keepdims=True))
    far.connect(y)
    series = RNG.normal(size=(6, 5, 3))
    return af.Model([x, mask, start], af.Dense(2)(y)), [series, RNG.random((6, 5)) > 0.3, RNG.normal(size=(6, 4))]


def _truncated() -> tuple[af.Model, Any]:
    x = af.Input([None, 3])
    back = af.Feedback([5], initial_state=np.full(5, 0.5), truncate=2)
    state = af.Dense(5, activation="tanh")(af.Concatenate()([x, back]))
    back.connect(state)
    return af.Model(x, af.Dense(2)(state)), RNG.normal(size=(6, 5, 3))


def _driven_by_nothing() -> tuple[af.Model, Any]:
    """A cycle that no input drives, within a model that is a layer of another one; recomputed."""
    x = af.Input([3])
    back = af.Feedback([3], initial_state=x, recompute=True)
    state = af.Dense(3, activation="tanh")(back)
    back.connect(state)
    inner = af.Model(x, state, steps=5)
    outside = af.Input([3])
    return af.Model(outside, af.Dense(2)(inner(outside))), RNG.normal(size=(6, 3))


@pytest.mark.parametrize("make", [_crossing, _truncated, _driven_by_nothing])
def test_a_cyclic_net_goes_on_as_if_it_had_not_stopped(make: Any, tmp_path: Path) -> None:
    af.set_seed(6)
    model, x = make()
    y = RNG.normal(size=(6, 5, 2))
    model.compile("mse", af.Adam(0.01))
    model.fit(x, y, epochs=1, seed=1, verbose=0)
    model.save(tmp_path / "model.aforo")
    again = af.load_model(tmp_path / "model.aforo")
    for each in (model, again):
        each.fit(x, y, epochs=2, initial_epoch=1, seed=1, verbose=0)
    assert same(again, model)
    assert np.array_equal(again.predict(x), model.predict(x))
    again.save(tmp_path / "again.aforo")
    model.save(tmp_path / "model.aforo")
    assert read(str(tmp_path / "again.aforo")).config == read(str(tmp_path / "model.aforo")).config


# --- copies -----------------------------------------------------------------------------------------------------------


def double(x: Any) -> Any:
    return 2.0 * af.ops.tanh(x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("device", ["cpu", "simulated"])
def test_a_copy_of_a_model_goes_on_by_itself(copied: Any, device: str) -> None:
    if device == "simulated" and simulated.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    af.set_seed(3)
    model = af.Sequential([af.Dense(5, double, input_shape=[6]), af.Dropout(0.2), af.Dense(2)]).to(device)
    model.compile("mse", af.Adam(0.01))
    model.fit(X, Y, epochs=2, seed=1, verbose=0)
    again = copied(model)
    assert again.device == model.device and np.array_equal(again.predict(X), model.predict(X))
    before = model.get_weights()
    again.fit(X, Y, epochs=3, initial_epoch=2, seed=1, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(a, b), "the copy trains the original"
    model.fit(X, Y, epochs=3, initial_epoch=2, seed=1, verbose=0)
    assert same(again, model)


@pytest.mark.parametrize("device", ["cpu", "simulated"])
def test_copies_of_layers_and_tensors_have_memory_of_their_own(device: str) -> None:
    if device == "simulated" and simulated.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    model = af.Sequential([af.Dense(3, input_shape=[6])]).to(device)
    expected = model.predict(X)
    held = af.memory.allocated(device)
    layer = copy.deepcopy(model.layers[0])
    assert af.memory.allocated(device) > held
    other = af.Sequential([layer]).to(device)
    layer.bias.assign(np.ones(3))
    assert_close(other.predict(X), expected + 1, 1e-6)
    assert np.array_equal(model.predict(X), expected)
    t = af.tensor([1.0, 2.0]).to(device)
    again = copy.deepcopy(t)
    t.assign([5.0, 6.0])
    assert again.device == device and list(again.numpy()) == [1.0, 2.0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("simulated", marks=needs_compiler)])
@pytest.mark.parametrize("how", ["file", "deepcopy", "pickle"])
def test_the_next_step_of_a_copy_goes_on_from_the_states_that_were_kept(how: str, device: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    inputs, back = af.Input([None, 4]), af.Feedback([2], initial_state="learnt")
    out = af.Dense(2)(af.LSTM(5, return_sequences=True)(af.Concatenate()([inputs, back])))
    back.connect(out)
    model = af.Model(inputs, out).to(device)
    expected = model.predict(x)
    for t in range(3):
        model.step(x[:, t])
    model.save(tmp_path / "model.aforo")
    copies = {
        "file": lambda: af.load_model(tmp_path / "model.aforo"),
        "deepcopy": lambda: copy.deepcopy(model),
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
    }
    again = copies[how]()
    with pytest.raises(af.Error, match="keeps states for 3 sequences"):
        again.step(x[:2, 3])
    assert_close(again.step(x[:, 3:]), expected[:, 3:], 1e-5)
    assert_close(model.step(x[:, 3:]), expected[:, 3:], 1e-5)
    model.layers[0].name = "renamed"
    assert_close(copy.deepcopy(model).step(x[:, :1]), model.step(x[:, :1]), 1e-6)
    again.reset_states()
    assert_close(again.step(x[:2, :2]), expected[:2, :2], 1e-5)
    fresh = af.load_model(tmp_path / "model.aforo")
    fresh.reset_states()
    fresh.save(tmp_path / "fresh.aforo")
    assert af.load_model(tmp_path / "fresh.aforo").stepped_rows is None
