"""Line and bar charts as SVG, for a page that must stand alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = ("#0b6e99", "#c4571b", "#3f7d20", "#7b3fa0", "#666666")
"""Told apart in print and by the colour blind, with the dashes."""
_DASHES: Final = ("", "7 4", "2 3", "10 3 2 3", "1 4")
_WIDTH, _HEIGHT = 620, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 48


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands along the bottom."""

    title: str
    labels: Sequence[str]
    """One for each point; the points stand at equal distances."""


def line_chart(name: str, axis: Axis, lines: Mapping[str, Sequence[float]]) -> str:
    """Return a chart of shares from 0 to 1.

    Args:
        name: what is shown, for screen readers.
        axis: the bottom.
        lines: by name, a value for each label.
    """
    top = max((value for values in lines.values() for value in values), default=0.0)
    ceiling = next(c for c in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if c >= min(top, 1.0))
    parts = [_frame(name), *_grid(ceiling), *_bottom(axis)]
    for index, (label, values) in enumerate(lines.items()):
        colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)]
        points = [(_x(i, len(values)), _y(value / ceiling)) for i, value in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{dash}"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(label)}, {escape(axis.labels[i])}: {values[i]:.1%}</title></circle>"
            for i, (x, y) in enumerate(points)
        ]
    parts.append("</svg>")
    return "".join(parts) + _legend(list(lines))


def bar_chart(name: str, bars: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars.

    Args:
        name: what is shown, for screen readers.
        bars: label, value from 0 on, and the value as text.
    """
    most = max((value for _, value, _ in bars), default=0.0) or 1.0
    height = 28 * len(bars) + 8
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name, quote=True)}">']
    for index, (label, value, text) in enumerate(bars):
        y = 6 + 28 * index
        width = 330 * math.sqrt(value / most) if value else 0
        parts.append(
            f'<text x="150" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="158" y="{y}" width="{width:.1f}" height="19" rx="2" fill="{COLOURS[0]}"/>'
            f'<text x="{166 + width:.1f}" y="{y + 14}">{escape(text)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _frame(name: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name, quote=True)}">'


def _x(index: int, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index / max(1, count - 1))


def _y(share: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _grid(ceiling: float) -> list[str]:
    parts = []
    for step in range(5):
        y = _y(step / 4)
        percent = f"{100 * ceiling * step / 4:.3g} %"
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>'
        )
    return parts


def _bottom(axis: Axis) -> list[str]:
    every = max(1, math.ceil(len(axis.labels) / 8))
    parts = [
        f'<text x="{_x(i, len(axis.labels)):.1f}" y="{_HEIGHT - 28}" '
        f'text-anchor="{_anchor(i, axis)}">{escape(label)}</text>'
        for i, label in enumerate(axis.labels)
        if i % every == 0
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*parts, f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(axis.title)}</text>']


def _anchor(index: int, axis: Axis) -> str:
    return "end" if index == len(axis.labels) - 1 else "middle"


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<span><svg viewBox="0 0 30 8" class="key"><line x1="0" x2="30" y1="4" y2="4" stroke-width="2.5" '
        f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-dasharray="{_DASHES[i % len(_DASHES)]}"/></svg>'
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f'<p class="legend">{items}</p>'
