"""Option names are read from the installed libraries' sources. tests/unit/test_configs.py compares them with the real classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import trainer_options
from pipeline.config.trainer_options import UNKNOWN, peft_fields, trainer_fields


def test_fields_come_from_transformers_from_trl_s_base_and_from_the_trainer_s_own_config() -> None:
    fields = trainer_fields("grpo")
    assert {"per_device_train_batch_size", "learning_rate", "gradient_checkpointing", "num_generations", "beta"} <= set(
        fields
    )
    assert (fields["num_generations"], fields["epsilon"], fields["num_iterations"]) == (8, 0.2, 1)
    assert "num_generations" not in trainer_fields("sft")
    assert "max_length" in trainer_fields("sft")


def test_the_later_class_s_default_holds() -> None:
    assert trainer_fields("grpo")["learning_rate"] == 1e-6
    assert trainer_fields("sft")["learning_rate"] == 2e-5


def test_adapter_fields_are_those_of_peft() -> None:
    fields = peft_fields("LORA")
    assert {"r", "lora_alpha", "lora_dropout", "target_modules", "task_type"} <= set(fields)
    assert fields["r"] == 8
    assert {"alpha", "peft_type"} <= set(peft_fields("LOHA"))


def test_a_default_that_is_computed_is_unknown(tmp_path: Path) -> None:
    source = tmp_path / "config.py"
    source.write_text(
        "class A:\n"
        "    a: int = 3\n"
        "    b: float = field(default=0.5, metadata={'help': 'x'})\n"
        "    c: list = field(default_factory=list)\n"
        "    d: str = compute()\n"
        "    e: int\n"
        "    _KEEP: ClassVar[int] = 1\n"
        "    plain = 2\n"
    )
    assert trainer_options._class_fields(source, "A") == {"a": 3, "b": 0.5, "c": UNKNOWN, "d": UNKNOWN, "e": UNKNOWN}


def test_a_class_that_has_moved_is_told_with_its_file(tmp_path: Path) -> None:
    source = tmp_path / "config.py"
    source.write_text("x = 1\n")
    with pytest.raises(LookupError, match=r"config\.py has no class GRPOConfig; the installed version differs"):
        trainer_options._class_fields(source, "GRPOConfig")


def test_a_missing_library_says_how_to_install_it() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"nolib is not installed; run \./launch/install\.sh"):
        trainer_options.package("nolib")
