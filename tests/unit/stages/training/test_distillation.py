"""Distillation from logits, on tiny random models: the formula, which tokens count, how it is normalised, what is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from trl import SFTConfig

from pipeline.config.schema import DistillConfig, ModelConfig, RunConfig, StageConfig, TaskConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from stages.models import loading
from stages.models.tiny import build_tiny
from stages.processes.work import Work
from stages.training.distillation import LogitsTeacher, load_teacher, token_losses
from stages.training.sft_trainer import SupervisedTrainer

STAGE = "stage1_sft"
TEXTS = ["Which emotion? joy"] * 20
SIZES: dict[str, Any] = {"image_size": 32, "vocab_size": 384, "vision_hidden_size": 32, "vision_layers": 1, "layers": 1}
STUDENT, LARGER = ({**SIZES, "hidden_size": size, "intermediate_size": size} for size in (32, 64))
LORA = {"r": 2, "target_modules": r".*text_model.*\.(q_proj|v_proj)"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, and a larger model of its tokens and pictures with other weights."""
    root = tmp_path_factory.mktemp("models")
    build_tiny(root / "student", TinyConfig(**STUDENT), TEXTS, 0)
    build_tiny(root / "teacher", TinyConfig(**LARGER), TEXTS, 1)
    return root


def rows() -> Any:
    from datasets import Dataset

    columns = {
        "prompt": [user_turn("Which emotion?" * (number + 1)) for number in range(4)],
        "completion": [[{"role": "assistant", "content": "joy " * (number % 3 + 1)}] for number in range(4)],
        "images": [[number] for number in range(4)],
    }
    return Dataset.from_dict(columns).with_transform(
        lambda read: {
            **read,
            "images": [[Image.new("RGB", (32, 32), (60 * one, 99, 0)) for one in images] for images in read["images"]],
        }
    )


def work_of(folders: Path, distill: DistillConfig | None = None, **model: Any) -> Work:
    stage = StageConfig(algorithm="sft", init_from="base", data="labels", prompt="direct", distill=distill)
    config = RunConfig(
        name="run",
        output_dir=str(folders),
        task=TaskConfig(name="scenes", options={"seed": 0, "train": 8, "val": 8, "test": 8, "size": 32}),
        stages={STAGE: stage},
        model=ModelConfig(**model),
    )
    return Work(config, STAGE, RunDir(folders, "run"))


def trainer(folders: Path, scratch: Path, teacher: LogitsTeacher | None, **model: Any) -> Any:
    work = work_of(folders, **model)
    args = SFTConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=None,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    processor = loading.load_processor(folders / "student", work.config)
    made = SupervisedTrainer(
        teacher=teacher,
        model=str(folders / "student"),
        args=args,
        train_dataset=rows(),
        processing_class=processor,
        peft_config=loading.peft_config(work, processor.tokenizer),
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def taught_by(folders: Path, name: str, weight: float, temperature: float) -> LogitsTeacher:
    model, problems = loading.load_model(folders / name, work_of(folders).config, "float32")
    assert problems == []
    return LogitsTeacher(model, weight, temperature)


def batch_of(by: Any, *numbers: int) -> Any:
    return by._prepare_inputs(by.data_collator([by.train_dataset[number] for number in numbers]))


def step(by: Any, *parts: tuple[int, ...]) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, gradients) of one optimizer step over these micro-batches."""
    by.model.zero_grad()
    batches = [batch_of(by, *part) for part in parts]
    tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    loss = sum(by.training_step(by.model, batch, tokens) for batch in batches)
    return float(loss), {name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None}


def figures(by: Any) -> dict[str, float]:
    return {name: values[-1] for name, values in by._metrics["train"].items()}


def test_a_token_s_two_losses_are_those_computed_by_hand():
    student = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    cross_entropy, kl = token_losses(student, teacher, torch.tensor([0, 1]), 1.0)
    # Of (1/4, 3/4) and (1/2, 1/2).
    assert cross_entropy.tolist() == pytest.approx([math.log(4), math.log(2)])
    expected = [
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),
        0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5),
    ]
    assert kl.tolist() == pytest.approx(expected)
    root = math.sqrt(3.0)
    halved = 0.5 * math.log(0.5 * (1 + root)) + 0.5 * math.log(0.5 * (1 + root) / root)
    assert token_losses(student, teacher, torch.tensor([0, 1]), 2.0)[1][0].item() == pytest.approx(halved)


@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_logits_beyond_those_that_both_have_are_in_no_divergence(wider: str):
    shared = {"student": [0.0, math.log(3.0)], "teacher": [0.0, 0.0]}
    logits = {name: torch.tensor([[*row, 5.0] if name == wider else row]) for name, row in shared.items()}
    cross_entropy, kl = token_losses(logits["student"], logits["teacher"], torch.tensor([0]), 1.0)
    assert kl.item() == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    # Of a token of the student's own everything counts, so that nothing is left beyond the tokens.
    assert cross_entropy.item() == pytest.approx(math.log(4 + math.exp(5) * (wider == "student")))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_formula_over_the_supervised_tokens_alone(folders: Path, tmp_path: Path, temperature: float):
    teacher = taught_by(folders, "teacher", 0.25, temperature)
    by = trainer(folders, tmp_path, teacher)
    batch = batch_of(by, 0, 1, 2, 3)
    fields = {name: value for name, value in batch.items() if name not in ("labels", "pictures")}
    with torch.no_grad():
        student, taught = (model(**fields).logits[:, :-1] for model in (by.model, teacher.model))
    cross_entropy, kl, tokens = 0.0, 0.0, 0
    labels = batch["labels"][:, 1:]
    for row, place in (labels != -100).nonzero().tolist():
        cross_entropy -= student[row, place].log_softmax(-1)[labels[row, place]].item()
        p, q = ((one[row, place] / temperature).softmax(-1) for one in (taught, student))
        kl += (p * (p.log() - q.log())).sum().item()
        tokens += 1
    loss, grads = step(by, (0, 1, 2, 3))
    assert 0 < tokens < labels.numel()
    assert kl / tokens > 0.01
    assert loss == pytest.approx((0.75 * cross_entropy + 0.25 * temperature**2 * kl) / tokens, rel=1e-5)
    assert figures(by)["distill/cross_entropy"] == pytest.approx(cross_entropy / tokens, rel=1e-5)
    assert figures(by)["distill/kl"] == pytest.approx(kl / tokens, rel=1e-5)
    assert grads
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not teacher.model.training


@pytest.mark.parametrize("model", [{}, {"peft": LORA}])
def test_a_student_that_is_its_teacher_learns_as_plain_sft_does(folders: Path, tmp_path: Path, model: dict[str, Any]):
    plain = trainer(folders, tmp_path, None, **model)
    loss, grads = step(plain, (0, 1, 2, 3))
    by = trainer(folders, tmp_path, taught_by(folders, "student", 0.25, 2.0), **model)
    distilled, found = step(by, (0, 1, 2, 3))
    assert figures(by)["distill/kl"] == pytest.approx(0, abs=1e-6)
    assert distilled == pytest.approx(0.75 * loss, rel=1e-5)
    assert found.keys() == grads.keys()
    for name, expected in grads.items():
        torch.testing.assert_close(found[name], 0.75 * expected, rtol=1e-4, atol=1e-6)
    same = ("entropy", "mean_token_accuracy", "num_tokens", "labels/tokens")
    assert [figures(by)[name] for name in same] == pytest.approx([figures(plain)[name] for name in same], rel=1e-5)


def test_micro_batches_of_other_sizes_make_the_same_step(folders: Path, tmp_path: Path):
    by = trainer(folders, tmp_path, taught_by(folders, "teacher", 0.5, 2.0))
    loss, grads = step(by, (0, 1, 2, 3))
    split, parts = step(by, (0,), (1, 2, 3))
    assert split == pytest.approx(loss, rel=1e-5)
    for name, expected in grads.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=1e-6)


def test_a_teacher_in_bfloat16_is_given_pixels_in_bfloat16_and_says_nearly_the_same(folders: Path, tmp_path: Path):
    teacher = taught_by(folders, "teacher", 0.5, 1.0)
    by = trainer(folders, tmp_path, teacher)
    batch = batch_of(by, 0, 1)
    del batch["pictures"]
    exact = teacher.logits(batch)
    teacher.model.bfloat16()
    rounded = teacher.logits(batch)
    assert rounded.dtype == torch.bfloat16
    assert 0 < float((rounded - exact).abs().max()) < 0.02 * float(exact.abs().max())
    step(by, (0, 1))
    assert figures(by)["distill/kl"] > 0


def test_a_batch_without_a_supervised_token_moves_nothing(folders: Path, tmp_path: Path):
    by = trainer(folders, tmp_path, taught_by(folders, "teacher", 0.5, 1.0))
    batch = batch_of(by, 0, 1)
    batch["labels"][:] = -100
    loss = by.training_step(by.model, batch, torch.tensor(3))
    assert float(loss) == 0
    assert all(not one.grad.any() for one in by.model.parameters() if one.grad is not None)


def asked(folders: Path, teacher: Path) -> LogitsTeacher | None:
    work = work_of(folders, DistillConfig(teacher=str(teacher), weight=0.3, temperature=4.0))
    processor = loading.load_processor(folders / "student", work.config)
    return load_teacher(work, folders / "student", processor, load_task(work.config.task, work.run.cache))


def test_a_larger_model_of_the_same_tokens_and_pictures_is_loaded_to_teach(folders: Path):
    teacher = asked(folders, folders / "teacher")
    assert teacher is not None
    assert (teacher.weight, teacher.temperature, teacher.model.training) == (0.3, 4.0, False)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert load_teacher(work_of(folders), folders / "student", None, None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({}, ["has other tokens than the student: ", "differ (first: ", "tokenizer"]),
        ({"family": "smolvlm"}, ["is a smolvlm, and the student", "idefics3", "the student's family"]),
        ({"image_size": 64}, ["is shown row", "as another input_ids", "pixel_values", "set model.processor"]),
    ],
)
def test_what_cannot_teach_by_its_logits_is_refused_with_the_reason(
    folders: Path, tmp_path: Path, sizes: dict[str, Any], words: list[str]
):
    # Of the same sizes only its tokens, learned from other texts, are another's.
    texts = TEXTS if sizes else ["What mood? fear"] * 20
    build_tiny(tmp_path / "other", TinyConfig(**{**LARGER, **sizes}), texts, 1)
    with pytest.raises(UserError) as caught:
        asked(folders, tmp_path / "other")
    problems = caught.value.problems
    assert all(told.startswith(f"stages.{STAGE}.distill.teacher: '{tmp_path}/other' ") for told in problems)
    assert all(word in problems[0] for word in words), problems


def test_a_teacher_without_some_of_its_weights_is_refused(folders: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders / "teacher", tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / "model.safetensors")
    del weights["model.connector.modality_projection.proj.weight"]
    save_file(weights, tmp_path / "torn" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"torn' has missing keys: model\.connector.*take a whole checkpoint"):
        asked(folders, tmp_path / "torn")
