"""A data set as they are found: odd pictures are handled, broken rows are counted and named, and nothing leaves the root."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from cot_builder.__main__ import main

ORDINARY = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """EmoSet's layout with a handful of ordinary rows and one of every oddity; gives its path."""
    data = tmp_path / "data"
    rows: list[list[str]] = []

    def row(
        name: str, picture: Image.Image | bytes, suffix: str = "jpg", annotation: str = "{}", **save: object
    ) -> None:
        path = data / "image" / "awe" / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, bytes):
            path.write_bytes(picture)
        else:
            picture.save(path, **save)
        note = data / "annotation" / "awe" / f"{name}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(annotation)
        rows.append(["awe", name, str(path.relative_to(data)), str(note.relative_to(data))])

    for number in range(ORDINARY):
        row(f"ordinary_{number}", Image.new("RGB", (40, 30), (number * 9, 90, 9)), annotation='{"brightness": 0.5}')
    turned = Image.Exif()
    turned[0x0112] = 6
    row("exif_rotated", Image.new("RGB", (40, 30), "red"), exif=turned)
    row("cmyk", Image.new("CMYK", (40, 30)))
    row("sixteen_bit", Image.new("I;16", (40, 30), 40_000), "png")
    row("animated", Image.new("P", (40, 30)), "gif", save_all=True, append_images=[Image.new("P", (40, 30), 1)])
    row("png_named_jpg", b"")
    Image.new("RGB", (40, 30)).save(data / rows[-1][2], format="PNG")
    row("bad_annotation", Image.new("RGB", (40, 30)), annotation="{not json")
    row("broken", b"\xff\xd8\xff\xe0" + bytes(200))
    row("cut_off", b"")
    whole = Image.effect_noise((60, 60), 80).convert("RGB")
    whole.save(data / rows[-1][2])
    (data / rows[-1][2]).write_bytes((data / rows[-1][2]).read_bytes()[:700])
    row("empty", b"")
    row("text", b"not a picture at all, whatever its name says")
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (40, 30)).save(secret)
    for name, path in (("dots", "../secret.jpg"), ("absolute", str(secret)), ("link", "image/awe/link.jpg")):
        rows.append(["awe", name, path, "annotation/awe/ordinary_0.json"])
    (data / "image" / "awe" / "link.jpg").symlink_to(secret)
    rows.append(["awe", "absent", "image/awe/absent.jpg", "annotation/awe/ordinary_0.json"])
    labels = {"label2idx": {"awe": 0, "fear": 1}, "idx2label": {"0": "awe", "1": "fear"}}
    (data / "info.json").write_text(json.dumps({"emotion": labels}))
    for split in ("train", "val", "test"):
        (data / f"{split}.json").write_text(json.dumps(rows if split == "train" else rows[:1]))
    return data


REFUSED = {
    "broken": "unreadable_image",
    "cut_off": "truncated_image",
    "empty": "empty_image",
    "text": "unreadable_image",
    "dots": "outside_root",
    "absolute": "outside_root",
    "link": "outside_root",
    "absent": "missing_image",
}


def test_odd_pictures_are_sent_upright_and_broken_rows_are_named(tmp_path, folder, serve):
    stub = serve(
        reply=lambda body: f"<think>Stone number {body['seed']} stands there, so awe.</think><answer>awe</answer>"
    )
    teacher = tmp_path / "stub.yaml"
    teacher.write_text(yaml.safe_dump({"kind": "openai", "model": "stub", "base_urls": [stub.url], "image_size": 20}))
    run = {
        "name": "odd", "output_dir": str(tmp_path / "runs"), "task": {"name": "emoset", "path": str(folder)},
        "cot": {"teachers": [str(teacher)], "filters": {"near_duplicate": None}},
    }  # fmt: skip
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run))
    assert main(["build", "--config", str(config)]) == 0
    cot = tmp_path / "runs" / "odd" / "cot"
    kept = {row["id"] for row in pq.read_table(cot / "train.parquet").to_pylist()}
    ordinary = {f"ordinary_{number}" for number in range(ORDINARY)}
    assert kept == ordinary | {"exif_rotated", "cmyk", "sixteen_bit", "animated", "png_named_jpg", "bad_annotation"}
    sizes = [stub.picture(number).size for number in range(len(stub.requests))]
    assert sorted(set(sizes)) == [(15, 20), (20, 15)]
    # The one that a camera held upright.
    assert sizes.count((15, 20)) == 1
    unusable = {
        (each := json.loads(line))["id"]: each["reason"] for line in (cot / "unusable.jsonl").read_text().splitlines()
    }
    assert unusable == {**REFUSED, "bad_annotation": "unreadable_annotation"}
    manifest = json.loads((cot / "manifest.json").read_text())
    assert sum(manifest["task_problems"].values()) == len(unusable)
