"""Rows that leave the batch when they are finished change the time alone: tokens and random numbers are transformers'."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpo_pairs as pairs
import lab_models
import pytest
import torch
from tiers import tiers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipeline.config.schema import ModelConfig, RunConfig
from stages.models.finished_rows import can_decode, decode
from stages.models.loading import load_model, load_processor
from stages.models.row_sampling import Draws

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

END, PAD, MOST = 7, 3, 90
"""MOST is more than the room that is set aside at once."""
LENGTHS: dict[str, list[int]] = {
    "mixed": [5, 40, 1, 17, 17, MOST + 1, 2, 40],
    "one_at_once": [1, MOST + 1, MOST + 1, MOST + 1, MOST + 1, MOST + 1, MOST + 1, MOST + 1],
    "all_but_one_at_once": [1, 1, 1, 1, 1, 1, 1, 30],
    "all_at_once": [1] * 8,
    "none": [MOST + 1] * 8,
}
GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


class Lengths(LogitsProcessor):
    """Ends each row at a length, and none before it."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.written = torch.tensor(lengths), 0

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        self.written += 1
        over = self.written >= self.lengths
        scores[:, END] = -torch.inf
        scores[over] = -torch.inf
        scores[over, END] = 0.0
        return scores


Asked = Callable[..., tuple[torch.Tensor, torch.Tensor, list[int]]]
"""(lengths, live, how) -> (tokens, random state afterwards, rows of each forward pass)."""


def asker(model: Any, inputs: dict[str, Any]) -> Asked:
    """Generates with the finished rows taken out or not."""

    def ask(
        lengths: list[int], live: bool, in_step: bool | None = None, **how: Any
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        rows: list[int] = []
        layer = next(
            module for name, module in model.named_modules() if name.endswith("layers.0.mlp") and "vis" not in name
        )
        hook = layer.register_forward_pre_hook(lambda _, states: rows.append(len(states[0])))
        torch.manual_seed(5)
        own = how.pop("logits_processor", [])
        more: dict[str, Any] = {"synced_gpus": in_step}
        config = GenerationConfig(max_new_tokens=MOST, eos_token_id=END, pad_token_id=PAD, **how)
        if live and can_decode(model, config):
            more = {"custom_generate": decode, "in_step": in_step}
        with torch.inference_mode():
            tokens = model.generate(
                **inputs, generation_config=config, logits_processor=[Lengths(lengths), *own], **more
            )
        hook.remove()
        return tokens, torch.random.get_rng_state(), rows

    return ask


def equal(ask: Asked, lengths: list[int], **how: Any) -> list[int]:
    """Rows of each forward pass, when all else is as without."""
    (theirs, their_state, _), (ours, our_state, rows) = (ask(lengths, live, **how) for live in (False, True))
    assert ours.equal(theirs)
    assert our_state.equal(their_state)
    return rows


@pytest.fixture(scope="module", params=tiers(pairs.VARIANTS, pairs.EVERY_CHANGE))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Eight prompts of two lengths with pictures of two shapes."""
    base = pairs.build(tmp_path_factory.mktemp(request.param), request.param)
    config = RunConfig(model=ModelConfig(processor=pairs.VARIANTS[request.param]))
    processor = load_processor(base, config)
    model, _ = load_model(base, config, "float32")
    rows = pairs.rows() * 2
    texts = [processor.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
    images = [row["images"] for row in rows]
    inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)
    assert inputs["attention_mask"].sum(dim=1).unique().numel() > 1
    return asker(model, dict(inputs))


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_tokens_and_random_state_are_those_of_transformers(family: Asked, lengths: list[int], how: dict[str, Any]):
    rows = equal(family, lengths, **how)
    assert rows[1:] == [sum(length > step for length in lengths) for step in range(1, min(max(lengths), MOST))]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Eight prompts padded on the left, asked of a model of text alone."""
    return asker(AutoModelForCausalLM.from_pretrained(lab_models.text_model(tmp_path_factory.mktemp("text"))), _words())


def _words() -> dict[str, torch.Tensor]:
    mask = torch.arange(12).flip(0) < torch.tensor([3, 12, 5, 12, 7, 9, 12, 1])[:, None]
    return {"input_ids": torch.randint(20, 200, mask.shape).masked_fill(~mask, PAD), "attention_mask": mask.long()}


@pytest.mark.parametrize(
    "how",
    [GREEDY, SAMPLED, {**SAMPLED, "repetition_penalty": 1.3, "top_k": 20}, {**SAMPLED, "num_return_sequences": 2}],
    ids=["greedy", "sampled", "penalty", "several"],
)
def test_models_of_text_alone(text: Asked, how: dict[str, Any]):
    lengths = LENGTHS["mixed"] * how.get("num_return_sequences", 1)
    assert min(equal(text, lengths, **how)) == sum(length > MOST for length in lengths)


def test_draws_of_the_lab_follow_their_rows(text: Asked):
    draws = {live: Draws(range(8), 0.7, 0.9) for live in (False, True)}
    (theirs, _, _), (ours, _, rows) = (
        text(LENGTHS["mixed"], live, **GREEDY, logits_processor=[own]) for live, own in draws.items()
    )
    lengths = [min(length, MOST) for length in LENGTHS["mixed"]]
    assert ours.equal(theirs)
    assert min(rows) == 1
    assert draws[True].means(lengths) == pytest.approx(draws[False].means(lengths), abs=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 2, "do_sample": False},
        {"cache_implementation": "static", "disable_compile": True, **GREEDY},
        {"use_cache": False, **GREEDY},
    ],
    ids=["beams", "static_cache", "no_cache"],
)
def test_what_is_not_known_is_left_to_transformers(text: Asked, how: dict[str, Any]):
    assert len(set(equal(text, LENGTHS["mixed"] * how.get("num_beams", 1), **how)[1:])) == 1


def test_sliding_windows_are_left_to_transformers():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=256, num_hidden_layers=2, **sizes, **window)).eval()
    assert set(equal(asker(model, _words()), LENGTHS["mixed"], **GREEDY)) == {8}


def test_a_process_that_is_done_goes_on_while_others_are_not():
    """As with ZeRO-3, whose processes take every forward pass together."""

    @contextlib.contextmanager
    def others_go_on(model: Any, passes: int) -> Iterator[None]:
        model._has_unfinished_sequences = lambda *_, **__: next(left, None) is not None
        left = iter(range(passes))
        yield
        del model._has_unfinished_sequences

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=256, num_hidden_layers=2, **sizes)).eval()
    ask = asker(model, _words())
    for lengths, left in ((LENGTHS["all_but_one_at_once"], [1] * 79), (LENGTHS["all_at_once"], [8] * 79)):
        with others_go_on(model, 80):
            theirs = ask(lengths, False, in_step=True, **GREEDY)
        with others_go_on(model, 80):
            ours = ask(lengths, True, in_step=True, **GREEDY)
        assert ours[0].equal(theirs[0])
        assert ours[2][1:] == left
