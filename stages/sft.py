"""Stage 1, domain-knowledge injection: supervised fine-tuning on the CoT rows (or, as the baseline, on the labels alone).

    python -m stages.sft --stage 1 --config configs/demo.yaml
    python -m stages.sft --stage baseline --config configs/demo.yaml

trl.SFTTrainer with the stage's `trainer:` block; the loss is on the completion only.
"""

from __future__ import annotations

from stages._launch import Work, guarded
from stages._stage import main


def train(work: Work) -> None:
    """Run the stage in this process (one of N): parent, rows, trainer, train, hand over."""
    from trl import SFTConfig

    from pipeline.training_data import training_columns
    from stages import _handover, _journal, _learning_rates, _loading, _training, _validation
    from stages._sft_trainer import Trainer

    parent, processor, task = _training.start(work)
    columns, split = training_columns(work.config, work.run, work.name, task)
    rows = len(columns.pop("id"))
    trainer = Trainer(
        model=str(parent),
        args=SFTConfig(**_training.trainer_arguments(work)),
        train_dataset=_training.image_dataset(columns),
        processing_class=processor,
        peft_config=_loading.peft_config(work),
        quantization_config=_loading.quantization_config(work),
    )
    _loading.prepare(trainer, work)
    _learning_rates.set_learning_rates(trainer, work.stage.learning_rates)
    _validation.add(trainer, work, parent, task, _journal.add_journal(trainer, work))
    _training.train(trainer, work)
    _handover.hand_over(trainer, work, parent, task, rows=rows, problems=split.problem_counts)
    _training.leave()


if __name__ == "__main__":
    guarded(lambda argv: main("sft", __doc__, train, argv))
