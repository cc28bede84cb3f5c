"""Training rows that are also judged on are found, whatever file they are in, and the run is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.conductor.contamination import NEAR, ComparedRow, check_run, compare, fingerprints, normalised
from pipeline.config.loader import load
from pipeline.run_dir import RunDir
from tests.conftest import RunModule
from tests.pictures import photograph


def rows(folder: Path, pictures: dict[str, Image.Image], text: str = "What is it?", **how: Any) -> list[ComparedRow]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, picture in pictures.items():
        path = folder / f"{name}.{how.get('suffix', 'png')}"
        picture.save(path, **{key: value for key, value in how.items() if key != "suffix"})
        made.append(ComparedRow(name, (path,), text))
    return made


def test_a_copy_is_found_in_another_file_format_and_size(tmp_path: Path) -> None:
    pictures = {f"p{i}": photograph(i) for i in range(40)}
    training = rows(tmp_path / "train", pictures)
    for name, how in {"bmp": {"suffix": "bmp"}, "jpeg": {"suffix": "jpg", "quality": 40}}.items():
        found = compare(name, training, rows(tmp_path / name, pictures, "WHAT is it", **how), tmp_path)
        assert (found.exact, found.near) == ((40, 0) if name == "bmp" else (0, 40)), found
        assert found.same_question == 40
    small = {name: picture.resize((48, 48), Image.Resampling.LANCZOS) for name, picture in pictures.items()}
    assert compare("small", training, rows(tmp_path / "small", small), tmp_path).near == 40
    assert "p0 is training row p0" in found.examples[0]


def test_other_pictures_with_the_same_question_are_no_contamination(tmp_path: Path) -> None:
    training = rows(tmp_path / "train", {f"p{i}": photograph(i) for i in range(60)})
    evaluated = rows(tmp_path / "test", {f"q{i}": photograph(1000 + i) for i in range(60)})
    found = compare("test", training, evaluated, tmp_path)
    assert (found.exact, found.near, found.same_question) == (0, 0, 60)
    assert not found.contaminated


def test_flat_pictures_count_only_by_their_pixels_and_broken_ones_are_told(tmp_path: Path) -> None:
    training = rows(tmp_path / "train", {"grey": Image.new("RGB", (32, 32), "grey")})
    evaluated = rows(
        tmp_path / "test", {"white": Image.new("RGB", (32, 32), "white"), "grey": Image.new("RGB", (32, 32), "grey")}
    )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = compare("test", training, [*evaluated, ComparedRow("x", (tmp_path / "broken.png",), "")], tmp_path)
    assert (found.exact, found.near, found.unreadable) == (1, 0, 1)


def test_fingerprints_are_made_again_when_a_file_changes(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, {"a": photograph(1)})
    before = fingerprints(row.images, tmp_path)
    photograph(2, 100).save(row.images[0])
    after = fingerprints(row.images, tmp_path)
    assert before != after
    bits = bin(int(before[row.images[0]][1] or 0) ^ int(after[row.images[0]][1] or 0)).count("1")
    assert bits > NEAR


def test_a_question_is_its_words() -> None:
    assert normalised("<image 1> How many\u2009CATS, are there?") == normalised("how many cats are there")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run on a folder of pictures whose held-out set holds one of them, saved anew."""
    for split, seeds in (("train", range(4)), ("test", range(100, 104))):
        for seed in seeds:
            folder = tmp_path / "own" / split / ("cat" if seed % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            photograph(seed).save(folder / f"{seed}.png")
    for seed in (2, 200):
        (tmp_path / "judged" / "test" / "x").mkdir(parents=True, exist_ok=True)
        photograph(seed).save(tmp_path / "judged" / "test" / "x" / f"{seed}.jpg", quality=90)
    path = tmp_path / "run.yaml"
    block = {
        "name": "trial",
        "output_dir": str(tmp_path / "runs"),
        "task": {"name": "imagefolder", "path": str(tmp_path / "own")},
        "stages": {"stage1_sft": {"algorithm": "sft", "init_from": "base", "data": "labels", "prompt": "direct",
                                  "trainer": {"max_steps": 1}}},
        "held_out": {"judged": {"task": {"name": "imagefolder", "path": str(tmp_path / "judged")}, "split": "test"}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(block))
    return path


def test_a_run_is_refused_before_it_makes_anything(run_module: RunModule, run_file: Path, tmp_path: Path) -> None:
    done = run_module("pipeline", "run", "--config", run_file)
    assert done.returncode == 2
    assert (
        "the run would train on what it is judged on: judged: of 2 rows 0 have a picture of the 4 training rows, 1"
        in done.stderr
    )
    assert "x/2.jpg is training row train/dog/2.png" in done.stderr
    assert not (tmp_path / "runs" / "trial").exists()


def test_a_clean_run_is_told_so(run_module: RunModule, run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "judged" / "test" / "x" / "2.jpg").unlink()
    done = run_module("pipeline", "contamination", "--config", run_file, check=True)
    assert done.stdout.startswith("judged: of 1 rows 0 have a picture of the 4 training rows, 0 nearly one")
    config = load(run_file)
    assert not check_run(config, RunDir(config.output_dir, config.name))[0].contaminated
