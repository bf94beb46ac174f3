"""Recurrent nets against PyTorch: the same weights and data must give the same outputs, gradients and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import assert_close
from test_recurrence import crossing, data

import aforo as af

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

ROWS, LENGTH, FEATURES, UNITS, STEPS = 5, 7, 3, 4, 10


def as_torch(array: Any) -> Any:
    return torch.tensor(np.asarray(array), requires_grad=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_two_crossing_feedback_edges_and_a_skip_equal_the_loop_in_pytorch(dtype: str, tolerance: float) -> None:
    model, _ = crossing(dtype)
    x, y = data(ROWS, LENGTH, 3).astype(dtype), data(ROWS, LENGTH, 1, seed=1).astype(dtype)
    weights = [as_torch(weight) for weight in model.get_weights()]
    k1, b1, k2, b2, k3, b3 = weights
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    given = as_torch(x)

    def forward() -> Any:
        low, high, shown = torch.zeros(ROWS, 4, dtype=given.dtype), torch.zeros(ROWS, 2, dtype=given.dtype), []
        for t in range(LENGTH):
            before = low
            low = torch.tanh(torch.cat([given[:, t], high], 1) @ k1 + b1)
            high = torch.tanh(torch.cat([low, before], 1) @ k2 + b2)
            shown.append(torch.cat([high, given[:, t]], 1) @ k3 + b3)
        return torch.stack(shown, 1)

    predicted = forward()
    assert_close(model.predict(x), predicted.detach().numpy(), tolerance)
    ((predicted - torch.tensor(y)) ** 2).mean().backward()
    called = af.tensor(x, dtype)
    found = af.grad(af.losses.mse(af.tensor(y, dtype), model(called)), [*model.weights, called])
    for g, weight in zip(found, [*weights, given], strict=True):
        assert_close(g.numpy(), weight.grad.numpy(), tolerance)

    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1, momentum=0.9))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = ((forward() - torch.tensor(y)) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert model.train_on_batch(x, y) == pytest.approx(loss.item(), rel=10 * tolerance)
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        assert_close(ours, theirs.detach().numpy(), tolerance)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_recurrent_layers_with_the_same_weights_equal_those_of_pytorch(kind: str, dtype: str, tolerance: float) -> None:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(FEATURES, UNITS, batch_first=True, dtype=getattr(torch, dtype))
    if kind != "GRU":  # its second bias is only ever added to the first: here they are one
        theirs.bias_hh_l0.requires_grad_(False)
    head = torch.nn.Linear(UNITS, 2, dtype=getattr(torch, dtype))
    x = af.Input([None, FEATURES], dtype=dtype)
    layer = getattr(af, {"RNN": "SimpleRNN"}.get(kind, kind))(UNITS, return_sequences=True)
    dense = af.Dense(2)
    model = af.Model(x, dense(layer(x)))
    layer.load_pytorch(*(p.detach().numpy() for p in theirs.parameters()))
    dense.kernel.assign(head.weight.detach().numpy().T)
    dense.bias.assign(head.bias.detach().numpy())

    given, y = data(ROWS, LENGTH, FEATURES).astype(dtype), data(ROWS, LENGTH, 2, seed=1).astype(dtype)
    states = [data(ROWS, UNITS, seed=2 + i).astype(dtype) for i in range(layer.states)]
    began = [torch.tensor(state)[None] for state in states]
    expected, last = theirs(torch.tensor(given), tuple(began) if kind == "LSTM" else began[0])
    layer.return_state = True
    found = layer(af.tensor(given, dtype), initial_state=[af.tensor(state, dtype) for state in states])
    assert_close(found[0].numpy(), expected.detach().numpy(), tolerance)
    for ours, final in zip(found[1:], last if kind == "LSTM" else [last], strict=True):
        assert_close(ours.numpy(), final[0].detach().numpy(), tolerance)
    layer.return_state = False

    parameters = [p for p in (*theirs.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    inputs = as_torch(given)
    loss = ((head(theirs(inputs)[0]) - torch.tensor(y)) ** 2).mean()
    loss.backward()
    called = af.tensor(given, dtype)
    (found_g,) = af.grad(af.losses.mse(af.tensor(y, dtype), model(called)), [called])
    assert_close(found_g.numpy(), inputs.grad.numpy(), tolerance)

    model.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1, momentum=0.9))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = ((head(theirs(torch.tensor(given))[0]) - torch.tensor(y)) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert model.train_on_batch(given, y) == pytest.approx(loss.item(), rel=10 * tolerance)
    fresh = type(layer)(UNITS)
    fresh.dtype = dtype
    fresh.load_pytorch(*(p.detach().numpy() for p in theirs.parameters()))
    whole = type(fresh)(UNITS)
    whole.dtype = dtype
    whole.load_pytorch(theirs)
    for a, b in zip(fresh.get_weights(), whole.get_weights(), strict=True):
        assert np.array_equal(a, b)
    for ours, wanted in zip(layer.weights, fresh.weights, strict=True):
        assert_close(ours.numpy(), wanted.numpy(), tolerance)
    assert_close(dense.kernel.numpy(), head.weight.detach().numpy().T, tolerance)
