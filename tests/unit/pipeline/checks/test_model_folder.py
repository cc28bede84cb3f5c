"""A model's folder that no stage could start from is refused before anything runs, with everything that is wrong in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checks.model_folder import chat_template, folder_problems, safetensors_problem

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
    "{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tensors(file: Path, lost: int = 0) -> None:
    """Write a file of one tensor, without its last bytes."""
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {"format": "pt"}}
    ).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(16)
    file.write_bytes(whole[: len(whole) - lost])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a model that can be trained, as text."""
    (tmp_path / "config.json").write_text('{"model_type": "idefics3"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Idefics3ImageProcessor"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    tensors(tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_with_all_files_is_accepted(folder: Path) -> None:
    assert folder_problems(folder) == []


def lose(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, text: str, *lost: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lose(*lost)(folder)
        (folder / name).write_text(text)

    return change


def cut(*sizes: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for number, lost in enumerate(sizes):
            tensors(folder / ("model.safetensors" if not number else f"more-{number}.safetensors"), lost)

    return change


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 513028808\n"
INDEX = '{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose("config.json"), ["has no config.json", "copy it"]),
        (write("config.json", "{"), ["config.json is not JSON", "fetch it again"]),
        (write("config.json", POINTER), ["config.json is not JSON", "git lfs pull"]),
        (write("config.json", "[]"), ["config.json holds no mapping"]),
        (write("config.json", "{}"), ["names no model_type", "vision-language"]),
        (write("config.json", '{"model_type": "qwen2"}'), ["is a qwen2", "pictures and text", "docs/families.md"]),
        (write("config.json", '{"model_type": "clip"}'), ["is a clip"]),
        (write("config.json", '{"model_type": "own", "auto_map": {"AutoModelForCausalLM": "m.M"}}'), ["is a own"]),
        (write("config.json", '{"model_type": "paligemma"}'), ["is a paligemma, which is refused"]),
        (write("config.yaml", "name: x", "config.json"), ["is a run", "stage4_clgrpo/final"]),
        (write("adapter_config.json", "{}"), ["holds an adapter", "merge"]),
        (lose("model.safetensors"), ["has no *.safetensors"]),
        (write("pytorch_model.bin", "", "model.safetensors"), ["as pytorch_model.bin", "save_pretrained"]),
        (write("model-Q4.gguf", "", "model.safetensors"), ["as model-Q4.gguf", "only safetensors"]),
        (write("model.safetensors", ""), ["no whole safetensors file: it has 0 bytes"]),
        (write("model.safetensors", POINTER), ["model.safetensors", "git lfs pull"]),
        (write("model.safetensors", "<html>404</html>"), ["no whole safetensors file"]),
        (cut(1), ["model.safetensors is cut off", "it has", "fetch it again"]),
        (cut(16 + 10), ["no whole safetensors file"]),
        (cut(0, 8), ["more-1.safetensors is cut off"]),
        (write("model.safetensors.index.json", INDEX), ["lacks model-1-of-2.safetensors and 1 more", "index.json names"]),
        (write("model.safetensors.index.json", "{"), ["model.safetensors.index.json is not JSON"]),
        (lambda folder: (folder / "model.safetensors").rename(folder / "a.safetensors"), ["neither model.safetensors nor"]),
        (lose("tokenizer.json"), ["has no tokenizer"]),
        (lose("preprocessor_config.json"), ["has no image processor", "AutoProcessor.from_pretrained"]),
        (write("preprocessor_config.json", "{"), ["preprocessor_config.json is not JSON"]),
        (write("processor_config.json", "{"), ["processor_config.json is not JSON"]),
        (lose("chat_template.jinja"), ["has no chat template", "copy the one of"]),
        (write("tokenizer_config.json", '{"chat_template": null}', "chat_template.jinja"), ["has no chat template"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_cure(folder: Path, change: Callable[[Path], None], words: list[str]) -> None:
    change(folder)
    (problem,) = folder_problems(folder)
    for word in words:
        assert word in problem


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    lose("preprocessor_config.json", "chat_template.jinja", "tokenizer.json", "config.json")(folder)
    cut(3, 3)(folder)
    assert len(folder_problems(folder)) == 6


@pytest.mark.parametrize(
    "change",
    [
        write("config.json", '{"model_type": "own", "auto_map": {"AutoModelForImageTextToText": "m.M"}}'),
        write("config.json", '{"model_type": "llava_onevision"}'),
        write("processor_config.json", '{"image_processor": {}}', "preprocessor_config.json"),
        write("tokenizer.model", "", "tokenizer.json"),
        write("vocab.json", "", "tokenizer.json"),
        cut(0, 0, 0),
        write("pytorch_model.bin", ""),
    ],
)
def test_a_folder_laid_out_otherwise_is_accepted(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    assert folder_problems(folder) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template.jinja", "x"),
        ("chat_template.json", {"chat_template": "x"}),
        ("processor_config.json", {"chat_template": "x"}),
        ("tokenizer_config.json", {"chat_template": "x"}),
        ("tokenizer_config.json", {"chat_template": [{"name": "tools", "template": "y"}, {"name": "default", "template": "x"}]}),
        ("processor_config.json", {"chat_template": {"default": "x"}}),
    ],
)  # fmt: skip
def test_a_chat_template_is_found_where_transformers_finds_it(tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    assert chat_template(tmp_path) == "x"


def test_an_empty_file_of_no_tensor_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    assert safetensors_problem(tmp_path / "a.safetensors") is None
