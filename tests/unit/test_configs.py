"""Every shipped configuration loads, breaks no rule, and names only options that the installed libraries have and accept.

These tests import the training libraries; nothing is downloaded and no weights are made.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from question_files import SCHEMAS

from cot_builder.teachers.config import OpenAIConfig, load_teacher
from pipeline import errors
from pipeline.checks import adapters, run
from pipeline.checks import trainer as checks_trainer
from pipeline.checks.evaluation import load_lab
from pipeline.conductor.run import open_task, plan
from pipeline.config import derived
from pipeline.config.evaluation import cells
from pipeline.config.families import FAMILIES as TESTED
from pipeline.config.loader import CONFIGS, load, shipped_configs, to_plain
from pipeline.config.trainer_options import DEFAULT_PEFT_TYPE, PEFT_TYPES, UNKNOWN, peft_fields, trainer_fields
from pipeline.data.load import load_task, task_names
from pipeline.files import differences, is_path
from pipeline.run_dir import RunDir
from pipeline.tasks import questions

RUNS = [str(path.relative_to(CONFIGS)) for path in shipped_configs()]
PRESETS = [name for name in RUNS if name.startswith("emoset/")]
MODELS = ["smolvlm_256m", "smolvlm_500m", "internvl3_1b", "qwen3_vl_2b"]
FAMILIES = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": ("idefics3", "Idefics3ForConditionalGeneration", "Idefics3Processor"),
    "HuggingFaceTB/SmolVLM-500M-Instruct": ("idefics3", "Idefics3ForConditionalGeneration", "Idefics3Processor"),
    "OpenGVLab/InternVL3-1B-hf": ("internvl", "InternVLForConditionalGeneration", "InternVLProcessor"),
    "OpenGVLab/InternVL3-8B-hf": ("internvl", "InternVLForConditionalGeneration", "InternVLProcessor"),
    "Qwen/Qwen3-VL-2B-Instruct": ("qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
}
"""Hub name: the model type, model class and processor class its files name."""
GPUS = 8


@pytest.fixture(autouse=True)
def _with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that vLLM is installed on, which presets for GPUs sample with."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: True if name == "vllm" else find(name, *rest))


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: GPUS)


@pytest.fixture
def emoset(tmp_path: Path) -> Path:
    """An empty set in EmoSet's layout."""
    labels = ["amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"]
    (tmp_path / "info.json").write_text(
        json.dumps({"emotion": {"label2idx": {name: i for i, name in enumerate(labels)}}})
    )
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").write_text("[]")
    return tmp_path


def trainer_class(algorithm: str) -> Any:
    import trl

    return {"sft": trl.SFTConfig, "grpo": trl.GRPOConfig}[algorithm]


def test_the_presets_are_those_the_readme_may_name() -> None:
    students = [f"emoset/{model}{variant}.yaml" for model in MODELS for variant in ("", "_lora", "_8gpu")]
    assert sorted(PRESETS) == sorted([*students, "emoset/internvl3_8b_labels.yaml"])
    assert len([name for name in RUNS if name.startswith("ablations/")]) == 14
    assert "demo.yaml" in RUNS


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("eight_gpus")
def test_every_shipped_config_loads_and_breaks_no_rule(
    name: str, emoset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where none of the parts lie that a user may have fetched, which need packages of their own.
    monkeypatch.chdir(tmp_path)
    config = load(name)
    settings = []
    # The data are the user's to bring; that they are missing is told, and nothing else.
    if config.task.path is not None:
        settings += [f"task.path={emoset}", *(f"held_out.{held}.task.path={emoset}" for held in config.held_out)]
    # Of a run that is to be made first.
    settings += [f"stages.{stage}.distill.teacher=hub/model" for stage in config.stages if config.stages[stage].distill]
    if config.model.name_or_path and is_path(config.model.name_or_path):
        settings.append("model.name_or_path=hub/model")
    config = load(name, settings)
    if missing := {held.task.name for held in config.held_out.values()} - set(task_names()):
        pytest.skip(f"pipeline/tasks has no {', '.join(missing)}")
    run.check(config)


@pytest.mark.parametrize(("splits", "pictures"), [((), 10), ((), 300), (("train", "test"), 8)])
def test_the_preset_for_own_pictures_fits_any_number_of_them(
    splits: tuple[str, ...], pictures: int, tmp_path: Path
) -> None:
    image = Image.new("RGB", (8, 6), "teal")
    for folder in [f"{split}/{label}" for split in splits or (".",) for label in ("cat", "dog", "own cat", "Ärger")]:
        (tmp_path / "my photos" / folder).mkdir(parents=True)
        for number in range(pictures):
            image.save(tmp_path / "my photos" / folder / f"IMG_{number:04}.png")
    config = load("own_images", [f"task.path={tmp_path}/my photos"])
    run.check(config)
    task = load_task(config.task, tmp_path / "cache")
    assert config.cot is not None
    cot = task.select(config.cot.split).rows
    for name, stage in config.all_stages.items():
        rows = cot if stage.data == "cot" else task.select(stage.split).rows
        least = stage.trainer["per_device_train_batch_size"] / stage.trainer.get("num_generations", 1)
        assert len(rows) >= least, name
        assert stage.algorithm == "sft" or not {row.id for row in rows} & {row.id for row in cot}
    assert task.select(config.evaluation.split).rows
    # It names a teacher that sees pictures, as an offline one has no annotation to write from.
    assert [type(load_teacher(name)) for name in config.cot.teachers] == [OpenAIConfig]


count = questions.count_kinds


@pytest.mark.parametrize("name", ["vlm_r1", "easy_r1", "llava", "mmmu_like"])
def test_the_preset_for_own_questions_plans_every_published_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Path] = []
    monkeypatch.setattr(questions, "count_kinds", lambda reader, files: counted.extend(files) or count(reader, files))
    schema = SCHEMAS[name]
    schema.write(tmp_path / "data", 40)
    config = load("own_questions", [f"task.path={tmp_path}/data", f"output_dir={tmp_path}/runs"])
    if name == "mmmu_like":
        keys = [f"stages.{stage}.split" for stage in config.stages if config.stages[stage].split != "train"]
        keys += ["cot.split", "baselines.sft_labels.split", "evaluation.split"]
        config = load(
            "own_questions",
            [f"task.path={tmp_path}/data", f"output_dir={tmp_path}/runs", *(f"{key}=validation" for key in keys)],
        )
    run.check(config)
    folder = RunDir(config.output_dir, config.name)
    said = plan(config, folder, open_task(config, folder, trains=True, quick=True))
    assert len(counted) == len(set(counted)) > 0, "reading 100,000 rows takes a second or more each time"
    assert schema.told in said
    assert said.count(f"gold {schema.answer}; ") == 2
    assert (f"  {'pictures':<24} train: all pictures usable\n" in said) == (name in ("vlm_r1", "llava"))
    assert said.count(schema.told) == said.count("\n  questions  ") == 1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_without_its_data_says_where_to_put_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: GPUS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError) as caught:
        run.check(load(name))
    told = "task.path: 'data/EmoSet-118K' does not exist; set it to the root of the emoset data"
    told += "; python -m pipeline fetch emoset --to data tells how to get it"
    assert caught.value.problems == [told]


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_option_names_and_defaults_read_from_source_are_those_of_the_real_class(algorithm: str) -> None:
    real = {field.name: field.default for field in dataclasses.fields(trainer_class(algorithm))}
    assert_same(trainer_fields(algorithm), real, computed={"optim", "include_for_metrics"})


@pytest.mark.parametrize("peft_type", PEFT_TYPES)
def test_peft_names_and_defaults_read_from_source_are_those_of_the_real_class(peft_type: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    assert kind.__name__ == PEFT_TYPES[peft_type][1]
    real = {field.name: field.default for field in dataclasses.fields(kind)}
    made = {field.name for field in dataclasses.fields(kind) if field.default_factory is not dataclasses.MISSING}
    # An enumeration is no literal.
    made |= {name for name, default in real.items() if isinstance(default, Enum)}
    assert_same(peft_fields(peft_type), real, computed=made)


def test_what_is_refused_by_name_is_known_to_peft() -> None:
    import peft

    known = {kind.value for kind in peft.PeftType}
    assert (set(PEFT_TYPES) | set(adapters.REFUSED_TYPES)) - set(adapters.BOTTLENECKS) <= known
    assert not known & set(adapters.BOTTLENECKS)
    assert set(adapters.REFUSED_FIELDS) <= set(peft_fields("LORA"))


def assert_same(read: dict[str, Any], real: dict[str, Any], computed: set[str]) -> None:
    assert set(read) == set(real)
    assert {name for name, default in read.items() if default is UNKNOWN} == computed
    assert {name: read[name] for name in real if name not in computed} == {
        name: default for name, default in real.items() if name not in computed
    }


def test_options_set_by_the_pipeline_itself_exist_in_the_libraries() -> None:
    both = set(trainer_fields("sft")) | set(trainer_fields("grpo"))
    for names in (checks_trainer.OWNED, checks_trainer.WHOLE, checks_trainer.POSITIVE, checks_trainer.NOT_NEGATIVE):
        assert set(names) - {"resume_from_checkpoint"} <= both


@pytest.mark.parametrize("name", RUNS)
def test_trl_accepts_every_trainer_block(name: str, tmp_path: Path) -> None:
    config = load(name)
    for stage in config.all_stages.values():
        made = trainer_class(stage.algorithm)(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **stage.trainer
        )
        for key, value in stage.trainer.items():
            found = getattr(made, key)
            assert getattr(found, "value", found) == value, key


@pytest.mark.parametrize("name", PRESETS)
def test_a_killed_job_of_a_gpu_preset_repeats_minutes(name: str) -> None:
    config = load(name)
    most = {"grpo": 60, "sft": 250 if "8b" in name else 100}
    for stage in config.all_stages.values():
        assert stage.trainer["save_steps"] <= most[stage.algorithm]
        assert stage.trainer["save_steps"] % derived.checkpoint_cycle(stage) == 0


@pytest.mark.parametrize("name", [name for name in RUNS if load(name).model.peft is not None])
def test_peft_accepts_every_peft_block(name: str) -> None:
    import peft

    block = load(name).model.peft
    assert block is not None
    made = peft.get_peft_config({"peft_type": DEFAULT_PEFT_TYPE, **block})
    for key, value in block.items():
        found = getattr(made, key)
        assert getattr(found, "value", found) == value, key


@pytest.mark.parametrize("path", sorted((CONFIGS / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
def test_deepspeed_accepts_every_shipped_json(path: Path, tmp_path: Path) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    arguments = trainer_class("sft")(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    settings = HfTrainerDeepSpeedConfig(str(path))
    settings.trainer_config_process(arguments)
    assert '"auto"' not in json.dumps(settings.config)
    made = DeepSpeedConfig(settings.config)
    assert (made.train_micro_batch_size_per_gpu, made.gradient_accumulation_steps) == (4, 2)
    assert made.zero_optimization_stage == int(re.findall(r"\d", path.stem)[0])
    assert (made.zero_config.offload_optimizer is not None) == path.stem.endswith("offload")
    assert made.zero_config.gather_16bit_weights_on_model_save == (made.zero_optimization_stage == 3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_variant_of_a_model_updates_on_the_same_global_batch(name: str) -> None:
    config = load(name)
    for stage in config.all_stages.values():
        batch = stage.trainer["per_device_train_batch_size"] * stage.trainer["gradient_accumulation_steps"]
        assert batch * (config.launch.num_processes or 1) == {"sft": 64, "grpo": 128}[stage.algorithm]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_sample_with_vllm_where_it_is_proven_and_leave_the_data_s_workers_to_the_machine(name: str) -> None:
    config = load(name)
    family = FAMILIES[config.model.name_or_path or ""][0]
    for stage in config.all_stages.values():
        proven = stage.algorithm == "grpo" and family in TESTED
        assert stage.rollouts == ("vllm" if proven else "transformers")
        assert "dataloader_num_workers" not in stage.trainer


@pytest.mark.parametrize("model", MODELS)
def test_variants_differ_from_their_model_only_in_what_they_are_named_for(model: str) -> None:
    full = to_plain(load(f"emoset/{model}"))
    lora = changed(full, to_plain(load(f"emoset/{model}_lora")))
    assert lora == {"name", "peft", "learning_rate"}
    eight = changed(full, to_plain(load(f"emoset/{model}_8gpu")))
    batches = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert {"name", "num_processes", "deepspeed"} <= eight <= {"name", "num_processes", "deepspeed"} | batches


def test_the_large_model_is_trained_on_labels_as_the_small_one_s_baseline_is() -> None:
    small, large = load("emoset/internvl3_1b_8gpu"), load("emoset/internvl3_8b_labels")
    assert (large.cot, large.stages, large.launch.deepspeed) == (None, {}, "zero3")
    # Its checkpoints are large.
    baseline = small.stage("sft_labels")
    baseline = dataclasses.replace(baseline, trainer={**baseline.trainer, "save_steps": 250})
    assert large.all_stages == {"baseline_sft_labels": baseline}
    assert (large.task, large.evaluation) == (small.task, small.evaluation)
    assert large.model.processor == small.model.processor


def test_every_cv_bench_preset_holds_its_test_rows_out_and_differs_only_in_its_strategy() -> None:
    lora = load("cv_bench_lora")
    assert lora.model.peft is not None
    assert (lora.model.peft["r"], lora.model.peft["lora_alpha"], lora.model.peft["lora_dropout"]) == (16, 32, 0.05)
    trainer = lora.stage("1").trainer
    published = {"learning_rate": 2e-4, "per_device_train_batch_size": 8, "num_train_epochs": 4}
    assert {key: trainer[key] for key in published} == published
    for name in ("lora", "dora", "ia3", "prompt_tuning", "distill"):
        config = load(f"cv_bench_{name}")
        assert [(held.task.name, held.split) for held in config.held_out.values()] == [("cv_bench", "test")]
        # All four kinds of question.
        assert (config.task.name, config.task.options) == ("spatial", {})
    assert changed(to_plain(lora), to_plain(load("cv_bench_dora"))) == {"name", "use_dora"}
    ia3 = changed(to_plain(lora), to_plain(load("cv_bench_ia3")))
    assert {"name", "peft_type", "learning_rate"} < ia3 < {
        *("name", "peft_type", "target_modules", "feedforward_modules", "learning_rate"),
        *("r", "lora_alpha", "lora_dropout", "anything"),
    }  # fmt: skip
    assert changed(to_plain(load("cv_bench_ia3")), to_plain(load("cv_bench_prompt_tuning"))) == {
        *("name", "peft_type", "target_modules", "feedforward_modules", "num_virtual_tokens", "learning_rate"),
    }  # fmt: skip


@pytest.mark.parametrize(("preset", "count"), [("lora", 4), ("ia3", 3)])
def test_adapters_of_cv_bench_presets_reach_the_language_model_alone(preset: str, count: int) -> None:
    net = skeleton("idefics3")
    pattern = (load(f"cv_bench_{preset}").model.peft or {})["target_modules"]
    names = [name for name, _ in net.named_modules() if re.fullmatch(pattern, name)]
    assert len(names) == count * 2
    assert all("text_model" in name for name in names)


def test_the_demo_sweep_is_three_models_four_tasks_two_precisions(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError) as caught:
        load_lab("demo", [f"models.{name}.run={tmp_path}/none" for name in ("base", "stage1", "stage4")])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"models.{n}" for n in ("base", "stage1", "stage4")
    ]
    for phase in ("base", "stage1_sft", "stage4_clgrpo"):
        (tmp_path / "run" / phase).mkdir(parents=True)
        record = {"status": "complete", "checkpoint": "final", "files": {}}
        (tmp_path / "run" / phase / "stage.json").write_text(json.dumps(record))
    lab = load_lab("demo", [f"models.{name}.run={tmp_path}/run" for name in ("base", "stage1", "stage4")])
    assert (len(lab.models), len(lab.tasks), len(lab.precisions), len(cells(lab))) == (3, 4, 2, 24)
    for task in lab.tasks.values():
        # Its options are those of the task.
        load_task(task.task, tmp_path / "cache")


def test_the_sweep_of_small_vlms_lacks_nothing_but_its_data(tmp_path: Path) -> None:
    tasks = ("cv_bench", "mmmu", "mathvista")
    if missing := set(tasks) - set(task_names()):
        pytest.skip(f"pipeline/tasks has no {', '.join(sorted(missing))}")
    lab = load_lab("small_vlms", [f"tasks.{name}.task.path={tmp_path}" for name in tasks])
    assert len(cells(lab)) == 4 * 3 * 3 * 2


def changed(old: Any, new: Any) -> set[str]:
    return {difference.split(":")[0].rpartition(".")[2] for difference in differences(old, new)}


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("clip_symmetric", (0.2, 0.2)),
        ("clip_high_tight", (0.2, 0.1)),
        ("clip_low_tight", (0.1, 0.2)),
        ("clip_both_tight", (0.1, 0.1)),
    ],
)
def test_an_ablation_differs_from_the_demo_only_in_the_clip_range_of_stage_4(
    name: str, clip: tuple[float, float]
) -> None:
    config = load(f"ablations/{name}")
    assert derived.clip_range(config.stage("4")) == clip
    assert changed(to_plain(load("demo_scenes")), to_plain(config)) <= {"name", "epsilon", "epsilon_high"}
    assert config.name == f"demo_{name}"


def test_the_demo_s_stage_4_is_the_tight_high_reading() -> None:
    assert load("demo_scenes").stages == load("ablations/clip_high_tight").stages


def test_the_distilled_student_and_its_baseline_differ_in_the_teacher_alone() -> None:
    config = load("demo_distill")
    alone, taught = config.stage("rows_alone"), config.stage("1")
    assert changed(to_plain(alone), to_plain(taught)) <= {"distill", "gate", "format_rate", "action"}
    # The teacher's tokenizer is made of the same rows.
    assert (config.task, config.cot, config.seed) == (load("demo").task, load("demo").cot, load("demo").seed)
    assert taught.distill is not None
    assert taught.distill.teacher == f"{load('demo').output_dir}/demo/stage4_clgrpo/final"


@pytest.mark.parametrize("model", MODELS)
def test_a_preset_s_model_and_processor_classes_are_in_the_installed_transformers(model: str) -> None:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MODEL_CLASSES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES as PROCESSOR_CLASSES

    kind, model_class, processor_class = FAMILIES[load(f"emoset/{model}").model.name_or_path or ""]
    assert MODEL_CLASSES[kind] == model_class
    assert PROCESSOR_CLASSES[kind] == processor_class
    assert hasattr(transformers, model_class)
    assert hasattr(transformers, processor_class)
    comment = (CONFIGS / "emoset" / f"{model}.yaml").read_text()
    assert f"# {model_class}, {processor_class}" in comment


@pytest.mark.parametrize("model", MODELS)
def test_lora_reaches_every_language_layer_and_nothing_else(model: str) -> None:
    from stages.models.loading import freeze

    net = skeleton(FAMILIES[load(f"emoset/{model}").model.name_or_path or ""][0])
    pattern = (load(f"emoset/{model}_lora").model.peft or {})["target_modules"]
    names = [name for name, _ in net.named_modules() if re.fullmatch(pattern, name)]
    # q, k, v, o, gate, up, down of two layers
    assert len(names) == 7 * 2
    freeze(net, ["vision"])
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert not [name for name in frozen if any(name.startswith(target) for target in names)]


def skeleton(kind: str) -> Any:
    """A model of this type with two layers a side, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(kind)
    config.text_config.pad_token_id = 0
    for part in (config.text_config, config.vision_config):
        for key in ("num_hidden_layers", "depth"):
            if hasattr(part, key):
                setattr(part, key, 2)
    if kind == "qwen3_vl":
        config.vision_config.deepstack_visual_indexes = [0]
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize(
    ("model", "tokens"), [("smolvlm_256m", 64), ("smolvlm_500m", 64), ("internvl3_1b", 256), ("qwen3_vl_2b", 234)]
)
def test_the_processor_arguments_limit_the_tokens_of_an_image(model: str, tokens: int, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    arguments = load(f"emoset/{model}").model.processor
    image = Image.new("RGB", (1024, 768), "teal")
    kind = FAMILIES[load(f"emoset/{model}").model.name_or_path or ""][0]
    as_published(kind).save_pretrained(tmp_path / "hub")
    published = image_tokens(AutoProcessor.from_pretrained(tmp_path / "hub"), kind, image)
    limited = AutoProcessor.from_pretrained(tmp_path / "hub", **arguments)
    assert image_tokens(limited, kind, image) == tokens < published
    # What a stage hands over keeps the limit for those who load it as it is.
    limited.save_pretrained(tmp_path / "final")
    assert image_tokens(AutoProcessor.from_pretrained(tmp_path / "final"), kind, image) == tokens


def as_published(kind: str) -> Any:
    """A processor with the image settings of the published checkpoint and a tokenizer that knows the image tokens alone."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    def tokenizer(*special: str, **named: str) -> Any:
        words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        more: dict[str, Any] = (
            {"additional_special_tokens": list(special)} if special else {"extra_special_tokens": named}
        )
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", **more
        )

    if kind == "idefics3":
        tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
        words = tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles)
        images = transformers.Idefics3ImageProcessor(
            size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}, do_image_splitting=True
        )
        return transformers.Idefics3Processor(images, words, image_seq_len=64)
    if kind == "internvl":
        words = tokenizer(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )
        images = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, min_patches=1, max_patches=12)
        return transformers.InternVLProcessor(images, words, transformers.InternVLVideoProcessor())
    images = transformers.Qwen2VLImageProcessor(
        size={"longest_edge": 16777216, "shortest_edge": 65536}, patch_size=16, temporal_patch_size=2, merge_size=2
    )
    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return transformers.Qwen3VLProcessor(images, words, transformers.Qwen3VLVideoProcessor())


def image_tokens(processor: Any, kind: str, image: Any) -> int:
    # Its processor writes one token per merged patch of the grid.
    if kind == "qwen3_vl":
        return int(processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"].prod()) // 4
    marker = {"idefics3": "<image>", "internvl": "<IMG_CONTEXT>"}[kind]
    ids = processor(text=[marker], images=[[image]], return_tensors="pt")["input_ids"]
    return int((ids == processor.tokenizer.convert_tokens_to_ids(marker)).sum())
