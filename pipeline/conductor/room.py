"""Whether the models of phases that are worked on fit a GPU, told by their files before anything is deleted or built for them.

Only what cannot fit is told: the weights a process holds at least. Whether a step fits is what preflight tries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.conductor.schedule import number_bytes
from pipeline.config.derived import trainer_gpus
from pipeline.config.evaluation import LabModel
from pipeline.config.schema import RunConfig, stage_key
from pipeline.data.student import student_folder
from pipeline.files import is_path, split_revision
from pipeline.formatting import size
from pipeline.run_dir import BASE, RunDir
from pipeline.sweeps.memory import count_bytes, read_shapes
from pipeline.system.hardware import gpu_memory

_CURE = "take a smaller model, or a larger GPU"
_QUANTISED = {"8bit": 1.0, "4bit": 0.5}
"""Bytes of a number under model.quantization, which leaves some as they are."""


def room_problems(config: RunConfig, run: RunDir, names: Collection[str]) -> Iterator[str]:
    """Yield why phases cannot hold their models.

    Args:
        config: the run.
        run: its folder.
        names: of the phases that are worked on.

    Raises:
        UserError: when a model is neither here nor to be had from the hub, so that nothing is known of it.
    """
    there = min(gpu_memory(trainer_gpus(config)), default=0)
    trained = [name for name in config.all_stages if name in names]
    if not there or not (trained or BASE in names):
        return
    student = _student(config, run, anew=BASE in names)
    if student > there:
        key = "model.name_or_path" if config.model.name_or_path else "model"
        yield f"{key}: the weights of {config.model.described} take {size(student)}, and a GPU has {size(there)}; {_CURE}"
        return
    for name in trained:
        block = config.stage(name).distill
        if block is None:
            continue
        is_here = Path(block.teacher).expanduser().is_dir()
        # A folder that is not there is told by its own rule.
        if is_path(block.teacher) and not is_here:
            continue
        taught = _bytes(number_bytes(config), *((block.teacher, None) if is_here else split_revision(block.teacher)))
        if student + taught > there:
            yield (
                f"{stage_key(name)}.distill.teacher: the weights of {block.teacher} take {size(taught)} beside the student's "
                f"{size(student)} in every process, and a GPU has {size(there)}; {_CURE}"
            )


def _student(config: RunConfig, run: RunDir, *, anew: bool) -> float:
    """Bytes of the student's weights at least; 0 where nothing is known of them, or several GPUs share them."""
    model, folder = config.model, student_folder(config.model, run)
    if model.is_tiny or config.launch.deepspeed is not None:
        return 0
    each = _QUANTISED.get(model.quantization or "", number_bytes(config))
    if model.name_or_path is not None and (anew or folder is None):
        return _bytes(each, model.name_or_path, model.revision)
    # What is composed is known once it is; one that is composed anew may be another.
    if anew or folder is None or not any(folder.glob("*.safetensors")):
        return 0
    return _bytes(each, str(folder))


def _bytes(each: float, source: str, revision: str | None = None) -> float:
    """Bytes of a model's weights, at `each` a number."""
    return count_bytes(read_shapes(LabModel(name_or_path=source, revision=revision)).tensors, each)
