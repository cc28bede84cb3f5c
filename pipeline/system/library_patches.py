"""Cures for what libraries do otherwise than a stage needs, in one place. Nothing is imported until a function is called."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SAYING_NOTHING = {"HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Variables by which TRL's trainers and vLLM's servers report to nobody that they run; one that the user has set wins."""
# torch.library registrations end with their object, so it is kept for the process's life.
_libraries: list[Any] = []


def prepare_libraries() -> None:
    """Have the cures of `CURES` applied whenever this process comes to import what they cure, and not earlier.

    `stages` calls this as it is imported, so no module of it needs to come before a library. Nothing is imported here, and
    calling it again does nothing. From here on libraries report to nobody that they run.
    """
    for name, value in SAYING_NOTHING.items():
        os.environ.setdefault(name, value)
    if not any(isinstance(finder, _CuringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CuringFinder())


class _CuringFinder(MetaPathFinder):
    """Finds modules as Python does, and applies their cures just before or after they run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in CURES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run, cure = spec.loader.exec_module, CURES[name]

        def cure_and_run(module: ModuleType) -> None:
            with cure(module):
                run(module)

        spec.loader.exec_module = cure_and_run  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def torchvision_without_operators(_: ModuleType) -> Iterator[None]:
    """Make ``import torchvision`` work on a CPU-only torch.

    torchvision's wheel cannot load its C++ operators there and dies with "operator torchvision::nms does not exist",
    which breaks ``from transformers import AutoProcessor`` too. Declaring the two schemas it looks up is enough: image
    processors never call them. A torch with CUDA keeps the real ones.
    """
    import torch

    if not (_libraries or torch.version.cuda or hasattr(torch.ops.torchvision, "nms")):
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    yield


@contextlib.contextmanager
def trl_without_vllm(import_utils: ModuleType) -> Iterator[None]:
    """Keep trl from importing an installed vLLM, which takes several seconds in every process and is used in few.

    Its own vLLM modes do not work then.
    """
    yield
    import_utils.is_vllm_available = lambda min_version=None: False  # type: ignore[attr-defined]


@contextlib.contextmanager
def bitsandbytes_without_packing(functional: ModuleType) -> Iterator[None]:
    """Keep bitsandbytes from packing 4-bit weights anew when a model is evaluated on a CPU with AVX512-BF16.

    What is packed has no gradient: after one evaluation adapters would train on wrong gradients, or not at all (0.50). Nor is a
    compiled kernel fetched from a hub then.
    """
    yield
    functional.has_avx512bf16 = lambda: False  # type: ignore[attr-defined]


@contextlib.contextmanager
def vllm_multiplies_turned_maps(layer_utils: ModuleType) -> Iterator[None]:
    """Have vLLM on a CPU multiply what a vision tower of maps gives.

    A map becomes tokens without being copied, and the kernels of vLLM 0.31 take rows alone whose numbers lie beside each other:
    a server of such a FastVLM would end at its first picture.
    """
    yield
    multiply = layer_utils.cpu_unquantized_gemm

    def multiply_copied(layer: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return multiply(layer, x.contiguous(), weight, bias)

    layer_utils.cpu_unquantized_gemm = multiply_copied  # type: ignore[attr-defined]


@contextlib.contextmanager
def deepspeed_without_compiling(torch_backend: ModuleType) -> Iterator[None]:
    """Keep DeepSpeed from compiling an extension at its first launch on a CPU, for a minute or two.

    It sums by shared memory in tensor-parallel inference, which no stage does; training sums through torch.distributed.
    """
    yield
    torch_backend.build_shm_op = lambda: None  # type: ignore[attr-defined]


@contextlib.contextmanager
def transformers_without_scipy(import_utils: ModuleType) -> Iterator[None]:
    """Keep transformers from importing scikit-learn and SciPy, which takes seconds in every process.

    Assisted decoding asks for them, and the losses of models that detect objects.
    """
    yield
    import_utils.is_sklearn_available = lambda: False  # type: ignore[attr-defined]
    import_utils.is_scipy_available = lambda: False  # type: ignore[attr-defined]


CURES = {
    "torchvision": torchvision_without_operators,
    "trl.import_utils": trl_without_vllm,
    "bitsandbytes.functional": bitsandbytes_without_packing,
    "vllm.model_executor.layers.utils": vllm_multiplies_turned_maps,
    "deepspeed.comm.torch": deepspeed_without_compiling,
    "transformers.utils.import_utils": transformers_without_scipy,
}
"""What is done around the run of a module, by its name."""


def score_labels_alone() -> None:
    """Let TRL's fused head on a CPU score only the positions that have a label, as it does on a GPU.

    Without Triton it scores all of them, those of prompt and image too, because some accelerators would compile anew for each
    number of labels; the loss and the gradients are the same. Every model of this process is concerned.
    """
    from trl.trainer import utils

    # Asked in `add_fused_lm_head` alone, and about nothing else.
    with_triton = utils._use_triton
    utils._use_triton = lambda device: device.type == "cpu" or with_triton(device)
