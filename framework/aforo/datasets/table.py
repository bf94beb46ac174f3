"""Tables in text files."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

import numpy as np

from ..errors import InvalidType, InvalidValue, explain, unknown_name
from ..settings import strict

Array = np.ndarray[Any, Any]
_THOUSANDS = r"[.,'’ ](?=\d{3})"
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


@strict
def load_csv(
    path: str | PathLike[str],
    targets: str | Sequence[str],
    one_hot: bool | Sequence[str] = False,
    *,
    columns: Sequence[str] | None = None,
    missing: str = "error",
    delimiter: str | None = None,
    decimal: str = ".",
    encoding: str = "utf-8-sig",
) -> tuple[Array, Array]:
    """x (n, d) and y (n, k), both float32, from a table with a line of column names.

    targets: the column or columns to predict; all others are x, unless `columns` names those. Columns of text become one
    column of 0 and 1 for each of their values, in alphabetical order, with `one_hot=True`; without it a single target of
    text becomes class numbers, (n,) int64, and text in x is refused. `one_hot=True` also maps a single target of whole numbers;
    names of columns map these and no others.
    missing: "error", "drop" the row, or "mean" of the column for numbers. delimiter: found in the first line unless given.
    """
    wanted = _names("targets", targets)
    chosen = None if columns is None else _names("columns", columns)
    names, lines = _read(path, delimiter, encoding)
    features = [name for name in names if name not in wanted] if chosen is None else chosen
    for name in [*wanted, *features]:
        if name not in names:
            raise unknown_name("column", name, names)
    if not wanted or not features:
        raise InvalidValue(explain("a table needs columns for x and for y.", received=", ".join(names), fix='targets=["N1"]'))
    if missing not in ("error", "drop", "mean"):
        raise unknown_name("way to treat missing values", missing, ("error", "drop", "mean"))

    used = {name: names.index(name) for name in [*features, *wanted]}
    mapped = _names("one_hot", one_hot) if not isinstance(one_hot, bool) else []
    for name in mapped:
        if name not in used:
            raise unknown_name("column", name, used)
    if missing == "mean" and len(wanted) == 1 and (one_hot is True or wanted[0] in mapped):
        for number, cells in lines:
            if _is_missing(cells[used[wanted[0]]]):
                raise InvalidValue(
                    explain(f"the class in column {wanted[0]!r} is missing in line {number}.", fix='missing="drop"')
                )
    if missing == "drop":
        lines = [line for line in lines if not any(_is_missing(line[1][i]) for i in used.values())]
        if not lines:
            raise InvalidValue(explain(f"every row of {fspath(path)} lacks a value.", fix='missing="mean"'))
    read = {name: _column(name, [(number, cells[i]) for number, cells in lines], missing, decimal) for name, i in used.items()}

    text = [name for name in features if read[name].dtype.kind == "U" and one_hot is not True and name not in mapped]
    if text:
        number, cells = lines[0]
        cell = cells[used[text[0]]]
        codes = f"load_csv(…, one_hot={text}) makes a column of 0 and 1 for each value"
        raise InvalidType(
            explain(
                f"column {text[0]!r} holds text.",
                expected="numbers",
                received=f"{cell!r} in line {number}",
                fix=_separators(cell, decimal) or codes,
            )
        )

    def encoded(name: str) -> Array:
        """Numbers as one column; text, and what is to be mapped, as one for each value."""
        values = read[name]
        return _one_hot(values) if name in mapped or values.dtype.kind == "U" else values.astype(np.float32)[:, None]

    x = np.concatenate([encoded(name) for name in features], axis=1)
    if len(wanted) == 1:
        target = read[wanted[0]]
        if target.dtype.kind == "U" and one_hot is not True and wanted[0] not in mapped:
            return x, np.unique(target, return_inverse=True)[1].astype(np.int64)
        if one_hot is True and (target.dtype.kind == "U" or (target == np.floor(target)).all()):
            return x, _one_hot(target)
    return x, np.concatenate([encoded(name) for name in wanted], axis=1)


def _names(what: str, given: Any) -> list[str]:
    """Names of columns, one or several."""
    names = [given] if isinstance(given, str) or not hasattr(given, "__iter__") else list(given)
    for name in names:
        if not isinstance(name, str):
            raise InvalidType(
                explain(f"{what} are names of columns.", expected="text", received=repr(name), fix=f'{what}=["N1"]')
            )
    return names


@contextmanager
def _opened(path: str | PathLike[str], encoding: str) -> Iterator[Any]:
    """The file, to be read as text."""
    try:
        with open(path, newline="", encoding=encoding) as file:
            yield file
    except (OSError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a path is text"
        text = explain(f"this table cannot be read: {reason}.", received=repr(path), fix="print(os.listdir())")
        raise InvalidValue(text) from None
    except csv.Error as error:
        raise InvalidValue(
            explain(f"{fspath(path)} is no table: {error}.", fix="look for a quotation mark that is not closed")
        ) from None
    except LookupError:
        raise InvalidValue(explain("this encoding is not known.", received=repr(encoding), fix='encoding="utf-8"')) from None
    except UnicodeDecodeError as error:
        raise InvalidValue(
            explain(
                f"{fspath(path)} is not written in {encoding}.",
                received=f"byte 0x{error.object[error.start]:02x} at {error.start}",
                fix='encoding="utf-16"'
                if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                else 'encoding="latin-1", as older spreadsheets write',
            )
        ) from None


def _read(path: str | PathLike[str], delimiter: str | None, encoding: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The column names, and every row with its line number."""
    with _opened(path, encoding) as file:
        first = file.readline()
        if delimiter is None:
            delimiter = max(",;\t|", key=first.count)
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise InvalidValue(explain("a delimiter is one character.", received=repr(delimiter), fix='delimiter=";"'))
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        reader = csv.reader(file, delimiter=delimiter)
        lines = [(reader.line_num + 1, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    while names and not names[-1] and all(len(cells) <= len(names) and not any(cells[len(names) - 1 :]) for _, cells in lines):
        names = names[:-1]  # spreadsheets end lines with delimiters
        lines = [(number, cells[: len(names)]) for number, cells in lines]
    if not names or not any(names):
        raise InvalidValue(explain(f"{fspath(path)} has no line of column names.", expected="e.g. study,age,mark"))
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InvalidValue(explain(f"two columns of {fspath(path)} are named {repeated[0]!r}."))
    for number, cells in lines:
        if len(cells) != len(names):
            raise InvalidValue(
                explain(
                    f"line {number} of {fspath(path)} does not fit the table.",
                    expected=f"{len(names)} values: {', '.join(names)}",
                    received=f"{len(cells)}: {', '.join(cells)}",
                    fix=f"quote values that hold a {delimiter!r}",
                )
            )
    if not lines:
        raise InvalidValue(explain(f"{fspath(path)} holds no rows.", expected="rows below the line of column names"))
    return names, lines


def _separators(cell: str, decimal: str) -> str:
    """What to do about a number that is written with other separators than a point; nothing, if it is none."""
    whole, comma, rest = cell.partition(",")
    if decimal != "," and comma and whole.lstrip("+-").isdigit() and rest.isdigit():
        return 'load_csv(…, decimal=",")'
    if re.fullmatch(r"[+-]?\d{1,3}([.,'’ ]\d{3})+([.,]\d+)?", cell):
        return f"numbers without separators of thousands: {re.sub(_THOUSANDS, '', cell)}"
    return ""


def _is_missing(cell: str) -> bool:
    return cell.lower() in _MISSING


def _column(name: str, cells: Sequence[tuple[int, str]], missing: str, decimal: str) -> Array:
    """A column as float64, or as text if none of its values is a number."""
    numbers: list[float] = []
    wrong: list[tuple[int, str]] = []
    for number, cell in cells:
        if _is_missing(cell):
            if missing == "error":
                raise InvalidValue(
                    explain(
                        f"column {name!r} lacks a value in line {number}.",
                        expected="a value in every row",
                        received=repr(cell),
                        fix='load_csv(…, missing="drop") leaves such rows out, missing="mean" fills them in',
                    )
                )
            numbers.append(np.nan)
            continue
        try:
            numbers.append(float(cell if decimal == "." else cell.replace(decimal, ".")))
        except ValueError:
            wrong.append((number, cell))
            numbers.append(np.nan)
    known = sum(not _is_missing(cell) for _, cell in cells)
    if wrong and len(wrong) < known:
        raise InvalidValue(
            explain(
                f"column {name!r} holds numbers, but not in line {wrong[0][0]}.",
                expected="a number",
                received=repr(wrong[0][1]),
                fix=_separators(wrong[0][1], decimal) or "correct the line",
            )
        )
    if wrong:
        if known < len(cells):
            raise InvalidValue(
                explain(f"column {name!r} holds text, and lacks some values.", expected="no gaps", fix='missing="drop"')
            )
        return np.array([cell for _, cell in cells])
    values = np.array(numbers)
    if not known:
        raise InvalidValue(explain(f"column {name!r} is empty.", fix=f"leave {name!r} out with columns=[…]"))
    large = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
    if len(large):
        number, cell = cells[large[0]]
        raise InvalidValue(
            explain(
                f"column {name!r} holds a number in line {number} that float32 cannot.",
                expected="finite numbers up to 3.4e38",
                received=cell,
                fix="correct the line, or take it out",
            )
        )
    return np.where(np.isnan(values), np.nanmean(values), values)


def _one_hot(values: Array) -> Array:
    kinds, which = np.unique(values, return_inverse=True)
    return np.eye(len(kinds), dtype=np.float32)[which]
