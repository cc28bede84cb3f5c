"""Stages with LoRA or a soft prompt hand over a plain checkpoint, nothing of an adapter."""

from __future__ import annotations

import pytest
from small_runs import QUICK, Small, in_fresh_process

from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
LORA = "model.peft={r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}"
PROMPT = "model.peft={peft_type: PROMPT_TUNING, num_virtual_tokens: 4}"
MOVED = """
import json, sys
from pipeline.system.library_patches import prepare_libraries
prepare_libraries()
from transformers import AutoModelForImageTextToText
models = []
for folder in sys.argv[1:]:
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32", output_loading_info=True)
    assert not any(info.values()), info
    models.append(dict(model.named_parameters()))
old, new = models
assert set(old) == set(new)
print(json.dumps([key for key in old if not old[key].equal(new[key])]))
"""
"""Loads two checkpoints with plain transformers; prints the weights that differ."""
PROMPTED = """
import json, sys
from pipeline.system.library_patches import prepare_libraries
prepare_libraries()
from transformers import AutoProcessor
turns = [{"role": "user", "content": [{"type": "text", "text": "Which?"}]}]
text = AutoProcessor.from_pretrained(sys.argv[1]).apply_chat_template(turns, add_generation_prompt=True)
print(json.dumps(text.startswith("".join(f"<|soft_prompt_{number}|>" for number in range(4)))))
"""
"""Whether plain transformers begins a prompt with the soft prompt."""


@pytest.mark.nightly
def test_lora_stages_hand_over_merged_weights(small: Small, whole_run: tuple[RunDir, str]):
    run = small.copy_of("small", "lora", "base", "cot")
    small.run("stages.sft", "--stage", "1", LORA, *QUICK, name="lora")
    small.run("stages.grpo", "--stage", "2", LORA, *QUICK, name="lora")
    for name, parent in [("stage1_sft", "base"), ("stage2_grpo_format", "stage1_sft")]:
        assert run.record(name)["status"] == "complete"
        assert list(run.final(name).glob("adapter*")) == []
        moved = in_fresh_process(MOVED, run.final(parent), run.final(name))
        assert moved
        assert all(key.endswith(("q_proj.weight", "v_proj.weight")) for key in moved)
        # freeze: [vision]
        if name == "stage2_grpo_format":
            assert not [key for key in moved if ".vision_model." in key]


@pytest.mark.nightly
def test_a_soft_prompt_is_handed_on_from_stage_to_stage(small: Small, whole_run: tuple[RunDir, str]):
    run = small.copy_of("small", "prompt", "base", "cot")
    output = small.run("stages.sft", "--stage", "1", PROMPT, *QUICK, name="prompt")
    output += small.run("stages.grpo", "--stage", "2", PROMPT, *QUICK, name="prompt")
    assert "shared_prefix: off" not in output
    first, second = (run.final(name) for name in ("stage1_sft", "stage2_grpo_format"))
    for folder in (first, second):
        assert (run.record(folder.parent.name) or {})["status"] == "complete"
        assert not (folder.parent / "start").exists()
        assert list(folder.glob("adapter*")) == []
        assert in_fresh_process(PROMPTED, folder) is True
    (moved,) = in_fresh_process(MOVED, first, second)
    assert moved.endswith("embed_tokens.weight")
