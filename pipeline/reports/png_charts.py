"""The charts of a report, drawn by matplotlib as PNG: white paper, colour-blind-safe, the same bytes each time.

Every function takes plain values and returns the picture, or None when there is nothing to draw. matplotlib is imported
where it is used: the command line must answer without it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.reports.entries import Entry
from pipeline.reports.summary import clip_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2328", "#667079", "#e3e6e9"
BLUE, VERMILION, ORANGE = "#0072B2", "#D55E00", "#E69F00"  # Okabe and Ito's palette, told apart by all common eyes.
_GREYS = ("#8c959d", "#c3c9ce")
_STAGES = ((0.47, 0.73, 0.87), (0.00, 0.45, 0.70), (0.03, 0.15, 0.33))  # light to dark: later stages are darker
_MOST_CLASSES = 60
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
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
}


def colours(entries: Sequence[Entry]) -> dict[str, str]:
    """One colour per entry: greys for the base, orange for the baseline, light to dark blue along the stages."""
    stages = [entry.name for entry in entries if not entry.is_base and not entry.is_baseline]
    greys = iter(_GREYS * len(entries))
    chosen = {}
    for entry in entries:
        if entry.is_base:
            chosen[entry.name] = next(greys)
        elif entry.is_baseline:
            chosen[entry.name] = ORANGE
        else:
            place = stages.index(entry.name) / max(len(stages) - 1, 1) * 2 if len(stages) > 1 else 1.0
            left, share = min(int(place), 1), place - min(int(place), 1)
            mixed = [a + (b - a) * share for a, b in zip(_STAGES[left], _STAGES[left + 1], strict=True)]
            chosen[entry.name] = "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
    return chosen


def accuracy(entries: Sequence[Entry]) -> bytes | None:
    """Accuracy of every entry with its interval, greedy and sampled, against chance and the majority class."""
    shown = [entry for entry in entries if entry.scores]
    if not shown:
        return None
    colour = colours(entries)
    with _figure(7.6, 1.15 + 0.42 * len(shown)) as (figure, done):
        axes = figure.add_subplot()
        for place, entry in enumerate(shown):
            scores = entry.scores or {}
            _interval(axes, scores["accuracy"], place - 0.11, colour[entry.name], filled=True)
            if scores["sample"]:
                _interval(axes, scores["sample"]["accuracy"], place + 0.19, colour[entry.name], filled=False)
        base = (shown[0].scores or {})["baselines"]
        marks = [
            (base["chance"]["accuracy"], "chance", (0, (1, 2))),
            (base["majority"]["accuracy"], "majority class", (0, (5, 3))),
        ]
        for value, name, dashes in marks:
            axes.axvline(100 * value, color=QUIET, linewidth=1.1, linestyle=dashes, label=f"{name} {100 * value:.1f}")
        axes.plot([], [], "o", color=QUIET, label="greedy")
        axes.plot([], [], "o", color=QUIET, markerfacecolor="white", label="temperature 1")
        axes.set_yticks(range(len(shown)), [_plain(entry.name) for entry in shown])
        axes.set(xlim=(-1, 101), ylim=(len(shown) - 0.5, -0.6), xlabel="accuracy over all rows, % (95 % interval)")
        axes.grid(axis="y", visible=False)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handletextpad=0.4, columnspacing=1.4
        )
    return done()


def per_class(entries: Sequence[Entry], labels: Sequence[str]) -> bytes | None:
    """F1 of every class, one bar per entry; the classes with most rows when there are too many to read."""
    shown = [entry for entry in entries if entry.scores]
    if not shown:
        return None
    first = (shown[0].scores or {})["per_class"]
    kept = sorted(labels, key=lambda name: -first[name]["support"])[:_MOST_CLASSES]
    names = [name for name in labels if name in set(kept)]
    thick = min(0.8 / len(shown), 0.3)
    colour = colours(entries)
    with _figure(7.6, 0.9 + len(names) * (0.13 * len(shown) + 0.14) + 0.2 * ((len(shown) + 2) // 3)) as (figure, done):
        axes = figure.add_subplot()
        for place, entry in enumerate(shown):
            values = [(entry.scores or {})["per_class"][name]["f1-score"] for name in names]
            heights = [index + (place - (len(shown) - 1) / 2) * thick for index in range(len(names))]
            # A class of F1 0 keeps a sliver, so that it does not look like a missing bar.
            widths = [0 if value is None else max(100 * value, 0.4) for value in values]
            axes.barh(heights, widths, thick * 0.92, color=colour[entry.name], label=_plain(entry.name))
        axes.set_yticks(range(len(names)), [_plain(name) for name in names])
        cut = f" (the {len(names)} of {len(labels)} classes with most rows)" if len(names) < len(labels) else ""
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.45, -0.55), xlabel=f"F1, %{cut}")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(3, len(shown)), borderaxespad=0.2, handlelength=1
        )
    return done()


def confusion(entries: Sequence[Entry]) -> bytes | None:
    """One confusion matrix per entry, shaded by the share of the gold class's rows; counts inside while they fit."""
    shown = [entry for entry in entries if entry.scores]
    if not shown:
        return None
    classes = len((shown[0].scores or {})["labels"])
    cell = 0.36 if classes <= 12 else max(0.1, 4.3 / classes)
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    with _figure(columns * (cell * (classes + 1) + 1.5), rows * (cell * classes + 1.6)) as (figure, done):
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, entry in zip(grid, shown, strict=False):
            _matrix(axes, _plain(entry.name), (entry.scores or {})["confusion"], numbers=classes <= 12)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
    return done()


def curves(entries: Sequence[Entry]) -> bytes | None:
    """Loss, and rewards or token accuracy, over the steps of every trained stage."""
    trained = [entry for entry in _one_per_phase(entries) if any("loss" in row for row in entry.log)]
    if not trained:
        return None
    with _figure(7.6, 0.4 + 1.75 * len(trained)) as (figure, done):
        grid = figure.subplots(len(trained), 2, squeeze=False)
        for (left, right), entry in zip(grid, trained, strict=True):
            _lines(left, entry.log, {"loss": ("loss", INK)})
            left.set_title(_plain(entry.name))
            rewards = sorted(
                {key for row in entry.log for key in row if key.startswith("rewards/") and key.endswith("/mean")}
            )
            palette = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9")
            keys = {key: (key.split("/")[1].removesuffix("_reward"), palette[i % 5]) for i, key in enumerate(rewards)}
            kind = "mean reward" if keys else "token accuracy"
            keys = {**keys, **({"reward": ("total", INK)} if len(keys) > 1 else {})} or {
                "mean_token_accuracy": ("token accuracy", BLUE)
            }
            drawn = _lines(right, entry.log, keys)
            right.set_title(kind, fontweight="normal")
            right.set_visible(bool(drawn))
            if drawn > 1:
                right.legend(loc="best", fontsize=7.5, handlelength=1.2)
        for axes in grid[-1]:
            axes.set_xlabel("step")
    return done()


def clip(entries: Sequence[Entry]) -> bytes | None:
    """Both clip fractions over the steps of every clipping stage, stamped VOID where neither ever acted."""
    clipping = [(entry, clipped) for entry in _one_per_phase(entries) if (clipped := clip_of(entry.record))]
    if not clipping:
        return None
    with _figure(7.6, 0.5 + 1.75 * len(clipping)) as (figure, done):
        grid = figure.subplots(len(clipping), 1, squeeze=False).ravel()
        keys = {
            "clip_ratio/low_mean": ("low: r < 1 − ε_low, A < 0", VERMILION),
            "clip_ratio/high_mean": ("high: r > 1 + ε_high, A > 0", BLUE),
        }
        for axes, (entry, clipped) in zip(grid, clipping, strict=True):
            drawn = _lines(axes, entry.log, keys, scale=100)
            axes.set_title(_plain(entry.name) + _epsilons(clipped))
            axes.set(ylabel="% of tokens", xlabel="step")
            axes.set_ylim(bottom=0, top=None if any(clipped[side] for side in ("low", "high")) else 1)
            if clipped["void"]:
                stamp = {"ha": "center", "va": "center", "fontsize": 15, "weight": "bold", "color": VERMILION}
                axes.text(0.5, 0.5, "VOID: nothing was clipped", transform=axes.transAxes, **stamp)
            elif drawn:
                axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=7.5, borderaxespad=0.2)
    return done()


def cot(yields: dict[str, Any] | None) -> bytes | None:
    """Kept and rejected CoT rows per class."""
    if not yields or not yields["per_class"]:
        return None
    table = dict(list(yields["per_class"].items())[:_MOST_CLASSES])
    kept, lost = [row["kept"] for row in table.values()], [row["rejected"] for row in table.values()]
    with _figure(7.6, 1.0 + 0.27 * len(table)) as (figure, done):
        axes = figure.add_subplot()
        axes.barh(range(len(table)), kept, 0.62, color=BLUE, label="kept")
        axes.barh(
            range(len(table)), lost, 0.62, left=kept, color=GRID, edgecolor=QUIET, linewidth=0.5, label="rejected"
        )
        axes.set_yticks(range(len(table)), [_plain(name) for name in table])
        axes.set(ylim=(len(table) - 0.4, -0.6), xlabel="CoT rows")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    return done()


def heat_maps(
    panels: Sequence[tuple[str, Sequence[str], Sequence[str], Sequence[Sequence[float | None]]]],
) -> bytes | None:
    """Accuracies of pairs, one map per panel, on one scale.

    Args:
        panels: (title, perceivers: the rows, reasoners: the columns, shares by row and column); None for a pair not asked.
    """
    if not panels:
        return None
    rows, columns = max(len(panel[1]) for panel in panels), max(len(panel[2]) for panel in panels)
    values = [value for panel in panels for line in panel[3] for value in line if value is not None]
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    with _figure(across * (1.0 * columns + 2.0), down * (0.55 * rows + 1.5)) as (figure, done):
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (title, perceivers, reasoners, shares) in zip(grid, panels, strict=False):
            drawn = [[float("nan") if value is None else 100 * value for value in line] for line in shares]
            low, high = 100 * min(values, default=0), 100 * max(values, default=1)
            axes.imshow(drawn, cmap="Blues", vmin=low - 0.3 * (high - low) - 1, vmax=high + 1, aspect="auto")
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.set_xticks(range(len(reasoners)), [_plain(name) for name in reasoners], rotation=30, ha="right")
            axes.set_yticks(range(len(perceivers)), [_plain(name) for name in perceivers])
            axes.set(xlabel="reasoner", ylabel="perceiver", title=_plain(title))
            for y, line in enumerate(drawn):
                for x, value in enumerate(line):
                    if value == value:  # A pair that was not asked has no number.
                        dark = value > low + 0.6 * (high - low)
                        axes.text(x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else INK)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
    return done()


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    """A figure of `width` × `height` inches and the function that turns it into PNG bytes once it is drawn."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        yield figure, buffer.getvalue
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})


def _interval(axes: Axes, rate: dict[str, Any], y: float, colour: str, filled: bool) -> None:
    axes.plot(
        [100 * rate["low"], 100 * rate["high"]],
        [y, y],
        color=colour,
        linewidth=2.2 if filled else 1.2,
        solid_capstyle="round",
    )
    axes.plot(
        [100 * rate["value"]],
        [y],
        "o",
        color=colour,
        markersize=6.5 if filled else 5,
        markerfacecolor=colour if filled else "white",
    )


def _matrix(axes: Axes, title: str, table: dict[str, Any], numbers: bool) -> None:
    counts = table["counts"]
    shares = [[value / max(sum(row), 1) for value in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.axvline(len(counts) - 0.5, color=QUIET, linewidth=0.8)
    small = 8 if numbers else max(3, min(8, 300 / len(counts) / 3))
    axes.set_xticks(
        range(len(table["columns"])), [_plain(name) for name in table["columns"]], rotation=90, fontsize=small
    )
    axes.set_yticks(range(len(counts)), [_plain(name) for name in table["rows"]], fontsize=small)
    axes.tick_params(length=0)
    axes.set_title(title)
    if numbers:
        for y, row in enumerate(counts):
            for x, value in enumerate(row):
                if value:
                    axes.text(
                        x,
                        y,
                        str(value),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if shares[y][x] > 0.55 else INK,
                    )


def _lines(axes: Axes, log: Sequence[dict[str, Any]], keys: dict[str, tuple[str, str]], scale: float = 1) -> int:
    """Draw each key of a log that occurs in it: the points faint, their running mean on top. Returns how many did."""
    drawn = 0
    for key, (name, colour) in keys.items():
        points = [(row["step"], scale * row[key]) for row in log if isinstance(row.get(key), int | float)]
        if not points:
            continue
        steps, values = [step for step, _ in points], [value for _, value in points]
        window = max(1, len(values) // 15)
        means = [
            sum(values[max(0, i - window) : i + window + 1]) / len(values[max(0, i - window) : i + window + 1])
            for i in range(len(values))
        ]
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
        axes.plot(steps, means, color=colour, linewidth=1.6, label=name, marker="o" if len(values) == 1 else None)
        drawn += 1
    return drawn


def _epsilons(clipped: dict[str, Any]) -> str:
    known = clipped["epsilon"] is not None and clipped["epsilon_high"] is not None
    return f"   ε_low {clipped['epsilon']:g}, ε_high {clipped['epsilon_high']:g}" if known else ""


def _one_per_phase(entries: Sequence[Entry]) -> list[Entry]:
    return list({entry.phase: entry for entry in reversed(entries)}.values())[::-1]


def _plain(text: str) -> str:
    """Text matplotlib draws as it is ($ would start a formula), on one line and not too long."""
    text = " ".join(text.split())
    return (text if len(text) <= 28 else f"{text[:27]}…").replace("$", r"\$")
