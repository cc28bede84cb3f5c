"""Stages 2 to 4: GRPO with the format reward, with format + accuracy, and with the tightened clip range of CLGRPO.

    python -m stages.grpo --stage 3 --config configs/demo.yaml

trl.GRPOTrainer with the stage's `trainer:` block; the YAML decides rewards and clipping. ClipLow (stage 4) is our reading of
a paper that publishes neither code nor values: the clipped surrogate min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) with
epsilon_high below epsilon, the mirror of DAPO's Clip-Higher. A stage that names an epsilon but provably cannot clip is
refused before it starts; both clip fractions go into its record, and both zero makes the stage void.
"""

from __future__ import annotations

from stages.processes.command import run_cli
from stages.processes.work import Work
from stages.training.stage import main


def train(work: Work) -> None:
    """Run the stage in this process (one of N): parent, prompts, rewards, trainer, train, hand over."""
    from trl import GRPOConfig

    from pipeline.data.training_rows import read_or_build_rows
    from rewards import load_rewards
    from stages.checkpoints import handover
    from stages.models import loading
    from stages.rollouts import vllm_rollouts
    from stages.training import completions_log, learning_rates, looking, metrics_log, setup, skipped_steps, validation
    from stages.training.grpo_trainer import PolicyTrainer

    parent, processor, task = setup.start(work)
    columns, problems = read_or_build_rows(work.config, work.run, work.name, task)
    trainer = PolicyTrainer(
        work,
        model=str(parent),
        reward_funcs=load_rewards(work.stage.reward_funcs, task),
        args=GRPOConfig(**setup.trainer_arguments(work, parent)),
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
    completions_log.add_completions(trainer, work)
    with vllm_rollouts.policy_server(trainer, work, parent):
        ended = setup.train(trainer, work, parent)
    if ended:
        handover.hand_over(trainer, work, parent, task, rows=len(columns["id"]), problems=problems)
    setup.exit_worker()


if __name__ == "__main__":
    run_cli(lambda: main("grpo", __doc__, train))
