"""Before, beside and after a run: the preflight's forecast, TensorBoard's files, tables of completions."""

from __future__ import annotations

import importlib.util
import json
import math

import pyarrow.parquet as pq
import pytest
from small_runs import STAGES, Small

from pipeline.conductor.forecast import errors
from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
GRPO = "stage2_grpo_format"


def test_a_preflight_forecasts_every_stage_and_leaves_the_run_as_it_was(small: Small, whole_run) -> None:
    run, copy = whole_run[0], small.copy_of("small", "flown", "cot")
    epochs = [f"stages.{GRPO}.trainer.{word}" for word in ("max_steps=-1", "num_train_epochs=1")]
    output = small.run("pipeline preflight", *epochs, name="flown")
    assert "trained on" in output
    assert "generation begins here" in output
    # the image tokens of 64 pixels, counted
    assert "4 '<image>' x 4" in output
    assert "max_completion_length 16 is below the CoT rows' 99th percentile" in output
    found = json.loads((copy.root / "forecast.json").read_text())
    steps = {name: found["stages"][name]["steps"] for name in STAGES}
    # One epoch of 96 prompts with 4 completions each, 8 completions a step.
    assert steps == {name: run.record(name)["steps"] for name in STAGES} | {GRPO: 48}
    assert found["problems"] == []
    for name in STAGES:
        off = errors(found["stages"][name], run.record(name), {})
        assert -0.5 < off["memory"]["error"] < 0.5
        assert abs(off["checkpoint"]["error"]) < 0.1
    assert sorted(path.name for path in copy.root.iterdir()) == ["cot", "forecast.json", "preflight"]
    assert sorted(path.name for path in (copy.root / "preflight").iterdir()) == [".lock", "logs"]


def test_a_run_records_what_it_used_and_how_far_it_may_go(whole_run) -> None:
    for name in STAGES:
        record = whole_run[0].record(name)
        assert record["usage"]["device"] in ("cpu", "cuda")
        assert all(peak > 10**8 for peak in record["usage"]["peak_memory_bytes"])
        assert record["usage"]["checkpoint_bytes"] > record["usage"]["final_bytes"] > 0
        progress = json.loads((whole_run[0].phase(name) / "progress.json").read_text())
        assert progress == {"max_steps": record["steps"]}


def test_a_grpo_stage_keeps_tables_of_its_completions_with_pictures(whole_run) -> None:
    folder = whole_run[0].phase("stage4_clgrpo") / "completions"
    tables = sorted(folder.glob("*.parquet"))
    # a rollout each
    assert [path.name for path in tables] == ["step-00001.parquet", "step-00005.parquet"]
    rows = pq.read_table(tables[0]).to_pylist()
    assert [row["group"] for row in rows] == [0] * 4 + [1] * 4
    assert all(picture.startswith(b"\x89PNG") for row in rows for (picture,) in [row["images"]])
    assert all("Which emotion" in row["prompt"] for row in rows)
    logged = next(read_jsonl(folder.parent / "metrics.jsonl"))
    # it does not apply to all
    given = [value for row in rows if not math.isnan(value := row["reward:parity_reward"])]
    assert sum(given) / len(given) == pytest.approx(logged["rewards/parity_reward/mean"], abs=1e-5)
    assert (folder / "index.html").read_text().count('<article class="group">') == 4


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_writes_into_the_stage_s_folder_and_no_secret_is_recorded(
    small: Small, whole_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: RunDir = small.copy_of("small", "tracked", "base", "cot")
    stage, secret = "baseline_sft_labels", "not-to-be-written-down"
    for key in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(key, secret)
    words = ["baselines.sft_labels.trainer.report_to=tensorboard", "baselines.sft_labels.trainer.max_steps=2"]
    small.run("stages.sft", "--stage", "baseline", *words, name="tracked")
    assert list((run.phase(stage) / "tensorboard").glob("events.out.tfevents.*"))
    written = [path for path in run.phase(stage).rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in written)
