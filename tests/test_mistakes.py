"""Mistakes people make: each is named, with what was expected, what came and a fix; and nothing changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from nets import Array, Net, assert_same_bits

import aforo as af

RNG = np.random.default_rng(0)
ROWS = 20
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
Y = RNG.normal(size=(ROWS, 2)).astype(np.float32)
LABELS = np.arange(ROWS) % 3
HOT = np.eye(3, dtype=np.float32)[LABELS]

MOMENTUM = {"learning_rate": 0.1, "momentum": 0.9}
NETS = {
    "regression": Net(optimizer=MOMENTUM),
    "categorical": Net((3, 4, 3), ("tanh", "softmax"), "categorical_crossentropy", MOMENTUM, metrics="accuracy"),
    "sparse": Net((3, 4, 3), ("tanh", "softmax"), "sparse_categorical_crossentropy", MOMENTUM),
    "binary": Net((3, 4, 1), ("tanh", "sigmoid"), "binary_crossentropy", MOMENTUM),
    "binary of three": Net((3, 4, 3), ("tanh", "sigmoid"), "binary_crossentropy", MOMENTUM),
}
GOOD = {
    "regression": Y,
    "categorical": HOT,
    "sparse": LABELS,
    "binary": (LABELS == 0).astype(np.float32)[:, None],
    "binary of three": HOT,
}
FIT = {"verbose": 0}


@dataclass(frozen=True)
class Mistake:
    """What someone does to a model of a kind, and what they must be told.

    says: what was expected and what was received, in words or numbers. fix: what the line that begins with fix holds.
    """

    name: str
    act: Callable[[Any], Any]
    kind: type[Exception] | tuple[type[Exception], ...]
    says: tuple[str, ...]
    fix: str
    net: str = "regression"


def with_value(array: Array, row: int, value: Any) -> Array:
    array = np.array(array, np.float64)
    array.reshape(len(array), -1)[row, -1] = value
    return array


def fitting(x: Any, y: Any = Y, **options: Any) -> Callable[[Any], Any]:
    return lambda m: m.fit(x, y, **{**FIT, **options})


def adding(layer: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda m: m.add(layer())


def compiling(**options: Any) -> Callable[[Any], Any]:
    return lambda m: m.compile(**{"loss": "mse", **options})


V, T, R = ValueError, TypeError, RuntimeError

DATA = [
    Mistake("NaN in x", fitting(with_value(X, 4, np.nan)), V, ("x holds nan in row 4", "finite"), "nan_to_num"),
    Mistake("infinity in x", fitting(with_value(X, 7, -np.inf)), V, ("x holds -inf in row 7", "finite"), "isfinite"),
    Mistake("NaN in y", fitting(X, with_value(Y, 19, np.nan)), V, ("y holds nan in row 19", "finite"), "nan_to_num"),
    Mistake("infinity in y", fitting(X, with_value(Y, 0, np.inf)), V, ("y holds inf in row 0", "finite"), "isfinite"),
    Mistake("too large for float32", fitting(with_value(X, 3, 1e300)), V, ("1e+300", "row 3", "float32"), "x"),
    Mistake("NaN to predict", lambda m: m.predict(with_value(X, 4, np.nan)), V, ("x holds nan in row 4",),
            "nan_to_num"),
    Mistake("NaN to evaluate", lambda m: m.evaluate(with_value(X, 4, np.nan), Y), V, ("x holds nan in row 4",),
            "nan_to_num"),
    Mistake("NaN in a batch", lambda m: m.train_on_batch(with_value(X, 4, np.nan), Y), V, ("x holds nan in row 4",),
            "isfinite"),
    Mistake("NaN in validation data", fitting(X, validation_data=(with_value(X, 2, np.nan), Y)), V,
            ("validation x holds nan in row 2",), "nan_to_num"),
    Mistake("NaN in the part that is held out", fitting(with_value(X, 19, np.nan), validation_split=0.2), V,
            ("x holds nan in row 19",), "nan_to_num"),
    Mistake("class out of range", fitting(X, np.where(np.arange(ROWS) == 5, 3, LABELS)), V,
            ("class 3 in row 5", "3 outputs", "from 0 to 2"), "af.Dense(4", "sparse"),
    Mistake("class out of range in a batch", lambda m: m.train_on_batch(X, LABELS + 7), V,
            ("class 7 in row 0", "from 0 to 2", "from 7 to 9"), "af.Dense(10", "sparse"),
    Mistake("classes from 1", fitting(X, LABELS + 1), V, ("class 3 in row 2", "from 0 to 2", "from 1 to 3"), "",
            "sparse"),
    Mistake("negative class", fitting(X, np.where(np.arange(ROWS) == 5, -1, LABELS)), V,
            ("class -1 in row 5", "from 0 to 2"), "y + 1", "sparse"),
    Mistake("fractions as classes", fitting(X, LABELS + 0.5), V, ("fractions", "0 to 2", "0.5"), "mse", "sparse"),
    Mistake("NaN as class", fitting(X, with_value(LABELS, 3, np.nan)), V, ("y holds nan in row 3",), "y", "sparse"),
    Mistake("class numbers with categorical cross-entropy", fitting(X, LABELS), V,
            ("categorical_crossentropy", "class numbers", "(n, 3)", "(20,)"), "sparse_categorical_crossentropy", "categorical"),
    Mistake("class numbers with categorical cross-entropy, how to encode them", fitting(X, LABELS[:, None]), V,
            ("one-hot", "(n, 3)", "(20, 1)"), "np.eye(3)[y.ravel()]", "categorical"),
    Mistake("one-hot rows with sparse cross-entropy", fitting(X, HOT), V, ("one-hot", "(n,)", "(20, 3)"),
            "categorical_crossentropy", "sparse"),
    Mistake("one-hot rows with sparse cross-entropy, how to decode them", fitting(X, HOT), V, ("one-hot",),
            "argmax(axis=-1)", "sparse"),
    Mistake("negative one-hot rows", fitting(X, HOT - 1), V, ("negative", "-1"), "one-hot", "categorical"),
    Mistake("three outputs with binary cross-entropy", fitting(X, LABELS == 0), V, ("3 outputs", "(n, 3)", "(20,)"),
            'af.Dense(1, activation="sigmoid")', "binary of three"),
    Mistake("three classes with binary cross-entropy", fitting(X, LABELS), V, ("0 to 1", "0 to 2"), "categorical",
            "binary"),
    Mistake("labels −1 and 1 with binary cross-entropy", fitting(X, np.where(LABELS, 1, -1)), V,
            ("0 to 1", "-1 to 1"), "y", "binary"),
    Mistake("ragged x", fitting([[1, 2, 3], [1, 2], [1, 2, 3]], Y[:3]), V, ("x", "row 0 has 3", "row 1 has 2"), "pad"),
    Mistake("ragged x of arrays", fitting([np.ones(3), np.ones(2)], Y[:2]), V, ("x", "row 0 has 3", "row 1 has 2"),
            "pad"),
    Mistake("ragged y", fitting(X[:3], [[1, 2], [1, 2], [1]]), V, ("y", "row 0 has 2", "row 2 has 1"), "pad"),
    Mistake("string labels", fitting(X, np.array(["cat", "dog"] * 10)), T, ("y holds text", "numbers", "'cat'"),
            "load_csv",
            "categorical"),
    Mistake("string labels, the other way out", fitting(X, ["cat", "dog"] * 10), T, ("y holds text",), "Classifier",
            "sparse"),
    Mistake("text in x", fitting([["1", "2", "tres"]] * ROWS), T, ("x holds text", "numbers", "'1'"), "load_csv"),
    Mistake("text among the numbers of x", fitting([[1, 2, "tres"]] * ROWS), T, ("x holds text", "tres"), "load_csv"),
    Mistake("nothing as x", fitting(None), T, ("x", "None"), ""),
    Mistake("nothing as y", fitting(X, None), T, ("y", "None"), ""),
    Mistake("a missing value in x", fitting([[1, 2, None]] * ROWS), T, ("x", "None"), ""),
    Mistake("one sample to predict", lambda m: m.predict(X[0]), V, ("(n, 3)", "(3,)"), "[None]"),
    Mistake("one sample to fit", fitting(X[0], Y[0]), V, ("(n, 3)", "(3,)"), "[None]"),
    Mistake("one sample as a list", lambda m: m.predict([1.0, 2.0, 3.0]), V, ("(n, 3)", "(3,)"), "[None]"),
    Mistake("one target", fitting(X[:1], Y[0]), V, ("y", "(n, 2)", "(2,)"), "[None]"),
    Mistake("wrong width of x", fitting(np.ones((ROWS, 5))), V, ("x", "(n, 3)", "(20, 5)"), "input_shape=[5]"),
    Mistake("wrong width to predict", lambda m: m.predict(np.ones((4, 5))), V, ("x", "(n, 3)", "(4, 5)"), ""),
    Mistake("transposed x", fitting(X.T, Y), V, ("x", "(n, 3)", "(3, 20)"), "x.T"),
    Mistake("wrong width of y", fitting(X, np.ones((ROWS, 3))), V, ("y", "(n, 2)", "(20, 3)"), "3 units"),
    Mistake("too few outputs in y", fitting(X, np.ones(ROWS)), V, ("y", "(n, 2)", "(20,)"), ""),
    Mistake("x and y of different lengths", fitting(X, Y[:7]), V, ("20 rows of x", "7 of y"), "x[keep]"),
    Mistake("x and y of different lengths to evaluate", lambda m: m.evaluate(X[:3], Y), V, ("3 rows of x", "20 of y"),
            "x[keep]"),
    Mistake("no rows", fitting(X[:0], Y[:0]), V, ("x is empty", "(n, 3)", "(0, 3)"), ""),
    Mistake("an empty list", fitting([], []), V, ("x is empty", "(n, 3)"), ""),
    Mistake("nothing to predict", lambda m: m.predict(X[:0]), V, ("x is empty", "(0, 3)"), ""),
    Mistake("complex x", fitting(X + 1j), T, ("x", "real", "complex"), "x.real"),
    Mistake("complex y", fitting(X, Y + 1j), T, ("y", "real", "complex"), "y.real"),
    Mistake("dates", fitting(np.full((ROWS, 3), np.datetime64("2020-01-01"))), T, ("x", "numbers", "datetime64"), ""),
    Mistake("sample weights of another length", fitting(X, sample_weight=np.ones(3)), V, ("(20,)", "(3,)"), ""),
    Mistake("a negative sample weight", fitting(X, sample_weight=with_value(np.ones(ROWS), 4, -2)), V,
            ("sample_weight", "negative", "-2"), ""),
    Mistake("NaN as sample weight", fitting(X, sample_weight=with_value(np.ones(ROWS), 4, np.nan)), V,
            ("sample_weight", "nan", "row 4"), ""),
    Mistake("a class without weight", fitting(X, LABELS, class_weight={0: 1.0, 1: 2.0}), V, ("every class", "2"),
            "{0:", "sparse"),
    Mistake("a word as class weight", fitting(X, LABELS, class_weight={0: "a", 1: 1, 2: 1}), T, ("class_weight",
            "'a'"), "",
            "sparse"),
    Mistake("NaN as class weight", fitting(X, LABELS, class_weight={0: math.nan, 1: 1, 2: 1}), V, ("class_weight",
            "nan"), "",
            "sparse"),
    Mistake("a negative class weight", fitting(X, LABELS, class_weight={0: -1, 1: 1, 2: 1}), V, ("class_weight",
            "-1"), "",
            "sparse"),
]  # fmt: skip

NAMES = [
    Mistake("a typo in a loss", compiling(loss="mes"), V, ("'mes'", "loss"), "'mse'"),
    Mistake("a typo in a long loss", compiling(loss="categorical_crosentropy"), V, ("crosentropy",),
            "'categorical_crossentropy'"),
    Mistake("a typo in an optimizer", compiling(optimizer="sdg"), V, ("'sdg'", "optimizer"), "'sgd'"),
    Mistake("a typo in a metric", compiling(metrics=["acuracy"]), V, ("'acuracy'", "metric"), "'accuracy'"),
    Mistake("a typo in an activation", adding(lambda: af.Dense(2, activation="rleu")), V, ("'rleu'", "activation"),
            "'relu'"),
    Mistake("a typo in an activation layer", adding(lambda: af.Activation("sofmax")), V, ("'sofmax'",), "'softmax'"),
    Mistake("a typo in an initializer", adding(lambda: af.Dense(2, kernel_initializer="glorot_unifrm")), V,
            ("'glorot_unifrm'", "initializer"), "'glorot_uniform'"),
    Mistake("a typo in a device", lambda m: m.to("cppu"), V, ("'cppu'", "device"), "'cpu'"),
    Mistake("a typo in a callback's method",
            (lambda m: af.callbacks.LambdaCallback(on_epoch_ends=print)), V, ("'on_epoch_ends'",), "'on_epoch_end'"),
    Mistake("a typo in an option of a layer", adding(lambda: af.Dense(2, activasion="relu")), T, ("activasion",
            "Dense"), "activation"),
    Mistake("a name nothing is near", compiling(loss="qqqqqqqqq"), V, ("'qqqqqqqqq'", "mse", "mae"), ""),
    Mistake("a device by number", lambda m: m.to(3), T, ("device", "3"), "cpu"),
    Mistake("the same metric twice", compiling(metrics=["mae", "mae"]), V, ("'mae'", "two"), "name"),
    Mistake("a number as metric", compiling(metrics=[3]), T, ("metric", "3"), "accuracy"),
    Mistake("a number as loss", compiling(loss=3), T, ("loss", "3"), "mse"),
    Mistake("no loss", lambda m: m.compile(), T, ("loss",), 'loss="mse"'),
    Mistake("loss and optimizer exchanged", lambda m: m.compile("sgd", "mse"), V, ("'mse'", "optimizer"), ""),
    Mistake("two layers of one name", adding(lambda: af.Dense(2, name="dense_1")), V, ("'dense_1'", "two"), "name"),
]  # fmt: skip

NUMBERS = [
    Mistake("batch_size 0", fitting(X, batch_size=0), V, ("batch_size", "1 or more", "0"), "batch_size="),
    Mistake("a negative batch_size", fitting(X, batch_size=-4), V, ("batch_size", "1 or more", "-4"), "batch_size="),
    Mistake("a fraction as batch_size", fitting(X, batch_size=2.5), T, ("batch_size", "whole", "2.5"), "batch_size="),
    Mistake("a string as batch_size", fitting(X, batch_size="32"), T, ("batch_size", "whole", "'32'"), "batch_size="),
    Mistake("batch_size 0 to predict", lambda m: m.predict(X, batch_size=0), V, ("batch_size", "1 or more", "0"),
            "batch_size="),
    Mistake("a fraction as batch_size to evaluate", lambda m: m.evaluate(X, Y, batch_size=0.5), T, ("batch_size",
            "0.5"), "batch_size="),
    Mistake("a batch_size of 0 in a plan", lambda m: m.memory(batch_size=0), V, ("batch_size", "1 or more", "0"),
            "batch_size="),
    Mistake("epochs 0", fitting(X, epochs=0), V, ("epochs", "1 or more", "0"), "epochs="),
    Mistake("a fraction as epochs", fitting(X, epochs=1.5), T, ("epochs", "whole", "1.5"), "epochs="),
    Mistake("a negative initial_epoch", fitting(X, initial_epoch=-1), V, ("initial_epoch", "0 or more", "-1"),
            "initial_epoch="),
    Mistake("validation_split 1.5", fitting(X, validation_split=1.5), V, ("validation_split", "less than 1", "1.5"),
            "validation_split="),
    Mistake("validation_split 1", fitting(X, validation_split=1), V, ("validation_split", "less than 1"),
            "validation_split="),
    Mistake("a negative validation_split", fitting(X, validation_split=-0.1), V, ("at least 0", "-0.1"),
            "validation_split="),
    Mistake("a split that leaves no row to train on", fitting(X[:2], Y[:2], validation_split=0.9), V, ("2 rows",
            "0.9"), ""),
    Mistake("validation data without targets", fitting(X, validation_data=X), T, ("(x_val, y_val)", "ndarray"),
            "validation_data=("),
    Mistake("unknown verbose", fitting(X, verbose=7), V, ("verbose", '"auto", 0, 1 or 2', "7"), "verbose="),
    Mistake("a word as verbose", fitting(X, verbose="loud"), V, ("verbose", "'loud'"), "verbose="),
    Mistake("a word as seed", fitting(X, seed="eleven"), T, ("seed", "whole", "'eleven'"), "11"),
    Mistake("a fraction as seed", lambda m: af.set_seed(1.5), T, ("seed", "whole", "1.5"), "set_seed(11)"),
    Mistake("a negative learning rate", lambda m: af.SGD(learning_rate=-0.1), V, ("learning_rate", "at least 0",
            "-0.1"), "learning_rate="),
    Mistake("a learning rate that is no number", lambda m: af.SGD(learning_rate=math.nan), V, ("learning_rate",
            "nan"), "learning_rate="),
    Mistake("a word as learning rate", lambda m: af.SGD(learning_rate="0.1"), T, ("learning_rate", "number", "'0.1'"),
            "learning_rate="),
    Mistake("a negative learning rate during training", lambda m: setattr(m.optimizer, "learning_rate", -1.0), V,
            ("learning_rate", "at least 0", "-1"), "learning_rate="),
    Mistake("momentum 2", lambda m: af.SGD(momentum=2), V, ("momentum", "at least 0", "1", "2"), "momentum="),
    Mistake("Nesterov without momentum", lambda m: af.SGD(nesterov=True), V, ("momentum",), "momentum=0.9"),
    Mistake("a layer of no units", adding(lambda: af.Dense(0)), V, ("units", "1 or more", "0"), "af.Dense("),
    Mistake("a layer of minus two", adding(lambda: af.Dense(-2)), V, ("units", "1 or more", "-2"), "af.Dense("),
    Mistake("units as a string", adding(lambda: af.Dense("4")), T, ("units", "whole", "'4'"), "af.Dense(4)"),
    Mistake("units as a fraction", adding(lambda: af.Dense(2.5)), T, ("units", "whole", "2.5"), "af.Dense("),
    Mistake("an input_shape of 0", adding(lambda: af.Dense(2, input_shape=[0])), V, ("input_shape", "1 or more",
            "[0]"), "input_shape="),
    Mistake("an input_shape in words", adding(lambda: af.Dense(2, input_shape="3")), T, ("input_shape", "whole",
            "'3'"), "input_shape="),
    Mistake("a batch axis in input_shape", adding(lambda: af.Dense(2, input_shape=[None, 3])), T, ("input_shape",
            "whole", "None"),
            "input_shape=[3]"),
]  # fmt: skip


class Branching(af.Layer):
    def forward(self, x: Any) -> Any:
        return x if x > 0 else -x


class Counting(af.Layer):
    def forward(self, x: Any) -> Any:
        return x * int(x.shape[0])


class Looping(af.Layer):
    def forward(self, x: Any) -> Any:
        for row in range(x.shape[0]):
            x = x + row
        return x


class Silent(af.Layer):
    def forward(self, x: Any) -> Any:
        x + 1


class Measuring(af.Layer):
    def forward(self, x: Any) -> Any:
        return x / float(x.sum())


class InNumPy(af.Layer):
    def forward(self, x: Any) -> Any:
        return np.exp(x)


class MeanInNumPy(af.Layer):
    def forward(self, x: Any) -> Any:
        return x - np.mean(x)


class Unfinished(af.Layer):
    pass


class WithoutSuper(af.Layer):
    def __init__(self) -> None:
        self.units = 3

    def forward(self, x: Any) -> Any:
        return x


class Fixed(af.Layer):
    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight([7, 2], name="kernel")

    def forward(self, x: Any) -> Any:
        return x @ self.kernel


class Iterating(af.Layer):
    def forward(self, x: Any) -> Any:
        return sum(row for row in x)


def uncompiled() -> Any:
    return af.Sequential([af.Dense(2, input_shape=[3])])


def empty() -> Any:
    model = af.Sequential()
    model.compile(loss="mse")
    return model


def headed(activation: Any, loss: str, units: int = 3) -> Callable[[Any], Any]:
    return lambda m: af.Sequential([af.Dense(units, activation, input_shape=[3])]).compile(loss=loss)


FORWARDS = [
    Mistake("no compile before fit", lambda m: uncompiled().fit(X, Y, **FIT), R, ("compiled",),
            'model.compile(loss="mse"'),
    Mistake("no compile before evaluate", lambda m: uncompiled().evaluate(X, Y), R, ("compiled",), "model.compile("),
    Mistake("no compile before a step", lambda m: uncompiled().train_on_batch(X, Y), R, ("compiled",),
            "model.compile("),
    Mistake("no compile before a plan", lambda m: uncompiled().memory(batch_size=4), R, ("compiled",),
            "model.compile("),
    Mistake("no layers to fit", lambda m: empty().fit(X, Y, **FIT), R, ("no layers",), "model.add(af.Dense("),
    Mistake("no layers to predict", lambda m: af.Sequential().predict(X), R, ("no layers",), "model.add("),
    Mistake("no layers, weights asked for", lambda m: af.Sequential().get_weights(), R, ("input size",), "af.Dense("),
    Mistake("no layer to take off", lambda m: af.Sequential().pop(), R, ("no layer",), ""),
    Mistake("no input shape, weights asked for", lambda m: af.Sequential([af.Dense(2)]).get_weights(), R,
            ("input size", "'sequential'"), "input_shape=[d_in]"),
    Mistake("no input shape, plan asked for", lambda m: af.Sequential([af.Dense(2)]).memory(training=False), R,
            ("input size",), "model.build((None, d_in))"),
    Mistake("nothing to train", lambda m: (lambda n: (n.compile(loss="mse"), n.fit(X, X, **FIT)))(
            af.Sequential([af.Activation("relu", input_shape=[3])])), R, ("no trainable weights",), "af.Dense"),
    Mistake("a layer's class", lambda m: m.add(af.Dense), T, ("class", "layer"), "af.Dense("),
    Mistake("an optimizer's class", compiling(optimizer=af.SGD), T, ("class", "optimizer"), "af.SGD("),
    Mistake("a callback's class", fitting(X, callbacks=[af.callbacks.Callback]), T, ("callback", "instance",
            "Callback"), "Callback()"),
    Mistake("a loss's class", compiling(loss=af.losses.Loss), T, ("loss", "Loss"), ""),
    Mistake("a layer's class as activation", adding(lambda: af.Dense(2, activation=af.Activation)), T, ("activation",
            "class"), ""),
    Mistake("something that is no layer", lambda m: m.add("dense"), T, ("layers", "'dense'"), "af.Dense("),
    Mistake("a function instead of a layer", lambda m: m.add(np.tanh), T, ("layers", "tanh"), "af.Activation("),
    Mistake("a number instead of a layer", lambda m: m.add(4), T, ("layers", "4"), "af.Dense(4)"),
    Mistake("something that is no callback", fitting(X, callbacks=[print]), T, ("callback", "print"), "LambdaCallback"),
    Mistake("a NumPy function as activation", adding(lambda: af.Dense(2, activation=np.tanh)), T,
            ("'tanh'", "NumPy", "'dense_3'", "differentiated"), "af.ops.tanh"),
    Mistake("a NumPy function inside an activation", adding(lambda: af.Dense(2, activation=lambda z: np.sin(z) * z)), T,
            ("NumPy", "'dense_3'"), "af.ops"),
    Mistake("a function of the math module as activation", adding(lambda: af.Dense(2, activation=math.tanh)), T,
            ("(batch, 2)",), "af.ops"),
    Mistake("a NumPy function in a forward", adding(InNumPy), T, ("NumPy", "'in_num_py'"), "af.ops.exp"),
    Mistake("a NumPy reduction in a forward", adding(MeanInNumPy), T, ("NumPy", "'mean_in_num_py'"), "af.ops.mean"),
    Mistake("an activation that gives nothing", adding(lambda: af.Dense(2, activation=lambda z: None)), T,
            ("'dense_3'", "tensor", "NoneType"), ""),
    Mistake("a linear head with categorical cross-entropy", headed(None, "categorical_crossentropy"), V,
            ("probabilities", "linear", "(batch, 3)"), 'activation="softmax"'),
    Mistake("a linear head with sparse cross-entropy", headed("none", "sparse_categorical_crossentropy"), V,
            ("probabilities", "linear"), 'activation="softmax"'),
    Mistake("a linear head with binary cross-entropy", headed(None, "binary_crossentropy", 1), V,
            ("probabilities", "linear", "sigmoid"), 'activation="sigmoid"'),
    Mistake("a branch on a value", adding(Branching), T, ("branch", "(batch, 2)", "'branching'"), "(x > 0) *"),
    Mistake("a value taken as a number", adding(Measuring), T, ("value", "'measuring'"), "af.ops"),
    Mistake("the batch size taken as a number", adding(Counting), V, ("batch", "every size", "'counting'"),
            "x.shape[0]"),
    Mistake("a loop over the batch", adding(Looping), V, ("batch", "every size", "'looping'"), "x.shape[0]"),
    Mistake("an iteration over a tensor", adding(Iterating), T, ("iterated", "'iterating'"), "slic"),
    Mistake("a forward that gives nothing", adding(Silent), T, ("'silent'", "tensor", "NoneType"), "return"),
    Mistake("a layer without a forward", adding(Unfinished), T, ("Unfinished", "forward"), "def forward"),
    Mistake("a layer that skips its base", adding(WithoutSuper), (V, T, R), ("WithoutSuper",), "super().__init__()"),
    Mistake("sizes that do not meet", adding(lambda: af.Dense(3, input_shape=[7])), V, ("'dense_3'", "(2,)", "(7,)",
            "'dense_2'"),
            "leave input_shape out"),
    Mistake("a kernel that does not fit", adding(Fixed), V, ("'fixed'", "(batch, 2)", "(7, 2)", "2 meets 7"), ""),
    Mistake("a layer that was built for another size", adding(lambda: af.Sequential([af.Dense(9, input_shape=[3]),
            af.Dense(4)]).pop()), V,
            ("vectors of 9", "(9, 4)", "(batch, 2)"), "af.Dense(4)"),
    Mistake("a loss that gives a number of Python", compiling(loss=lambda y_true, y_pred: 3), T, ("loss", "tensor",
            "int"), "af.ops"),
    Mistake("a loss of NumPy", compiling(loss=lambda y_true, y_pred: np.mean((y_true - y_pred) ** 2)), T, ("NumPy",
            "loss"), "af.ops.mean"),
    Mistake("a loss of another shape", compiling(loss=lambda y_true, y_pred: af.ops.mean(y_pred, 0)), V,
            ("one number, or one for each sample", "(2,)"), ""),
    Mistake("too few weights", lambda m: m.set_weights(m.get_weights()[:-1]), V, ("6", "5"), ""),
    Mistake("weights transposed", lambda m: m.set_weights([w.T for w in m.get_weights()]), V, ("dense.kernel",
            "(3, 4)", "(4, 3)"), ""),
    Mistake("integers as model's dtype", lambda m: af.Sequential(dtype="int32"), T, ("float32 or float64", "int32"),
            ""),
]  # fmt: skip

MISTAKES = [*DATA, *NAMES, *NUMBERS, *FORWARDS]


def fix_line(text: str) -> str:
    return next((line.split("fix:", 1)[1] for line in text.splitlines() if line.strip().startswith("fix:")), "")


def caught(mistake: Mistake, model: af.Sequential) -> BaseException:
    with pytest.raises(Exception) as error:
        mistake.act(model)
    return error.value


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_named_with_what_was_expected_and_what_came(mistake: Mistake) -> None:
    error = caught(mistake, NETS[mistake.net].model())
    assert isinstance(error, af.Error), f"{type(error).__name__} is no af.Error: {error}"
    assert isinstance(error, mistake.kind)
    text = str(error)
    missing = [piece for piece in mistake.says if piece not in text]
    assert not missing, f"{missing} not in:\n{text}"
    assert len(text) < 1500, "a dump of the data"
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__), "another exception hides it"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_comes_with_its_fix(mistake: Mistake) -> None:
    text = str(caught(mistake, NETS[mistake.net].model()))
    assert fix_line(text).strip(), f"no fix in:\n{text}"
    assert mistake.fix in fix_line(text), f"{mistake.fix!r} is not in the fix of:\n{text}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_changes_nothing_and_the_model_still_trains(mistake: Mistake) -> None:
    """The same steps with and without the mistake between them end at the same bits, momentum included."""
    net, y = NETS[mistake.net], GOOD[mistake.net]
    careful, careless = net.model(), net.model()
    for model in (careful, careless):
        model.fit(X, y, epochs=2, seed=1, **FIT)
    layers = list(careless.layers)
    caught(mistake, careless)
    assert careless.layers == layers
    assert careless.epochs_trained == 2
    assert careless.optimizer.learning_rate == careful.optimizer.learning_rate
    assert_same_bits(careless.get_weights(), careful.get_weights())
    histories = [model.fit(X, y, epochs=4, initial_epoch=2, seed=1, **FIT).history for model in (careful, careless)]
    assert histories[0] == histories[1]
    assert_same_bits(careless.get_weights(), careful.get_weights())
    assert careless.epochs_trained == 4


@pytest.mark.parametrize("mistake", DATA, ids=lambda m: m.name)
def test_a_mistake_in_the_first_data_leaves_a_new_model_as_good_as_new(mistake: Mistake) -> None:
    net, y = NETS[mistake.net], GOOD[mistake.net]
    careful, careless = net.model(), net.model()
    caught(mistake, careless)
    for model in (careful, careless):
        model.fit(X, y, epochs=2, seed=1, **FIT)
    assert_same_bits(careless.get_weights(), careful.get_weights())


# --- models with a forward of their own -------------------------------------------------------------------------------


def test_a_model_does_not_take_a_forward_that_nothing_would_run() -> None:
    for base in (af.Model, af.Sequential):
        with pytest.raises(af.Error, match=r"Twice has a forward of its own(.|\n)*fix: class Twice\(af.Layer\)"):
            type("Twice", (base,), {"forward": lambda self, x: x})


# --- no gradient ------------------------------------------------------------------------------------------------------


class Choosing(af.Layer):
    """Weights that reach the loss only through an argmax."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight([input_shape[-1], 4], name="kernel")

    def forward(self, x: Any) -> Any:
        choice = af.ops.cast(af.ops.argmax(x @ self.kernel), x.dtype)
        return choice.reshape(x.shape[0], 1)


class Signing(af.Layer):
    def forward(self, x: Any) -> Any:
        return af.ops.sign(x)


@pytest.mark.parametrize(("layer", "operation"), [(Choosing, "argmax"), (Signing, "sign")])
def test_an_operation_without_a_gradient_is_named_with_its_layer(layer: Any, operation: str) -> None:
    model = NETS["regression"].model()
    model.fit(X, Y, **FIT)
    before = model.get_weights()
    model.add(layer(name="culprit"))
    with pytest.raises(af.Error) as error:
        model.compile(loss="mse")
    text = str(error.value)
    assert isinstance(error.value, ValueError)
    assert operation in text and "'culprit'" in text
    assert "test_mistakes.py" in text  # the line of the user
    assert "softmax" in fix_line(text) or "differentiable" in fix_line(text)
    model.pop()
    model.compile(loss="mse", optimizer=af.SGD(**MOMENTUM))
    assert_same_bits(model.get_weights(), before)
    assert len(model.fit(X, Y, **FIT).history["loss"]) == 1


def test_a_forward_may_use_what_has_no_gradient_beside_what_has_one() -> None:
    class Gate(af.Layer):
        def forward(self, x: Any) -> Any:
            return x * (x > 0) + 0 * af.ops.sign(x)

    model = af.Sequential([af.Dense(4, input_shape=[3]), Gate(), af.Dense(2)])
    model.compile(loss="mse")
    losses = model.fit(X, Y, epochs=5, **FIT).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mistake", DATA, ids=lambda m: m.name)
def test_data_that_is_refused_costs_no_memory(mistake: Mistake) -> None:
    model = NETS[mistake.net].model()
    made = af.memory.allocations("cpu")
    caught(mistake, model)
    assert af.memory.allocations("cpu") == made
