"""A VLM composed of a vision tower and a causal language model: a plain Hugging Face folder of transformers' own classes.

`llava` takes towers that give patches, `fast_vlm` those that give maps. What a picture becomes is measured on the tower, never
computed from its configuration, and the folder appears under its name only once it has been loaded again and compared with its
parts. Between the parts is a new two-layer projector, the one thing that is random.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from pipeline.checks.parts import composed_of
from pipeline.config.schema import ComposeConfig
from pipeline.errors import UserError
from pipeline.system.locks import acquire
from stages.models.compose.assemble import assemble
from stages.models.compose.card import composition, write_card
from stages.models.compose.language import WHAT as LANGUAGE
from stages.models.compose.language import load_language
from stages.models.compose.proof import prove
from stages.models.compose.source import find_part, weights_digest_of
from stages.models.compose.vision import WHAT as VISION
from stages.models.compose.vision import load_tower, measure

log = logging.getLogger(__name__)


def compose(folder: Path, parts: ComposeConfig, seed: int) -> bool:
    """Write the model of two parts to a folder, which is whole and proven or not there.

    Args:
        folder: where to write; must not be there yet, unless it holds this very composition.
        parts: the sources of tower and language model, already checked by `pipeline.checks.parts`.
        seed: of the projector's weights; the same parts and seed give the same bytes.

    Returns:
        Whether it was made now; False where it was there.

    Raises:
        UserError: when a part cannot be had or does not fit, a proof fails, or the folder holds something else.
    """
    folder = folder.expanduser().absolute()
    partial = folder.with_name(f".{folder.name}.composing")
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        held = acquire(lock)
    except BlockingIOError:
        raise UserError(f"{folder} is being composed by another process; wait for it or stop it") from None
    with held:
        try:
            vision, text = find_part(parts.vision, VISION), find_part(parts.language, LANGUAGE)
            made_of = composition(parts, weights_digest_of(vision), weights_digest_of(text), seed)
            if folder.exists() and any(folder.iterdir()):
                if composed_of(folder) != made_of:
                    raise UserError(f"{folder} holds something else; name a folder that is not there, or remove it")
                return False
            _be_quiet()
            tower = load_tower(parts.vision, vision)
            reading = measure(tower, parts.image_size, parts.layer)
            language = load_language(parts.language, text)
            # What a killed attempt left.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            assemble(partial, tower, reading, language, seed)
            proof = prove(partial, tower, reading, language)
            write_card(partial, made_of, tower, reading, language, proof)
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            lock.unlink(missing_ok=True)
    log.info(f"composed {folder}: {proof.told}")
    return True


def _be_quiet() -> None:
    """Leave transformers' progress bars and tables of unused heads out: what is missing is asked for and told here."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
