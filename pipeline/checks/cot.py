"""The rules of the cot block that need neither the task nor a teacher's file; cot_builder/build/plan.py has the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.loader import CONFIGS
from pipeline.config.schema import CotConfig, FilterConfig, RunConfig
from pipeline.data.splits import split_problem
from pipeline.errors import did_you_mean

_BUILDER = CONFIGS.parent / "cot_builder"


def cot_problems(config: RunConfig) -> Iterator[str]:
    """Yield one message per broken rule."""
    cot = config.cot
    if cot is None:
        return
    yield from split_problem("cot.split", cot.split)
    recipes = {path.stem for path in (_BUILDER / "recipes").glob("[!_]*.py")}
    if cot.recipe not in recipes:
        yield f"cot.recipe: {cot.recipe!r} is not a file of cot_builder/recipes; {did_you_mean(cot.recipe, recipes)}"
    if cot.min_rows < 1:
        yield f"cot.min_rows: {cot.min_rows} must be at least 1"
    if cot.min_rows_per_class < 0:
        yield f"cot.min_rows_per_class: {cot.min_rows_per_class} is negative; 0 allows a class without rows"
    if cot.from_ is None:
        yield from _asking_problems(cot)
    elif not cot.from_.strip():
        yield "cot.from: is blank; name the folder of a run, or leave it out to ask the teachers"


def _asking_problems(cot: CotConfig) -> Iterator[str]:
    """What is wrong with how teachers are to be asked; nothing of it is looked at where the rows are another run's."""
    known = {path.stem for path in (CONFIGS / "teachers").glob("*.yaml")}
    for teacher in cot.teachers:
        if teacher not in known and not Path(teacher).is_file():
            yield f"cot.teachers: {teacher!r} is neither a file nor one of configs/teachers; {did_you_mean(teacher, known)}"
    if not cot.teachers:
        yield "cot.teachers: is empty; name at least one file of configs/teachers"
    prompts = {path.stem for path in (_BUILDER / "prompts").glob("*.jinja")}
    named = {"cot.prompt": cot.prompt, "cot.fallback": cot.fallback}
    named |= {f"cot.per_class.{label}.fallback": own.get("fallback") for label, own in cot.per_class.items()}
    for key, prompt in named.items():
        if prompt is not None and prompt not in prompts:
            yield f"{key}: {prompt!r} is not a file of cot_builder/prompts; {did_you_mean(str(prompt), prompts)}"
    yield from _own_words(cot)
    for key in ("attempts", "concurrency", "teachers_per_row"):
        if getattr(cot, key) < 1:
            yield f"cot.{key}: {getattr(cot, key)} must be at least 1"
    if cot.stop_after_failures < 0:
        yield f"cot.stop_after_failures: {cot.stop_after_failures} is negative; 0 asks on whatever fails"
    yield from _policies(cot)
    for key, values in (("weights", cot.weights), ("quotas", cot.quotas)):
        for name, value in values.items():
            if value <= 0:
                yield f"cot.{key}.{name}: {value} must be above 0; to leave a teacher out, do not name it in cot.teachers"
    if cot.balance is not None and not 1 <= cot.balance < math.inf:
        yield f"cot.balance: {cot.balance} must be a number from 1: the rarest class keeps all its rows"
    yield from _filters(cot.filters)
    if cot.cross_check is not None:
        if cot.cross_check.samples < 1:
            yield f"cot.cross_check.samples: {cot.cross_check.samples} must be at least 1"
        if not 0 <= cot.cross_check.min_score <= 1:
            yield f"cot.cross_check.min_score: {cot.cross_check.min_score} is not between 0 and 1"
        if not cot.cross_check.views or set(cot.cross_check.views) - {"text", "image"}:
            yield f"cot.cross_check.views: {cot.cross_check.views} must hold text, image or both"


def _own_words(cot: CotConfig) -> Iterator[str]:
    """What is wrong with a user's own templates and contents to observe."""
    if cot.prompts is not None:
        from pipeline.data.templates import template_problems

        yield from template_problems("cot.prompts", cot.prompts)
    if cot.contents is not None:
        from pipeline.data.contents import contents_problems

        yield from contents_problems("cot.contents", cot.contents)


def _policies(cot: CotConfig) -> Iterator[str]:
    if any(temperature < 0 for temperature in cot.temperatures):
        yield f"cot.temperatures: {cot.temperatures} holds a negative one"
    keys = ("attempts", "temperatures", "fallback")
    for label, own in cot.per_class.items():
        for key, value in own.items():
            where = f"cot.per_class.{label}.{key}"
            if key not in keys:
                yield f"{where} is not a known key; {did_you_mean(key, keys)}"
            elif key == "attempts" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                yield f"{where}: {value!r} must be a whole number from 0"
            elif key == "temperatures" and not _temperatures(value):
                yield f"{where}: {value!r} must be a list of numbers from 0"
            elif key == "fallback" and value is not None and not isinstance(value, str):
                yield f"{where}: {value!r} must be the name of a prompt, or null"
        if own.get("attempts") == 0 and not own.get("fallback", cot.fallback):
            yield f"cot.per_class.{label}: no attempts and no fallback, so its rows would never be asked"


def _temperatures(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int | float) and each >= 0 for each in value)


def _filters(filters: FilterConfig) -> Iterator[str]:
    if not 0 <= filters.min_words <= filters.max_words:
        yield f"cot.filters: min_words {filters.min_words} and max_words {filters.max_words} must be 0 <= min <= max"
    shares = {name: getattr(filters, name) for name in ("max_repetition", "min_agreement")}
    if filters.near_duplicate is not None and not 0 < filters.near_duplicate <= 1:
        yield f"cot.filters.near_duplicate: {filters.near_duplicate} must be above 0 and at most 1; null keeps every row"
    for name, share in shares.items():
        if not 0 <= share <= 1:
            yield f"cot.filters.{name}: {share} is not between 0 and 1"
