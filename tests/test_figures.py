"""Curves, confusion matrices and summaries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Array

import aforo as af
from aforo.history import History
from aforo.summary import text


def fitted(validation: float = 0.25) -> History:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    model = af.Sequential([af.Dense(4, "relu", input_shape=[3]), af.Dense(1, "sigmoid")])
    model.compile("binary_crossentropy", "adam", metrics=["accuracy", "recall"])
    return model.fit(x, (x[:, :1] > 0) * 1.0, epochs=3, verbose=0, validation_split=validation)


def axes_of(chart: Any) -> list[Any]:
    axes: list[Any] = chart.figure.get_axes()
    return axes


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_history_is_plotted_with_validation_beside_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    history = fitted()
    chart = history.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG") and chart._repr_png_().startswith(b"\x89PNG")
    assert [axes.get_ylabel() for axes in axes_of(chart)] == ["loss", "accuracy", "recall"]
    for axes in axes_of(chart):
        trained, validated = axes.get_lines()
        name = axes.get_ylabel()
        np.testing.assert_array_equal(trained.get_ydata(), history.history[name])
        np.testing.assert_array_equal(validated.get_ydata(), history.history[f"val_{name}"])
        assert list(trained.get_xdata()) == history.epoch
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_plots_give_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(af.Error, match=r"needs matplotlib(.|\n)*pip install 'aforo\[plot\]'"):
        fitted(0.0).plot()
    with pytest.raises(af.Error, match=r"pip install 'aforo\[plot\]'"):
        af.metrics.confusion_matrix([0, 1], [0, 1]).plot()


def test_a_plot_without_epochs_or_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(af.Error, match=r"holds no epoch(.|\n)*model\.fit\(x, y\)"):
        History().plot()
    with pytest.raises(af.Error, match="no such folder"):
        fitted(0.0).plot(tmp_path / "missing" / "curves.png")
    with pytest.raises(af.Error, match=r"\.png or \.svg or \.pdf"):
        fitted(0.0).plot(tmp_path / "curves.txt")
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(af.Error, match=r"curves\.png, a folder(.|\n)*history\.plot\("):
        fitted(0.0).plot(tmp_path / "curves.png")
    empty = History()
    empty.epoch, empty.history = [0], {"loss": []}
    with pytest.raises(af.Error, match=r"holds no epoch(.|\n)*model\.fit\(x, y\)"):
        empty.plot()
    assert repr(empty) == "<History of 1 epochs: >"


def test_a_curve_without_values_is_left_out_and_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    history = fitted(0.0)
    history.history["noted"] = []
    assert len(axes_of(history.plot())) == len(history.history) - 1
    with pytest.raises(af.Error, match=r"cannot be written(.|\n)*too long"):
        history.plot(tmp_path / f"{'n' * 300}.png")


# --- the confusion matrix ---------------------------------------------------------------------------------------------


def counted(true: Array, taken: Array, n: int) -> Array:
    matrix = np.zeros((n, n), int)
    for i, j in zip(true, taken, strict=True):
        matrix[i, j] += 1
    return matrix


def test_a_confusion_matrix_counts_whatever_form_the_classes_have() -> None:
    rng = np.random.default_rng(1)
    true, scores = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    taken = scores.argmax(1)
    expected = counted(true, taken, 4)
    for y, p in ((true, taken), (np.eye(4)[true], scores), (true[:, None], scores), (true.astype(float), np.eye(4)[taken])):
        found = af.metrics.confusion_matrix(y, p)
        np.testing.assert_array_equal(found.matrix, expected)
    assert found.accuracy == pytest.approx((true == taken).mean())
    for k in range(4):
        assert found.recall[k] == pytest.approx((taken[true == k] == k).mean())
        assert found.precision[k] == pytest.approx((true[taken == k] == k).mean())
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_a_confusion_matrix_equals_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the peer it is compared with")
    rng = np.random.default_rng(2)
    true, taken = rng.integers(0, 5, 100), rng.integers(0, 5, 100)
    np.testing.assert_array_equal(af.metrics.confusion_matrix(true, taken).matrix, metrics.confusion_matrix(true, taken))


def test_what_a_sigmoid_gives_is_cut_in_the_middle() -> None:
    found = af.metrics.confusion_matrix([0, 1, 1, 0], [[0.2], [0.7], [0.4], [0.9]], labels=["no", "yes"])
    np.testing.assert_array_equal(found.matrix, [[1, 1], [1, 1]])
    assert "yes" in str(found) and "accuracy 50.0% of 4 rows" in str(found)


def test_a_confusion_matrix_of_many_classes_prints_what_is_confused_most() -> None:
    true = np.arange(60) % 30
    taken = true.copy()
    taken[3] = 7
    text = str(af.metrics.confusion_matrix(true, taken))
    assert "3 taken for 7" in text and max(map(len, text.splitlines())) < 100


def test_a_confusion_matrix_is_plotted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    found = af.metrics.confusion_matrix([0, 1, 2, 2], [0, 2, 2, 2], labels=["a", "b", "c"])
    chart = found.plot(tmp_path / "confusion.svg")
    (axes,) = axes_of(chart)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [(t.get_position(), t.get_text()) for t in axes.texts] == [((0, 0), "1"), ((2, 1), "1"), ((2, 2), "2")]
    assert b"<svg" in (tmp_path / "confusion.svg").read_bytes()


def test_what_cannot_be_confused_is_explained() -> None:
    with pytest.raises(af.Error, match="differ in their number of rows"):
        af.metrics.confusion_matrix([0, 1], [0])
    with pytest.raises(af.Error, match="must hold class numbers"):
        af.metrics.confusion_matrix(["a", "b"], [0, 1])
    with pytest.raises(af.Error, match="negative class"):
        af.metrics.confusion_matrix([-1, 1], [0, 1])
    with pytest.raises(af.Error, match="more classes than labels"):
        af.metrics.confusion_matrix([0, 2], [0, 1], labels=["a", "b"])
    with pytest.raises(af.Error, match="neither classes nor probabilities"):
        af.metrics.confusion_matrix([0, 1], [0.5, 3.2])
    with pytest.raises(af.Error, match="finite numbers"):
        af.metrics.confusion_matrix([0, 1], [np.nan, 1.0])
    with pytest.raises(af.Error, match=r"at most 10,000 classes(.|\n)*class 10,000,000(.|\n)*np\.unique"):
        af.metrics.confusion_matrix([0, 10_000_000], [0, 1])
    for labels in (2, {"a": 0, "b": 1}, "ab"):
        with pytest.raises(af.Error, match=r"labels are the names of the classes(.|\n)*labels=\['0', '1'\]"):
            af.metrics.confusion_matrix([0, 1], [0, 1], labels=labels)  # type: ignore[arg-type]
    with pytest.raises(af.Error, match=r"y_true must hold class numbers(.|\n)*rows of one length"):
        af.metrics.confusion_matrix([[1, 0], [1]], [0, 1])


@pytest.mark.parametrize("rows", [[[0, 1, 0], [1, 1, 0]], [[1, 0], [0, 0]], [[2, -1], [0, 1]]])
def test_rows_of_several_classes_are_no_classes(rows: list[list[int]]) -> None:
    with pytest.raises(af.Error, match=r"rows of y_true are no classes(.|\n)*rows that sum to 1"):
        af.metrics.confusion_matrix(rows, [0, 1])
    assert af.metrics.confusion_matrix([0, 1], rows).matrix.sum() == 2  # what a model gives may be any numbers


# --- summaries --------------------------------------------------------------------------------------------------------


def test_the_summary_of_a_stack_has_no_column_of_sources() -> None:
    assert "fed by" not in text(af.Sequential([af.Dense(4, input_shape=[3]), af.Dropout(0.1), af.Dense(2)]))
    a = af.Input([3])
    assert "fed by" not in text(af.Model(a, af.Dense(2)(af.Dense(4)(a))))


def test_the_summary_of_a_graph_says_what_feeds_each_layer() -> None:
    a = af.Input([3], name="student")
    h = af.Dense(3, name="hidden")(a)
    both = af.Concatenate(name="both")([h * 2.0 + a, h])
    lines = text(af.Model(a, af.Dense(2, name="head")(both))).splitlines()
    fed = {line.split()[0]: line.rsplit("  ", 1)[1].strip() for line in lines if "(batch" in line}
    assert fed == {"hidden": "student", "both": "hidden, student", "head": "both"}
