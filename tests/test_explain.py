"""Whiteboards: the formulas read back and computed in NumPy, against af.grad and against what the model computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nets import Array, assert_close, per_sample

import aforo as af
from aforo.explain import Explanation

# --- a reader of whiteboards, in NumPy --------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(δE/δ[A-Za-zγβ_0-9]+|Σᵢⱼ|Σⱼ|Σ|√|\d+\.?\d*(?:e[+-]?\d+)?|mean[ᵢⱼ]?|[A-Za-zγβμδσ_0-9]+|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[·ᵀ+−/⊙()\[\],:>≥=])"
)
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tanh": np.tanh,
    "σ": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: z * (z > 0),
    "sin": np.sin,
    "cos": np.cos,
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "sign": np.sign,
    "clip": np.clip,
    "max": np.maximum,
    "min": np.minimum,
    "softplus": lambda z: np.log1p(np.exp(z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
    "mean": np.mean,
    "meanᵢ": lambda z: z.mean(tuple(range(z.ndim - 1))),
    "meanⱼ": lambda z: z.mean(-1, keepdims=True),
}


class Reader:
    """Sums of products of products; · binds tighter than ⊙ and /, signs and powers bind tightest."""

    def __init__(self, text: str, names: dict[str, Any]) -> None:
        self.tokens = _TOKEN.findall(text)
        assert "".join(self.tokens) == text.replace(" ", ""), text
        self.names = names
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, token: str = "") -> str:
        found = self.peek()
        assert found and token in ("", found), (token, found, self.tokens)
        self.at += 1
        return found

    def sum(self) -> Any:
        value = self.product()
        while self.peek() in ("+", "−"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Any:
        value = self.dotted()
        while self.peek() in ("⊙", "/"):
            value = value * self.dotted() if self.take() == "⊙" else value / self.dotted()
        return value

    def dotted(self) -> Any:
        value = self.signed()
        while self.peek() == "·":
            self.take()
            other = self.signed()
            if np.ndim(value) == 0 or np.ndim(other) == 0:
                value = value * other
            else:  # rows may be counted in several axes
                flat = value.ndim == 2 and other.ndim > 2
                value = value @ (other.reshape(-1, other.shape[-1]) if flat else other)
        return value

    def signed(self) -> Any:
        if self.peek() == "−":
            self.take()
            return -self.signed()
        if self.peek() == "√":
            self.take()
            return np.sqrt(self.signed())
        if self.peek().startswith("Σ"):
            sign = self.take()
            x = self.signed()
            return x.sum() if sign == "Σᵢⱼ" else x.sum(-1, keepdims=True) if sign == "Σⱼ" else x.reshape(-1, x.shape[-1]).sum(0)
        value = self.atom()
        while self.peek() == "ᵀ" or self.peek()[:1] in tuple("⁰¹²³⁴⁵⁶⁷⁸⁹⁻["):
            mark = self.take()
            if mark == "ᵀ":
                value = (value.reshape(-1, value.shape[-1]) if value.ndim > 2 else value).T
            elif mark == "[":
                value = self.index(value)
            else:
                value = value ** float(mark.translate(_POWERS))
        return value

    def index(self, value: Any) -> Any:
        parts = []
        while (token := self.take()) != "]":
            parts.append(token)
        key = "".join(parts)
        if ":" not in key:
            return value[self.names[key].astype(int)]
        return value[tuple(slice(*(int(n) if n else None for n in each.split(":"))) for each in key.split(","))]

    def atom(self) -> Any:
        token = self.take()
        if token == "(":
            value = self.sum()
            if self.peek() in (">", "≥", "="):
                sign = self.take()
                other = self.sum()
                value = {">": value > other, "≥": value >= other, "=": value == other}[sign] * 1.0
            self.take(")")
            return value
        if token == "[":
            return np.concatenate(self.arguments("]"), -1)
        if token[0].isdigit():
            return float(token)
        if self.peek() == "(" and token not in self.names:
            self.take()
            arguments = self.arguments(")")
            return self.names["functions"][token](*arguments)
        return self.names[token]

    def arguments(self, end: str) -> list[Any]:
        found = [self.sum()]
        while self.take() != end:
            found.append(self.sum())
        return found


def computed(found: Explanation, names: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """What the lines say, from weights and data alone, one after the other."""
    known = {**names, "functions": {**_FUNCTIONS, **functions}}
    for line in found:
        reader = Reader(line.text, known)
        known[line.name] = value = reader.sum()
        assert reader.at == len(reader.tokens), line.text
        if line.also:
            known[line.also] = value
    return known


# --- models -----------------------------------------------------------------------------------------------------------


def two_layers() -> af.Sequential:
    return af.Sequential([af.Dense(4, "tanh", input_shape=[3]), af.Dense(2)], dtype="float64")


def stack(*layers: af.Layer, width: Any = 3) -> af.Sequential:
    model = af.Sequential(list(layers), dtype="float64")
    model.build((None, *(width if isinstance(width, list) else [width])))
    return model


def skip() -> af.Model:
    a = af.Input([3], dtype="float64")
    h = af.Dense(4, activation="relu")(a)
    return af.Model(a, af.Dense(2)(af.Concatenate()([h, a, af.Multiply()([h, h])])))


MODELS: dict[str, tuple[Callable[[], af.Model], Any]] = {
    "two layers": (two_layers, "mse"),
    "two regressions": (lambda: stack(af.Dense(4), af.Dense(2)), "mse"),
    "mae": (lambda: stack(af.Dense(5, "sigmoid"), af.Dense(2, "sin")), "mae"),
    "huber": (lambda: stack(af.Dense(5, "softplus"), af.Dense(2)), "huber"),
    "classifier": (lambda: stack(af.Dense(4, "relu"), af.Dense(3, "softmax")), "categorical_crossentropy"),
    "binary": (lambda: stack(af.Dense(4, "tanh"), af.Dense(2, "sigmoid")), "binary_crossentropy"),
    "own activation": (lambda: stack(af.Dense(4, lambda z: af.ops.sin(z) * z), af.Dense(2, "silu")), "mse"),
    "own loss": (two_layers, lambda t, p: af.ops.mean((t - p) ** 2)),
    "own loss of rows": (two_layers, lambda t, p: af.ops.mean(af.ops.square(t - p) * af.ops.exp(-t), axis=-1)),
    "normalization": (lambda: stack(af.Dense(4), af.LayerNormalization(), af.Dense(2)), "mse"),
    "batch normalization": (lambda: stack(af.Dense(4), af.BatchNormalization(), af.Activation("tanh"), af.Dense(2)), "mse"),
    "softmax inside": (lambda: stack(af.Dense(4, "softmax"), af.Dense(2)), "mse"),
    "penalty": (lambda: stack(af.Dense(4, "tanh", kernel_regularizer="l2"), af.Dense(2)), "mse"),
    "skip": (skip, "mse"),
    "positions": (lambda: stack(af.Dense(4, "tanh"), af.Dense(2), width=[5, 3]), "mse"),
    "no bias": (lambda: stack(af.Dense(4, "relu", use_bias=False), af.Dense(2, use_bias=False)), "mse"),
}

_TWINS = {
    "mse": lambda y, n: ((y - n) ** 2).mean(),
    "mae": lambda y, n: np.abs(y - n).mean(),
    "huber": lambda y, n: np.where(np.abs(d := n - y) <= 1, d * d / 2, np.abs(d) - 0.5).mean(),
    "categorical_crossentropy": lambda y, n: per_sample("categorical_crossentropy", y, n).mean(),
    "binary_crossentropy": lambda y, n: per_sample("binary_crossentropy", y, n).mean(),
}


def case(name: str) -> tuple[af.Model, Any, Array, Array]:
    make, loss = MODELS[name]
    af.set_seed(7)
    model = make()
    model.compile(loss, "sgd")
    rng = np.random.default_rng(len(name))
    model.set_weights([w + rng.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    x = rng.normal(size=(6, *model.input_shape[1:]))
    y = rng.normal(size=(6, *model.output_shape[1:]))
    if loss == "categorical_crossentropy":
        y = np.eye(3)[rng.integers(0, 3, 6)]
    if loss == "binary_crossentropy":
        y = (y > 0).astype(float)
    return model, loss, x, y


@pytest.mark.parametrize("name", MODELS)
def test_the_formulas_give_the_numbers_of_the_graph(name: str) -> None:
    model, _, x, y = case(name)
    found = model.explain(x, y)
    names: dict[str, Any] = {"X": x, "input_1": x, "y": y, "b": float(len(x)), "T": 1.0}
    kinds = {"kernel": "W", "bias": "B", "gamma": "γ", "beta": "β", "moving_mean": "μ", "moving_variance": "v"}
    for number, layer in enumerate((each for each in model.layers if each.weights), 1):
        names.update({f"{kinds[w.name]}{number}": w.numpy() for w in layer.weights})
    known = computed(found, names, _TWINS)
    assert any(line.phase == "backward" for line in found)
    for line in found:
        assert line.value is not None
        said = np.reshape(known[line.name], line.value.shape)
        if np.abs(line.value).max() < 1e-15:  # a bias before batch normalization changes nothing
            assert np.abs(said).max() < 1e-15
        else:
            assert_close(said, line.value, 1e-9, f"{line.name} = {line.text}")


@pytest.mark.parametrize(
    "name", ["two layers", "classifier", "own activation", "normalization", "penalty", "skip", "positions"]
)
def test_the_numbers_are_those_of_grad(name: str) -> None:
    model, loss, x, y = case(name)
    found = model.explain(x, y)
    with_penalty = sum((0.01 * af.ops.sum(af.ops.square(model.layers[0].kernel)) for _ in range(name == "penalty")), 0.0)
    error = af.losses.get(loss)(af.tensor(y, dtype="float64"), model(af.tensor(x, dtype="float64"))) + with_penalty
    wanted = model.trainable_weights
    slopes = [line.value for line in found if re.fullmatch(r"δE/δ[WBγβ]\d+", line.name)]
    assert len(slopes) == len(wanted)
    for slope in af.grad(error, wanted):
        assert any(s is not None and s.shape == slope.shape and np.allclose(s, slope.numpy(), rtol=1e-9) for s in slopes)
    assert_close(found["E"].value, error.numpy(), 1e-12)


# --- what it says -----------------------------------------------------------------------------------------------------

WHITEBOARD = """\
sequential

forward
  t1 = X·W1 + B1                    b × 4
  h1 = tanh(t1)                     b × 4
  N = h1·W2 + B2                    b × 2
  E = mse(y, N)                     1

backward
  δ2 = δE/δN = 2·(N − y) / (b·2)    b × 2
  δE/δW2 = h1ᵀ·δ2                   4 × 2
  δE/δB2 = Σ δ2                     2
  δE/δh1 = δ2·W2ᵀ                   b × 4
  δ1 = δE/δt1 = δE/δh1 ⊙ (1 − h1²)  b × 4
  δE/δW1 = Xᵀ·δ1                    3 × 4
  δE/δB1 = Σ δ1                     4"""


def test_two_layers_as_on_the_whiteboard() -> None:
    model = two_layers()
    model.compile("mse", "sgd")
    assert str(model.explain()) == WHITEBOARD


def test_regressions_in_a_row_as_the_course_writes_them() -> None:
    model = stack(af.Dense(4), af.Dense(5), af.Dense(2))
    model.compile("mse", "sgd")
    found = model.explain()
    texts = {line.name: line.text for line in found}
    assert texts["t1"] == "X·W1 + B1" and texts["t2"] == "t1·W2 + B2" and texts["N"] == "t2·W3 + B3"
    assert texts["δE/δW2"] == "t1ᵀ·δ2" and texts["δE/δB2"] == "Σ δ2" and texts["δ2"] == "δ3·W3ᵀ" and texts["δ1"] == "δ2·W2ᵀ"


def test_a_classifier_starts_from_the_difference() -> None:
    model = stack(af.Dense(3, "softmax"))
    model.compile("categorical_crossentropy", "sgd")
    assert model.explain()["δ1"].text == "(N − y) / b"
    x = np.zeros((4, 3))
    assert model.explain(x, np.full((4, 3), 1 / 3))["δE/δt1"].text == "(N − y) / b"
    assert model.explain(x, np.ones((4, 3)))["δ1"].text == "(N ⊙ Σⱼ y − y) / b"  # right for rows that sum to something else
    model.compile("sparse_categorical_crossentropy", "sgd")
    assert model.explain()["δ1"].text == "(N − onehot(y)) / b"


def test_without_a_loss_the_backward_starts_from_the_slope_of_the_output() -> None:
    found = two_layers().explain()
    assert [line.text for line in found][3:5] == ["δE/δN", "h1ᵀ·δ2"]
    assert "E" not in [line.name for line in found]


def test_a_weight_used_twice_gets_both_contributions() -> None:
    a, b = af.Input([3], name="a"), af.Input([3], name="c")
    shared = af.Dense(2)
    model = af.Model([a, b], af.Add()([shared(a), shared(b)]))
    model.compile("mse")
    texts = {line.name: line.text for line in model.explain()}
    assert texts["t1"] == "a·W1 + B1" and texts["t1_2"] == "c·W1 + B1" and texts["N"] == "t1 + t1_2"
    assert sorted(texts["δE/δW1"].split(" + ")) == ["aᵀ·δE/δt1", "cᵀ·δE/δt1_2"]


def test_frozen_layers_have_no_slopes() -> None:
    model = two_layers()
    model.layers[0].trainable = False
    model.compile("mse")
    assert [line.name for line in model.explain() if line.phase == "backward"] == ["δ2", "δE/δW2", "δE/δB2"]


def test_what_is_used_twice_stands_on_a_line_of_its_own() -> None:
    texts = {line.name: line.text for line in case("batch normalization")[0].explain()}
    assert texts["z1"] == "t1 − meanᵢ(t1)" and texts["z2"] == "1 / √(meanᵢ(z1²) + 0.001)" and texts["h2"] == "z1 ⊙ z2 ⊙ γ2 + β2"


def test_dropout_shows_its_mask() -> None:
    model = stack(af.Dense(4), af.Dropout(0.2), af.Dense(2))
    model.compile("mse")
    found = model.explain()
    assert found["d1"].text == "1.25·t1 ⊙ mask" and found["δ1"].text == "1.25·δE/δd1 ⊙ mask"


def test_everything_that_can_be_built_can_be_explained() -> None:
    a = af.Input([4], name="a_1")
    deep = af.Sequential([af.Dense(3, "gelu", input_shape=[4]), af.BatchNormalization(), af.Dense(4, "elu")], name="inner")
    h = af.Lambda(lambda x: af.ops.where(x > 0, af.ops.sqrt(x + 1.0), af.ops.log_softmax(x)))(deep(a))
    h = af.ops.concatenate([h[:, :2] ** 3, af.ops.max(h, axis=-1, keepdims=True) / 2.0, 2.0**h], -1)
    words = af.Input([3], dtype="int64", name="words")
    e = af.Flatten()(af.Embedding(9, 2)(words))
    out = af.Dense(2, "softmax")(af.Concatenate()([h, e]))
    model = af.Model([a, words], {"one": out, "two": af.Dense(1, "sigmoid")(e)})
    model.compile({"one": "mse", "two": "binary_crossentropy"}, loss_weights={"one": 0.5, "two": 2.0})
    found = model.explain()
    slopes = {line.name for line in found}
    assert len([name for name in slopes if name.startswith("δE/δ")]) >= len(model.trainable_weights)
    assert "0.5·mse(y_one, one) + 2·binary_crossentropy(y_two, two)" in found["E"].text
    assert "scatter_add" in str(found) and found.latex().count(r"\begin{aligned}") == 1


def test_latex_is_balanced_and_named() -> None:
    model = two_layers()
    model.compile("mse")
    found = model.explain(latex=True)
    text = str(found)
    assert text == found.latex() and found._repr_latex_() == f"$$\n{text}\n$$"
    assert r"t_{1} &= X \cdot W_{1} + B_{1} && b \times 4" in text
    assert r"\frac{\delta E}{\delta W_{2}} &= h_{1}^{\top} \cdot \delta_{2}" in text
    assert r"\delta_{2} &= \frac{\delta E}{\delta N} = \frac{2 \, \left(N - y\right)}{b \cdot 2}" in text
    for name in MODELS:
        written = case(name)[0].explain().latex()
        assert written.count("{") == written.count("}") and written.count(r"\left") == written.count(r"\right")
        assert not set(written) & set("⊙·ᵀ²Σδ√−")


def test_matplotlib_reads_every_formula() -> None:
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="a reader of LaTeX formulas, from the extra `plot`")
    parser = mathtext.MathTextParser("path")
    for name in ("two layers", "classifier", "normalization", "skip", "own activation"):
        for line in case(name)[0].explain():
            parser.parse("$" + line.latex.replace("&", "").replace(r"\top", "T") + "$")


ODD_NAMES = [
    "a{b}", "{", "}", "}{", "a\\b", "\\", "a^b", "^", "a~b", "~", "%", "#", "&", "_", "$",
    "100%", "in put", "x_1", "#3", "a%_2", "\\{"
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_any_name_gives_latex_that_compiles(odd: str) -> None:
    a, b = af.Input([3], name=odd), af.Input([3], name="other")
    model = af.Model([a, b], {odd + "!": af.Dense(1, name=odd)(a * b), "second": a[:, :2] ** 2.0 + b[:, 1:] ** 3.0})
    model.compile("mse")
    text = model.explain().latex()
    bare = re.sub(r"\\[\\{}%#&_$ ]", "", text.replace("\\\\\n", ""))  # without line ends and escaped signs
    assert bare.count("{") == bare.count("}") and not set("%#$~") & set(bare)
    assert all(row.count("&") - row.count("\\&") <= 3 for row in text.splitlines())
    assert not re.search(r"\^[^{]|_[^{]", bare)
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="a reader of LaTeX formulas, from the extra `plot`")
    parser = mathtext.MathTextParser("path")
    for line in model.explain():
        parser.parse("$" + line.latex.replace(r"\&", "and").replace("&", "").replace(r"\top", "T") + "$")


def test_with_x_alone_there_is_the_forward_alone() -> None:
    model, _, x, _ = case("two layers")
    found = model.explain(x)
    assert [line.name for line in found] == ["t1", "h1", "N"]
    np.testing.assert_allclose(found["N"].value, model.predict(x))  # type: ignore[arg-type]
    assert found["h1"].value is not None and "[[" in str(found)


def test_mistakes_are_explained_and_nothing_changes() -> None:
    model, _, x, y = case("two layers")
    before = model.get_weights()
    with pytest.raises(af.Error, match=r"targets need what they belong to(.|\n)*model\.explain\(x, y\)"):
        model.explain(None, y)
    with pytest.raises(af.Error, match="does not fit"):
        model.explain(x[:, :2], y)
    with pytest.raises(af.Error, match=r"no line named 'δE/δW3'(.|\n)*one of E, N, h1"):
        model.explain()["δE/δW3"]
    with pytest.raises(af.Error, match="not compiled"):
        two_layers().explain(x, y)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["W1", "B1", "y", "E"])
def test_an_input_that_is_called_like_something_else_gets_a_number(name: str) -> None:
    inputs = af.Input([3], name=name)
    model = af.Model(inputs, af.Dense(2, "tanh")(inputs))
    model.compile("mse")
    text = str(model.explain(np.ones((2, 3)), np.ones((2, 2))))
    assert f"t1 = {name}_2·W1 + B1" in text and f"δE/δW1 = {name}_2ᵀ·δ1" in text and "E = mse(y, N)" in text
