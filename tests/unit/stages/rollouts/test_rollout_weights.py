"""A rollout by a model that trains in mixed precision: tokens, kernels and what is left of it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.rollout_kernels import generate, kernels, prepared, question
from pipeline.config.schema import TinyConfig
from stages.models.tiny import build_tiny
from stages.rollouts.rollout_weights import rounded_weights

LAYERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    sizes = TinyConfig(
        hidden_size=64, layers=LAYERS, intermediate_size=128, vision_hidden_size=64, vision_layers=1, vocab_size=384
    )
    build_tiny(made, sizes, ["Which emotion does this picture evoke? Give reasons, then the answer."] * 40, seed=0)
    return made


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, Any]:
    return question(folder)


def loaded(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """All of a model is the same after the block, and of the same objects, so that an optimizer still holds it."""
    before = {
        name: (id(one), one.dtype, one.detach().clone()) for name, one in model.state_dict(keep_vars=True).items()
    }
    forward = model.forward
    yield
    after = model.state_dict(keep_vars=True)
    assert {name: (id(one), one.dtype) for name, one in after.items()} == {
        name: one[:2] for name, one in before.items()
    }
    assert all(torch.equal(one, before[name][2]) for name, one in after.items())
    assert model.forward == forward


@pytest.mark.parametrize("how", [{}, {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}])
def test_the_tokens_are_those_of_the_checkpoint_that_transformers_loads_in_bfloat16(folder, inputs, how):
    model = prepared(loaded(folder, torch.float32))
    expected = generate(
        loaded(folder, torch.bfloat16), {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}, **how
    )
    with untouched(model), rounded_weights(model, torch.bfloat16):
        found = generate(model, inputs, **how)
    assert found.tolist() == expected.tolist()


PEFT = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "dora": {"r": 4, "use_dora": True, "target_modules": ["q_proj", "v_proj"]},
    "saved": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["modality_projection"], "bias": "all"},
}


@pytest.mark.parametrize("kind", PEFT)
def test_adapters_are_merged_as_their_checkpoint_has_them(kind, folder, inputs):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(loaded(folder, torch.float32), LoraConfig(**PEFT[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    prepared(model)
    with untouched(model), rounded_weights(model, torch.bfloat16):
        found = generate(model, inputs)
        assert {layer.keys.dtype for layer in cache_of(model, inputs).layers} == {torch.bfloat16}
    merged = loaded(folder, torch.bfloat16)
    # Rounded as it is copied.
    merged.load_state_dict(model.merge_and_unload().state_dict())
    assert found.tolist() == generate(merged, {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}).tolist()


def cache_of(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True).past_key_values


def test_a_rollout_that_fails_leaves_the_model_as_it_was(folder):
    model = prepared(loaded(folder, torch.float32))
    with untouched(model), pytest.raises(RuntimeError), rounded_weights(model, torch.bfloat16):
        raise RuntimeError("out of memory")


def test_its_parameters_keep_the_nodes_on_which_data_parallel_training_has_its_hooks(folder, inputs):
    """Data of another type would give each a new one, and its gradient would never be shared again."""
    model = prepared(loaded(folder, torch.float32))
    shared = []
    # As DistributedDataParallel's reducer hangs on them.
    nodes = {name: one.view_as(one).grad_fn.next_functions[0][0] for name, one in model.named_parameters()}
    hooks = [node.register_hook(lambda *_, name=name: shared.append(name)) for name, node in nodes.items()]
    for _ in range(2):
        with rounded_weights(model, torch.bfloat16):
            generate(model, inputs, 2)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = [name for name, one in model.named_parameters() if one.grad is not None]
    assert sorted(shared) == sorted(trained)
    assert len(hooks) == len(nodes) >= len(trained) > 0


def test_the_model_trains_on_with_its_own_weights(folder, inputs):
    model, twin = (prepared(loaded(folder, torch.float32)) for _ in range(2))
    for one in (model, twin):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
        for _ in range(2):
            if one is model:
                with rounded_weights(one, torch.bfloat16):
                    generate(one, inputs, 2)
            one(**inputs, labels=inputs["input_ids"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_token_starts_fewer_kernels_and_rounds_no_weight(folder, inputs):
    from peft import LoraConfig, get_peft_model

    model = prepared(loaded(folder, torch.float32))
    before = kernels(model, inputs)
    with rounded_weights(model, torch.bfloat16):
        after = kernels(model, inputs)
    own = kernels(loaded(folder, torch.bfloat16), {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()})
    # Seven weights of a layer and the head are rounded for every token under autocast.
    assert before["aten::copy_"] - after["aten::copy_"] >= 7 * LAYERS + 1
    # The random numbers that transformers draws take as many as they take.
    assert after.total() <= own.total() + 2
    assert after.total() < 0.85 * before.total()
    adapted = prepared(get_peft_model(loaded(folder, torch.float32), LoraConfig(**PEFT["lora"])).eval())
    beside = kernels(adapted, inputs)
    with rounded_weights(adapted, torch.bfloat16):
        merged = kernels(adapted, inputs)
    assert merged.total() == after.total() < beside.total()
