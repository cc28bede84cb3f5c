"""The charts of a page: SVG inside it, whose colours are the page's, so that they follow its light and dark.

Every function takes plain values and returns markup that is safe to put into a page (all text escaped), or "" when there is
nothing to draw. Classes c0 … c7 are the series' colours in templates/_style.css.jinja.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from pipeline.formatting import printable

WIDTH = 640
SERIES = 8
"""Colours there are; more series take them again."""
_LEFT, _RIGHT, _LETTER = 12, 14, 6.6  # Pixels; the last is the mean width of a letter of the labels.


def intervals(
    rows: Sequence[tuple[str, int, Sequence[Mapping[str, Any]]]], marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Shares with their intervals on one axis from 0 to 100 %.

    Args:
        rows: (name, colour, rates): the first rate of a row is drawn filled, a second one hollow below it.
        marks: (share, name) of vertical lines, such as chance.
    """
    if not rows:
        return ""
    left = _LEFT + min(230, _LETTER * max(len(_short(name)) for name, _, _ in rows)) + 10
    step, top = 30, (12, 24, 38)[min(2, len(marks))]
    height = top + step * len(rows)
    x = _scale(0, 1, left, WIDTH - _RIGHT)
    parts = [_axis(x, top, height, [(share / 5, f"{20 * share}") for share in range(6)])]
    for place, (share, name) in enumerate(marks):
        parts.append(f'<line class="mark m{place % 2}" x1="{x(share)}" x2="{x(share)}" y1="{top - 6}" y2="{height}"/>')
        anchor = "end" if share > 0.7 else "start"
        shift = -5 if share > 0.7 else 5
        text = f"{name} {100 * share:.1f}"
        parts.append(
            f'<text class="quiet" x="{x(share) + shift}" y="{12 + 14 * place}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    for place, (name, colour, rates) in enumerate(rows):
        y = top + step * place + step / 2
        parts.append(f'<text x="{left - 10}" y="{y + 4:g}" text-anchor="end">{escape(_short(name))}</text>')
        for number, rate in enumerate(rates):
            shift = 0 if len(rates) == 1 else (-5 if number == 0 else 6)
            title = f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
            hollow = " hollow" if number else ""
            parts.append(
                f'<g class="s c{colour % SERIES}{hollow}"><title>{escape(name)}: {title}</title>'
                f'<line x1="{x(rate["low"])}" x2="{x(rate["high"])}" y1="{y + shift:g}" y2="{y + shift:g}"/>'
                f'<circle cx="{x(rate["value"])}" cy="{y + shift:g}" r="{3.5 if number else 5}"/></g>'
            )
    return _svg(height + 24, parts, "Accuracy, % with 95 % intervals: " + ", ".join(name for name, _, _ in rows))


def bars(names: Sequence[str], series: Sequence[tuple[str, int, Sequence[float | None]]], stacked: bool = False) -> str:
    """A group of horizontal bars per name, one per series; or stacked in one bar, in units of the largest.

    Args:
        names: of the groups.
        series: (name, colour, a value per group): shares from 0 to 1, or counts where `stacked`.
    """
    if not names or not series:
        return ""
    left = _LEFT + min(200, _LETTER * max(len(_short(name)) for name in names)) + 10
    thick = 12 if stacked else max(3, min(9, 34 // len(series)))
    step = thick * (1 if stacked else len(series)) + 9
    height = 8 + step * len(names)
    totals = [sum(values[place] or 0 for _, _, values in series) for place in range(len(names))]
    most = max(max(totals), 1) if stacked else 1
    x = _scale(0, most, left, WIDTH - _RIGHT)
    ticks = [(most * part / 5, f"{most * part / 5:g}" if stacked else f"{20 * part}") for part in range(6)]
    parts = [_axis(x, 8, height, ticks)]
    for place, name in enumerate(names):
        y = 8 + step * place + 4
        middle = y + (step - 9) / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:g}" text-anchor="end">{escape(_short(name))}</text>')
        start = 0.0
        for number, (title, colour, values) in enumerate(series):
            value = values[place]
            if value is None:
                continue
            said = f"{value:g}" if stacked else f"{100 * value:.1f} %"
            width = max(x(start + value) - x(start), 0 if stacked else 1.5)  # A sliver, so that 0 is no missing bar.
            top = y if stacked else y + thick * number
            parts.append(
                f'<rect class="b c{colour % SERIES}" x="{x(start):g}" y="{top:g}" width="{width:.1f}" height="{thick - 1}">'
                f"<title>{escape(name)}, {escape(title)}: {said}</title></rect>"
            )
            start += value if stacked else 0
    return _svg(height + 24, parts, "Bars: " + ", ".join(title for title, _, _ in series))


def lines(
    series: Sequence[tuple[str, int, Sequence[tuple[float, float]]]], width: int = 370, share: bool = False
) -> str:
    """Values over steps: every point faint, their running mean strong.

    Args:
        series: (name, colour, (step, value) pairs).
        width: in pixels.
        share: whether the axis starts at 0.
    """
    series = [one for one in series if one[2]]
    if not series:
        return ""
    steps = [step for _, _, points in series for step, _ in points]
    values = [value for _, _, points in series for _, value in points]
    low, high = (0.0 if share else min(values)), max(values)
    if high - low < 1e-12:
        low, high = low - (0 if share else 0.5), high + (0.01 if share else 0.5)
    left, top, bottom = 48, 8, 150
    x, y = _scale(min(steps), max(max(steps), min(steps) + 1), left, width - 12), _scale(low, high, bottom, top)
    parts = []
    for part in range(4):
        value = low + (high - low) * part / 3
        tick = _tick(value, high - low)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="quiet" x="{left - 6}" y="{y(value) + 4:g}" text-anchor="end">{tick}</text>')
    for step, anchor in ((min(steps), "start"), (max(steps), "end")):
        parts.append(f'<text class="quiet" x="{x(step)}" y="{bottom + 18}" text-anchor="{anchor}">{step:g}</text>')
    for name, colour, points in series:
        window = max(1, len(points) // 15)
        means = []
        for place, (step, _) in enumerate(points):
            near = [value for _, value in points[max(0, place - window) : place + window + 1]]
            means.append((step, sum(near) / len(near)))
        faint, strong = (" ".join(f"{x(step)},{y(value)}" for step, value in line) for line in (points, means))
        parts.append(
            f'<g class="l c{colour % SERIES}"><title>{escape(name)}</title><polyline class="faint" points="{faint}"/>'
        )
        parts.append(f'<polyline points="{strong}"/>')
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0])}" cy="{y(points[0][1])}" r="3"/>')
        parts.append("</g>")
    return _svg(bottom + 26, parts, "Over the steps: " + ", ".join(name for name, _, _ in series), width)


def reliability(series: Sequence[tuple[str, int, Sequence[Mapping[str, Any]]]], width: int = 370) -> str:
    """Accuracy against confidence, a point with its interval per bin; the diagonal is perfect calibration."""
    if not series:
        return ""
    left, top, bottom = 44, 10, 310
    x, y = _scale(0, 1, left, width - 14), _scale(0, 1, bottom, top)
    parts = [f'<line class="mark m0" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>']
    for part in range(6):
        share = part / 5
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 14}" y1="{y(share)}" y2="{y(share)}"/>')
        parts.append(f'<text class="quiet" x="{left - 6}" y="{y(share) + 4:g}" text-anchor="end">{20 * part}</text>')
        parts.append(f'<text class="quiet" x="{x(share)}" y="{bottom + 16}" text-anchor="middle">{20 * part}</text>')
    parts.append(
        f'<text class="quiet" x="{(left + width) / 2:g}" y="{bottom + 32}" text-anchor="middle">confidence, %</text>'
    )
    for name, colour, bins in series:
        points = " ".join(f"{x(one['confidence'])},{y(one['accuracy']['value'])}" for one in bins)
        parts.append(f'<g class="l c{colour % SERIES}"><polyline points="{points}"/>')
        for one in bins:
            at, rate = x(one["confidence"]), one["accuracy"]
            said = f"{name}: {rate['n']} rows, confidence {100 * one['confidence']:.1f} %, right {100 * rate['value']:.1f} %"
            parts.append(f'<line class="thin" x1="{at}" x2="{at}" y1="{y(rate["low"])}" y2="{y(rate["high"])}"/>')
            parts.append(f'<circle cx="{at}" cy="{y(rate["value"])}" r="4"><title>{escape(said)}</title></circle>')
        parts.append("</g>")
    return _svg(bottom + 38, parts, "Accuracy against confidence", width)


def legend(series: Sequence[tuple[str, int]]) -> str:
    """The names of colours, as a list; nothing where there is one."""
    if len(series) < 2:
        return ""
    items = "".join(f'<li class="c{colour % SERIES}">{escape(name)}</li>' for name, colour in series)
    return Markup(f'<ul class="legend">{items}</ul>')


def _axis(x: Any, top: float, bottom: float, ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{top}" y2="{bottom}"/>'
        f'<text class="quiet" x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        for value, text in ticks
    )


def _svg(height: float, parts: Sequence[str], said: str, width: int = WIDTH) -> str:
    """The picture; `parts` are markup in which all text is escaped."""
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(said)}" viewBox="0 0 {width} {height:g}" width="{width}">'
        + "".join(parts)
        + "</svg>"
    )


def _scale(low: float, high: float, start: float, end: float) -> Any:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= 34 else f"{text[:33]}…"


def _tick(value: float, spread: float) -> str:
    return f"{value:.3g}" if spread < 1 or abs(value) < 10 else f"{value:.0f}"
