"""On the PYTHONPATH of vLLM's processes on CPU (pipeline.system.vllm_server), where Python imports it at start.

vLLM starts processes of its own, each of which would die importing torchvision on a CPU-only torch; this makes the cure
of pipeline/system/library_patches.py act in all of them, just before torchvision runs and not earlier.
"""

from __future__ import annotations

from pipeline.system.library_patches import prepare_libraries

prepare_libraries()
