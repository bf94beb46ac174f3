"""A model's forward and its derived backward, as one writes them on a whiteboard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidValue, explain, unknown_name
from ..outline import shape_text
from ..probe import probe
from ..specs import Shape
from .board import BACKWARD, FORWARD, Board, Line
from .expression import latex_name

if TYPE_CHECKING:
    from ..batches import Batches
    from ..model import Model

Array = np.ndarray[Any, Any]
_SHOWN = 6  # rows and columns of an array


@dataclass(frozen=True)
class Formula:
    """One line: `name` = `text`, of this shape. value: its numbers, where data was given. also: a longer name of it."""

    phase: str
    name: str
    text: str
    latex: str
    shape: Shape
    also: str = ""
    value: Array | None = None


class Explanation:
    """The lines of the forward and of the backward, in order; `explanation["δE/δW2"]` is one of them.

    ⊙ multiplies elementwise, · is the matrix product, ᵀ transposes; Σ sums over the rows, Σⱼ along a row, Σᵢⱼ over all.
    In a cyclic net `previous` is a value one time step ago, zeros (or what follows) at the first step, and `next` what comes
    back from the step after: `previous(h, start, mask)` stays as it is where the mask is false; `next(δ, mask, 3)` comes back
    over such steps, but not over every third one (truncate=3). GRU′(δW1, g) is the derivative of a GRU by W1, applied to g.
    """

    def __init__(self, title: str, lines: tuple[Formula, ...], as_latex: bool) -> None:
        self.title = title
        self.lines = lines
        self._as_latex = as_latex

    def __iter__(self) -> Iterator[Formula]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> Formula:
        for line in self.lines:
            if name in (line.name, line.also):
                return line
        raise unknown_name("line", name, [line.name for line in self.lines])

    @property
    def text(self) -> str:
        """As plain text."""
        rows = [(line, f"{line.name} = " + (f"{line.also} = " if line.also else "") + line.text) for line in self.lines]
        width = min(max((len(row) for _, row in rows), default=0), 88)
        out, phase = [self.title], ""
        for line, row in rows:
            if line.phase != phase:
                phase = line.phase
                out += ["", phase]
            out.append(f"  {row:<{width}}  {shape_text(line.shape) if line.shape else '1'}")
            if line.value is not None:
                out += ["      " + part for part in _numbers(line.value)]
        return "\n".join(out)

    def latex(self) -> str:
        """As LaTeX: one `aligned` block, for `$$ … $$` or an equation."""
        rows, phase = [], ""
        for line in self.lines:
            if line.phase != phase:
                phase = line.phase
                rows.append(rf"&\textbf{{{phase}}}")
            rows.append(f"{line.latex} && {_latex_shape(line.shape)}")
            if line.value is not None:
                rows.append(f"&\\quad {_latex_numbers(line.value)}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def __str__(self) -> str:
        return self.latex() if self._as_latex else self.text

    def __repr__(self) -> str:
        return str(self)

    def _repr_latex_(self) -> str:
        return f"$$\n{self.latex()}\n$$"


def _numbers(value: Array) -> list[str]:
    return np.array2string(value, precision=4, suppress_small=True, threshold=_SHOWN**2, edgeitems=_SHOWN // 2).splitlines()


def _latex_shape(shape: Shape) -> str:
    return r" \times ".join(shape_text(shape).split(" × "))


def _latex_numbers(value: Array) -> str:
    table = np.atleast_2d(value.reshape(-1, value.shape[-1]) if value.ndim > 1 else value)
    rows = [" & ".join(f"{number:.4g}" for number in row[:_SHOWN]) for row in table[:_SHOWN]]
    cut = r" & \cdots" * (table.shape[1] > _SHOWN)
    return (
        r"\begin{bmatrix}" + r" \\ ".join(row + cut for row in rows) + r" \\ \vdots" * (len(table) > _SHOWN) + r"\end{bmatrix}"
    )


def explain_model(model: Model, x: Any = None, y: Any = None, latex: bool = False) -> Explanation:
    """See `Model.explain`."""
    if x is None and y is not None:
        raise InvalidValue(explain("targets need what they belong to.", received="y without x", fix="model.explain(x, y)"))
    data = _checked(model, x, y)
    board = Board(probe(model, training=True), one_hot=y is None or _sums_to_one(data))
    board.forward()
    if y is not None or x is None:
        board.backward()
    lines = [line for line in board.lines if y is not None or x is None or line.name != "E"]
    values = _measured(board, lines, data) if data is not None else {}
    formulas = tuple(
        Formula(line.phase, line.name, line.formula.text, _latex_line(line), line.shape, line.also, values.get(i))
        for i, line in enumerate(lines)
    )
    return Explanation(model.name, formulas, latex)


def _checked(model: Model, x: Any, y: Any) -> Batches | None:
    from ..batches import Batches, checked_inputs, prepare
    from ..checks import sequence_length

    if y is not None:
        return prepare(model, x, y)
    if x is None:
        return None
    model.build_from(x)
    columns = checked_inputs(model, x, "x")
    return Batches(columns, len(columns[0][1]), time=sequence_length(columns, model.steps))


def _sums_to_one(data: Batches | None) -> bool:
    """Whether every target that has a last axis sums to 1 along it."""
    targets = [values for variable, values in data.columns if variable.name.startswith("y")] if data else []
    return all(np.allclose(values.sum(-1), 1.0, atol=1e-4) for values in targets if values.ndim > 1)


def _latex_line(line: Line) -> str:
    middle = f"{latex_name(line.also)} = " if line.also else ""
    return f"{latex_name(line.name)} &= {middle}{line.formula.latex}"


def _measured(board: Board, lines: Sequence[Line], data: Batches) -> dict[int, Array]:
    """The numbers of each line, from the graph itself: the forward's values, and what `gradient` derives."""
    backward = [line.value for line in lines if line.phase == BACKWARD and line.value is not None]
    slopes = board.probe.derivatives(backward)
    wanted = {}
    for i, line in enumerate(lines):
        tensor = line.value if line.phase == FORWARD else slopes.get(id(line.value))
        if tensor is not None:
            wanted[str(i)] = tensor
    return {int(key): array for key, array in board.probe.run(wanted, data).items()}
