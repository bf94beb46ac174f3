"""The ONNX export, against ONNX Runtime and onnx's own checker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import sample_inputs

import aforo as af
from aforo import ops
from aforo.graph import PRIMITIVES, Sample, Tensor, apply, constant
from aforo.layers.activation import KNOWN
from aforo.onnx.rules import REASONS, RULES

Array = np.ndarray[Any, Any]

try:
    import onnx
except ImportError:
    onnx = None
try:
    import onnxruntime
except ImportError:
    onnxruntime = None

needs_onnx = pytest.mark.skipif(onnx is None, reason="onnx is not installed: pip install 'aforo[onnx]'")
needs_runtime = pytest.mark.skipif(
    onnx is None or onnxruntime is None,
    reason="there is no ONNX Runtime to compare with: pip install 'aforo[onnx]' onnxruntime",
)


def run(path: Path, x: dict[str, Array]) -> dict[str, Array]:
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, x), strict=True))


def check(model: af.Model, folder: Path, make: Any, batches: tuple[int, ...] = (1, 7), tolerance: float | None = None) -> Any:
    """Export once; predictions for several batch sizes are those of ONNX Runtime. make(rows) -> the inputs by name."""
    path = folder / "model.onnx"
    model.export_onnx(path)
    for rows in batches:
        x = make(rows)
        expected = model.predict(x if len(x) > 1 else next(iter(x.values())))
        if not isinstance(expected, dict):
            values = expected if isinstance(expected, list) else [expected]
            expected = dict(zip(model.output_names, values, strict=True))
        found = run(path, x)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            allowed = tolerance or (1e-5 if value.dtype == np.float32 else 1e-13)
            np.testing.assert_allclose(found[name], value, allowed, allowed, err_msg=name)
    return onnx.load(str(path))


def normal(shape: tuple[int, ...], dtype: str = "float32", name: str = "x") -> Any:
    rng = np.random.default_rng(0)
    return lambda rows: {name: rng.normal(size=(rows, *shape)).astype(dtype)}


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_primitive_has_a_translation_or_a_reason() -> None:
    assert set(PRIMITIVES) <= set(RULES) | set(REASONS)
    assert not set(RULES) & set(REASONS)
    assert set(RULES) <= set(PRIMITIVES)


CASES = [
    (name, sample, dtype)
    for name in sorted(RULES)
    for sample in PRIMITIVES[name].samples
    for dtype in ("float32", "float64")
    if dtype == "float32" or sample.dtypes is None or "float" in sample.dtypes
]
_BOOL = [
    (name, Sample(((3, 4), (3, 4)), dtypes=("bool", "bool")), "float32")
    for name in ("add", "multiply", "maximum", "minimum", "greater", "greater_equal", "equal")
]
_MORE = [
    ("where", Sample(((3, 4), (3, 4), (3, 4)), dtypes=("bool", "bool", "bool")), "float32"),
    ("cast", Sample(((3, 4),), {"dtype": "int32"}), "float32"),
    ("cast", Sample(((3, 4),), {"dtype": "bool"}), "float64"),
    ("tan", Sample(((3, 4),), low=-1.4, high=1.4), "float64"),
]


@pytest.mark.about_numpy("a file is the same from every device")
@needs_runtime
@pytest.mark.parametrize(
    ("name", "sample", "dtype"), [*CASES, *_BOOL, *_MORE], ids=lambda v: str(getattr(v, "shapes", v)).replace(" ", "")
)
def test_each_primitive_computes_the_same(name: str, sample: Sample, dtype: str, tmp_path: Path) -> None:
    # The samples are whole arrays: constants of the model, beside an input that brings a batch.
    held = [constant(a if a.ndim else a.item(), str(a.dtype)) for a in sample_inputs(sample, dtype)]

    def forward(x: Tensor) -> Tensor:
        y = apply(name, *held, **sample.attributes)
        return ops.reshape(ops.cast(y, "float64"), (1, -1)) + 0.0 * ops.sum(x, 1, keepdims=True)

    x = af.Input([2], dtype="float64")
    check(af.Model(x, af.Lambda(forward)(x)), tmp_path, normal((2,), "float64"), (1,), 2e-6 if dtype == "float32" else 1e-14)


@needs_runtime
def test_the_error_function_of_float64_is_exact_to_rounding(tmp_path: Path) -> None:
    from math import erf

    x = af.Input([1], dtype="float64")
    model = af.Model(x, ops.erf(x))
    model.export_onnx(tmp_path / "model.onnx")
    values = np.concatenate([np.linspace(-7, 7, 701), [1e-9, 1e300, -np.inf]])[:, None]
    (found,) = run(tmp_path / "model.onnx", {model.inputs[0].name: values}).values()
    np.testing.assert_allclose(found, np.vectorize(erf)(values), 1e-15)


# --- models -----------------------------------------------------------------------------------------------------------


@needs_runtime
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", sorted(KNOWN))
def test_every_activation(activation: str, dtype: str, tmp_path: Path) -> None:
    af.set_seed(3)
    model = af.Sequential([af.Dense(6, activation, input_shape=[3]), af.Dense(2)], dtype=dtype)
    check(model, tmp_path, normal((3,), dtype))


class Scale(af.Layer):
    """A layer of the user's own: a mask, a power, a slice and a mean."""

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight([input_shape[-1]], "ones", "factor")

    def forward(self, x: Tensor) -> Tensor:
        y = ops.where(x > 0.1, x * self.factor, 0.5 - x)
        return ops.concatenate([y, 2.0**x, x[:, 1:], ops.expand_dims(ops.mean(y, 1), 1)], 1)


LAYERS: dict[str, Any] = {
    "dense without bias": lambda: [af.Dense(4, use_bias=False)],
    "dense on sequences": lambda: [af.Reshape([2, 3]), af.Dense(4, "relu")],
    "activation": lambda: [af.Activation("elu")],
    "function": lambda: [af.Dense(4, activation=lambda z: ops.sin(z) * z)],
    "dropout": lambda: [af.Dense(4), af.Dropout(0.5)],
    "flatten": lambda: [af.Reshape([2, 3]), af.Flatten()],
    "batch normalization": lambda: [af.Dense(4), af.BatchNormalization()],
    "layer normalization": lambda: [af.Dense(4), af.LayerNormalization()],
    "lambda": lambda: [af.Lambda(lambda x: ops.max(x, 1, keepdims=True) - x * x)],
    "own": lambda: [Scale()],
    "softmax over another axis": lambda: [af.Reshape([2, 3]), af.Lambda(lambda x: ops.softmax(x, 1))],
    "products of batches": lambda: [af.Reshape([2, 3]), af.Lambda(lambda x: x @ ops.transpose(x, [0, 2, 1]))],
    "one-hot": lambda: [af.Lambda(lambda x: ops.cast(ops.one_hot(ops.argmax(x), 6), x.dtype))],
    "model": lambda: [af.Sequential([af.Dense(4, "tanh"), af.Dense(3)], name="inner"), af.Dense(2)],
}


@needs_runtime
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer(kind: str, dtype: str, tmp_path: Path) -> None:
    af.set_seed(4)
    model = af.Sequential(LAYERS[kind](), dtype=dtype)
    model.build((None, 6))
    rng = np.random.default_rng(1)
    model.set_weights([np.abs(w + rng.normal(0, 0.3, w.shape)) for w in model.get_weights()])  # averages that say something
    check(model, tmp_path, normal((6,), dtype))


@needs_runtime
def test_sizes_that_depend_on_the_batch_are_computed(tmp_path: Path) -> None:
    def forward(x: Tensor) -> Tensor:
        rows = x.shape[0]
        share = x - ops.mean(x, 0)  # a sum over the batch, and its count
        place = ops.reshape(ops.cast(ops.iota(rows, "int64"), "float32"), (rows, 1))
        twice = ops.reshape(ops.concatenate([x, x], 0), (2, rows, 3))
        share = share + ops.sum(ops.broadcast_to(x[:, :1], x.shape) * ops.broadcast_to(x[:, 1:2], x.shape), 1, keepdims=True)
        return share + place + twice[1] + ops.broadcast_to(x[-1:], x.shape) + ops.softmax(x @ x.T) @ x

    x = af.Input([3])
    check(af.Model(x, af.Lambda(forward)(x)), tmp_path, normal((3,)))


@needs_runtime
def test_sequences_of_any_length(tmp_path: Path) -> None:
    x = af.Input([None, 3], name="x")
    h = af.LayerNormalization()(af.Dense(4, "tanh")(x))
    model = af.Model(x, [af.Dense(2)(h[:, 1:] * h[:, :-1]), ops.mean(h, 1)])
    rng = np.random.default_rng(3)
    for length in (2, 9):
        made = check(model, tmp_path, lambda rows, n=length: {"x": rng.normal(size=(rows, n, 3)).astype("f")})
    assert [each.dim_param for each in made.graph.input[0].type.tensor_type.shape.dim] == ["batch", "time", ""]


def _crossed(dtype: str) -> af.Model:
    """Two feedbacks across layers; outputs at every step, and of the last one."""
    x = af.Input([None, 3], dtype=dtype)
    first, second = af.Feedback([5], dtype=dtype), af.Feedback([2], dtype=dtype)
    h = af.Dense(5, "tanh")(af.Concatenate()([x, first, second]))
    y = af.Dense(2, "sigmoid")(h)
    first.connect(h)
    second.connect(y)
    return af.Model(x, [y, af.Dense(2, name="last")(h[:, -1] + h[:, 0]), second + 0.0 * y])


def _stacked(kind: str, **options: Any) -> Any:
    def make(dtype: str) -> af.Model:
        layers = [getattr(af, kind)(4, return_sequences=True, **options), getattr(af, kind)(3, **options), af.Dense(2)]
        model = af.Sequential(layers, dtype=dtype)
        model.build((None, None, 3))
        return model

    return make


LOOPS = {
    "feedback": _crossed,
    **{kind: _stacked(kind) for kind in ("SimpleRNN", "GRU", "LSTM")},
    "backwards": _stacked("LSTM", go_backwards=True),
}


@needs_runtime
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LOOPS)
def test_loops_over_time(kind: str, dtype: str, tmp_path: Path) -> None:
    af.set_seed(6)
    model = LOOPS[kind](dtype)
    rng = np.random.default_rng(4)
    model.set_weights([w + rng.normal(0, 0.2, w.shape) for w in model.get_weights()])
    name = model.inputs[0].name
    for length in (1, 6):
        check(model, tmp_path, lambda rows, n=length: {name: rng.normal(size=(rows, n, 3)).astype(dtype)})


@needs_runtime
def test_a_loop_that_walks_along_nothing(tmp_path: Path) -> None:
    af.set_seed(6)
    start = af.Input([2], name="start")
    back = af.Feedback([2], initial_state=start)
    back.connect(af.Dense(2, "tanh")(back))
    check(af.Model(start, back.connected, steps=5), tmp_path, normal((2,), name="start"))


@needs_runtime
def test_graphs_of_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    student, words = af.Input([3], name="student"), af.Input([4], dtype="int64", name="words")
    inner_in = af.Input([3])
    inner = af.Model(inner_in, af.Dense(5, "relu")(inner_in), name="inner")
    h = af.Concatenate()([inner(student), af.Flatten()(af.Embedding(9, 2)(words)), student])
    marks = af.Dense(3)(af.Add()([inner(student) @ np.ones((5, 3), "f"), af.Multiply()([student, student])]))
    model = af.Model({"student": student, "words": words}, {"marks": marks, "same": marks, "passed": af.Dense(1, "sigmoid")(h)})
    rng = np.random.default_rng(2)

    def make(rows: int) -> dict[str, Array]:
        return {"student": rng.normal(size=(rows, 3)).astype("f"), "words": rng.integers(0, 9, (rows, 4))}

    made = check(model, tmp_path, make)
    assert [i.name for i in made.graph.input] == ["student", "words"]
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert made.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    assert {"inner/dense/kernel", "inner/dense/bias", "embedding/embeddings"} <= set(weights)
    np.testing.assert_array_equal(weights["inner/dense/kernel"], inner.layers[0].kernel.numpy())


@needs_runtime
def test_a_list_of_outputs_and_one_that_is_an_input(tmp_path: Path) -> None:
    a, b = af.Input([2], name="a"), af.Input([2], name="b")
    y = af.Dense(2, name="y")(af.Add()([a, b]))
    model = af.Model([a, b], [y, af.Activation("none", name="z")(a)])
    rng = np.random.default_rng(2)
    check(model, tmp_path, lambda rows: {k: rng.normal(size=(rows, 2)).astype("f") for k in "ab"})


@needs_runtime
def test_what_was_trained_is_what_is_exported(tmp_path: Path) -> None:
    x, y = af.datasets.load_diabetes()
    model = af.Sequential([af.Dense(8, "relu"), af.BatchNormalization(), af.Dropout(0.2), af.Dense(1)])
    model.compile("mse", "adam")
    model.fit(x, y, epochs=2, verbose=0, seed=1)
    before = model.get_weights()
    check(model, tmp_path, lambda rows: {"x": x[:rows].astype("f")}, tolerance=1e-4)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert old.tobytes() == new.tobytes()


@needs_runtime
def test_a_thousand_layers(tmp_path: Path) -> None:
    af.set_seed(1)
    model = af.Sequential([af.Dense(2, "tanh", input_shape=[2]), *(af.Dense(2, "tanh") for _ in range(999))])
    model.export_onnx(tmp_path / "model.onnx")
    assert len(onnx.load(str(tmp_path / "model.onnx")).graph.initializer) == 2000


@needs_runtime
def test_weights_beyond_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["aforo.onnx"], "_LARGEST", 1000)
    model = af.Sequential([af.Dense(40, input_shape=[30])])
    check(model, tmp_path, normal((30,)), (3,))
    size = (tmp_path / "model.onnx.data").stat().st_size
    check(model, tmp_path, normal((30,)), (3,))  # over the first
    assert (tmp_path / "model.onnx.data").stat().st_size == size >= 4800
    assert (tmp_path / "model.onnx").stat().st_size < 4800


# --- errors -----------------------------------------------------------------------------------------------------------


def _dense() -> af.Sequential:
    return af.Sequential([af.Dense(2, input_shape=[3])])


def test_without_onnx_the_error_has_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(af.Error, match=r"pip install 'aforo\[onnx\]'") as caught:
        _dense().export_onnx(tmp_path / "model.onnx")
    assert isinstance(caught.value, RuntimeError)


class Noise(af.Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + ops.cast(ops.random.below(0.5, x.shape, constant(1.0, "int64"), (1, 2)), x.dtype)


@needs_onnx
def test_an_operation_without_translation_is_named(tmp_path: Path) -> None:
    model = af.Sequential([Noise(name="noise", input_shape=[8])])
    text = r"operation 'uniform' of layer 'noise' has no translation to ONNX yet: .*drawn(.|\n)*fix: x = af.Input"
    with pytest.raises(ValueError, match=text):
        model.export_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(af.Error, match=r"does not know its input size yet"):
        af.Sequential([af.Dense(2)]).export_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"cannot be written(.|\n)*model.export_onnx\(\"model.onnx\"\)"):
        _dense().export_onnx(tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(ValueError, match=r"cannot be written"):
        _dense().export_onnx(tmp_path)
    with pytest.raises(TypeError, match=r"a file is given by its path"):
        _dense().export_onnx(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"an input and an output of the model are both named 'x'(.|\n)*x_out"):
        af.Sequential([af.Dense(2, input_shape=[3], name="x")]).export_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
