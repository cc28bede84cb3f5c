"""Which vision encoder serves a small VLM, all else equal: accuracy per kind of question, and what a picture costs.

    python -m benchmarks.encoders encoders/parts [--seeds 0 1 2] [--output-dir runs] [--into PAGE] [--table-only]
    python -m benchmarks.encoders encoders/dinov2_small encoders/siglip_b16 task.path=DATA --name emoset

The arms (`benchmarks.equal_arms`) may differ in their encoder alone, and train everything but it. The others are compared with
the first one at the end of the last stage (or --stage): over all questions and each kind of them, on the same rows. Tables and
figure take the place of what stands between the marks of `encoders_<NAME>` on the page of --into.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from benchmarks.equal_arms import Difference, Plain, compare
from pipeline import command_line
from pipeline.checks.parts import composed_of
from pipeline.config.schema import RunConfig
from pipeline.files import read_json
from pipeline.reports.entries import Entry
from pipeline.run_dir import BASE, RunDir

OF_THE_ENCODER = ("vision", "layer")
"""Keys of `model.compose` in which arms may differ."""


def problems(config: RunConfig) -> Iterator[str]:
    """Yield why a configuration tells nothing of its encoder."""
    if config.model.compose is None:
        yield "model.compose is not set, so there is no encoder to compare; compose its model of parts"
    elif not config.stages:
        yield "has no stage, so nothing reads its encoder; write one that starts from base"
    for stage, settings in config.all_stages.items():
        if "vision" not in settings.freeze:
            yield f"{stage} trains the encoder, so its features are not its own; add vision to its freeze"


def _without(plain: Plain) -> Plain:
    compose = {key: value for key, value in (plain["model"]["compose"] or {}).items() if key not in OF_THE_ENCODER}
    return {**plain, "model": {**plain["model"], "compose": compose}}


def _language(run: RunDir) -> str:
    parts = composed_of(run.final(BASE))
    return str(parts["language"]["sha256"]) if parts else ""


def _image_tokens(run: RunDir, _: Entry) -> str:
    return str(read_json(run.final(BASE) / "config.json").get("image_seq_length", 0))


ENCODER = Difference(
    "encoder", _without, problems, ("language model", _language), ("tokens of a picture", _image_tokens)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare encoders."""
    return compare("encoders", __doc__ or "", ENCODER, argv)


if __name__ == "__main__":
    sys.exit(command_line.status(main))
