"""Pictures of a model, at three scales and in three notations."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState, InvalidValue, explain, unknown_name
from ..figures import checked_path, writing
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
        file = checked_path(path, _SUFFIXES, "picture.save")
        if file.suffix.lower() == ".png":
            from .png import rendered

            content = rendered(self.canvas)
        else:
            content = self.svg.encode("utf-8")
        with writing(file):
            file.write_bytes(content)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Picture of {self.canvas.title!r}, {self.canvas.width:.0f} × {self.canvas.height:.0f}>"


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
    file = None if path is None else checked_path(path, _SUFFIXES, "model.draw")
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
