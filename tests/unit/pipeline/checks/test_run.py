"""Every rule between keys is broken once; the message must name the key, its value and the cure."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from pipeline.checks import run
from pipeline.checks import trainer as checks_trainer
from pipeline.config import derived
from pipeline.config.derived import deepspeed_file
from pipeline.config.loader import CONFIGS, load
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.system import vllm_server

S1 = "stages.stage1_sft"
S2, S3, S4 = "stages.stage2_grpo_format", "stages.stage3_grpo_accuracy", "stages.stage4_clgrpo"
PROMPT = "model.peft={peft_type: PROMPT_TUNING, num_virtual_tokens: 8}"
QUANTISED = "model.peft={r: 4, target_modules: [q_proj]}"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: 0)


def problems(*overrides: str) -> list[str]:
    """What is wrong with the demo under these overrides."""
    try:
        run.check(load("demo_scenes", overrides))
    except UserError as error:
        return error.problems
    return []


# (overrides, words that the one problem must hold: key, value, rule, cure)
RULES = [
    (["name=a/b"], ["name: 'a/b'", "one folder name", "for example demo"]),
    ([f"{S2}.trainer.report_to=tensorbord"], ["report_to: 'tensorbord'", "tensorboard, wandb, trackio"]),
    (["name=../up"], ["name: '../up'", "one folder name"]),
    (["name=.cache"], ["name: '.cache'"]),
    (["name=''"], ["name: ''"]),
    (["seed=-1"], ["seed: -1", "from 0 to 4294967295"]),
    (["task.name=scene"], ["task.name: 'scene'", "pipeline/tasks", "did you mean scenes?"]),
    (["task.path=/nowhere"], ["task.path: '/nowhere' does not exist", "set it to the root of the scenes data"]),
    (["model.dtype=float16"], ["model.dtype: 'float16'", "auto, bfloat16 or float32"]),
    (["model.name_or_path=./nowhere"], ["model.name_or_path", "'./nowhere' does not exist"]),
    (
        ["model.tiny.family=qwen3vl"],
        ["model.tiny.family: 'qwen3vl'", "not a file of stages/models/tiny", "did you mean qwen3_vl?"],
    ),
    (["model.tiny.family=paligemma"], ["model.tiny.family: 'paligemma' is refused", "TRL 1.16 cannot train PaliGemma"]),
    (["model.tiny.image_size=65"], ["model.tiny.image_size: 65", "multiple of patch_size * scale_factor = 32"]),
    (["model.tiny.hidden_size=100"], ["model.tiny.hidden_size: 100", "multiple of 32"]),
    (["model.tiny.layers=0"], ["model.tiny.layers: 0", "at least 1"]),
    (["model.tiny.patch_size=-16"], ["model.tiny.patch_size: -16", "at least 1"]),
    (["model.peft={rank: 4, target_modules: [q_proj]}"], ["model.peft.rank", "peft.LoraConfig"]),
    (["model.peft={lora_alfa: 4, target_modules: [q_proj]}"], ["model.peft.lora_alfa", "did you mean lora_alpha?"]),
    (
        ["model.peft={peft_type: IA3, r: 4, target_modules: [q_proj]}"],
        ["model.peft.r is not a field of peft.IA3Config"],
    ),
    (["model.peft={r: 4}"], ["model.peft.target_modules: is missing", "[q_proj, v_proj]"]),
    (
        ["model.peft={peft_type: P_TUNING}"],
        ["peft_type: P_TUNING is vectors before", "PROMPT_TUNING trains them as tokens"],
    ),
    (["model.peft={peft_type: PREFIX_TUNING}"], ["PREFIX_TUNING is keys and values", "use one of LORA"]),
    (
        ["model.peft={peft_type: houlsby}"],
        ["houlsby cannot be merged", "without that non-linearity, beside a layer, it is LORA"],
    ),
    (["model.peft={peft_type: PROMPT_TUNING}"], ["num_virtual_tokens: None must be a whole number from 1 to 1,000"]),
    (
        [PROMPT, "model.peft.num_virtual_tokens=1001"],
        ["num_virtual_tokens: 1001 must be a whole number from 1 to 1,000"],
    ),
    ([PROMPT, "model.peft.token_dim=8"], ["token_dim: 8 is not offered with PROMPT_TUNING", "num_virtual_tokens and"]),
    ([PROMPT, "model.peft.virtual_tokens=8"], ["virtual_tokens is not a field of peft.PromptTuningConfig"]),
    ([PROMPT, "model.peft.prompt_tuning_init_text=' '"], ["prompt_tuning_init_text: ' ' must be a text"]),
    (
        [PROMPT, "model.processor.chat_template='{{ messages }}'"],
        ["model.processor.chat_template: would be read in the place", "chat_template.jinja of a copy of the model"],
    ),
    (
        [PROMPT, "stages.3.learning_rates={connector: 1.0e-5, language: 1.0e-2}"],
        [f"{S3}.learning_rates.connector: nothing of it trains", "leave it out"],
    ),
    (["model.peft={peft_type: [LORA], target_modules: [q_proj]}"], ["peft_type: \"['LORA']\" is not offered"]),
    (
        ["stages.3.trainer.beta=0.1", "stages.3.trainer.sync_ref_model=true"],
        [f"{S3}.trainer.sync_ref_model: True is not set here", "in no checkpoint", "the reference is the parent"],
    ),
    (
        ["stages.3.trainer.accelerator_config={split_batches: true}"],
        ["accelerator_config", "is not set here", "shared out"],
    ),
    *(
        ([f"{S1}.trainer.{key}=full_shard"], [f"{S1}.trainer.{key}: 'full_shard' is not set here", "deepspeed: zero3"])
        for key in ("fsdp", "fsdp_config", "parallelism_config")
    ),
    (["stages.1.trainer.auto_find_batch_size=true"], ["auto_find_batch_size: True is not set here", "preflight --fit"]),
    (
        ["stages.3.trainer.beta=0.1", "model.peft={target_modules: [q_proj], bias: all}"],
        [f"{S3}.trainer.beta: above 0 with model.peft.bias: all", "set bias: none, or beta: 0"],
    ),
    (["model.attn_implementation=spda"], ["model.attn_implementation: 'spda'", "did you mean sdpa?"]),
    (["task.name=mixture", "task.options.splits=5", f"{S1}.split=mix"], [f"{S1}.split: 'mix' holds no built row"]),
    (["launch.rollout_flags={port: 8000}"], ["launch.rollout_flags.port: is set by the stage", "leave it out"]),
    (["launch.rollout_flags={served_model_name: m}"], ["launch.rollout_flags.served_model_name: is set by the stage"]),
    (
        ["launch.rollout_flags={--max-model-len: 9}"],
        ["launch.rollout_flags.--max-model-len: is written max-model-len,"],
    ),
    (
        ["launch.rollout_flags={data-parallel-size: 4}"],
        ["launch.rollout_flags.data-parallel-size: follows from the server's GPUs", "leave it out"],
    ),
    (
        ["launch.rollout_flags={tensor-parallel-size: two}"],
        ["launch.rollout_flags.tensor-parallel-size: 'two' must be a whole number of at least 1"],
    ),
    (
        ["launch.rollout_flags={max-model-len: 48}", "stages.3.rollouts=vllm"],
        ["launch.rollout_flags.max-model-len: 48 holds no prompt beside the 48 tokens of stage3_grpo_accuracy's"],
    ),
    ([PROMPT, "launch.deepspeed=zero3"], ["zero3 (ZeRO stage 3) does not work with PROMPT_TUNING", "use zero2"]),
    ([PROMPT, "stages.3.freeze=[language]"], [f"{S3}.freeze: language has the soft prompt", "take it out"]),
    (["model.peft={peft_type: ADALORA}"], ["peft_type: ADALORA needs a call after every step", "use one of LORA"]),
    (["model.peft={peft_type: RANDLOAR}"], ["peft_type: 'RANDLOAR' is not offered", "did you mean RANDLORA?"]),
    (
        ["model.peft={target_modules: [q_proj], init_lora_weights: pissa}"],
        ["init_lora_weights: 'pissa' changes the fixed weights", "gaussian"],
    ),
    (["model.peft={target_modules: [q_proj, lm_head]}"], ["target_modules: lm_head is not offered", "leave it out"]),
    (
        ["model.peft={target_modules: [q_proj], layer_replication: [[0, 2]]}"],
        ["layer_replication", "another architecture"],
    ),
    (["model.quantization=4bit"], ["model.quantization: 4bit", "set model.peft"]),
    (["model.quantization=nf4", QUANTISED], ["model.quantization: 'nf4' must be 4bit or 8bit"]),
    (
        ["model.peft={peft_type: LOHA, target_modules: [q_proj]}", "launch.deepspeed=zero3_offload"],
        ["zero3_offload (ZeRO stage 3) does not work with LOHA", "use zero2"],
    ),
    (
        ["model.quantization=8bit", "model.peft={peft_type: LOHA, target_modules: [q_proj]}"],
        ["LORA alone, not with LOHA"],
    ),
    (
        ["model.quantization=4bit", "model.peft={use_dora: true, target_modules: [q_proj]}"],
        ["model.peft.use_dora: True is not offered on 4bit weights"],
    ),
    (["stages.stage3.learning_rates={visoin: 1e-5}"], [f"{S3}.learning_rates: 'visoin'", "did you mean vision?"]),
    (["stages.stage3.learning_rates={connector: 0}"], [f"{S3}.learning_rates.connector: 0.0", "above 0"]),
    (
        ["stages.stage3.learning_rates={vision: 1e-5}", "stages.stage3.freeze=[vision]"],
        [f"{S3}.learning_rates.vision: the part is in freeze"],
    ),
    (
        ["stages.stage3.learning_rates={connector: 1e-5}", "stages.stage3.trainer.optim=galore_adamw"],
        ["learning_rates: optim galore_adamw makes groups of its own"],
    ),
    (["stages.stage3.trainer.max_steps=0"], [f"{S3}.trainer.max_steps: 0", "at least 1, or -1"]),
    (["stages.stage3.trainer.max_steps=-2"], [f"{S3}.trainer.max_steps: -2", "at least 1, or -1"]),
    (["stages.stage3.trainer.max_steps=1.5"], [f"{S3}.trainer.max_steps: 1.5", "at least 1, or -1"]),
    (["task.question=' '"], ["task.question: is blank", "leave it out"]),
    (["cot.split=train[1:2:3]"], ["cot.split", "'train[1:2:3]'", "name[:4000]"]),
    (["cot.teachers=[]"], ["cot.teachers: is empty", "configs/teachers"]),
    (["cot.teachers=[atribute]"], ["cot.teachers: 'atribute'", "did you mean attribute?"]),
    (["cot.prompt=answer_hiden_v1"], ["cot.prompt: 'answer_hiden_v1'", "did you mean answer_hidden_v1?"]),
    (["cot.attempts=0"], ["cot.attempts: 0", "at least 1"]),
    (["cot.concurrency=-4"], ["cot.concurrency: -4", "at least 1"]),
    (["cot.min_rows=0"], ["cot.min_rows: 0", "at least 1"]),
    (["cot=null"], ["stages.stage1_sft.data: cot needs a cot: block"]),
    (["evaluation.batch_size=0"], ["evaluation.batch_size: 0", "at least 1"]),
    (["evaluation.max_new_tokens=-1"], ["evaluation.max_new_tokens: -1", "at least 1"]),
    (["evaluation.samples=-1"], ["evaluation.samples: -1", "0 or more"]),
    (["evaluation.split=te st"], ["evaluation.split", "'te st'"]),
    (["launch.num_processes=0"], ["launch.num_processes: 0", "at least 1"]),
    (["launch.num_processes=-2"], ["launch.num_processes: -2", "at least 1"]),
    (["launch.parallel_phases=0"], ["launch.parallel_phases: 0 must be at least 1"]),
    (["launch.deepspeed=zero4"], ["launch.deepspeed: 'zero4'", "configs/deepspeed", "did you mean zero"]),
    (["stages.stage1.algorithm=stf"], ["stages.stage1_sft.algorithm: 'stf'", "did you mean sft?"]),
    (["stages.stage1.algorithm=evaluate"], ["stages.stage1_sft.algorithm: 'evaluate'", "grpo, sft"]),
    (["stages.stage2.init_from=stage3"], [f"{S2}.init_from: stage3_grpo_accuracy does not come before it", "or base"]),
    (["stages.stage2.init_from=stage2"], [f"{S2}.init_from: stage2_grpo_format does not come before it"]),
    (["stages.stage2.init_from=stage9"], [f"{S2}.init_from: stage 'stage9'", "stage1_sft", "or base"]),
    (["stages.stage2.init_from=stage1:last"], [f"{S2}.init_from: 'stage1:last'", "must be best"]),
    (["stages.stage2.init_from=stage1:best"], [f"{S2}.init_from", "stages.stage1_sft.validation.split=val[:200]"]),
    (["stages.stage1.init_from=base:best"], ["base is not trained, so it has no best"]),
    (["stages.stage3.validation.split=val[5"], ["stages.stage3_grpo_accuracy.validation.split"]),
    (["stages.stage3.validation.steps=0"], ["stages.stage3_grpo_accuracy.validation.steps: 0 must be at least 1"]),
    (["alarms.stop=[nam]"], ["alarms.stop: 'nam' is not an alarm", "did you mean nan"]),
    (["alarms.stop=[kl]", "alarms.kl=null"], ["alarms.stop: 'kl' is turned off"]),
    (["alarms.truncated=-1"], ["alarms.truncated: -1.0 must be 0 or more, or null"]),
    (["alarms.images_unseen=.nan"], ["alarms.images_unseen: nan must be 0 or more, or null"]),
    (
        ["baselines.sft_labels.init_from=sft_labels"],
        ["baselines.sft_labels.init_from: baseline_sft_labels does not come"],
    ),
    (["baselines.sft_labels.init_from=stage9"], ["baselines.sft_labels.init_from: stage 'stage9'", "or base"]),
    (
        ["baselines.sft_labels.init_from=stage2", "stages.1.init_from=baseline"],
        [
            "baselines.sft_labels.init_from: baseline_sft_labels starts from stage2_grpo_format, which starts from stage1_sft, "
            "which starts from baseline_sft_labels: a circle",
            "start from base",
        ],
    ),
    (["stages.stage2.split=train[:x]"], [f"{S2}.split", "'train[:x]'"]),
    (["stages.stage2.data=cot"], [f"{S2}.data: 'cot' must be task for grpo"]),
    (["stages.stage1.data=task"], ["stages.stage1_sft.data: 'task' must be cot or labels for sft"]),
    (
        ["stages.stage3.trainer.lr_scheduler_type=cosin"],
        [f"{S3}.trainer.lr_scheduler_type: 'cosin'", "did you mean cosine?"],
    ),
    (
        ["stages.stage3.trainer.lr_scheduler_type=reduce_lr_on_plateau"],
        [f"{S3}.trainer.lr_scheduler_type", "own evaluation"],
    ),
    (["stages.stage3.trainer.loss_type=dapoo"], [f"{S3}.trainer.loss_type: 'dapoo'", "did you mean dapo?"]),
    (
        ["stages.stage3.trainer.scale_rewards=batches"],
        [f"{S3}.trainer.scale_rewards: 'batches'", "did you mean batch?"],
    ),
    (["stages.stage1.trainer.loss_type=dapo"], ["stages.stage1_sft.trainer.loss_type: 'dapo'", "nll"]),
    (["stages.stage1.trainer.optim=adamx"], ["stages.stage1_sft.trainer.optim: 'adamx'", "did you mean"]),
    (
        ["stages.stage1.trainer.save_strategy=no"],
        ["stages.stage1_sft.trainer.save_strategy: False", 'write "no" in quotes'],
    ),
    (
        ["stages.stage1.trainer.save_strategy=best"],
        ["stages.stage1_sft.trainer.save_strategy: 'best'", "own evaluation"],
    ),
    (["stages.stage1.trainer.logging_strategy=step"], ["stages.stage1_sft.trainer.logging_strategy: 'step'", "steps"]),
    (
        ["stages.stage1.trainer.load_best_model_at_end=true"],
        ["load_best_model_at_end: True is not set here", "validation"],
    ),
    (
        ["stages.stage1.trainer.assistant_only_loss=true"],
        ["assistant_only_loss: True is not set here", "completion alone"],
    ),
    (["stages.stage3.trainer.beta=no"], [f"{S3}.trainer.beta: False must be a number"]),
    (["stages.stage2.prompt=thinking"], [f"{S2}.prompt: 'thinking'", "think, direct"]),
    (
        ["stages.stage1.split=val[:10]"],
        [
            "stages.stage1_sft.split: 'val[:10]' holds no built row, for cot.split is 'train[:4000]'; name a slice of train"
        ],
    ),
    (["stages.stage1.prompt=direct"], ["stages.stage1_sft.prompt: 'direct' does not fit data: cot", "use think"]),
    (
        ["baselines.sft_labels.prompt=think"],
        ["baselines.sft_labels.prompt: 'think' does not fit data: labels", "use direct"],
    ),
    (["stages.stage2.freeze=[visoin]"], [f"{S2}.freeze: 'visoin'", "did you mean vision?"]),
    (["stages.stage2.freeze=[vision, connector, language]"], [f"{S2}.freeze: freezes all", "leave one to train"]),
    (["stages.stage2.gate.format_rate=90"], [f"{S2}.gate.format_rate: 90", "a share from 0 to 1"]),
    (["stages.stage2.gate.action=halt"], [f"{S2}.gate.action: 'halt'", "there are: continue, stop, warn"]),
    (["baselines.sft_labels.gate.action=stopp"], ["baselines.sft_labels.gate.action: 'stopp'", "did you mean stop?"]),
    (
        ["stages.stage2.init_from=baseline", "stages.stage2.gate.accuracy=true"],
        [f"{S2}.gate.accuracy: its parent baseline is not asked in the style 'think'", "leave it null"],
    ),
    (["stages.stage1.reward_funcs=[format]"], ["stages.stage1_sft.reward_funcs: sft has no rewards"]),
    (["stages.stage2.reward_funcs=[]"], [f"{S2}.reward_funcs: is empty", "[format, accuracy]"]),
    (["stages.stage2.reward_funcs=[fromat]"], [f"{S2}.reward_funcs: 'fromat'", "did you mean format?"]),
    (["stages.stage2.reward_funcs=[no_such.module]"], [f"{S2}.reward_funcs", "'no_such.module' is not importable"]),
    (["stages.stage2.reward_funcs=[..mine]"], [f"{S2}.reward_funcs", "'..mine' is not importable"]),
    (
        ["stages.3.trainer.reward_weights=[1]"],
        [f"{S3}.trainer.reward_weights: 1 weights for 2 reward_funcs", "one each"],
    ),
    (["stages.3.trainer.reward_weights=1"], [f"{S3}.trainer.reward_weights: 1 must be a list of numbers"]),
    (["stages.3.trainer.num_generation=8"], [f"{S3}.trainer.num_generation is not a GRPOConfig", "num_generations?"]),
    (["stages.1.trainer.num_generations=8"], ["stages.stage1_sft.trainer.num_generations is not a SFTConfig field"]),
    (["stages.3.trainer.gradient_checkpointing=yes please"], [f"{S3}.trainer.gradient_checkpointing", "true or false"]),
    (["stages.3.trainer.learning_rate=fast"], [f"{S3}.trainer.learning_rate: 'fast' must be a number"]),
    (["stages.3.trainer.learning_rate=true"], [f"{S3}.trainer.learning_rate: True must be a number"]),
    (["stages.3.trainer.learning_rate=-1e-6"], [f"{S3}.trainer.learning_rate: -1e-06 must be a number above 0"]),
    (["stages.3.trainer.temperature=0"], [f"{S3}.trainer.temperature: 0 must be a number above 0"]),
    (["stages.3.trainer.beta=-0.1"], [f"{S3}.trainer.beta: -0.1 must be 0 or more"]),
    (["stages.3.trainer.num_iterations=0"], [f"{S3}.trainer.num_iterations: 0 must be a whole number of at least 1"]),
    (["stages.3.trainer.gradient_accumulation_steps=x"], [f"{S3}.trainer.gradient_accumulation_steps: 'x'", "number"]),
    (["stages.3.trainer.per_device_train_batch_size=1.5"], [f"{S3}.trainer.per_device_train_batch_size: 1.5", "whole"]),
    (
        ["stages.1.trainer.per_device_train_batch_size=0"],
        ["stage1_sft.trainer.per_device_train_batch_size: 0", "at least 1"],
    ),
    (["stages.3.trainer.steps_per_generation=0"], [f"{S3}.trainer.steps_per_generation: 0", "at least 1"]),
    (["stages.3.trainer.num_generations=1"], [f"{S3}.trainer.num_generations: 1 must be at least 2"]),
    (["stages.3.trainer.num_generations=7"], [f"{S3}.trainer: a rollout holds 64 completions", "not divisible", "7"]),
    (
        ["stages.4.trainer.num_iterations=1"],
        [
            f"{S4}: asks for clipping (epsilon 0.2, epsilon_high 0.1) but cannot clip",
            "Set trainer.num_iterations above 1 (now 1)",
        ],
    ),
    (["stages.4.trainer.loss_type=cispo"], [f"{S4}.trainer.epsilon: loss_type cispo ignores it", "dapo"]),
    (["stages.4.trainer.epsilon=0"], [f"{S4}.trainer.epsilon: 0 must be a number above 0"]),
    (["stages.4.trainer.epsilon_high=-0.1"], [f"{S4}.trainer.epsilon_high: -0.1 must be a number above 0"]),
    (["stages.4.trainer.epsilon_high=wide"], [f"{S4}.trainer.epsilon_high: 'wide' must be a number above 0"]),
    (["stages.4.trainer.epsilon=1.5"], [f"{S4}.trainer.epsilon: 1.5 must be below 1"]),
    (["stages.1.trainer.save_only_model=true"], ["save_only_model: True", "does not resume exactly"]),
    (
        ["stages.3.trainer.gradient_accumulation_steps=2", "stages.3.trainer.steps_per_generation=3"],
        ["gradient_accumulation_steps: 2", "must divide", "3, or be a multiple"],
    ),
    (["stages.4.trainer.save_steps=10"], [f"{S4}.trainer.save_steps: 10 must be a multiple of 4", "use 12"]),
    (["stages.4.trainer.save_total_limit=1"], [f"{S4}.trainer.save_total_limit: 1 must be 2 or more"]),
    (["stages.1.trainer.packing=true"], ["stages.stage1_sft.trainer.packing: true is refused by TRL", "remove it"]),
    (
        ["stages.1.trainer.max_length=1024"],
        ["stage1_sft.trainer.max_length: 1024 would cut image tokens", "leave it null"],
    ),
    (["stages.3.trainer.use_vllm=true"], [f"{S3}.trainer.use_vllm", "issue 6294", "set the stage's rollouts: vllm"]),
    (["stages.3.trainer={use_vllm: true, vllm_mode: server}"], [f"{S3}.trainer.use_vllm", "tiled images"]),
    (["stages.3.rollouts=vlm"], [f"{S3}.rollouts: 'vlm'", "transformers, vllm", "did you mean vllm?"]),
    (["stages.1.rollouts=vllm"], ["stage1_sft.rollouts, rollouts_ahead, dynamic_sampling: sft samples nothing"]),
    (["stages.1.dynamic_sampling=2"], ["stage1_sft.rollouts, rollouts_ahead, dynamic_sampling: sft samples nothing"]),
    (["stages.1.rollouts_ahead=true"], ["stage1_sft.rollouts, rollouts_ahead, dynamic_sampling: sft samples nothing"]),
    (["stages.3.rollouts_ahead=true"], [f"{S3}.rollouts_ahead: true needs a server", "set rollouts: vllm"]),
    (["stages.3.dynamic_sampling=-1"], [f"{S3}.dynamic_sampling: -1", "0 (off)"]),
    (
        ["stages.3.dynamic_sampling=1", "stages.3.trainer.per_device_train_batch_size=4", "launch.num_processes=2"],
        [f"{S3}.dynamic_sampling: needs whole groups", "its 4 completions", "num_generations 8"],
    ),
    (
        ["stages.3.dynamic_sampling=1", "stages.3.trainer.multi_objective_aggregation=normalize_then_sum"],
        [f"{S3}.dynamic_sampling", "remove multi_objective_aggregation: normalize_then_sum"],
    ),
    (["stages.3.distill.teacher=a/b"], [f"{S3}.distill: a grpo stage learns from rewards", "in an sft stage before"]),
    (["stages.1.distill={teacher: a/b, weight: 0}"], [f"{S1}.distill.weight: 0.0", "at most 1", "leave distill out"]),
    (["stages.1.distill={teacher: a/b, weight: 1.5}"], [f"{S1}.distill.weight: 1.5", "above 0 and at most 1"]),
    (["stages.1.distill={teacher: a/b, temperature: 0}"], [f"{S1}.distill.temperature: 0.0", "above 0"]),
    (["stages.1.distill={teacher: a/b, temperature: .inf}"], [f"{S1}.distill.temperature: inf", "finite"]),
    (["stages.1.distill={teacher: a/b, weight: .nan}"], [f"{S1}.distill.weight: nan", "above 0"]),
    (
        ["stages.1.distill.teacher=a/b", "stages.1.trainer.loss_type=dft"],
        [f"{S1}.trainer.loss_type: dft", "remove one of the two"],
    ),
    (
        ["stages.1.distill.teacher=a/b", "stages.1.trainer.label_smoothing_factor=0.1"],
        [f"{S1}.trainer.label_smoothing_factor: 0.1", "remove one of the two"],
    ),
    (
        ["stages.1.distill.teacher=runs/no_such/stage1_sft/final"],
        [f"{S1}.distill.teacher: 'runs/no_such/stage1_sft/final' does not exist", "run that first"],
    ),
    (
        ["stages.1.distill.teacher=runs/demo_scenes/stage4_clgrpo/final"],
        [f"{S1}.distill.teacher: 'runs/demo_scenes/stage4_clgrpo/final' is of this run", "in a run of its own"],
    ),
    (["stages.1.distill.teacher=./no_such"], [f"{S1}.distill.teacher: './no_such' does not exist", "a hub id"]),
    (["launch.rollout_gpus=1"], ["launch.rollout_gpus: 1", "0 visible GPUs"]),
    *(
        ([f"stages.3.trainer.{key}=1"], [f"{S3}.trainer.{key}: 1 is not set here; {cure}"])
        for key, cure in checks_trainer.OWNED.items()
    ),
]


@pytest.mark.parametrize(("overrides", "words"), RULES, ids=lambda value: value[0] if isinstance(value, list) else None)
def test_a_broken_rule_names_key_value_and_cure(overrides: list[str], words: list[str]) -> None:
    told = problems(*overrides)
    assert len(told) == 1, told
    for word in words:
        assert word in told[0]


def with_baseline(tmp_path: Path, name: str, init_from: str = "base") -> list[str]:
    """The broken rules of the demo with one more baseline."""
    block = {"algorithm": "sft", "init_from": init_from, "data": "labels", "prompt": "direct"}
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"base": str(CONFIGS / "demo_scenes.yaml"), "baselines": {name: block}})
    )
    try:
        run.check(load(tmp_path / "run.yaml"))
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    "name", ["a/b", "a-b", "a b", "", "1st", "baseline", "baseline_x", "stage1_sft", "stage9", "base", "cot", "all"]
)
def test_a_baseline_is_called_what_no_folder_and_no_other_phase_is(tmp_path: Path, name: str) -> None:
    (told,) = with_baseline(tmp_path, name)
    assert told.startswith(f"baselines.{name}: ")
    assert told.endswith("for example grpo_task")


@pytest.mark.parametrize("name", ["grpo_task", "cot_only", "stages", "Ärger"])
def test_a_baseline_may_be_called_anything_else(tmp_path: Path, name: str) -> None:
    assert with_baseline(tmp_path, name) == []


@pytest.mark.parametrize("parent", ["sft_labels", "baseline_sft_labels", "stage4", "stage1_sft"])
def test_a_baseline_may_start_from_another_or_from_a_stage(tmp_path: Path, parent: str) -> None:
    assert with_baseline(tmp_path, "more", parent) == []


def test_the_demo_breaks_no_rule() -> None:
    assert problems() == []


def test_every_broken_rule_is_told_at_once() -> None:
    told = problems(
        "name=a/b",
        "task.name=scene",
        "cot.attempts=0",
        "stages.2.trainer.num_generation=4",
        "stages.3.trainer.num_generations=7",
        "stages.4.trainer.num_iterations=1",
        "baselines.sft_labels.trainer.bf16=true",
        "evaluation.batch_size=0",
        "launch.deepspeed=zero4",
    )
    assert len(told) == 9


@pytest.mark.parametrize(
    "overrides",
    [
        ["baselines={}"],
        ["model.peft={r: 4, lora_alpha: 8, target_modules: all-linear}", "launch.deepspeed=zero3"],
        ["model.peft={peft_type: BOFT, boft_block_size: 8, target_modules: [q_proj]}"],
        [PROMPT, "model.peft.prompt_tuning_init_text=Look closely.", "launch.deepspeed=zero2"],
        ["model.quantization=4bit", QUANTISED, "launch.deepspeed=zero3"],
        ["stages.3.learning_rates={connector: 1e-5, language: 1e-6}"],
        ["launch.deepspeed=zero3_offload", "launch.num_processes=2"],
        ["stages.2.reward_funcs=[rewards.format.format_reward]"],
        ["stages.3.trainer.reward_weights=[1, 0.5]"],
        ["stages.3.dynamic_sampling=3"],
        ["stages.4.trainer={num_iterations: 1, gradient_accumulation_steps: 2, steps_per_generation: 4}"],
        ["stages.4.trainer={epsilon: 0.1, epsilon_high: null}"],
        ["stages.4.trainer.save_steps=12"],
        ["stages.4.init_from=baseline"],
        ["stages.3.trainer.learning_rate=1"],
        ["evaluation.samples=0"],
        ["stages.1.gate.accuracy=true"],
        ["task.options.splits.part.a=train", "stages.1.split=part"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_sound_variant_is_accepted(overrides: list[str]) -> None:
    assert problems(*overrides) == []


@pytest.mark.parametrize(
    ("family", "words"), [("paligemma", "cannot train PaliGemma"), ("internvl_chat", "ends in -hf")]
)
def test_a_checkpoint_of_a_family_that_cannot_be_trained_is_refused(tmp_path: Path, family: str, words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (problem,) = problems(f"model.name_or_path={tmp_path}")
    assert problem.startswith(f"model.name_or_path: '{tmp_path}' is a {family}")
    assert words in problem


def test_everything_that_is_wrong_with_a_models_folder_is_told_beside_the_rest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_onevision"}))
    told = problems(f"model.name_or_path={tmp_path}", "seed=-1")
    assert len(told) == 1 + 4
    for words in ("*.safetensors", "tokenizer", "image processor", "chat template"):
        (problem,) = (one for one in told if words in one)
        assert problem.startswith(f"model.name_or_path: '{tmp_path}' has no ")


def test_two_stages_may_not_share_a_number(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "name: x\ntask: {name: scenes}\nstages:\n"
        "  stage1_a: {algorithm: sft, init_from: base, data: labels, prompt: direct}\n"
        "  stage1_b: {algorithm: sft, init_from: base, data: labels, prompt: direct}\n"
        "  second: {algorithm: sft, init_from: base, data: labels, prompt: direct}\n"
    )
    with pytest.raises(UserError) as caught:
        run.check(load(tmp_path / "run.yaml"))
    text = "\n".join(caught.value.problems)
    assert "stages: stage1 is the number of two stages" in text
    assert "stages.second: a stage's name must read stage<number>_<word>" in text
    assert len(caught.value.problems) == 2


def test_rollouts_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = "stages.2.trainer.per_device_train_batch_size=4"
    assert "a rollout holds 4 completions" in problems(batch)[0]
    assert problems(batch, "launch.num_processes=2") == []
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: 4)
    assert problems(batch) == []
    assert derived.world_size(load("demo_scenes")) == 4
    assert derived.world_size(load("demo_scenes", ["launch.num_processes=2"])) == 2


def test_more_processes_than_gpus_are_refused_and_without_any_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    # two CPU processes
    assert problems("launch.num_processes=2") == []
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: 1)
    assert "launch.num_processes: 2 is more than the 1 visible GPUs" in problems("launch.num_processes=2")[0]


def test_gpus_of_the_rollout_server_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: 4)
    assert derived.world_size(load("demo_scenes", ["launch.rollout_gpus=1"])) == 3
    assert "more than the 3 visible GPUs" in problems("launch.rollout_gpus=1", "launch.num_processes=4")[0]
    assert "must leave one of the 4" in "".join(problems("launch.rollout_gpus=4"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["launch.rollout_gpus=2"], None),
        (["launch.rollout_gpus=3"], "the server's 3 GPUs are no multiple; lower them, or set launch.rollout_gpus to 2"),
        (["launch.rollout_gpus=1"], "the server's 1 GPUs are no multiple"),
        # Shared with the trainer.
        ([], None),
        (["launch.num_processes=3"], "the server's 3 GPUs are no multiple"),
    ],
)
def test_a_server_s_gpus_have_to_be_shared_out_to_its_engines(
    words: list[str], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: 4)
    found = [one for one in problems("launch.rollout_flags={tensor-parallel-size: 2}", *words) if "multiple" in one]
    assert len(found) == (told is not None)
    assert (told or "") in "".join(found)


def test_a_flag_that_vllm_does_not_have_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "known_flags", lambda: frozenset({"max-model-len", "async-scheduling"}))
    (told,) = problems("launch.rollout_flags={max-modellen: 8192, no-async-scheduling: true}")
    assert told.startswith(
        "launch.rollout_flags.max-modellen: is no flag of the installed vLLM; did you mean max-model-len?"
    )
    # Without vLLM nobody knows its flags.
    monkeypatch.setattr(vllm_server, "known_flags", frozenset)
    assert problems("launch.rollout_flags={max-modellen: 8192}") == []


@pytest.mark.parametrize("installed", [True, False])
def test_a_rollout_server_needs_vllm(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    vllm = find("json") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: vllm if name == "vllm" else find(name, *rest))
    told = problems("stages.3.rollouts=vllm")
    assert told == [] if installed else f"{S3}.rollouts: vllm is not installed" in told[0]
    if installed:
        assert (
            "generation_kwargs: is not sent"
            in problems("stages.3.rollouts=vllm", "stages.3.trainer.generation_kwargs={top_p: 0.9}")[0]
        )
        ahead = ("stages.3.rollouts=vllm", "stages.3.rollouts_ahead=true")
        assert problems(*ahead) == []
        assert (
            f"{S3}.rollouts: vllm with model.quantization: 4bit"
            in problems(*ahead, "model.quantization=4bit", QUANTISED)[0]
        )
        assert (
            f"{S3}.rollouts_ahead: true cannot go with dynamic_sampling 2"
            in problems(*ahead, "stages.3.dynamic_sampling=2")[0]
        )
        uncorrected = "stages.3.trainer.vllm_importance_sampling_correction=false"
        assert "what older weights sampled" in problems(*ahead, uncorrected)[0]


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ("{num_iterations: 4}", 4),
        ("{gradient_accumulation_steps: 2}", 4),
        ("{num_iterations: 2, gradient_accumulation_steps: 2, steps_per_generation: 8}", 8),
        ("{num_iterations: 1, gradient_accumulation_steps: 4, steps_per_generation: 6}", 3),
    ],
)
def test_checkpoints_fall_where_a_rollout_ends(trainer: str, expected: int) -> None:
    config = load("demo_scenes", [f"stages.4.trainer={trainer}"])
    assert derived.checkpoint_cycle(config.stage("4")) == expected


def test_an_sft_stage_resumes_anywhere() -> None:
    assert derived.checkpoint_cycle(load("demo_scenes").stage("1")) == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.4.trainer.epsilon=0.3", (0.3, 0.1)),
        ("stages.4.trainer.epsilon_high=null", (0.2, 0.2)),
        ("stages.3.trainer.epsilon=0.1", (0.2, 0.1)),
    ],
)
def test_the_clip_range_is_the_one_trl_will_use(override: str, expected: tuple[float, float]) -> None:
    assert derived.clip_range(load("demo_scenes", [override]).stage("4")) == expected


def test_a_stage_that_names_no_epsilon_asks_for_no_clipping() -> None:
    config = load("demo_scenes")
    assert derived.clip_range(config.stage("3")) is None
    assert derived.clip_range(config.stage("1")) is None
    assert derived.clip_range(
        load("demo_scenes", ["stages.3.trainer={epsilon_high: 0.3, num_iterations: 2}"]).stage("3")
    ) == (
        0.2,
        0.3,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"zero_optimization": {"stage": 3}}', "stage3_gather_16bit_weights_on_model_save: true"),
        ('{"zero_optimization": {"stage": 4}}', "has ZeRO stage 4; it must be 1, 2 or 3"),
        ('{"zero_optimization": {}}', "has ZeRO stage 0; it must be 1, 2 or 3"),
        ('{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}', "it needs stage 3"),
        (
            '{"zero_optimization": {"stage": 1}, "optimizer": {"type": "AdamW"}}',
            "a block optimizer, which would silently replace the stages' own",
        ),
        ("{broken", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"zero_optimization": 3}', "must be a JSON object"),
    ],
)
def test_a_deepspeed_file_of_ones_own_is_read_before_anything_starts(tmp_path: Path, settings: str, words: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(settings)
    told = problems(f"launch.deepspeed={path}")
    assert len(told) == 1
    assert str(path) in told[0]
    assert words in told[0]


def test_a_sound_deepspeed_file_of_ones_own_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert problems(f"launch.deepspeed={path}") == []
    config: RunConfig = load("demo_scenes", [f"launch.deepspeed={path}"])
    assert deepspeed_file(config) == path


def test_quantised_weights_without_bitsandbytes_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    told = problems("model.quantization=8bit", QUANTISED)
    assert told == ["model.quantization: 8bit needs bitsandbytes; pip install -c requirements.lock bitsandbytes"]


@pytest.mark.parametrize(
    ("value", "missing"), [("wandb", ["wandb"]), ("[tensorboard,trackio]", ["tensorboard", "trackio"])]
)
def test_a_tracker_that_is_not_installed_is_told_before_anything_loads(
    monkeypatch: pytest.MonkeyPatch, value: str, missing: list[str]
) -> None:
    found = importlib.util.find_spec
    trackers = checks_trainer.TRACKERS
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in trackers else found(name))
    assert problems(f"{S2}.trainer.report_to={value}") == [
        f"{S2}.trainer.report_to: {name} is not installed; pip install {name}, or leave report_to out"
        for name in missing
    ]
    # What is trained can be looked at.
    run.check(load("demo_scenes", [f"{S2}.trainer.report_to={value}"]), trains=False)


def test_one_wrong_option_does_not_hide_the_others() -> None:
    told = problems(
        "stages.stage3.trainer.lr_scheduler_type=cosin",
        "stages.stage3.trainer.num_generations=7",
        "stages.stage3.trainer.save_steps=7",
        "stages.stage3.trainer.num_iterations=2",
    )
    assert any("lr_scheduler_type" in problem for problem in told)
    assert any("not divisible by num_generations 7" in problem for problem in told)
    assert any("save_steps: 7 must be a multiple of" in problem for problem in told)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def short_reward(completions, **columns):\n    return [1.0\n", "is not Python"),
        (
            "def brief_reward(completions, **columns):\n    return [1.0]\n",
            "defines no short_reward; did you mean brief_reward?",
        ),
        ("", "defines no short_reward"),
        ("def short_reward(completions, **columns):\n    return [1.0]\n", None),
        ("short_reward = lambda completions, **columns: [1.0]\n", None),
        ("from rewards.format import format_reward as short_reward\n", None),
        ("from rewards.format import *\n", None),
    ],
)
def test_a_reward_is_looked_at_before_any_stage_runs(
    source: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_scores.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = problems("stages.stage3.reward_funcs=[format,my_scores.short_reward]")
    assert [problem for problem in found if "my_scores" in problem and (told is None or told in problem)] == (
        found if told else []
    )
    assert bool(found) == (told is not None)
