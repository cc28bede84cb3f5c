"""A recipe of one's own: the guide's example works as it stands, and one whose rows nobody could be trained on is refused."""

from __future__ import annotations

import re
import sys

import pytest
from scripted import Scripted

from cot_builder import prompts, recipes
from pipeline.errors import UserError

CAPTION = "A red ball lies on green grass beside a wooden fence."


@pytest.fixture
def example(repo_root, tmp_path, monkeypatch):
    """The source of the guide's recipe, beside the shipped ones; gives a function that changes and installs it."""
    page = (repo_root / "docs" / "cot_builder.md").read_text()
    source = re.search(r'```python\n("""cot_builder/recipes/caption.*?)```', page, re.DOTALL).group(1)
    mine, words = tmp_path / "recipes", tmp_path / "prompts"
    mine.mkdir()
    words.mkdir()
    (words / "caption_v1.jinja").write_text("Caption it for: {{ question }}")
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(mine)])
    monkeypatch.setattr(prompts, "FOLDER", words)
    monkeypatch.setattr("pipeline.checks.cot._BUILDER", tmp_path)

    def install(old: str = "", new: str = "") -> Scripted:
        assert old in source
        (mine / "caption.py").write_text(source.replace(old, new))
        sys.modules.pop("cot_builder.recipes.caption", None)
        return Scripted(tmp_path, recipe="caption", rows=2)

    yield install
    sys.modules.pop("cot_builder.recipes.caption", None)


def test_the_guides_example_writes_pairs_of_a_prompt_and_a_caption(example):
    build = example()
    kept = build.settle(lambda _, question: CAPTION).kept
    assert build.asked[0][1].text.startswith("Caption it for: ")
    assert {*kept} == {*build.plan.recipe.columns.names} - {"image", "image_digest"}
    assert (kept["prompt"], kept["completion"]) == ("Describe this picture in one sentence.", CAPTION)


def test_rows_that_bring_neither_a_prompt_nor_an_answer_are_refused_before_anybody_is_asked(example):
    build = example('    pa.field("prompt", pa.string()),\n')
    with pytest.raises(UserError, match="the rows of caption bring no prompt"):
        _ = build.plan


def test_a_completion_that_answers_nothing_is_refused_at_the_first_row(example):
    build = example(
        'pa.field("prompt", pa.string())', 'pa.field("think", pa.string()), pa.field("answer", pa.string())'
    )
    with pytest.raises(UserError, match="recipe caption: 1 of 1 rows do not answer with their label"):
        build.settle(lambda _, question: CAPTION)


def test_a_recipe_without_the_columns_that_are_counted_by_is_refused(example):
    build = example('    pa.field("attempt", pa.int32()),\n')
    with pytest.raises(UserError, match="caption has no column attempt in COLUMNS"):
        _ = build.plan
