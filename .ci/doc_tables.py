"""The tables of docs/ that are made from the code: ``python .ci/doc_tables.py`` writes them, ``--check`` only says which differ.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; NAME is one of `TABLES`. The tests run the check.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cot_builder.teachers.config import KINDS  # noqa: E402
from pipeline.command_line import EXIT_CODES  # noqa: E402
from pipeline.config import evaluation, schema  # noqa: E402
from pipeline.config.validation import key_of  # noqa: E402
from pipeline.data.catalogue import catalogue  # noqa: E402
from pipeline.data.image_sets import HEIC_SUFFIXES, IMAGE_SUFFIXES  # noqa: E402
from pipeline.data.load import task_names  # noqa: E402
from rewards import COLUMNS  # noqa: E402

PLACE = re.compile(r"(<!-- table: (\w+) -->)(.*?)(<!-- end of table -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or with --check name the pages whose tables differ."""
    check = "--check" in (sys.argv[1:] if argv is None else argv)
    different = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (now := filled(text)) != text:
            different += 1
            print(f"{page.relative_to(ROOT)}: {'differs from the code; run .ci/doc_tables.py' if check else 'written'}")
            if not check:
                page.write_text(now, encoding="utf-8")
    return 1 if check and different else 0


def filled(page: str) -> str:
    """Return a page with its tables as the code has them now."""
    return PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}{place[4]}", page)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown, with the line ends that stand around one."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n" + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def fields_of(cls: type) -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of each field of a dataclass; the meaning is the text below it in the source, or in that
    of a base.
    """
    told: dict[str, str] = {}
    for each in filter(dataclasses.is_dataclass, cls.__mro__):
        body = ast.parse(inspect.getsource(each)).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in itertools.pairwise([*body.body, None]):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                text = " ".join(str(below.value.value).split()) if is_text else ""
                told[line.target.id] = told.get(line.target.id) or text
    return [(key_of(field.name), default_of(field), told[field.name]) for field in dataclasses.fields(cls)]


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as YAML would have it."""
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    # OmegaConf's mark of what must be set.
    return "required" if made == "???" else shown(made)


def shown(value: object) -> str:
    """Return a default in words."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]" if value else "none"
    if value in (None, "") or value == {}:
        return "none"
    if dataclasses.is_dataclass(value):
        return "those of its keys"
    return str(value).lower() if isinstance(value, bool) else str(value)


def keys(*classes: type) -> str:
    """Return the table of the keys of dataclasses."""
    rows = [(f"`{name}`", default, meaning) for cls in classes for name, default, meaning in fields_of(cls)]
    return table(("key", "default", "meaning"), rows)


def tasks() -> str:
    """Return the table of all tasks by the first sentence of their files."""
    rows = []
    for name in task_names():
        module = importlib.import_module(f"pipeline.tasks.{name}")
        first = (module.__doc__ or "").split("\n\n")[0].removeprefix(f"{name}: ")
        said = re.split(r"(?<=[a-z)])\. ", " ".join(first.split()))[0].rstrip(".")
        judged = ", ".join(f"`{split}`" for split in getattr(module, "JUDGED_ONLY", ()))
        rows.append((f"`{name}`", f"all but {judged}" if judged else "every split", said))
    return table(
        ("`task.name`", "can be trained on", "what it is"), sorted(rows, key=lambda row: row[1] != "every split")
    )


def task_options() -> str:
    """Return the table of the options of every task that has some."""
    modules = {name: importlib.import_module(f"pipeline.tasks.{name}") for name in task_names()}
    rows = [
        (f"`{name}`", f"`{option}`", shown(of.default), of.meaning)
        for name, module in modules.items()
        for option, of in getattr(module, "OPTIONS", {}).items()
    ]
    return table(("task", "option", "default", "meaning"), rows)


def data_sets() -> str:
    """Return the table of the data sets that can be fetched."""
    rows = [
        (
            f"`{one.name}`",
            one.title,
            one.licence,
            f"[{one.repo}]({one.page})" if one.repo else f"by hand: {one.page}",
            f"`{one.revision[:12]}`" if one.revision else "of the first fetch" if one.repo else "–",
            f"`{one.folder}/`",
        )
        for one in catalogue().values()
    ]
    return table(("`fetch`", "data set", "licence", "from", "revision", "below `--to`"), rows)


TABLES = {
    "data_sets": data_sets,
    "tasks": tasks,
    "task_options": task_options,
    # The same on a machine with the plug-in for HEIC.
    "suffixes": lambda: " " + " ".join(f"`{suffix}`" for suffix in IMAGE_SUFFIXES if suffix not in HEIC_SUFFIXES) + " ",
    "teacher_keys_attribute": lambda: keys(KINDS["attribute"]),
    "teacher_keys_walker": lambda: keys(KINDS["walker"]),
    "teacher_keys_lister": lambda: keys(KINDS["lister"]),
    "teacher_keys_openai": lambda: keys(KINDS["openai"]),
    "reward_columns": lambda: table(("name", "what it is"), [(f"`{name}`", text) for name, text in COLUMNS.items()]),
    "exit_codes": lambda: table(("status", "says"), [(str(code), text) for code, text in sorted(EXIT_CODES.items())]),
}
TABLES |= {
    f"{name}_keys": functools.partial(keys, cls)
    for name, cls in {
        "run": schema.RunConfig,
        "task": schema.TaskConfig,
        "model": schema.ModelConfig,
        "compose": schema.ComposeConfig,
        "tiny": schema.TinyConfig,
        "cot": schema.CotConfig,
        "filter": schema.FilterConfig,
        "cross_check": schema.CrossCheckConfig,
        "stage": schema.StageConfig,
        "distill": schema.DistillConfig,
        "gate": schema.GateConfig,
        "validation": schema.ValidationConfig,
        "alarm": schema.AlarmConfig,
        "evaluation": schema.EvaluationConfig,
        "held_out": schema.HeldOutConfig,
        "launch": schema.LaunchConfig,
        "lab": evaluation.LabConfig,
        "lab_model": evaluation.LabModel,
        "lab_task": evaluation.LabTask,
    }.items()
}
"""What each name stands for."""

if __name__ == "__main__":
    sys.exit(main())
