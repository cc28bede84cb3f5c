"""The reports a run writes: what they say, that they repeat byte for byte, and that hostile text stays text."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline import __main__
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.formatting import printable
from pipeline.metrics.stored import from_json, to_json
from pipeline.reports import charts, compare, markdown, prediction_browser, report_charts
from pipeline.reports import write as report
from pipeline.reports.entries import read_folders, read_run
from pipeline.reports.prediction_browser import as_json, browser
from pipeline.reports.summary import Summary, read_cot, summarise
from pipeline.scoring.labels import LabelSet

LABELS = LabelSet.of(["joy", "fear", "$awe_"])
PHASES = ["base", "baseline_sft_labels", "stage1_sft", "stage2_grpo", "stage4_clgrpo"]
HOSTILE = "<script>alert(1)</script></pre>{{ 7*7 }} | \ud800\x00\u202e &amp;"


def prediction(number: int, label: str | None, style: str = "think", **more: Any) -> dict[str, Any]:
    gold = LABELS.names[number % 2]
    think = f"it looks like {label}" if label and style == "think" else None
    plain = {
        "id": f"row{number}",
        "image": "data/a.png",
        "gold": gold,
        "style": style,
        "decoding": "greedy",
        "sample": 0,
    }
    text = f"<think>{think}</think>\n<answer>{label}</answer>" if label else HOSTILE
    answer = {"prompt": "?", "completion": text, "label": label, "correct": label == gold, "think": think}
    rest = {"reason": None if label else "no_think", "truncated": False, "completion_tokens": 12, "attributes": {}}
    return {**plain, **answer, **rest, **more}


def write_phase(
    folder: Path, rows: list[dict[str, Any]], log: list[dict[str, Any]] | None = None, **record: Any
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "stage.json").write_text(
        json.dumps({"status": "complete", "phase": folder.name, "seconds": 61.5, **record})
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log or []))


def answers(right: int, wrong: int, lost: int, **more: Any) -> list[dict[str, Any]]:
    """Predictions of `right` + `wrong` + `lost` rows; gold alternates between the first two labels."""
    kinds = [*("right",) * right, *("wrong",) * wrong, *("lost",) * lost]
    label = {"right": lambda n: LABELS.names[n % 2], "wrong": lambda n: LABELS.names[1 - n % 2], "lost": lambda n: None}
    return [prediction(number, label[kind](number), **more) for number, kind in enumerate(kinds)]


def make_run(root: Path) -> Path:
    """A run with the base in both styles, a baseline, stage 1, a void stage 4, and stage 2 not run."""
    write_phase(root / "base", answers(2, 8, 20) + answers(1, 20, 9, style="direct"))
    sft = [{"step": step, "loss": 2 / step, "mean_token_accuracy": 0.5} for step in range(1, 9)]
    write_phase(root / "baseline_sft_labels", answers(25, 5, 0, style="direct"), sft, algorithm="sft", init_from="base")
    write_phase(root / "stage1_sft", answers(15, 15, 0) + answers(12, 12, 6, decoding="sample"), sft, init_from="base")
    grpo = [{"step": 1, "loss": 0.1, "reward": 1.0, "rewards/format_reward/mean": 1.0, "clip_ratio/low_mean": 0.0}]
    grpo += [{"step": 2, "loss": 0.1, "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0}, {"train_runtime": 3.0}]
    clip = {"low": 0.0, "high": 0.0, "epsilon": 0.2, "epsilon_high": 0.1, "clips": False, "void": True}
    write_phase(root / "stage4_clgrpo", answers(28, 1, 1), grpo, algorithm="grpo", init_from="stage1", clip=clip)
    (root / "data").mkdir()
    Image.new("RGB", (300, 200), "teal").save(root / "data" / "a.png")
    cot = {"rows": {"selected": 9, "kept": 7, "rejected": 2}, "rejected_rows_by_reason": {"label_mismatch": 2}}
    per_class = {"joy": {"kept": 4, "rejected": {}}, "fear": {"kept": 3, "rejected": {"label_mismatch": 2}}}
    (root / "cot").mkdir()
    (root / "cot" / "manifest.json").write_text(json.dumps({"status": "complete", **cot, "per_class": per_class}))
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


def write_reports(root: Path) -> list[Path]:
    """Every report of a run from `make_run`, the run's first."""
    stages = [report.write_stage_report(root / name, LABELS) for name in PHASES if (root / name).exists()]
    return [report.write_run_report(root, PHASES, LABELS, HOSTILE), *stages]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from `make_run` with every report, to be read alone: drawing them takes seconds."""
    root = make_run(tmp_path_factory.mktemp("reported") / "demo")
    write_reports(root)
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with empty charts, for what is said and not drawn."""
    monkeypatch.setattr(charts, "_laid_out", charts.Chart)
    monkeypatch.setattr(charts.Chart, "svg", lambda chart: "")
    monkeypatch.setattr(charts.Chart, "png", lambda chart: b"")


def summary_of(root: Path, phases: Sequence[str] = PHASES) -> dict[str, Any]:
    """What a report would say, as it reads back from json, without drawing it."""
    summary = summarise("Demo", read_run(root, phases, LABELS), LABELS.names, read_cot(root))
    return json.loads(json.dumps(to_json(summary), allow_nan=False))


def entry(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in summary["entries"] if row["name"] == name)


@pytest.mark.usefixtures("undrawn")
def test_what_a_report_says_comes_back_from_its_file(run: Path) -> None:
    written = report.write_run_report(run, PHASES, LABELS, "Demo")
    file = json.loads((written.parent / "summary.json").read_text())
    assert to_json(from_json(Summary, file)) == file == summary_of(run)
    said = summarise("Demo", read_run(run, PHASES, LABELS), LABELS.names, read_cot(run))
    assert from_json(Summary, file) == said


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "key"), [("summary.json", "title"), ("summary.json", "n"), ("metrics.json", "accuracy")]
)
def test_a_report_of_another_version_is_to_be_written_anew(run: Path, name: str, key: str) -> None:
    report.write_stage_report(run / "base", LABELS)
    report.write_run_report(run, ["base"], LABELS)
    path = run / "report" / name if name == "summary.json" else run / "base" / "report" / name
    path.write_text(path.read_text().replace(f'"{key}":', f'"old {key}":'))
    with pytest.raises(UserError, match=rf"{name}: not of this version \(no {key} .*python -m pipeline report"):
        compare.compare([run]) if name == "summary.json" else read_run(run, ["base"], None, stored=True)


def test_the_base_in_two_styles_is_two_entries(run: Path) -> None:
    names = [row["name"] for row in summary_of(run)["entries"]]
    assert names == ["base", "base (direct)", *PHASES[1:]]


def test_a_phase_that_was_not_run_is_said_to_be(reported: Path) -> None:
    assert entry(summary_of(reported), "stage2_grpo")["status"] == "not run"
    assert "not run" in (reported / "report" / "index.html").read_text()
    assert "not run" in (reported / "report" / "summary.md").read_text()


def test_stages_are_compared_with_their_parent_in_the_same_style(run: Path) -> None:
    summary = summary_of(run)
    assert entry(summary, "baseline_sft_labels")["versus_parent"]["name"] == "base (direct)"
    assert entry(summary, "stage1_sft")["versus_parent"]["name"] == "base"
    versus = entry(summary, "stage4_clgrpo")["versus_parent"]
    assert (versus["name"], versus["difference"]) == ("stage1_sft", pytest.approx(13 / 30))
    assert entry(summary, "stage4_clgrpo")["versus_baselines"]["baseline_sft_labels"]["difference"] == pytest.approx(
        3 / 30
    )


SEVERAL = ["base", "baseline_sft_labels", "baseline_grpo", "baseline_of_stage1", "stage1_sft", "stage4_clgrpo"]


@pytest.fixture
def several(run: Path) -> Path:
    """The run with two more baselines: GRPO alone, and one that goes on from stage 1."""
    write_phase(run / "baseline_grpo", answers(20, 5, 5), algorithm="grpo", init_from="base")
    write_phase(run / "baseline_of_stage1", answers(16, 14, 0), algorithm="sft", init_from="stage1_sft")
    return run


def test_every_stage_is_tested_against_every_baseline_under_one_correction(several: Path) -> None:
    summary = summary_of(several, SEVERAL)
    of_stage = entry(summary, "stage4_clgrpo")["versus_baselines"]
    assert {name: test["difference"] for name, test in of_stage.items()} == {
        "baseline_sft_labels": pytest.approx(3 / 30),
        "baseline_grpo": pytest.approx(8 / 30),
        "baseline_of_stage1": pytest.approx(12 / 30),
    }
    assert entry(summary, "baseline_grpo")["versus_baselines"] == {}
    assert entry(summary, "baseline_of_stage1")["versus_parent"]["name"] == "stage1_sft"
    # Three baselines against their parents, two stages against theirs, and each of these against each baseline, but stage 1
    # against its own child, whose test that is.
    assert len(summary["tests"]) == 3 + 2 + 2 * 3 - 1
    assert set(entry(summary, "stage1_sft")["versus_baselines"]) == {"baseline_sft_labels", "baseline_grpo"}
    raw = [test["p"] for test in summary["tests"]]
    assert min(test["p_holm"] for test in summary["tests"]) == pytest.approx(min(raw) * len(raw))


def test_each_baseline_is_a_row_and_a_column_of_the_results(several: Path) -> None:
    report.write_run_report(several, SEVERAL, LABELS)
    with (several / "report" / "tables" / "results.csv").open() as file:
        rows = {row["entry"]: row for row in csv.DictReader(file)}
    versus = [f"versus_baseline_{name}" for name in ("sft_labels", "grpo", "of_stage1")]
    assert [rows["stage4_clgrpo"][one] for one in versus] == ["0.1", "0.26666666666666666", "0.4"]
    assert [rows["baseline_grpo"][one] for one in versus] == ["", "", ""]
    for file_name in ("summary.md", "index.html"):
        text = (several / "report" / file_name).read_text().replace("<wbr>", "")
        assert all(f"vs {name}" in text for name in ("sft_labels", "grpo", "of_stage1"))
    for phase in SEVERAL:
        report.write_stage_report(several / phase, LABELS)
    table = markdown.summary_table(several, SEVERAL)
    assert all(name in table for name in SEVERAL)
    assert max(map(len, table.splitlines())) <= 120


def test_each_baseline_and_stage_has_a_colour_of_its_own(several: Path) -> None:
    entries = read_run(several, SEVERAL, LABELS)
    found = report_charts.colours(entries)
    assert len({found[name] for name in SEVERAL}) == len(SEVERAL)
    assert (
        found["baseline_sft_labels"] == report_charts.colours(read_run(several, PHASES, LABELS))["baseline_sft_labels"]
    )


def test_the_stages_of_two_runs_are_tested_within_each(several: Path, tmp_path: Path) -> None:
    shutil.copytree(several, tmp_path / "other")
    entries = read_folders([several, tmp_path / "other"])
    pairs = [(test.entry, test.name) for test in summarise("", entries, LABELS.names, None).tests]
    assert pairs
    assert all(one.split("/")[0] == other.split("/")[0] for one, other in pairs)


def test_a_clipping_stage_that_never_clipped_is_void_everywhere(reported: Path) -> None:
    summary = summary_of(reported)
    assert "VOID" in summary["warnings"][0]["text"]
    assert entry(summary, "stage4_clgrpo")["clip"]["void"]
    for text in ((reported / "report" / name).read_text() for name in ("index.html", "summary.md")):
        assert "VOID" in text
    assert "VOID" in markdown.summary_table(reported, PHASES)
    assert "VOID" in (reported / "stage4_clgrpo" / "report" / "report.md").read_text()


def test_a_stage_that_clipped_is_not_void(run: Path) -> None:
    clip = {"low": 0.003, "high": 0.0, "clips": True, "void": False}
    write_phase(run / "stage4_clgrpo", answers(28, 2, 0), init_from="stage1", clip=clip)
    assert not any("VOID" in warning["text"] for warning in summary_of(run)["warnings"])


CHECKED = {
    "problems": [],
    "logits": {"dtype": "float32", "difference": 2e-7, "largest": 12.5},
    "answers": {"asked": 8, "parsed": 7},
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("action", "level"), [("stop", "warning"), ("warn", "warning"), ("continue", "note")])
def test_a_hand_over_and_a_missed_gate_are_told_in_every_form(run: Path, action: str, level: str) -> None:
    rates = {"format_rate": {"value": 0.7, "least": 0.9}, "accuracy": {"value": 0.5, "least": None, "parent": "base"}}
    gate = {"action": action, **rates, "missed": ["21 of 30 greedy answers are well formed"]}
    write_phase(run / "stage1_sft", answers(15, 15, 0), verification=CHECKED, gate=gate, freed_bytes=2_500_000_000)
    summary = summary_of(run)
    line = entry(summary, "stage1_sft")["hand_over"]
    assert "within 2.0e-07 (largest 12.5, float32), 7 of 8 answers well formed" in line
    assert f"gate MISSED ({action}): format 70.0 %, at least 90.0 %, accuracy 50.0 %, its parent has no answers" in line
    assert "2.5 GB of checkpoints deleted" in line
    (miss,) = [warning for warning in summary["warnings"] if "missed its gate" in warning["text"]]
    assert (miss["entry"], miss["level"]) == ("stage1_sft", level)
    report.write_run_report(run, PHASES, LABELS)
    for name in ("index.html", "summary.md"):
        text = (run / "report" / name).read_text()
        assert "Hand-over" in text
        assert f"gate MISSED ({action})" in text
        assert f"missed its gate ({action}): 21 of 30" in text


def test_a_stage_that_failed_its_verification_says_why(run: Path) -> None:
    found = {"problems": ["tokenizer.json: a: 1 -> 2"]}
    write_phase(run / "stage1_sft", answers(15, 15, 0), status="trained", verification=found)
    summary = summary_of(run)
    assert entry(summary, "stage1_sft")["hand_over"] == "NOT handed over: tokenizer.json: a: 1 -> 2"
    assert any("its record says 'trained', not complete" in warning["text"] for warning in summary["warnings"])


def test_warnings_name_what_to_doubt(tmp_path: Path) -> None:
    rows = [prediction(n, "joy", truncated=n < 5, think="it is fear", id=f"r{n}") for n in range(30)]
    rows += [prediction(n, None, id=f"r{n}") for n in range(30, 40)]
    rows.append(prediction(40, None, id="r40", reason="not_a_label", completion="joyer"))
    write_phase(tmp_path / "stage1_sft", rows)
    text = " ".join(warning["text"] for warning in summary_of(tmp_path, ["stage1_sft"])["warnings"])
    for sign in (
        "give no label (no_think 10, not_a_label 1; 1 times 'joyer' for joy)",
        "cut at max_new_tokens",
        "parsed answers are 'joy'",
        "word for word",
        "another label",
    ):
        assert sign in text
    assert "always answering" in text


def test_completions_stay_text(reported: Path) -> None:
    for folder in (reported, reported / "base"):
        html = (folder / "report" / "index.html").read_text()
        assert "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e\\u003c/pre\\u003e{{ 7*7 }}" in html
        assert "<script>alert" not in html
        assert re.findall(r"<script[^>]*>", html) == [
            '<script type="application/json" id="data">',
            '<script type="application/json" id="pictures">',
            "<script>",
        ]
        assert "\x00" not in html
        assert "\u202e" not in html


def test_the_page_fetches_nothing(reported: Path) -> None:
    html = (reported / "report" / "index.html").read_text()
    sources = re.findall(r"(?:src|href)=\"([^\"]{0,30})", html)
    assert sources
    assert all(source.startswith("#") for source in sources)
    assert "url(" not in html
    assert "http://" not in html.replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "unsafe" not in policy[1]
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("style", "script"))
    for found in (style, script):
        assert found
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert " style=" not in html


def test_the_same_input_gives_the_same_bytes(reported: Path, tmp_path: Path) -> None:
    def written(root: Path) -> dict[str, bytes]:
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("report/**/*") if file.is_file()}

    first = written(reported)
    wanted = (
        "index.html summary.md summary.json per_class.csv confusion.json tests.md metrics.json report.md model_card.md"
    )
    pictures = {f"{name}.png" for name in ("confusion", "accuracy", "per_class", "curves", "clip", "cot")}
    assert {*wanted.split(), *pictures} <= {Path(name).name for name in first}
    again = tmp_path / "elsewhere" / "demo"
    shutil.copytree(reported, again)
    write_reports(again)
    assert written(again) == first
    assert str(reported) not in (reported / "report" / "summary.json").read_text()


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    with (run / "stage1_sft" / "predictions.jsonl").open("a") as file:
        file.write('{"id": "row99", "gol')
    assert entry(summary_of(run), "stage1_sft")["scores"]["n"] == 30


def test_a_prediction_written_twice_counts_once(run: Path) -> None:
    with (run / "stage1_sft" / "predictions.jsonl").open("a") as file:
        file.write(json.dumps(prediction(0, None)) + "\n")
    summary = summary_of(run)
    assert entry(summary, "stage1_sft")["scores"]["n"] == 30
    assert entry(summary, "stage1_sft")["scores"]["unparsable"]["n"] == 1
    assert any("written twice" in warning["text"] for warning in summary["warnings"])


def test_a_stage_report_holds_every_entry_of_the_phase(reported: Path) -> None:
    folder = reported / "base" / "report"
    scores = json.loads((folder / "metrics.json").read_text())["entries"]
    assert list(scores) == ["base", "base (direct)"]
    lines = (folder / "tables" / "confusion.csv").read_text().splitlines()
    assert lines[0] == "entry,gold,answer:joy,answer:fear,answer:$awe_,answer:(unparsable)"
    assert len(lines) == 1 + 2 * len(LABELS)
    with (folder / "tables" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows[:5]] == ["joy", "fear", "$awe_", "macro avg", "weighted avg"]
    joy = scores["base"]["per_class"]["joy"]
    assert float(rows[0]["recall"]) == joy["recall"]
    assert float(rows[0]["recall_high"]) == joy["recall_high"]


def test_a_stage_without_predictions_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stages\.evaluate"):
        report.write_stage_report(tmp_path / "stage1_sft", LABELS)


def test_a_run_with_nothing_evaluated_still_reports(tmp_path: Path) -> None:
    html = report.write_run_report(tmp_path / "new", PHASES, LABELS).read_text()
    assert "Nothing has been evaluated yet" in html
    assert markdown.summary_table(tmp_path / "new", PHASES).count("not run") == len(PHASES)


@pytest.mark.parametrize("rows", [[prediction(0, "joy")], [prediction(0, None)], [prediction(0, "$awe_")]])
def test_one_row_makes_a_whole_report(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_phase(tmp_path / "stage1_sft", rows)
    assert report.write_stage_report(tmp_path / "stage1_sft", LABELS).stat().st_size > 10_000


def test_many_classes_and_strange_names_are_drawn(tmp_path: Path) -> None:
    many = LabelSet.of([f"class $number_{i} of a long name |<b>" for i in range(70)])
    rows = [prediction(i, many.names[0], gold=name, id=f"r{i}") for i, name in enumerate(many.names)]
    write_phase(tmp_path / "stage1_sft", rows)
    written = report.write_stage_report(tmp_path / "stage1_sft", many)
    assert "<b>|" not in written.read_text()
    # too many classes for a matrix: the commonest confusions instead
    assert 'class="matrix"' not in written.read_text()
    assert "\\|&lt;b>" in (written.parent / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_terminal_table_fits_a_hundred_columns(run: Path) -> None:
    clip = {"low": 0.0123, "high": 0.0456}
    write_phase(
        run / "stage2_grpo_with_a_very_long_name", answers(30, 0, 0) + answers(30, 0, 0, decoding="sample"), clip=clip
    )
    phases = [*PHASES, "stage2_grpo_with_a_very_long_name"]
    for phase in ("base", "baseline_sft_labels", "stage1_sft", "stage4_clgrpo", phases[-1]):
        report.write_stage_report(run / phase, LABELS)
    table = markdown.summary_table(run, phases)
    assert max(map(len, table.splitlines())) <= 100
    assert re.search(r"stage1_sft +100\.0 +80\.0 +50\.0 \[33\.2, 66\.8\]", table)
    assert "+43.3***" in table


def pictures_of(root: Path, *names: str) -> dict[str, Any]:
    write_phase(root / "stage1_sft", [prediction(n, "joy", image=name) for n, name in enumerate(names)])
    return browser(read_run(root, ["stage1_sft"], LABELS), root, root / "report") or {}


def test_a_picture_is_inlined_once_however_often_and_under_whatever_name_it_occurs(tmp_path: Path) -> None:
    Image.new("RGB", (640, 320)).save(tmp_path / "a.png")
    Image.new("RGB", (640, 320)).save(tmp_path / "b.png")
    found = pictures_of(tmp_path, "a.png", "a.png", "b.png", "none.png")
    assert [row["p"] for row in found["rows"]] == [[0], [0], [0], [1]]
    with Image.open(io.BytesIO(base64.b64decode(found["pictures"][0]["jpeg"]))) as small:
        assert (small.format, small.size) == ("JPEG", (160, 80))
    assert found["pictures"][1] == {"why": "picture not found"}
    assert (found["inlined"], found["linked"], found["missing"]) == (1, 0, 1)


def test_a_picture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    assert pictures_of(tmp_path, "broken.jpg")["pictures"] == [{"why": "unreadable image"}]


def test_pictures_beyond_the_budget_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_browser, "PICTURE_BYTES", 10)
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number}.png")
    found = pictures_of(tmp_path, "0.png", "1.png", "2.png")
    assert found["pictures"][1:] == [{"link": "../1.png"}, {"link": "../2.png"}]
    assert (found["inlined"], found["linked"]) == (1, 2)


def test_a_link_leads_to_a_picture_whatever_its_name_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_browser, "PICTURE_BYTES", 0)
    (tmp_path / "a b").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a b" / "50%25 #1?.png")
    assert pictures_of(tmp_path, "a b/50%25 #1?.png")["pictures"] == [{"link": "../a%20b/50%2525%20%231%3F.png"}]


def test_a_picture_in_place_of_its_path_is_not_found(tmp_path: Path) -> None:
    assert pictures_of(tmp_path, "data:image/png;base64," + "A" * 9000)["pictures"] == [{"why": "picture not found"}]


def test_every_log_probability_reaches_the_browser(tmp_path: Path) -> None:
    told = [0.0, -1.0, -0.5, 0, -1, -0.00001, float("-inf"), float("inf"), float("nan"), None]
    write_phase(tmp_path / "stage1_sft", [prediction(n, "joy", logprob=one) for n, one in enumerate(told)])
    assert __main__.main(["report", str(tmp_path / "stage1_sft")]) == 0
    found = browser(read_run(tmp_path, ["stage1_sft"], LABELS), tmp_path, tmp_path) or {}
    shown = [row["a"][0][7] if len(row["a"][0]) == 8 else None for row in found["rows"]]
    assert shown == [0, -1, -0.5, 0, -1, 0, -1000, 0, None, None]


def test_json_in_a_page_cannot_end_its_element() -> None:
    hostile = "</script><!-- <script> ]]> & \u2028 \u2029"
    text = as_json({"a": hostile})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": hostile}


def test_the_browser_has_every_answer_to_a_row_once(run: Path) -> None:
    found = browser(read_run(run, PHASES, LABELS), run, run / "report") or {}
    assert [entry["name"] for entry in found["entries"]] == [
        "base",
        "base (direct)",
        "baseline_sft_labels",
        "stage1_sft",
        "stage4_clgrpo",
    ]
    assert [entry["mode"] for entry in found["entries"]][:2] == ["think", "direct"]
    # Greedy answers alone; the sampled ones are of the same rows.
    assert len(found["rows"]) == 30
    assert all(len(row["a"]) == 5 for row in found["rows"])
    assert len(found["texts"]) == len(set(found["texts"]))


def test_a_very_long_completion_is_cut_and_says_so(tmp_path: Path) -> None:
    write_phase(tmp_path / "stage1_sft", [prediction(0, "joy", completion="x" * 50_000)])
    found = browser(read_run(tmp_path, ["stage1_sft"], LABELS), tmp_path, tmp_path) or {}
    assert any(text.endswith("… (50000 characters)") and len(text) < 5000 for text in found["texts"])


def test_printable_keeps_letters_and_drops_controls() -> None:
    assert printable("é 日本\n\tok") == "é 日本\n\tok"
    assert printable("a\x00\x1b[31m\ud800\u202e") == "a��[31m��"
    # Without its joiner it is another word.
    persian = "می\u200cخواهم"
    assert printable(persian) == persian


def test_an_example_leads_to_its_row_whatever_its_id_holds(tmp_path: Path) -> None:
    write_phase(tmp_path / "stage1_sft", [prediction(n, "joy", id=f"a\x00#{n}") for n in range(4)])
    page = report.write_stage_report(tmp_path / "stage1_sft", LABELS).read_text()
    assert 'href="#row=a%EF%BF%BD%231" data-row="a�#1"' in page
    assert '"i":"a�#1"' in page


def test_cot_yields_are_those_of_the_manifest(run: Path) -> None:
    cot = summary_of(run)["cot"]
    assert (cot["kept"], cot["rejected"], cot["reasons"]) == (7, 2, {"label_mismatch": 2})
    assert cot["per_class"]["fear"] == {"kept": 3, "rejected": 2}
    (run / "cot" / "manifest.json").write_text('{"status": "incomplete"}')
    assert summary_of(run)["cot"] is None


def test_stages_have_colours_of_their_own(run: Path) -> None:
    chosen = report_charts.colours(read_run(run, PHASES, LABELS))
    assert len(set(chosen.values())) == len(chosen) == 6


def make_seeds(tmp_path: Path, write: Callable[[Path, int], None]) -> list[Path]:
    roots = [tmp_path / f"seed{seed}" for seed in range(3)]
    for seed, root in enumerate(roots):
        write(root, seed)
        (root / "config.yaml").write_text(yaml.safe_dump({"name": root.name, "seed": seed, "task": {"name": "scenes"}}))
        write_json(root / "report" / "summary.json", summary_of(root, ["stage1_sft"]))
    return roots


def test_runs_that_differ_in_their_seed_are_averaged(tmp_path: Path) -> None:
    roots = make_seeds(tmp_path, lambda root, seed: write_phase(root / "stage1_sft", answers(5 + seed, 5 - seed, 0)))
    table = compare.compare(roots)
    assert "| stage | seed0 | seed1 | seed2 | mean of seed0, seed1, seed2 |" in table
    assert "| 60.0 ± 10.0 [3] |" in table
    assert "| stage1_sft | 50.0 [23.7, 76.3] |" in table
    (roots[2] / "config.yaml").write_text("name: other\nseed: 2\ntask: {name: emoset}\n")
    assert "| 55.0 ± 7.1 [2] |" in compare.compare(roots)


def test_runs_are_tested_against_the_first_on_the_same_rows(tmp_path: Path) -> None:
    kinds = [(10, 20, 0), (28, 2, 0), (10, 20, 0)]
    roots = make_seeds(tmp_path, lambda root, seed: write_phase(root / "stage1_sft", answers(*kinds[seed])))
    text = compare.compare(roots)
    better, same = (line for line in text.splitlines() if line.startswith(("| seed1 - seed0", "| seed2 - seed0")))
    assert better.startswith("| seed1 - seed0 | stage1_sft | 30 | +60.0 [")
    assert "< .001" in better
    assert "| 30 | +0.0 [−7.2, +7.2] | 1.000 | 1.000 | +0.0 [" in same
    assert "over all 6 tests" in text
    assert "- **seed1**: seed: 0 -&gt; 1" in text or "- **seed1**: seed: 0 -> 1" in text


def test_runs_on_other_rows_are_said_to_be(tmp_path: Path) -> None:
    roots = make_seeds(tmp_path, lambda root, seed: write_phase(root / "stage1_sft", answers(10 + 2 * seed, 4, 0)))
    assert "only 14 of 16 and 14" in compare.compare(roots)
    rows = [{**row, "id": f"other {row['id']}"} for row in answers(10, 4, 0)]
    write_phase(roots[1] / "stage1_sft", rows)
    assert "no answered row in common" in compare.compare(roots[:2])


def test_a_comparison_can_be_written_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = make_seeds(tmp_path, lambda root, seed: write_phase(root / "stage1_sft", answers(10, 4, 0)))
    assert __main__.main(["compare", *map(str, roots), "--out", str(tmp_path / "out.md")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out.md")
    assert (tmp_path / "out.md").read_text() == compare.compare(roots)


def test_what_an_evaluated_run_has_no_number_of_is_not_said_to_be_not_run(tmp_path: Path) -> None:
    def write(root: Path, seed: int) -> None:
        sampled = answers(3, 1, 0, decoding="sample") if seed == 0 else []
        write_phase(root / "stage1_sft", answers(10, 4, 0) + sampled)

    roots = make_seeds(tmp_path, write)
    text = compare.compare(roots[:2])
    assert "not run" not in text
    assert re.search(
        r"## Format rate at temperature 1, %\n\n.*\n.*\n\| stage1_sft \| 100.0 \[.*\] \| – \| 100.0 \|", text
    )


def test_comparing_what_is_no_run_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        compare.compare([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no report/summary\.json"):
        compare.compare([tmp_path / "empty"])
    cell = tmp_path / "lab" / "cells" / "m--t--auto--direct"
    write_phase(cell, answers(4, 4, 0))
    # Its report makes no run of it.
    assert __main__.main(["report", str(tmp_path / "lab")]) == 0
    with pytest.raises(UserError, match=f"compared one by one, such as {cell}"):
        compare.compare([tmp_path / "lab"])


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("frac_reward_zero_std", "learns nothing"),
        ("completions/duplicate_ratio", "repeat an earlier one of their group"),
    ],
)
def test_a_stage_that_could_not_learn_says_why(tmp_path: Path, key: str, said: str) -> None:
    def texts(value: float) -> str:
        # A reuse step has none.
        log = [{"step": step, key: value} for step in range(1, 5)] + [{"step": 5, "loss": 0.0}]
        write_phase(tmp_path / "stage2_grpo_format", answers(15, 15, 0), log, algorithm="grpo")
        summary = summary_of(tmp_path, ["stage2_grpo_format"])
        return " ".join(warning["text"] for warning in summary["warnings"])

    assert said in texts(0.97)
    assert said not in texts(0.6)


def test_a_stage_s_alarms_come_from_its_record_under_its_own_thresholds(tmp_path: Path) -> None:
    one = {"first": 12, "last": 40, "steps": 29, "worst": 0.61, "threshold": 0.6}
    # An alarm that was turned off.
    log = [{"step": step, "frac_reward_zero_std": 1.0} for step in range(1, 10)]
    folder = tmp_path / "stage2_grpo"
    unseen = {"first": 9, "last": 9, "steps": 1, "worst": 0.0, "threshold": 1e-5}
    told = {"truncated": one, "images_unseen": unseen}
    write_phase(folder, answers(15, 15, 0), log, algorithm="grpo", init_from="stage1", alarms=told)
    texts = " ".join(warning["text"] for warning in summary_of(tmp_path, ["stage2_grpo"])["warnings"])
    assert (
        "in training (steps 12 to 40, 29 in all), the share of completions cut at max_completion_length is 0.61"
        in texts
    )
    assert "learns nothing" not in texts
    assert texts.count("without looking") == 1
    assert "it answers without looking at its pictures, since stage2_grpo: other pictures move its logits no" in texts


def traced(run: Path) -> None:
    """Give stage 1's and stage 4's rows walks and exact traces, as `trails` does: rows whose number is even are exact."""
    for name in ("stage1_sft", "stage4_clgrpo"):
        path = run / name / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            number = int(row["id"].removeprefix("row"))
            row |= {"groups": {"label": row["gold"], "walk": str(number % 12 + 1)}, "exact_trace": number % 2 == 0}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("undrawn")
def test_exact_traces_and_accuracy_by_group_are_in_report_summary_and_terminal(run: Path) -> None:
    traced(run)
    report.write_run_report(run, PHASES, LABELS)
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert entry(summary, "stage1_sft")["scores"]["exact_trace"]["value"] == 0.5
    text = (run / "report" / "summary.md").read_text()
    header, row = (next(line for line in text.splitlines() if word in line) for word in ("exact trace", "| stage1_sft"))
    place = [cell.strip() for cell in header.split("|")].index("exact trace, %")
    assert row.split("|")[place].strip().startswith("50.0 [")
    lines = text.partition("## By walk")[2].partition("##")[0].strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:14]] == [str(length) for length in range(1, 13)]
    assert "exact trace: stage1_sft" in lines[0]
    assert "base" not in lines[0]
    for name in ("base", "stage1_sft"):
        stored = run / name / "report" / "metrics.json"
        stored.parent.mkdir()
        stored.write_text(json.dumps({"entries": {name: entry(summary, name)["scores"]}}))
    lines = markdown.summary_table(run, PHASES).splitlines()
    head = next(line for line in lines if line.startswith("stage "))
    assert " exact " in head
    assert next(line for line in lines if line.startswith("stage1_sft ")).split()[5:7] == ["66.8]", "50.0"]
    assert max(map(len, lines)) <= 100
    html = (run / "report" / "index.html").read_text()
    assert "exact trace, %" in html
    assert "right by steps that are not true, %" in html
    table = (run / "report" / "tables" / "group_walk.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == [str(length) for length in range(1, 13)]
    assert "exact:stage1_sft" in table[0]


def test_without_true_steps_nothing_speaks_of_traces(reported: Path) -> None:
    text = (reported / "report" / "summary.md").read_text()
    assert "exact trace, %" not in text
    assert "exact" not in markdown.summary_table(reported, PHASES)


def test_runs_that_differ_in_what_changes_no_bit_or_is_written_otherwise_now_have_the_same_settings(
    tmp_path: Path,
) -> None:
    """One of an earlier version with `baseline:`, and one that ran phases side by side."""
    stage = {"algorithm": "sft", "init_from": "base", "data": "labels"}
    former = {"baseline": stage, "launch": {"num_processes": 1}}
    now = {"baselines": {"sft_labels": stage}, "launch": {"num_processes": 1, "parallel_phases": 2}}
    for name, own in (("former", former), ("now", now)):
        write_phase(tmp_path / name / "base", answers(2, 8, 0))
        report.write_stage_report(tmp_path / name / "base", LABELS)
        report.write_run_report(tmp_path / name, ["base"], LABELS)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"name": name, "seed": 0, **own}))
    found = compare.gather([tmp_path / "former", tmp_path / "now"])
    assert found.settings == (("now", "the same settings"),)
    assert any(column.key.startswith("mean:") for column in found.numbers[0].columns)
