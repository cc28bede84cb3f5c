"""The one chart layer: every chart is drawn once, by matplotlib, and is a PNG on white paper or an SVG in a page's colours.

A function here takes plain values and returns a `Chart`, or None when there is nothing to draw. Series have numbers for
colours, see `SERIES`. The same values give the same bytes. matplotlib is imported where it is used: the command line must
answer without it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from pipeline.formatting import printable
from pipeline.metrics.scores import ConfidenceBin, Confusion, Rate
from pipeline.reports.svg import inline

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID, PAPER = "#1f2328", "#5b656e", "#e6e9ec", "#ffffff"
SERIES = ("#7d8790", "#d18b00", "#56b4e9", "#0072b2", "#1b3a6b", "#d55e00", "#009e73", "#b3659a", "#b9c0c6")
"""Colours by number, Okabe and Ito's among them, told apart by all common eyes; templates/_report.css.jinja has the dark ones."""
BASE, SECOND_BASE = 0, 8
BASELINES = (1, 5, 7)
STAGES = (2, 3, 4, 6, 5, 7)
"""Of what is neither base nor baseline, in turn: blues that deepen first."""
OTHERS = (3, 5, 6, 1, 7, 2, 4, 0)
"""Of what are no stages: as unlike as can be."""
WIDTH = 7.6
"""Of a full chart, in inches."""
SIDE = 8.0
"""Most inches of a confusion matrix: of hundreds of classes, times the phases of a run, the picture would not fit in memory."""
# Inches of a cell beside which a name can still be read.
_LEAST_NAMED = 0.07
MOST_NAMES = 60
_NAMES = {INK: "ink", QUIET: "quiet", GRID: "grid", PAPER: "paper"} | {one: f"c{n}" for n, one in enumerate(SERIES)}
_STYLE = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "clgrpo",
}
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Unifont"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS", "STIXGeneral"),
)
"""Fonts for letters that DejaVu Sans lacks, as far as they are installed."""

Points = Sequence[tuple[float, float]]
Line = tuple[str, int, Points]
"""A series: name, colour, (x, y) pairs."""


@dataclass(frozen=True)
class Chart:
    """A drawn figure, and what it says to those who do not see it."""

    figure: Figure
    said: str

    def png(self) -> bytes:
        """Return the chart on white paper; letters that no installed font has are boxes, and counted below it."""
        from matplotlib.text import Text

        letters = {letter for text in self.figure.findobj(Text) for letter in text.get_text()}
        lost = [letter for letter in letters if letter.isprintable() and ord(letter) not in _drawable()]
        note = self.figure.text(0.005, 0.005, "", ha="left", va="bottom", fontsize=6, color=QUIET)
        note.set_text(f"□: {len(lost)} letters that no font on this machine has" if lost else "")
        data = self._save("png", facecolor=PAPER, dpi=150, metadata={"Software": None})
        note.remove()
        return data

    def svg(self, tips: bool = False) -> Markup:
        """Return the chart as markup for a page, see `pipeline.reports.svg`; its text is the browser's to draw.

        Args:
            tips: show what a mark says in a box of its own, also when it is focused, in place of the browser's tooltip.
        """
        data = self._save("svg", facecolor="none", metadata={"Date": None, "Creator": None})
        return inline(data.decode(), printable(self.said), _NAMES, tips)

    def _save(self, kind: str, **how: Any) -> bytes:
        buffer = io.BytesIO()
        with _style(), warnings.catch_warnings():
            # Of letters without a font, which are counted.
            warnings.filterwarnings("ignore", "Glyph")
            self.figure.savefig(buffer, format=kind, **how)
        return buffer.getvalue()


def intervals(
    rows: Sequence[tuple[str, int, Sequence[Rate]]],
    said: str = "accuracy over all rows, % (95 % interval)",
    marks: Sequence[tuple[float, str]] = (),
    kinds: Sequence[str] = (),
) -> Chart | None:
    """Return shares with their intervals on one axis from 0 to 100 %.

    Args:
        rows: (name, colour, rates): the first rate of a row is drawn filled, a second one hollow below it.
        said: what the axis is of.
        marks: (share, name) of vertical lines, such as chance.
        kinds: what a filled and a hollow mark are.
    """
    if not rows:
        return None
    with _style():
        figure = _figure(WIDTH, 0.55 + 0.42 * len(rows) + (0.25 if marks or kinds else 0))
        axes = figure.add_subplot()
        for place, (name, colour, rates) in enumerate(rows):
            for hollow, rate in enumerate(rates):
                y = place + ((0.19 if hollow else -0.11) if len(rates) > 1 else 0)
                low, value, high = rate.in_percent()
                says = f"{name}: {value:.1f} % [{low:.1f}, {high:.1f}]"
                _mark(axes, value, y, low, high, SERIES[colour], bool(hollow), says)
        for number, (share, name) in enumerate(marks):
            dashes = (0, (1, 2)) if number % 2 == 0 else (0, (5, 3))
            label = f"{name} {100 * share:.1f}"
            axes.axvline(100 * share, color=QUIET, linewidth=1.1, linestyle=dashes, label=label)
        for hollow, name in enumerate(kinds):
            axes.plot([], [], "o", color=QUIET, markerfacecolor=PAPER if hollow else QUIET, label=name)
        _named(axes, [name for name, _, _ in rows])
        axes.set(xlim=(-1, 101), ylim=(len(rows) - 0.5, -0.6), xlabel=said)
        if marks or kinds:
            _legend(axes, 4)
    return _laid_out(figure, f"{said}: {', '.join(name for name, _, _ in rows)}")


def bars(
    names: Sequence[str],
    series: Sequence[tuple[str, int, Sequence[float | None]]],
    said: str = "F1, %",
    stacked: bool = False,
) -> Chart | None:
    """Return a group of horizontal bars per name, one per series; or stacked in one bar.

    Args:
        names: of the groups.
        series: (name, colour, a value per group): shares from 0 to 1, or counts where `stacked`.
        said: what the axis is of.
        stacked: whether the series of a group follow each other.
    """
    if not names or not series:
        return None
    thick = 0.62 if stacked else min(0.8 / len(series), 0.3)
    step = 0.27 if stacked else 0.13 * len(series) + 0.14
    with _style():
        figure = _figure(WIDTH, 0.7 + len(names) * step + 0.2 * ((len(series) + 2) // 3))
        axes = figure.add_subplot()
        starts = [0.0] * len(names)
        for number, (title, colour, values) in enumerate(series):
            shift = 0 if stacked else (number - (len(series) - 1) / 2) * thick
            shown = [(place, value) for place, value in enumerate(values) if value is not None]
            # A value of 0 keeps a sliver, so that it does not look like a missing bar.
            widths = [value if stacked else max(100 * value, 0.4) for _, value in shown]
            found = axes.barh(
                [place + shift for place, _ in shown],
                widths,
                thick * 0.92,
                left=[starts[place] for place, _ in shown] if stacked else 0,
                color=SERIES[colour],
                label=_plain(title),
            )
            for patch, (place, value) in zip(found, shown, strict=True):
                _say(patch, f"{names[place]}, {title}: " + (f"{value:g}" if stacked else f"{100 * value:.1f} %"))
                starts[place] += value if stacked else 0
        _named(axes, names)
        axes.set(ylim=(len(names) - 0.45, -0.55), xlabel=said)
        if not stacked:
            axes.set_xlim(0, 100)
        if len(series) > 1:
            _legend(axes, 3)
    return _laid_out(figure, f"{said}: {', '.join(title for title, _, _ in series)}")


def confusion(panels: Sequence[tuple[str, Confusion]]) -> Chart | None:
    """Return one confusion matrix per entry, shaded by the share of the gold class's rows; counts and names inside while they
    fit. No matrix is larger than `SIDE`.
    """
    if not panels:
        return None
    classes = max(len(table.rows) for _, table in panels)
    cell = 0.36 if classes <= 12 else min(max(0.1, 4.3 / classes), SIDE / classes)
    named = cell >= _LEAST_NAMED
    columns = min(2, len(panels))
    small = 8 if classes <= 12 else max(3, min(8, 300 / classes / 3))
    with _style():
        figure = _figure(columns * (cell * (classes + 1) + 1.5), -(-len(panels) // columns) * (cell * classes + 1.6))
        for axes, (title, table) in zip(_grid(figure, len(panels), columns), panels, strict=False):
            counts = table.counts
            shares = [[value / max(sum(row), 1) for value in row] for row in counts]
            texts = [[str(value) if value and classes <= 12 else "" for value in row] for row in counts]
            _shaded(axes, shares, texts, 0, 1, "equal", 7)
            axes.axvline(len(counts) - 0.5, color=QUIET, linewidth=0.8)
            if named:
                answers = [_plain(name) for name in table.columns]
                axes.set_xticks(range(len(answers)), answers, rotation=90, fontsize=small)
                axes.set_yticks(range(len(counts)), [_plain(name) for name in table.rows], fontsize=small)
            else:
                axes.set(xticks=[], yticks=[], xlabel="answer", ylabel=f"{len(counts)} classes, in the tables' order")
            axes.set_title(_plain(title))
    return _laid_out(figure, "Confusion matrices: " + ", ".join(title for title, _ in panels))


def curves(panels: Sequence[tuple[str, Sequence[Line], str, Sequence[Line]]]) -> Chart | None:
    """Return values over steps, two panels a line: every point faint, their running mean strong.

    Args:
        panels: (title, series of the left panel, title and series of the right one).
    """
    if not panels:
        return None
    with _style():
        figure = _figure(WIDTH, 0.4 + 1.75 * len(panels))
        grid = figure.subplots(len(panels), 2, squeeze=False)
        for (left, right), (title, losses, what, values) in zip(grid, panels, strict=True):
            _lines(left, losses)
            left.set_title(_plain(title))
            _lines(right, values)
            right.set_title(what, fontweight="normal")
            right.set_visible(bool(values))
            if len(values) > 1:
                right.legend(loc="best", fontsize=7.5, handlelength=1.2)
        for axes in grid[-1]:
            axes.set_xlabel("step")
    return _laid_out(figure, "Over the steps: " + ", ".join(panel[0] for panel in panels))


def clip(panels: Sequence[tuple[str, Sequence[Line], bool, bool]]) -> Chart | None:
    """Return clip fractions in % over the steps.

    Args:
        panels: (title, series, whether anything was clipped, whether to stamp it VOID).
    """
    if not panels:
        return None
    with _style():
        figure = _figure(WIDTH, 0.5 + 1.75 * len(panels))
        grid = figure.subplots(len(panels), 1, squeeze=False).ravel()
        for axes, (title, series, acted, void) in zip(grid, panels, strict=True):
            _lines(axes, series)
            axes.set_title(_plain(title, 60))
            axes.set(ylabel="% of tokens", xlabel="step")
            axes.set_ylim(bottom=0, top=None if acted else 1)
            if void:
                stamp = {"ha": "center", "va": "center", "fontsize": 15, "weight": "bold", "color": SERIES[5]}
                axes.text(0.5, 0.5, "VOID: nothing was clipped", transform=axes.transAxes, **stamp)
            elif series:
                axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=7.5, borderaxespad=0.2)
    return _laid_out(figure, "Clip fractions: " + ", ".join(panel[0] for panel in panels))


def reliability(series: Sequence[tuple[str, int, Sequence[ConfidenceBin]]]) -> Chart | None:
    """Return accuracy against confidence, a point with its interval per bin; the diagonal is perfect calibration."""
    if not series:
        return None
    with _style():
        figure = _figure(4.4, 4.2)
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1.1, linestyle=(0, (1, 2)))
        for name, colour, bins in series:
            at = [100 * one.confidence for one in bins]
            axes.plot(at, [100 * one.accuracy.share for one in bins], color=SERIES[colour], linewidth=1.4)
            axes.plot([], [], "o-", color=SERIES[colour], label=_plain(name))
            for x, one in zip(at, bins, strict=True):
                low, value, high = one.accuracy.in_percent()
                axes.plot([x, x], [low, high], color=SERIES[colour], linewidth=1, alpha=0.7)
                (dot,) = axes.plot([x], [value], "o", color=SERIES[colour], markersize=5)
                _say(dot, f"{name}: {one.accuracy.n} rows, confidence {x:.1f} %, right {value:.1f} %")
        axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="confidence, %", ylabel="accuracy, %", aspect="equal")
        if len(series) > 1:
            axes.legend(loc="upper left", fontsize=7.5)
    return _laid_out(figure, "Accuracy against confidence")


def heat_maps(
    panels: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[Sequence[float | None]]]],
) -> Chart | None:
    """Return accuracies of pairs, one map per panel, on one scale.

    Args:
        panels: (title, perceivers: the rows, reasoners: the columns, shares by row and column); None for a pair not asked.
    """
    if not panels:
        return None
    rows, columns = max(len(panel[1]) for panel in panels), max(len(panel[2]) for panel in panels)
    values = [100 * value for panel in panels for line in panel[3] for value in line if value is not None]
    low, high = min(values, default=0.0), max(values, default=100.0)
    across = min(2, len(panels))
    with _style():
        figure = _figure(across * (columns + 2.0), -(-len(panels) // across) * (0.55 * rows + 1.5))
        for axes, (title, perceivers, reasoners, shares) in zip(
            _grid(figure, len(panels), across), panels, strict=False
        ):
            drawn = [[float("nan") if value is None else 100 * value for value in line] for line in shares]
            texts = [["" if value is None else f"{100 * value:.1f}" for value in line] for line in shares]
            _shaded(axes, drawn, texts, low - 0.3 * (high - low) - 1, high + 1, "auto", 9)
            axes.set_xticks(range(len(reasoners)), [_plain(name) for name in reasoners], rotation=30, ha="right")
            axes.set_yticks(range(len(perceivers)), [_plain(name) for name in perceivers])
            axes.set(xlabel="reasoner", ylabel="perceiver", title=_plain(title, 60))
    return _laid_out(figure, "Accuracy of perceivers and reasoners, %")


@dataclass(frozen=True)
class Dot:
    """A cell in `against`: where it is, its look, and what it says in two lines."""

    x: float
    value: float
    low: float
    high: float
    colour: int
    marker: str
    hollow: bool
    name: str
    says: str
    front: bool


def against(dots: Sequence[Dot], chance: float | None, log: bool) -> Chart | None:
    """Return accuracy against memory in MB; a line joins those of the front, which are named.

    Args:
        dots: shares from 0 to 1.
        chance: the share of a dashed line.
        log: whether memory has a logarithmic axis.
    """
    if not dots:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with _style():
        figure = _figure(10.5, 5.6)
        axes = figure.add_subplot()
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
        if chance is not None:
            axes.axhline(
                100 * chance, color=QUIET, linewidth=1.1, linestyle=(0, (1, 2)), label=f"chance {100 * chance:.1f}"
            )
            axes.legend(loc="lower right", fontsize=8)
        front = sorted((dot.x, 100 * dot.value) for dot in dots if dot.front)
        for dot in sorted(dots, key=lambda dot: dot.front):
            _mark(
                axes, 100 * dot.value, dot.x, 100 * dot.low, 100 * dot.high, SERIES[dot.colour], dot.hollow, dot.says,
                marker=dot.marker, upright=True,
            )  # fmt: skip
            if dot.front:
                right = dot.x > sorted(one.x for one in dots)[len(dots) // 2] and len(dots) > 1
                side, shift = ("right", -7) if right else ("left", 7)
                axes.annotate(
                    _plain(dot.name), (dot.x, 100 * dot.value), xytext=(shift, 6), textcoords="offset points", ha=side,
                    fontsize=8,
                )  # fmt: skip
        axes.margins(x=0.08, y=0.1)
        if front:
            xs, ys = [x for x, _ in front], [y for _, y in front]
            (line,) = axes.step(
                [*xs, axes.get_xlim()[1]], [*ys, ys[-1]], where="post", color=INK, linewidth=1.2, alpha=0.55
            )
            line.set_gid("class front")
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / 1000:g} GB" if value >= 1000 else f"{value:g} MB")
        )
        axes.set(xlabel="peak memory" + (", logarithmic" if log else ""), ylabel="accuracy, %")
    return _laid_out(figure, "Accuracy against memory; the table below has the numbers")


@dataclass(frozen=True)
class Sized:
    """A line of `scaling`: (size, value, low, high, what it says) of models that belong together."""

    name: str
    colour: int
    marker: str
    points: Sequence[tuple[float, float, float, float, str]]


def scaling(
    panels: Sequence[tuple[str, str, Sequence[Sized]]], columns: int, along: str = "parameters"
) -> Chart | None:
    """Return shares, or differences of them, against the size of the model or of the data, with their intervals, on a
    logarithmic axis.

    Args:
        panels: (title, what the axis is of, lines): values from -1 to 1; of a panel without lines the place stays empty.
        columns: panels beside each other.
        along: what the size is of: ``parameters`` in millions, or a number of something else.
    """
    if not any(lines for _, _, lines in panels):
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with _style():
        rows = -(-len(panels) // columns)
        figure = _figure(3.6 * columns + 0.6, 2.7 * rows + 0.4)
        for axes, (title, what, lines) in zip(_grid(figure, len(panels), columns), panels, strict=True):
            axes.set_visible(bool(lines))
            axes.set_xscale("log")
            sizes = sorted({size for line in lines for size, *_ in line.points})
            axes.axhline(0, color=QUIET, linewidth=1.1, linestyle=(0, (1, 2)))
            for number, line in enumerate(lines):
                # Marks of one size stand beside each other.
                shift = 1.03 ** (number - (len(lines) - 1) / 2)
                points = sorted(line.points)
                xs, ys = [shift * size for size, *_ in points], [100 * value for _, value, *_ in points]
                axes.plot(xs, ys, color=SERIES[line.colour], linewidth=1.2, alpha=0.55)
                for x, (_, value, low, high, says) in zip(xs, points, strict=True):
                    colour = SERIES[line.colour]
                    _mark(axes, 100 * value, x, 100 * low, 100 * high, colour, False, says, line.marker, upright=True)
                axes.plot([], [], line.marker, color=SERIES[line.colour], label=_plain(line.name, 34))
            wide = bool(sizes) and sizes[-1] / sizes[0] > 30
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if wide else (1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(_parameters if along == "parameters" else _number))
            if sizes:
                axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
            axes.set(xlabel=along, ylabel=what, title=_plain(title, 60))
            if len(lines) > 1:
                axes.legend(loc="best", fontsize=7)
    return _laid_out(
        figure, "; ".join(": ".join(filter(None, (title, what))) for title, what, lines in panels if lines)
    )


def _parameters(millions: float, _: object) -> str:
    return f"{millions / 1000:g} B" if millions >= 1000 else f"{millions:g} M"


def _number(count: float, _: object) -> str:
    return f"{count:,.0f}"


def _style() -> AbstractContextManager[None]:
    import matplotlib as mpl

    return mpl.rc_context({**_STYLE, "font.family": ["DejaVu Sans", *_fallbacks()]})


@cache
def _fallbacks() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FALLBACKS if name in installed)


@cache
def _drawable() -> frozenset[int]:
    """Every letter that the fonts of a chart have."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset().union(*(get_font(findfont(name)).get_charmap() for name in ("DejaVu Sans", *_fallbacks())))


def _figure(width: float, height: float) -> Figure:
    """A figure of `width` × `height` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _laid_out(figure: Figure, said: str) -> Chart:
    """The chart, with its layout settled once: it is the same however often, and as what, it is written.

    The figure has no layout engine of its own: with one, also with "none", matplotlib draws it twice whenever it is written.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with _style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ConstrainedLayoutEngine().execute(figure)
    return Chart(figure, said)


def _grid(figure: Figure, panels: int, columns: int) -> list[Axes]:
    """The axes of as many panels; those left over are hidden."""
    grid = list(figure.subplots(-(-panels // columns), columns, squeeze=False).ravel())
    for axes in grid[panels:]:
        axes.set_visible(False)
    return grid[:panels]


def _mark(
    axes: Axes, value: float, place: float, low: float, high: float, colour: str, hollow: bool, says: str,
    marker: str = "o", upright: bool = False,
) -> None:  # fmt: skip
    """A value as a mark on the line of its interval, lying or `upright`."""
    line, dot = ([low, high], [place, place]), ([value], [place])
    wide, size = (1.2, 5.0) if hollow else (2.2, 6.5)
    if upright:
        line, dot = line[::-1], dot[::-1]
        wide, size = 1.2, 7.0
    axes.plot(*line, color=colour, linewidth=wide, solid_capstyle="round")
    (drawn,) = axes.plot(*dot, marker, color=colour, markersize=size, markerfacecolor=PAPER if hollow else colour)
    _say(drawn, says)


def _shaded(
    axes: Axes, values: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], low: float, high: float,
    aspect: Literal["equal", "auto"], size: float,
) -> None:  # fmt: skip
    """A field of shades with texts that stand out on them."""
    axes.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect=aspect)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for y, line in enumerate(texts):
        for x, text in enumerate(line):
            if text:
                dark = values[y][x] > low + 0.58 * (high - low)
                axes.text(x, y, text, ha="center", va="center", fontsize=size, color=PAPER if dark else INK)


def _say(artist: Artist, text: str) -> None:
    """Have a mark say something when it is pointed at, see `pipeline.reports.svg`."""
    artist.set_gid(f"says {printable(text)}")


def _lines(axes: Axes, series: Sequence[Line]) -> None:
    for name, colour, points in series:
        steps, values = [step for step, _ in points], [value for _, value in points]
        window = max(1, len(values) // 15)
        near = [values[max(0, i - window) : i + window + 1] for i in range(len(values))]
        means = [sum(some) / len(some) for some in near]
        axes.plot(steps, values, color=SERIES[colour], linewidth=0.7, alpha=0.35)
        (line,) = axes.plot(steps, means, color=SERIES[colour], linewidth=1.6, label=_plain(name, 40))
        _say(line, name)
        if len(values) == 1:
            line.set_marker("o")
    axes.locator_params(axis="x", integer=True)


def _named(axes: Axes, names: Sequence[str]) -> None:
    """The names of horizontal rows in place of a grid."""
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _legend(axes: Axes, columns: int) -> None:
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, max(1, len(handles))), borderaxespad=0.2,
        handletextpad=0.4, columnspacing=1.4, handlelength=1.2,
    )  # fmt: skip


def _plain(text: str, most: int = 28) -> str:
    """Text on one line, not too long, of letters that can be shown."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"
