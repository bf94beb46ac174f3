"""Training against PyTorch: the same weights, data and settings must give the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nets import HEADS, HIDDEN, Array, Net, assert_close, random_net

import aforo as af

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small nets; its threads would only spin beside those of NumPy

STEPS = 20
NETS = 42
TOLERANCE = {"float64": 1e-9, "float32": 5e-4}


def torch_activation(name: str, z: Any) -> Any:
    return {
        "none": lambda: z,
        "relu": lambda: torch.relu(z),
        "sigmoid": lambda: torch.sigmoid(z),
        "tanh": lambda: torch.tanh(z),
        "sin": lambda: torch.sin(z),
        "cos": lambda: torch.cos(z),
        "softmax": lambda: torch.softmax(z, -1),
    }[name]()


def torch_loss(net: Net, z: Any, y: Any) -> Any:
    """From the values before the head's activation, as PyTorch's users do."""
    functional = torch.nn.functional
    if net.loss == "mse":
        return functional.mse_loss(torch_activation(net.activations[-1], z), y)
    if net.loss == "mae":
        return functional.l1_loss(torch_activation(net.activations[-1], z), y)
    if net.loss == "binary_crossentropy":
        return functional.binary_cross_entropy_with_logits(z, y)
    return functional.cross_entropy(z, y.long() if net.loss.startswith("sparse") else y)


def torch_weights(net: Net, weights: list[Array], x: Array, y: Array, starts: list[int]) -> tuple[list[Array], list[float]]:
    """The weights after one step on each batch, and each batch's loss before its update; in float64."""
    options = dict(net.optimizer)
    parameters = [torch.tensor(np.asarray(weight, np.float64), requires_grad=True) for weight in weights]
    optimizer = torch.optim.SGD(parameters, lr=options.pop("learning_rate"), **options)
    x, y = (
        torch.tensor(np.asarray(x, np.float64)),
        torch.tensor(np.asarray(y, np.int64 if y.dtype.kind == "i" else np.float64)),
    )
    losses = []
    for start in starts:
        h, rows = x[start : start + net.batch], slice(start, start + net.batch)
        for i, activation in enumerate(net.activations):
            z = h @ parameters[2 * i] + parameters[2 * i + 1]
            h = torch_activation(activation, z)
        optimizer.zero_grad()
        loss = torch_loss(net, z, y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [parameter.detach().numpy() for parameter in parameters], losses


def assert_trains_like_torch(net: Net, *, by_fit: bool, seed: int) -> None:
    model = net.model(seed)
    rows = net.batch * 3 + 1 + net.batch // 2  # several batches, and a smaller last one unless the batch is one row
    x, y = net.data(rows, seed)
    starts = list(range(0, rows, net.batch))
    epochs = -(-STEPS // len(starts))
    before = model.get_weights()
    expected, losses = torch_weights(net, before, x, y, (starts * epochs)[: epochs * len(starts)])
    if by_fit:
        model.fit(x, y, epochs=epochs, batch_size=net.batch, shuffle=False, verbose=0)
    else:
        for start, loss in zip(starts * epochs, losses, strict=True):
            got = model.train_on_batch(x[start : start + net.batch], y[start : start + net.batch])
            assert_close(got, loss, TOLERANCE[net.dtype], f"{net}: loss of the batch at row {start}")
    for i, (found, wanted) in enumerate(zip(model.get_weights(), expected, strict=True)):
        assert_close(found, wanted, TOLERANCE[net.dtype], f"{net}: weight {i}")
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(model.get_weights(), before, strict=True)), "nothing was learned"


def test_the_random_nets_meet_every_loss_optimizer_activation_and_depth() -> None:
    nets = [random_net(number) for number in range(NETS)]
    assert {net.loss for net in nets} == set(HEADS)
    assert {name for net in nets for name in net.activations[:-1]} == set(HIDDEN)
    assert {len(net.activations) for net in nets} == set(range(1, 7))
    assert min(n for net in nets for n in net.widths) == 1 and max(n for net in nets for n in net.widths) > 50
    assert min(net.batch for net in nets) <= 2 and max(net.batch for net in nets) >= 48
    combinations = {(tuple(sorted(net.optimizer)), net.optimizer.get("nesterov", False)) for net in nets}
    assert len(combinations) == 6
    assert {(net.loss, *sorted(net.optimizer)) for net in nets} >= {(loss, "learning_rate", "momentum") for loss in HEADS}


@pytest.mark.parametrize("number", range(NETS))
def test_weights_equal_those_of_pytorch_in_float64(number: int) -> None:
    assert_trains_like_torch(random_net(number), by_fit=number % 2 == 0, seed=number)


@pytest.mark.parametrize("number", range(NETS))
def test_weights_equal_those_of_pytorch_in_float32(number: int) -> None:
    assert_trains_like_torch(replace(random_net(number), dtype="float32"), by_fit=number % 2 == 1, seed=number)


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_batches_and_layers_of_one_equal_pytorch(activation: str, loss: str) -> None:
    net = Net((1, 1, 1), (activation, HEADS[loss]), loss, {"learning_rate": 0.1, "momentum": 0.5}, batch=1, dtype="float64")
    assert_trains_like_torch(net, by_fit=False, seed=3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "tanh", "sin"])
def test_mse_on_any_head_equals_pytorch(activation: str) -> None:
    net = Net((4, 6, 3), ("relu", activation), optimizer={"learning_rate": 0.5}, dtype="float64")
    assert_trains_like_torch(net, by_fit=True, seed=4)


def test_a_softmax_between_layers_equals_pytorch() -> None:
    net = Net(
        (4, 6, 5, 3),
        ("softmax", "tanh", "softmax"),
        "categorical_crossentropy",
        {"learning_rate": 0.5},
        dtype="float64",
    )
    assert_trains_like_torch(net, by_fit=True, seed=5)


def test_relu_has_derivative_zero_at_zero_as_in_pytorch() -> None:
    """Zero rows give the first relu exact zeros; a zero kernel gives them to the second."""
    net = Net((3, 4, 4, 2), ("relu", "relu", "none"), optimizer={"learning_rate": 0.1}, batch=6, dtype="float64")
    model = net.model()
    weights = model.get_weights()
    weights[2][:] = 0
    model.set_weights(weights)
    x, y = net.data(6)
    x[::2] = 0
    expected, _ = torch_weights(net, weights, x, y, [0] * STEPS)
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        assert_close(found, wanted, 1e-9)
    assert not np.any(model.get_weights()[2]), "a relu that is exactly at 0 let a gradient through"


def test_sample_weights_scale_each_row_of_pytorchs_loss() -> None:
    net = Net(
        (3, 5, 4),
        ("tanh", "softmax"),
        "sparse_categorical_crossentropy",
        {"learning_rate": 0.3},
        batch=9,
        dtype="float64",
    )
    model = net.model()
    x, y = net.data(9)
    weights = np.linspace(0, 3, 9)
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    for _ in range(STEPS):
        hidden = torch.tanh(torch.tensor(x) @ parameters[0] + parameters[1])
        each = torch.nn.functional.cross_entropy(
            hidden @ parameters[2] + parameters[3], torch.tensor(y).long(), reduction="none"
        )
        for parameter, g in zip(
            parameters, torch.autograd.grad((each * torch.tensor(weights)).mean(), parameters), strict=True
        ):
            parameter.data -= 0.3 * g
        model.train_on_batch(x, y, sample_weight=weights)
    for found, wanted in zip(model.get_weights(), parameters, strict=True):
        assert_close(found, wanted.detach().numpy(), 1e-9)


def test_a_layer_used_twice_gets_the_sum_of_both_gradients_as_in_pytorch() -> None:
    shared = af.Dense(4, "tanh")
    af.set_seed(2)
    model = af.Sequential([af.Dense(4, input_shape=[3]), shared, shared, af.Dense(2)], dtype="float64")
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1, momentum=0.9))
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
    assert len(parameters) == 6
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        h = torch.tensor(x) @ parameters[0] + parameters[1]
        for _ in range(2):
            h = torch.tanh(h @ parameters[2] + parameters[3])
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(h @ parameters[4] + parameters[5], torch.tensor(y)).backward()
        optimizer.step()
        model.train_on_batch(x, y)
    for found, wanted in zip(model.get_weights(), parameters, strict=True):
        assert_close(found, wanted.detach().numpy(), 1e-9)
