"""The cost model of a GRPO step counts what a model multiplies."""

from __future__ import annotations

import pytest

from benchmarks.grpo_step import SIZES, configured
from benchmarks.step_cost import Device, Model, least

ONE = Device(1.0, 1.0, 1)
"""So that seconds are operations and bytes."""


@pytest.mark.parametrize("shared", [False, True])
def test_arithmetic_is_that_of_the_model(shared: bool):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText

    group, prompt, completion = 4, 90, 16
    config, _, _ = configured(SIZES["mini"])
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    tokens = torch.full((1, prompt), 5)
    # Of 1,024 patches.
    tokens[0, :64] = config.image_token_id
    rest = torch.full((1, completion if not shared else group * completion), 5)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(
            input_ids=torch.cat([tokens, rest], dim=1),
            pixel_values=torch.ones(1, 1, 3, 512, 512),
            logits_to_keep=rest.shape[1],
        )
    found = counted.get_total_flops() * (1 if shared else group)
    expected = least(Model.of(config), (group, prompt, completion), ONE, shared)["score"] / 3
    # Attention of eager is a whole square.
    assert expected == pytest.approx(found, rel=0.05)


def test_what_a_step_moves():
    """By hand: a model of 10 text weights, 4 of them read twice, two prompts' keys and values."""
    model = Model(vision=0, text=10, head=4, patches=0, vision_attention=0, text_attention=0, cached=3, trained=14)
    slow = Device(1e9, 1.0, 2)
    found = least(model, (2, 6, 4), slow, shared=True)
    assert found["optimizer"] == 28 * 14
    assert found["generate"] == pytest.approx(4 * 2 * (10 + 4 + 3 * 2 * (6 + 2)), rel=1e-6)
    more = least(model, (2, 6, 4), slow, shared=True, asked=3)
    assert more["generate"] == pytest.approx(4 * 2 * (10 + 4 + 3 * 6 * (6 + 2)), rel=1e-6)
    assert least(model, (2, 6, 4), ONE, shared=True, checkpointing=True)["score"] == pytest.approx(
        4 / 3 * least(model, (2, 6, 4), ONE, shared=True)["score"]
    )
