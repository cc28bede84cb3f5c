"""ms-swift's GRPO for benchmarks.grpo_rivals; runs inside ms-swift's own environment.

    python swift_grpo.py JOB.json FOLDER

It is `swift rlhf --rlhf_type grpo` through the function behind that command. Three things are added to it, all of them here:
operators that torchvision's wheel lacks on a CPU-only torch, the token ids of images and videos, which ms-swift 4.6 knows only
as those of Qwen's own vocabulary and the model of this benchmark has elsewhere, and our reward and probe.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from grpo_probe import attach, share_of_vowels

# A registration ends with its object.
_libraries: list[Any] = []


def main(job_file: str, folder: str) -> None:
    """Train until the probe ends it."""
    job = json.loads(Path(job_file).read_text())
    mend_torchvision()
    from swift.pipelines import rlhf_main
    from swift.rewards import orms
    from swift.rlhf_trainers import GRPOTrainer
    from swift.template.templates.qwen import Qwen2VLTemplate

    config = json.loads((Path(job["folder"]) / "model" / "config.json").read_text())
    Qwen2VLTemplate.image_token_id = config["image_token_id"]
    Qwen2VLTemplate.video_token_id = config["video_token_id"]
    orms["vowels"] = Vowels
    train = GRPOTrainer.train

    def in_turns(self: Any, *args: Any, **kwargs: Any) -> Any:
        attach(self)
        return train(self, *args, **kwargs)

    GRPOTrainer.train = in_turns
    rlhf_main(flags(job, folder))


class Vowels:
    """The reward as ms-swift calls it."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return share_of_vowels(completions)


def flags(job: dict[str, Any], folder: str) -> list[str]:
    """The words after `swift rlhf`: the options of all contestants, and what ms-swift has other defaults for."""
    options = {
        "rlhf_type": "grpo",
        "model": f"{job['folder']}/model",
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": f"{job['folder']}/rows.jsonl",
        "reward_funcs": "vowels",
        "output_dir": folder,
        **job["trainer"],
        "tuner_type": "full",
        "freeze_vit": False,
        "freeze_aligner": False,
        "vit_gradient_checkpointing": False,
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "use_vllm": False,
        "top_p": 1.0,
        "split_dataset_ratio": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "use_hf": True,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def mend_torchvision() -> None:
    """Declare the operators without which torchvision cannot be imported beside a CPU-only torch; nothing calls them."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)


if __name__ == "__main__":
    main(*sys.argv[1:])
