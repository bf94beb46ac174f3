"""Acyclic models: random ones against NumPy, finite differences and PyTorch; nested, shared, frozen and mended ones."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from nets import Array, array_bytes, assert_close, differences, tracing

import aforo as af
from aforo import ops
from aforo.plan import verify

# --- random nets ------------------------------------------------------------------------------------------------------
#
# A net is a list of nodes, each an operation on earlier ones, and is read three times: as layers and operators of Aforo,
# in float64 NumPy, and in PyTorch. The operations below are all that the three have in common.

NETS = 205
BATCH = 4
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    op: str
    inputs: tuple[int, ...]
    shape: Shape  # of a sample
    value: Any = None  # the number of a layer, a size, a key: what the operation needs besides


@dataclass
class Sketch:
    """inputs come first among the nodes; `dense` holds (d_in, units, activation) of each regression, `norms` their sizes."""

    nodes: list[Node] = field(default_factory=list)
    dense: list[tuple[int, int, str]] = field(default_factory=list)
    norms: list[int] = field(default_factory=list)
    heads: list[tuple[int, str, float]] = field(default_factory=list)  # node, loss, weight
    calls: list[tuple[str, int]] = field(default_factory=list)  # layers with weights, in the order of first call

    @property
    def inputs(self) -> list[Node]:
        return [node for node in self.nodes if node.op == "input"]


ACTIVATIONS = ("tanh", "sigmoid", "sin", "none")
# relu comes with an offset: the mean of a normalized value is 0 up to rounding, and there it has a kink.
ELEMENTWISE = ("tanh", "sigmoid", "sin", "half", "flip", "square", "relu")
LOSSES = ("mse", "huber", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy")


def sketch(number: int) -> Sketch:
    rng = np.random.default_rng([7, number])
    net = Sketch()
    pick = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    size = lambda: int(rng.integers(1, 7))  # noqa: E731

    def put(op: str, inputs: tuple[int, ...], shape: Shape, value: Any = None) -> int:
        net.nodes.append(Node(op, inputs, shape, value))
        return len(net.nodes) - 1

    def regression(x: int, units: int, activation: str, shared: bool) -> int:
        shape = net.nodes[x].shape
        known = [i for i, (d_in, _, _) in enumerate(net.dense) if d_in == shape[-1]]
        if shared and known:
            which = pick(known)
        else:
            which = len(net.dense)
            net.dense.append((shape[-1], units, activation))
            net.calls.append(("dense", which))
        return put("dense", (x,), (*shape[:-1], net.dense[which][1]), which)

    for _ in range(int(rng.integers(1, 4))):
        put("input", (), pick([(size(),), (size(),), (size(), size())]))
    unused = set(range(len(net.nodes)))
    for _ in range(int(rng.integers(3, 13))):
        # Half of the time a value nobody has used, else any earlier one: a skip.
        x = pick(sorted(unused)) if unused and rng.random() < 0.5 else int(rng.integers(len(net.nodes)))
        shape = net.nodes[x].shape
        alike = [i for i, node in enumerate(net.nodes) if i != x and node.shape == shape]
        meets = [
            i for i, node in enumerate(net.nodes)
            if len(node.shape) == len(shape) and all(1 in (m, n) or m == n for m, n in zip(node.shape, shape, strict=True))
        ]  # fmt: skip
        beside = [i for i, node in enumerate(net.nodes) if node.shape[:-1] == shape[:-1]]
        op = pick(
            ["dense", "shared", "shared", "shared", "elementwise", "add", "multiply", "minus", "concatenate", "reshape",
             "flatten", "slice", "transpose", "mean", "spread", "norm", "max"]
        )  # fmt: skip
        used: tuple[int, ...] = (x,)
        if op in ("dense", "shared"):
            regression(x, size(), pick(ACTIVATIONS), op == "shared")
        elif op in ("add", "multiply", "minus"):
            other = pick(alike if alike and rng.random() < 0.5 else meets)
            used = (x, other)
            together = tuple(max(m, n) for m, n in zip(shape, net.nodes[other].shape, strict=True))
            put(op, used, together, bool(rng.integers(2)))  # as a layer, or as an operator
        elif op == "concatenate":
            used = (x, *(pick(beside) for _ in range(int(rng.integers(1, 3)))))
            put(op, used, (*shape[:-1], sum(net.nodes[i].shape[-1] for i in used)))
        elif op == "reshape":
            total = int(np.prod(shape))
            first = pick([n for n in range(1, total + 1) if total % n == 0])
            put(op, used, (first, total // first))
        elif op == "flatten":
            put(op, used, (int(np.prod(shape)),))
        elif op == "slice":
            start = int(rng.integers(0, shape[-1]))
            step = int(rng.integers(1, 3))
            put(op, used, (*shape[:-1], len(range(start, shape[-1], step))), (start, step))
        elif op == "transpose" and len(shape) == 2:
            put(op, used, shape[::-1])
        elif op in ("mean", "max"):
            put(op, used, (*shape[:-1], 1))
        elif op == "spread" and len(shape) == 1:
            many = size()
            put(op, used, (many, *shape), many)
        elif op == "norm" and shape[-1] > 1:
            net.norms.append(shape[-1])
            net.calls.append(("norm", len(net.norms) - 1))
            put(op, used, shape, len(net.norms) - 1)
        else:
            used = (x,)
            put("elementwise", used, shape, pick(ELEMENTWISE))
        unused = (unused - set(used)) | {len(net.nodes) - 1}

    # The first head sees all that is left over, so that every input leads somewhere.
    loose = [
        i if len(net.nodes[i].shape) == 1 else put("flatten", (i,), (int(np.prod(net.nodes[i].shape)),)) for i in sorted(unused)
    ]
    whole = loose[0] if len(loose) == 1 else put("concatenate", tuple(loose), (sum(net.nodes[i].shape[0] for i in loose),))
    sources = [whole, *(int(rng.integers(len(net.nodes))) for _ in range(int(rng.integers(0, 3))))]
    for x in sources:
        loss = pick(LOSSES)
        units = max(2, size()) if "categorical" in loss else size()
        activation = {"b": "sigmoid", "c": "softmax", "s": "softmax"}.get(loss[0], "none")
        head = regression(x, units, activation, False)
        net.heads.append((head, loss, float(rng.integers(1, 5)) / 2))
    return net


def built(net: Sketch) -> af.Model:
    dense = [af.Dense(units, activation) for _, units, activation in net.dense]
    norms = [af.LayerNormalization() for _ in net.norms]
    functions: dict[str, Callable[[Any], Any]] = {
        "tanh": af.Activation("tanh"), "sigmoid": ops.sigmoid, "sin": af.Lambda(ops.sin), "half": lambda x: x * 0.5,
        "flip": lambda x: 1.0 - x, "square": lambda x: x**2, "relu": lambda x: af.Activation("relu")(x + 0.3),
    }  # fmt: skip
    values: list[Any] = []
    for node in net.nodes:
        x = [values[i] for i in node.inputs]
        if node.op == "input":
            out = af.Input(node.shape, dtype="float64")
        elif node.op == "dense":
            out = dense[node.value](x[0])
        elif node.op == "norm":
            out = norms[node.value](x[0])
        elif node.op == "elementwise":
            out = functions[node.value](x[0])
        elif node.op == "add":
            out = af.Add()(x) if node.value else x[0] + x[1]
        elif node.op == "multiply":
            out = af.Multiply()(x) if node.value else x[0] * x[1]
        elif node.op == "minus":
            out = x[0] - x[1]
        elif node.op == "concatenate":
            out = af.Concatenate()(x)
        elif node.op == "reshape":
            out = af.Reshape(node.shape)(x[0])
        elif node.op == "flatten":
            out = af.Flatten()(x[0])
        elif node.op == "slice":
            start, step = node.value
            out = x[0][..., start::step]
        elif node.op == "transpose":
            out = af.Lambda(lambda t: ops.transpose(t, [0, 2, 1]))(x[0])
        elif node.op == "mean":
            out = ops.mean(x[0], -1, keepdims=True)
        elif node.op == "max":
            out = ops.max(x[0], -1, keepdims=True)
        else:
            assert node.op == "spread"
            out = ops.broadcast_to(x[0][:, None], (x[0].shape[0], *node.shape))
        values.append(out)
    inputs = values[: len(net.inputs)]
    outputs = [values[i] for i, _, _ in net.heads]
    return af.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0])


class Numpy:
    """What NumPy and PyTorch call differently."""

    tanh, sin, exp, log, where, sqrt, abs = np.tanh, np.sin, np.exp, np.log, np.where, np.sqrt, np.abs
    concatenate = np.concatenate

    @staticmethod
    def softplus(x: Any) -> Any:
        return np.logaddexp(x, 0)

    @staticmethod
    def spread(x: Any, shape: Shape) -> Any:
        return np.broadcast_to(x, shape)

    @staticmethod
    def largest(x: Any) -> Any:
        return x.max(-1, keepdims=True)


def torchs() -> Any:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)

    class Torch:
        tanh, sin, exp, log, where, sqrt, abs = torch.tanh, torch.sin, torch.exp, torch.log, torch.where, torch.sqrt, torch.abs
        concatenate, softplus = torch.concatenate, partial(torch.nn.functional.softplus, threshold=1000)

        @staticmethod
        def spread(x: Any, shape: Shape) -> Any:
            return x.expand(shape)

        @staticmethod
        def largest(x: Any) -> Any:
            return x.amax(-1, keepdim=True)

    return torch, Torch


def heads_of(net: Sketch, weights: list[Any], inputs: list[Any], m: Any) -> list[Any]:
    """What goes into each head's activation, from weights in the order of first calls."""
    own: dict[tuple[str, int], tuple[Any, Any]] = dict(
        zip(net.calls, zip(weights[::2], weights[1::2], strict=True), strict=True)
    )
    values: list[Any] = []
    ends = {head for head, _, _ in net.heads}
    functions: dict[str, Callable[[Any], Any]] = {
        "tanh": m.tanh, "sigmoid": lambda x: 1 / (1 + m.exp(-x)), "sin": m.sin, "half": lambda x: x / 2,
        "flip": lambda x: 1 - x, "square": lambda x: x * x, "none": lambda x: x,
        "relu": lambda x: m.where(x > -0.3, x + 0.3, x * 0),
    }  # fmt: skip
    rows = len(inputs[0])
    for i, node in enumerate(net.nodes):
        x = [values[k] for k in node.inputs]
        if node.op == "input":
            out = inputs[i]
        elif node.op == "dense":
            kernel, bias = own["dense", node.value]
            out = x[0] @ kernel + bias
            if i not in ends:
                out = functions[net.dense[node.value][2]](out)
        elif node.op == "norm":
            gamma, beta = own["norm", node.value]
            centered = x[0] - x[0].mean(-1)[..., None]
            out = centered / m.sqrt((centered * centered).mean(-1)[..., None] + 1e-3) * gamma + beta
        elif node.op == "elementwise":
            out = functions[node.value](x[0])
        elif node.op == "add":
            out = x[0] + x[1]
        elif node.op == "multiply":
            out = x[0] * x[1]
        elif node.op == "minus":
            out = x[0] - x[1]
        elif node.op == "concatenate":
            out = m.concatenate(x, -1)
        elif node.op in ("reshape", "flatten"):
            out = x[0].reshape(rows, *node.shape)
        elif node.op == "slice":
            start, step = node.value
            out = x[0][..., start::step]
        elif node.op == "transpose":
            out = x[0].swapaxes(1, 2)
        elif node.op == "mean":
            out = x[0].mean(-1)[..., None]
        elif node.op == "max":
            out = m.largest(x[0])
        else:
            out = m.spread(x[0][:, None], (rows, *node.shape))
        values.append(out)
    return [values[head] for head, _, _ in net.heads]


def losses_of(net: Sketch, weights: list[Any], inputs: list[Any], targets: list[Any], m: Any) -> list[Any]:
    """The loss of each head, by the textbook."""
    found = []
    for z, y, (_, loss, _) in zip(heads_of(net, weights, inputs, m), targets, net.heads, strict=True):
        if loss == "mse":
            found.append(((z - y) ** 2).mean())
        elif loss == "huber":
            d = m.abs(z - y)
            found.append(m.where(d <= 1, d * d / 2, d - 0.5).mean())
        elif loss == "binary_crossentropy":
            found.append((m.softplus(z) - z * y).mean())
        else:
            z = z - m.largest(z)
            each = (z - m.log(m.exp(z).sum(-1)[..., None])) * y  # class numbers come as one-hot rows
            found.append(-each.sum(-1).mean())
    return found


def data(net: Sketch, number: int, rows: int = BATCH) -> tuple[list[Array], list[Array], list[Array]]:
    """Inputs, targets as the model takes them, and as the textbook does."""
    rng = np.random.default_rng([8, number])
    inputs = [rng.normal(size=(rows, *node.shape)) for node in net.inputs]
    given, textbook = [], []
    for head, loss, _ in net.heads:
        shape = (rows, *net.nodes[head].shape)
        y = rng.normal(size=shape)
        if loss == "binary_crossentropy":
            y = (y > 0).astype(float)
        elif "categorical" in loss:
            labels = rng.integers(0, shape[-1], shape[:-1])
            y = np.eye(shape[-1])[labels]
            if loss.startswith("sparse"):
                given.append(labels)
                textbook.append(y)
                continue
        given.append(y)
        textbook.append(y)
    return inputs, given, textbook


def one(values: list[Any]) -> Any:
    return values if len(values) > 1 else values[0]


def compiled(net: Sketch, number: int, optimizer: Any) -> af.Model:
    af.set_seed(number)
    model = built(net)
    model.compile(
        loss=one([loss for _, loss, _ in net.heads]),
        optimizer=optimizer,
        loss_weights=[weight for _, _, weight in net.heads] if len(net.heads) > 1 else None,
    )
    return model


def shares(net: Sketch) -> list[float]:
    return [weight for _, _, weight in net.heads] if len(net.heads) > 1 else [1.0]


def sigmoid_or_softmax(z: Array, loss: str) -> Array:
    if loss == "binary_crossentropy":
        return 1 / (1 + np.exp(-z))
    if "categorical" in loss:
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)
    return z


def test_the_random_nets_meet_everything_they_should() -> None:
    nets = [sketch(number) for number in range(NETS)]
    assert {node.op for net in nets for node in net.nodes} == {
        "input", "dense", "norm", "elementwise", "add", "multiply", "minus", "concatenate", "reshape", "flatten", "slice",
        "transpose", "mean", "max", "spread",
    }  # fmt: skip
    assert {loss for net in nets for _, loss, _ in net.heads} == set(LOSSES)
    assert {len(net.inputs) for net in nets} == {len(net.heads) for net in nets} == {1, 2, 3}
    uses = [[node.value for node in net.nodes if node.op == "dense"] for net in nets]
    assert sum(len(set(use)) < len(use) for use in uses) > 30, "few nets share a layer"
    broadcast = [
        net for net in nets for node in net.nodes
        if node.op in ("add", "multiply", "minus") and net.nodes[node.inputs[0]].shape != net.nodes[node.inputs[1]].shape
    ]  # fmt: skip
    assert len(broadcast) > 40
    readers = [sum(k in node.inputs for node in net.nodes) for net in nets for k in range(len(net.nodes))]
    assert max(readers) >= 4 and max(len(net.nodes) for net in nets) > 15


@pytest.fixture
def uncollected() -> Any:
    """No collection of older models interferes with the count of bytes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("block", range(20))
def test_random_nets_predict_descend_and_take_memory_as_they_should(block: int, uncollected: None) -> None:
    """Predictions against NumPy, gradients (steps of SGD at rate 1) against finite differences, bytes against the allocator."""
    gaps = []
    model = None
    for number in range(block, NETS, 20):
        net = sketch(number)
        inputs, given, textbook = data(net, number)
        model = None  # what it frees is no longer counted from here on
        before = af.memory.allocated("cpu")
        model = compiled(net, number, af.SGD(learning_rate=1.0))
        report = model.memory(batch_size=BATCH)
        model.train_on_batch(one(inputs), one(given))
        assert af.memory.allocated("cpu") - before == report.total_bytes, f"net {number}: planned is not allocated"
        made = af.memory.allocations("cpu")
        model.train_on_batch(one(inputs), one(given))
        assert af.memory.allocations("cpu") == made, f"net {number}"
        gaps.append((report.arena_bytes / report.lower_bound_bytes, number))

        weights = [np.random.default_rng([9, number, i]).normal(size=w.shape) * 0.5 for i, w in enumerate(model.weights)]
        model.set_weights(weights)
        predicted = model.predict(one(inputs), batch_size=BATCH if number % 4 else 3)
        predicted = predicted if len(net.heads) > 1 else [predicted]
        logits = heads_of(net, weights, inputs, Numpy)
        for found, z, (_, loss, _) in zip(predicted, logits, net.heads, strict=True):
            assert_close(found, sigmoid_or_softmax(z, loss), 1e-11, f"net {number}")

        def error(weights: list[Array], net: Any = net, inputs: Any = inputs, textbook: Any = textbook) -> float:
            each = losses_of(net, weights, inputs, textbook, Numpy)
            return float(sum(share * loss for share, loss in zip(shares(net), each, strict=True)))

        for plan in (plan for plans in model._workspace.plans.values() for plan in plans):  # those that ran
            verify(plan)
        found = np.ravel(model.train_on_batch(one(inputs), one(given)))[0]
        assert_close(found, error(weights), 1e-11, f"net {number}")
        steps = [a - b for a, b in zip(weights, model.get_weights(), strict=True)]
        direction = [np.random.default_rng([10, number, i]).normal(size=w.shape) for i, w in enumerate(weights)]
        slope = sum(float((g * d).sum()) for g, d in zip(steps, direction, strict=True))

        def along(t: list[Array], error: Any = error, weights: Any = weights, direction: Any = direction) -> float:
            return error([w + t[0] * d for w, d in zip(weights, direction, strict=True)])

        (measured,) = differences(along, [np.zeros(())])
        scale = sum(float(np.abs(g * d).sum()) for g, d in zip(steps, direction, strict=True))
        assert abs(measured - slope) <= 1e-7 * scale, f"net {number}: the step descends {slope}, measured {measured}"
    worst, number = max(gaps)
    assert worst <= 1.05, f"net {number}: the arena is {worst:.4f} of its lower bound"


@pytest.mark.parametrize("block", range(0, 60, 3))  # every third net
def test_random_nets_train_as_in_pytorch(block: int) -> None:
    torch, m = torchs()
    for number in range(block, NETS, 60):
        net = sketch(number)
        options = {"momentum": 0.9} if number % 3 else {}
        model = compiled(net, number, af.SGD(learning_rate=0.05, **options))
        parameters = [torch.tensor(weight, requires_grad=True) for weight in model.get_weights()]
        optimizer = torch.optim.SGD(parameters, lr=0.05, **options)
        reported = []
        for rows in (4, 3, 4, 1, 4):
            inputs, given, textbook = data(net, number, rows)
            optimizer.zero_grad()
            each = losses_of(net, parameters, [torch.tensor(x) for x in inputs], [torch.tensor(y) for y in textbook], m)
            whole = sum(share * loss for share, loss in zip(shares(net), each, strict=True))
            whole.backward()
            optimizer.step()
            found = model.train_on_batch(one(inputs), one(given))
            reported = [whole.item(), *(loss.item() for loss in each)] if len(each) > 1 else whole.item()
            assert_close(found, reported, 1e-9, f"net {number}")
        for weight, found, wanted in zip(model.weights, model.get_weights(), parameters, strict=True):
            assert_close(found, wanted.detach().numpy(), 1e-9, f"net {number}, {weight!r}")


# --- inputs and outputs -----------------------------------------------------------------------------------------------


def two_by_two(**options: Any) -> af.Model:
    """Two inputs, two outputs; the trunk is shared."""
    af.set_seed(1)
    a, b = af.Input([3], name="student", dtype="float64"), af.Input([2], name="course", dtype="float64")
    h = af.Dense(4, "tanh", name="trunk")(af.Concatenate()([a, b]))
    grade, passed = af.Dense(1, name="grade")(h), af.Dense(2, "softmax", name="passed")(h)
    inputs: Any = {"student": a, "course": b} if options.get("dicts") else [a, b]
    outputs: Any = {"grade": grade, "passed": passed} if options.get("dicts") else [grade, passed]
    return af.Model(inputs, outputs)


def samples(rows: int = 7) -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(4)
    x = {"student": rng.normal(size=(rows, 3)), "course": rng.normal(size=(rows, 2))}
    return x, {"grade": rng.normal(size=(rows, 1)), "passed": np.eye(2)[rng.integers(0, 2, rows)]}


def test_lists_and_dicts_of_inputs_and_outputs_mean_the_same() -> None:
    x, y = samples()
    lists, dicts = two_by_two(), two_by_two(dicts=True)
    for model in (lists, dicts):
        model.compile(loss={"passed": "categorical_crossentropy", "grade": "mse"}, loss_weights={"grade": 0.5, "passed": 2.0})
    assert lists.input_shape == [(None, 3), (None, 2)] and lists.output_shape == [(None, 1), (None, 2)]
    assert dicts.input_shape == {"student": (None, 3), "course": (None, 2)}
    by_list = lists.fit(list(x.values()), list(y.values()), epochs=3, batch_size=3, seed=2, verbose=0)
    by_name = dicts.fit(dict(reversed(x.items())), dict(reversed(y.items())), epochs=3, batch_size=3, seed=2, verbose=0)
    assert by_list.history == by_name.history
    mixed = lists.predict(x)
    named = dicts.predict([x["student"], x["course"]])
    assert isinstance(mixed, list) and list(named) == ["grade", "passed"]
    assert np.array_equal(mixed[0], named["grade"]) and np.array_equal(mixed[1], named["passed"])


def test_the_history_of_several_outputs_has_the_loss_of_each_and_their_weighted_sum() -> None:
    x, y = samples()
    model = two_by_two()
    model.compile(
        loss=["mse", "categorical_crossentropy"],
        loss_weights=[0.5, 2.0],
        metrics={"passed": ["accuracy", "top_3"], "grade": "mae"},
    )
    history = model.fit(x, y, epochs=2, verbose=0, validation_split=0.3).history
    names = ["loss", "grade_loss", "grade_mae", "passed_loss", "passed_accuracy", "passed_top_3"]
    assert list(history) == [*names, *("val_" + name for name in names)]
    found = model.evaluate(x, y, batch_size=3, return_dict=True)
    assert list(found) == names
    grade, passed = model.predict(x)
    assert_close(found["grade_loss"], ((grade - y["grade"]) ** 2).mean(), 1e-12)
    assert_close(found["grade_mae"], np.abs(grade - y["grade"]).mean(), 1e-12)
    assert_close(found["passed_loss"], -(np.log(passed) * y["passed"]).sum(1).mean(), 1e-12)
    assert_close(found["passed_accuracy"], (passed.argmax(1) == y["passed"].argmax(1)).mean(), 1e-12)
    assert found["passed_top_3"] == 1.0
    assert_close(found["loss"], 0.5 * found["grade_loss"] + 2 * found["passed_loss"], 1e-12)


def test_sample_weights_weigh_every_head() -> None:
    x, y = samples()
    model = two_by_two()
    model.compile(loss=["mse", "categorical_crossentropy"])
    weights = np.linspace(0, 2, 7)
    grade, passed = model.predict(x)
    each = (grade - y["grade"])[:, 0] ** 2 - (np.log(passed) * y["passed"]).sum(1)
    assert_close(model.evaluate(x, y, sample_weight=weights)[0], (each * weights).mean(), 1e-12)


def test_one_input_serves_two_models_that_share_no_layer() -> None:
    a = af.Input([3])
    first, second = af.Model(a, af.Dense(2)(a)), af.Model(a, af.Dense(4)(a))
    x = np.ones((2, 3))
    for model, units in ((first, 2), (second, 4)):
        model.compile(loss="mse")
        model.fit(x, np.ones((2, units)), epochs=2, verbose=0)
        assert model.predict(x).shape == (2, units)
    y = first.predict(x)
    second.fit(x, np.zeros((2, 4)), epochs=2, verbose=0)
    assert np.array_equal(first.predict(x), y)


def test_whole_numbers_and_fractions_may_be_fed_to_one_model() -> None:
    words, numbers = af.Input([3], dtype="int64", name="words"), af.Input([2], name="numbers")
    h = af.Concatenate()([af.Flatten()(af.Embedding(5, 2)(words)), numbers])
    model = af.Model([words, numbers], af.Dense(1)(h))
    model.compile(loss="mse", optimizer="adam")
    x = {"words": np.array([[0, 1, 4], [2, 2, 2]]), "numbers": np.ones((2, 2))}
    losses = model.fit(x, [[1.0], [-1.0]], epochs=60, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(af.Error, match=r"from 0 to 4"):
        model.predict({"words": [[0, 1, 5]], "numbers": [[1.0, 1.0]]})


def test_a_model_may_give_what_it_is_given_and_a_hidden_value() -> None:
    a = af.Input([3], dtype="float64")
    h = af.Dense(2, "tanh")(a)
    model = af.Model(a, [a, h, af.Dense(1)(h), h * 2.0])
    x = np.random.default_rng(0).normal(size=(5, 3))
    same, hidden, _, twice = model.predict(x, batch_size=2)
    assert np.array_equal(same, x) and np.array_equal(twice, hidden * 2)
    with pytest.raises(af.Error):
        model.predict(x[:, :2])


# --- shared and nested ------------------------------------------------------------------------------------------------


def test_a_feature_extractor_sees_the_training_of_the_model_it_shares_layers_with() -> None:
    a = af.Input([3])
    h = af.Dense(4, "tanh")(a)
    model, extractor = af.Model(a, af.Dense(1)(h)), af.Model(a, h)
    x = np.random.default_rng(0).normal(size=(8, 3))
    before = extractor.predict(x)
    model.compile(loss="mse", optimizer=af.SGD(0.5))
    model.fit(x, np.ones((8, 1)), epochs=3, verbose=0)
    kernel, bias = model.get_weights()[:2]
    after = extractor.predict(x)
    assert np.abs(after - before).max() > 1e-2
    assert_close(after, np.tanh(x @ kernel + bias), 1e-6)
    extractor.compile(loss="mse")
    extractor.train_on_batch(x, np.zeros((8, 4)))
    assert np.array_equal(extractor.get_weights()[0], model.get_weights()[0])


def test_a_model_is_a_layer_of_other_models() -> None:
    """A siamese net: one model on two inputs, trained through both, nested twice."""
    af.set_seed(3)
    i = af.Input([3], dtype="float64")
    inner = af.Model(i, af.Dense(2, "tanh", name="inside")(i), name="inner")
    middle = af.Sequential([inner, af.Dense(2, name="above")], name="middle", dtype="float64")
    a, b = af.Input([3], dtype="float64"), af.Input([3], dtype="float64")
    model = af.Model([a, b], af.Lambda(lambda x: x[0] - x[1])([middle(a), middle(b)]))
    assert len(model.weights) == 4 and model.count_params() == 3 * 2 + 2 + 2 * 2 + 2
    rng = np.random.default_rng(1)
    x, y = [rng.normal(size=(6, 3)) for _ in range(2)], rng.normal(size=(6, 2))
    weights = [rng.normal(size=w.shape) for w in model.weights]
    model.set_weights(weights)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=1.0))

    def forward(w: list[Array], x: Array) -> Array:
        return np.tanh(x @ w[0] + w[1]) @ w[2] + w[3]

    def loss(w: list[Array]) -> float:
        return float(((forward(w, x[0]) - forward(w, x[1]) - y) ** 2).mean())

    assert_close(middle.predict(x[0]), forward(weights, x[0]), 1e-12)
    assert_close(model.train_on_batch(x, y), loss(weights), 1e-12)
    for before, after, g in zip(
        weights, inner.get_weights() + middle.get_weights()[2:], differences(loss, weights), strict=True
    ):
        assert np.abs(before - after - g).max() <= 1e-7
    assert inner.get_weights()[0].tobytes() == model.get_weights()[0].tobytes()
    assert_close(
        inner(af.tensor(x[0], "float64")).numpy(), np.tanh(x[0] @ inner.get_weights()[0] + inner.get_weights()[1]), 1e-12
    )


def test_a_model_of_dicts_is_a_layer_too() -> None:
    inner = two_by_two(dicts=True)
    s, c = af.Input([3], dtype="float64", name="s"), af.Input([2], dtype="float64", name="c")
    out = inner({"student": s, "course": c})
    outer = af.Model([s, c], out["grade"] * 2.0)
    x, _ = samples()
    assert_close(outer.predict([x["student"], x["course"]]), 2 * inner.predict(x)["grade"], 1e-14)


def test_the_memory_of_nested_models_is_exact() -> None:
    with tracing():
        held = array_bytes()
        i = af.Input([3])
        inner = af.Model(i, af.BatchNormalization()(af.Dense(5, "relu")(i)))
        a = af.Input([3])
        model = af.Model(a, af.Dense(1)(af.Dropout(0.2)(inner(a))))
        model.compile(loss="mse", optimizer="adam")
        report = model.memory(batch_size=6)
        assert array_bytes() == held
        model.train_on_batch(np.ones((6, 3), np.float32), np.ones((6, 1), np.float32))
        assert array_bytes() - held == report.total_bytes
    assert sum(row.parameters for row in report.layers) == model.count_params()
    assert sum(row.held_bytes for row in report.layers) == report.lower_bound_bytes


def test_a_model_follows_the_changes_of_one_inside_or_says_that_it_cannot() -> None:
    inner = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(2)])
    a = af.Input([3])
    model = af.Model(a, inner(a))
    x = np.ones((2, 3))
    model.predict(x)
    inner.pop()
    inner.add(af.Dense(2))
    try:
        found = model.predict(x)
    except af.Error:
        return
    assert np.array_equal(found, inner.predict(x))


def test_layers_keep_their_names_in_the_model_they_had_them_in() -> None:
    first, second = af.Dense(3), af.Dense(3)
    a = af.Input([3])
    model = af.Model(a, second(first(a)))
    names = [layer.name for layer in model.layers]
    af.Model(a, first(af.Dense(3)(a)))
    assert [layer.name for layer in model.layers] == names and len(set(names)) == 2


@pytest.mark.parametrize("looked_at", [False, True])
def test_numbers_computed_beside_a_model_may_be_used_in_it(looked_at: bool) -> None:
    scale = af.tensor([1.0, 2.0, 3.0]) * 2.0
    if looked_at:
        scale.numpy()
    a = af.Input([3])
    model = af.Model(a, a * scale)
    filler = [np.full(3, np.nan, np.float32) for _ in range(100)]  # memory that was used before
    del filler
    assert np.array_equal(model.predict(np.ones((2, 3))), [[2, 4, 6]] * 2)


def test_the_memory_of_a_model_counts_the_tensors_it_uses() -> None:
    a = af.Input([3])
    model = af.Model(a, af.Dense(2)(a * af.tensor([1.0, 2.0, 3.0])))
    model.compile(loss="mse")
    assert model.memory(4).total_bytes > 0


def tied(decode: Callable[[Any], Any], textbook: Callable[[Array], Array]) -> None:
    a = af.Input([3], dtype="float64")
    encoder = af.Dense(3, use_bias=False)
    model = af.Model(a, encoder(a) @ decode(encoder.kernel))
    x = np.random.default_rng(0).normal(size=(5, 3))
    w = encoder.kernel.numpy()
    assert_close(model.predict(x), x @ w @ textbook(w), 1e-12)
    model.compile(loss="mse", optimizer=af.SGD(learning_rate=1.0))
    model.train_on_batch(x, x)
    (g,) = differences(lambda v: float(((x @ v[0] @ textbook(v[0]) - x) ** 2).mean()), [w])
    assert_close(w - encoder.kernel.numpy(), g, 1e-7)
    w = encoder.kernel.numpy()
    assert_close(model.predict(x), x @ w @ textbook(w), 1e-12)


def test_a_weight_may_be_used_between_layers_and_trains_through_both_uses() -> None:
    tied(lambda kernel: kernel, lambda w: w)


@pytest.mark.parametrize("name", ["transposed", "doubled"])
def test_an_expression_of_a_weight_may_be_used_between_layers(name: str) -> None:
    """Tied weights: a decoder with the transposed kernel of its encoder."""
    if name == "transposed":
        tied(lambda kernel: kernel.T, lambda w: w.T)
    else:
        tied(lambda kernel: kernel * 2.0, lambda w: w * 2.0)


class Scaled(af.Layer):
    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight([], "ones", name="factor")

    def forward(self, x: Any) -> Any:
        return x * self.factor


def turned(x: Any) -> Any:
    return ops.transpose(x, [0, 2, 1])


FOLDS: dict[str, tuple[Callable[[], af.Layer], Callable[[Any], Any]]] = {
    "a sum of a product": (Scaled, ops.sum),
    "a sum of a sum": (lambda: af.Dense(1, lambda z: ops.sum(z, -1, keepdims=True)), ops.sum),
    "a transposed transpose": (lambda: af.Dense(3, turned), turned),
    "a reshaped reshape": (lambda: af.Dense(3, use_bias=False), lambda h: ops.reshape(h, (h.shape[0], 6))),
    "a product of a product": (lambda: af.Dense(3, lambda z: z * 2.0), lambda h: h * 3.0),
    "an axis of one": (lambda: af.Dense(3, use_bias=False), lambda h: h[:, None]),
}


@pytest.mark.parametrize("name", list(FOLDS))
def test_an_operation_on_what_a_layer_gives_leaves_the_layer_in_the_model(name: str) -> None:
    """Operations fold into those before them; a layer between them must not be skipped with its weights."""
    make, then = FOLDS[name]
    a = af.Input([2, 3])
    layer = make()
    model = af.Model(a, then(layer(a)))
    assert model.layers == [layer] and len(model.weights) == len(layer.weights) > 0


def test_a_layer_that_undoes_the_one_before_is_a_layer_all_the_same() -> None:
    a = af.Input([6])
    h = a * 0.5
    back = af.Flatten()(af.Reshape([2, 3])(h))
    model = af.Model(a, back)
    assert [layer.name for layer in model.layers] == ["reshape", "flatten"]
    assert np.array_equal(model.predict(np.ones((2, 6))), np.full((2, 6), 0.5))


def test_layers_do_not_change_the_input_they_are_called_on() -> None:
    a = af.Input([6])
    assert af.Flatten()(af.Reshape([2, 3])(a)) is not a
    assert a.call is None


# --- frozen layers ----------------------------------------------------------------------------------------------------


def stack() -> af.Sequential:
    af.set_seed(2)
    return af.Sequential([af.Dense(6, "tanh", input_shape=[3]), af.Dense(5, "tanh"), af.Dense(2)])


@pytest.mark.parametrize("order", ["before compile", "after compile", "after training"])
def test_a_frozen_layer_does_not_train_and_takes_no_optimizer_memory(order: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.ones((8, 2))
    model = stack()
    if order == "before compile":
        model.layers[0].trainable = False
    model.compile(loss="mse", optimizer="adam")
    if order == "after training":
        model.fit(x, y, epochs=2, verbose=0)
    whole = stack()
    whole.compile(loss="mse", optimizer="adam")
    model.layers[0].trainable = False
    before = model.get_weights()
    assert len(model.trainable_weights) == 4 and len(model.weights) == 6
    model.fit(x, y, epochs=2, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True, True, True]
    frozen, full = model.memory(8), whole.memory(8)
    first = af.Sequential([af.Dense(6, input_shape=[3])])  # as many weights as are frozen; each has two slots
    gone = 2 * first.memory(8, training=False).parameters_bytes
    assert frozen.optimizer_state_bytes == full.optimizer_state_bytes - gone
    assert frozen.total_bytes < full.total_bytes and frozen.parameters_bytes == full.parameters_bytes
    assert len(model.plan(8).steps) < len(whole.plan(8).steps)
    model.layers[0].trainable = True
    model.fit(x, y, epochs=1, verbose=0)
    assert not np.array_equal(model.get_weights()[0], before[0])
    assert model.memory(8).total_bytes == full.total_bytes


def test_the_memory_of_a_frozen_model_is_exact() -> None:
    with tracing():
        held = array_bytes()
        model = stack()
        model.layers[0].trainable = False
        model.compile(loss="mse", optimizer="adam")
        report = model.memory(8)
        model.train_on_batch(np.ones((8, 3), np.float32), np.ones((8, 2), np.float32))
        assert array_bytes() - held == report.total_bytes


def test_what_is_left_of_a_frozen_net_trains_as_it_would_alone() -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.random.default_rng(1).normal(size=(8, 2))
    model, head = stack(), af.Sequential([af.Dense(2, input_shape=[5])])
    for layer in model.layers[:2]:
        layer.trainable = False
    head.set_weights(model.get_weights()[4:])
    a = af.Input([3])
    features = af.Model(a, model.layers[1](model.layers[0](a))).predict(x)
    for each, data in ((model, x), (head, features)):
        each.compile(loss="mse", optimizer=af.SGD(0.1, momentum=0.9))
        each.fit(data, y, epochs=5, shuffle=False, verbose=0)
    for found, wanted in zip(model.get_weights()[4:], head.get_weights(), strict=True):
        assert_close(found, wanted, 1e-6)


def test_a_frozen_model_inside_another_does_not_train_and_a_model_without_anything_to_train_says_so() -> None:
    inner = stack()
    inner.trainable = False
    a = af.Input([3])
    model = af.Model(a, af.Dense(1)(inner(a)))
    model.compile(loss="mse")
    before = inner.get_weights()
    model.train_on_batch(np.ones((4, 3)), np.zeros((4, 1)))
    for now, then in zip(inner.get_weights(), before, strict=True):
        assert np.array_equal(now, then)
    inner.compile(loss="mse")  # evaluates, at least
    assert inner.evaluate(np.ones((4, 3)), np.zeros((4, 2))) > 0
    with pytest.raises(af.Error, match="nothing to train"):
        inner.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    inner.trainable = True
    inner.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    assert not np.array_equal(inner.get_weights()[0], before[0])


# --- a new head -------------------------------------------------------------------------------------------------------


def test_a_new_head_keeps_the_training_of_the_rest_and_trains_as_a_fresh_model_would() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    labels = rng.integers(0, 4, 9)
    model = stack()
    model.compile(loss="mse", optimizer="adam")
    model.fit(x, y, epochs=3, verbose=0)
    trained = model.get_weights()
    model.pop()
    model.add(af.Dense(4, "softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")
    assert model.output_shape == (None, 4)
    for now, then in zip(model.get_weights()[:4], trained[:4], strict=True):
        assert np.array_equal(now, then)
    twin = af.Sequential([af.Dense(6, "tanh", input_shape=[3]), af.Dense(5, "tanh"), af.Dense(4, "softmax")])
    twin.set_weights(model.get_weights())
    twin.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")
    for each in (model, twin):
        each.fit(x, labels, epochs=3, shuffle=False, verbose=0)
    for now, then in zip(model.get_weights(), twin.get_weights(), strict=True):
        assert np.array_equal(now, then)


# --- what is wrong is said --------------------------------------------------------------------------------------------


def joined() -> Any:
    a, b = af.Input([3], name="a"), af.Input([2], name="b")
    return a, b, af.Dense(2, name="head")(af.Concatenate(name="cat")([a, b]))


MISTAKES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "an input that leads nowhere": (
        lambda: af.Model([(a := af.Input([3], name="used")), af.Input([2], name="idle")], af.Dense(2)(a)),
        ["does not depend on the input idle (batch, 2)", "Concatenate"],
    ),
    "an input that is not given": (
        lambda: af.Model((net := joined())[0], net[2]), ["depends on an input that the model is not given: b (batch, 2)"]
    ),
    "an output that is no tensor": (lambda: af.Model(af.Input([3]), af.Dense(2)), ["ends with what its layers give", "dense"]),
    "an output with numbers": (lambda: af.Model(af.Input([3]), af.tensor([1.0])), ["ends with what its layers give"]),
    "an input with numbers": (lambda: af.Model(af.tensor([[1.0]]), joined()[2]), ["starts from inputs", "af.Input([d_in])"]),
    "an input in the middle": (
        lambda: af.Model(h := af.Dense(2)(af.Input([3])), af.Dense(1)(h)), ["starts from inputs"]
    ),
    "two layers of one name": (
        lambda: af.Model(a := af.Input([3]), af.Dense(2, name="same")(af.Dense(2, name="same")(a))),
        ["two layers are named 'same'"],
    ),
    "shapes that do not meet": (
        lambda: af.Add(name="sum")([af.Dense(3, name="left")(joined()[0]), af.Dense(4, name="right")(joined()[1])]),
        ["'sum'", "axis -1", "3 meets 4", "(batch, 3) and (batch, 4)"],
    ),
    "too many inputs for a layer": (
        lambda: af.Dense(2, name="d")(joined()[0], joined()[1]), ["'d'", "wrong number of inputs", "2: (batch, 3), (batch, 2)"]
    ),
    "a list for a layer of one": (
        lambda: af.Dense(2, name="d")(list(joined()[:2])), ["'d'", "takes one tensor", "(batch, 3), (batch, 2)"]
    ),
    "a sample that does not fit a nested model": (
        lambda: two_by_two()([af.Input([4]), af.Input([2])]),
        ["model", "student: (batch, 3)", "(batch, 4)"],
    ),
    "too few inputs for a nested model": (lambda: two_by_two()([af.Input([3])]), ["2 arrays", "student, course"]),
    "an input of no shape": (lambda: af.Input("three"), ["shape of an Input"]),
    "an input of fractions of a size": (lambda: af.Input([2.5]), ["shape of an Input"]),
    "a negative size": (lambda: af.Input([-1]), ["shape of an Input"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_net_that_cannot_be_says_why_where_it_is_written(name: str) -> None:
    use, words = MISTAKES[name]
    with pytest.raises(af.Error) as caught:
        use()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (lambda x: [x["student"]], None, ["2 arrays", "student, course"]),
        (lambda x: x["student"], None, ["2 arrays", "student, course"]),
        (lambda x: {"student": x["student"]}, None, ["other names", "student, course"]),
        (lambda x: {**x, "more": x["student"]}, None, ["other names", "more"]),
        (lambda x: [x["course"], x["student"]], None, ["student", "(n, 3)", "(7, 2)"]),
        (lambda x: [x["student"], x["course"][:5]], None, ["course", "7 rows", "5"]),
        (None, lambda y: [y["grade"]], ["2 arrays", "grade, passed"]),
        (None, lambda y: {"grade": y["grade"], "pass": y["passed"]}, ["other names", "grade, passed", "pass"]),
        (None, lambda y: [y["passed"], y["grade"]], ["grade"]),
        (None, lambda y: [y["grade"][:5], y["passed"]], ["7 rows", "5", "grade"]),
    ],
)
def test_data_that_does_not_fit_several_inputs_and_outputs_is_named(x: Any, y: Any, words: list[str]) -> None:
    model = two_by_two()
    model.compile(loss=["mse", "categorical_crossentropy"])
    before = model.get_weights()
    inputs, targets = samples()
    with pytest.raises(af.Error) as caught:
        model.fit(x(inputs) if x else inputs, y(targets) if y else targets, verbose=0)
    for word in words:
        assert word in str(caught.value)
    for now, then in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(now, then)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": {"grade": "mse"}}, ["no loss for passed"]),
        ({"loss": {"grade": "mse", "past": "mse"}}, ["past", "did you mean 'passed'"]),
        ({"loss": ["mse"]}, ["one entry for each output", "grade, passed", "1"]),
        ({"loss": "mse", "metrics": ["accuracy"]}, ["metrics", "one entry for each output"]),
        ({"loss": "mse", "loss_weights": {"grade": -1.0}}, ["'grade'", "at least 0", "-1.0"]),
        ({"loss": "mse", "loss_weights": [1.0]}, ["loss_weights", "grade, passed"]),
    ],
)
def test_what_several_outputs_are_compiled_for_must_be_complete(options: dict[str, Any], words: list[str]) -> None:
    model = two_by_two()
    with pytest.raises(af.Error) as caught:
        model.compile(**options)
    for word in words:
        assert word in str(caught.value)
    model.compile(loss="mse")
    x, y = samples()
    assert len(model.train_on_batch(x, y)) == 3


def test_a_loss_is_no_output_to_predict() -> None:
    a, t = af.Input([3]), af.Input([2])
    model = af.Model([a, t], af.losses.mse(t, af.Dense(2)(a)))
    with pytest.raises(af.Error, match=r"a row for each sample(.|\n)*compile"):
        model.predict([np.ones((4, 3)), np.ones((4, 2))])


def test_a_model_inside_that_was_given_another_width_is_named() -> None:
    inner = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(2)], name="inner")
    a = af.Input([3])
    model = af.Model(a, inner(a))
    model.predict(np.ones((2, 3)))
    inner.pop()
    inner.add(af.Dense(7))
    with pytest.raises(af.Error, match=r"'inner' has changed(.|\n)*\(batch, 2\)(.|\n)*\(batch, 7\)"):
        model.predict(np.ones((2, 3)))
