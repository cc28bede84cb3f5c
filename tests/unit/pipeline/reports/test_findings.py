"""Which stage helped: the sentence of each stage, and the rows it names, against numbers counted by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import recall_score

from pipeline.metrics import classification
from pipeline.metrics.stored import from_json, to_json
from pipeline.reports import compare, markdown, write
from pipeline.reports.entries import read_run
from pipeline.reports.summary import Summary, summarise
from pipeline.scoring.labels import LabelSet
from tests.unit.pipeline.reports.test_write import (  # noqa: F401, undrawn is a fixture
    LABELS,
    entry,
    prediction,
    summary_of,
    undrawn,
    write_phase,
)

Right = Mapping[int, int]
"""Length of the walk: how many of its 50 rows are right."""
STEADY = {1: 48, 2: 47, 3: 49, 4: 46}


def walked(right: Right, labels: Sequence[str] = ("joy", "fear")) -> list[dict[str, Any]]:
    rows = []
    for walk, hits in right.items():
        for number in range(50):
            gold = labels[number % len(labels)]
            said = gold if number < hits else next(name for name in LABELS.names if name != gold)
            more = {"id": f"{walk}/{number}", "groups": {"label": gold, "walk": str(walk)}, "gold": gold}
            rows.append(prediction(number, said, **more, correct=said == gold))
    return rows


def run_of(root: Path, **phases: Right) -> dict[str, str]:
    """A run whose stages each come from the phase before; what is said of each."""
    parent = None
    for name, right in phases.items():
        write_phase(root / name, walked(right), init_from=parent)
        parent = "base" if name.startswith("baseline") else name
    return {one["entry"]: one["text"] for one in summary_of(root, list(phases)).get("findings", ())}


def test_a_stage_that_helped_names_the_run_of_walks_it_helped_on(tmp_path: Path) -> None:
    before = STEADY | {5: 20, 6: 24, 7: 22, 8: 26}
    after = STEADY | {5: 48, 6: 46, 7: 49, 8: 47}
    said = run_of(tmp_path, base=before, stage3_grpo=after)
    gained = 100 * (190 - 92) / 400
    assert said == {
        "stage3_grpo": f"+{gained:.1f} points over base on 400 rows, p < .001; where walk is 5 to 8: 46.0 → 95.0\u00a0%"
    }


def test_a_stage_that_changed_nothing_says_so_with_its_interval(tmp_path: Path) -> None:
    said = run_of(tmp_path, base=STEADY, stage1_sft=STEADY | {2: 48})["stage1_sft"]
    assert said.startswith("no difference beyond chance: +0.5 points over base on 200 rows, 95 % interval +0.0 to +1.5")
    assert "where" not in said


def test_a_stage_that_lost_says_so_and_where_it_rose_all_the_same(tmp_path: Path) -> None:
    said = run_of(tmp_path, base={1: 50, 2: 50, 3: 10}, stage1_sft={1: 20, 2: 21, 3: 30})["stage1_sft"]
    assert said.startswith(
        "it lost: −26.0 points against base on 150 rows, p < .001; where walk is 1 to 2: 100.0 → 41.0\u00a0%"
    )
    assert said.endswith("; but where walk is 3: 20.0 → 60.0\u00a0%")


def test_where_every_walk_changed_the_one_that_changed_most_is_named(tmp_path: Path) -> None:
    said = run_of(tmp_path, base={1: 20, 2: 10}, stage1_sft={1: 48, 2: 45})["stage1_sft"]
    assert said.endswith("; where walk is 2: 20.0 → 90.0\u00a0%")


def test_a_difference_that_only_the_correction_takes_away_shows_both_p(tmp_path: Path) -> None:
    said = run_of(tmp_path, base={1: 30}, baseline_sft={1: 30}, stage1_sft={1: 36})["stage1_sft"]
    assert "no difference beyond chance: +12.0 points over base" in said
    assert "(p = .031 alone, " in said


def test_a_stage_is_told_beside_every_baseline_and_one_without_a_parent_s_answers_too(tmp_path: Path) -> None:
    said = run_of(tmp_path, base={1: 10, 2: 10}, baseline_sft={1: 48, 2: 48}, stage1_sft={1: 48, 2: 47})["stage1_sft"]
    assert said.endswith("; against baseline_sft −1.0, p = 1.000, not beyond chance")
    write_phase(tmp_path / "stage2_grpo", walked({1: 50, 2: 50}), init_from="stage9")
    found = summary_of(tmp_path, ["base", "baseline_sft", "stage1_sft", "stage2_grpo"])["findings"]
    assert [(one["entry"], one["verdict"]) for one in found] == [("stage1_sft", "better"), ("stage2_grpo", "unknown")]
    assert found[1]["text"].startswith("cannot be told: no answers of stage9, its parent; against baseline_sft +4.0")


def test_a_class_that_fell_is_named_where_rows_have_no_other_group(tmp_path: Path) -> None:
    def answers(joy: int, fear: int) -> list[dict[str, Any]]:
        return [
            prediction(n, LABELS.names[n % 2] if n // 2 < (joy, fear)[n % 2] else LABELS.names[1 - n % 2])
            for n in range(120)
        ]

    write_phase(tmp_path / "base", answers(30, 50))
    write_phase(tmp_path / "stage1_sft", answers(58, 35), init_from="base")
    (found,) = summary_of(tmp_path, ["base", "stage1_sft"])["findings"]
    assert "; rows of 'joy': 50.0 → 96.7\u00a0%; but rows of 'fear': 83.3 → 58.3\u00a0%" in found["text"]


def test_classes_called_by_numbers_are_no_run_of_neighbours(tmp_path: Path) -> None:
    digits = LabelSet.of(["0", "1", "2"])

    def answers(right: Right) -> list[dict[str, Any]]:
        return [
            prediction(
                n, name if n < right[int(name)] else None, gold=name, correct=n < right[int(name)], id=f"{name} {n}"
            )
            for name in digits.names
            for n in range(40)
        ]

    write_phase(tmp_path / "base", answers({0: 10, 1: 10, 2: 30}))
    write_phase(tmp_path / "stage1_sft", answers({0: 35, 1: 30, 2: 30}), init_from="base")
    (found,) = summarise("", read_run(tmp_path, ["base", "stage1_sft"], digits), digits.names, None).findings
    assert found.text.endswith("; rows of '0': 25.0 → 87.5\u00a0%")


def test_a_stage_judged_on_other_rows_than_its_parent_cannot_be_told(tmp_path: Path) -> None:
    write_phase(tmp_path / "base", walked({1: 10}))
    write_phase(
        tmp_path / "stage1_sft", [{**row, "id": f"other {row['id']}"} for row in walked({1: 40})], init_from="base"
    )
    (found,) = summary_of(tmp_path, ["base", "stage1_sft"])["findings"]
    assert (found["verdict"], found["text"]) == (
        "unknown",
        "cannot be told: base, its parent, has no answers to the same rows",
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_of(
        tmp_path / "run",
        base=STEADY | {5: 20, 6: 24},
        baseline_sft=STEADY | {5: 30, 6: 30},
        stage1_sft=STEADY | {5: 48, 6: 46},
        stage2_grpo=STEADY | {5: 48, 6: 47},
    )
    return tmp_path / "run"


PHASES = ["base", "baseline_sft", "stage1_sft", "stage2_grpo"]


@pytest.mark.usefixtures("undrawn")
def test_recall_and_its_differences_are_sklearns_in_every_form(run: Path) -> None:
    write.write_run_report(run, PHASES, LABELS)
    summary = summary_of(run, PHASES)
    by_pair = {(one["entry"], one["name"]): one["per_class"] for one in summary["recall"]}
    # Stage 1's parent is the baseline's, and every stage is tested against the baseline.
    assert set(by_pair) == {
        ("baseline_sft", "base"),
        ("stage1_sft", "base"),
        ("stage1_sft", "baseline_sft"),
        ("stage2_grpo", "stage1_sft"),
        ("stage2_grpo", "baseline_sft"),
    }
    recall = {}
    for name in PHASES:
        rows = [json.loads(line) for line in (run / name / "predictions.jsonl").read_text().splitlines()]
        gold, said = [row["gold"] for row in rows], [row["label"] for row in rows]
        recall[name] = dict(
            zip(("joy", "fear"), recall_score(gold, said, labels=["joy", "fear"], average=None), strict=True)
        )
    for (one, other), classes in by_pair.items():
        for label in ("joy", "fear"):
            found = classes[label]
            assert found["gain"]["value"] == pytest.approx(recall[one][label] - recall[other][label])
            assert (found["after"], found["before"]) == pytest.approx((recall[one][label], recall[other][label]))
            assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]
    tests = {(one["entry"], one["name"]): one["macro_recall"] for one in summary["tests"]}
    for (one, other), found in tests.items():
        assert found["value"] == pytest.approx(sum(recall[one].values()) / 2 - sum(recall[other].values()) / 2)
        assert found["p_holm"] >= found["p"]
    shown = 100 * (recall["stage1_sft"]["joy"] - recall["base"]["joy"])
    for name in ("summary.md", "index.html", "tables/recall_changes.md"):
        text = (run / "report" / name).read_text()
        assert f"+{shown:.1f}" in text
        assert "stage1_sft − base" in text.replace("<wbr>", "")
        assert "over the classes of one comparison" in text
    header, joy = (run / "report" / "tables" / "recall_changes.csv").read_text().splitlines()[:2]
    place = header.split(",").index("change:stage1_sft - base")
    assert header.split(",")[place : place + 5] == [
        f"change:stage1_sft - base{part}" for part in ("", "_low", "_high", "_p", "_p_holm")
    ]
    assert float(joy.split(",")[place]) == pytest.approx(shown / 100)
    assert "macro_recall" in (run / "report" / "tables" / "tests.csv").read_text().splitlines()[0]
    assert "macro recall, %" in (run / "report" / "summary.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_sentences_stand_first_on_page_and_paper_and_in_the_terminal(run: Path) -> None:
    for phase in PHASES:
        write.write_stage_report(run / phase, LABELS)
    write.write_run_report(run, PHASES, LABELS)
    text = (run / "report" / "summary.md").read_text()
    assert text.index("## Which stage helped") < text.index("- **warning**") < text.index("## Results")
    page = (run / "report" / "index.html").read_text()
    assert page.index('class="findings"') < page.index('class="warnings"') < page.index("<h2>Results</h2>")
    lines = markdown.summary_table(run, PHASES).splitlines()
    assert lines[0].startswith(
        "stage1_sft: +16.7 points over base on 300 rows, p < .001; where walk is 5 to 6: 44.0 → 94.0\u00a0%"
    )
    # Classes are of one size, everything is new over the base, and stage 2 changed no class beyond chance.
    assert not any("recall" in line for line in lines)
    assert max(map(len, lines)) <= 100
    # Nothing was sampled or clipped.
    head = next(line for line in lines if line.startswith("stage "))
    assert head.split()[:3] == ["stage", "format", "accuracy"]
    assert "clip" not in head
    # Of one phase alone nobody can tell what it brought.
    assert "Which stage helped" not in (run / "stage1_sft" / "report" / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_has_macro_recall_and_recall_per_class(run: Path, tmp_path: Path) -> None:
    write.write_run_report(run, PHASES, LABELS)
    run_of(tmp_path / "again", base=STEADY | {5: 20, 6: 24}, baseline_sft=STEADY, stage1_sft=STEADY, stage2_grpo=STEADY)
    write.write_run_report(tmp_path / "again", PHASES, LABELS)
    text = compare.compare([run, tmp_path / "again"])
    for sign in (
        "## Macro recall, %",
        "macro recall, points",
        "## Recall per class, differences in points",
        "| base | fear |",
    ):
        assert sign in text
    page = write.write_comparison([run, tmp_path / "again"], tmp_path / "out")
    assert "Recall per class, differences in points" in page.read_text()
    assert (tmp_path / "out" / "tables" / "recall_changes.csv").is_file()
    assert (tmp_path / "out" / "tables" / "macro_recall.csv").is_file()


@pytest.mark.usefixtures("undrawn")
def test_reports_of_earlier_code_are_read(run: Path, tmp_path: Path) -> None:
    write.write_run_report(run, PHASES, LABELS)
    path = run / "report" / "summary.json"
    file = json.loads(path.read_text())
    del file["findings"], file["recall"]
    tests = [*file["tests"], *(one["versus_parent"] for one in file["entries"])]
    tests += [test for one in file["entries"] for test in one.get("versus_baselines", {}).values()]
    for test in filter(None, tests):
        del test["macro_recall"]
    path.write_text(json.dumps(file))
    assert from_json(Summary, file).recall == ()
    assert "## Macro recall, %" in compare.compare([run])
    said = summarise("", read_run(run, PHASES, LABELS), LABELS.names, None)
    assert said.findings
    assert entry(file, "stage1_sft")["versus_parent"]["name"] == "base"


def test_the_terminal_tells_the_classes_that_changed_over_the_parent(tmp_path: Path) -> None:
    many = LabelSet.of([f"class{number}" for number in range(15)])

    def answers(wrong: str) -> list[dict[str, Any]]:
        return [
            prediction(n, None if name == wrong else name, gold=name, correct=name != wrong, id=f"{n} {name}")
            for name in many.names
            for n in range(12)
        ]

    phases = {"base": "class3", "stage1_sft": "class3", "stage2_grpo": "class7"}
    parents = {"stage1_sft": "base", "stage2_grpo": "stage1_sft"}
    for phase, wrong in phases.items():
        write_phase(tmp_path / phase, answers(wrong), **({"init_from": parents[phase]} if phase in parents else {}))
        (tmp_path / phase / "report").mkdir()
        scores = {phase: to_json(classification.score(answers(wrong), many))}
        (tmp_path / phase / "report" / "metrics.json").write_text(json.dumps({"entries": scores}))
    lines = markdown.summary_table(tmp_path, list(phases)).splitlines()
    changed = "recall, stage2_grpo over stage1_sft (p < .05, corrected over the classes): class3 +100.0, class7"
    assert [line for line in lines if line.startswith("recall, ")] == [changed]
    assert "  −100.0" in lines


@pytest.mark.usefixtures("undrawn")
def test_a_page_has_macro_recall_where_it_is_not_the_accuracy(tmp_path: Path) -> None:
    def page_of(name: str, rows: list[dict[str, Any]]) -> str:
        write_phase(tmp_path / name / "base", rows)
        html = write.write_run_report(tmp_path / name, ["base"], LABELS).read_text()
        assert "macro recall, %" in (tmp_path / name / "report" / "summary.md").read_text()
        return html

    even, odd = page_of("even", walked({1: 31})), page_of("odd", walked({1: 31})[1:])
    assert ("macro recall, %" in even, "Macro recall is the accuracy here" in even) == (False, True)
    assert ("macro recall, %" in odd, "Macro recall is the accuracy here" in odd) == (True, False)
