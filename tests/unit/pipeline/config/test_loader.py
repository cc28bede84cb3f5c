"""Loading a run's YAML: every misfit is told at once, with its key and the nearest right one; overrides and bases merge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.loader import CONFIGS, find_config, load, load_typed, shipped_configs, to_plain
from pipeline.config.schema import EvaluationConfig, GateConfig, RunConfig
from pipeline.errors import UserError

SMALL = """
name: small
task: {name: scenes}
stages:
  stage1_sft: {algorithm: sft, init_from: base, data: cot, trainer: {learning_rate: 1e-5}}
  stage3_grpo_accuracy: {algorithm: grpo, init_from: stage1, trainer: {beta: 0.1, learning_rate: 1e-6}}
baselines: {sft_labels: {algorithm: sft, init_from: base, data: labels}}
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path, SMALL)


def problems(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(file, overrides)
    return caught.value.problems


def test_what_a_file_leaves_out_has_the_schema_s_default(small: Path) -> None:
    config = load(small)
    assert (config.output_dir, config.seed, config.cot, config.model.dtype) == ("runs", 0, None, "auto")
    assert config.stages["stage1_sft"].split == "train"


def test_a_loaded_configuration_cannot_be_changed(small: Path) -> None:
    config = load(small)
    with pytest.raises(AttributeError):
        config.seed = 3  # type: ignore[misc]


def test_numbers_such_as_1e_5_are_numbers_in_files_and_overrides(small: Path) -> None:
    assert load(small).stages["stage1_sft"].trainer["learning_rate"] == 1e-5
    trainer = load(small, ["stages.stage1_sft.trainer.learning_rate=2e-6"]).stages["stage1_sft"].trainer
    assert trainer["learning_rate"] == 2e-6
    trainer = (
        load(small, ["stages.stage1_sft.trainer={learning_rate: 3E-7, betas: [1e-1, 2e-1]}"])
        .stages["stage1_sft"]
        .trainer
    )
    assert (trainer["learning_rate"], trainer["betas"]) == (3e-7, [0.1, 0.2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed: 1", ["sed is not a known key", "did you mean seed?"]),
        ("task: {nam: scenes}", ["task.nam is not a known key", "did you mean name?"]),
        ("model: {tiny: {hiden_size: 64}}", ["model.tiny.hiden_size", "did you mean hidden_size?"]),
        ("stages: {stage1_a: {algoritm: sft}}", ["stages.stage1_a.algoritm", "did you mean algorithm?"]),
        ("cot: {teacher: [a]}", ["cot.teacher", "did you mean teachers?"]),
        ("baselines: {mine: {reward: [a]}}", ["baselines.mine.reward", "did you mean"]),
        ("qqq: 1", ["qqq is not a known key", "the keys here are name, output_dir"]),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest_right_one(tmp_path: Path, text: str, words: list[str]) -> None:
    told = problems(write(tmp_path, text))
    assert any(all(word in problem for word in words) for problem in told), told


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=abc", "seed: 'abc' must be a whole number"),
        ("seed=1.5", "seed: 1.5 must be a whole number"),
        ("seed=true", "seed: True must be a whole number"),
        ("launch.num_processes=two", "launch.num_processes: 'two' must be a whole number"),
        ("model.trust_remote_code=maybe", "model.trust_remote_code: 'maybe' must be true or false"),
        ("task.labels=joy", "task.labels: 'joy' must be a list, for example [joy]"),
        ("task.labels=[yes]", "task.labels[0]: True must be text; YAML reads this word as a truth value, so quote it"),
        ("task.aliases={joy: happy}", "task.aliases.joy: 'happy' must be a list"),
        ("task.options=3", "task.options: 3 must be a mapping of keys"),
        ("task.question=a: b", "task.question: {'a': 'b'} must be text"),
        ("stages.stage1.freeze=vision", "stages.stage1_sft.freeze: 'vision' must be a list"),
        ("cot=7", "cot: 7 must be a block of keys"),
        ("name.x=1", "name: {'x': 1} must be text"),
        ("name=null", "name is missing; set it"),
        ("task={path: '???'}", "task.path is missing; set it"),
        ("task.options={a: [1, '???']}", "task.options.a.1 is missing; set it"),
        ("task.aliases={1: [one]}", "task.aliases: the key 1 must be text, so quote it"),
    ],
)
def test_a_value_of_a_wrong_type_is_told_with_its_key_and_what_it_must_be(
    small: Path, override: str, words: str
) -> None:
    told = problems(small, override)
    assert len(told) == 1
    assert words in told[0]
    assert str(small) in told[0]


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    told = problems(write(tmp_path, "sed: 1\nseed: x\ntask: {}\nstages: {stage1_a: {init_from: 3, freeze: no}}"))
    text = "\n".join(told)
    for words in (
        "sed is not",
        "seed: 'x'",
        "task.name is missing",
        "name is missing",
        "stages.stage1_a.algorithm is missing",
    ):
        assert words in text
    assert "stages.stage1_a.freeze: False must be a list" in text
    assert len(told) == 6


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_an_empty_file_says_what_is_missing(tmp_path: Path, text: str) -> None:
    told = "\n".join(problems(write(tmp_path, text)))
    assert "name is missing; set it" in told
    assert "task.name is missing; set it" in told


@pytest.mark.parametrize(
    "text", ["name: [unclosed", "a: b: c", "name: x\nname: y", "\tname: x"], ids=["bracket", "nested", "twice", "tab"]
)
def test_broken_yaml_is_a_user_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    told = problems(write(tmp_path, text))
    assert "run.yaml: not readable as YAML" in told[0]


def test_a_file_that_is_not_text_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    assert "not readable as YAML" in problems(path)[0]


def test_a_list_instead_of_keys_is_a_user_error(tmp_path: Path) -> None:
    assert "must be a mapping of keys, not a list" in problems(write(tmp_path, "- a\n- b"))[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", {"seed": 7}),
        ("baselines={}", {"baselines": {}}),
        ("task.labels=[joy, '1']", {"task.labels": ["joy", "1"]}),
        ("task.question='Which one: a or b?'", {"task.question": "Which one: a or b?"}),
        ("task.question=x=y", {"task.question": "x=y"}),
        ("task.path=", {"task.path": None}),
        ("stages.stage1_sft.split=train[:70%]", {"stages.stage1_sft.split": "train[:70%]"}),
        ("model.peft={r: 4}", {"model.peft": {"r": 4}}),
        ("model.peft.lora_alpha=32", {"model.peft": {"lora_alpha": 32}}),
        ("cot={teachers: [a]}", {"cot.teachers": ["a"]}),
    ],
)
def test_an_override_reads_its_value_as_yaml(small: Path, override: str, expected: dict[str, object]) -> None:
    plain = to_plain(load(small, [override]))
    for key, value in expected.items():
        found: object = plain
        for part in key.split("."):
            found = found[part]  # type: ignore[index]
        assert found == value


def test_an_override_of_one_option_leaves_its_neighbours(small: Path) -> None:
    trainer = load(small, ["stages.stage3_grpo_accuracy.trainer.beta=0"]).stages["stage3_grpo_accuracy"].trainer
    assert trainer == {"beta": 0, "learning_rate": 1e-6}


def test_the_last_of_two_overrides_wins(small: Path) -> None:
    assert load(small, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("short", ["3", "stage3", "stage3_grpo_accuracy"])
def test_an_override_may_name_a_stage_by_any_of_its_names(small: Path, short: str) -> None:
    config = load(small, [f"stages.{short}.trainer.beta=0.5"])
    assert list(config.stages) == ["stage1_sft", "stage3_grpo_accuracy"]
    assert config.stages["stage3_grpo_accuracy"].trainer["beta"] == 0.5


@pytest.mark.parametrize("name", ["stage3_grpo_acuracy", "stage9", "9", "3_grpo"])
def test_an_override_of_a_stage_that_is_not_there_names_those_there_are(small: Path, name: str) -> None:
    told = problems(small, f"stages.{name}.trainer.beta=0.5")
    assert f"'{name}' is not one of this run's stages" in told[0]
    assert "stage3_grpo_accuracy" in told[0]


def test_malformed_overrides_are_told_together(small: Path) -> None:
    told = problems(small, "seed", "=3", "a..b=1", "a[0=1", "task.question={", "seed=1")
    assert [problem.split(": ")[0] for problem in told[:4]] == [
        "override 'seed' is not of the form a.b=c",
        "override '=3' is not of the form a.b=c",
        "override 'a..b=1' is not of the form a.b=c",
        "override 'a[0=1' is not of the form a.b=c",
    ]
    assert len(told) == 5


def test_a_file_changes_what_it_names_of_its_base(tmp_path: Path, small: Path) -> None:
    top = write(tmp_path, "base: run.yaml\nname: top\nstages: {stage3_grpo_accuracy: {trainer: {beta: 0}}}", "top.yaml")
    config = load(top)
    assert (config.name, config.task.name) == ("top", "scenes")
    assert config.stages["stage3_grpo_accuracy"].trainer == {"beta": 0, "learning_rate": 1e-6}
    assert list(config.stages) == ["stage1_sft", "stage3_grpo_accuracy"]


def test_a_file_may_name_a_stage_of_its_base_by_number(tmp_path: Path, small: Path) -> None:
    top = write(tmp_path, "base: run.yaml\nstages: {stage3: {trainer: {beta: 0}}, 1: {freeze: [vision]}}", "top.yaml")
    config = load(top)
    assert list(config.stages) == ["stage1_sft", "stage3_grpo_accuracy"]
    assert config.stages["stage3_grpo_accuracy"].trainer["beta"] == 0
    assert config.stages["stage1_sft"].freeze == ["vision"]


def test_a_stage_that_a_file_took_away_is_meant_by_its_full_name_alone(tmp_path: Path, small: Path) -> None:
    grpo = "{algorithm: grpo, init_from: stage1}"
    other = write(
        tmp_path, f"base: run.yaml\nstages: {{stage3_grpo_accuracy: null, stage3_other: {grpo}}}", "other.yaml"
    )
    assert load(other, ["stages.3.split=val"]).stages["stage3_other"].split == "val"
    further = write(tmp_path, "base: other.yaml\nstages: {stage3: {split: val}}", "further.yaml")
    assert list(load(further).stages) == ["stage1_sft", "stage3_other"]
    assert load(further).stages["stage3_other"].split == "val"
    again = load(other, [f"stages.stage3_grpo_accuracy={grpo}"])
    assert list(again.stages) == ["stage1_sft", "stage3_grpo_accuracy", "stage3_other"]
    assert "there are: stage1_sft, stage3_other" in problems(other, "stages.stage9.split=val")[0]


def test_a_file_may_add_a_stage_to_its_base(tmp_path: Path, small: Path) -> None:
    top = write(tmp_path, "base: run.yaml\nstages: {stage4_more: {algorithm: grpo, init_from: stage3}}", "top.yaml")
    assert list(load(top).stages)[-1] == "stage4_more"


def test_a_stage_that_is_added_to_a_base_stands_where_its_number_belongs(tmp_path: Path) -> None:
    """A stage0 that aligns a composed student's projector before a preset's stage1 came last, and was refused."""
    plain = "{algorithm: sft, init_from: base}"
    write(tmp_path, f"task: {{name: scenes}}\nstages: {{stage1_a: {plain}, stage3_c: {plain}}}", "low.yaml")
    added = f"stage10_z: {plain}, stage0_x: {plain}, stage2_b: {plain}"
    text = f"base: low.yaml\nname: x\nstages: {{{added}, stage1_a: {{init_from: stage0}}}}"
    config = load(write(tmp_path, text, "high.yaml"))
    assert list(config.stages) == ["stage0_x", "stage1_a", "stage2_b", "stage3_c", "stage10_z"]
    assert config.stages["stage1_a"].init_from == "stage0"
    # A name that the checks refuse does not get lost.
    odd = write(tmp_path, f"base: low.yaml\nname: x\nstages: {{other: {plain}}}", "odd.yaml")
    assert list(load(odd).stages) == ["stage1_a", "stage3_c", "other"]
    # What one file says, it may say in an order of its own.
    written = write(tmp_path, f"name: own\ntask: {{name: scenes}}\nstages: {{stage2_b: {plain}, stage1_a: {plain}}}")
    assert list(load(written).stages) == ["stage2_b", "stage1_a"]


def test_of_several_bases_the_last_wins(tmp_path: Path, small: Path) -> None:
    write(tmp_path, "seed: 1\nmodel: {dtype: float32}", "a.yaml")
    write(tmp_path, "seed: 2", "b.yaml")
    config = load(write(tmp_path, "base: [run.yaml, a.yaml, b.yaml]\nname: top", "top.yaml"))
    assert (config.name, config.seed, config.model.dtype) == ("top", 2, "float32")


def test_a_base_is_found_beside_the_file_that_names_it(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    top = write(tmp_path / "inner", "base: ../run.yaml", "top.yaml")
    monkeypatch.chdir("/")
    assert load(top).name == "small"


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "base: b.yaml", "a.yaml")
    write(tmp_path, "base: a.yaml", "b.yaml")
    assert "in a circle" in problems(tmp_path / "a.yaml")[0]


def test_a_missing_base_is_told_with_the_file_that_names_it(tmp_path: Path) -> None:
    told = problems(write(tmp_path, "base: nowhere.yaml"))
    assert "run.yaml: base: nowhere.yaml does not exist beside it; a base is named as seen from the file" in told[0]


@pytest.mark.parametrize("base", ["emoset/smolvlm_500m.yaml", "demo"])
def test_a_base_of_configs_that_is_named_from_elsewhere_is_told_in_full(tmp_path: Path, base: str) -> None:
    (told,) = problems(write(tmp_path, f"base: {base}\nname: own"))
    cure = told.rpartition("; write ")[2]
    assert load(write(tmp_path, f"{cure}\nname: own")).name == "own"


def test_a_file_that_does_not_fit_on_its_base_is_a_user_error(tmp_path: Path, small: Path) -> None:
    assert "does not fit on its base" in problems(write(tmp_path, "base: run.yaml\nstages: [1]", "top.yaml"))[0]


def test_what_was_loaded_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    config = load("demo_scenes", ["stages.4.trainer.learning_rate=1e-7"])
    again = load(write(tmp_path, yaml.safe_dump(to_plain(config), sort_keys=False)))
    assert again == config


def test_a_config_goes_by_path_or_by_its_name_in_configs() -> None:
    assert find_config("demo_scenes") == find_config("demo_scenes.yaml")
    assert find_config("emoset/smolvlm_256m").name == "smolvlm_256m.yaml"


def test_a_misspelt_config_names_the_nearest_shipped_one() -> None:
    with pytest.raises(UserError, match=r"did you mean configs/emoset/smolvlm_256m\.yaml\?"):
        find_config("emoset/smolvlm_256.yaml")
    with pytest.raises(UserError, match=r"shipped: .*demo\.yaml"):
        find_config("demmo")


def test_parts_of_presets_and_teachers_are_not_listed_as_runs() -> None:
    names = [path.name for path in shipped_configs()]
    assert "demo_scenes.yaml" in names
    assert not [name for name in names if name.startswith("_") or name == "attribute.yaml"]


def test_a_stage_answers_to_its_number_its_short_and_its_full_name(small: Path) -> None:
    config = load(small)
    for short in ("3", "stage3", "stage3_grpo_accuracy"):
        assert config.stage_name(short) == "stage3_grpo_accuracy"
        assert config.stage(short).algorithm == "grpo"
    for short in ("baseline", "sft_labels", "baseline_sft_labels"):
        assert config.stage_name(short) == "baseline_sft_labels"
        assert config.stage(short).data == "labels"
    for unknown in ("2", "stage", "stage33", ""):
        with pytest.raises(UserError, match="is not one of this run's stages"):
            config.stage_name(unknown)


SEVERAL = "baselines: {sft: {algorithm: sft, init_from: base}, grpo: {algorithm: grpo, init_from: base}}"


def test_of_several_baselines_each_answers_to_its_name_and_none_to_baseline(tmp_path: Path) -> None:
    config = below(tmp_path, SEVERAL, "baselines.sft_labels=null", "baselines.grpo.split=val")
    assert [config.stage_name(short) for short in ("sft", "baseline_grpo")] == ["baseline_sft", "baseline_grpo"]
    assert config.stage("grpo").split == "val"
    with pytest.raises(UserError, match=r"stage 'baseline' may be baseline_sft or baseline_grpo; write which"):
        config.stage_name("baseline")
    (told,) = problems(tmp_path / "run.yaml", "baselines.grp.split=val")
    assert "'grp' is not one of this run's baselines; did you mean grpo? there are: sft_labels, sft, grpo" in told


def test_the_former_key_of_one_baseline_is_read_in_files(tmp_path: Path) -> None:
    former = SMALL.replace("baselines: {sft_labels: {", "baseline: {").replace("labels}}", "labels}")
    assert load(write(tmp_path, former)) == load(write(tmp_path, SMALL, "now.yaml"))
    assert below(tmp_path, "baseline: {split: val}").stage("baseline").split == "val"
    assert below(tmp_path, "baseline: null").baselines == {}
    (told,) = problems(write(tmp_path, f"baseline: {{}}\n{SEVERAL}"))
    assert told.endswith("baseline: is the former key of baselines.sft_labels; move it there")


@pytest.mark.parametrize("word", ["baseline.split=val", "baseline=null"])
def test_the_former_key_of_one_baseline_is_refused_on_the_command_line(small: Path, word: str) -> None:
    (told,) = problems(small, word)
    assert told == f"override {word!r}: a run may have several baselines; write " + (
        "baselines.sft_labels.split" if "split" in word else "baselines.sft_labels"
    )


def test_numbers_where_text_or_a_fraction_is_wanted_become_that(small: Path) -> None:
    config = load(small, ["task.labels=[1, 2.5]", "alarms.kl=1", "task.path=7", "cot.weights={a: 2}"])
    assert (config.task.labels, config.task.path, config.alarms.kl) == (["1", "2.5"], "7", 1.0)
    assert config.cot is not None
    assert [type(number) for number in (config.alarms.kl, config.cot.weights["a"])] == [float, float]


def test_one_file_as_a_dataclass_takes_whole_numbers_and_1e_5_for_floats(tmp_path: Path) -> None:
    from cot_builder.teachers.config import OpenAIConfig

    teacher = load_typed(OpenAIConfig, write(tmp_path, "model: m\ntemperature: 1\ntop_p: 1e-1"))
    assert (teacher.temperature, teacher.top_p) == (1.0, 0.1)
    with pytest.raises(UserError, match=r"temperatur is not a known key; did you mean temperature\?"):
        load_typed(OpenAIConfig, write(tmp_path, "temperatur: 1"))


def test_loading_and_checking_never_import_torch(repo_root: Path) -> None:
    code = (
        "import sys; from pipeline.checks.run import check; from pipeline.config.loader import load; check(load('demo'));"
        "print([name for name in ('torch', 'transformers', 'trl', 'deepspeed', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folder_of_all_runs_may_stand_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("demo_scenes", ["output_dir=~/runs"]).output_dir == str(tmp_path / "runs")
    assert load("demo_scenes", ["output_dir='~'"]).output_dir == str(tmp_path)
    assert load("demo_scenes", ["output_dir=a~b"]).output_dir == "a~b"


def below(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    """A file that stands on a shipped one, loaded."""
    (tmp_path / "run.yaml").write_text(f"base: {CONFIGS / 'demo_scenes.yaml'}\n{text}")
    return load(tmp_path / "run.yaml", overrides)


@pytest.mark.parametrize(
    "words", [["task.name=imagefolder", "task.path=birds"], ["task.path=birds", "task.name=imagefolder"]]
)
def test_another_task_drops_what_was_set_for_the_one_before(words: list[str]) -> None:
    task = load("demo_scenes", words).task
    assert (task.name, task.path, task.options) == ("imagefolder", "birds", {})


def test_a_file_that_names_another_task_drops_what_was_set_for_the_one_before(tmp_path: Path) -> None:
    assert below(tmp_path, "task: {name: imagefolder, path: birds}").task.options == {}
    assert below(tmp_path, "task: {options: {train: 9}}").task.options["val"] == 200
    assert below(tmp_path, "task: {name: scenes, options: {train: 9}}").task.options["val"] == 200


def test_an_empty_mapping_drops_what_is_inherited(tmp_path: Path) -> None:
    assert load("demo_scenes", ["task.options={}"]).task.options == {}
    assert below(tmp_path, "task: {options: {}}").task.options == {}
    assert below(tmp_path, "stages: {}\ncot: null\nbaseline: null").stages == {}
    assert below(tmp_path, "stages: {stage1: {trainer: {}}}").stages["stage1_sft"].trainer == {}


def test_null_puts_the_default_back_and_takes_an_entry_out(tmp_path: Path) -> None:
    assert load("demo_scenes", ["task.options=null"]).task.options == {}
    assert load("demo_scenes", ["evaluation=null"]).evaluation == EvaluationConfig()
    assert load("demo_scenes", ["stages.stage3.gate=null"]).stages["stage3_grpo_accuracy"].gate == GateConfig()
    assert "stage4_clgrpo" not in below(tmp_path, "stages: {stage4: null}").stages
    assert "stage4_clgrpo" not in load("demo_scenes", ["stages.stage4=null"]).stages
    # A trainer's own null reaches it.
    assert (
        load("demo_scenes", ["stages.stage3.trainer.epsilon_high=null"])
        .stages["stage3_grpo_accuracy"]
        .trainer["epsilon_high"]
        is None
    )


def test_a_key_that_must_be_set_is_missing_when_it_is_null() -> None:
    with pytest.raises(UserError, match=r"task\.name is missing"):
        load("demo_scenes", ["task.name=null"])
