"""What every contestant of benchmarks.grpo_rivals loads into its trainer: one step at a time, and what the step computed.

`attach` makes a trainer wait for a line on its standard input before each optimizer step and write one line of JSON after
it, so that several trainers take their steps in turns on one machine. It needs torch and transformers alone, whichever
versions: rivals import it in environments of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from typing import Any

REPORTS = "GRPO_REPORTS"
"""Environment variable with the number of the file descriptor that takes the reports."""
KINDS = ("generate", "score", "train")


def share_of_vowels(completions: list[str], **columns: Any) -> list[float]:
    """The reward of all contestants: cheap, and different for different completions, so that there is a gradient."""
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in completions]


def kind(cached: bool, with_gradient: bool) -> str:
    """What a pass through the language model is for: to generate, to score completions without a gradient, or to train."""
    return "train" if with_gradient else "generate" if cached else "score"


class PassCounter:
    """Counts what a Qwen-VL model computes, from hooks on its parts.

    A report has, for each of `KINDS`, the passes through the language model and the positions they held, rows times length,
    and for the vision model the passes and the patches. Recomputation under gradient checkpointing would count as training.
    """

    def __init__(self, model: Any) -> None:
        self.prompt: str | None = None
        """Digest of the first prompt's token ids, and its length: the same for all who read the same."""
        self.forget()
        model.register_forward_pre_hook(self._whole, with_kwargs=True)
        for name, part in model.named_modules():
            if name.endswith("language_model"):
                part.register_forward_pre_hook(self._language, with_kwargs=True)
            elif name.endswith("visual"):
                part.register_forward_pre_hook(self._vision, with_kwargs=True)

    def forget(self) -> None:
        self.counts = {**{name: [0, 0] for name in KINDS}, "vision": [0, 0]}

    def _whole(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        if self.prompt is None and ids is not None and kwargs.get("past_key_values") is not None:
            self.prompt = f"{ids.shape[1]}-{hashlib.sha256(str(ids[0].tolist()).encode()).hexdigest()[:16]}"

    def _language(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        held = self.counts[kind(kwargs.get("past_key_values") is not None, torch.is_grad_enabled())]
        held[0] += 1
        held[1] += kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]

    def _vision(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pixels = args[0] if args else kwargs["hidden_states"]
        self.counts["vision"][0] += 1
        self.counts["vision"][1] += pixels.shape[0]


def attach(trainer: Any) -> None:
    """Let `trainer` take its steps one by one: a line on standard input starts the next, the end of the input ends it all.

    The clocks, the wall's and the process's own CPU time, run from the line that starts a step to the end of the optimizer's
    step; what a trainer does after that (its log) falls into the next.
    """
    from transformers import TrainerCallback

    reports = os.fdopen(int(os.environ[REPORTS]), "w", buffering=1)
    work = PassCounter(trainer.model)

    class Turns(TrainerCallback):
        started = cpu = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.cpu = time.perf_counter(), time.process_time()
            self.on_step_end(args, state, control)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            spent = {"seconds": time.perf_counter() - self.started, "cpu_seconds": time.process_time() - self.cpu}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            report = {**spent, "peak_mb": peak, "prompt": work.prompt, "work": work.counts}
            reports.write(json.dumps(report) + "\n")
            work.forget()
            if not sys.stdin.readline():
                # Nothing is to be saved.
                os._exit(0)
            self.started, self.cpu = time.perf_counter(), time.process_time()

    trainer.add_callback(Turns())
