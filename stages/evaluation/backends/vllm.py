"""A checkpoint that answers with vLLM in this process, without a server. vLLM does its own batching and caching."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.config.families import OWN_CODE, model_type, vllm_options
from pipeline.data.images import ImageError, open_rgb
from pipeline.data.student import UNFIT
from pipeline.errors import UserError
from pipeline.system.hardware import visible_gpus
from pipeline.system.vllm_server import CPU_FLAGS, serve_environment
from stages.evaluation.backends.base import (
    Checkpoint,
    Generation,
    GenerationRequest,
    SamplingParams,
    as_words,
    in_order,
    special_tokens,
)
from stages.models.chat import read_completions

_ON_A_GPU = 256
"""Least rows that vLLM may have in flight on a GPU: decoding reads all weights for one row as for many, and vLLM lets those wait
that its cache has no room for."""
_TOO_LONG = re.compile(r"max_model_len|maximum (?:model|context) length|longer than", re.IGNORECASE)
_AT_ONCE = 16
"""Batches handed over together: enough for vLLM to keep full, few enough that a kill loses little."""


class Offline:
    """See the module.

    Args:
        checkpoint: a model vLLM serves; `options` are keyword arguments of vllm.LLM.
        batch_size: rows in flight, as far as vLLM's memory goes; on a GPU at least `_ON_A_GPU`.
        images: most pictures a row has; vLLM keeps memory for them.

    Raises:
        UserError: on a precision vLLM cannot make of these weights.
    """

    def __init__(self, checkpoint: Checkpoint, batch_size: int, images: int) -> None:
        if checkpoint.precision == "8bit":
            raise UserError(f"{checkpoint.name}: vLLM makes no 8bit weights while loading; take 4bit or transformers")
        cpu = visible_gpus() == 0
        # vLLM looks at a model's class in a child of its own, which needs on a CPU what its server's processes need.
        os.environ.update(serve_environment(cpu=cpu))
        # One process: its end is the engine's too.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm

        in_flight = batch_size if cpu else max(batch_size, _ON_A_GPU)
        own: dict[str, Any] = {"max_num_seqs": in_flight, "limit_mm_per_prompt": {"image": images}}
        # What fits: a model's own context may be 262,144 positions, whose cache alone fills a card.
        own["max_model_len"] = -1
        if checkpoint.precision in ("float32", "bfloat16", "float16"):
            own["dtype"] = checkpoint.precision
        if checkpoint.precision == "4bit":
            own["quantization"] = "bitsandbytes"
        if cpu:
            own = {**_cpu_arguments(), **own}
        if not _sees(checkpoint):
            del own["limit_mm_per_prompt"]
        model = checkpoint.model
        assert checkpoint.folder is not None
        told = {**checkpoint.identity["processor"], **(model.options.get("mm_processor_kwargs") or {})}
        own |= {"model": str(checkpoint.folder), "trust_remote_code": model.trust_remote_code}
        options = vllm_options(checkpoint.folder, {**model.options, "mm_processor_kwargs": told})
        self._llm = vllm.LLM(**{"seed": 0, **own, **options})
        self._batch_size, self._family = batch_size, model_type(checkpoint.folder)
        self._special = special_tokens(self._llm.get_tokenizer())
        image_token = getattr(self._llm.model_config.hf_config, "image_token_id", None)
        # As with transformers.
        self._never = {int(image_token): -100.0} if image_token is not None else None

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        """See `Backend`."""
        size = _AT_ONCE * self._batch_size
        for start in range(0, len(asks), size):
            yield self._chunk(asks[start : start + size], how)

    def peak_memory(self) -> int | None:
        """See `Backend`: what vLLM has taken of the GPU, its cache included."""
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return int(total - free)
        from stages.models.memory_usage import peak_memory

        return peak_memory()

    def _chunk(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> list[Generation]:
        said, kept, chats = [], [], []
        for ask in asks:
            try:
                chats.append(self._chat(ask))
            except ImageError as error:
                said.append(Generation(ask.id, "", failed=error.reason, detail=str(error)))
                continue
            kept.append(ask)
        return said + self._answered(kept, chats, how)

    def _answered(self, asks: Sequence[GenerationRequest], chats: list[Any], how: SamplingParams) -> list[Generation]:
        """Answers to chats; one that vLLM refuses (a picture its processor does not take, a prompt too long) is failed alone.

        vLLM lays all of a call out before any is answered and then forgets them, so nothing is answered twice.
        """
        import vllm

        if not asks:
            return []
        sampling = [
            vllm.SamplingParams(
                max_tokens=how.max_new_tokens,
                temperature=how.temperature,
                top_p=how.top_p,
                seed=ask.seed % 2**31 if how.temperature else None,
                # Of the chosen token alone.
                logprobs=0,
                logit_bias=self._never,
            )
            for ask in asks
        ]
        # All of them, or none: asks of one call are of one kind.
        going_on = bool(asks[0].said)
        began = time.monotonic()
        try:
            outputs = self._llm.chat(
                chats,
                sampling,
                use_tqdm=False,
                add_generation_prompt=not going_on,
                continue_final_message=going_on,
            )
        except ValueError as error:
            if len(asks) > 1:
                half = len(asks) // 2
                return self._answered(asks[:half], chats[:half], how) + self._answered(asks[half:], chats[half:], how)
            refused = "request_refused" if _TOO_LONG.search(str(error)) or not asks[0].images else UNFIT
            return [Generation(asks[0].id, "", failed=refused, detail=str(error)[:500] or repr(error))]
        seconds = time.monotonic() - began
        # Read from its tokens as transformers' are: vLLM leaves out tags that are special tokens.
        texts = read_completions(
            self._llm.get_tokenizer(),
            [output.prompt_token_ids or () for output in outputs],
            [list(output.outputs[0].token_ids) for output in outputs],
        )
        return [_said(ask.id, output, text, seconds) for ask, output, text in zip(asks, outputs, texts, strict=True)]

    def _chat(self, ask: GenerationRequest) -> Any:
        content = [
            {"type": "text", "text": as_words(piece, self._special)}
            if isinstance(piece, str)
            else {"type": "image_pil", "image_pil": open_rgb(ask.images[piece])}
            for piece in in_order(ask, self._family)
        ]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        said = as_words(ask.said, self._special)
        return [*turns, {"role": "assistant", "content": said}] if said else turns


def _said(row_id: str, output: Any, text: str, seconds: float) -> Generation:
    answer = output.outputs[0]
    tokens = len(answer.token_ids)
    return Generation(
        row_id,
        text,
        tokens=tokens,
        prompt_tokens=len(output.prompt_token_ids or ()),
        truncated=answer.finish_reason == "length",
        seconds=seconds,
        logprob=answer.cumulative_logprob / tokens if tokens and answer.cumulative_logprob is not None else None,
    )


def _cpu_arguments() -> dict[str, Any]:
    """The flags of a server on a CPU as keyword arguments."""
    words = {name.replace("-", "_"): value for name, value in CPU_FLAGS.items()}
    return {name.removeprefix("no_"): False if name.startswith("no_") else value for name, value in words.items()}


def _sees(checkpoint: Checkpoint) -> bool:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    assert checkpoint.folder is not None
    if model_type(checkpoint.folder) in OWN_CODE:
        return True
    kind = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=checkpoint.model.trust_remote_code)
    return type(kind) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
