"""trl.SFTTrainer as the stages use it: it reads the prompts of the rollouts, and every batch is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import SFTTrainer

from stages.models.chat import answer_text, prompt_text
from stages.models.loading import plain
from stages.training import batch_checks
from stages.training.distillation import LogitsTeacher, add_distilled_loss


@dataclass(frozen=True)
class TextCollator:
    """Lays conversations out as text before they are collated: the prompt of the rollouts, and the answer behind it.

    A batch also says how many `pictures` each row has.

    TRL's own layout takes what a finished conversation and a prompt have in common for the prompt, which is less than the
    rollouts' prompt wherever a template writes an answered turn otherwise than the beginning of one.
    """

    processor: Any
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = []
        for example in examples:
            turns, (answer,) = example["prompt"], example["completion"]
            content = answer["content"]
            said = content if isinstance(content, str) else "".join(part["text"] for part in content)
            texts = {
                "prompt": prompt_text(self.processor, turns),
                "completion": answer_text(self.processor, turns, said),
            }
            rows.append({**example, **texts})
        pictures = torch.tensor([len(row["images"]) for row in rows])
        return {**self.collate(rows), "pictures": pictures}


class SupervisedTrainer(SFTTrainer):
    """trl.SFTTrainer whose log rows also hold the figures of `batch_checks.count_supervised`.

    Args:
        teacher: whose logits the student learns from beside the rows' tokens; `distill/kl` and `distill/cross_entropy` are
            logged then.
        kwargs: of trl.SFTTrainer.
    """

    data_collator: Any

    def __init__(self, teacher: LogitsTeacher | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # TRL's loss divides by the tokens of a whole step, and gives the model nothing of it. But transformers asks the model's
        # class whether it would take them, and where it says no (Qwen2.5-VL, Qwen3-VL) every micro-batch would weigh the same.
        self.model_accepts_loss_kwargs = True
        self.teacher = teacher
        if teacher is not None:
            add_distilled_loss(plain(self.model), teacher)
        self.data_collator = TextCollator(self.processing_class, self.data_collator)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss; count the batch where TRL has just waited for the device to count its own."""
        pictures = inputs.pop("pictures")
        taught = {} if self.teacher is None else {"teacher_logits": self.teacher.logits(inputs)}
        loss = super().compute_loss(model, {**inputs, **taught}, *args, **kwargs)
        batch_checks.count_supervised(self, inputs, pictures)
        if self.teacher is not None:
            batch_checks.count_distilled(self, self.teacher.sums)
        return loss
