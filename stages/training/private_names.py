"""The private names of TRL 1.16 and transformers 5.17 that stages use, and what each is held to.

`tests/unit/stages/training/test_private_names.py` fails when a library changes one, and when a stage uses one that is not here.
When it fails: read what changed, mend what depends on it, then write down the new digest, which the test names.
"""

from __future__ import annotations

METHODS = {
    "trl.GRPOTrainer._calculate_rewards": ("scores; called, and overridden while a batch is made", "736ae29b0838"),
    "trl.GRPOTrainer._generate": (
        "samples by `rollout_func`, decodes, logs; called and overridden likewise",
        "2a27fdf8f5e6",
    ),
    "trl.GRPOTrainer._generate_and_score_completions": (
        "makes a batch; overridden, called for the batch",
        "1fa48922792d",
    ),
    "trl.GRPOTrainer._generate_single_turn": ("samples where prompts are not shared; called", "e0f02e4fc094"),
    "trl.GRPOTrainer._get_per_token_logps_and_entropies": (
        "scores completions; overridden, called to compare",
        "ea73c3909275",
    ),
    "trl.GRPOTrainer._get_train_sampler": (
        "its order of prompts is taken up after a checkpoint; wrapped",
        "36497afb4d31",
    ),
    "trl.GRPOTrainer._prepare_inputs": ("splits a rollout into micro-batches; overridden", "f824e7fb0714"),
    "trl.GRPOTrainer._tokenize_prompts": ("makes templates, tokens and pixels; called", "d2d27f7c9bfd"),
    "transformers.Trainer._prepare_input": (
        "moves tensors to the device, in DeepSpeed's precision; called",
        "785b906a55d5",
    ),
    "transformers.Trainer.get_batch_samples": ("reads the rows of an optimizer step; overridden", "0b3727386f73"),
    "transformers.GenerationMixin._has_unfinished_sequences": (
        "has ZeRO-3's processes decode in step; called",
        "8487ce4004e5",
    ),
    "transformers.GenerationMixin._optimize_model_for_decode": ("chooses kernels of experts; called", "95dc0f2a53f3"),
    "transformers.GenerationMixin._sample": ("the loop that `finished_rows.decode` is in place of", "9f5d2e3906df"),
    "transformers.GenerationMixin._update_model_kwargs_for_generation": ("goes on by a token; called", "fb244c4da033"),
    "transformers.GenerationMixin.prepare_inputs_for_generation": (
        "makes a forward pass's inputs; called",
        "1956c1944594",
    ),
    "transformers.DynamicLayer.batch_select_indices": ("repeats what was kept of a prompt; called", "6083cb87b43c"),
    "transformers.DynamicLayer.update": ("adds a token's keys and values; overridden", "15d634e7095a"),
}
"""Name: (what it does for us, first characters of the SHA-256 of its source)."""

ATTRIBUTES = {
    "_attn_implementation": ("transformers.PreTrainedConfig", "which attention a model calls; set"),
    "_buffered_inputs": ("trl.GRPOTrainer", "micro-batches of the present rollout; set"),
    "_last_loaded_step": (
        "trl.GRPOTrainer",
        "step whose weights TRL's own vLLM has; set to none before a server samples",
    ),
    "_logs": ("trl.GRPOTrainer", "prompts, completions, rewards, pictures of the last rollout; read, pictures added"),
    "_metrics": ("trl.GRPOTrainer", "figures of the next log row, by mode; added to"),
    "_supports_flash_attn": ("transformers.PreTrainedModel", "whether a vision tower knows flash attention; read"),
    "_supports_flex_attn": ("transformers.PreTrainedModel", "whether a vision tower knows flex attention; read"),
    "_supports_sdpa": ("transformers.PreTrainedModel", "whether a vision tower knows sdpa; read"),
    "_pad_token_tensor": ("transformers.GenerationMixin", "what follows a finished row; read"),
    "_pending_extra_logs": ("trl.GRPOTrainer", "columns that reward functions log; dropped when groups are replaced"),
    "_pending_metrics": ("trl.GRPOTrainer", "figures that reward functions log; those of further prompts are dropped"),
    "_tr_loss": ("transformers.Trainer", "sum of the losses of the next log row; emptied of NaN when one is written"),
    "_step": ("trl.GRPOTrainer", "micro-batches trained on; read"),
}
"""Name: (the class in whose source it is set, what it is for us)."""
