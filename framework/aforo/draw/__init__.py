"""Pictures of a model, at three scales and in three notations."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState, InvalidType, InvalidValue, explain, unknown_name
from ..outline import Outline, outline
from . import boxes
from .canvas import Canvas
from .numbers import Numbers, numbers_as

if TYPE_CHECKING:
    from ..model import Model

SCALES = ("layers", "vectors", "numbers")
NOTATIONS = ("layers", "values", "neurons")
COLOURS = ("value", "gradient")
_SUFFIXES = (".svg", ".png")

_BOXES = {
    ("layers", "layers"): boxes.layers_as_nodes,
    ("layers", "values"): boxes.values_as_nodes,
    ("layers", "neurons"): boxes.populations_as_nodes,
    ("vectors", "layers"): boxes.bars_between_layers,
    ("vectors", "values"): boxes.bars_as_nodes,
    ("vectors", "neurons"): boxes.bars_of_neurons,
}


@dataclass(frozen=True)
class Picture:
    """A drawn model. A notebook shows it by itself; `svg` is its text."""

    canvas: Canvas

    @property
    def svg(self) -> str:
        return self.canvas.svg()

    def save(self, path: str | PathLike[str]) -> None:
        """Write an .svg, or a .png (which needs matplotlib)."""
        file = checked_path(path)
        if file.suffix.lower() == ".png":
            from .png import rendered

            file.write_bytes(rendered(self.canvas))
        else:
            file.write_text(self.svg, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Picture of {self.canvas.title!r}, {self.canvas.width:.0f} × {self.canvas.height:.0f}>"


def checked_path(path: Any) -> Path:
    """Where a picture goes. Raises, before anything is drawn, if it cannot go there."""
    if not isinstance(path, (str, PathLike)):
        raise InvalidType(
            explain("a picture is written to a file.", expected="a path", received=repr(path), fix='model.draw("net.svg")')
        )
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise InvalidValue(
            explain(
                "a picture is written as SVG or PNG.",
                expected="a path that ends in .svg or .png",
                received=str(path),
                fix=f'model.draw("{file.stem or "net"}.svg")',
            )
        )
    if not file.parent.is_dir():
        raise InvalidValue(
            explain(
                "there is no such folder.",
                expected="a folder that is there",
                received=str(file.parent),
                fix=f'from pathlib import Path; Path("{file.parent}").mkdir(parents=True)',
            )
        )
    return file


def sketch(plan: Outline, split: Outline, scale: str, notation: str, numbers: Numbers | None = None) -> Canvas:
    """The canvas for an outline. split: the same with each activation as a step of its own."""
    if scale == "numbers":
        return numbers_as(notation, plan if notation == "neurons" else split, numbers)
    return _BOXES[scale, notation](split if scale == "vectors" and notation != "neurons" else plan)


def draw(
    model: Model,
    path: str | PathLike[str] | None = None,
    scale: str = "layers",
    notation: str = "layers",
    x: Any = None,
    y: Any = None,
    colour: str = "value",
) -> Picture:
    """See `Model.draw`."""
    for what, given, known in (("scale", scale, SCALES), ("notation", notation, NOTATIONS), ("colour", colour, COLOURS)):
        if given not in known:
            raise unknown_name(what, str(given), known)
    file = None if path is None else checked_path(path)
    if x is None and (y is not None or colour == "gradient"):
        raise InvalidState(
            explain(
                "colours come from data.",
                expected="x, and y for gradients",
                fix='model.draw(scale="numbers", x=x[:1], y=y[:1])',
            )
        )
    if x is not None and scale != "numbers":
        raise InvalidValue(
            explain(
                "data colours numbers.",
                expected='scale="numbers"',
                received=f"scale={scale!r}",
                fix='model.draw(scale="numbers", x=x)',
            )
        )
    if x is not None:
        model.build_from(x)
    numbers = None
    split = outline(model, split=True)
    plan = outline(model) if scale == "layers" or notation == "neurons" else split
    if x is not None:
        from .measured import measured

        numbers = measured(model, plan if notation == "neurons" else split, x, y, colour)
    picture = Picture(sketch(plan, split, scale, notation, numbers))
    if file is not None:
        picture.save(file)
    return picture
