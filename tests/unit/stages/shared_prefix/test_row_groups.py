"""Rows of one prompt and one picture are found, packed and unpacked; a model in which that is not exact is named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.shared_prefix.attention import Groups, attend, why_not
from stages.shared_prefix.logprobs import gain
from stages.shared_prefix.rollouts import cut, distinct
from stages.shared_prefix.row_groups import join_rows, pad_kinds, same_rows, split_rows

FLAT = {"pixel_values": torch.arange(6.0)[:, None], "image_grid_thw": torch.tensor([[1, 1, 2], [1, 2, 1], [2, 1, 1]])}
"""Two rows: one picture of two cells, and two pictures of two cells each."""


def test_flat_pixels_are_split_by_the_image_tokens_of_a_row():
    one, other = split_rows(FLAT, image_tokens=[4, 8], images=[1, 2])
    assert one["pixel_values"].flatten().tolist() == [0, 1]
    assert other["pixel_values"].flatten().tolist() == [2, 3, 4, 5]
    assert [len(row["image_grid_thw"]) for row in (one, other)] == [1, 2]
    assert all(value.equal(FLAT[name]) for name, value in join_rows([one, other]).items())
    # As InternVL's, of which nothing else tells.
    tiles = {"pixel_values": FLAT["pixel_values"]}
    assert [len(row["pixel_values"]) for row in split_rows(tiles, image_tokens=[4, 8], images=[1, 2])] == [2, 4]


def test_a_row_without_an_image_has_no_pixels():
    rows = split_rows({"pixel_values": torch.ones(2, 3), "image_sizes": None}, image_tokens=[0, 5], images=[0, 1])
    assert [row["pixel_values"].shape[0] for row in rows] == [0, 2]


def test_rows_of_fewer_tiles_are_padded_with_empty_ones():
    rows = [
        {"pixel_values": torch.ones(1, tiles, 3, 2, 2), "pixel_attention_mask": torch.ones(1, tiles, 2, 2)}
        for tiles in (1, 3)
    ]
    joined = join_rows(rows)
    assert joined["pixel_values"].shape == (2, 3, 3, 2, 2)
    assert joined["pixel_values"].flatten(2).any(dim=2).tolist() == [[True, False, False], [True] * 3]
    assert joined["pixel_attention_mask"].flatten(2).any(dim=2).tolist() == [[True, False, False], [True] * 3]


def test_patches_are_split_by_their_grid_and_pictures_by_their_number():
    """Where tokens a picture are not alike, as when rows have as many pictures of other sizes."""
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 4, 4]])
    rows = split_rows(
        {"pixel_values": torch.arange(28.0)[:, None], "image_grid_thw": grid}, image_tokens=[9, 1], images=[1, 2]
    )
    assert [len(row["pixel_values"]) for row in rows] == [4, 24]
    rows = split_rows({"pixel_values": torch.ones(3, 3, 8, 8)}, image_tokens=[4, 16], images=[1, 2])
    assert [len(row["pixel_values"]) for row in rows] == [1, 2]


def test_pixels_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="cannot be told apart"):
        split_rows({"pixel_values": torch.ones(5, 3, 8, 8)}, image_tokens=[4, 8], images=[1, 1])


def test_pictures_that_differ_in_a_pixel_alone_are_other_groups():
    """Whether or not the pixel is among those that are looked at first."""
    for place in (0, 1, 4095):
        pictures = [torch.zeros(1, 1, 1, 64, 64) for _ in range(2)]
        pictures[1].view(-1)[place] = 1e-3
        assert same_rows([[1]] * 2, [{"pixel_values": one} for one in pictures]) == [[0], [1]]


def test_the_same_text_of_another_picture_is_another_group():
    pictures = [torch.zeros(1, 1, 3, 2, 2), torch.ones(1, 1, 3, 2, 2)]
    rows = [{"pixel_values": pictures[number]} for number in (0, 1, 0, 1, 0)]
    assert same_rows([[1, 2]] * 4 + [[1, 3]], rows) == [[0, 2], [1, 3], [4]]


def test_equal_keys_are_kept_once_and_found_again():
    firsts, back = distinct(["b", "a", "b", "c", "a"])
    assert firsts == [0, 1, 3]
    assert back == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("padded", [0, 2])
@pytest.mark.parametrize("rounded", [False, True])
def test_two_dense_attentions_are_the_one_over_the_whole_mask(rounded: bool, padded: int):
    """Rounded: under autocast, where a rotary embedding leaves queries and keys in float32 and values are in bfloat16."""
    prompt, segments, length = 5, 3, 4
    mask = torch.ones(2, prompt)
    mask[1, :padded] = 0
    groups = Groups.of(mask, segments, length)
    total = prompt - 1 + segments * length
    torch.manual_seed(0)
    states = [torch.randn(2, heads, total, 8) for heads in (4, 2, 2)]
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    if rounded:
        states[2] = states[2].bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        found, _ = attend(module, *states, None, groups=groups)
    segment = torch.tensor([0] * (prompt - 1) + [1 + number for number in range(segments) for _ in range(length)])
    whole = torch.ones(total, total, dtype=torch.bool).tril() & ((segment == 0) | (segment[:, None] == segment))
    seen = torch.cat([mask[:, : prompt - 1].bool(), torch.ones(2, segments * length, dtype=torch.bool)], dim=1)
    whole = (whole & seen[:, None]) | torch.eye(total, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        expected, _ = attend(module, *states, whole[:, None])
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() < (2e-2 if rounded else 1e-6)


@pytest.mark.parametrize("padded", [0, 2])
def test_prompts_without_padding_take_flash_attention_where_a_device_has_it(padded: int, monkeypatch):
    """On tensors without values, because no CPU has the kernel: which operations would be called, forward and backward."""
    monkeypatch.setattr("torch.nn.attention.bias.can_use_flash_attention", lambda parameters: True)
    mask = torch.ones(2, 5)
    mask[1, :padded] = 0
    groups = Groups.of(mask, 3, 4)
    if groups.prefix_mask is not None:
        groups = replace(groups, **{name: getattr(groups, name).to("meta") for name in ("prefix_mask", "segment_mask")})
    states = [torch.empty(2, heads, 16, 8, device="meta", requires_grad=True) for heads in (4, 2, 2)]
    called = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Recorder():
        found, _ = attend(SimpleNamespace(num_key_value_groups=2, is_causal=True), *states, None, groups=groups)
        found.sum().backward()
    assert found.shape == (2, 16, 4, 8)
    flash = [name for name in called if name.startswith("_scaled_dot_product_flash_attention")]
    assert flash == (
        [] if padded else ["_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward"]
    )


def test_what_sharing_saves_is_counted_in_tokens():
    mask = torch.ones(8, 350 + 32)
    assert gain([list(range(8))], mask, 32) == pytest.approx(8 * 382 / (349 + 8 * 32))
    assert gain([[row] for row in range(8)], mask, 32) == 0
    assert gain([[0, 1, 2, 3, 4, 5], [6], [7]], mask, 32) == pytest.approx(8 * 382 / (3 * (349 + 6 * 32)))


def _model(family: str = "idefics3", **text: object) -> SimpleNamespace:
    fields = {"_attn_implementation": "sdpa", **text}
    config = SimpleNamespace(model_type=family, get_text_config=lambda: SimpleNamespace(**fields))
    return SimpleNamespace(config=config, modules=lambda: [torch.nn.Dropout(0.0)])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_model(), None),
        (_model(layer_types=["full_attention"], sliding_window=4096), None),
        (_model("gemma3"), "no test holds that it is exact for gemma3"),
        (_model(_attn_implementation="flash_attention_2"), "flash_attention_2"),
        (_model(layer_types=["full_attention", "sliding_attention"]), "sliding_attention"),
        (_model(layer_types=["linear_attention"]), "linear_attention"),
        (_model(sliding_window=4096), "sliding_window"),
        (_model(output_router_logits=True), "auxiliary loss"),
        (_model(attention_dropout=0.1), "dropout"),
    ],
)
def test_a_model_in_which_sharing_is_not_exact_is_named(model: SimpleNamespace, words: str | None):
    reason = why_not(model)
    assert reason is None if words is None else words in str(reason)


def test_adapters_with_dropout_are_not_shared():
    model = _model()
    model.modules = lambda: [torch.nn.Dropout(0.05)]
    assert "dropout" in str(why_not(model))
    # The second is in no module.
    for field in ("lora_dropout", "module_dropout"):
        model = _model()
        model.peft_config = {"default": SimpleNamespace(**{field: 0.05})}
        assert f"model.peft.{field}: 0.05" in str(why_not(model))
        model.peft_config = {"default": SimpleNamespace(**{field: 0.0})}
        assert why_not(model) is None


def test_a_tower_whose_pictures_are_padded_is_not_shared():
    model = _model("llava")
    model.config.vision_config = SimpleNamespace(model_type="pixtral")
    assert "pixtral" in str(why_not(model))


def test_kinds_of_tokens_are_padded_as_tokens_are():
    row = {"mm_token_type_ids": torch.tensor([[1, 0]]), "pixel_values": torch.ones(1, 3)}
    padded = pad_kinds(row, 4, 2)
    assert padded["mm_token_type_ids"].tolist() == [[0, 0, 1, 0, 0, 0]]
    assert padded["pixel_values"] is row["pixel_values"]


@pytest.mark.parametrize(("tokens", "kept"), [([5, 7, 9, 7], [5, 7]), ([7], [7]), ([5, 6], [5, 6]), ([], [])])
def test_a_completion_ends_with_the_first_token_that_ends_it(tokens: list[int], kept: list[int]):
    assert cut(tokens, [7, 8]) == kept
