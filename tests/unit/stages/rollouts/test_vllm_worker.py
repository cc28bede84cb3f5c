"""What a reload of vLLM leaves behind, mended by the worker of a rollout server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from pipeline.system.library_patches import vllm_multiplies_turned_maps
from stages.rollouts.vllm_worker import PolicyWorker


class Runner:
    """Reloads as vLLM 0.31 does: batch norms are left with whatever the memory held, and a tied head is not packed."""

    def __init__(self) -> None:
        norm = torch.nn.BatchNorm2d(4)
        norm.running_mean = torch.randn(4)
        self.model = torch.nn.ModuleDict({"tower": torch.nn.Sequential(norm), "lm_head": torch.nn.Linear(4, 8)})
        self.packed: list[Any] = []
        head: Any = self.model["lm_head"]
        head.cpu_linear, head.quant_method = None, SimpleNamespace(process_weights_after_loading=self.packed.append)

    def get_model(self) -> torch.nn.Module:
        return self.model

    def reload_weights(self, weights_path: str) -> None:
        assert weights_path == "new"
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data.fill_(7)


def test_a_reload_brings_the_weights_keeps_what_batch_norms_have_seen_and_packs_a_tied_head_again() -> None:
    worker, runner = PolicyWorker(), Runner()
    worker.model_runner, worker.reload_weights = runner, runner.reload_weights
    before = {name: buffer.clone() for name, buffer in runner.model.named_buffers()}
    assert set(before) == {f"tower.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    worker.load_policy("new")
    assert all(torch.equal(buffer, before[name]) for name, buffer in runner.model.named_buffers())
    assert all((parameter == 7).all() for parameter in runner.model.parameters())
    assert runner.packed == [runner.model["lm_head"]]


def test_what_is_multiplied_on_a_cpu_lies_in_rows() -> None:
    given: list[torch.Tensor] = []
    module: Any = SimpleNamespace(cpu_unquantized_gemm=lambda layer, x, weight, bias: given.append(x))
    with vllm_multiplies_turned_maps(module):
        pass
    turned = torch.randn(1, 6, 2, 2).flatten(2).permute(0, 2, 1)
    assert not turned.is_contiguous()
    module.cpu_unquantized_gemm(None, turned, None)
    assert given[0].is_contiguous()
    assert torch.equal(given[0], turned)
