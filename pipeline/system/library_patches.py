"""Cures for what libraries do otherwise than a stage needs, in one place. Nothing is imported until a function is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# torch.library registrations end with their object, so it is kept for the process's life.
_libraries: list[Any] = []


def prepare_libraries() -> None:
    """Have torchvision's cure (`declare_torchvision_ops`) applied whenever this process comes to import it, and not earlier.

    `stages` calls this as it is imported, so no module of it needs to come before a library. Nothing is imported here, and
    calling it again does nothing.
    """
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


class _BeforeTorchvision(MetaPathFinder):
    """Finds torchvision as Python does, and declares its operators just before it runs."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def declare_and_run(module: ModuleType) -> None:
            declare_torchvision_ops()
            run(module)

        spec.loader.exec_module = declare_and_run  # type: ignore[method-assign]
        return spec


def declare_torchvision_ops() -> None:
    """Make ``import torchvision`` work on a CPU-only torch.

    torchvision's wheel cannot load its C++ operators there and dies with "operator torchvision::nms does not exist",
    which breaks ``from transformers import AutoProcessor`` too. Declaring the two schemas it looks up is enough: image
    processors never call them. A torch with CUDA keeps the real ones. Calling this again does nothing.
    """
    import torch

    if _libraries or torch.version.cuda or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def prepare_trl() -> None:
    """Make of TRL what every training worker needs; before its trainers are imported."""
    hide_vllm_from_trl()
    score_labels_alone()


def hide_vllm_from_trl() -> None:
    """Keep trl from importing an installed vLLM, which takes several seconds in every process and is used in few.

    Before trl's trainers are imported. Their own vLLM modes do not work after it.
    """
    prepare_libraries()
    from trl import import_utils

    import_utils.is_vllm_available = lambda min_version=None: False


def score_labels_alone() -> None:
    """Let TRL's fused head on a CPU score only the positions that have a label, as it does on a GPU.

    Without Triton it scores all of them, those of prompt and image too, because some accelerators would compile anew for each
    number of labels; the loss and the gradients are the same. Every model of this process is concerned.
    """
    from trl.trainer import utils

    # Asked in `add_fused_lm_head` alone, and about nothing else.
    with_triton = utils._use_triton
    utils._use_triton = lambda device: device.type == "cpu" or with_triton(device)
