"""A sweep's page in a real browser: what a person sorts, chooses, focuses, prints and reads on a phone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.sweeps.files import write_results
from pipeline.sweeps.results import Cells, results
from tests.chromium import PROGRAM, Chromium, Page
from tests.unit.pipeline.sweeps.test_results import answer

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed to open the page with")
HOSTILE = "</script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Three models on two tasks; the smallest is the best on the first."""
    folder = tmp_path_factory.mktemp("sweep")
    models = {name: LabModel(name_or_path=name) for name in ("a", "b", "c")}
    tasks = {"first": LabTask(split="val"), "second": LabTask(split="val")}
    lab = dataclasses.replace(LabConfig("trial", str(folder)), models=models, tasks=tasks, modes=["direct", "think"])
    for number, cell in enumerate(cells(lab)):
        right = [row % 10 >= 2 * "abc".index(cell.model) for row in range(60)]
        gigabytes = (3 if cell.task == "first" else 1) + "abc".index(cell.model)
        answer(lab, cell, right, peak_memory_bytes=gigabytes * 10**9, official={HOSTILE: 10.0 + number})
    write_results(results(Cells(lab)), folder / "trial")
    with Chromium() as chromium:
        yield chromium.open(folder / "trial" / "index.html")


def first_words(page: Page, section: int) -> list[str]:
    code = f"[...document.querySelectorAll('table.results')[{section}].tBodies[0].rows].map(r => r.cells[0].textContent.trim())"
    return [name.split()[0] for name in page.evaluate(code)]


def test_a_heading_sorts_and_says_how(page: Page) -> None:
    assert first_words(page, 0) == ["a", "a", "b", "b", "c", "c"]
    head = "[...document.querySelectorAll('table.results th')].find(cell => cell.textContent.includes('accuracy, %'))"
    page.evaluate(f"{head}.querySelector('button').click()")
    assert first_words(page, 0) == ["c", "c", "b", "b", "a", "a"]
    assert page.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"


def test_a_tab_shows_one_task_and_the_last_one_all(page: Page) -> None:
    hidden = "[...document.querySelectorAll('section.task')].map(section => section.hidden)"
    assert page.evaluate(hidden) == [False, True]
    page.evaluate("document.querySelectorAll('.tabs button')[1].click()")
    assert page.evaluate(hidden) == [True, False]
    page.evaluate("document.querySelectorAll('.tabs button')[2].click()")
    assert page.evaluate(hidden) == [False, False]
    page.evaluate("document.querySelectorAll('.tabs button')[0].click()")


def test_a_focused_mark_shows_its_cell(page: Page) -> None:
    page.evaluate("document.querySelector('.mark').focus()")
    tip = "getComputedStyle(document.querySelectorAll('.mark')[{}].querySelector('.tip')).visibility"
    assert page.evaluate(tip.format(0)) == "visible"
    assert (
        page.evaluate("getComputedStyle(document.querySelectorAll('.mark')[1].querySelector('.tip')).visibility")
        == "hidden"
    )
    assert page.evaluate("document.querySelectorAll('section.task')[0].querySelectorAll('path.front').length") == 1


def test_on_a_phone_only_tables_and_charts_scroll_sideways(page: Page) -> None:
    page.size(390, 844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.size(1280, 900)


def test_nothing_is_fetched_no_foreign_script_runs_and_paper_has_every_task(page: Page) -> None:
    assert page.problems() == []
    assert "owned" not in page.evaluate("document.title")
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    page.media("print")
    shown = "[...document.querySelectorAll('section.task')].map(section => getComputedStyle(section).display)"
    assert page.evaluate(shown) == ["block", "block"]
    page.media("")
