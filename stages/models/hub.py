"""A model as a local folder, downloaded from the hub where it is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config.schema import DistillConfig, ModelConfig
from pipeline.errors import UserError
from pipeline.files import split_revision
from pipeline.system.hub import refusal


def find_teacher(distill: DistillConfig, student: ModelConfig, key: str) -> Path:
    """Return the local folder of a teacher, downloaded when it is a hub id or id@revision.

    Args:
        distill: names it.
        student: says whether code of the hub is trusted.
        key: what names it in the configuration.

    Raises:
        UserError: as `find_model`.
    """
    folder = Path(distill.teacher).expanduser()
    if folder.is_dir():
        return folder
    name, revision = split_revision(distill.teacher)
    return find_model(dataclasses.replace(student, name_or_path=name, revision=revision), key)


def find_model(model: ModelConfig, key: str = "model.name_or_path") -> Path:
    """Return the local folder of a model, downloading safetensors and processor files when it is a hub id.

    Args:
        model: names it.
        key: what the configuration calls its name, for the message.

    Raises:
        UserError: when it is neither a folder nor a hub model that can be had.
    """
    assert model.name_or_path is not None
    folder = Path(model.name_or_path).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        wanted += ["*.py"] if model.trust_remote_code else []
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        if told := refusal(model.name_or_path, error):
            raise UserError(f"{key}: {model.name_or_path!r} {told}") from error
        raise UserError(
            f"{key}: {model.name_or_path!r} is no local folder and cannot be had from the hub "
            f"({str(error).splitlines()[0]}); check the name and the connection, or download it and give the folder"
        ) from error
