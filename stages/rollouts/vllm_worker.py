"""What vLLM's workers of a rollout server can do besides: take the policy's new weights, all of them. Loaded inside vLLM."""

from __future__ import annotations

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm


class PolicyWorker:
    """Mixed into vLLM's worker by ``--worker-extension-cls``; called through ``/collective_rpc``."""

    model_runner: Any
    reload_weights: Any

    def load_policy(self, folder: str) -> None:
        """Load the weights of a checkpoint folder, and mend what a reload of vLLM 0.31 leaves behind.

        On a CPU vLLM multiplies with a packed copy of each weight. A reload packs what is named in the checkpoint, and an output
        head that is tied to the embeddings is not: it would stay at its first weights, so it is packed again.

        The statistics of batch norms are read into tensors that nobody has; the norms are left with whatever the memory held. No
        training moves them (`stages.models.loading.hold_batch_norms`), so the server keeps those that it started with.
        """
        model = self.model_runner.get_model()
        statistics = {
            norm: {name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}
            for norm in model.modules()
            if isinstance(norm, _BatchNorm)
        }
        # The worker's own, within vLLM's configuration: layers may ask for it while they take weights.
        self.reload_weights(weights_path=folder)
        for norm, kept in statistics.items():
            for name, value in kept.items():
                norm.get_buffer(name).copy_(value)
        for name, layer in model.named_modules():
            if name.endswith("lm_head") and hasattr(layer, "cpu_linear"):
                layer.quant_method.process_weights_after_loading(layer)
