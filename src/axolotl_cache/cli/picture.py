"""A picture of shapes, lines and texts, written as SVG by ourselves or as PNG by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

Point = tuple[float, float]

LIGHT: Final = {
    "paper": "#ffffff",
    "masked": "#f3f5f8",
    "computed": "#2a6fdb",
    "reused": "#d1242f",
    "grid": "#8b949e",
    "edge": "#57606a",
    "text": "#1f2328",
    "muted": "#59636e",
}
DARK: Final = LIGHT | {
    "paper": "#0d1117",
    "masked": "#1a2029",
    "computed": "#4184e4",
    "reused": "#e5484d",
    "grid": "#768390",
    "edge": "#a3adb8",
    "text": "#e6edf3",
    "muted": "#9aa4af",
}
GRID_OPACITY: Final = 0.4
SIZES: Final = {"title": 18, "head": 14, "text": 12, "small": 11}
"""Letters, in pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A filled area."""

    kind: str
    points: tuple[Point, ...]
    says: str = ""
    """Shown when the mouse rests on it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    kind: str
    start: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; `at` is the left (or right, or middle) end of its base line."""

    content: str
    at: Point
    size: str = "text"
    kind: str = "text"
    anchor: str = "start"
    bold: bool = False


@dataclass(slots=True)
class Picture:
    """What is drawn, in the order in which it is drawn, in pixels from the upper left corner."""

    width: float
    height: float
    title: str
    shapes: list[Shape] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def rectangle(self, kind: str, x: float, y: float, width: float, height: float, says: str = "") -> None:
        """Add a rectangle."""
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        self.shapes.append(Shape(kind, corners, says))

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """Add the four sides of a rectangle."""
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        for start, end in zip(corners, (*corners[1:], corners[0]), strict=True):
            self.lines.append(Line("edge", start, end))


def to_svg(picture: Picture) -> str:
    """Return the picture as SVG: one file, no fonts or links; light or dark as its reader prefers."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(picture.width)} {_n(picture.height)}" '
        f'width="{_n(picture.width)}" height="{_n(picture.height)}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(picture.title)}</title>',
        f"<style>{_style()}</style>",
    ]
    for shape in picture.shapes:
        tip = f"><title>{escape(shape.says)}</title></path>" if shape.says else "/>"
        out.append(f'<path class="{shape.kind}" d="{_path(shape.points)}"{tip}')
    for kind in ("grid", "edge"):
        drawn = " ".join(
            f"M{_n(one.start[0])} {_n(one.start[1])}L{_n(one.end[0])} {_n(one.end[1])}"
            for one in picture.lines
            if one.kind == kind
        )
        if drawn:
            out.append(f'<path class="{kind}" d="{drawn}"/>')
    for text in picture.texts:
        names = f"{text.kind} {text.size} {text.anchor}{' bold' if text.bold else ''}"
        out.append(
            f'<text class="{names}" x="{_n(text.at[0])}" y="{_n(text.at[1])}">{escape(text.content)}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def _style() -> str:
    def colours(of: dict[str, str]) -> str:
        fills = "".join(
            f".{kind}{{fill:{of[kind]}}}"
            for kind in ("paper", "masked", "computed", "reused", "text", "muted")
        )
        return fills + "".join(f".{kind}{{stroke:{of[kind]}}}" for kind in ("grid", "edge"))

    sizes = "".join(f".{name}{{font-size:{pixels}px}}" for name, pixels in SIZES.items() if name != "text")
    return (
        f"text{{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;"
        f"font-size:{SIZES['text']}px}}{sizes}.bold{{font-weight:600}}.end{{text-anchor:end}}"
        f".grid,.edge{{fill:none;stroke-width:1;shape-rendering:crispEdges}}.grid{{stroke-opacity:{GRID_OPACITY}}}"
        f"{colours(LIGHT)}@media(prefers-color-scheme:dark){{{colours(DARK)}}}"
    )


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points) + "Z"


def _n(number: float) -> str:
    """Return a number of pixels, to a hundredth, without needless digits."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def to_png(picture: Picture, file: Path) -> None:
    """Write the picture as PNG, light, one pixel a pixel.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure

    dots = 100
    points_a_pixel = 72 / dots
    figure = Figure(figsize=(picture.width / dots, picture.height / dots), dpi=dots)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    axes.add_collection(
        PolyCollection(
            [shape.points for shape in picture.shapes],
            facecolors=[LIGHT[shape.kind] for shape in picture.shapes],
            linewidths=0,
        )
    )
    for kind, opacity in (("grid", GRID_OPACITY), ("edge", 1)):
        ends = [(line.start, line.end) for line in picture.lines if line.kind == kind]
        axes.add_collection(
            LineCollection(ends, colors=LIGHT[kind], alpha=opacity, linewidths=points_a_pixel)
        )
    for text in picture.texts:
        axes.text(
            *text.at,
            text.content,
            color=LIGHT[text.kind],
            fontsize=SIZES[text.size] * points_a_pixel,
            fontweight="bold" if text.bold else "normal",
            horizontalalignment="right" if text.anchor == "end" else "left",
            verticalalignment="baseline",
            parse_math=False,
        )
    figure.savefig(file, format="png", dpi=dots)
