"""Recipes: how one labelled image becomes one training row. One file per recipe; the file name is its name.

A recipe file defines

- ``PROMPT``: the prompt it asks with when the run names none;
- ``COLUMNS``: the pyarrow fields of its rows, beside those every row has (`Recipe.columns`): completion, teacher, mode, attempt,
  prompt_version, and prompt (what the student is asked) or think and answer (where that is the task's question);
- ``prompts(cot) -> list[str]``: every prompt a build with these settings may need;
- ``problems(cot, teachers, prompts) -> Iterator[str]``: settings it cannot work with;
- ``async settle(row: Row) -> Outcome``: ask, judge, decide. It may depend on nothing but the row and the replies, because it is
  run once to ask and once more, over the journal alone, to write.

`load_recipe` finds it by name, so ``cot_builder/recipes/mine.py`` is all it takes to add ``recipe: mine``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from cot_builder.prompts import Prompt
    from cot_builder.row import Outcome, Row
    from cot_builder.teachers.config import TeacherConfig
    from pipeline.config.schema import CotConfig


@dataclass(frozen=True)
class Recipe:
    """A recipe file, loaded."""

    name: str
    prompt: str
    columns: Any
    """pyarrow.Schema of its rows."""
    prompts: Callable[[CotConfig], list[str]]
    problems: Callable[[CotConfig, dict[str, TeacherConfig], dict[str, Prompt]], Iterator[str]]
    settle: Callable[[Row], Awaitable[Outcome]]

    @property
    def brings_prompt(self) -> bool:
        """Whether its rows say what the student is asked; else that is the task's question."""
        return "prompt" in self.columns.names

    def problems_with_rows(self) -> Iterator[str]:
        """Yield why nobody could be trained on its rows."""
        missing = sorted(_COUNTED - {*self.columns.names})
        if missing:
            yield f"cot.recipe: {self.name} has no column {', '.join(missing)} in COLUMNS, which the builder counts by"
        if not self.brings_prompt and not {"think", "answer"} <= {*self.columns.names}:
            yield (
                f"cot.recipe: the rows of {self.name} bring no prompt, so a student is asked the task's question and trained on "
                "what is no answer to it; add a column prompt that says what the completion is for, or columns think and answer"
            )


_COUNTED = {"completion", "teacher", "mode", "attempt", "prompt_version"}
"""Columns that counts, near-duplicates, `balance` and the gallery look at."""


def recipe_names() -> list[str]:
    """Return the recipes there are: every module of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name.

    Raises:
        UserError: when there is none of that name; lists those there are.
    """
    import pyarrow as pa

    names = recipe_names()
    if name not in names:
        raise UserError(f"cot.recipe: {name!r} is not a file of cot_builder/recipes; {did_you_mean(name, names)}")
    module = importlib.import_module(f"cot_builder.recipes.{name}")
    common = [pa.field(name, pa.string()) for name in ("id", "image", "image_digest", "label")]
    return Recipe(
        name, module.PROMPT, pa.schema([*common, *module.COLUMNS]), module.prompts, module.problems, module.settle
    )
