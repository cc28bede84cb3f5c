"""The page of a stage's completion tables: everything inside it, hostile text stays text."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.reports.completions_page import SHOWN, write_completions_page

HOSTILE = "<script>alert(1)</script>{{ 7*7 }}"


def write(stage: Path, step: int, pictures: int | None = 1) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, format="PNG")
    table = {
        "step": [step] * 4,
        "group": [0, 0, 1, 1],
        **(
            {"image": [buffer.getvalue()] * 4} if pictures is None else {"images": [[buffer.getvalue()] * pictures] * 4}
        ),
        "prompt": ["Which emotion?"] * 4,
        "completion": [HOSTILE, "better", "", "fine"],
        "reward:format_reward": [0.0, 1.0, float("nan"), 1.0],
        "advantage": [-0.7, 0.7, 0.0, 0.0],
    }
    (stage / "completions").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), stage / "completions" / f"step-{step:05d}.parquet")


def test_a_stage_without_tables_gets_no_page(tmp_path: Path) -> None:
    assert write_completions_page(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_groups_with_picture_rewards_and_the_best_completion_first(tmp_path: Path) -> None:
    write(tmp_path / "stage2", 1)
    page = write_completions_page(tmp_path / "stage2")
    assert page is not None
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.index("better") < text.index("&lt;script&gt;")
    for shown in ("format_reward", "+0.70", "-0.70", "(nothing)", "–"):
        assert shown in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(("pictures", "shown"), [(0, 0), (2, 4), (None, 2)])
def test_every_picture_of_a_group_is_shown_as_is_the_one_of_an_older_table(
    tmp_path: Path, pictures: int | None, shown: int
) -> None:
    write(tmp_path / "stage2", 1, pictures)
    page = write_completions_page(tmp_path / "stage2")
    assert page is not None
    assert page.read_text().count("data:image/png;base64,") == shown


def test_of_many_tables_the_first_the_last_and_some_between_are_shown(tmp_path: Path) -> None:
    for step in range(1, 41):
        write(tmp_path / "stage2", step, pictures=0)
    page = write_completions_page(tmp_path / "stage2")
    assert page is not None
    text = page.read_text()
    assert text.count("<h2>") == SHOWN
    assert "step 1<" in text
    assert "step 40<" in text
