"""What a backend is asked and what it says. The three of them: transformers.py, vllm.py, openai.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import LabModel
from pipeline.config.families import vllm_options
from pipeline.errors import UserError
from pipeline.files import digest, read_json
from pipeline.runs.handover import file_digests, model_folder, weights_of
from stages.evaluation.backends.base import Backend, Checkpoint


def find(model: LabModel, precision: str) -> Checkpoint:
    """Return the files of a model, downloaded when it is a hub id, and their digest. A server's weights cannot be known.

    Raises:
        UserError: when the model cannot be had, its run did not finish, or it holds no safetensors.
    """
    own: dict[str, Any] = {"backend": model.backend, "precision": precision, "options": dict(model.options)}
    if model.backend == "openai":
        return Checkpoint(model, precision, None, {**own, "served": model.name_or_path, "revision": model.revision})
    folder = model_folder(model, verify=True) or _from_hub(model)
    own |= {
        **_files(folder, model),
        "processor": {**_of_run(model), **model.processor},
        "trust_remote_code": model.trust_remote_code,
    }
    return Checkpoint(model, precision, folder, own)


def _of_run(model: LabModel) -> dict[str, Any]:
    """The processor arguments of the run a model comes from, with which it was trained."""
    if model.run is None:
        return {}
    from pipeline.config.loader import load

    return dict(load(Path(model.run).expanduser() / "config.yaml").model.processor)


def _files(folder: Path, model: LabModel) -> dict[str, str]:
    """The digests of the weights and of every file a loader reads."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds an adapter; merge it into its model first (final/ of a run is merged)")
    files = file_digests(folder)
    weights = weights_of(files)
    if weights is None:
        raise UserError(f"{model.name_or_path or folder} has no *.safetensors; only safetensors are read")
    return {"weights": weights, "files": digest(files)}


def _from_hub(model: LabModel) -> Path:
    from pipeline.config.schema import ModelConfig
    from stages.models.hub import find_model

    return find_model(
        ModelConfig(name_or_path=model.name_or_path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    )


def check_together(checkpoints: Iterable[Checkpoint]) -> None:
    """Refuse models of one process that would break each other.

    Where vLLM 0.31 computes a model with transformers' own, it changes the class of its language model for good: transformers can
    neither make another of that class in this process nor call one that is there.

    Raises:
        UserError: naming two such models and the cure.
    """
    changed: dict[str, str] = {}
    plain: dict[str, str] = {}
    for one in checkpoints:
        if one.folder is None:
            continue
        config = read_json(one.folder / "config.json")
        kind = (config.get("text_config") or config).get("model_type", "")
        if one.model.backend == "transformers":
            plain[kind] = one.name
        elif vllm_options(one.folder, one.model.options).get("model_impl") == "transformers":
            changed[kind] = one.name
    for kind in changed.keys() & plain.keys():
        raise UserError(
            f"{changed[kind]} (backend vllm) and {plain[kind]} (backend transformers) both have a language model of the class "
            f"{kind}, which vLLM changes for the whole process; take the same backend for both"
        )


def open_backend(checkpoint: Checkpoint, batch_size: int, images: int) -> Backend:
    """Load a model, or prepare to reach it.

    Args:
        checkpoint: the model.
        batch_size: rows generated at once, or requests in flight.
        images: most pictures a row has.
    """
    if checkpoint.model.backend == "openai":
        from stages.evaluation.backends.openai import Served

        return Served(checkpoint.model, batch_size)
    if checkpoint.model.backend == "vllm":
        from stages.evaluation.backends.vllm import Offline

        return Offline(checkpoint, batch_size, images)
    from stages.evaluation.backends.transformers import Local

    return Local(checkpoint, batch_size)
