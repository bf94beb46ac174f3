"""Pictures: valid SVG, nothing that overlaps or is cut off, text that can be read, nine that differ."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import aforo as af
from aforo.draw import NOTATIONS, SCALES, Picture, sketch
from aforo.draw.canvas import PAPER, Canvas, Circle, Rect, Text, along, contrast
from aforo.draw.canvas import Path as Link
from aforo.draw.columns import EDGES, of_neurons, of_values, sampled
from aforo.draw.layout import Box, Edge, arrange, crossings
from aforo.draw.neurons import circuit
from aforo.outline import DENSE, EACH, JOIN, Outline, Step, Value, outline

SVG = "{http://www.w3.org/2000/svg}"
COMBINATIONS = list(product(SCALES, NOTATIONS))


def marks() -> af.Model:
    return af.Sequential([af.Dense(4, "tanh", input_shape=[3]), af.Dense(5, "relu"), af.Dense(2)], name="marks")


def digits() -> af.Model:
    return af.Sequential([af.Dense(128, "relu", input_shape=[784]), af.Dense(10, "softmax")], name="digits")


def skip() -> af.Model:
    a = af.Input([3], name="student")
    h = af.Dense(8, activation="relu")(a)
    both = af.Concatenate()([h, a])
    return af.Model(a, {"marks": af.Dense(2)(both), "passed": af.Dense(1, activation="sigmoid")(h)}, name="skip")


def odd() -> af.Model:
    """Operations between layers, a layer used twice, a nested model, merges, names that need care."""
    a, b = af.Input([6], name="a < b & 'c'"), af.Input([6], name="the other one of the two inputs of this model")
    shared = af.Dense(6, activation=lambda z: af.ops.sin(z) * z, name="a layer with a name that is much too long for its box")
    h = shared(a) + 2.0 * shared(b)
    inner = af.Sequential([af.Dense(4, "relu", input_shape=[6]), af.LayerNormalization(), af.Dense(6)], name="inner")
    h = af.Add()([inner(h), a, h])
    h = af.Multiply()([af.BatchNormalization()(h), af.Dropout(0.5)(b)])
    h = af.Flatten()(af.Reshape([2, 3])(h))
    return af.Model([a, b], [af.Dense(3, "softmax")(h), af.Activation("gelu")(h)], name="<odd> & ünïcode ∑ 漢字")


def cyclic(split: bool) -> Outline:
    """h = tanh(W [X, h one step ago] + B), N = h W + B, written by hand."""
    values = [Value("X", (), 3), Value("back", (), 5), Value("c1", (), 8)]
    kernels = [(("W1", (8, 5)), ("B1", (5,))), (("W2", (5, 2)), ("B2", (2,)))]
    steps = [Step("concatenate", "Concatenate", "concatenate", (0, 1), (2,), JOIN)]
    if split:
        values += [Value("t1", (), 5)]
        steps += [Step("dense", "Dense", "· W1 + B1", (2,), (3,), DENSE, weights=kernels[0], parameters=45)]
        steps += [Step("dense activation", "Activation", "tanh", (3,), (4,), EACH, "tanh")]
    else:
        steps += [Step("dense", "Dense", "· W1 + B1, tanh", (2,), (3,), DENSE, "tanh", kernels[0], 45)]
    state = len(values)
    values += [Value("h1", (), 5), Value("N", (), 2)]
    steps += [Step("dense_1", "Dense", "· W2 + B2", (state,), (state + 1,), DENSE, weights=kernels[1], parameters=12)]
    steps += [Step("feedback", "Feedback", "one step late", (state,), (1,), EACH, late=True)]
    return Outline("cyclic", tuple(values), tuple(steps), (0,), (state + 1,))


NETS = {"marks": marks, "digits": digits, "skip": skip, "odd": odd}


def canvas_of(net: str, scale: str, notation: str) -> Canvas:
    if net == "cyclic":
        return sketch(cyclic(False), cyclic(True), scale, notation)
    return NETS[net]().draw(scale=scale, notation=notation).canvas


def overlap(a: tuple[float, ...], b: tuple[float, ...], slack: float = 0.5) -> bool:
    return (
        min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack
    )  # both lie inside one another by more than a hair


def faults(canvas: Canvas) -> list[str]:
    """What a person would see at once: text over text, text that is cut off, text that cannot be read."""
    found = []
    for text in canvas.texts:
        left, top, right, bottom = text.box
        if left < 0 or top < 0 or right > canvas.width or bottom > canvas.height:
            found.append(f"{text.text!r} leaves the picture")
        if contrast(text.fill, text.ground) < 4.5:
            found.append(f"{text.text!r} is {text.fill} on {text.ground}")
    found += [f"{a.text!r} over {b.text!r}" for a, b in combinations(canvas.texts, 2) if overlap(a.box, b.box)]
    shapes = [s for s in canvas.shapes if isinstance(s, (Rect, Circle))]
    for shape in shapes:
        if isinstance(shape, Circle):
            box: tuple[float, ...] = (
                shape.x - shape.radius,
                shape.y - shape.radius,
                shape.x + shape.radius,
                shape.y + shape.radius,
            )
        else:
            box = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
        if box[0] < 0 or box[1] < 0 or box[2] > canvas.width or box[3] > canvas.height:
            found.append(f"{shape} leaves the picture")
    return found


def drawn(svg: str) -> str:
    """What can be seen, apart from the words."""
    return re.sub(r"<(title|text)[^>]*>.*?</\1>", "", svg)


@pytest.mark.parametrize("net", [*NETS, "cyclic"])
@pytest.mark.parametrize(("scale", "notation"), COMBINATIONS)
def test_a_picture_is_valid_svg_below_2_megabytes_in_which_everything_can_be_read(net: str, scale: str, notation: str) -> None:
    canvas = canvas_of(net, scale, notation)
    svg = canvas.svg()
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and len(svg.encode()) < 2e6
    written = [element.text for element in root.iter(f"{SVG}text")]
    assert sorted(map(str, written)) == sorted(text.text for text in canvas.texts)
    assert faults(canvas) == []


@pytest.mark.parametrize("net", ["marks", "digits", "skip", "cyclic"])
def test_the_nine_pictures_of_a_net_differ_in_what_is_drawn(net: str) -> None:
    pictures = [drawn(canvas_of(net, *each).svg()) for each in COMBINATIONS]
    kinds = [Counter(re.findall(r"<(\w+) (?:[^>]*?fill=\"([^\"]*)\")?", picture)) for picture in pictures]
    assert len(set(pictures)) == 9
    for (a, one), (b, other) in combinations(enumerate(kinds), 2):
        assert one != other, f"{COMBINATIONS[a]} and {COMBINATIONS[b]} have the same shapes"


@pytest.mark.parametrize("net", [*NETS, "cyclic"])
@pytest.mark.parametrize("notation", ["layers", "values", "neurons"])
def test_no_link_runs_through_a_label_of_the_numbers(net: str, notation: str) -> None:
    canvas = canvas_of(net, "numbers", notation)
    links = [(place, shape) for place, shape in enumerate(canvas.shapes) if isinstance(shape, Link)]
    grounds = [(place, shape) for place, shape in enumerate(canvas.shapes) if isinstance(shape, Rect) and shape.fill == PAPER]
    for text in canvas.texts:
        left, top, right, bottom = text.box
        under = [i for i, link in links if any(left < x < right and top < y < bottom for x, y in along(link))]
        covers = [
            place for place, g in grounds
            if g.opacity == 1 and g.x <= left and g.y <= top and g.x + g.width >= right and g.y + g.height >= bottom
        ]  # fmt: skip
        assert not under or any(place > max(under) for place in covers), f"links run through {text.text!r}"
        if notation == "values" and text.text.startswith("·"):  # what is written along links is beside them
            assert not under, f"links pass behind {text.text!r}"


def test_the_checks_of_this_file_see_faults() -> None:
    canvas = Canvas("x", 100, 50)
    canvas.add(Text(50, 20, "one"), Text(52, 22, "other"), Text(1, 40, "cut off"), Text(70, 40, "pale", fill="#dddddd"))
    found = faults(canvas)
    assert len(found) == 3 and "over" in found[2] and "leaves" in found[0] and "#dddddd" in found[1]


# --- what it shows ----------------------------------------------------------------------------------------------------


def words(canvas: Canvas) -> str:
    return "\n".join(text.text for text in canvas.texts)


def test_layers_show_shapes_parameters_and_what_flows() -> None:
    text = words(marks().draw().canvas)
    for part in ("Dense, tanh", "W1: 3 × 4, B1: 4", "16 parameters", "h1", "b × 4", "N", "b × 2", "12 parameters"):
        assert part in text


def test_values_show_what_makes_one_of_another() -> None:
    text = words(marks().draw(notation="values").canvas)
    assert "· W1 + B1, tanh" in text and "W3: 5 × 2, B3: 2" in text and "parameters" not in text


def test_neurons_show_populations_and_count_synapses() -> None:
    text = words(skip().draw(notation="neurons").canvas)
    assert "8 neurons" in text and "activation: relu" in text
    assert "24 synapses" in text and "22 synapses" in text and "8 synapses" in text  # 3·8, (8 + 3)·2, 8·1
    assert "concatenate" not in text.lower()


def test_vectors_show_a_bar_for_every_vector() -> None:
    names = [value.name for value in outline(marks(), split=True).values]
    assert names == ["X", "t1", "h1", "t2", "h2", "N"]
    text = words(marks().draw(scale="vectors", notation="values").canvas).splitlines()
    assert set(names) <= set(text)


@pytest.mark.parametrize(("notation", "circles"), [("values", 3 + 4 + 4 + 5 + 5 + 2), ("neurons", 3 + 4 + 5 + 2)])
def test_numbers_show_every_unit_and_every_weight_of_a_small_net(notation: str, circles: int) -> None:
    canvas = marks().draw(scale="numbers", notation=notation).canvas
    assert sum(isinstance(shape, Circle) for shape in canvas.shapes) == circles
    links = canvas.svg().count('<path d="M')
    assert links == 3 * 4 + 4 * 5 + 5 * 2 + (9 if notation == "values" else 0)
    assert "Sampled" not in words(canvas)


def test_numbers_of_a_large_net_are_sampled_and_say_so() -> None:
    canvas = digits().draw(scale="numbers", notation="neurons").canvas
    text = words(canvas)
    assert "of 101,632 links are drawn" in text and "of 784 shown" in text and "of 128 shown" in text
    assert 2 * EDGES > canvas.svg().count("<path d=") > 1000


def test_few_but_long_links_are_sampled_too() -> None:
    rng = np.random.default_rng(0)
    values = [af.Input([4])]
    for _ in range(100):
        own = [values[int(rng.integers(len(values)))] for _ in range(3)]
        values.append(af.Dense(4)(af.Add()([values[-1], *own])))
    canvas = af.Model(values[0], values[-1]).draw(scale="numbers", notation="neurons").canvas
    assert len(canvas.svg().encode()) < 2e6
    assert "Sampled: " in words(canvas) and "of 4 shown" in words(canvas) and canvas.svg().count("<path d=") > 500


def test_a_few_thousand_links_are_all_drawn() -> None:
    model = af.Sequential([af.Dense(60, input_shape=[60])])
    assert sampled(of_values(outline(model, split=True))).links() == 3600
    model = af.Sequential([af.Dense(70, input_shape=[70])])
    some = sampled(of_values(outline(model, split=True)))
    assert 1000 < some.links() <= EDGES and some.all_links() == 4900


def test_a_dense_on_several_positions_links_each_to_its_own() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[5, 3]), af.Flatten(), af.Dense(4)])
    columns = sampled(of_values(outline(model, split=True)))
    assert columns.links() == 5 * 3 * 2 + 10 + 10 * 4
    first = next(bundle for bundle in columns.bundles if bundle.links == DENSE)
    assert {(i // 3, j // 2) for i, j, _ in first.pairs(columns.columns)} == {(k, k) for k in range(5)}


def test_every_weight_of_the_kernel_has_its_link() -> None:
    plan = outline(skip())
    columns = sampled(of_neurons(plan))
    found = [place for bundle in columns.bundles for *_, place in bundle.pairs(columns.columns) if bundle.target == 2]
    assert sorted(place for place in found if place) == sorted(np.ndindex(11, 2))


def test_feedback_curves_back_below_everything_and_says_that_it_is_late() -> None:
    for scale, notation in COMBINATIONS:
        canvas = canvas_of("cyclic", scale, notation)
        assert "one step late" in words(canvas), (scale, notation)
    found = circuit(cyclic(False))
    assert [(s.source, s.target, s.first, s.late) for s in found.synapses] == [
        (0, 1, 0, False),
        (1, 1, 3, True),
        (1, 2, 0, False),
    ]
    assert list(map(found.count, found.synapses)) == [15, 25, 10]


def test_shorter_feedback_lies_inside_longer_feedback() -> None:
    boxes = [Box(40, 30) for _ in range(4)]
    edges = [*(Edge(i, i + 1) for i in range(3)), Edge(3, 0, late=True), Edge(1, 0, late=True), Edge(3, 2, late=True)]
    routes = arrange(boxes, edges).routes[3:]
    lowest = [max(y for _, y in route) for route in routes]
    assert lowest[0] > max(lowest[1:]) and len(set(lowest)) == 3
    assert min(x for x, _ in routes[0]) < min(x for x, _ in routes[1])
    assert max(x for x, _ in routes[0]) > max(x for x, _ in routes[2])


# --- data -------------------------------------------------------------------------------------------------------------


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(6, 3)), rng.normal(size=(6, 2))


def test_with_data_units_show_their_values_and_links_take_the_weights_colours() -> None:
    x, y = data()
    model = marks()
    canvas = model.draw(scale="numbers", notation="values", x=x).canvas
    text = words(canvas)
    assert "activation" in text and "weight" in text and "first row" in text
    shown = [t.text.replace("−", "-") for t in canvas.texts if re.fullmatch(r"−?\d*\.\d+|0", t.text)]
    assert any(abs(float(number) - x[0, 0]) < 0.06 for number in shown)
    assert faults(canvas) == []
    assert drawn(canvas.svg()) != drawn(model.draw(scale="numbers", notation="values").svg)
    model.compile("mse", "sgd")
    backward = model.draw(scale="numbers", notation="values", x=x, y=y, colour="gradient").canvas
    assert "δE/δ value" in words(backward) and faults(backward) == [] and drawn(backward.svg()) != drawn(canvas.svg())


def test_the_numbers_of_a_picture_are_those_of_the_model() -> None:
    from aforo.draw.measured import measured

    x, y = data()
    model = marks()
    model.compile("mse", "sgd")
    plan = outline(model, split=True)
    forward = measured(model, plan, x, None, "value")
    out = next(i for i, value in enumerate(plan.values) if value.name == "N")
    np.testing.assert_allclose(forward.values[out], model.predict(x[:1])[0], rtol=1e-5)
    np.testing.assert_array_equal(forward.weights["dense"], model.layers[0].kernel.numpy())
    backward = measured(model, plan, x, y, "gradient")
    t = af.tensor(x[:1])
    h = t
    for layer in model.layers:
        h = layer(h)
    slope = af.grad(af.losses.mse(af.tensor(y[:1]), h), model.layers[0].kernel)
    np.testing.assert_allclose(backward.weights["dense"], slope.numpy(), rtol=1e-4, atol=1e-7)


def test_a_picture_without_data_draws_no_weights() -> None:
    model = digits()
    model.draw(scale="numbers")
    assert all(weight.variable.storage is None for weight in model.weights)


# --- layout -----------------------------------------------------------------------------------------------------------


def test_boxes_do_not_overlap_and_edges_lead_to_the_right() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        n = int(rng.integers(2, 25))
        boxes = [Box(float(rng.uniform(10, 90)), float(rng.uniform(10, 60))) for _ in range(n)]
        edges = [Edge(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 2 / n]
        edges += [Edge(int(rng.integers(n)), int(rng.integers(n)), late=True)]
        found = arrange(boxes, edges)
        places = [
            (x - box.width / 2, y - box.height / 2, x + box.width / 2, y + box.height / 2)
            for box, (x, y) in zip(boxes, found.centers, strict=True)
        ]
        assert not any(overlap(a, b) for a, b in combinations(places, 2))
        for edge, route in zip(edges, found.routes, strict=True):
            if not edge.late:
                assert [x for x, _ in route] == sorted(x for x, _ in route)
                assert found.ranks[edge.source] < found.ranks[edge.target]
                for x, y in route[1:-1]:  # passing edges go through no box
                    assert not any(a < x < c and b < y < d for a, b, c, d in places)
        assert all(a >= -1e-6 and b >= -1e-6 and c <= found.width + 1e-6 and d <= found.height + 1e-6 for a, b, c, d in places)


def test_crossings_are_counted_and_a_ladder_has_none() -> None:
    pairs = [(0, 2), (1, 0), (2, 1)]
    assert crossings(pairs) == sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(pairs, 2)) == 2
    # Two chains whose nodes were made in turns, crossed at every rank: the layout must untangle them.
    boxes = [Box(20, 20) for _ in range(8)]
    edges = [Edge(0, 3), Edge(1, 2), Edge(2, 5), Edge(3, 4), Edge(4, 7), Edge(5, 6)]
    found = arrange(boxes, edges)
    for rank in range(3):
        ends = [(found.centers[e.source][1], found.centers[e.target][1]) for e in edges if found.ranks[e.source] == rank]
        assert crossings([(a, b) for a, b in ends]) == 0  # type: ignore[list-item]


# --- files and mistakes -----------------------------------------------------------------------------------------------


def test_a_picture_is_written_and_shown_in_notebooks(tmp_path: Path) -> None:
    picture = marks().draw(tmp_path / "net.svg")
    assert isinstance(picture, Picture)
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == picture.svg == picture._repr_svg_()


def test_a_png_is_written_below_2_megabytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="PNG needs the extra `plot`")
    for name, net in (("small", marks()), ("large", digits())):
        net.draw(tmp_path / f"{name}.png", scale="numbers")
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n") and 1000 < len(content) < 2e6


def test_without_matplotlib_a_png_gives_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(af.Error, match=r"needs matplotlib(.|\n)*pip install 'aforo\[plot\]'"):
        marks().draw(tmp_path / "net.png")
    marks().draw(tmp_path / "net.svg")


def test_mistakes_are_explained_before_anything_is_written(tmp_path: Path) -> None:
    model = marks()
    with pytest.raises(af.Error, match=r"no scale named 'vector'(.|\n)*did you mean 'vectors'"):
        model.draw(scale="vector")
    with pytest.raises(af.Error, match=r"no notation named 'neuron'(.|\n)*did you mean 'neurons'"):
        model.draw(notation="neuron")
    with pytest.raises(af.Error, match=r"\.svg or \.png(.|\n)*net\.pdf(.|\n)*model\.draw\(\"net\.svg\"\)"):
        model.draw(tmp_path / "net.pdf")
    with pytest.raises(af.Error, match="no such folder"):
        model.draw(tmp_path / "missing" / "net.svg")
    with pytest.raises(af.Error, match=r"cannot be written(.|\n)*too long"):
        model.draw(tmp_path / f"{'n' * 300}.svg")
    with pytest.raises(af.Error, match="written to a file"):
        model.draw(3)  # type: ignore[arg-type]
    with pytest.raises(af.Error, match=r'data colours numbers(.|\n)*scale="numbers"'):
        model.draw(x=np.zeros((1, 3)))
    with pytest.raises(af.Error, match="gradient needs targets"):
        model.draw(scale="numbers", x=np.zeros((1, 3)), colour="gradient")
    with pytest.raises(af.Error, match="colours come from data"):
        model.draw(scale="numbers", colour="gradient")
    with pytest.raises(af.Error, match="does not know its input size"):
        af.Sequential([af.Dense(3)]).draw()
    assert list(tmp_path.iterdir()) == []
    for name in ("dir.svg", "dir.png"):
        (tmp_path / name).mkdir()
        with pytest.raises(af.Error, match=rf"written to a file(.|\n)*{name}, a folder(.|\n)*model\.draw\("):
            model.draw(tmp_path / name)


def test_a_model_that_diverged_is_drawn_with_its_numbers(tmp_path: Any) -> None:
    x, y = af.datasets.load_diabetes(standardized=False)
    model = af.Sequential([af.Dense(4), af.Dense(1)])
    model.compile("mse", "sgd")
    model.fit(x, y, epochs=5, verbose=0)
    assert not np.isfinite(model.get_weights()[0]).all()
    for notation in ("layers", "values", "neurons"):
        model.draw(tmp_path / "n.svg", scale="numbers", notation=notation, x=x)
        assert "nan" in (tmp_path / "n.svg").read_text()
