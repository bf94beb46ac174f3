"""A picture as pixels, through matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from ..figures import figure
from .canvas import Canvas, Circle, Path, Polygon, Rect, Text, pieces

_LARGEST = 6000  # pixels along one side
_MOST_BYTES = 2_000_000


def rendered(canvas: Canvas) -> bytes:
    """The picture as a PNG, at twice its size in pixels unless that would be very large."""
    made = figure(canvas.width / 72, canvas.height / 72)
    from matplotlib import patches
    from matplotlib.path import Path as Outline

    axes = made.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, canvas.width)
    axes.set_ylim(canvas.height, 0)
    axes.axis("off")
    codes = {"M": [Outline.MOVETO], "L": [Outline.LINETO], "Q": [Outline.CURVE3] * 2, "C": [Outline.CURVE4] * 3}
    for order, shape in enumerate(canvas.painted):
        above: Any = {"zorder": 2 + order}
        if isinstance(shape, Text):
            axes.text(
                shape.x, shape.y, shape.text.replace("$", r"\$"), fontsize=shape.size * 0.9, color=shape.fill,
                ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor], va="baseline",
                weight="bold" if shape.bold else "normal", family=["DejaVu Sans"], **above,
            )  # fmt: skip
        elif isinstance(shape, Rect):
            style = f"round,pad=0,rounding_size={shape.radius}" if shape.radius else "square,pad=0"
            look: Any = {
                "facecolor": shape.fill,
                "edgecolor": shape.stroke,
                "linewidth": shape.thickness,
                "alpha": shape.opacity,
            }
            axes.add_patch(
                patches.FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, boxstyle=style, **look, **above)
            )
        elif isinstance(shape, Circle):
            axes.add_patch(
                patches.Circle((shape.x, shape.y), shape.radius, facecolor=shape.fill, edgecolor=shape.stroke, **above)
            )
        elif isinstance(shape, Polygon):
            axes.add_patch(patches.Polygon(shape.points, facecolor=shape.fill, edgecolor="none", alpha=shape.opacity, **above))
        else:
            _add_path(axes, patches, Outline, codes, shape, above)
    dots = min(144.0, 72 * _LARGEST / max(canvas.width, canvas.height))
    while True:
        buffer = BytesIO()
        made.savefig(buffer, dpi=dots, format="png", facecolor="white")
        if buffer.tell() <= _MOST_BYTES or dots < 36:
            return buffer.getvalue()
        dots /= 1.5


def _add_path(axes: Any, patches: Any, outline: Any, codes: Any, shape: Path, above: Any) -> None:
    way = pieces(shape)
    points = [point for _, run in way for point in run]
    kinds = [code for letter, _ in way for code in codes[letter]]
    look: Any = {"edgecolor": shape.stroke, "linewidth": shape.thickness, "alpha": shape.opacity}
    look["linestyle"] = (0, (5, 3)) if shape.dashed else "solid"
    axes.add_patch(patches.PathPatch(outline(points, kinds), facecolor="none", **look, **above))
    if shape.arrow:
        (x1, y1), (x2, y2) = points[-2], points[-1]
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        back = (x2 - 7 * dx, y2 - 7 * dy)
        corners = [(x2, y2), (back[0] - 3.5 * dy, back[1] + 3.5 * dx), (back[0] + 3.5 * dy, back[1] - 3.5 * dx)]
        axes.add_patch(patches.Polygon(corners, facecolor=shape.stroke, edgecolor="none", **above))
