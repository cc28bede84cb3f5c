"""VLMs composed of parts: every tower with every language model, what is measured and proven, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_parts
import torch
from tiny_parts import LANGUAGES, SIDE, TIMM, TOWERS, save_language, save_timm, save_tower

from pipeline.checks.model_folder import folder_problems
from pipeline.checks.parts import composition_problems
from pipeline.config.families import part_of
from pipeline.config.schema import ComposeConfig
from pipeline.errors import UserError
from pipeline.files import weights_digest
from stages.models import compose as composing
from stages.models.compose import compose
from stages.models.compose.assemble import assemble
from stages.models.compose.language import PREAMBLE, load_language
from stages.models.compose.proof import pictures, prove
from stages.models.compose.vision import load_tower, measure

MEASURED = {
    # Tokens before the patches, strategy, tokens of a picture of 32 pixels, pixels a token.
    "clip": (1, "default", 16, 8),
    "siglip": (0, "full", 16, 8),
    "dinov2": (1, "default", 16, 8),
    "dinov2_with_registers": (4, "default", 19, 8),
    "dinov3_vit": (3, "default", 18, 8),
    "vit": (1, "default", 16, 8),
    "mobilenet_v2": (0, "full", 4, 16),
    "resnet": (0, "full", 16, 8),
    "convnext": (0, "full", 16, 8),
}
OF = {name: model_type for model_type, names in TOWERS.items() for name in names}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of parts by name, each written once."""
    root = tmp_path_factory.mktemp("parts")

    def folder(name: str) -> Path:
        made = root / name
        if not made.is_dir():
            (save_timm if name in TIMM else save_language if name in (*LANGUAGES, "gpt2") else save_tower)(name, made)
        return made

    return folder


def composed(folder: Path, vision: Path, language: Path, **more: Any) -> Path:
    assert compose(folder, ComposeConfig(str(vision), str(language), **more), seed=0)
    return folder


@pytest.mark.parametrize("tower", sorted(OF))
def test_every_tower_is_read_as_it_is_and_learns(parts: Any, tmp_path: Path, tower: str) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = composed(tmp_path / "out", parts(tower), parts("llama"))
    config = json.loads((out / "config.json").read_text())
    processor = json.loads((out / "processor_config.json").read_text())
    leading, strategy, tokens, patch = MEASURED[tower]
    assert config["model_type"] == OF[tower]
    assert (config["image_seq_length"], processor["patch_size"]) == (tokens, patch)
    assert (processor["num_additional_image_tokens"], processor["vision_feature_select_strategy"]) == (
        leading,
        strategy,
    )
    assert config["vision_feature_select_strategy"] == strategy
    assert "auto_map" not in config
    assert sorted(path.suffix for path in out.iterdir() if path.suffix not in (".json", ".safetensors")) == [
        ".jinja",
        ".md",
    ]
    assert folder_problems(out) == []

    model, read = AutoModelForImageTextToText.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert {part_of(name) for name, _ in model.named_parameters()} == {"vision", "connector", "language"}
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}]
    text = read.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    inputs = read(
        text=[text] * 2, images=[[one] for one in pictures(48)], return_tensors="pt", add_special_tokens=False
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [tokens, tokens]
    model.eval()
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(**inputs, **how), model.generate(**inputs, **how, use_cache=False))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) == "connector")
    learner = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    losses = []
    for _ in range(4):
        loss = model(
            **inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
        ).loss
        learner.zero_grad()
        loss.backward()
        learner.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("tower", ["dinov2_with_registers", "mobilenet_v2"])
@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_model_composes(parts: Any, tmp_path: Path, tower: str, language: str) -> None:
    out = composed(tmp_path / "out", parts(tower), parts(language))
    assert json.loads((out / "config.json").read_text())["text_config"]["model_type"] == language


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(("tower", "tokens"), [(name, 4) for name in TIMM])
def test_convolutional_towers_of_timm_compose(parts: Any, tmp_path: Path, tower: str, tokens: int) -> None:
    out = composed(tmp_path / "out", parts(tower), parts("llama"), image_size=64)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["image_seq_length"]) == ("fast_vlm", tokens)


@pytest.mark.parametrize(("tied", "rows"), [(True, 0), (True, 40), (False, 0), (False, 40)])
def test_embeddings_grow_only_where_they_must_and_stay_tied_as_they_were(
    parts: Any, tmp_path: Path, tied: bool, rows: int
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    language = save_language("qwen2", tmp_path / "language", tied=tied, rows=rows)
    words = len(tiny_parts.tokenizer())
    out = composed(tmp_path / "out", parts("siglip"), language)
    was = load_file(language / "model.safetensors")
    rows_now = AutoModelForImageTextToText.from_pretrained(out).model.language_model.embed_tokens.weight.detach()
    assert rows_now.shape[0] == max(words + rows, words + 1)
    assert torch.equal(rows_now[: words + rows], was["model.embed_tokens.weight"])
    if rows == 0:
        torch.testing.assert_close(rows_now[-1], was["model.embed_tokens.weight"].mean(0))
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is tied
    written = load_file(out / "model.safetensors")
    assert any("lm_head" in name for name in written) is not tied
    assert config["image_token_index"] == words


def test_a_turn_ends_with_the_token_its_template_writes_whatever_the_files_call_the_end(
    parts: Any, tmp_path: Path
) -> None:
    out = composed(tmp_path / "out", parts("clip"), parts("llama"))
    end = 2
    files = {name: json.loads((out / name).read_text()) for name in ("config.json", "generation_config.json")}
    assert files["config.json"]["eos_token_id"] == files["config.json"]["text_config"]["eos_token_id"] == end
    assert files["generation_config.json"]["eos_token_id"] == end
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    card = (out / "README.md").read_text()
    assert "A turn ends with `<|im_end|>`. Its files name '<|im_start|>'." in card
    assert "the projector between the parts is random" in card


def test_the_preamble_reads_lists_and_leaves_strings_to_the_models_own_template() -> None:
    words = tiny_parts.tokenizer()
    own = words.chat_template
    strings = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A dog."}]
    lists = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    ]
    expected = words.apply_chat_template(strings, tokenize=False)
    for turns in (strings, lists, [strings[0], lists[1]]):
        assert words.apply_chat_template(turns, chat_template=PREAMBLE + own, tokenize=False) == expected
    with pytest.raises(Exception, match="reads pictures and texts, no video"):
        words.apply_chat_template(
            [{"role": "user", "content": [{"type": "video"}]}], chat_template=PREAMBLE + own, tokenize=False
        )


def test_a_language_model_without_a_template_gets_a_plain_one(parts: Any, tmp_path: Path) -> None:
    language = save_language("llama", tmp_path / "language", template=None)
    out = composed(tmp_path / "out", parts("clip"), language)
    assert "the language model has none" in (out / "README.md").read_text()


def test_the_vision_part_of_a_clip_is_taken(parts: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    whole = CLIPModel(CLIPConfig(vision_config={**small, "image_size": SIDE, "patch_size": 8}, text_config=small))
    tiny_parts.widen(whole.vision_model)
    whole.save_pretrained(tmp_path / "clip")
    tiny_parts.image_processor().save_pretrained(tmp_path / "clip")
    out = composed(tmp_path / "out", tmp_path / "clip", parts("llama"))
    tower = AutoModelForImageTextToText.from_pretrained(out).model.vision_tower.eval()
    shown = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        own, got = (one(shown).last_hidden_state for one in (whole.vision_model.eval(), tower))
    torch.testing.assert_close(got, own)


def test_heads_without_a_value_are_named_and_features_without_one_refused(parts: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def without(words: str) -> Path:
        folder = tmp_path / words
        shutil.copytree(parts("vit"), folder)
        file = folder / "model.safetensors"
        kept = {name: value for name, value in load_file(file).items() if words not in name}
        assert len(kept) < len(load_file(file))
        save_file(kept, file, {"format": "pt"})
        return folder

    out = composed(tmp_path / "out", without("pooler"), parts("llama"))
    assert "No value had, and none reads: pooler.dense.bias, pooler.dense.weight." in (out / "README.md").read_text()
    with pytest.raises(
        UserError, match=r"has no value for embeddings.patch_embeddings.projection.bias.*, on which its features"
    ):
        composed(tmp_path / "out2", without("patch_embeddings"), parts("llama"))
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("tower", "language", "more", "told"),
    [
        ("siglip2", "llama", {}, "not shown pixels alone but pixel_attention_mask, spatial_shapes too"),
        ("swin", "llama", {}, "swin"),
        ("clip", "gpt2", {}, "has no base model with embed_tokens and a head"),
        ("clip", "llama", {"image_size": 40}, "does not take pictures of 40 x 40 pixels .*its files name 32"),
        ("dinov2", "llama", {"image_size": 36}, "a side must be a multiple of the tower's patches, 8 pixels"),
        ("resnet", "llama", {"image_size": 36}, "36 x 36 pixels do not divide by the stride"),
        ("mobilenet_v2", "llama", {"image_size": 40}, "40 x 40 pixels do not divide by the stride .*likely 16"),
        ("clip", "llama", {"layer": 3}, "3 is none of the 3 hidden states"),
        ("resnet", "llama", {"layer": -2}, "of towers that give maps only the last one, -1"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(
    parts: Any, tmp_path: Path, tower: str, language: str, more: dict[str, int], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        composed(tmp_path / "out", parts(tower), parts(language), **more)
    assert list(tmp_path.iterdir()) == []


def test_dinov2_takes_other_sizes_and_layers(parts: Any, tmp_path: Path) -> None:
    out = composed(tmp_path / "out", parts("dinov2"), parts("llama"), image_size=48, layer=-1)
    config = json.loads((out / "config.json").read_text())
    assert (config["image_seq_length"], config["vision_feature_layer"]) == (36, -1)


def test_a_wrong_reading_and_a_blind_tower_are_found_by_the_proof(parts: Any, tmp_path: Path) -> None:
    tower, language = load_tower("siglip", parts("siglip")), load_language("llama", parts("llama"))
    reading = measure(tower)
    wrong = dataclasses.replace(reading, strategy="default")
    assemble(tmp_path, tower, wrong, language, seed=0)
    with pytest.raises(UserError, match="its processor makes 15 tokens of a picture, the tower 16"):
        prove(tmp_path, tower, reading, language)

    # As a random convolutional tower is, whose figures die away from layer to layer.
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with torch.no_grad():
        tower.model.embeddings.patch_embedding.weight.mul_(1e-8)
    assemble(tmp_path, tower, reading, language, seed=0)
    with pytest.raises(UserError, match="the tower shows the language model nothing"):
        prove(tmp_path, tower, reading, language)

    # Another language model than the one it was composed of.
    with torch.no_grad():
        language.model.model.norm.weight.mul_(1.5)
    with pytest.raises(UserError, match=r"the logits of .* differ from the language model's"):
        prove(tmp_path, tower, reading, language)


def test_a_stopped_composition_leaves_nothing_that_looks_done_and_the_next_one_ends(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(composing, "prove", stop)
        with pytest.raises(KeyboardInterrupt):
            composed(tmp_path / "out", parts("clip"), parts("llama"))
    assert list(tmp_path.iterdir()) == []
    # As kill -9 leaves it: half a folder, beside the lock that went with its process.
    half = tmp_path / ".out.composing"
    half.mkdir()
    (half / "pytorch_model.bin").touch()
    (tmp_path / ".out.lock").touch()
    out = composed(tmp_path / "out", parts("clip"), parts("llama"))
    assert list(tmp_path.iterdir()) == [out]
    assert not (out / "pytorch_model.bin").exists()


def test_the_same_again_is_left_alone_and_something_else_is_refused(parts: Any, tmp_path: Path) -> None:
    out = composed(tmp_path / "out", parts("clip"), parts("llama"))
    same = ComposeConfig(str(parts("clip")), str(parts("llama")))
    digest = weights_digest(out)
    assert compose(out, same, seed=0) is False
    assert compose(tmp_path / "other", same, seed=0)
    assert weights_digest(tmp_path / "other") == digest
    for other, seed in ((dataclasses.replace(same, layer=-1), 0), (same, 1)):
        with pytest.raises(UserError, match="holds something else"):
            compose(out, other, seed)
    assert weights_digest(out) == digest


def test_every_mistake_in_the_parts_is_told_at_once(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"architecture": "tf_efficientnet_lite0", "pretrained_cfg": {}}')
    (bare / "a.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = list(composition_problems(ComposeConfig(str(bare), str(bare), image_size=0)))
    assert told == [
        "model.compose.image_size: 0 must be at least 1 pixel",
        f"model.compose.vision: {str(bare)!r} needs the package timm; pip install -c requirements.lock timm",
        f"model.compose.vision: {str(bare)!r} has no *.safetensors; save_pretrained() of the model writes such",
        f"model.compose.language: {str(bare)!r} needs the package gguf; pip install -c requirements.lock gguf",
    ]
    assert list(composition_problems(ComposeConfig("./no", "hub/id"))) == [
        "model.compose.vision: './no' does not exist"
    ]
    assert list(composition_problems(ComposeConfig(str(parts("clip")), str(parts("llama"))))) == []


def test_the_page_on_families_says_of_every_tower_and_language_model_that_it_composes() -> None:
    from pipeline.files import ROOT

    section = (ROOT / "docs" / "families.md").read_text().split("## Composed of parts")[1].split("\n## ")[0]
    rows = {line.split("|")[1].strip(" `"): line for line in section.splitlines() if line.startswith("|")}
    for model_type, towers in TOWERS.items():
        for tower in towers:
            assert f"`{tower}`" in rows[model_type]
        for language in LANGUAGES:
            assert f"`{language}`" in rows[model_type]
    assert all(f"`{tower}`" in rows["fast_vlm"] for tower in TIMM)


def test_a_folder_with_a_tower_of_timm_says_that_timm_is_missing(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = composed(tmp_path / "out", parts("resnet"), parts("llama"))
    config = json.loads((out / "config.json").read_text())
    config["vision_config"]["model_type"] = "timm_wrapper"
    (out / "config.json").write_text(json.dumps(config))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "timm" else found(name, *more))
    assert folder_problems(out) == ["needs the package timm; pip install -c requirements.lock timm"]
