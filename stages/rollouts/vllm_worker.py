"""What vLLM's workers of a rollout server can do besides: take the policy's new weights, all of them. Loaded inside vLLM."""

from __future__ import annotations

from typing import Any


class PolicyWorker:
    """Mixed into vLLM's worker by ``--worker-extension-cls``; called through ``/collective_rpc``."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Load the weights of a checkpoint folder.

        On a CPU vLLM 0.31 multiplies with a packed copy of each weight. A reload packs what is named in the checkpoint, and an
        output head that is tied to the embeddings is not: it would stay at its first weights, so it is packed again.
        """
        self.model_runner.reload_weights(weights_path=folder)
        for name, layer in self.model_runner.get_model().named_modules():
            if name.endswith("lm_head") and hasattr(layer, "cpu_linear"):
                layer.quant_method.process_weights_after_loading(layer)
