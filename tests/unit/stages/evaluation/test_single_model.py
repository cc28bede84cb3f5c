"""`python -m stages.evaluate --model …`: what a command line means, and what it is refused for."""

from __future__ import annotations

import argparse
from pathlib import Path

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


def test_a_dry_run_lists_the_cells_and_writes_nothing(tmp_path, capsys):
    words = [*PLAIN, "--model", "a", "--mode", "think", "--output-dir", str(tmp_path), "--dry-run"]
    assert evaluate.main(words) == 0
    assert capsys.readouterr().out == "a--scenes--auto--think\n"
    assert list(Path(tmp_path).iterdir()) == []


def test_every_option_of_a_model_of_its_own_is_known_as_one():
    parser = argparse.ArgumentParser()
    single_model.add_arguments(parser)
    assert {action.dest for action in parser._actions} - {"help"} == set(single_model.OWN)
