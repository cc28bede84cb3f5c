"""On the PYTHONPATH of vLLM's processes on CPU (pipeline.system.vllm_server), where Python imports it at start.

vLLM starts processes of its own, each of which would die importing torchvision on a CPU-only torch; this makes the cure
of pipeline/system/library_patches.py act in all of them, just before torchvision runs and not earlier.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def declare_and_run(module: ModuleType) -> None:
            from pipeline.system.library_patches import declare_torchvision_ops

            declare_torchvision_ops()
            run(module)

        spec.loader.exec_module = declare_and_run  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _BeforeTorchvision())
