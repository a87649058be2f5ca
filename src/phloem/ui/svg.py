"""Line and bar charts as SVG that is readable without colour, on a phone and by a screen reader."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from phloem.ui.axes import Axis
from phloem.ui.markup import Markup, element, joined

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 500, 16, 262
_LETTER, _LINE = 9.2, 18.0  # pixels that a letter and a line of a label take, generously


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Series:
    """One line: its label, its style (a class of the page's style sheet) and its points."""

    label: str
    style: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A value that the chart marks with a line across."""

    value: float
    label: str


def line_chart(
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    labels: tuple[str, str],
    series: Sequence[Series],
    level: Level | None = None,
) -> Markup:
    """A chart with labels at its lines. `labels` name both axes; points that are not finite are gaps."""
    parts, taken = [_frame(x, y, labels)], list[Box]()
    if level is not None and y.low <= level.value <= y.high:
        at = y.at(level.value)
        below = at + 2 if at < (TOP + BOTTOM) / 2 else at - _LINE
        taken.append((LEFT + 6, below, LEFT + 6 + _LETTER * len(level.label), below + _LINE))
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="level"))
        parts.append(element("text", level.label, x=LEFT + 6, y=below + 12.5, class_="level-label"))
    drawn = []
    for one in series:
        pixels = [
            (x.at(a), y.at(b)) if math.isfinite(a) and math.isfinite(b) and (a > 0 or not x.log) else None
            for a, b in one.points
        ]
        drawn.append([pixel for pixel in pixels if pixel is not None])
        for run in _runs(pixels):
            text = " ".join(f"{a:.1f},{b:.1f}" for a, b in run)
            parts.append(element("polyline", points=text, class_=f"line {one.style}"))
        if drawn[-1]:
            a, b = drawn[-1][-1]
            parts.append(element("circle", cx=a, cy=b, r=3.6, class_=f"dot {one.style}"))
    for one, spot in zip(series, _spots(series, drawn, taken), strict=True):
        if spot is not None:
            parts.append(element("text", one.label, x=spot[0], y=spot[1] + 12.5, class_=f"label {one.style}"))
    return _picture(title, description, parts, HEIGHT)


def _frame(x: Axis, y: Axis, labels: tuple[str, str]) -> Markup:
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(element("text", y.text(tick), x=LEFT - 7, y=at + 4.5, class_="tick", text_anchor="end"))
    room = -math.inf
    for tick in x.ticks:
        at, text = x.at(tick), x.text(tick)
        parts.append(element("line", x1=at, x2=at, y1=BOTTOM, y2=BOTTOM + 5, class_="axis"))
        half = _LETTER * len(text) / 2
        if at - half > room:
            parts.append(
                element(
                    "text", text, x=min(at, WIDTH - half), y=BOTTOM + 20, class_="tick", text_anchor="middle"
                )
            )
            room = at + half + 4
    parts.append(element("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"))
    parts.append(element("text", labels[0], x=RIGHT, y=BOTTOM + 44, class_="name", text_anchor="end"))
    parts.append(element("text", labels[1], x=4, y=TOP - 4, class_="name"))
    return joined(*parts)


def _runs(pixels: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    groups = itertools.groupby(pixels, key=lambda pixel: pixel is not None)
    return [[pixel for pixel in group if pixel is not None] for whole, group in groups if whole]


def _spots(
    series: Sequence[Series], drawn: Sequence[Sequence[tuple[float, float]]], taken: list[Box]
) -> list[tuple[float, float] | None]:
    """The upper left corner of each label: beside its own line, where it hides the least of anything."""
    dots = [_dense(points) for points in drawn]
    spots: list[tuple[float, float] | None] = []
    for mine, (one, points) in enumerate(zip(series, drawn, strict=True)):
        width = _LETTER * len(one.label)
        best: tuple[float, Box] | None = None
        near = [points[n * (len(points) - 1) // 40] for n in range(41)] if len(points) > 41 else points
        for order, (a, b) in enumerate(near):
            for dx, dy in (
                (11.0, -_LINE / 2),
                (-11 - width, -_LINE / 2),
                (-width / 2, -9 - _LINE),
                (-width / 2, 9.0),
            ):
                box = (a + dx, b + dy, a + dx + width, b + dy + _LINE)
                cost = _cost(box, dots, mine, taken) + 0.02 * (len(near) - order)
                if best is None or cost < best[0]:
                    best = cost, box
        spots.append(None if best is None else (best[1][0], best[1][1]))
        if best is not None:
            taken.append(best[1])
    return spots


def _cost(box: Box, dots: Sequence[Sequence[tuple[float, float]]], mine: int, taken: Sequence[Box]) -> float:
    left, top, right, bottom = box
    cost = 50.0 * (
        max(0.0, LEFT - left) + max(0.0, right - WIDTH) + max(0.0, TOP - 12 - top) + max(0.0, bottom - BOTTOM)
    )
    for number, points in enumerate(dots):
        hidden = sum(left - 3 <= a <= right + 3 and top - 2 <= b <= bottom + 2 for a, b in points)
        cost += hidden * (2.0 if number == mine else 3.0)
    for other in taken:
        width = min(right, other[2]) - max(left, other[0])
        height = min(bottom, other[3]) - max(top, other[1])
        cost += 5.0 * max(0.0, width + 6) * (height + 2 > 0)
    return cost


def _dense(points: Sequence[tuple[float, float]], step: float = 6.0) -> list[tuple[float, float]]:
    """Points along a line, no more than `step` pixels apart."""
    found = list(points[:1])
    for (a, b), (c, d) in itertools.pairwise(points):
        pieces = max(1, math.ceil(math.hypot(c - a, d - b) / step))
        found += [(a + (c - a) * n / pieces, b + (d - b) * n / pieces) for n in range(1, pieces + 1)]
    return found


@dataclass(frozen=True)
class Bar:
    """One stacked bar: its name, its parts in the order of the chart's styles, and the text at its end."""

    name: str
    parts: tuple[float, ...]
    text: str


def bar_chart(
    title: str, description: str, bars: Sequence[Bar], styles: Sequence[tuple[str, str]], unit: str
) -> Markup:
    """Stacked horizontal bars from zero; `styles` has a label and a style class for each part."""
    longest = max((len(bar.name) for bar in bars), default=0)
    left = min(200.0, 14 + _LETTER * longest)
    right = WIDTH - 8 - _LETTER * max((len(bar.text) for bar in bars), default=0)
    most = max((sum(bar.parts) for bar in bars), default=0) or 1.0
    height, top = 22, 34
    parts: list[Markup] = []
    at = 0.0
    for label, style in styles:
        parts.append(element("rect", x=at, y=3, width=12, height=12, class_=f"bar {style}"))
        parts.append(element("text", label, x=at + 17, y=14, class_="tick"))
        at += 34 + _LETTER * len(label)
    parts.append(element("text", unit, x=WIDTH, y=14, class_="name", text_anchor="end"))
    for number, bar in enumerate(bars):
        y, x = top + number * height, left
        shown = bar.name if len(bar.name) * _LETTER < 186 else bar.name[:24] + "…"
        parts.append(element("text", shown, x=left - 8, y=y + 12, class_="tick", text_anchor="end"))
        for value, (_, style) in zip(bar.parts, styles, strict=True):
            width = value / most * (right - left)
            parts.append(element("rect", x=x, y=y, width=max(width, 0.0), height=15, class_=f"bar {style}"))
            x += width
        parts.append(element("text", bar.text, x=x + 6, y=y + 12, class_="tick"))
    return _picture(title, description, parts, top + height * len(bars) + 4)


def _picture(title: str, description: str, parts: Sequence[Markup], height: int) -> Markup:
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {description}",
    )
