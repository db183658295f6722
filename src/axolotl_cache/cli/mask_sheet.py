"""Where the masks stand on a sheet, before and after, and how they look on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from axolotl_cache.prefix.packing import Packing, Rest

Cell = Literal["computed", "reused"]

PLAIN: Final[dict[Cell | None, str]] = {"computed": "#", "reused": "=", None: " "}
_COLOURS: Final[dict[Cell, int]] = {"computed": 33, "reused": 160}
"""Of the 256 that terminals have: readable on black and on white."""
_RESET: Final = "\x1b[0m"
_LOOKS_A_LINE: Final = 4
"""Rows of the mask that are looked at for each line of a drawing: a bound on its cost."""
_MOST_UNITS_A_TOKEN: Final = 2.0
_GAP: Final = 2
_BETWEEN: Final = 4
_BEFORE: Final = "before: each alone"
_AFTER: Final = "after: together"


@dataclass(frozen=True, slots=True)
class Masks:
    """What is drawn."""

    names: tuple[str, ...]
    """One for each prompt."""
    before: Packing
    after: Packing

    @property
    def longest_tokens(self) -> int:
        """Length of the longest prompt."""
        return max(len(rest.rows) for rest in self.before.rests)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Both sides on one scale: each prompt's own triangle on the left, line by line, and one mask beside."""

    scale: float
    """Units of the sheet (pixels, half lines of a terminal) a token."""
    per_line: int
    step: float
    """Units from one triangle to the next."""
    before_width: float
    before_height: float
    after_width: float
    after_height: float

    def place(self, prompt: int) -> tuple[float, float]:
        """Return where a prompt's own triangle starts: right and down, in units."""
        return prompt % self.per_line * self.step, prompt // self.per_line * self.step


def arrange(
    masks: Masks,
    *,
    width: float,
    height: float,
    gap: float,
    between: float,
    least_before: float,
    max_scale: float,
) -> Arrangement:
    """Return the arrangement with the largest scale that fits.

    Args:
        masks: what is drawn.
        width: units that there are for both sides and the space between them.
        height: units that there are for the higher side.
        gap: units between two triangles.
        between: units between the sides.
        least_before: units that the left side takes at the least, for its heading.
        max_scale: units a token at the most.
    """
    count, longest = len(masks.names), masks.longest_tokens
    after = masks.after

    def largest(per_line: int, gap: float) -> float:
        lines = math.ceil(count / per_line)
        wide = (width - between - (per_line - 1) * gap) / (per_line * longest + after.columns)
        high = min((height - (lines - 1) * gap) / (lines * longest), height / after.rows)
        return min(wide, high, (width - between - least_before) / after.columns)

    while True:
        per_line = max(range(1, count + 1), key=lambda n: largest(n, gap))
        scale = min(largest(per_line, gap), max_scale)
        if scale * longest >= 2 * gap:
            break
        gap = gap / 2 if gap > 0.1 else 0.0  # many small ones: rather larger than far apart
    lines = math.ceil(count / per_line)
    return Arrangement(
        scale=scale,
        per_line=per_line,
        step=longest * scale + gap,
        before_width=per_line * longest * scale + (per_line - 1) * gap,
        before_height=lines * longest * scale + (lines - 1) * gap,
        after_width=after.columns * scale,
        after_height=after.rows * scale,
    )


def draw_on_terminal(masks: Masks, *, width: int, max_lines: int, colour: bool) -> str:
    """Return both masks side by side as lines of text, and a legend.

    Args:
        masks: what is drawn.
        width: characters in a line at the most.
        max_lines: lines that the masks may take.
        colour: half blocks in colours; without, plain characters.
    """
    places = arrange(
        masks,
        width=width,
        height=2 * max_lines,
        gap=_GAP,
        between=_BETWEEN,
        least_before=len(_BEFORE),
        max_scale=_MOST_UNITS_A_TOKEN,
    )
    left = math.ceil(max(places.before_width, len(_BEFORE))) + _BETWEEN
    # A unit is as wide as a character, which is about twice as high: half a block is a square.
    canvas = _composed(masks, places, (width, left), units_high=1 if colour else 2)
    rows = (
        _half_blocks(canvas)
        if colour
        else ("".join(PLAIN[cell] for cell in line).rstrip() for line in canvas)
    )
    return "\n".join([f"{_BEFORE:<{left}}{_AFTER}", *rows, "", _legend(colour)])


def _composed(
    masks: Masks, places: Arrangement, across: tuple[int, int], units_high: int
) -> list[list[Cell | None]]:
    """Return both sides as pixels; `across` is the whole width, and where the right side starts."""
    width, left = across
    height = math.ceil(max(places.before_height, places.after_height) / units_high) + 1
    canvas: list[list[Cell | None]] = [[None] * width for _ in range(height)]
    for rest in masks.before.rests:
        x, y = places.place(rest.prompt)
        alone = Rest(rest.prompt, range(len(rest.rows)), range(len(rest.rows)), (), ())
        _put(canvas, _pixels((alone,), places.scale, units_high), round(x), round(y / units_high))
    _put(canvas, _pixels(masks.after.rests, places.scale, units_high), left, 0)
    while canvas and not any(canvas[-1]):
        canvas.pop()
    return canvas


def _put(
    canvas: list[list[Cell | None]], pixels: Iterable[Sequence[Cell | None]], left: int, top: int
) -> None:
    for y, line in enumerate(pixels, top):
        for x, cell in enumerate(line, left):
            if cell and y < len(canvas) and x < len(canvas[y]):
                canvas[y][x] = cell


def _pixels(rests: Sequence[Rest], scale: float, units_high: int) -> Iterator[list[Cell | None]]:
    """Yield a mask's lines, scaled down: each pixel is what most of its cells are."""
    rows, columns = rests[-1].rows.stop, max(rest.columns.stop for rest in rests)
    width = math.ceil(columns * scale)
    down = scale / units_high
    following = iter(rests)
    rest = next(following)
    for y in range(math.ceil(rows * down)):
        computed, reused = [0.0] * width, [0.0] * width
        for look in range(_LOOKS_A_LINE):
            row = min(int((y + (look + 0.5) / _LOOKS_A_LINE) / down), rows - 1)
            while row >= rest.rows.stop:
                rest = next(following)
            own = range(rest.columns.start, rest.columns.start + row - rest.rows.start + 1)
            _add(computed, own, scale)
            for seen in rest.reused:
                _add(reused, seen, scale)
        yield [_most(c / _LOOKS_A_LINE, r / _LOOKS_A_LINE) for c, r in zip(computed, reused, strict=True)]


def _add(coverage: list[float], columns: range, scale: float) -> None:
    start, stop = columns.start * scale, columns.stop * scale
    for x in range(int(start), min(math.ceil(stop), len(coverage))):
        coverage[x] += min(stop, x + 1) - max(start, x)


def _most(computed: float, reused: float) -> Cell | None:
    # Less than half, so that what a short prompt computes does not vanish in a small picture.
    if computed < 0.25 and computed + reused < 0.5:
        return None
    return "computed" if computed > reused else "reused"


def _half_blocks(canvas: Sequence[Sequence[Cell | None]]) -> Iterator[str]:
    for y in range(0, len(canvas), 2):
        upper = canvas[y]
        lower = canvas[y + 1] if y + 1 < len(canvas) else [None] * len(upper)
        halves = [_half_block(*pair) for pair in zip(upper, lower, strict=True)]
        runs = ((code, "".join(sign for _, sign in run)) for code, run in groupby(halves, key=lambda h: h[0]))
        yield "".join(f"\x1b[{code}m{signs}{_RESET}" if code else signs for code, signs in runs).rstrip()


def _half_block(upper: Cell | None, lower: Cell | None) -> tuple[str, str]:
    """Return the colours, as a terminal is told them, and the character."""
    if upper is None:
        return (f"38;5;{_COLOURS[lower]}", "▄") if lower else ("", " ")
    if lower is None or lower == upper:
        return f"38;5;{_COLOURS[upper]}", "█" if lower else "▀"
    return f"38;5;{_COLOURS[upper]};48;5;{_COLOURS[lower]}", "▀"


def _legend(colour: bool) -> str:
    def sign(cell: Cell) -> str:
        return f"\x1b[38;5;{_COLOURS[cell]}m██{_RESET}" if colour else PLAIN[cell]

    return (
        f"{sign('computed')} computed   {sign('reused')} reused block: seen, not computed again   "
        "blank: masked"
    )
