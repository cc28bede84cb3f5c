"""The dataset card: what a stranger who finds the folder must be able to read in it, and `datasets` to load."""

from __future__ import annotations

import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cot_builder.output.dataset_card import card
from cot_builder.prompts import load_prompt
from cot_builder.recipes import load_recipe, recipe_names
from cot_builder.teachers.config import AttributeConfig, OpenAIConfig
from pipeline.config.loader import to_plain
from pipeline.config.schema import CotConfig
from pipeline.data.task import labelled_task
from pipeline.scoring.labels import LabelSet
from pipeline.types import Split

TASK = labelled_task("emoset", LabelSet.of(["awe", "fear"]), "What is felt?", ("train",), lambda _: Split(()))
TEACHERS = {
    "one": OpenAIConfig(model="maker/Model-7B", revision="abc123", base_urls=["http://localhost:1/v1"]),
    "offline": AttributeConfig(),
}
KEPT = {"id": "a.png", "label": "awe", "teacher": "one", "mode": "answer_hidden"}
REJECTED = {
    "id": "b.png",
    "label": "fear",
    "teacher": "one",
    "mode": "answer_hidden",
    "attempt": 0,
    "reason": "wrong_label",
}


def plan_of(name="run", recipe="reasoning", teachers=TEACHERS):
    cot = CotConfig(
        recipe=recipe, teachers=list(teachers), fallback="answer_given_v1", endpoints={"one": ["http://inside:8000/v1"]}
    )
    prompts = {name: load_prompt(name) for name in ("answer_hidden_v1", "answer_given_v1")}
    return types.SimpleNamespace(
        config=types.SimpleNamespace(name=name), cot=cot, task=TASK, teachers=teachers, prompts=prompts,
        recipe=load_recipe(recipe), columns=load_recipe(recipe).columns, prompt=prompts["answer_hidden_v1"],
        is_offline=lambda name: isinstance(teachers[name], AttributeConfig),
    )  # fmt: skip


def manifest_of(plan, kept=5, **changes):
    return {
        "status": "complete",
        "why": None,
        "rows": {"selected": kept + 3, "kept": kept, "rejected": 3, "unasked": 0},
        "rejected_rows_by_reason": {"wrong_label": 2, "leakage": 1},
        "rejected_replies_by_reason": {"wrong_label": 6, "leakage": 1},
        "kept_rows_by_mode": {"answer_hidden": kept - 1, "answer_given": 1},
        "per_class": {
            "awe": {
                "kept": kept, "rejected": {"wrong_label": 2, "leakage": 1}, "unasked": 0,
                "modes": {"answer_hidden": kept - 1, "answer_given": 1}, "teachers": {"one": kept},
            },
            "fear": {"kept": 0, "rejected": {}, "unasked": 0, "modes": {}, "teachers": {}},
        },
        "teachers": {name: {"config": to_plain(one)} for name, one in plan.teachers.items()},
        "per_teacher": {"one": {"replies": 12, "kept": 5, "rejected": 7, "prompt_tokens": 9000, "completion_tokens": 800}},
        "config": {"name": plan.config.name, "seed": 3, "task": {"name": "emoset"}, "cot": to_plain(plan.cot)},
        "data_digest": "0123abcd",
        **changes,
    }  # fmt: skip


def card_of(plan=None, text="<think>Tall peaks.</think>\n<answer>awe</answer>", **changes):
    plan = plan or plan_of()
    kept, rejected = [{**KEPT, "completion": text}], [{**REJECTED, "reply": text, "detail": ""}]
    return card(plan, manifest_of(plan, **changes), kept, rejected)


def front_of(text):
    opening, front, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(front)


@pytest.mark.parametrize("name", ["run", 'a: "b" #c', "über 雨\u2028x", "- [x]\n---\n", "{{ }}", "'"])
def test_the_front_matter_is_valid_whatever_the_run_is_called(name):
    front = front_of(card_of(plan_of(name)))
    assert front["pretty_name"] == f"{name} chain-of-thought rows"
    assert front["task_categories"] == ["image-text-to-text"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]


@pytest.mark.parametrize(
    ("kept", "size"), [(5, "n<1K"), (4000, "1K<n<10K"), (96_000, "10K<n<100K"), (118_102, "100K<n<1M")]
)
def test_the_size_category_follows_the_kept_rows(kept, size):
    assert front_of(card_of(kept=kept))["size_categories"] == [size]


def test_the_folder_loads_with_the_card_in_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    pq.write_table(pa.table({"id": ["a"], "completion": ["x"]}), tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text(card_of())
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "complete"}))
    (tmp_path / "gallery.html").write_text("<!doctype html>")
    (tmp_path / "rejected.jsonl").write_text('{"id": "b"}\n')
    rows = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == ["a"]


def test_the_card_says_how_the_rows_came_about():
    text = card_of()
    for part in (
        "Question: What is felt?", "Recipe: `reasoning`", "Of 8 images, 5 rows were kept and 3 rejected.",
        "| awe | 62.5 | 5 | 3 | 0 | answer_hidden 4, answer_given 1 | one 5 | wrong_label 2, leakage 1 |",
        "| ⚑ answer given | 1 | 20.0 |", "| wrong_label | 2 | 6 | The answer is a label,",
        "| one | maker/Model-7B | abc123 | 12 | 7 | 5 | 9\u202f000 | 800 |", "| offline | offline, from annotations |",
        f"| `answer_given_v1` | answer_given | `{load_prompt('answer_given_v1').digest[:12]}` |",
        "max_repetition: 0.3", "fallback: answer_given_v1", 'datasets.load_dataset("path/of/this/folder"',
        "python -m cot_builder build --config", "seed: 3", "`0123abcd`", "## Limitations", "No person checked", "## Licence",
        "Kept: a.png (awe), one, answer_hidden", "Rejected as wrong_label: b.png (fear)", "    <answer>awe</answer>",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_column_of_every_recipe_is_explained(recipe):
    plan = plan_of(recipe=recipe, teachers={"one": TEACHERS["one"]})
    text = card_of(plan)
    for column in plan.recipe.columns.names:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{column}` |"))
        assert len(line) > len(f"| `{column}` |  |")


def test_the_configuration_in_the_card_is_that_of_the_build():
    plan = plan_of()
    blocks = [yaml.safe_load(block.split("```")[0]) for block in card_of(plan).split("```yaml\n")[1:]]
    config = blocks[0] | blocks[1]
    assert config.keys() == {"name", "seed", "task", "cot"}
    assert config["cot"] == {
        key: value for key, value in to_plain(plan.cot).items() if key not in ("endpoints", "concurrency")
    }


def test_no_address_is_published():
    assert "inside:8000" not in card_of()
    assert "localhost" not in card_of()


def test_an_incomplete_build_says_so_in_its_card():
    text = card_of(
        status="incomplete",
        why="7 rows were not answered",
        rows={"selected": 15, "kept": 5, "rejected": 3, "unasked": 7},
    )
    assert "7 are not answered yet. **The build is INCOMPLETE**: 7 rows were not answered" in text


def test_what_teachers_wrote_stays_an_example():
    hostile = "---\n# Heading\n```\n<script>alert(1)</script>\n| a | b |\n\ud800\x00\x0b## x"
    text = card_of(text=hostile)
    text.encode()
    body = text.split("## Examples\n")[1]
    lines = [line for line in body.splitlines() if line and not line.startswith(("Kept: ", "Rejected as "))]
    assert all(line.startswith("    ") for line in lines)
    assert "\x00" not in text


def test_a_build_that_kept_nothing_has_a_card():
    nothing = {
        "kept_rows_by_mode": {},
        "per_teacher": {},
        "rejected_rows_by_reason": {},
        "rejected_replies_by_reason": {},
    }
    text = card_of(plan_of(teachers={"offline": AttributeConfig()}), kept=0, **nothing)
    assert "No reply was rejected." in text
    assert "sha256 |" not in text
