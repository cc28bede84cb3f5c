"""Tables in docs/ are what the code says, and say something of everything in it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.command_line import EXIT_CODES, status
from pipeline.config import evaluation, schema
from pipeline.config.loader import CONFIGS, load
from pipeline.data.conversations import grpo_columns
from pipeline.data.load import TASKS, task_names
from pipeline.data.task import labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Split, labelled_image
from rewards import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def doc_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doc_tables", ROOT / ".ci" / "doc_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_as_the_code_has_it(doc_tables: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert doc_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_stands_on_one_page_and_a_changed_one_is_found(doc_tables: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(found[2] for found in doc_tables.PLACE.finditer(text)) == sorted(doc_tables.TABLES)
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert doc_tables.filled(page.replace("| 0.2 |", "| 0.3 |")) == page != page.replace("| 0.2 |", "| 0.3 |")


def test_every_test_that_the_page_on_odd_inputs_names_exists() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    page = (ROOT / "docs" / "doors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_every_key_of_a_configuration_a_lab_and_a_teacher_is_on_a_page_with_a_meaning(doc_tables: ModuleType) -> None:
    blocks = {table.args[0] for name, table in doc_tables.TABLES.items() if isinstance(table, functools.partial)}
    for module in (schema, evaluation):
        found = {cls for cls in vars(module).values() if dataclasses.is_dataclass(cls)}
        # A lab's cells are made of its keys.
        assert {cls for cls in found if cls.__module__ == module.__name__} - blocks <= {evaluation.Cell}
    for cls in (*doc_tables.KINDS.values(), *blocks):
        assert not [name for name, _, meaning in doc_tables.fields_of(cls) if not meaning]


def test_the_example_of_the_page_on_configurations_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0].replace("base: ", f"base: {CONFIGS}/")
    (tmp_path / "example.yaml").write_text(example)
    config = load(tmp_path / "example.yaml")
    assert (config.name, config.evaluation.samples, config.launch.deepspeed) == ("my_birds", 4, "zero2")
    assert list(config.stages) == list(load("emoset/smolvlm_500m").stages)
    assert config.stage("3").trainer["max_steps"] == 300


def test_every_task_that_takes_options_lists_them(doc_tables: ModuleType) -> None:
    listed = doc_tables.task_options()
    for name in task_names():
        source = (TASKS / f"{name}.py").read_text(encoding="utf-8")
        assert ("check_options(config, OPTIONS)" in source) == (f"| `{name}` |" in listed), name


def test_a_reward_is_called_with_what_the_guide_lists() -> None:
    from trl import GRPOTrainer

    task = labelled_task("t", LabelSet.of(["a", "b"]), "?", ("train",), lambda split: Split(()))
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    of_trl = set(re.findall(r'(?<!\w)reward_kwargs\["(\w+)"\]', source)) - {"environments"}
    rows = set(grpo_columns(task, [labelled_image("1", Path("x.png"), "a")], "think")) - {"prompt"}
    assert set(COLUMNS) == of_trl | rows | {"prompts", "completion_ids", "task"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("x"), 2), (KeyboardInterrupt(), 130), (OSError(28, "full"), 2)],
)
def test_an_exit_status_is_one_the_guide_lists(error: BaseException, code: int) -> None:
    def work() -> int:
        raise error

    assert status(work) == code
    assert code in EXIT_CODES
