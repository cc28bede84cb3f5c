"""A user's own templates: which names and variables they may have, and that all that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.templates import RULES, SHIPPED, own_digests, own_templates, read_template, template_names
from pipeline.errors import UserError
from pipeline.files import file_digest


def write(folder: Path, **texts: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.jinja").write_text(text)
    return str(folder)


@pytest.mark.parametrize("name", template_names())
def test_every_shipped_template_keeps_the_rule_that_a_users_must_keep(name):
    assert name.rpartition("_v")[0] in RULES
    assert read_template(SHIPPED / f"{name}.jinja").version == name


def test_a_users_words_are_told_by_their_digest(tmp_path):
    folder = write(tmp_path / "mine", perceive_v1="Look for {{ observe }}.")
    found = own_templates("cot.prompts", folder)["perceive_v1"]
    assert found.version == f"perceive_v1@{file_digest(tmp_path / 'mine' / 'perceive_v1.jinja')[:8]}"
    assert found.fill(observe="faces", question="not used") == "Look for faces."
    assert own_digests(folder) == {"perceive_v1": found.digest}


def test_everything_wrong_with_all_of_them_is_told_at_once(tmp_path):
    folder = write(
        tmp_path / "mine",
        percieve_v1="{{ observe }}",
        describe_v1="Describe it: {{ statment }}",
        answer_hidden_v1="{{ question }} It is {{ label }}.",
        statements_v1="{{ question",
        observe_v1="{{ question }}",
    )
    with pytest.raises(UserError) as raised:
        own_templates("cot.prompts", folder)
    said = raised.value.problems
    assert len(said) == 5
    assert "did you mean perceive_v1?" in "\n".join(said)
    assert any("describe_v1" in line and "unknown variables ['statment']" in line for line in said)
    assert any("describe_v1" in line and "never uses {{ statements }}" in line for line in said)
    assert any("label cannot be used in answer_hidden_v1" in line for line in said)
    assert any("statements_v1.jinja: not readable as Jinja" in line for line in said)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_templates_is_refused(tmp_path, empty):
    if empty:
        (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jinja file" if empty else "is no folder"):
        own_templates("cot.prompts", str(tmp_path / "mine"))
