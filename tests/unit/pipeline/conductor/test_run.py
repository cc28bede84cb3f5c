"""The conductor: what it prints before, between and after phases, what it starts, and how it says no."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import __main__
from pipeline.conductor import run as conductor_run
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.files import file_digest, write_json
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.phases import phase_inputs, phase_names, start_record
from pipeline.system import multinode

PHASES = [COT, BASE, "baseline_sft_labels", "stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs", "demo_scenes")


@pytest.fixture
def here(run: RunDir) -> str:
    """The override that points the demo at this test's folder."""
    return f"output_dir={run.root.parent}"


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases one after the other, whatever the machine has; test_side_by_side.py has them side by side."""
    monkeypatch.setattr(conductor_run, "parallel_phases", lambda config: config.launch.parallel_phases or 1)


def put_in_place_of_children(monkeypatch: pytest.MonkeyPatch, run_child: Callable[..., int]) -> None:
    """Nothing is started; `run_child` is called with the command instead."""
    for module in (__main__, conductor_run, multinode):
        monkeypatch.setattr(module, "run_child", run_child)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, run: RunDir) -> list[str]:
    """The modules a conductor starts; none really is. Each leaves a finished record."""
    modules: list[str] = []

    def pretend(command: list[str], **_: object) -> int:
        modules.append(" ".join(command[2 : command.index("--config")]))
        return 0

    put_in_place_of_children(monkeypatch, pretend)
    monkeypatch.setattr(conductor_run, "report", lambda config, run: "report: written")
    return modules


def finish(run: RunDir, *names: str, status: str = "complete") -> None:
    """Leave records as if these phases of the demo had ended."""
    config = load("demo_scenes")
    for name in names:
        record = {"inputs": phase_inputs(config, name)} if name in (COT, BASE) else start_record(config, run, name)
        write_json(run.record_path(name), {**record, "status": status, "weights": name})


def states(printed: str) -> dict[str, str]:
    """phase -> state of the lines of plan or status."""
    found = {}
    for line in printed.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name in PHASES:
            found[name] = "to do" if rest.strip().startswith("to do") else rest.split()[0]
    return found


def test_the_plan_of_a_new_run_names_every_phase_and_what_it_will_do(
    here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["plan", "--config", "demo_scenes", here]) == 0
    printed = capsys.readouterr().out
    assert states(printed) == dict.fromkeys(PHASES, "to do")
    assert "grpo from stage3_grpo_accuracy on train[4000:], rewards format+accuracy, clip 0.2/0.1" in printed
    assert "train[:4000] asked of attribute_biased" in printed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["model.peft={target_modules: [q_proj], lora_dropout: 0.05}"],
            "model.peft.lora_dropout: 0.05; set it to 0 for",
        ),
        (["model.attn_implementation=eager"], "model.attn_implementation: eager; it needs sdpa"),
        (["stages.2.shared_prefix=false"], "shared_prefix: false"),
        (["model.peft={target_modules: [q_proj], lora_dropout: 0.0}"], None),
    ],
)
def test_the_plan_says_what_keeps_prompts_from_being_shared(
    settings: list[str], words: str | None, here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    __main__.main(["plan", "--config", "demo_scenes", here, *settings])
    lines = [line for line in capsys.readouterr().out.splitlines() if "prompts not shared" in line]
    assert len(lines) == (0 if words is None else 1 if "stages.2" in settings[0] else 3)
    assert all("grpo from" in line and f"prompts not shared: {words}" in line for line in lines)


def test_the_plan_names_a_teacher_of_logits(here: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["plan", "--config", "demo_scenes", here, "stages.1.distill.teacher=hub/large@main"]) == 0
    told = "distilled from hub/large@main, weight 0.5, temperature 1 (in every process beside the student)"
    assert f"sft from base on cot, {told}\n" in capsys.readouterr().out


def test_the_plan_of_a_half_finished_run_tells_done_running_and_stale_apart(
    run: RunDir, here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run, COT, BASE, "stage1_sft", "stage2_grpo_format")
    finish(run, "stage3_grpo_accuracy", status="running")
    __main__.main(["plan", "--config", "demo_scenes", here, "stages.2.trainer.beta=0.5"])
    printed = capsys.readouterr().out
    assert states(printed) == {
        **dict.fromkeys(PHASES, "to do"),
        COT: "complete",
        BASE: "complete",
        "stage1_sft": "complete",
        "stage2_grpo_format": "STALE;",
        "stage3_grpo_accuracy": "running",
    }
    assert "stage.trainer.beta: 0.0 -> 0.5" in printed


def test_the_status_of_a_new_run_is_all_to_do(here: str, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main(["status", "--config", "demo_scenes", here])
    assert states(capsys.readouterr().out) == dict.fromkeys(PHASES, "to do")
    assert not run.root.exists()


def test_the_status_shows_the_step_a_stage_has_reached_and_what_was_evaluated(
    run: RunDir, here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run, COT, BASE, "stage1_sft")
    finish(run, "stage2_grpo_format", status="running")
    rows = [{"step": 1, "seconds": 1.2}, {"step": 7, "seconds": 62.4}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "sec'
    (run.phase("stage2_grpo_format") / "metrics.jsonl").write_text(text)
    write_json(run.phase("stage1_sft") / "report" / "metrics.json", {})
    __main__.main(["status", "--config", "demo_scenes", here])
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert "running" in lines["stage2_grpo_format"]
    assert "step 7, 62 s" in lines["stage2_grpo_format"]
    assert lines["stage1_sft"].rstrip().endswith("evaluated")
    assert "evaluated" not in lines["stage2_grpo_format"]
    assert "to do" in lines["stage3_grpo_accuracy"]


@pytest.mark.parametrize(
    ("to", "phases"),
    [
        ("cot", [COT]),
        ("base", [COT, BASE]),
        ("baseline", [COT, BASE, "baseline_sft_labels"]),
        ("1", [COT, BASE, "stage1_sft"]),
        ("stage3", [COT, BASE, "stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy"]),
    ],
)
def test_a_run_to_a_phase_runs_what_it_is_made_from_and_nothing_else(to, phases, here, started) -> None:
    assert __main__.main(["run", "--config", "demo_scenes", "--to", to, here]) == 0
    assert len(started) == len(phases)
    assert all(
        word in command for command, word in zip(started, ["cot_builder", "stages.base", *phases[2:]], strict=False)
    )


def test_a_run_to_a_phase_there_is_not_names_those_there_are(here: str, started: list[str]) -> None:
    with pytest.raises(UserError, match=r"stage9.*stage1_sft"):
        __main__.main(["run", "--config", "demo_scenes", "--to", "stage9", here])
    assert started == []


def test_a_run_starts_every_phase_in_order(here: str, started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["run", "--config", "demo_scenes", here]) == 0
    assert started == [
        "cot_builder build",
        "stages.base",
        "stages.sft --stage baseline_sft_labels",
        "stages.sft --stage stage1_sft",
        "stages.grpo --stage stage2_grpo_format",
        "stages.grpo --stage stage3_grpo_accuracy",
        "stages.grpo --stage stage4_clgrpo",
    ]
    assert "report: written" in capsys.readouterr().out


def test_phases_that_may_run_at_once_are_planned_and_run_so(
    here: str, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    __main__.main(["plan", "--config", "demo_scenes", here, "launch.parallel_phases=2"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "at once" in line]
    assert line.split(maxsplit=5)[:5] == ["up", "to", "2", "at", "once"]
    assert line.endswith(
        "baseline_sft_labels beside stage1_sft, stage2_grpo_format, stage3_grpo_accuracy, stage4_clgrpo"
    )
    asked: list[object] = []
    monkeypatch.setattr(conductor_run, "run_side_by_side", lambda *of: asked.append(of[2:4]))
    __main__.main(["run", "--config", "demo_scenes", here, "launch.parallel_phases=8"])
    assert asked == [(PHASES, 2)]
    assert started == []
    # A chain of phases has nothing to run at once.
    __main__.main(["run", "--config", "demo_scenes", here, "launch.parallel_phases=8", "--to", "stage2"])
    assert len(asked) == 1
    assert len(started) == 4


def test_a_failed_phase_stops_the_run_and_says_how_to_go_on(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def fail(command: list[str], **_: object) -> int:
        commands.append(command)
        return 7

    put_in_place_of_children(monkeypatch, fail)
    with pytest.raises(UserError, match=r"cot failed \(exit status 7\).*run the same command: it goes on here"):
        __main__.main(["run", "--config", "demo_scenes", here])
    assert len(commands) == 1


@pytest.mark.parametrize("words", [["plan"], ["run", "--dry-run"], ["run", "--dry-run", "--clean", "all"]])
def test_a_plan_and_a_dry_run_start_and_delete_nothing(
    run: RunDir, here: str, started: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run, COT, BASE)
    __main__.main([*words, "--config", "demo_scenes", here])
    assert started == []
    assert run.record(COT) is not None
    assert sorted(path.name for path in run.root.iterdir() if path.is_dir()) == [BASE, COT]
    assert "stage4_clgrpo" in capsys.readouterr().out


def test_a_run_under_other_settings_is_refused_with_every_reason_and_the_cures(
    run: RunDir, here: str, started: list[str]
) -> None:
    finish(run, *phase_names(load("demo_scenes")))
    with pytest.raises(UserError) as caught:
        __main__.main(
            ["run", "--config", "demo_scenes", here, "stages.3.trainer.beta=0.1", "stages.4.trainer.beta=0.1"]
        )
    assert started == []
    *reasons, cure = caught.value.problems
    assert [reason.split(" was made")[0].rpartition("/")[2] for reason in reasons] == [
        "stage3_grpo_accuracy",
        "stage4_clgrpo",
    ]
    assert "name=…" in cure
    assert "--clean" in cure


@pytest.mark.parametrize(
    ("phase", "left"),
    [
        ("stage3", [COT, BASE, "baseline_sft_labels", "stage1_sft", "stage2_grpo_format"]),
        ("4", [*PHASES[:-1]]),
        ("baseline", [COT, BASE, *PHASES[3:]]),
        ("base", [COT]),
        ("all", []),
    ],
)
def test_cleaning_deletes_a_phase_and_what_was_made_from_it(
    run: RunDir, here: str, started: list[str], phase: str, left: list[str]
) -> None:
    finish(run, *PHASES)
    __main__.main(["run", "--config", "demo_scenes", "--clean", phase, here])
    assert sorted(path.name for path in run.root.iterdir() if path.is_dir()) == sorted(left)


def test_cleaning_the_cot_rows_takes_the_stages_trained_on_them(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, *PHASES)
    write_json(run.record_path(COT), {**(run.record(COT) or {}), "data_digest": "rows"})
    finish(run, *PHASES[1:])
    __main__.main(["run", "--config", "demo_scenes", "--clean", "cot", here])
    assert sorted(path.name for path in run.root.iterdir() if path.is_dir()) == ["base", "baseline_sft_labels"]


def test_cleaning_keeps_the_replies_of_teachers(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, *PHASES)
    (run.cot / "journal").mkdir()
    (run.cot / "journal" / "replies.sqlite").write_bytes(b"what was paid for")
    __main__.main(["run", "--config", "demo_scenes", "--clean", "all", here])
    assert [path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.name != "config.yaml"] == [
        "cot",
        "cot/journal",
        "cot/journal/replies.sqlite",
    ]


def test_cleaning_the_cot_rows_keeps_the_replies_of_shards(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, COT)
    journal = run.cot / "shards" / "0-of-2" / "journal"
    journal.mkdir(parents=True)
    (journal / "replies.sqlite").write_bytes(b"what was paid for")
    write_json(run.cot / "shards" / "0-of-2" / "shard.json", {})
    (run.cot / "shards" / "1-of-2").mkdir()
    __main__.main(["run", "--config", "demo_scenes", "--clean", "cot", here])
    assert [path.relative_to(run.cot).as_posix() for path in run.cot.rglob("*") if path.is_file()] == [
        "shards/0-of-2/journal/replies.sqlite"
    ]
    assert not (run.cot / "shards" / "1-of-2").exists()


def test_cleaning_the_cot_rows_while_a_shard_is_built_is_refused(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, COT)
    path = run.cot / "shards" / "0-of-2" / "journal" / "lock"
    path.parent.mkdir(parents=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="cot is in use by another process"):
            __main__.main(["run", "--config", "demo_scenes", "--clean", "cot", here])
    assert run.record(COT) is not None


def test_cleaning_a_phase_that_is_worked_on_is_refused(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, *PHASES)
    with (run.phase("stage4_clgrpo") / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="stage4_clgrpo is in use by another process"):
            __main__.main(["run", "--config", "demo_scenes", "--clean", "stage3", here])
    assert run.record("stage3_grpo_accuracy") is not None
    assert started == []


def test_a_stage_whose_teacher_is_gone_is_not_deleted(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, *PHASES)
    words = ["run", "--config", "demo_scenes", here, "stages.1.distill.teacher=/gone/to/make/room"]
    with pytest.raises(UserError, match="'/gone/to/make/room' does not exist"):
        __main__.main([*words, "--clean", "stage1"])
    assert run.record("stage1_sft") is not None
    assert started == []


def test_what_does_not_fit_is_not_deleted_for_it(
    run: RunDir, here: str, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run, *PHASES)
    asked: list[list[str]] = []
    monkeypatch.setattr(conductor_run, "room_problems", lambda *these: asked.append(sorted(these[2])) or ["too large"])
    with pytest.raises(UserError, match="too large"):
        __main__.main(["run", "--config", "demo_scenes", here, "--clean", "stage3"])
    assert asked == [PHASES[5:]]
    assert run.record("stage3_grpo_accuracy") is not None
    assert started == []


def test_complete_cot_rows_are_not_built_again(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, COT)
    (run.cot / "train.parquet").write_bytes(b"rows")
    digest = file_digest(run.cot / "train.parquet")
    write_json(run.record_path(COT), {**(run.record(COT) or {}), "data_digest": digest})
    __main__.main(["run", "--config", "demo_scenes", here])
    assert started[0] == "stages.base"
    (run.cot / "train.parquet").write_bytes(b"other rows")
    started.clear()
    __main__.main(["run", "--config", "demo_scenes", here])
    assert started[0] == "cot_builder build"


def test_a_build_killed_over_complete_rows_does_not_make_the_stages_stale(
    run: RunDir, here: str, started: list[str]
) -> None:
    finish(run, COT)
    write_json(run.record_path(COT), {**(run.record(COT) or {}), "data_digest": "rows"})
    finish(run, *PHASES[1:])
    finish(run, COT, status="incomplete")
    __main__.main(["run", "--config", "demo_scenes", here])
    assert started[0] == "cot_builder build"


def test_cleaning_a_phase_there_is_not_names_those_there_are(run: RunDir, here: str, started: list[str]) -> None:
    finish(run, COT)
    with pytest.raises(UserError, match=r"'stag3' is not one of this run's stages: baseline_sft_labels, stage1"):
        __main__.main(["run", "--config", "demo_scenes", "--clean", "stag3", here])
    assert run.record(COT) is not None
    assert started == []


def test_overrides_may_stand_before_between_and_after_the_options(
    here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = (
        ["name=x", here, "--config", "demo_scenes"],
        ["--config", "demo_scenes", "name=x", here],
        [here, "--config", "demo_scenes", "name=x"],
    )
    for words in orders:
        __main__.main(["plan", *words])
        assert "run x in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "--config", "demmo"], "error: config 'demmo' does not exist"),
        (["plan", "sead=1"], "sead is not a known key; did you mean seed?"),
        (["plan", "seed=x"], "seed: 'x' must be a whole number"),
        (["status", "stages.4.trainer.num_iterations=1"], "cannot clip"),
        (["paln"], "invalid choice: 'paln'"),
        ([], "required"),
        (["compare"], "runs"),
        (["plan", "seed=1", "--bogus"], "unrecognized arguments: --bogus"),
        (["plan", "seed=1", "--config", "demo_scenes", "seed"], "unrecognized arguments: seed"),
    ],
    ids=" ".join,
)
def test_what_the_user_can_mend_is_one_message_without_a_traceback_and_exit_status_2(
    repo_root: Path, words: list[str], told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_comparing_a_folder_that_is_no_run_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        __main__.main(["compare", str(tmp_path / "nowhere")])
