"""A picture as plain data: rectangles, circles, lines and text; its SVG, and how wide text is at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

INK, FAINT, LINE, PAPER, LATE = "#1b1f2a", "#4a5264", "#5d677c", "#ffffff", "#a3195b"
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_NARROW, _WIDE = set("ijl.,:;|'!()[]f/ ·`"), set("mwMW@%—–…⊙")
Point = tuple[float, float]


def text_width(text: str, size: float, bold: bool = False) -> float:
    """The most that any common sans-serif font takes, in pixels."""
    ems = sum(
        0.42
        if c in _NARROW
        else 1.0
        if c in _WIDE
        else 1.1
        if ord(c) > 0x2E00
        else 0.82
        if c.isupper() or c in "×+−="
        else 0.66
        for c in text
    )
    return ems * size * (1.1 if bold else 1.0)


def shortened(text: str, length: int = 30) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = LINE
    radius: float = 6.0
    thickness: float = 1.2
    opacity: float = 1.0


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float
    fill: str
    stroke: str = LINE


@dataclass(frozen=True)
class Path:
    """Points joined by straight pieces with round corners; `curved`: by S-bends that leave and arrive horizontally."""

    points: tuple[Point, ...]
    stroke: str = LINE
    thickness: float = 1.4
    arrow: bool = False
    dashed: bool = False
    curved: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Polygon:
    points: tuple[Point, ...]
    fill: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    """One line; (x, y) is the left end, the middle or the right end of its baseline. ground: the colour it is read against."""

    x: float
    y: float
    text: str
    size: float = 12.0
    fill: str = INK
    anchor: str = "middle"
    bold: bool = False
    ground: str = PAPER
    halo: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        width = text_width(self.text, self.size, self.bold)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - 0.8 * self.size, left + width, self.y + 0.25 * self.size


Shape = Rect | Circle | Path | Polygon | Text


@dataclass
class Canvas:
    """Shapes in the order in which they are painted; text comes last, so that no line runs over it."""

    title: str
    width: float = 0.0
    height: float = 0.0
    shapes: list[Shape] = field(default_factory=list)

    def add(self, *shapes: Shape) -> None:
        self.shapes += shapes

    @property
    def texts(self) -> list[Text]:
        return [shape for shape in self.shapes if isinstance(shape, Text)]

    @property
    def painted(self) -> list[Shape]:
        rest = [shape for shape in self.shapes if not isinstance(shape, Text)]
        return [*rest, *self.texts]

    def svg(self) -> str:
        body = "\n".join(map(_element, self.painted))
        size = f'width="{self.width:.0f}" height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}"'
        heads = "".join(
            f'<marker id="head{color[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            for color in dict.fromkeys(each.stroke for each in self.shapes if isinstance(each, Path) and each.arrow)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">\n'
            f"<title>{escape(_printable(self.title))}</title>\n<defs>{heads}</defs>\n"
            f'<rect width="100%" height="100%" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def _printable(text: str) -> str:
    """Without the characters that XML forbids."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff") else "�" for c in text
    )


def pieces(path: Path) -> list[tuple[str, tuple[Point, ...]]]:
    """The path as moves ("M"), lines ("L"), quadratic ("Q") and cubic ("C") curves."""
    points = path.points
    found: list[tuple[str, tuple[Point, ...]]] = [("M", (points[0],))]
    if path.curved:
        for (x1, y1), (x2, y2) in pairwise(points):
            if abs(y1 - y2) < 0.05:
                found.append(("L", ((x2, y2),)))
            else:
                middle = (x1 + x2) / 2
                found.append(("C", ((middle, y1), (middle, y2), (x2, y2))))
        return found
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        found.append(("L", (_towards(at, before),)))
        found.append(("Q", (at, _towards(at, after))))
    found.append(("L", (points[-1],)))
    return found


def along(path: Path) -> Iterator[Point]:
    """Points along the path, close to one another."""
    at = path.points[0]
    for _, run in pieces(path):
        hull = (at, *run)
        steps = max(int(max(abs(x - at[0]) + abs(y - at[1]) for x, y in run) / 8), 1)
        for k in range(1, steps + 1):
            points, t = hull, k / steps
            while len(points) > 1:  # de Casteljau's algorithm; a line is a curve of degree 1
                points = tuple((a + (c - a) * t, b + (d - b) * t) for (a, b), (c, d) in pairwise(points))
            yield points[0]
        at = run[-1]


def _towards(at: Point, other: Point, corner: float = 12.0) -> Point:
    """The point at which the round corner at `at` begins on the way to `other`."""
    dx, dy = other[0] - at[0], other[1] - at[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    share = min(corner / length, 0.5)
    return at[0] + dx * share, at[1] + dy * share


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _places(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _element(shape: Shape) -> str:
    if isinstance(shape, Text):
        weight = ' font-weight="bold"' if shape.bold else ""
        halo = f' stroke="{shape.ground}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"' if shape.halo else ""
        place = f'x="{_number(shape.x)}" y="{_number(shape.y)}" font-size="{_number(shape.size)}" text-anchor="{shape.anchor}"'
        return f'<text {place} fill="{shape.fill}"{weight}{halo}>{escape(_printable(shape.text))}</text>'
    if isinstance(shape, Rect):
        place = f'x="{_number(shape.x)}" y="{_number(shape.y)}" width="{_number(shape.width)}" height="{_number(shape.height)}"'
        look = f'fill="{shape.fill}" stroke="{shape.stroke}" stroke-width="{_number(shape.thickness)}"' + _faded(shape.opacity)
        return f'<rect {place} rx="{_number(shape.radius)}" {look}/>'
    if isinstance(shape, Circle):
        place = f'cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
        return f'<circle {place} fill="{shape.fill}" stroke="{shape.stroke}"/>'
    if isinstance(shape, Polygon):
        return f'<path d="M{_places(shape.points)}z" fill="{shape.fill}"{_faded(shape.opacity)}/>'
    way = "".join(f"{letter}{_places(points)}" for letter, points in pieces(shape))
    look = f'stroke="{shape.stroke}" stroke-width="{_number(shape.thickness)}"' + _faded(shape.opacity)
    dashes = ' stroke-dasharray="6 4"' if shape.dashed else ""
    head = f' marker-end="url(#head{shape.stroke[1:]})"' if shape.arrow else ""
    return f'<path d="{way}" fill="none" {look}{dashes}{head}/>'


def _faded(opacity: float) -> str:
    return "" if opacity >= 1 else f' opacity="{opacity:.2f}"'


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours (WCAG 2.1)."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable_on(ground: str) -> str:
    """Black or white, whichever is read better: a contrast of at least 4.58 on any ground."""
    return "#000000" if contrast("#000000", ground) >= contrast(PAPER, ground) else PAPER


def mixed(low: str, high: str, share: float) -> str:
    """A colour between two."""
    parts = [round(a + (b - a) * share) for a, b in zip(channels(low), channels(high), strict=True)]
    return "#" + "".join(f"{part:02x}" for part in parts)
