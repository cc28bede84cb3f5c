"""Compose a VLM of a pretrained vision tower and a pretrained language model, with a new projector between them.

    python -m stages.compose OUT --vision ID_OR_FOLDER --language ID_OR_FOLDER [--image-size N] [--layer L]

OUT becomes a plain Hugging Face folder for `model.name_or_path`; `model.compose` in a run's configuration does the same in its
base phase. It is there only once it has been loaded again and compared with its parts; a killed attempt leaves nothing that looks
done. The projector is random: train it alone first, `freeze: [vision, language]` (docs/families.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline import command_line
from pipeline.checks.parts import composition_problems
from pipeline.config.schema import ComposeConfig
from pipeline.errors import UserError
from stages.processes.command import run_cli

NAMES = {key: f"--{key.replace('_', '-')}" for key in ("vision", "language", "image_size", "layer")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of compositions."""
    arguments = command_line.parse(_parser(), argv)
    parts = ComposeConfig(arguments.vision, arguments.language, arguments.image_size, arguments.layer)
    if problems := list(composition_problems(parts, NAMES)):
        raise UserError(problems)
    if arguments.dry_run:
        print(f"{arguments.out}: {parts.vision} with {parts.language}")
        return 0
    from stages.models.compose import compose

    made = compose(arguments.out, parts, seed=0)
    print(f"{arguments.out}: {'composed' if made else 'was there, of these very parts'}; its README.md says of what")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line.doc_parser("stages.compose", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, which is not there yet")
    parser.add_argument("--vision", required=True, metavar="ID_OR_FOLDER", help="hub id, id@revision or folder")
    parser.add_argument(
        "--language",
        required=True,
        metavar="ID_OR_FOLDER",
        help="the same, or a GGUF file, or a folder with an ONNX file",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of a picture in pixels (default: the tower's)"
    )
    parser.add_argument(
        "--layer", type=int, metavar="L", help="hidden state to read (default: -2 of patches, the last of maps)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the arguments; load and write nothing")
    return parser


if __name__ == "__main__":
    run_cli(main)
