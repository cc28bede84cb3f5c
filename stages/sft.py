"""Stage 1, domain-knowledge injection: supervised fine-tuning on the CoT rows (or, as a baseline, on the labels alone).

    python -m stages.sft --stage 1 --config configs/demo.yaml
    python -m stages.sft --stage sft_labels --config configs/demo.yaml

trl.SFTTrainer with the stage's `trainer:` block; the loss is on the completion only. With `distill:` a larger model's logits are
part of it (`stages.training.distillation`).
"""

from __future__ import annotations

from stages.processes.command import run_cli
from stages.processes.work import Work
from stages.training.stage import main


def train(work: Work) -> None:
    """Run the stage in this process (one of N): parent, rows, trainer, train, hand over."""
    from trl import SFTConfig

    from pipeline.data.training_rows import read_or_build_rows
    from stages.checkpoints import handover
    from stages.models import loading
    from stages.training import distillation, learning_rates, looking, metrics_log, setup, skipped_steps, validation
    from stages.training.sft_trainer import SupervisedTrainer

    parent, processor, task = setup.start(work)
    columns, problems = read_or_build_rows(work.config, work.run, work.name, task)
    rows = len(columns.pop("id"))
    trainer = SupervisedTrainer(
        teacher=distillation.load_teacher(work, parent, processor, task),
        model=str(parent),
        args=SFTConfig(**setup.trainer_arguments(work, parent)),
        train_dataset=setup.image_dataset(columns),
        processing_class=processor,
        peft_config=loading.peft_config(work, processor.tokenizer),
        quantization_config=loading.quantization_config(work),
    )
    loading.prepare(trainer, work)
    learning_rates.set_learning_rates(trainer, work.stage.learning_rates)
    journal = metrics_log.add_journal(trainer, work)
    skipped_steps.add(trainer, journal)
    validation.add(trainer, work, parent, task, journal)
    looking.add(trainer, work, task, journal)
    if setup.train(trainer, work, parent):
        handover.hand_over(trainer, work, parent, task, rows=rows, problems=problems)
    setup.exit_worker()


if __name__ == "__main__":
    run_cli(lambda: main("sft", __doc__, train))
