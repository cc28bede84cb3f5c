"""Another harness beside ours: its command, its numbers, its failures. A script stands in for it here."""

from __future__ import annotations

import json
import sys

import pytest

from pipeline.config.evaluation import LabModel
from pipeline.errors import UserError
from stages.evaluation import lmms_eval
from stages.evaluation.backends.base import Checkpoint

STAND_IN = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
assert words[:2] == ["-m", "lmms_eval"], words
given = dict(zip(words[2::2], words[3::2]))
print("loading", given["--model_args"])
if given["--tasks"] == "mmmu_val":
    sys.exit("Cannot reach the hub")
folder = pathlib.Path(given["--output_path"]) / "model"
folder.mkdir()
(folder / "0_results.json").write_text(json.dumps({{"words": given, "results": {{"cv_bench": {{"cv_bench_acc,none": 0.5}}}}}}))
"""


@pytest.fixture
def python(tmp_path):
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    return Checkpoint(LabModel(name_or_path=str(folder)), "auto", folder, {})


def test_its_task_is_run_on_our_checkpoint_and_both_numbers_are_told(tmp_path, python, checkpoint):
    folder = tmp_path / "lmms-eval"
    theirs = lmms_eval.run(checkpoint, "cv_bench", python, folder, 4)
    assert theirs == 0.5
    words = json.loads(next(folder.rglob("*results.json")).read_text())["words"]
    assert words["--model"] == "qwen2_5_vl"
    assert words["--model_args"] == f"pretrained={checkpoint.folder}"
    line = lmms_eval.compare_with_lmms_eval(
        {"accuracy": 0.45, "official": {"CV-Bench": 44.0}}, "cv_bench", theirs, folder
    )
    assert line == "cv_bench: ours 45.00 %, CV-Bench 44.00 %; lmms-eval cv_bench cv_bench_acc 0.5"
    assert json.loads((folder / "side_by_side.json").read_text())["lmms-eval"] == {
        "task": "cv_bench",
        "cv_bench_acc": 0.5,
    }


def test_of_answers_that_are_not_published_its_number_alone_is_told(tmp_path):
    line = lmms_eval.compare_with_lmms_eval({"accuracy": None, "official": {}}, "mmmu", 0.5, tmp_path)
    assert line == "mmmu: ours – %; lmms-eval mmmu_val mmmu_acc 0.5"


def test_its_failure_is_told_with_the_end_of_its_log(tmp_path, python, checkpoint):
    with pytest.raises(UserError, match="Cannot reach the hub"):
        lmms_eval.run(checkpoint, "mmmu", python, tmp_path / "lmms-eval", 4)


def test_what_it_cannot_do_is_told_before_anything_is_asked():
    told = lmms_eval.problems("scenes", "test[:10]", None)
    assert len(told) == 3
    assert "no task that is our scenes" in told[0]
    assert "name the whole split" in told[1]
