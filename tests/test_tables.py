"""Tables in text files: types, missing values, text as numbers, and mistakes named with their line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aforo as af

load = af.datasets.load_csv
GRADES = Path(__file__).parents[1] / "examples" / "grades.csv"


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_the_courses_table_gives_three_inputs_and_two_targets():
    x, y = load(GRADES, targets=["N1", "N2"])
    assert x.dtype == y.dtype == np.float32 and x.shape == (len(x), 3) and y.shape == (len(x), 2)
    assert x[:3].tolist() == [[2, 24, 4], [5, 22, 3], [7, 25, 4]]
    np.testing.assert_allclose(y[:3], [[7, 7.2], [4.5, 5.2], [6.3, 6]])


def test_columns_come_in_the_order_asked_for(table):
    path = table("a,b,c\n1,2,3\n4,5,6\n")
    assert load(path, "b", columns=["c", "a"])[0].tolist() == [[3, 1], [6, 4]]
    assert load(path, ["c", "a"])[1].tolist() == [[3, 1], [6, 4]]


def test_text_targets_become_class_numbers_or_one_hot_rows(table):
    path = table("a,kind\n1,oak\n2,ash\n3,oak\n")
    _, y = load(path, targets="kind")
    assert (y.dtype, y.tolist()) == (np.int64, [1, 0, 1])
    assert load(path, targets="kind", one_hot=True)[1].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_text_inputs_become_columns_of_zeros_and_ones(table):
    path = table("colour,n,y\nred,1,0\nblue,2,1\n")
    assert load(path, "y", one_hot=True, columns=["colour", "n"])[0].tolist() == [[0, 1, 1], [1, 0, 2]]
    with pytest.raises(af.Error, match=r"column 'colour' holds text(.|\n)*line 2(.|\n)*one_hot="):
        load(path, "y")


def test_a_target_of_whole_numbers_is_one_hot_when_asked(table):
    assert load(table("a,y\n1,3\n2,5\n3,3\n"), "y", one_hot=True)[1].tolist() == [[1, 0], [0, 1], [1, 0]]


def test_missing_values_are_refused_dropped_or_filled(table):
    path = table("a,b,y\n1,10,1\n,20,2\n3,NA,3\n")
    with pytest.raises(af.Error, match=r"column 'a' lacks a value in line 3(.|\n)*missing=\"drop\""):
        load(path, "y")
    assert load(path, "y", missing="drop")[0].tolist() == [[1, 10]]
    assert load(path, "y", missing="mean")[0].tolist() == [[1, 10], [2, 20], [3, 15]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_first_line(table, delimiter):
    text = "a,b\n1,2\n".replace(",", delimiter)
    assert load(table(text), "b")[1].tolist() == [[2]]


def test_decimal_commas_byte_order_marks_quotes_and_blank_lines_are_read(table):
    path = table('\ufeffa;"b c"\n1,5;2\n\n"3,25";4\n')
    x, y = load(path, "b c", decimal=",")
    assert x.tolist() == [[1.5], [3.25]] and y.tolist() == [[2], [4]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n", r"line 3 .*does not fit(.|\n)*expected: 2 values: a, b(.|\n)*received: 1: 3"),
        ("a,b\n1,2\nx,3\n", r"column 'a' holds numbers, but not in line 3(.|\n)*'x'"),
        ("a,a,b\n1,2,3\n", "two columns .* named 'a'"),
        ("a,b\n", "holds no rows"),
        ("", "no line of column names"),
        ("a,b\n,1\n", "column 'a' lacks a value in line 2"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(table, text, said):
    with pytest.raises(af.Error, match=said):
        load(table(text), "b")


def test_a_column_that_is_not_there_is_named_with_the_nearest(table):
    with pytest.raises(af.Error, match="did you mean 'grade'"):
        load(table("hours,grade\n1,2\n"), "grad")


def test_a_table_trains_a_model():
    x, y = load(GRADES, targets=["N1", "N2"])
    model = af.Sequential([af.Dense(2)])
    model.compile(loss="mse", optimizer="sgd")
    losses = model.fit((x - x.mean(0)) / x.std(0), y, epochs=200, verbose=0, seed=1).history["loss"]
    assert losses[-1] < losses[0] / 4


def test_tables_that_offer_to_numpy_are_taken_as_arrays():
    class Frame:
        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return np.array(self.values)

    model = af.Sequential([af.Dense(1, input_shape=[2])])
    model.compile(loss="mse", optimizer="sgd")
    x, y = [[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0]
    assert (model.predict(Frame(x)) == model.predict(x)).all()
    assert model.evaluate(Frame(x), Frame(y)) == model.evaluate(np.array(x), np.array(y))


def test_a_file_that_cannot_be_opened_or_decoded_says_so(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path, 3.5, None):
        with pytest.raises(af.Error, match="cannot be read"):
            load(path, "y")
    old = tmp_path / "old.csv"
    old.write_bytes("año,y\n1,2\n".encode("latin-1"))
    with pytest.raises(af.Error, match=r"not written in utf-8(.|\n)*latin-1"):
        load(old, "y")
    x, y = load(old, "y", encoding="latin-1")
    assert x.tolist() == [[1.0]] and y.tolist() == [[2.0]]
    with pytest.raises(af.Error, match="encoding is not known"):
        load(old, "y", encoding="latin-uno")


def test_names_of_columns_are_text_one_or_several(table):
    path = table("a,b,y\n1,2,3\n4,5,6\n")
    assert load(path, "y", columns="b")[0].tolist() == [[2.0], [5.0]]
    for wrong in ({"targets": 4}, {"targets": [4]}, {"targets": "y", "columns": [0]}):
        with pytest.raises(af.Error, match="names of columns"):
            load(path, **wrong)


def test_decimal_commas_are_recognised_in_the_fix(table):
    path = table("a;y\n2,5;1\n-3,25;2\n")
    with pytest.raises(af.Error, match='fix: load_csv\\(…, decimal=","\\)'):
        load(path, "y")
    assert load(path, "y", decimal=",")[0].tolist() == [[2.5], [-3.25]]


# --- awkward files ----------------------------------------------------------------------------------------------------


def saved(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


HOUSES = "district,metres,price\nNorth,50,{}\nSouth,80,{}\nNorth,62,130\nEast,45,70\n"


def test_a_price_stays_a_number_where_text_is_mapped(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", HOUSES.format(101.5, 180.25))
    x, y = af.datasets.load_csv(path, targets="price", one_hot=True)
    assert x.shape == (4, 4) and np.array_equal(y[:, 0], np.float32([101.5, 180.25, 130, 70])) and y.shape == (4, 1)
    path = saved(tmp_path / "t.csv", HOUSES.format(101, 180))
    assert af.datasets.load_csv(path, targets="price", one_hot=True)[1].shape == (4, 4), "whole numbers may be classes"
    x, y = af.datasets.load_csv(path, targets="price", one_hot=["district"])
    assert x.shape == (4, 4) and y.shape == (4, 1)
    with pytest.raises(af.Error, match="no column named 'distric'"):
        af.datasets.load_csv(path, targets="price", one_hot=["distric"])


@pytest.mark.parametrize("delimiter", ["::", "", "\n", 3])
def test_a_delimiter_is_one_character(tmp_path: Path, delimiter: Any) -> None:
    with pytest.raises(af.Error, match="a delimiter is one character"):
        af.datasets.load_csv(saved(tmp_path / "t.csv", "a,y\n1,2\n"), targets="y", delimiter=delimiter)


def test_lines_that_end_with_a_delimiter_have_no_column_more(tmp_path: Path) -> None:
    for text in ("a,y,\n1,2,\n3,4,\n", "a,y,\n1,2\n3,4\n", "a,y,,\n1,2,,\n3,4,,\n"):
        x, y = af.datasets.load_csv(saved(tmp_path / "t.csv", text), targets="y")
        assert x.tolist() == [[1], [3]] and y.tolist() == [[2], [4]]
    with pytest.raises(af.Error):
        af.datasets.load_csv(saved(tmp_path / "t.csv", "a,y,\n1,2,5\n3,4,\n"), targets="y")


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a,y\n1,0\n2,1\n3,\n", {"one_hot": True, "missing": "mean"}, r"class in column 'y' is missing in line 4(.|\n)*drop"),
        ("a;y\n1.234,5;2,5\n2.000,0;3\n", {"decimal": ","}, r"without separators of thousands: 1234,5"),
        ('a,y\n"1,234.5",2\n3,4\n', {}, r"without separators of thousands: 1234.5"),
        ("a;y\n1'234;2\n2;3\n", {}, r"without separators of thousands: 1234"),
        ("a;y\n1,5;2\n2;3\n", {}, r'fix: load_csv\(…, decimal=","\)'),
        ('a,y\n"1,2\n' + "3,4\n" * 60_000, {}, r"is no table(.|\n)*not closed"),
        ("a,y\n1e39,2\n3,4\n", {}, r"'a' holds a number in line 2 that float32 cannot(.|\n)*1e39"),
        ("a,y\n1,2\n3,inf\n", {}, r"'y' holds a number in line 3 that float32 cannot(.|\n)*inf"),
    ],
)
def test_awkward_cells_are_told(tmp_path: Path, text: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(af.Error, match=says):
        af.datasets.load_csv(saved(tmp_path / "t.csv", text), targets="y", **options)
