"""A report's page in a real browser: what a person clicks, types, prints and reads on a phone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Chromium, Page
from PIL import Image

from pipeline.reports import write
from pipeline.reports.completions_page import write_completions_page
from tests.unit.pipeline.reports.test_completions_page import write as record
from tests.unit.pipeline.reports.test_occlusion import write_maps
from tests.unit.pipeline.reports.test_write import LABELS, answers, write_phase

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed to open the page with")

HOSTILE = (
    "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<!-- {{ 7*7 }} javascript:alert(1) \u202e\u2028 </pre></textarea>" + "w" * 300
)
TASKS = ("Count", "Relation")
ROWS = 130


def rows(seed: int, right: float) -> list[dict[str, Any]]:
    """Answers to a small benchmark of three options; every fifth is hostile, every seventh cannot be read."""
    draw = random.Random(seed)
    made = []
    for number in range(ROWS):
        gold = "ABC"[number % 3]
        said = gold if draw.random() < right else "ABC"[(number + 1) % 3]
        label = None if number % 7 == 3 else said
        think = f"thought {number} " + "word " * (5 + number % 30) + (HOSTILE if number % 5 == 0 else "")
        made.append(
            {
                "id": f"row/{number} <b>",
                "image": f"pictures/{number % 10}.png",
                "images": [f"pictures/{number % 10}.png"],
                "question": f"How many things of kind {number}?",
                "options": ["one", "two", HOSTILE if number == 0 else "three"],
                "gold": gold,
                "groups": {"task": TASKS[number % 2]},
                "cluster": f"picture {number // 2}",
                "mode": "think",
                "style": "think",
                "decoding": "greedy",
                "sample": 0,
                "prompt": "?",
                "completion": f"<think>{think}</think>\n<answer>{label}</answer>",
                "label": label,
                "guessed": None,
                "correct": label == gold,
                "reason": None if label else "not_an_option",
                "think": think,
                "truncated": number % 11 == 0,
                "completion_tokens": 30,
                "seconds": 0.5,
                "attributes": {},
                "logprob": -draw.random(),
            }
        )
    return made


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a lab of two cells."""
    root = tmp_path_factory.mktemp("lab")
    (root / "pictures").mkdir()
    for number in range(10):
        Image.new("RGB", (80, 60), (20 * number, 90, 200)).save(root / "pictures" / f"{number}.png")
    for name, seed, right in (("small--bench--auto--think", 1, 0.5), ("large--bench--auto--think", 2, 0.9)):
        (root / "cells" / name).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows(seed, right))
        (root / "cells" / name / "predictions.jsonl").write_text(lines)
    return write.write_folder_report([root])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


READY = "!document.getElementById('filters').hidden"


@pytest.fixture
def page(written: Path, chromium: Chromium) -> Iterator[Page]:
    """The report, loaded, with its browser ready; whatever a test did, nothing may have gone wrong in it."""
    chromium.events.clear()
    found = chromium.open(written)
    found.wait(READY)
    yield found
    assert found.problems() == []
    assert "owned" not in found.evaluate("document.title")
    found.close()


def column(page: Page, table: str, place: int) -> list[str]:
    return page.evaluate(
        f"[...document.querySelector('{table}').tBodies[0].rows].map((row) => row.cells[{place}].textContent.trim())"
    )


def shown(page: Page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('#cards article')].map((one) => one.dataset.row)")


def choose(page: Page, name: str, value: str) -> None:
    """Set a field of the filter as a person does, and wait for the rows."""
    page.evaluate(
        f"(() => {{ const field = document.getElementById('filters').elements[{json.dumps(name)}]; field.value = "
        f"{json.dumps(value)}; field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
    )
    page.evaluate("new Promise((done) => setTimeout(done, 150))")


def said(page: Page) -> str:
    return page.evaluate("document.getElementById('shown').textContent")


def test_a_heading_sorts_its_table_and_says_so(page: Page) -> None:
    table = "#results table.sortable"
    head = f"document.querySelector('{table}').tHead.rows[0].cells[1]"
    page.evaluate(f"{head}.firstElementChild.click()")
    assert page.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    first = column(page, table, 0)
    assert [name.split("--")[0] for name in first] == ["large", "small"]
    page.evaluate(f"{head}.firstElementChild.focus()")
    page.press("Enter")
    assert page.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert column(page, table, 0) == first[::-1]


def test_rows_are_filtered_by_answer_outcome_group_and_text(page: Page) -> None:
    assert said(page) == f"All {ROWS} rows"
    choose(page, "outcome", "none")
    assert said(page) == f"{len(range(3, ROWS, 7))} of {ROWS} rows"
    choose(page, "group", "task: Count")
    assert said(page) == f"{len([n for n in range(3, ROWS, 7) if n % 2 == 0])} of {ROWS} rows"
    page.evaluate("document.querySelector('#filters [type=reset]').click()")
    page.wait(f"document.getElementById('shown').textContent === 'All {ROWS} rows'")
    choose(page, "text", "KIND 77?")
    assert shown(page) == ["row/77 <b>"]
    choose(page, "text", "")
    choose(page, "gold", "B")
    assert all(int(name.split("/")[1].split()[0]) % 3 == 1 for name in shown(page))


def test_two_entries_are_compared_by_where_they_differ(page: Page) -> None:
    small, large = rows(1, 0.5), rows(2, 0.9)
    names = page.evaluate("[...document.getElementById('filters').elements.a.options].map((one) => one.textContent)")
    a, b = (str(names.index(f"{name}--bench--auto--think") - 1) for name in ("large", "small"))
    choose(page, "a", a)
    choose(page, "b", b)
    choose(page, "relation", "only")
    only = sum(x["correct"] and not y["correct"] for x, y in zip(large, small, strict=True))
    assert said(page) == f"{only} of {ROWS} rows"
    choose(page, "relation", "differ")
    assert said(page) == f"{sum(x['label'] != y['label'] for x, y in zip(large, small, strict=True))} of {ROWS} rows"


def test_the_keyboard_goes_from_row_to_row_and_page_to_page(page: Page) -> None:
    current = "document.activeElement.dataset.row"
    page.press("j")
    assert page.evaluate(current) == "row/0 <b>"
    page.press("j")
    page.press("ArrowDown")
    assert page.evaluate(current) == "row/2 <b>"
    page.press("k")
    assert page.evaluate(current) == "row/1 <b>"
    assert page.evaluate("location.hash") == "#row=row%2F1%20%3Cb%3E"
    page.press("n")
    assert page.evaluate(current) == "row/20 <b>"
    page.press("k")
    assert page.evaluate(current) == "row/19 <b>"
    page.press("/")
    assert page.evaluate("document.activeElement.name") == "text"
    # A letter to search for, not a key.
    page.press("j")
    assert page.evaluate("document.activeElement.value") == "j"


def test_a_link_to_a_row_opens_it(written: Path, page: Page) -> None:
    page.go(written, "#row=row%2F99%20%3Cb%3E")
    page.wait(f"{READY} && document.activeElement.dataset.row === 'row/99 <b>'")
    assert page.evaluate(
        "(() => { const box = document.activeElement.getBoundingClientRect(); return box.top < 400; })()"
    )
    # No such row, and no valid encoding.
    page.go(written, "#row=%E0%A4%A")
    page.wait(READY)


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    text = page.evaluate("document.querySelector('#cards article').textContent")
    assert "</script><script>document.title = 'owned'</script><img src=x onerror=" in text
    assert "\u202e" not in text
    assert page.evaluate("document.querySelectorAll('#cards script, #cards img[src=x]').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 3


def test_pictures_are_inside(page: Page) -> None:
    page.wait("[...document.querySelectorAll('#cards img')].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.querySelectorAll('#cards img').length") == 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(page: Page, scheme: str) -> None:
    page.media(scheme=scheme)
    page.size(390, 844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = (
        "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll, #sections')"
        " && one.getBoundingClientRect().right > 390.5).map((one) => one.outerHTML.slice(0, 120))"
    )
    assert page.evaluate(wide) == []


CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); };
  const behind = (element) => {
    const over = [];
    for (let one = element; one; one = one.parentElement) over.unshift(getComputedStyle(one).backgroundColor);
    paint("white");
    over.forEach(paint);
    return luminance();
  };
  const luminance = () => {
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest("script, option")) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    paint(element.closest("svg") ? style.fill : style.color);
    const front = luminance();
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    const where = `${element.tagName}.${element.getAttribute("class")}: ${element.textContent.slice(0, 30)}`;
    if (ratio < 4.5) poor.add(`${ratio.toFixed(2)} ${where}`);
  }
  return [...poor];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(page: Page, scheme: str) -> None:
    page.media(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    # WCAG 2.2 AA: 4.5 to 1.
    assert page.evaluate(CONTRAST) == []


def test_print_hides_nothing(page: Page) -> None:
    page.media("print", "dark")
    hidden = (
        "[...document.querySelectorAll('section, details > *, .answer pre, td, th')].filter((one) => !one.checkVisibility({"
        " contentVisibilityAuto: true }) || one.scrollHeight > one.clientHeight + 2 && getComputedStyle(one).overflowY !== "
        "'visible').map((one) => one.outerHTML.slice(0, 100))"
    )
    assert page.evaluate(hidden) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    page.media()


def test_the_page_says_what_the_numbers_are_of(page: Page) -> None:
    text = page.evaluate("document.body.textContent")
    for what in ("clusters flipped", "Holm", "By task", "Reliability", "ECE", "chance", "words of the reasoning"):
        assert what in text
    assert column(page, "#groups table", 0) == ["Count", "Relation"]
    assert column(page, "#groups table", 2) == ["33.3", "33.3"]
    # Letters of a multiple choice are no classes.
    assert page.evaluate("document.querySelector('#classes')") is None


def test_two_cells_are_compared_on_a_page(written: Path, chromium: Chromium, tmp_path: Path) -> None:
    cells = sorted((written.parents[1] / "cells").iterdir())
    chromium.events.clear()
    page = chromium.open(write.write_comparison(cells, tmp_path / "out"))
    page.wait(READY)
    assert page.evaluate("document.querySelectorAll('#tests tbody tr').length") == 1
    assert said(page) == f"All {ROWS} rows"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"index.html", "compare.md", "tables"}
    page.size(390, 844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.problems() == []


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with every column: a baseline, sampled answers, clip fractions, and a stage that was not run."""
    root = tmp_path_factory.mktemp("run")
    clip = {"low": 0.00012, "high": 0.0345, "epsilon": 0.2, "epsilon_high": 0.1}
    for name in WHOLE[:-1]:
        greedy = answers(30, 9, 2)
        write_phase(
            root / name, greedy + answers(25, 9, 7, decoding="sample"), algorithm="grpo", init_from="base", clip=clip
        )
        (root / name / "evaluation.json").write_text(json.dumps({"problems": {"not_an_image": 3}}))
    return write.write_run_report(root, WHOLE, LABELS)


WHOLE = ["base", "baseline_sft_labels", "stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"]


@pytest.mark.parametrize("width", [1280, 1400, 1920])
def test_the_results_of_a_whole_run_are_seen_without_scrolling(whole_run: Path, chromium: Chromium, width: int) -> None:
    page = chromium.open(whole_run, width=width)
    box = "document.querySelector('#results .scroll:has(table.sortable)')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")
    assert page.problems() == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_findings_stand_first_and_stand_out(whole_run: Path, chromium: Chromium, scheme: str) -> None:
    page = chromium.open(whole_run)
    page.media(scheme=scheme)
    assert page.evaluate("document.querySelector('main').firstElementChild.className") == "findings"
    assert page.evaluate("document.querySelectorAll('.findings li').length") == 3
    # Tones that these rows, all alike, do not show.
    page.evaluate(
        "['better', 'worse', 'unknown'].forEach((tone, place) => {"
        " document.querySelectorAll('.findings li > span')[place].className = tone;"
        " document.querySelectorAll('#classes td[title]')[place].className = tone; })"
    )
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.querySelector('#classes td[title]').title").startswith("21 rows; right only here 0")
    page.size(390, 844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.problems() == []
    page.close()


def test_charts_follow_light_and_dark(whole_run: Path, chromium: Chromium) -> None:
    page = chromium.open(whole_run)
    inked = "getComputedStyle(document.querySelector('#results svg.chart .f-ink')).fill"
    page.media(scheme="light")
    light = page.evaluate(inked)
    page.media(scheme="dark")
    assert page.evaluate(inked) != light
    assert page.evaluate("document.querySelectorAll('svg.chart [style]').length") == 0
    assert page.problems() == []
    page.close()


def test_completions_can_be_read_on_a_phone(chromium: Chromium, tmp_path: Path) -> None:
    record(tmp_path, 3)
    found = write_completions_page(tmp_path)
    assert found is not None
    page = chromium.open(found, width=390, height=844)
    page.size(390, 844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(
        "[...document.querySelectorAll('pre')].every((one) => one.getBoundingClientRect().width > 250)"
    )
    assert page.problems() == []
    page.close()


def test_a_map_stands_beside_its_answer_and_the_filter_finds_it(tmp_path: Path, chromium: Chromium) -> None:
    write_phase(tmp_path / "stage1_sft", answers(3, 1, 0))
    write_maps(tmp_path / "stage1_sft", "row1")
    found = chromium.open(write.write_folder_report([tmp_path / "stage1_sft"]))
    found.wait(READY)
    assert found.evaluate("document.querySelectorAll('.answer .maps img').length") == 1
    choose(found, "outcome", "mapped")
    assert shown(found) == ["row1"]
    assert found.evaluate("document.querySelector('.answer .maps figcaption').textContent") == "largest fall 1.50"
    assert found.problems() == []
    found.close()
