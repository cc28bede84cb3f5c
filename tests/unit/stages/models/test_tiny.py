"""The tiny models of every family, and what is taken care of where a processor is loaded."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from pipeline.checks import chat_files
from pipeline.checks.model_folder import folder_problems
from pipeline.config.families import FIRST, PLACES, REFUSED, model_type, tiny_families
from pipeline.config.schema import ModelConfig, RunConfig, TinyConfig
from pipeline.data.conversations import assistant_turn, in_order, user_turn
from pipeline.data.questions.image_marks import pictures_first
from pipeline.data.questions.prompting import PROMPT_STYLES
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from pipeline.scoring.response import render
from stages.checkpoints import base_model
from stages.models import chat, loading
from stages.models.tiny import build_tiny
from stages.processes.work import Work
from stages.training.sft_trainer import TextCollator

CONFIG = RunConfig(name="run", model=ModelConfig())
TEXTS = ["Which emotion? <think>A park. It's bright.</think> <answer>joy</answer>"] * 3
SMALL = {"hidden_size": 64, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 64, "vision_layers": 1}


@pytest.fixture(scope="module", params=tiny_families())
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of each family."""
    folder: Path = tmp_path_factory.mktemp("tiny") / request.param
    build_tiny(folder, TinyConfig(family=request.param, vocab_size=330, **SMALL), TEXTS, seed=0)
    return folder


def test_a_tiny_checkpoint_is_of_its_family_and_whole(built: Path):
    from transformers import AutoModelForImageTextToText

    assert model_type(built) == built.name
    _, info = AutoModelForImageTextToText.from_pretrained(built, output_loading_info=True)
    assert not any(info.values()), info
    assert (built / "generation_config.json").is_file()


def test_a_reloaded_tokenizer_writes_and_reads_every_text(built: Path):
    tokenizer = loading.load_processor(built, CONFIG).tokenizer
    for text in (*TEXTS, "Grüße, 你好 \n\t é", "unseen  words, 12345"):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokens) == text
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_an_image_takes_as_many_tokens_as_the_model_makes_features(built: Path):
    import torch
    from transformers import AutoModelForImageTextToText

    processor = loading.load_processor(built, CONFIG)
    text = processor.apply_chat_template(user_turn("Which?"), add_generation_prompt=True)
    images = [[Image.new("RGB", size, "red")] for size in ((64, 64), (128, 64), (48, 96))]
    inputs = processor(text=[text] * 3, images=images, return_tensors="pt", padding=True, add_special_tokens=False)
    model = AutoModelForImageTextToText.from_pretrained(built)
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_rows_of_no_one_and_two_pictures_say_in_one_batch_what_they_say_alone(built: Path):
    import torch
    from transformers import AutoModelForImageTextToText

    assert built.name in PLACES
    noise = torch.Generator().manual_seed(0)
    shapes = ((64, 64), (64, 128), (96, 48))
    drawn = [torch.randint(0, 255, (*shape, 3), generator=noise, dtype=torch.uint8).numpy() for shape in shapes]
    one, two, three = map(Image.fromarray, drawn)
    processor, rows = loading.load_processor(built, CONFIG), [[one], [], [two, three]]
    texts = [chat.prompt_text(processor, user_turn("Which?", len(images))) for images in rows]
    how = {"return_tensors": "pt", "padding": True, "add_special_tokens": False}
    model = AutoModelForImageTextToText.from_pretrained(built).eval()
    with torch.no_grad():
        together = model(**processor(text=texts, images=rows, **how)).logits
        for text, images, logits in zip(texts, rows, together, strict=True):
            alone = model(**processor(text=[text], images=[images] if images else None, **how)).logits[0]
            torch.testing.assert_close(logits[-len(alone) :], alone, rtol=1e-5, atol=1e-5)


def test_every_processor_pads_on_the_left_whatever_its_checkpoint_says(built: Path):
    path = built / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "right"}))
    processor = loading.load_processor(built, CONFIG)
    assert processor.tokenizer.padding_side == "left"
    text = processor.apply_chat_template(user_turn("Which?"), add_generation_prompt=True)
    images = [[Image.new("RGB", size, "red")] for size in ((64, 64), (64, 64))]
    batch = processor(text=[text, f"{text} and more"], images=images, return_tensors="pt", padding=True)
    shorter = batch["attention_mask"][0]
    assert shorter[0] == 0
    # What GRPOTrainer takes from here must mark the image's tokens.
    if "mm_token_type_ids" in batch:
        image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert ((batch["input_ids"] == image) == (batch["mm_token_type_ids"] == 1)).all()


@pytest.mark.parametrize(
    ("prompt", "images", "words"),
    [
        ("Which?", 0, ["Which?"]),
        ("Is it <image 2> or <image 1>?", 2, ["Is it", "or", "?"]),
        ("Which?", 2, ["", "", "Which?"]),
        ("Like <image 1>?", 3, ["", "", "Like", "?"]),
    ],
)
def test_pictures_stand_at_their_marks_in_training_as_in_rollouts(
    built: Path, prompt: str, images: int, words: list[str]
):
    if PLACES[built.name] == FIRST:
        prompt, words = pictures_first(prompt), [""] * images + [pictures_first(prompt)]
    processor, turns = loading.load_processor(built, CONFIG), user_turn(prompt, images)
    pictures = in_order(prompt, [Image.new("RGB", (64, 64), name) for name in ("red", "green", "blue")[:images]])
    ids = list(chat.tokens_of(processor, chat.prompt_text(processor, turns), pictures))
    assert ids == chat.rollout_tokens(processor, turns, pictures)
    # Template and processor put line breaks and tags of their own around each.
    runs = itertools.groupby(ids, key=lambda number: number == processor.image_token_id)
    read = [processor.tokenizer.decode(list(run), skip_special_tokens=True) for seen, run in runs if not seen]
    assert len(read) == images + 1
    assert all(word in text for text, word in zip(read, words, strict=True))
    assert sum(bool(word) for word in words) == sum(text.count(word) for text in read for word in set(words) if word)


def test_of_rows_of_no_one_and_two_pictures_the_answers_alone_are_trained_on(built: Path):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = loading.load_processor(built, CONFIG)
    collate = TextCollator(processor, DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True))
    answers = {"Which?": 1, "Why <think>?": 0, "Is it <image 2> or <image 1>?": 2}
    rows = [
        {
            "prompt": user_turn(prompt, images),
            "images": [Image.new("RGB", (64, 64), "red")] * images,
            "completion": assistant_turn(f"joy {images}"),
        }
        for prompt, images in answers.items()
    ]
    batch = collate(rows)
    assert batch["pictures"].tolist() == [1, 0, 2]
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        trained = ids[labels != -100]
        assert trained.equal(labels[labels != -100])
        text = processor.tokenizer.decode(trained)
        assert text == chat.answer_text(processor, row["prompt"], row["completion"][0]["content"][0]["text"])
        alone = chat.tokens_of(processor, chat.prompt_text(processor, row["prompt"]), row["images"])
        assert ids[: int((labels != -100).int().argmax())].tolist() == list(alone)


@pytest.mark.parametrize("style", PROMPT_STYLES)
def test_a_row_of_sft_is_laid_out_as_trl_does(built: Path, style: str):
    processor, turns = loading.load_processor(built, CONFIG), user_turn("Which?")
    response = render("A park.", "joy") if style == "think" else "joy"
    conversation = {"prompt": turns, "completion": assistant_turn(response)}
    picture = Image.new("RGB", (64, 64), "red")
    shown = {**conversation, "prompt": prepare_multimodal_messages(turns, images=[picture])}
    expected = apply_chat_template(shown, processor)
    assert chat.prompt_text(processor, turns) == expected["prompt"]
    assert chat.answer_text(processor, turns, response) == expected["completion"]
    assert folder_problems(built) == chat_files.chat_problems(built) == []


SETTINGS = {
    "idefics3": {"do_image_splitting": True, "size": {"longest_edge": 128}},
    "smolvlm": {"do_image_splitting": True, "size": {"longest_edge": 128}},
    "qwen2_vl": {"max_pixels": 1024},
    "qwen2_5_vl": {"max_pixels": 1024},
    "qwen3_vl": {"max_pixels": 1024},
    "internvl": {"max_patches": 1},
    "llava": {"size": {"height": 32, "width": 32}},
    "fast_vlm": {"size": {"height": 32, "width": 32}},
}


def test_the_settings_of_model_processor_act_and_are_handed_on(built: Path, tmp_path: Path):
    configured = RunConfig(name="run", model=ModelConfig(processor=SETTINGS[built.name]))
    default, changed = (loading.load_processor(built, config) for config in (CONFIG, configured))
    changed.save_pretrained(tmp_path)
    handed_on = loading.load_processor(tmp_path, CONFIG)
    image = Image.new("RGB", (128, 64), "red")
    text = default.apply_chat_template(user_turn("Which?"), add_generation_prompt=True)
    lengths = [
        len(one(text=[text], images=[[image]], add_special_tokens=False)["input_ids"][0])
        for one in (default, changed, handed_on)
    ]
    assert lengths[0] != lengths[1] == lengths[2]


def test_a_processor_that_needs_a_missing_package_is_a_users_error(monkeypatch: pytest.MonkeyPatch):
    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("requires the torchvision library: `pip install torchvision`\nmore")

    monkeypatch.setattr(loading.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(UserError, match="needs a package that is not installed: requires the torchvision"):
        loading.load_processor(Path("checkpoint"), CONFIG)


def test_the_default_is_the_demos_idefics3():
    assert TinyConfig().family == "idefics3"
    assert not set(REFUSED) & set(tiny_families())


def test_a_hub_checkpoint_of_a_refused_family_is_refused_once_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    monkeypatch.setattr(base_model, "find_model", lambda model: tmp_path)
    config = RunConfig(name="run", model=ModelConfig(name_or_path="google/paligemma"))
    with pytest.raises(
        UserError, match=r"'google/paligemma' is a paligemma, which is refused: TRL 1\.16 cannot train PaliGemma"
    ):
        base_model.make_base_model(Work(config, "base", RunDir(tmp_path, "run")))


def test_paligemmas_processor_is_still_as_trl_cannot_use_it():
    from transformers import GemmaTokenizer, PaliGemmaProcessor, SiglipImageProcessor

    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(images, GemmaTokenizer())
    assert processor.chat_template is None
    with pytest.raises(ValueError, match="`images` are expected"):
        # As SFTTrainer tokenizes a completion.
        processor(text=["joy"])
    inputs = processor(text=["<image>"], images=[[Image.new("RGB", (32, 32))]])
    # Zero is the prefix; GRPOTrainer writes it for completions too.
    assert set(inputs["token_type_ids"][0]) == {0}
