"""A picture as pixels, through matplotlib."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

from ..figures import figure
from .canvas import Canvas, Circle, Path, Polygon, Rect, Shape, Text, pieces

_LARGEST = 6000  # pixels along one side
_MOST_BYTES = 2_000_000
_SIDES = {"start": "left", "middle": "center", "end": "right"}


def rendered(canvas: Canvas) -> bytes:
    """The picture as a PNG, at twice its size in pixels unless that would be very large."""
    made = figure(canvas.width / 72, canvas.height / 72)
    from matplotlib.collections import PatchCollection

    axes = made.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, canvas.width)
    axes.set_ylim(canvas.height, 0)
    axes.axis("off")
    shapes = [patch for shape in canvas.painted for patch in _patches(shape)]
    axes.add_collection(PatchCollection(shapes, match_original=True))  # thousands at once, in this order
    for text in canvas.texts:
        axes.text(
            text.x, text.y, text.text.replace("$", r"\$"), fontsize=text.size * 0.9, color=text.fill, ha=_SIDES[text.anchor],
            va="baseline", weight="bold" if text.bold else "normal", family=["DejaVu Sans"],
        )  # fmt: skip
    dots = min(144.0, 72 * _LARGEST / max(canvas.width, canvas.height))
    while True:
        buffer = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a sign that the font lacks is drawn as a box
            made.savefig(buffer, dpi=dots, format="png", facecolor="white")
        if buffer.tell() <= _MOST_BYTES or dots < 36:
            return buffer.getvalue()
        dots /= 1.5


def _patches(shape: Shape) -> list[Any]:
    from matplotlib import patches

    if isinstance(shape, Text):
        return []
    if isinstance(shape, Circle):
        return [patches.Circle((shape.x, shape.y), shape.radius, facecolor=shape.fill, edgecolor=shape.stroke)]
    if isinstance(shape, Polygon):
        return [patches.Polygon(shape.points, facecolor=shape.fill, edgecolor="none", alpha=shape.opacity)]
    if isinstance(shape, Rect):
        look: Any = {"facecolor": shape.fill, "edgecolor": shape.stroke, "linewidth": shape.thickness, "alpha": shape.opacity}
        style = f"round,pad=0,rounding_size={shape.radius}" if shape.radius else "square,pad=0"
        return [patches.FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, boxstyle=style, **look)]
    return _path(shape)


def _path(shape: Path) -> list[Any]:
    from matplotlib import patches
    from matplotlib.path import Path as Outline

    codes = {"M": [Outline.MOVETO], "L": [Outline.LINETO], "Q": [Outline.CURVE3] * 2, "C": [Outline.CURVE4] * 3}
    way = pieces(shape)
    points = [point for _, run in way for point in run]
    kinds = [code for letter, _ in way for code in codes[letter]]
    dashes: Any = (0, (5, 3)) if shape.dashed else "solid"
    look: Any = {"edgecolor": shape.stroke, "linewidth": shape.thickness, "alpha": shape.opacity, "linestyle": dashes}
    found: list[Any] = [patches.PathPatch(Outline(points, kinds), fill=False, **look)]
    if shape.arrow:
        (x1, y1), (x2, y2) = points[-2], points[-1]
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        dx, dy = 7 * (x2 - x1) / length, 7 * (y2 - y1) / length
        corners = [(x2, y2), (x2 - dx - dy / 2, y2 - dy + dx / 2), (x2 - dx + dy / 2, y2 - dy - dx / 2)]
        found.append(patches.Polygon(corners, facecolor=shape.stroke, edgecolor="none"))
    return found
