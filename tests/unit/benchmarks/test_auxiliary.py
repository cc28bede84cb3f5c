"""What mixed-in questions are worth is told of arms of as many rows and steps, judged on the same rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from made_up import cells_of, entry

from benchmarks import auxiliary
from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.data.training_rows import DATA
from pipeline.errors import UserError

OF = "task.options.of.depth"
SOURCES = {
    "Depth": [],
    # An empty mapping takes away what the file sets.
    "Closer": [
        f"{OF}={{}}",
        f"{OF}={{name: shapes, options: {{seed: 1, kinds: [Closer], train: 10, val: 0, test: 5}}}}",
    ],
}
SMALL = [
    "task.options.of.others.options.drawn=[20, 0, 8]",
    f"{OF}.options.drawn=[20, 0, 8]",
    "task.options.splits.without_depth={others: 'train[:40]'}",
    "task.options.splits.with_depth={others: 'train[:30]', depth: 'train[:10]'}",
]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Where a comparison lies that trains on a few rows."""
    (tmp_path / "page.md").write_text("<!-- table of depth -->\n<!-- end of depth -->\n")
    return [*SMALL, "--seeds", "0", "--output-dir", str(tmp_path / "runs"), "--into", str(tmp_path / "page.md")]


def test_the_shipped_arms_differ_in_a_quarter_of_their_rows_alone(tmp_path: Path) -> None:
    shipped, config = load("ablations/depth"), load("ablations/depth", SMALL)
    assert shipped.task.options["splits"] == {
        "without_depth": {"others": "train[:5000]"},
        "with_depth": {"others": "train[:3750]", "depth": "train[:1250]"},
    }
    task = load_task(config.task, tmp_path)
    without, with_depth = (task.select_for_training(split).rows for split in auxiliary.find_arms(config))
    assert Counter(row.groups["source"] for row in without) == {"others": 40}
    assert Counter(row.groups["source"] for row in with_depth) == {"others": 30, "depth": 10}
    assert {row.groups["task"] for row in with_depth if row.groups["source"] == "depth"} == {"Depth"}
    assert {row.id for row in with_depth if row.groups["source"] == "others"} < {row.id for row in without}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "task.options.splits.with_depth.depth=train[:9]",
            "without_depth has 40, with_depth has 39; slice their splits",
        ),
        ("stages.stage2.split=without_depth", "stage1_without_depth trains on the split of another arm"),
        ("stages.stage2.trainer.max_steps=9", "no other stage differs from it in split alone"),
    ],
)
def test_arms_of_other_rows_or_steps_are_refused_before_anything_is_trained(
    setting: str, told: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auxiliary, "run_over_seeds", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=told):
        auxiliary.main([*words, setting])


@pytest.mark.parametrize("kind", SOURCES)
def test_the_table_tells_the_other_kinds_without_the_auxiliary_one(
    kind: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"stage1_without_depth": entry([50, 50], kind), "stage2_with_depth": entry([60, 90], kind)}
    recorded = {stage: tmp_path / "runs" / "depth-seed0" / stage / DATA for stage in made}
    for file in recorded.values():
        file.parent.mkdir(parents=True)
        file.write_text("row\n" * 40)
    monkeypatch.setattr(auxiliary, "run_over_seeds", lambda *_: [made])
    assert auxiliary.main([*words, *SOURCES[kind]]) == 0
    rows = cells_of((tmp_path / "page.md").read_text())
    assert [row["questions"] for row in rows[::2]] == [f"all but {kind}", *sorted(["Count", kind])]
    assert rows[1]["against without_depth, points"] == "+10.0"
    assert (tmp_path / "figures" / "depth.png").exists()
    # Only verified chains of thought are trained on, so an arm may be left with fewer than its split has.
    recorded["stage2_with_depth"].write_text("row\n" * 39)
    with pytest.raises(UserError, match=r"depth-seed0: arms must train on as many rows: .* has 40, .* has 39"):
        auxiliary.main([*words, *SOURCES[kind]])
