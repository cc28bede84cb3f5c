"""`python -m stages.evaluate --model …`: what a command line means, and what it is refused for."""

from __future__ import annotations

import argparse

import pytest

from pipeline import command_line
from pipeline.errors import UserError
from stages import evaluate
from stages.evaluation import single_model
from stages.processes import command

PLAIN = ["--task", "scenes", "--split", "test[:8]"]


def parsed(*words):
    parser = command.parser("evaluate", "")
    parser.set_defaults(config=None)
    single_model.add_arguments(parser)
    return command_line.parse(parser, [*words])


def lab(*words):
    return single_model.lab_of(parsed(*PLAIN, *words))


def test_a_model_and_a_task_are_enough():
    found = lab("--model", "HuggingFaceTB/SmolVLM-500M-Instruct")
    assert found["name"] == "SmolVLM-500M-Instruct-scenes"
    assert found["models"] == {"SmolVLM-500M-Instruct": {"name_or_path": "HuggingFaceTB/SmolVLM-500M-Instruct"}}
    assert found["tasks"] == {"scenes": {"task": {"name": "scenes"}, "split": "test[:8]"}}
    assert found["modes"] == ["direct"]
    assert lab("--model", "a", "--mode", "blind")["modes"] == ["direct", "blind"]


def test_a_served_model_a_run_and_a_folder_are_told_apart(tmp_path):
    assert lab("--model", "big@http://h:1/v1", "--api-key-env", "K")["models"]["big"] == {
        "name_or_path": "big", "backend": "openai", "base_url": "http://h:1/v1", "api_key_env": "K",
    }  # fmt: skip
    run = tmp_path / "demo"
    run.mkdir()
    (run / "config.yaml").write_text("")
    assert list(lab("--model", f"{run}:stage3")["models"].values()) == [{"run": str(run), "phase": "stage3"}]
    folder = "runs/demo/stage4_clgrpo/final"
    assert lab("--model", folder)["models"] == {"demo-stage4_clgrpo": {"name_or_path": folder}}


def test_model_stands_for_whichever_of_perceiver_and_reasoner_is_not_named():
    found = lab("--model", "a", "--perceiver", "b", "--mode", "extract-think")
    assert (list(found["models"]), list(found["reasoners"])) == (["b"], ["a"])
    found = lab("--model", "a", "--reasoner", "b", "--mode", "extract-think")
    assert (list(found["models"]), list(found["reasoners"])) == (["a"], ["b"])


def test_a_grid_has_every_pair_in_the_two_step_modes_and_each_perceiver_alone():
    from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells

    plain = lab(
        "--grid", *(word for name in "ab" for word in ("--perceiver", name)), "--reasoner", "c", "--reasoner", "d"
    )
    config = LabConfig(
        models={name: LabModel() for name in plain["models"]},
        reasoners={name: LabModel() for name in plain["reasoners"]},
        tasks={"scenes": LabTask()},
        modes=plain["modes"],
    )
    assert len(cells(config)) == 2 * (1 + 1 + 4 * 2)


def test_settings_of_the_model_and_the_task_are_passed_on():
    found = lab("--model", "a", "task.options.test=8", "model.processor.do_image_splitting=false")
    assert found["tasks"]["scenes"]["task"]["options"] == {"test": 8}
    assert found["models"]["a"]["processor"] == {"do_image_splitting": False}
    found = lab("--model", "a", "--reasoner", "b", "--mode", "extract-think", "reasoner.revision=x")
    assert found["reasoners"]["b"]["revision"] == "x"
    with pytest.raises(UserError, match=r"seed: a model of its own has model"):
        lab("--model", "a", "seed=3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "a"], ["--task is missing", "--split is missing"]),
        ([*PLAIN], ["--model is missing"]),
        ([*PLAIN, "--model", "a", "--reasoner", "b"], ["are for --mode caption-direct or caption-think or extract"]),
        (
            [*PLAIN, "--model", "a", "--perceiver", "b", "--reasoner", "c", "--mode", "extract-think"],
            ["nothing is left"],
        ),
        ([*PLAIN, "--perceiver", "b", "--perceiver", "c", "--mode", "extract-think"], ["2 of them need --grid"]),
        (
            [*PLAIN, "--grid", "--model", "a", "--mode", "think"],
            ["leave --mode out", "leave --model out", "at least one"],
        ),
    ],
)
def test_what_is_missing_or_does_not_go_together_is_told_at_once(words, told):
    with pytest.raises(UserError) as caught:
        single_model.lab_of(parsed(*words))
    assert all(any(part in problem for problem in caught.value.problems) for part in told), caught.value.problems


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stage", "3", "--model", "a"], "--stage: judges a phase of a run"),
        (["--stage", "3", "--smoke", "0"], "which --smoke cannot change"),
        (["--model", "a", "--config", "demo"], "--config: is of a run"),
        ([], "say what to judge"),
    ],
)
def test_the_two_ways_to_evaluate_do_not_mix(words, told):
    with pytest.raises(UserError, match=told):
        evaluate.main(words)


SMALL = ["task.options.train=1", "task.options.val=1", "task.options.test=9", "task.options.size=32"]


def test_a_dry_run_lists_cells_rows_and_models_and_leaves_no_more_than_the_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    words = [*PLAIN, *SMALL, "--model", "org/a", "--mode", "think", "--output-dir", str(tmp_path / "out"), "--dry-run"]
    assert evaluate.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a--scenes--auto--think",
        "  scenes: 8 rows of test[:8]",
        "  a: org/a of the hub, to be downloaded",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".cache"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'org/a' is not on this machine, and HF_HUB_OFFLINE forbids its download"):
        evaluate.main(words)
    served = [
        *PLAIN,
        *SMALL,
        "--model",
        "big@http://127.0.0.1:1/v1",
        "--output-dir",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    assert evaluate.main(served) == 0
    assert "  big: big at http://127.0.0.1:1/v1, which is not asked" in capsys.readouterr().out


def test_a_dry_run_tells_all_that_a_run_would_find_wrong(tmp_path):
    model, out = tmp_path / "model", str(tmp_path / "out")
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "idefics3"}')
    words = [
        "--model",
        str(model),
        "--task",
        "scenes",
        "--split",
        "tset",
        "--precision",
        "bfloat16",
        "--output-dir",
        out,
    ]
    with pytest.raises(UserError) as caught:
        evaluate.main([*words, "--dry-run", "task.options.sise=32", "--batch-size", "0"])
    told = caught.value.problems
    assert told[:2] == [
        "batch_size: 0 must be at least 1",
        "task.options.sise: the scenes task has no such option; did you mean size?",
    ]
    assert "has no *.safetensors" in told[2]
    assert len([one for one in told if one.startswith(f"models.model: {model} ")]) == len(told) - 2 > 1
    with pytest.raises(UserError) as caught:
        evaluate.main([*words, "--dry-run", *SMALL])
    assert "task scenes: split 'tset' does not exist; it has train, val, test" in caught.value.problems


def test_a_dry_run_of_a_stage_tells_its_data_and_its_checkpoint(tmp_path, capsys):
    data = ["train=1", "val=1", "test=9", "size=32"]
    own = ["--config", "demo_scenes", f"output_dir={tmp_path}", *(f"task.options.{word}" for word in data)]
    with pytest.raises(UserError) as caught:
        evaluate.main(["--stage", "3", *own, "evaluation.split=tset", "evaluation.batch_size=0", "--dry-run"])
    assert caught.value.problems[:2] == [
        "evaluation.batch_size: 0 must be at least 1",
        "task scenes: split 'tset' does not exist; it has train, val, test",
    ]
    assert "stage3_grpo_accuracy has not been run" in caught.value.problems[2]
    folder = tmp_path / "demo_scenes" / "stage3_grpo_accuracy"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text('{"status": "trained", "checkpoint": "final"}')
    assert evaluate.main(["--stage", "3", *own, "evaluation.split=test", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("stage3_grpo_accuracy: test asked think greedy")
    assert told[1:] == ["  9 rows", f"  {folder}: trained; the evaluation verifies it first"]


def test_every_option_of_a_model_of_its_own_is_known_as_one():
    parser = argparse.ArgumentParser()
    single_model.add_arguments(parser)
    assert {action.dest for action in parser._actions} - {"help"} == set(single_model.OWN)
