"""A lab's configuration: what it says, what it refuses, and which cells it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.checks import evaluation
from pipeline.checks.evaluation import load_lab
from pipeline.config.evaluation import Cell, cells, cost
from pipeline.errors import UserError
from pipeline.runs.handover import model_folder

SMALL: dict[str, Any] = {
    "name": "small",
    "models": {"a": {"name_or_path": "org/a"}, "b": {"name_or_path": "org/b"}},
    "tasks": {"val": {"task": {"name": "scenes"}, "split": "val[:20]"}},
}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**more: Any) -> Path:
        path = tmp_path / "lab.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **more}))
        return path

    return write


def problems(path: Path, *words: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_lab(path, words)
    return caught.value.problems


def test_cells_come_model_by_model_and_reasoners_only_where_a_mode_asks_them(written: Any) -> None:
    config = load_lab(
        written(modes=["direct", "caption-think"], reasoners={"r": {"name_or_path": "org/r"}}),
        ["precisions=[float32,bfloat16]"],
    )
    found = cells(config)
    assert len(found) == 2 * 2 * 1 * 2
    assert found[0] == Cell("a", "val", "float32", "direct")
    assert [cell.id for cell in found[:2]] == ["a--val--float32--direct", "a--val--float32--caption-think--r"]
    assert [cell.model for cell in found] == ["a"] * 4 + ["b"] * 4


def test_all_that_is_wrong_is_told_at_once_with_the_nearest_right_word(written: Any) -> None:
    told = problems(
        written(
            name="a/b",
            precisions=["bfloat61", "float32", "float32"],
            modes=[],
            models={
                "x--y": {"name_or_path": "org/a", "run": "runs/none"},
                "z": {"backend": "vlm", "name_or_path": "a"},
            },
            tasks={"val": {"task": {"name": "scene", "question": " "}, "split": "val[", "max_new_tokens": 0}},
        )
    )
    assert len(told) == 11
    for words in (
        "name: 'a/b' must be one folder name",
        "'bfloat61' is none of them; did you mean bfloat16?",
        "float32 stands there 2 times",
        "modes: is empty",
        "models.x--y: a name is part of a folder's",
        "and not both",
        "'vlm' is none of them; did you mean vllm?",
        "'scene' is not a file of pipeline/tasks; did you mean scenes?",
        "tasks.val.task.question: is blank",
        "is not of the form name",
        "max_new_tokens: 0 must be at least 1",
    ):
        assert [line for line in told if words in line], words


def test_a_mistyped_key_names_the_right_one(written: Any) -> None:
    assert problems(written(batchsize=3)) == [
        f"{written(batchsize=3)}: batchsize is not a known key; did you mean batch_size?"
    ]


def test_a_server_is_told_what_it_needs(written: Any) -> None:
    served = {"s": {"backend": "openai", "name_or_path": "m", "api_key_env": "NO_SUCH_KEY", "processor": {"a": 1}}}
    served["s"]["precisions"] = ["4bit"]
    told = problems(written(models=served))
    assert [line.split(":")[0] for line in told] == [
        "models.s.base_url",
        "models.s.api_key_env",
        "models.s.precisions",
        "models.s.processor",
    ]


def test_a_server_stands_beside_models_with_precisions_of_their_own(written: Any) -> None:
    served = {"name_or_path": "m", "backend": "openai", "base_url": "http://x/v1"}
    models = {"s": served, "a": {"name_or_path": "org/a"}, "b": {"name_or_path": "org/b", "precisions": ["float32"]}}
    found = cells(load_lab(written(models=models, precisions=["bfloat16", "float16"])))
    assert [(cell.model, cell.precision) for cell in found] == [
        ("a", "bfloat16"),
        ("a", "float16"),
        ("b", "float32"),
        ("s", "auto"),
    ]
    told = problems(written(models={"s": served, "b": models["b"]}, precisions=["bfloat16"]))
    assert [line.split(":")[0] for line in told] == ["precisions"]
    told = problems(written(models={"b": {"name_or_path": "org/b", "precisions": ["float32", "float23"]}}))
    assert told == ["models.b.precisions: 'float23' is none of them; did you mean float32?"]
    reasoner = {"r": {"name_or_path": "org/r", "precisions": ["float32"]}}
    assert "leave it out" in problems(written(reasoners=reasoner, modes=["caption-think"]))[0]


def test_blind_is_refused_without_what_it_is_held_against(written: Any) -> None:
    assert problems(written(modes=["blind"])) == ["modes: blind is held against direct, on the same rows; add direct"]


def test_options_and_prices_that_no_request_can_have_are_told(written: Any) -> None:
    served = {"backend": "openai", "name_or_path": "m", "base_url": "http://h/v1"}
    sound = {"options": {"temperature": None, "rename": {"max_tokens": "n"}}, "price": {"prompt": 1, "completion": 2.5}}
    config = load_lab(written(models={"s": {**served, **sound}}))
    direct, two_steps = Cell("s", "val", "auto", "direct"), Cell("s", "val", "auto", "caption-think")
    assert cost(config, direct, 2_000_000, 100_000) == 2.25
    assert cost(config, direct, None, 5) is cost(config, two_steps, 5, 5) is None
    models = {
        "a": {**served, "options": {"rename": {"max_token": "n"}, "messages": []}, "price": {"prompt": 1}},
        "b": {**served, "options": {"rename": "n"}, "price": {"prompt": -1, "completion": 1}},
        "c": {"name_or_path": "org/c", "options": {"rename": {}}},
    }
    assert problems(written(models=models)) == [
        "models.a.price: has prompt, and takes prompt and completion, both, each of a million tokens",
        "models.a.options.messages: are the question and its pictures; leave it out",
        "models.a.options.rename.max_token: is no field that is sent; did you mean max_tokens?",
        "models.b.price.prompt: -1.0 must be 0 or more",
        "models.b.options.rename: 'n' must map fields to names, such as max_tokens: max_completion_tokens",
        "models.c.options: are for vllm and openai; with transformers use processor, or leave them out",
    ]


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_installed", lambda word: True)


@pytest.mark.usefixtures("with_vllm")
def test_an_option_of_vllm_that_is_spelt_as_a_server_s_flag_is_told(written: Any) -> None:
    options = {"max-model-len": 512, "enforce_eager": True}
    models = {"a": {"name_or_path": "org/a", "backend": "vllm", "options": options}}
    assert problems(written(models=models)) == [
        "models.a.options.max-model-len: is a keyword argument of vllm.LLM, which is written max_model_len"
    ]


@pytest.mark.usefixtures("with_vllm")
def test_models_with_code_of_their_own_say_how_they_are_asked(written: Any, tmp_path: Path) -> None:
    (tmp_path / "phi").mkdir()
    (tmp_path / "phi" / "config.json").write_text('{"model_type": "phi3_v"}')
    by_vllm = {"backend": "vllm", "trust_remote_code": True}
    models = {
        "a": {"name_or_path": "OpenGVLab/InternVL2-2B", "trust_remote_code": True},
        "b": {"name_or_path": "OpenGVLab/InternVL2-8B", "backend": "vllm"},
        "c": {"name_or_path": "vikhyatk/moondream2", **by_vllm},
        "d": {"name_or_path": str(tmp_path / "phi")},
        "e": {"name_or_path": "OpenGVLab/InternVL3-1B-hf"},
        "f": {"name_or_path": "OpenGVLab/InternVL2_5-4B", **by_vllm, "precisions": ["8bit"]},
    }
    told = problems(written(models=models))
    assert [line.split(":")[0] for line in told] == [
        "models.a",
        "models.b.trust_remote_code",
        "models.c",
        "models.d",
        "models.f.precisions",
    ]
    assert "transformers has no processor for it; take backend: vllm with trust_remote_code: true" in told[0]
    assert "read that, then set it to true" in told[1]
    assert "vLLM does not know it; serve it, for example with llama.cpp" in told[2]
    assert "vLLM makes no 8bit weights" in told[4]


@pytest.mark.usefixtures("with_vllm")
def test_the_study_has_twelve_models_whose_memory_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    folders = [f"tasks.{name}.task.path={tmp_path}" for name in ("vcr", "mmmu", "mathvista")]
    config = load_lab("study", folders)
    assert len(config.models) == 12
    # Seven in three precisions, five in one.
    assert len(cells(config)) == (7 * 3 + 5) * 3 * 2
    with pytest.raises(UserError) as caught:
        load_lab("study")
    assert "python -m pipeline fetch mmmu --to data gets it" in caught.value.problems[1]


def test_a_missing_package_is_told_before_anything_runs(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.importlib.util, "find_spec", lambda name: None)
    assert any("8bit needs bitsandbytes" in line for line in problems(written(precisions=["8bit"])))


def test_a_run_s_phase_goes_by_its_short_name_and_must_be_complete(tmp_path: Path, written: Any) -> None:
    for phase, status in (("base", "complete"), ("stage1_sft", "complete"), ("stage4_clgrpo", "running")):
        (tmp_path / "demo" / phase / "final").mkdir(parents=True)
        record = {"status": status, "checkpoint": "final", "files": {}}
        (tmp_path / "demo" / phase / "stage.json").write_text(json.dumps(record))
    run = str(tmp_path / "demo")
    models = {phase: {"run": run, "phase": phase} for phase in ("base", "stage1")}
    config = load_lab(written(models=models))
    assert model_folder(config.models["stage1"]) == tmp_path / "demo" / "stage1_sft" / "final"
    models |= {"c": {"run": run, "phase": "stage4"}, "d": {"run": run, "phase": "stage5"}}
    told = problems(written(models=models | {"e": {"run": str(tmp_path / "none")}}))
    assert any("stage4_clgrpo is running" in line for line in told)
    assert any("'stage5' is not a phase of it" in line for line in told)
    assert any("holds no run" in line for line in told)


def test_overrides_reach_into_a_lab(written: Any) -> None:
    config = load_lab(written(), ["tasks.val.split=val[:5]", "models.a.revision=v2"])
    assert (config.tasks["val"].split, config.models["a"].revision) == ("val[:5]", "v2")
