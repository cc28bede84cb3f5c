"""Whether what a run trains on holds what it is to be judged on: the same pictures, nearly the same ones, the same questions.

    python -m pipeline contamination --config cv_bench_lora [--against configs/sweeps/small_vlms.yaml]

A run names the sets it must not have seen as `held_out:`; it is refused before anything is asked or trained when one of their
pictures is among its own. A question's text alone refuses nothing, because "How many people are there?" fits many pictures; it
is counted.

Pictures are compared as decoded, so a copy saved anew in another format or size is found. Exact means the same pixels; near, that
the 64-bit perceptual hashes (signs of the 8 × 8 lowest DCT coefficients of 32 × 32 grey pixels, about their median) differ in at
most `NEAR` bits and their grey pixels correlate to 0.99, which is our reading. Crops and mirror images are not found. Drawn
pictures of one kind are all alike at 32 pixels: the hash is made for photographs.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.checks.evaluation import load_lab
from pipeline.config.schema import RunConfig, TaskConfig
from pipeline.data.images import ImageError, open_rgb, remembered
from pipeline.data.load import load_task
from pipeline.data.student import load_run_task
from pipeline.data.training_rows import training_examples
from pipeline.errors import UserError
from pipeline.run_dir import RunDir

NEAR = 4
"""Bits of 64 in which the hashes of two copies of one picture may differ."""
VERSION = 1
"""Part of the cache's name: raise it when the hashes change."""
_SHOWN = 5
# Correlation of the grey values of two copies at 32 x 32 pixels: hashes of small or drawn pictures agree by chance.
_ALIKE = 0.99
# Standard deviation of grey values below which a picture has no structure to compare.
_FLAT = 2.0


@dataclass(frozen=True)
class ComparedRow:
    """What is compared of a row: its pictures and the text it is asked."""

    id: str
    images: tuple[Path, ...]
    text: str


@dataclass(frozen=True)
class Findings:
    """What one evaluated set shares with the training rows."""

    name: str
    training: int
    evaluated: int
    exact: int
    """Evaluated rows with a picture that is among the training rows' pixel by pixel."""
    near: int
    """Evaluated rows with a picture that is nearly one of theirs."""
    same_question: int
    """Evaluated rows whose text a training row is asked too; of another picture, if neither count above has it."""
    unreadable: int
    """Pictures, of both, that could not be decoded and so were not compared."""
    examples: tuple[str, ...]

    @property
    def contaminated(self) -> bool:
        """Whether a picture is in both."""
        return bool(self.exact or self.near)

    def __str__(self) -> str:
        told = (
            f"{self.name}: of {self.evaluated} rows {self.exact} have a picture of the {self.training} training rows, "
            f"{self.near} nearly one, {self.same_question} the text of one"
        )
        return told + (f"; {self.unreadable} pictures could not be read" if self.unreadable else "")


def check_run(
    config: RunConfig, run: RunDir, against: Mapping[str, tuple[TaskConfig, str]] | None = None
) -> list[Findings]:
    """Compare the rows a run trains on with its held-out sets.

    Args:
        config: the run.
        run: its folder, whose cache keeps the hashes.
        against: name: (task, split) instead of the run's own `held_out`.

    Raises:
        UserError: when a picture of a held-out set is among the training rows.
    """
    if against is None:
        against = {name: (held.task, held.split) for name, held in config.held_out.items()}
    if not against:
        return []
    training = training_rows(config, run)
    found = []
    for name, (task, split) in against.items():
        questions = load_task(task, run.cache).select(split).rows
        evaluated = [ComparedRow(row.id, row.images, row.text) for row in questions]
        found.append(compare(name, training, evaluated, run.cache))
    problems = []
    for one in found:
        if one.contaminated:
            problems += [
                f"held_out: the run would train on what it is judged on: {one}",
                *(f"  {line}" for line in one.examples),
            ]
    if problems:
        raise UserError([*problems, "take these rows out of the training data, or choose another set"])
    return found


def held_out_of(lab: str | Path) -> dict[str, tuple[TaskConfig, str]]:
    """Return every task of a lab's file."""
    return {name: (task.task, task.split) for name, task in load_lab(lab).tasks.items()}


def training_rows(config: RunConfig, run: RunDir) -> list[ComparedRow]:
    """Return every row that some stage of a run trains on, once."""
    task = load_run_task(config, run)
    return [ComparedRow(example.id, example.images, example.text) for example in training_examples(config, task)]


def compare(name: str, training: Sequence[ComparedRow], evaluated: Sequence[ComparedRow], cache: Path) -> Findings:
    """Return what `evaluated` shares with `training`.

    Args:
        name: of the evaluated set.
        training: rows that are trained on.
        evaluated: rows that are judged.
        cache: the folder that keeps every picture's hashes.
    """
    prints = fingerprints((image for row in [*training, *evaluated] for image in row.images), cache)
    by_pixels: dict[str, ComparedRow] = {}
    hashes: list[int] = []
    owners: list[ComparedRow] = []
    for row in training:
        for image in row.images:
            pixels, perceived = prints[image]
            if pixels is not None:
                by_pixels.setdefault(pixels, row)
            if perceived is not None:
                hashes.append(perceived)
                owners.append(row)
    known, texts = np.array(hashes, np.uint64), {normalised(row.text) for row in training}
    exact, near, examples = 0, 0, []
    for row in evaluated:
        same = next((by_pixels[pixels] for image in row.images if (pixels := prints[image][0]) in by_pixels), None)
        bits, close = 0, None
        if same is None and len(known):
            perceived_here = [perceived for image in row.images if (perceived := prints[image][1]) is not None]
            bits, close = min(((bits, owners[i]) for bits, i in map(functools.partial(_nearest, known), perceived_here)),
                              key=lambda one: one[0], default=(0, None))  # fmt: skip
            close = close if bits <= NEAR and close is not None and _alike(row, close) else None
        exact, near = exact + (same is not None), near + (close is not None)
        if same is not None or close is not None:
            other = same or close
            how = "the same pixels" if same is not None else f"{bits} of 64 bits apart"
            examples.append(f"{row.id} is training row {other.id} ({how})" if other else row.id)
    return Findings(
        name,
        len(training),
        len(evaluated),
        exact,
        near,
        sum(normalised(row.text) in texts for row in evaluated),
        sum(pixels is None for pixels, _ in prints.values()),
        tuple(examples[:_SHOWN]),
    )


def fingerprints(paths: Iterable[Path], cache: Path) -> dict[Path, tuple[str | None, int | None]]:
    """Return (digest of its pixels, perceptual hash) of each picture; None for one that cannot be read, or a hash of
    no structure.

    They are kept in `cache` by size and time of change.
    """
    found = remembered(paths, cache / f"fingerprints-{VERSION}.json", _fingerprint, fleeting=([None, None],))
    return {path: (pixels, perceived) for path, (pixels, perceived) in found.items()}


def normalised(text: str) -> str:
    """Return a question's words alone: case, punctuation, picture marks and white space say nothing."""
    words = re.sub(r"<image \d+>", " ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", words))


def _fingerprint(path: Path) -> tuple[str | None, int | None]:
    try:
        image = open_rgb(path)
    except ImageError:
        return None, None
    pixels = hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()
    # 1 is Lanczos.
    grey = np.asarray(image.convert("L").resize((32, 32), resample=1), np.float64)
    if grey.std() < _FLAT:
        return pixels, None
    low = (_dct() @ grey @ _dct().T)[:8, :8].ravel()
    # Without the mean, which says how bright the picture is.
    signs = low > np.median(low[1:])
    return pixels, int("".join("1" if sign else "0" for sign in signs), 2)


def _alike(one: ComparedRow, other: ComparedRow) -> bool:
    """Whether some picture of one row has the grey values of one of the other's, up to light and contrast."""
    grey = [
        [
            np.asarray(open_rgb(path).convert("L").resize((32, 32), resample=1), np.float64).ravel()
            for path in row.images
        ]
        for row in (one, other)
    ]
    return any(np.corrcoef(a, b)[0, 1] >= _ALIKE for a in grey[0] for b in grey[1])


@functools.cache
def _dct() -> NDArray[np.float64]:
    """The first eight rows of the DCT-II of 32 values."""
    return np.cos(np.pi / 32 * np.outer(np.arange(8), np.arange(32) + 0.5))


def _nearest(known: NDArray[np.uint64], perceived: int) -> tuple[int, int]:
    """(bits, index) of the known hash that differs least."""
    bits = np.bitwise_count(known ^ np.uint64(perceived))
    index = int(bits.argmin())
    return int(bits[index]), index
