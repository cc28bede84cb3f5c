"""Stages 2 to 4: GRPO with the format reward, with format + accuracy, and with the tightened clip range of CLGRPO.

    python -m stages.grpo --stage 3 --config configs/demo.yaml

trl.GRPOTrainer with the stage's `trainer:` block; the YAML decides rewards and clipping. ClipLow (stage 4) is our reading of
a paper that publishes neither code nor values: the clipped surrogate min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) with
epsilon_high below epsilon, the mirror of DAPO's Clip-Higher. A stage that names an epsilon but provably cannot clip is
refused before it starts; both clip fractions go into its record, and both zero makes the stage void.
"""

from __future__ import annotations

from stages._launch import Work, guarded
from stages._stage import main


def train(work: Work) -> None:
    """Run the stage in this process (one of N): parent, prompts, rewards, trainer, train, hand over."""
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.rows import grpo_columns
    from rewards import load_rewards
    from stages import _completions, _handover, _journal, _loading, _training

    parent, processor, task = _training.start(work)
    split = task.select(work.stage.split)
    columns = grpo_columns(task, split.examples, work.stage.prompt)
    trainer = GRPOTrainer(
        model=str(parent),
        reward_funcs=load_rewards(work.stage.reward_funcs, task),
        args=GRPOConfig(**_training.trainer_arguments(work)),
        train_dataset=_training.image_dataset(columns),
        processing_class=processor,
        peft_config=_loading.lora_config(work),
    )
    _loading.freeze(trainer.model, work.stage.freeze)
    _journal.add_journal(trainer, work)
    _completions.add_completions(trainer, work)
    _training.train(trainer, work)
    _handover.hand_over(trainer, work, parent, rows=len(columns["id"]), problems=split.problem_counts)
    _training.leave()


if __name__ == "__main__":
    guarded(lambda argv: main("grpo", __doc__, train, argv))
