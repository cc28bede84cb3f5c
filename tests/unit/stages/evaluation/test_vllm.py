"""vLLM in the lab's own process: what it refuses of a row is that row's answer, and text is never a control token."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pipeline.config.evaluation import LabModel
from pipeline.errors import UserError
from stages.evaluation.backends import vllm
from stages.evaluation.backends.base import Checkpoint, Generation, GenerationRequest, SamplingParams
from stages.evaluation.backends.checkpoint import check_together
from stages.evaluation.backends.vllm import Offline


class FakeLLM:
    """Refuses a whole call when one of its chats cannot be laid out, as vllm.LLM.chat does."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.answered: list[Any] = []

    def get_tokenizer(self) -> None:
        return None

    def chat(self, chats: list[Any], sampling: list[Any], **how: Any) -> list[Any]:
        assert len(chats) == len(sampling)
        self.calls.append(chats)
        for chat in chats:
            for part in chat[0]["content"]:
                size = getattr(part.get("image_pil"), "size", (1, 1))
                if max(size) > 200 * min(size):
                    raise ValueError(
                        f"Failed to apply Qwen2VLProcessor: absolute aspect ratio must be smaller, got {size}"
                    )
                if len(part.get("text", "")) > 100:
                    raise ValueError("The decoder prompt (length 900) is longer than the maximum model length of 512.")
        self.answered += chats
        one = SimpleNamespace(text="awe", token_ids=[1], finish_reason="stop", cumulative_logprob=-1.0)
        return [SimpleNamespace(outputs=[one], prompt_token_ids=[1, 2]) for _ in chats]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Offline:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **how: how))
    monkeypatch.setattr(vllm, "read_completions", lambda tokenizer, prompts, ids: ["awe"] * len(ids))
    model = object.__new__(Offline)
    model._llm, model._batch_size, model._never, model._family = FakeLLM(), 4, None, "qwen3_vl"
    model._special = ["<image>", "<|im_end|>"]
    return model


def picture(path: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, "teal").save(path)
    return path


def ask(row_id: str, path: Path | None, text: str = "What?") -> GenerationRequest:
    return GenerationRequest(row_id, text, (path,) if path else ())


def said(model: Offline, asks: list[GenerationRequest]) -> dict[str, Generation]:
    return {one.id: one for batch in model.answer(asks, SamplingParams(8)) for one in batch}


@pytest.mark.parametrize(
    ("size", "bad"), [((2000, 9), [3]), ((9, 2000), [0, 9]), ((300, 1), [4, 5, 6]), ((1, 300), range(10))]
)
def test_a_picture_the_processor_refuses_is_a_row_with_a_reason(
    offline: Offline, tmp_path: Path, size: tuple[int, int], bad: Any
) -> None:
    good, odd = picture(tmp_path / "good.png", (8, 8)), picture(tmp_path / "odd.png", size)
    got = said(offline, [ask(str(n), odd if n in bad else good) for n in range(10)])
    assert len(got) == 10
    assert {row_id for row_id, one in got.items() if one.failed == "unfit_image"} == {str(n) for n in bad}
    assert all("aspect ratio" in got[str(n)].detail for n in bad)
    assert len(offline._llm.answered) == 10 - len(list(bad))


def test_a_prompt_that_is_too_long_and_a_damaged_picture_have_reasons_of_their_own(
    offline: Offline, tmp_path: Path
) -> None:
    good = picture(tmp_path / "good.png", (8, 8))
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:40])
    rows = [ask("long", good, "x" * 101), ask("words", None, "y" * 101), ask("broken", tmp_path / "broken.png")]
    got = said(offline, [*rows, ask("good", good)])
    assert {row_id: one.failed for row_id, one in got.items()} == {
        "long": "request_refused",
        "words": "request_refused",
        "broken": "unreadable_image",
        "good": None,
    }


def test_control_tokens_in_what_is_asked_are_words(offline: Offline, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", (8, 8))
    begun = GenerationRequest("2", "What is it?<|im_end|>", (good,), said="<think>An <image>.")
    said(offline, [ask("1", good, "<image>What is <|im_end|> in <image 1>?")])
    said(offline, [begun])
    (first,), (second,) = offline._llm.calls
    assert [part.get("text", "picture") for part in first[0]["content"]] == [
        "< image>What is < |im_end|> in",
        "picture",
        "?",
    ]
    assert second[0]["content"][1]["text"] == "What is it?< |im_end|>"
    assert second[1]["content"] == "<think>An < image>."


def test_marks_are_words_to_a_family_that_is_shown_its_pictures_before_the_text(
    offline: Offline, tmp_path: Path
) -> None:
    pictures = (picture(tmp_path / "first.png", (8, 8)), picture(tmp_path / "second.png", (8, 16)))
    marked = GenerationRequest("two", "Is <image 2> like <image 1>?", pictures)

    def shown() -> list[Any]:
        said(offline, [marked])
        content = offline._llm.calls[-1][0][0]["content"]
        return [part["text"] if part["type"] == "text" else part["image_pil"].size for part in content]

    assert shown() == ["Is", (8, 16), "like", (8, 8), "?"]
    offline._family = "llava"
    assert shown() == [(8, 8), (8, 16), "Is image 2 like image 1?"]


def test_a_model_that_is_code_of_its_own_is_known_to_see_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "internvl_chat"}')
    assert vllm._sees(Checkpoint(LabModel(str(tmp_path)), "bfloat16", tmp_path, {}))


@pytest.mark.parametrize(
    ("family", "options", "impl"),
    [
        ("llava", {}, "transformers"),
        ("qwen3_vl", {}, None),
        ("llava", {"model_impl": "vllm", "max_model_len": 512}, "vllm"),
        ("llava", {"mm_processor_kwargs": {"size": None}}, "transformers"),
    ],
)
def test_vllm_is_told_what_the_family_needs_and_the_users_options_win(
    family: str, options: dict[str, Any], impl: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    def llm(**arguments: Any) -> Any:
        made.update(arguments)
        config = SimpleNamespace(hf_config=SimpleNamespace(image_token_id=3))
        return SimpleNamespace(
            get_tokenizer=lambda: SimpleNamespace(all_special_tokens=["<image>"]), model_config=config
        )

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=llm))
    monkeypatch.setattr("os.environ", dict(os.environ))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    model = LabModel(str(tmp_path), backend="vllm", options=options)
    Offline(Checkpoint(model, "float32", tmp_path, {"processor": {"do_resize": False}}), 4, 2)
    assert made.get("model_impl") == impl
    # As much context as fits.
    assert made["max_model_len"] == options.get("max_model_len", -1)
    assert made["mm_processor_kwargs"] == {"do_resize": False, **options.get("mm_processor_kwargs", {})}


@pytest.mark.parametrize(
    ("family", "options", "backend", "reasoner", "refused"),
    [
        ("llava", {}, "transformers", "qwen3", True),
        ("llava", {}, "transformers", "llama", False),
        ("llava", {}, "vllm", "qwen3", False),
        ("llava", {"model_impl": "vllm"}, "transformers", "qwen3", False),
        ("qwen3_vl", {}, "transformers", "qwen3", False),
    ],
)
def test_a_reasoner_whose_class_vllm_changes_is_refused_beside_it(
    family: str, options: dict[str, str], backend: str, reasoner: str, refused: bool, tmp_path: Path
) -> None:
    for name, config in (
        ("sees", {"model_type": family, "text_config": {"model_type": "qwen3"}}),
        ("thinks", {"model_type": reasoner, "text_config": None}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    both = [
        Checkpoint(LabModel(name, backend=how, options=own), "float32", tmp_path / name, {})
        for name, how, own in (("sees", "vllm", options), ("thinks", backend, {}))
    ]
    asked = Checkpoint(LabModel("server", backend="openai"), "auto", None, {})
    with pytest.raises(UserError, match="take the same backend for both") if refused else contextlib.nullcontext():
        check_together([*both, asked])
