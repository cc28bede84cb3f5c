"""DeepSpeed ZeRO-2 and ZeRO-3 with two real processes on CPU, through the entry points a user calls."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from small_runs import QUICK, Small, in_fresh_process, steps, weights
from tiers import tiers

from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
SFT, GRPO = "baseline_sft_labels", "stage2_grpo_format"
HALF_BATCH = (
    "baselines.sft_labels.trainer.per_device_train_batch_size=4",
    f"stages.{GRPO}.trainer.per_device_train_batch_size=4",
)
LOADED = """
import json, sys
from pipeline.system.library_patches import prepare_libraries
prepare_libraries()
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor
def load(folder):
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32", output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which emotion?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(text=[text], images=[[Image.new("RGB", (64, 64), "orange")]], return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits
    names = set(safe_open(f"{folder}/model.safetensors", "pt").keys())
    return not any(info.values()), names, model.state_dict(), logits
found = []
for pair in zip(sys.argv[1::2], sys.argv[2::2]):
    (clean, names, weights, logits), (clean2, names2, weights2, logits2) = map(load, pair)
    found.append({
        "clean": clean and clean2,
        "same_names": names == names2,
        "dtypes": sorted({str(tensor.dtype) for tensor in (*weights.values(), *weights2.values())}),
        "weights": max(float((weights2[key] - weights[key]).abs().max()) for key in weights),
        "logits": float((logits2 - logits).abs().max()),
    })
print(json.dumps(found))
"""
"""Loads pairs of checkpoints with plain transformers; prints what was missing, and how far apart the two are."""


def second_process(entry: psutil.Process) -> psutil.Process:
    """The worker of rank 1 among all that an entry point started."""
    workers = [process for process in entry.children(recursive=True) if "--worker" in process.cmdline()]
    return next(process for process in workers if process.environ().get("RANK") == "1")


@pytest.fixture(scope="module", params=tiers(["zero2", "zero3"], ["zero2"]))
def parallel(
    request: pytest.FixtureRequest, small: Small, whole_run: tuple[RunDir, str]
) -> tuple[RunDir, dict[str, str]]:
    """(a run, output per stage) of SFT and GRPO, both from base, on two processes of half the batch each.

    SFT is killed halfway, with ZeRO-2 in its second process and with ZeRO-3 in its entry point, and goes on from its checkpoint.
    """
    level = request.param
    run = small.copy_of("small", level, "base", "cot")
    launch = (
        *QUICK,
        *HALF_BATCH,
        "launch.num_processes=2",
        f"launch.deepspeed={level}",
        f"stages.{GRPO}.init_from=base",
    )
    baseline = ("stages.sft", "--stage", "baseline", *launch)
    halfway = run.phase(SFT) / "checkpoint-4" / "complete"
    if level == "zero3":
        small.end_when(halfway.exists, signal.SIGKILL, *baseline, name=level)
    else:
        code, output = small.end_when(halfway.exists, signal.SIGKILL, *baseline, name=level, victim=second_process)
        assert code == 2
        assert "rank 1 first, ended by SIGKILL" in output
        assert "goes on from the last checkpoint (step 4)" in output
    return run, {
        SFT: small.run(*baseline, name=level),
        GRPO: small.run("stages.grpo", "--stage", "2", *launch, name=level),
    }


@pytest.fixture(scope="module")
def loaded(parallel, whole_run) -> dict[str, dict[str, Any]]:
    """What plain transformers finds: of the SFT stage beside that of one process, of the GRPO stage beside its parent."""
    run, undisturbed = parallel[0], whole_run[0]
    folders = (undisturbed.final(SFT), run.final(SFT), run.final("base"), run.final(GRPO))
    return dict(zip((SFT, GRPO), in_fresh_process(LOADED, *folders), strict=True))


def test_two_processes_train_like_one(parallel, whole_run, loaded):
    """Same global batch, same rows: SFT gives the losses, the weights and the logits of the plain single process."""
    run, _ = parallel
    undisturbed, _ = whole_run
    assert run.record(SFT)["status"] == "complete"
    losses = [[row["loss"] for row in read_jsonl(folder.phase(SFT) / "metrics.jsonl")] for folder in (run, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert steps(run, SFT) == list(range(1, 9))
    assert loaded[SFT]["clean"]
    assert loaded[SFT]["same_names"]
    assert loaded[SFT]["dtypes"] == ["torch.float32"]
    assert loaded[SFT]["weights"] < 1e-3
    assert loaded[SFT]["logits"] < 1e-3


def test_the_first_process_speaks_through_the_launcher(parallel):
    _, output = parallel
    assert f"  {SFT} step 8/8" in output[SFT]
    assert f"  {GRPO} step 4/4" in output[GRPO]
    assert "\x1e" not in output[SFT] + output[GRPO]


def test_grpo_trains_on_two_processes_and_loads_plainly(parallel, loaded):
    run, _ = parallel
    assert run.record(GRPO)["status"] == "complete"
    assert steps(run, GRPO) == [1, 2, 3, 4]
    assert loaded[GRPO]["clean"]
    assert loaded[GRPO]["same_names"]
    assert loaded[GRPO]["weights"] > 0


def test_answers_of_both_processes_are_put_together(parallel):
    run, _ = parallel
    rows = list(read_jsonl(run.phase(GRPO) / "predictions.jsonl"))
    assert len({row["id"] for row in rows}) == len(rows) == 4


@pytest.mark.nightly
def test_two_nodes_train_like_two_processes_of_one_that_was_killed(
    parallel, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same command on two nodes of one process each, here both on this machine: the same bits as two processes of one."""
    run, _ = parallel
    if run.root.name != "zero2":
        pytest.skip("with ZeRO-2 alone: the nodes are brought together the same way")
    config = tmp_path / "baseline.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(small.config.read_text()), "stages": {}}))
    nodes, words = (
        replace(small, config=config),
        (*QUICK, HALF_BATCH[0], "launch.num_processes=1", "launch.deepspeed=zero2"),
    )
    two = small.copy_of("small", "two_nodes", "base", "cot")
    for variable, value in {"NNODES": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NODE_RANK", "1")
    other = nodes.start("pipeline run", *words, name="two_nodes")
    try:
        monkeypatch.setenv("NODE_RANK", "0")
        nodes.run("pipeline run", *words, name="two_nodes")
        output, _ = other.communicate(timeout=60)
    finally:
        other.kill()
    assert other.returncode == 0, output
    assert weights(two, SFT) == weights(run, SFT)
    logs = sorted(path.name for path in (two.phase(SFT) / "logs" / "sft-001").iterdir())
    assert logs == ["events.jsonl", "launcher-node1.log", "launcher.log", "rank0.log", "rank1.log"]


@pytest.mark.nightly
def test_bf16_training_hands_over_its_float32_weights(small: Small, whole_run: tuple[RunDir, str]):
    """The module DeepSpeed trains holds bf16 copies; a learning rate of 1e-6 would drown in their rounding."""
    run = small.copy_of("small", "bf16", "base", "cot")
    launch = ("launch.num_processes=2", "launch.deepspeed=zero2", "model.dtype=bfloat16")
    short = ("baselines.sft_labels.trainer.max_steps=2", "baselines.sft_labels.trainer.learning_rate=1e-6")
    small.run("stages.sft", "--stage", "baseline", *QUICK, *HALF_BATCH, *launch, *short, name="bf16")
    found = in_fresh_process(BETWEEN_BF16, run.final("base"), run.final(SFT))
    assert found["dtypes"] == ["torch.float32"]
    assert found["moved"] > 0.5
    assert found["between"] > 0.5


BETWEEN_BF16 = """
import json, sys
import torch
from safetensors.torch import load_file
base, final = (load_file(f"{folder}/model.safetensors") for folder in sys.argv[1:])
flat = torch.cat([tensor.flatten() for tensor in final.values()])
before = torch.cat([base[name].flatten() for name in final])
print(json.dumps({
    "dtypes": sorted({str(tensor.dtype) for tensor in final.values()}),
    "moved": float((flat != before).float().mean()),
    "between": float((flat != flat.bfloat16().float()).float().mean()),
}))
"""
"""Prints the share of weights that moved, and the share that bf16 cannot hold."""
