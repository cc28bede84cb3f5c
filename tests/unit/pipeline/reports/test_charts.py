"""Charts: drawn once for paper and page, in the page's colours, the same bytes each time, and of text that stays text."""

from __future__ import annotations

import io
import re
from unittest.mock import Mock
from xml.etree import ElementTree as ET

import pytest
from matplotlib.axes import Axes
from matplotlib.layout_engine import do_constrained_layout
from matplotlib.text import Text
from PIL import Image

from pipeline.files import ROOT
from pipeline.metrics.scores import ConfidenceBin, Confusion, Rate
from pipeline.reports import charts
from pipeline.reports.charts import Chart, Dot

HOSTILE = "\x00</svg><script>alert('1')</script>\u202e & $x_1$ \"'"


def rate(value: float) -> Rate:
    return Rate(value, max(0.0, value - 0.1), min(1.0, value + 0.1), n=10)


def every() -> dict[str, Chart | None]:
    """Each chart with a hostile name in it."""
    bins = [ConfidenceBin(0.5, 0.6, 0.5, rate(0.4)), ConfidenceBin(0.8, 0.9, 0.8, rate(0.9))]
    line = (HOSTILE, 3, [(1, 2.0), (2, 1.0)])
    table = Confusion(("a", HOSTILE), ("a", HOSTILE, "?"), ((3, 1, 0), (0, 9, 2)))
    dots = [
        Dot(1000.0 * n, 0.1 * n, 0.1 * n - 0.05, 0.1 * n + 0.05, n, "o", n == 1, HOSTILE, f"{HOSTILE}\nb", n != 2)
        for n in (1, 2, 3)
    ]
    return {
        "intervals": charts.intervals(
            [(HOSTILE, 8, [rate(0.2), rate(0.4)])], marks=[(0.1, "chance")], kinds=("a", "b")
        ),
        "bars": charts.bars(["joy", HOSTILE], [(HOSTILE, 0, [0.2, None]), ("b", 3, [0.5, 0.0])]),
        "stacked": charts.bars(["joy", HOSTILE], [("kept", 3, [2, 1]), ("rejected", 5, [0, 4])], "rows", stacked=True),
        "confusion": charts.confusion([(HOSTILE, table)]),
        "curves": charts.curves([(HOSTILE, [line], "reward", [line, line]), ("sft", [line], "accuracy", [])]),
        "clip": charts.clip([(HOSTILE, [line], True, False), ("void", [], False, True)]),
        "reliability": charts.reliability([(HOSTILE, 3, bins)]),
        "heat_maps": charts.heat_maps([(HOSTILE, ["a", "b"], ["c"], [[0.3], [None]])]),
        "against": charts.against(dots, 0.05, log=True),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Chart]:
    found = {name: chart for name, chart in every().items() if chart}
    assert len(found) == 9
    return found


def test_a_chart_is_the_same_bytes_each_time(drawn: dict[str, Chart]) -> None:
    again = every()
    for name, chart in drawn.items():
        other = again[name]
        assert other is not None
        assert chart.svg(name == "against") == other.svg(name == "against")
        assert chart.png() == other.png()


def test_a_chart_is_laid_out_once_and_drawn_once_each_time_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts, drawings = Mock(wraps=do_constrained_layout), Mock(wraps=Axes.draw)
    monkeypatch.setattr("matplotlib.layout_engine.do_constrained_layout", layouts)
    monkeypatch.setattr(Axes, "draw", lambda axes, renderer: drawings(axes, renderer))
    chart = charts.intervals([("joy", 3, [rate(0.5)])])
    assert chart is not None
    assert (layouts.call_count, drawings.call_count) == (1, 0)
    chart.svg()
    chart.png()
    assert (layouts.call_count, drawings.call_count) == (1, 2)


def test_every_chart_is_a_picture_on_white_paper(drawn: dict[str, Chart]) -> None:
    for chart in drawn.values():
        with Image.open(io.BytesIO(chart.png())) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_chart_in_a_page_has_its_colours_and_nothing_a_policy_forbids(drawn: dict[str, Chart]) -> None:
    painted = (ROOT / "pipeline" / "reports" / "templates" / "_charts.css.jinja").read_text()
    for name, chart in drawn.items():
        if name in ("confusion", "heat_maps"):
            # Shades of a picture: on pages they are tables.
            continue
        text = str(chart.svg(tips=name == "against"))
        root = ET.fromstring(text)
        for word in (" style=", " id=", "href", "url(", "<script", "<style", "\u202e", "font-family"):
            assert word not in text, name
        assert root.get("class") == "chart"
        colours = {one.get(key) for one in root.iter() for key in ("fill", "stroke")} - {None, "none"}
        # All of them are classes.
        assert colours == set(), name
        used = {one for part in re.findall(r'class="([^"]*)"', text) for one in part.split() if one[:2] in ("f-", "s-")}
        assert used
        assert all(f'"{one[2:]}"' in painted for one in used)


def test_what_a_mark_says_is_a_title_or_a_box(drawn: dict[str, Chart]) -> None:
    titles = [one.text or "" for one in ET.fromstring(drawn["intervals"].svg()).iter("title")]
    assert len(titles) == 2
    assert titles[0].endswith(": 20.0 % [10.0, 30.0]")
    root = ET.fromstring(drawn["against"].svg(tips=True))
    marks = [one for one in root.iter("g") if one.get("class") == "mark"]
    assert len(marks) == 3
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in marks)
    assert len([one for one in root.iter("path") if "front" in (one.get("class") or "").split()]) == 1


def test_letters_without_a_font_are_counted_on_paper_and_left_to_the_browser_on_a_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = "日本"
    # Wherever it runs.
    monkeypatch.setattr(charts, "_drawable", lambda: frozenset(range(0x3000)))
    plain, strange = (charts.intervals([(name, 3, [rate(0.5)])]) for name in ("joy", f"joy {unknown}"))
    assert plain is not None
    assert strange is not None
    assert unknown in strange.svg()
    notes: list[str] = []
    monkeypatch.setattr(Text, "set_text", lambda self, text: notes.append(text))
    assert strange.png() == strange.png()
    plain.png()
    assert [note for note in notes if "□" in note] == ["□: 2 letters that no font on this machine has"] * 2


def test_a_confusion_of_hundreds_of_classes_is_no_larger_than_one_of_some() -> None:
    def of(classes: int) -> Confusion:
        names = tuple(f"class {place}" for place in range(classes))
        return Confusion(names, (*names, "(unparsable)"), tuple((0,) * classes + (1,) for _ in names))

    sizes, ticks = [], []
    # The larger one decides, wherever it stands.
    for panels in ([of(100), of(2)], [of(2), of(300)]):
        chart = charts.confusion([(str(place), one) for place, one in enumerate(panels)])
        assert chart is not None
        sizes.append(max(chart.figure.get_size_inches()))
        ticks.append(len(chart.figure.axes[0].get_xticks()))
    assert max(sizes) < 2 * (charts.SIDE + 1.7)
    assert ticks == [101, 0]


def test_nothing_to_draw_is_no_chart() -> None:
    assert [charts.intervals([]), charts.bars([], []), charts.curves([]), charts.against([], None, log=False)] == [
        None
    ] * 4
