"""What a budget does with losses and layers in which the samples of a batch meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nets import assert_close, assert_same_bits, budget_between

import aforo as af
from aforo import ops
from aforo.device import CPU
from aforo.economy import Data, choose
from aforo.losses import categorical_crossentropy, mse
from aforo.samples import mixing, undivided
from aforo.steps import TRAINING

Loss = Callable[[Any, Any], Any]

MEANS: dict[str, Loss] = {
    "mean": lambda y, p: ops.mean((y - p) ** 2),
    "of library losses": lambda y, p: 0.3 * mse(y, p) + ops.mean(ops.absolute(y - p)) / 2 + 1.0,
    "one for each": lambda y, p: ops.sum((y - p) ** 2, -1),
    "mean of means": lambda y, p: ops.mean(ops.mean(ops.sqrt((y - p) ** 2 + 1.0), 1)),
    "negative": lambda y, p: -ops.mean(ops.minimum(y * p, 1.0)) - ops.mean(p),
    "reshaped": lambda y, p: ops.mean(ops.reshape(y - p, (-1,)) ** 2),
    "by columns": lambda y, p: ops.mean(ops.mean((y - p) ** 2, 0) * np.array([1.0, 2.0, 3.0])),
    "constant": lambda y, p: ops.mean(p * 0.0) + 2.0,
}
OTHERS: dict[str, Loss] = {
    "sum": lambda y, p: ops.sum((y - p) ** 2),
    "root": lambda y, p: ops.sqrt(ops.mean((y - p) ** 2)),
    "log": lambda y, p: ops.log(ops.mean((y - p) ** 2)),
    "ratio": lambda y, p: ops.mean((y - p) ** 2) / ops.mean(y**2 + 1.0),
    "product": lambda y, p: ops.mean(y - p) * ops.mean(p),
    "variance": lambda y, p: ops.var(y - p),
    "largest": lambda y, p: ops.max((y - p) ** 2),
    "largest for each": lambda y, p: (y - p) ** 2 * ops.max(y - p, 0),
    "pairs": lambda y, p: ops.mean(ops.sigmoid(p @ p.T) - (y @ y.T)),
    "centred": lambda y, p: (p - ops.mean(p, 0)) * y,
    "turned": lambda y, p: ops.mean((p - ops.reshape(ops.reshape(y, (3, -1)).T, y.shape)) ** 2),
    "neighbours": lambda y, p: ops.sum((p[1:] - p[:-1]) ** 2),
}


def net(loss: Any, layers: Any = (), width: int = 16, **options: Any) -> af.Sequential:
    af.set_seed(3)
    hidden = [af.Dense(width, "tanh") for _ in range(6)]
    model = af.Sequential([af.Dense(width, "tanh", input_shape=[5]), *hidden, *layers, af.Dense(3)], dtype="float64")
    model.compile(loss=loss, optimizer=af.SGD(0.05), **options)
    return model


def data(rows: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, 5)), rng.normal(size=(rows, 3))


@pytest.mark.parametrize("name", [*MEANS, *OTHERS])
def test_a_budget_trains_what_would_be_trained_without_it(name: str) -> None:
    """Weights against those of whole batches, and micro-batches where, and only where, they give the same."""
    x, y = data()
    loss = MEANS.get(name) or OTHERS[name]
    plain, model = net(loss), net(loss)
    plain.fit(x, y, batch_size=40, epochs=2, shuffle=False, verbose=0)
    budget = budget_between(plain, 40, 0.4, data=Data(40))
    plan = model.fit(x, y, batch_size=40, epochs=2, shuffle=False, verbose=0, memory_budget=budget).plan
    assert (undivided(model, False) == ()) == (name in MEANS)
    assert plan.total_bytes <= budget
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert_close(a, b, 1e-9, name)
    if name in OTHERS:
        assert plan.micro_batch == 40 and plan.recomputed
        assert_same_bits(model.get_weights(), plain.get_weights())


def test_one_number_for_all_samples_is_not_divided_by_their_weights() -> None:
    assert undivided(net(MEANS["mean"]), True) == ("<lambda>",)
    assert undivided(net(MEANS["one for each"]), True) == ()
    x, y = data()
    weights = np.linspace(0, 2, 40)
    plain, model = net(MEANS["mean"]), net(MEANS["mean"])
    options = {"batch_size": 40, "shuffle": False, "verbose": 0, "sample_weight": weights}
    plain.fit(x, y, **options)
    model.fit(x, y, **options, memory_budget=budget_between(plain, 40, 0.4, weighted=True, data=Data(40)))
    assert_same_bits(model.get_weights(), plain.get_weights())


def test_without_micro_batches_the_error_says_why() -> None:
    def rmse(y_true: Any, y_pred: Any) -> Any:
        return ops.sqrt(ops.mean((y_true - y_pred) ** 2))

    x, y = data()
    model = net(rmse)
    with pytest.raises(af.Error, match=r"'rmse' is no mean over the samples(.|\n)*computed again") as error:
        model.fit(x, y, batch_size=40, verbose=0, memory_budget="1KiB")
    needed = int(str(error.value).rpartition("memory_budget=")[2])
    assert model.fit(x, y, batch_size=40, verbose=0, memory_budget=needed).plan.recomputed


class Adds(af.Layer):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        self.add_loss(self.function(x))
        return x


def test_what_layers_add_to_the_loss_is_looked_at_too() -> None:
    assert undivided(net("mse", [Adds(lambda x: 0.1 * ops.mean(x**2))]), True) == ()
    assert undivided(net("mse", [Adds(lambda x: ops.sqrt(ops.mean(x**2)))]), False) == ("what layer 'adds' adds",)
    recurrent = af.Sequential([af.LSTM(4, input_shape=[None, 3]), af.BatchNormalization(), af.Dense(2)])
    recurrent.compile(loss=lambda y, p: ops.mean((y - p) ** 2))
    assert undivided(recurrent, False) == ()
    named = net(lambda y, p: ops.mean(categorical_crossentropy(y, ops.softmax(p))))
    assert undivided(named, False) == ()


PAIRS: dict[str, Any] = {
    "products": lambda z: ops.softmax(z @ z.T) @ z,
    "distances": lambda z: ops.mean((ops.expand_dims(z, 1) - ops.expand_dims(z, 0)) ** 2, 1),
    "neighbours": lambda z: ops.concatenate([z[:1], z[1:] - z[:-1]], 0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_layers_that_pair_samples_are_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = net("mse", [af.Lambda(PAIRS[name], name="pairs")])
    assert mixing(model.graph(TRAINING)) == ("pairs",)
    plain = net("mse", [af.Lambda(lambda z: ops.softmax(z) * 2, name="rows")])
    assert mixing(plain.graph(TRAINING)) == ()
    full = model.memory(40).total_bytes
    with pytest.raises(af.Error) as error:
        choose(model, 40, 1, CPU)
    needed = int(str(error.value).rpartition("memory_budget=")[2])
    found = choose(model, 40, needed, CPU)
    assert found.micro_batch < 40 < full and "in pairs are those of each micro-batch" in str(found)


def test_attention_within_a_sample_pairs_no_samples() -> None:
    model = af.Sequential(
        [af.Input([6, 4]), af.Lambda(lambda z: ops.softmax(z @ ops.transpose(z, (0, 2, 1))) @ z), af.Dense(2)]
    )
    model.compile(loss="mse")
    assert mixing(model.graph(TRAINING)) == ()
    recurrent = af.Sequential([af.GRU(4, input_shape=[None, 3]), af.Dense(2)])
    recurrent.compile(loss="mse")
    assert mixing(recurrent.graph(TRAINING)) == ()
