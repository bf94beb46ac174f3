"""Optimizers, clipping, regularizers, schedules and weights of samples, against PyTorch and their formulas in float64."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from nets import Array, array_bytes, assert_close, tracing

import aforo as af
from aforo import ops

STEPS = 20
TRANSIENT = 64 * 1024


# --- the rules, by the papers -----------------------------------------------------------------------------------------
#
# A rule takes (weight, gradient, slots, step from 1, rate) and gives the weight; slots start as 0 unless the rule says.

Rule = Callable[[Array, Array, dict[str, Any], int, float], Array]


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    def rule(w: Array, g: Array, s: dict[str, Any], t: int, rate: float) -> Array:
        g = g + weight_decay * w
        s["v"] = momentum * s.get("v", 0.0) + g
        return w - rate * (g + momentum * s["v"] if nesterov else s["v"] if momentum else g)

    return rule


def adam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, weight_decay: float = 0.0) -> Rule:
    def rule(w: Array, g: Array, s: dict[str, Any], t: int, rate: float) -> Array:
        s["m"] = beta_1 * s.get("m", 0.0) + (1 - beta_1) * g
        s["v"] = beta_2 * s.get("v", 0.0) + (1 - beta_2) * g * g
        w = w - rate * weight_decay * w
        return w - rate * (s["m"] / (1 - beta_1**t)) / (np.sqrt(s["v"] / (1 - beta_2**t)) + epsilon)

    return rule


def rmsprop(rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7) -> Rule:
    def rule(w: Array, g: Array, s: dict[str, Any], t: int, rate: float) -> Array:
        s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g * g
        s["u"] = momentum * s.get("u", 0.0) + g / (np.sqrt(s["v"]) + epsilon)
        return w - rate * s["u"]

    return rule


def adagrad(initial: float = 0.1, epsilon: float = 1e-7) -> Rule:
    def rule(w: Array, g: Array, s: dict[str, Any], t: int, rate: float) -> Array:
        s["a"] = s.get("a", initial) + g * g
        return w - rate * g / (np.sqrt(s["a"]) + epsilon)

    return rule


@dataclass(frozen=True)
class Case:
    """The same optimizer three times: here, by its rule, and in PyTorch (name and options)."""

    make: Callable[..., af.Optimizer]
    rule: Rule
    theirs: str
    options: dict[str, Any]
    rate: float = 0.05
    slots: int = 0
    limits: dict[str, float] = field(default_factory=dict)


EPS = {"eps": 1e-7}
CASES: dict[str, Case] = {
    "SGD": Case(af.SGD, sgd(), "SGD", {}),
    "SGD with momentum": Case(lambda r: af.SGD(r, momentum=0.9), sgd(0.9), "SGD", {"momentum": 0.9}, slots=1),
    "SGD after Nesterov": Case(
        lambda r: af.SGD(r, momentum=0.8, nesterov=True), sgd(0.8, True), "SGD", {"momentum": 0.8, "nesterov": True}, slots=1
    ),
    "SGD with decay": Case(lambda r: af.SGD(r, weight_decay=0.1), sgd(weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "SGD with all": Case(
        lambda r: af.SGD(r, momentum=0.7, nesterov=True, weight_decay=0.02),
        sgd(0.7, True, 0.02),
        "SGD",
        {"momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
        slots=1,
    ),
    "Adam": Case(af.Adam, adam(), "Adam", EPS, slots=2),
    "Adam with other betas": Case(
        lambda r: af.Adam(r, beta_1=0.5, beta_2=0.9), adam(0.5, 0.9), "Adam", {"betas": (0.5, 0.9), **EPS}, slots=2
    ),
    "Adam without momentum": Case(lambda r: af.Adam(r, beta_1=0.0), adam(0.0), "Adam", {"betas": (0.0, 0.999), **EPS}, slots=2),
    "Adam of signs": Case(lambda r: af.Adam(r, beta_1=0.0, beta_2=0.0), adam(0.0, 0.0), "Adam", {"betas": (0.0, 0.0), **EPS},
                          slots=2),
    # An epsilon as large as the roots shows where it stands.
    "Adam with a large epsilon": Case(lambda r: af.Adam(r, epsilon=0.1), adam(epsilon=0.1), "Adam", {"eps": 0.1}, slots=2),
    "AdamW": Case(af.AdamW, adam(weight_decay=0.004), "AdamW", {"weight_decay": 0.004, **EPS}, slots=2),
    "AdamW with options": Case(
        lambda r: af.AdamW(r, weight_decay=0.3, beta_1=0.8, beta_2=0.95, epsilon=1e-2),
        adam(0.8, 0.95, 1e-2, 0.3),
        "AdamW",
        {"weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-2},
        slots=2,
    ),
    "RMSprop": Case(af.RMSprop, rmsprop(), "RMSprop", {"alpha": 0.9, **EPS}, slots=1),
    "RMSprop with options": Case(
        lambda r: af.RMSprop(r, rho=0.7, momentum=0.5, epsilon=0.05),
        rmsprop(0.7, 0.5, 0.05),
        "RMSprop",
        {"alpha": 0.7, "momentum": 0.5, "eps": 0.05},
        rate=0.01,
        slots=2,
    ),
    "Adagrad": Case(af.Adagrad, adagrad(), "Adagrad", {"initial_accumulator_value": 0.1, **EPS}, slots=1),
    "Adagrad with options": Case(
        lambda r: af.Adagrad(r, initial_accumulator_value=0.5, epsilon=0.1),
        adagrad(0.5, 0.1),
        "Adagrad",
        {"initial_accumulator_value": 0.5, "eps": 0.1},
        slots=1,
    ),
}  # fmt: skip
every_optimizer = pytest.mark.parametrize("name", CASES)


def test_every_optimizer_is_checked() -> None:
    made = {type(case.make(0.1)).__name__ for case in CASES.values()}
    public = {
        name for name in af.__all__
        if isinstance(getattr(af, name), type) and issubclass(getattr(af, name), af.Optimizer) and name != "Optimizer"
    }  # fmt: skip
    assert made == public == {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad"}


# --- a net whose gradient one can write down --------------------------------------------------------------------------


def linear(optimizer: Any, dtype: str = "float64", **layer: Any) -> af.Sequential:
    """x W + b under the mean square."""
    af.set_seed(3)
    model = af.Sequential([af.Dense(2, input_shape=[3], bias_initializer="random_normal", **layer)], dtype=dtype)
    model.compile(loss="mse", optimizer=optimizer)
    return model


def batch(number: int, rows: int = 7) -> tuple[Array, Array]:
    rng = np.random.default_rng([3, number])
    return rng.normal(size=(rows, 3)), 3 * rng.normal(size=(rows, 2))


def slopes(weights: list[Array], x: Array, y: Array, row_weights: Array | None = None) -> list[Array]:
    error = 2 * (x @ weights[0] + weights[1] - y) / y.size
    error = error if row_weights is None else error * row_weights[:, None]
    return [x.T @ error, error.sum(0)]


def follow(weights: list[Array], rule: Rule, rate: Callable[[int], float], change: Callable[..., list[Array]] | None = None,
           steps: int = STEPS) -> list[Array]:  # fmt: skip
    """The weights after some steps of a rule; `change` is done to the gradients first."""
    slots: list[dict[str, Any]] = [{} for _ in weights]
    for t in range(steps):
        gradients = slopes(weights, *batch(t))
        gradients = gradients if change is None else change(gradients, weights)
        weights = [rule(w, g, s, t + 1, rate(t)) for w, g, s in zip(weights, gradients, slots, strict=True)]
    return weights


def trained(model: af.Sequential, steps: int = STEPS) -> list[Array]:
    for t in range(steps):
        model.train_on_batch(*batch(t))
    return model.get_weights()


def assert_weights(found: list[Array], expected: list[Any], tolerance: float = 1e-9) -> None:
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, tolerance)


@every_optimizer
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_optimizer_follows_its_rule(name: str, dtype: str) -> None:
    case = CASES[name]
    model = linear(case.make(case.rate), dtype)
    start = [weight.astype("float64") for weight in model.get_weights()]
    expected = follow(start, case.rule, lambda t: case.rate)
    assert np.abs(expected[0] - start[0]).max() > 0.02
    assert_weights(trained(model), expected, 1e-9 if dtype == "float64" else 2e-4)


@every_optimizer
def test_an_optimizer_trains_as_that_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    case = CASES[name]
    af.set_seed(4)
    model = af.Sequential([af.Dense(5, "tanh", input_shape=[3]), af.Dense(2)], dtype="float64")
    model.compile(loss="mse", optimizer=case.make(case.rate))
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    optimizer = getattr(torch.optim, case.theirs)(parameters, lr=case.rate, **case.options)
    for t in range(STEPS):
        x, y = batch(t)
        optimizer.zero_grad()
        h = torch.tanh(torch.tensor(x) @ parameters[0] + parameters[1]) @ parameters[2] + parameters[3]
        loss = torch.nn.functional.mse_loss(h, torch.tensor(y))
        loss.backward()
        optimizer.step()
        assert_close(model.train_on_batch(x, y), loss.item(), 1e-9)
    assert_weights(model.get_weights(), [parameter.detach().numpy() for parameter in parameters])


def assert_exact(make: Callable[[], Any], slots: int) -> None:
    """What a model with this optimizer holds after its first step and ever after is what its plan says."""
    x, y = (array.astype("float32") for array in batch(0))
    with tracing():
        held = array_bytes()
        model = linear(make(), "float32")
        report = model.memory(batch_size=7)
        assert array_bytes() == held
        model.train_on_batch(x, y)
        assert array_bytes() - held == report.total_bytes
        for _ in range(2):
            now, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            model.train_on_batch(x, y)
            assert tracemalloc.get_traced_memory()[1] - now < TRANSIENT
        assert array_bytes() - held == report.total_bytes
        assert report.optimizer_state_bytes == slots * report.parameters_bytes


@every_optimizer
def test_an_optimizer_takes_the_bytes_that_the_plan_says(name: str) -> None:
    assert_exact(lambda: CASES[name].make(CASES[name].rate), CASES[name].slots)


@pytest.mark.parametrize("kind", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_clipping_takes_the_bytes_that_the_plan_says(kind: str) -> None:
    assert_exact(lambda: af.Adam(0.1, **{kind: 0.5}), 2)
    assert_exact(lambda: af.SGD(lambda step: 0.1 / (1.0 + step), **{kind: 0.5}), 0)


@pytest.mark.parametrize("name", ["sgd", "adam", "AdamW", "rmsprop", "adagrad"])
def test_an_optimizer_may_be_called_by_its_name(name: str) -> None:
    model = linear(name)
    twin = linear(
        {"sgd": af.SGD, "adam": af.Adam, "adamw": af.AdamW, "rmsprop": af.RMSprop, "adagrad": af.Adagrad}[name.lower()]()
    )
    assert_weights(trained(model), trained(twin), 0.0)


# --- clipping ---------------------------------------------------------------------------------------------------------


def clipped_by_norm(g: Array, limit: float) -> Array:
    return g * min(1.0, limit / np.sqrt((g * g).sum()))


def clipped_together(gradients: list[Array], limit: float) -> list[Array]:
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return [g * min(1.0, limit / norm) for g in gradients]


CLIPS: dict[str, Callable[[list[Array], float], list[Array]]] = {
    "clipvalue": lambda gradients, limit: [np.clip(g, -limit, limit) for g in gradients],
    "clipnorm": lambda gradients, limit: [clipped_by_norm(g, limit) for g in gradients],
    "global_clipnorm": clipped_together,
}


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("limit", [0.3, 2.0, 1000.0])
@pytest.mark.parametrize("name", ["SGD", "SGD with momentum", "Adam"])
def test_clipping_cuts_gradients_as_it_says(kind: str, limit: float, name: str) -> None:
    case = CASES[name]
    make = {"SGD": af.SGD, "SGD with momentum": lambda r, **o: af.SGD(r, momentum=0.9, **o), "Adam": af.Adam}[name]
    model = linear(make(case.rate, **{kind: limit}))
    seen = []

    def change(gradients: list[Array], weights: list[Array]) -> list[Array]:
        cut = CLIPS[kind](gradients, limit)
        seen.append(any(np.abs(a - b).max() > 1e-6 for a, b in zip(cut, gradients, strict=True)))
        return cut

    assert_weights(trained(model), follow(model_start(), case.rule, lambda t: case.rate, change))
    assert any(seen) == (limit < 1000), "the limit was never met, or always"


def model_start() -> list[Array]:
    return linear("sgd").get_weights()


@pytest.mark.parametrize("kind", CLIPS)
def test_clipping_is_that_of_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    utils = torch.nn.utils
    model = linear(af.SGD(0.1, momentum=0.9, **{kind: 0.5}))
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for t in range(STEPS):
        x, y = batch(t)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(torch.tensor(x) @ parameters[0] + parameters[1], torch.tensor(y)).backward()
        if kind == "clipvalue":
            utils.clip_grad_value_(parameters, 0.5)
        elif kind == "clipnorm":
            for parameter in parameters:
                utils.clip_grad_norm_([parameter], 0.5)
        else:
            utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        model.train_on_batch(x, y)
    # PyTorch adds 1e-6 to a norm before it divides by it
    assert_weights(model.get_weights(), [p.detach().numpy() for p in parameters], 1e-9 if kind == "clipvalue" else 1e-5)


def test_a_gradient_of_zero_is_not_divided_by() -> None:
    for kind in ("clipnorm", "global_clipnorm"):
        model = linear(af.SGD(0.1, **{kind: 1.0}))
        before = model.get_weights()
        x, _ = batch(0)
        model.train_on_batch(x, model.predict(x))
        assert_weights(model.get_weights(), before, 1e-12)


# --- regularizers -----------------------------------------------------------------------------------------------------

PENALTIES: dict[str, tuple[Any, Callable[[Array], float], Callable[[Array], Array]]] = {
    "L1": (lambda: af.regularizers.L1(0.03), lambda w: 0.03 * np.abs(w).sum(), lambda w: 0.03 * np.sign(w)),
    "L2": (lambda: af.regularizers.L2(0.05), lambda w: 0.05 * (w * w).sum(), lambda w: 0.1 * w),
    "both": (
        lambda: af.regularizers.L1L2(0.03, 0.05),
        lambda w: 0.03 * np.abs(w).sum() + 0.05 * (w * w).sum(),
        lambda w: 0.03 * np.sign(w) + 0.1 * w,
    ),
    "l2 by name": (lambda: "l2", lambda w: 0.01 * (w * w).sum(), lambda w: 0.02 * w),
    "one's own": (lambda: lambda w: ops.sum(w**4) * 0.1, lambda w: 0.1 * (w**4).sum(), lambda w: 0.4 * w**3),
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("which", ["kernel", "bias"])
def test_a_penalty_is_added_to_the_loss_and_its_gradient(name: str, which: str) -> None:
    make, value, slope = PENALTIES[name]
    model = linear(af.SGD(0.05, momentum=0.9), **{f"{which}_regularizer": make()})
    i = ["kernel", "bias"].index(which)
    start = model.get_weights()
    x, y = batch(0, rows=5)
    mse = ((x @ start[0] + start[1] - y) ** 2).mean()
    assert_close(model.evaluate(x, y, batch_size=2), mse + value(start[i]), 1e-12)

    def change(gradients: list[Array], weights: list[Array]) -> list[Array]:
        return [g + (slope(w) if k == i else 0) for k, (g, w) in enumerate(zip(gradients, weights, strict=True))]

    assert_weights(trained(model), follow(start, sgd(0.9), lambda t: 0.05, change))
    assert_close(model.predict(x), x @ model.get_weights()[0] + model.get_weights()[1], 1e-12)


def test_penalties_train_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    model = linear(af.Adam(0.05), kernel_regularizer=af.regularizers.L1L2(0.03, 0.05), bias_regularizer="l1")
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    optimizer = torch.optim.Adam(parameters, lr=0.05, eps=1e-7)
    for t in range(STEPS):
        x, y = batch(t)
        optimizer.zero_grad()
        w, b = parameters
        loss = torch.nn.functional.mse_loss(torch.tensor(x) @ w + b, torch.tensor(y))
        loss = loss + 0.03 * w.abs().sum() + 0.05 * (w * w).sum() + 0.01 * b.abs().sum()
        loss.backward()
        optimizer.step()
        assert_close(model.train_on_batch(x, y), loss.item(), 1e-9)
    assert_weights(model.get_weights(), [parameter.detach().numpy() for parameter in parameters])


def test_a_penalty_is_not_weighed_by_sample_weights() -> None:
    model = linear("sgd", kernel_regularizer=af.regularizers.L2(0.5))
    x, y = batch(0)
    w, b = model.get_weights()
    weights = np.linspace(0, 4, 7)
    each = ((x @ w + b - y) ** 2).mean(1)
    assert_close(model.evaluate(x, y, sample_weight=weights), (each * weights).mean() + 0.5 * (w * w).sum(), 1e-12)


# --- schedules --------------------------------------------------------------------------------------------------------

schedules = af.schedules
SCHEDULES: dict[str, tuple[Callable[[], Any], Callable[[int], float]]] = {
    "constant": (lambda: schedules.Constant(0.04), lambda t: 0.04),
    "steps": (lambda: schedules.StepDecay(0.05, every=7, factor=0.5), lambda t: 0.05 * 0.5 ** (t // 7)),
    "steps of ten": (lambda: schedules.StepDecay(0.05, 10), lambda t: 0.05 * 0.1 ** (t // 10)),
    "exponential": (lambda: schedules.ExponentialDecay(0.05, every=10, factor=0.3), lambda t: 0.05 * 0.3 ** (t / 10)),
    "cosine": (
        lambda: schedules.CosineDecay(0.05, steps=15, end=0.004),
        lambda t: 0.004 + 0.046 * (1 + math.cos(math.pi * min(t, 15) / 15)) / 2,
    ),
    "warm-up to a number": (lambda: schedules.WarmUp(0.05, steps=8), lambda t: 0.05 * min((t + 1) / 8, 1)),
    "warm-up to a schedule": (
        lambda: schedules.WarmUp(schedules.CosineDecay(0.05, 20), steps=5),
        lambda t: 0.05 * (t + 1) / 5 if t < 5 else 0.05 * (1 + math.cos(math.pi * min((t - 5) / 20, 1))) / 2,
    ),
    "a function": (lambda: lambda step: 0.05 / (1.0 + 0.3 * step), lambda t: 0.05 / (1 + 0.3 * t)),
    "a function that gives a number": (lambda: lambda step: 0.03, lambda t: 0.03),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["SGD", "SGD with momentum", "Adam"])
def test_the_rate_follows_its_schedule(name: str, optimizer: str) -> None:
    make, formula = SCHEDULES[name]
    case = CASES[optimizer]
    model = linear(case.make(make()))
    assert_weights(trained(model, 40), follow(model_start(), case.rule, formula, steps=40))


def test_a_schedule_counts_steps_and_not_epochs_and_goes_on_in_the_next_fit() -> None:
    make, formula = SCHEDULES["exponential"]
    model = linear(af.SGD(make()))
    x, y = batch(0, rows=8)
    for _ in range(2):
        model.fit(x, y, epochs=3, batch_size=3, shuffle=False, verbose=0)
        model.evaluate(x, y)
        model.predict(x)
    weights = model_start()
    for t in range(2 * 3 * 3):
        rows = slice(3 * (t % 3), 3 * (t % 3) + 3)
        weights = [w - formula(t) * g for w, g in zip(weights, slopes(weights, x[rows], y[rows]), strict=True)]
    assert_weights(model.get_weights(), weights)


def test_a_schedule_is_exact_after_millions_of_steps_in_float32() -> None:
    """The step is counted in whole numbers and the rate computed in float64: float32 would lose steps beyond 2²⁴."""
    model = linear(af.SGD(lambda step: step * 1e-9), "float32")
    x, y = batch(0)
    model.train_on_batch(x, y)
    count = 2**24 + 1
    af.device.write(model._step, np.int64(count), model._step.device)
    before = model.get_weights()
    model.train_on_batch(x, y)
    expected = [w - count * 1e-9 * g for w, g in zip(before, slopes(before, x, y), strict=True)]
    assert_weights(model.get_weights(), expected, 1e-6)


@pytest.mark.parametrize("name", ["SGD", "SGD with momentum", "Adam"])
def test_the_rate_can_be_set_between_steps(name: str) -> None:
    case = CASES[name]
    optimizer = case.make(0.05)
    model = linear(optimizer)
    optimizer.learning_rate = 0.02  # before the first step
    weights, slots = model.get_weights(), [{}, {}]
    for t in range(12):
        if t == 4:
            optimizer.learning_rate = 0.08
        if t == 8:
            model.optimizer.learning_rate *= 0.5
        rate = 0.02 if t < 4 else 0.08 if t < 8 else 0.04
        assert optimizer.learning_rate == rate
        model.train_on_batch(*batch(t))
        gradients = slopes(weights, *batch(t))
        weights = [case.rule(w, g, s, t + 1, rate) for w, g, s in zip(weights, gradients, slots, strict=True)]
    assert_weights(model.get_weights(), weights)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: af.SGD(-0.1), ["learning_rate", "at least 0"]),
        (lambda: af.SGD("fast"), ["learning_rate", "number"]),
        (lambda: af.SGD(float("nan")), ["learning_rate"]),
        (lambda: af.SGD(momentum=1.5), ["momentum", "at most 1"]),
        (lambda: af.SGD(nesterov=True), ["Nesterov", "momentum=0.9"]),
        (lambda: af.Adam(beta_1=1.0), ["beta_1", "less than 1"]),
        (lambda: af.Adam(epsilon=-1), ["epsilon"]),
        (lambda: af.SGD(clipnorm=0.0), ["clipnorm", "more than 0"]),
        (lambda: af.SGD(clipnorm=1.0, clipvalue=1.0), ["one way", "clipvalue and clipnorm"]),
        (lambda: linear("adamm"), ["adamm", "did you mean 'adam'"]),
        (lambda: linear(af.Adam), ["class", "af.Adam()"]),
        (lambda: linear(3), ["no optimizer", "3"]),
        (lambda: schedules.StepDecay(0.1, 0), ["every", "1 or more"]),
        (lambda: schedules.CosineDecay(-0.1, 5), ["rate"]),
        (lambda: setattr(af.SGD(schedules.Constant(0.1)), "learning_rate", 0.2), ["schedule", "af.SGD(schedule)"]),
        (lambda: setattr(af.SGD(0.1), "learning_rate", -1.0), ["learning_rate"]),
        (lambda: af.regularizers.L2(-1.0), ["l2"]),
        (lambda: af.Dense(2, kernel_regularizer="l3"), ["l3", "l1"]),
        (lambda: linear(type("Nothing", (af.Optimizer,), {})()), ["Nothing has no apply", "def apply(self, weight, gradient"]),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_says_why(use: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(af.Error) as caught:
        use()
    for word in words:
        assert word in str(caught.value)


# --- one's own --------------------------------------------------------------------------------------------------------


class Lion(af.Optimizer):
    """Chen et al. (2023): the sign of a blend of gradient and momentum."""

    def init(self, weight: Any) -> dict[str, float]:
        return {"m": 0.0}

    def apply(self, weight: Any, gradient: Any, slots: Any, rate: Any, step: Any) -> Any:
        m = slots["m"]
        return weight - rate * ops.sign(0.9 * m + 0.1 * gradient), {"m": 0.99 * m + 0.01 * gradient}


class Harmonic(af.Optimizer):
    """The step as a number: the rate divided by it."""

    def apply(self, weight: Any, gradient: Any, slots: Any, rate: Any, step: Any) -> Any:
        return weight - gradient * ops.cast(rate / step, weight.dtype), {}


@pytest.mark.parametrize("clip", [None, 0.2])
def test_an_optimizer_of_ones_own_is_one_class(clip: float | None) -> None:
    def lion(w: Array, g: Array, s: dict[str, Any], t: int, rate: float) -> Array:
        m = s.get("m", 0.0)
        s["m"] = 0.99 * m + 0.01 * g
        return w - rate * np.sign(0.9 * m + 0.1 * g)

    model = linear(Lion(0.03, clipvalue=clip))
    change = None if clip is None else lambda gradients, weights: CLIPS["clipvalue"](gradients, clip)
    assert_weights(trained(model), follow(model_start(), lion, lambda t: 0.03, change))
    report = model.memory(7)
    assert report.optimizer_state_bytes == report.parameters_bytes
    model = linear(Harmonic(schedules.StepDecay(0.2, 5, 0.5)))
    wanted = follow(model_start(), sgd(), lambda t: 0.2 * 0.5 ** (t // 5) / (t + 1))
    assert_weights(trained(model), wanted)


# --- weights of samples and classes -----------------------------------------------------------------------------------


def test_sample_weights_scale_the_gradient_of_each_row() -> None:
    model = linear(af.Adam(0.05))
    weights, slots = model.get_weights(), [{}, {}]
    for t in range(10):
        x, y = batch(t)
        rows = np.random.default_rng([5, t]).uniform(0, 3, 7)
        each = ((x @ weights[0] + weights[1] - y) ** 2).mean(1)
        assert_close(model.train_on_batch(x, y, sample_weight=rows), (each * rows).mean(), 1e-9)
        gradients = slopes(weights, x, y, rows)
        weights = [adam()(w, g, s, t + 1, 0.05) for w, g, s in zip(weights, gradients, slots, strict=True)]
    assert_weights(model.get_weights(), weights)


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_class_and_sample_weights_train_as_in_pytorch(loss: str) -> None:
    torch = pytest.importorskip("torch")
    af.set_seed(6)
    model = af.Sequential([af.Dense(4, "softmax", input_shape=[3])], dtype="float64")
    model.compile(loss=loss, optimizer=af.SGD(0.3, momentum=0.9))
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.9)
    classes = {0: 0.5, 1: 2.0, 2: 1.0, 3: 3.0}
    for t in range(STEPS):
        x, _ = batch(t)
        labels = np.random.default_rng([6, t]).integers(0, 4, 7)
        rows = np.random.default_rng([7, t]).uniform(0, 2, 7)
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(
            torch.tensor(x) @ parameters[0] + parameters[1],
            torch.tensor(labels),
            weight=torch.tensor(list(classes.values()), dtype=torch.float64),
            reduction="none",
        )
        value = (each * torch.tensor(rows)).mean()
        value.backward()
        optimizer.step()
        y = labels if loss.startswith("sparse") else np.eye(4)[labels]
        assert_close(model.train_on_batch(x, y, sample_weight=rows, class_weight=classes), value.item(), 1e-9)
    assert_weights(model.get_weights(), [parameter.detach().numpy() for parameter in parameters])


def test_class_weights_of_a_fit_are_those_of_their_rows() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
    models = []
    for options in ({"class_weight": {0: 0.25, 1: 3.0}}, {"sample_weight": np.where(labels == 1, 3.0, 0.25)}):
        af.set_seed(1)
        model = af.Sequential([af.Dense(2, "softmax", input_shape=[3])])
        model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")
        history = model.fit(x, labels, epochs=3, batch_size=6, seed=4, verbose=0, **options)
        models.append((model.get_weights(), history.history))
    assert models[0][1] == models[1][1]
    assert_weights(models[0][0], models[1][0], 0.0)


def test_a_compile_that_fails_leaves_the_optimizers_count_of_steps() -> None:
    """Adam's bias corrections go on where they were."""
    x, y = np.random.default_rng(0).normal(size=(2, 8, 3))
    models = []
    for fails in (False, True):
        af.set_seed(3)
        model = af.Sequential([af.Dense(3, input_shape=[3])], dtype="float64")
        model.compile(loss="mse", optimizer=af.Adam(0.1))
        for step in range(6):
            if fails and step == 3:
                with pytest.raises(af.Error):
                    model.compile(loss="categorical_crossentropy", optimizer="adam")  # the head is linear
            model.train_on_batch(x, y)
        models.append(model)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        assert np.array_equal(a, b)
