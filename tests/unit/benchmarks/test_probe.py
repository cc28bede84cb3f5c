"""What a linear probe of a composed student's encoder reads, and on which rows it is judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.probe import encoder_features
from pipeline.config.loader import load


def test_features_are_those_the_projector_reads_averaged_over_a_picture(tmp_path: Path) -> None:
    import torch
    from tiny_parts import save_tower
    from transformers import AutoImageProcessor, AutoModel

    tower = save_tower("resnet", tmp_path / "tower")
    config = load("oasis_parts", [f"model.compose.vision={tower}", "model.compose.image_size=32"])
    prepare = AutoImageProcessor.from_pretrained(tower)

    class Processor:
        image_processor = prepare

    picture, turned = tmp_path / "one.png", tmp_path / "turned.png"
    Image.effect_noise((32, 32), 80).convert("RGB").save(picture)
    # Of a camera that was held upright: the student is shown it turned.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.AutoProcessor.from_pretrained", lambda folder: Processor)
        found = encoder_features(config, tmp_path, {"one": picture, "turned": turned})
    with torch.inference_mode():
        pixels = prepare(Image.open(picture), return_tensors="pt")["pixel_values"]
        maps = AutoModel.from_pretrained(tower).eval()(pixels).last_hidden_state
    assert found["one"] == pytest.approx(maps.mean((2, 3))[0].tolist(), abs=1e-5)
    assert found["turned"] == found["one"]
