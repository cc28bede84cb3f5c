"""The contestants of benchmarks.grpo_rivals that run in this project's environment: trl's own trainer, and our stage.

python -m benchmarks.rivals.our_grpo {trl,stage} JOB.json FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.rivals.grpo_probe import attach
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.conversations import grpo_columns
from pipeline.data.images import open_rgb
from pipeline.data.load import load_task
from pipeline.run_dir import BASE, RunDir
from rewards import load_rewards


def main(contestant: str, job_file: str, folder: str) -> None:
    """Train until the probe ends it."""
    job = json.loads(Path(job_file).read_text())
    config = load(str(Path(job["folder"]) / "run.yaml"), [])
    if contestant == "trl":
        bare(config, Path(folder))
    else:
        stage(config)


def bare(config: RunConfig, folder: Path) -> None:
    """A script that uses TRL alone."""
    from datasets import Dataset
    from transformers import AutoProcessor
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    task = load_task(config.task, RunDir(config.output_dir, config.name).cache)
    of = config.stage("1")
    columns = grpo_columns(task, task.select(of.split).rows, of.prompt)
    trainer = GRPOTrainer(
        model=config.model.name_or_path,
        reward_funcs=load_rewards(of.reward_funcs, task),
        args=GRPOConfig(
            **of.trainer,
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            report_to="none",
            logging_steps=1,
            model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        ),
        train_dataset=Dataset.from_dict(columns).with_transform(
            lambda batch: {**batch, "images": [[open_rgb(Path(path)) for path in one] for one in batch["images"]]}
        ),
        processing_class=AutoProcessor.from_pretrained(config.model.name_or_path),
    )
    trainer.remove_callback(PrinterCallback)
    attach(trainer)
    trainer.train()


def stage(config: RunConfig) -> None:
    """What `python -m stages.grpo` runs in its worker: journal, counters and alarms included, saving not."""
    from stages import grpo
    from stages.checkpoints import base_model
    from stages.processes.work import Work

    run = RunDir(config.output_dir, config.name)
    base_model.make_base_model(Work(config, BASE, run))
    grpo.train(Work(config, config.stage_name("1"), run, look=attach))


if __name__ == "__main__":
    main(*sys.argv[1:])
