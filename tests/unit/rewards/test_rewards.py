"""What a completion earns: form alone, the right answer alone, and rewards of one's own."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schema import TaskConfig
from pipeline.data.conversations import grpo_columns
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.data.training_rows import read_rows, write_rows
from pipeline.errors import UserError
from pipeline.scoring.benchmark_judges import judge_choice
from pipeline.scoring.kinds import judge_kind
from pipeline.scoring.response import Response, parse, render
from pipeline.tasks import mmmu
from pipeline.types import Question, Split, labelled_image
from rewards import completion_text, load_rewards
from rewards.accuracy import accuracy_reward
from rewards.format import format_reward


def rows_of(labels: list[str]) -> list[Question]:
    return [labelled_image(str(number), Path(), label) for number, label in enumerate(labels)]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    config = TaskConfig(name="scenes", options={"train": 2, "val": 1, "test": 1, "size": 32})
    return load_task(config, tmp_path_factory.mktemp("scenes"))


WELL_FORMED = [
    "<think>A smile at the beach.</think><answer>awe</answer>",
    " <think>A smile.</think>\n<answer>awe</answer>\n",
    "<think>1 < 2 and <b>bold</b></think><answer>not a label at all</answer>",
]
MALFORMED = [
    "",
    "   \n",
    "awe",
    "<answer>awe</answer>",
    "<think>A smile.</think>",
    "<think></think><answer>awe</answer>",
    "<think>A smile.</think><answer>  </answer>",
    "<think>A smile.</think><answer>awe</answer> and so on",
    "So: <think>A smile.</think><answer>awe</answer>",
    "<think>A smile.</think> hence <answer>awe</answer>",
    "<answer>awe</answer><think>A smile.</think>",
    "<think>A smile.</think><answer>awe</answer><answer>fear</answer>",
    "<think>one</think><think>two</think><answer>awe</answer>",
    "<think>A <think>smile</think></think><answer>awe</answer>",
    "<think>A smile.</think><answer>awe",
    "<THINK>A smile.</THINK><ANSWER>awe</ANSWER>",
    "<think>" * 20_000,
]


@pytest.mark.parametrize("text", WELL_FORMED)
def test_a_well_formed_completion_earns_the_format_reward(text):
    assert format_reward([text]) == [1.0]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_any_other_form_earns_nothing_even_with_the_right_answer(text, task):
    assert format_reward([text]) == [0.0]
    assert accuracy_reward([text], question=rows_of(["awe"]), style=["think"], task=task) == [0.0]


@given(st.text(max_size=200))
def test_format_reward_is_the_grammar(text):
    assert format_reward([text]) == [float(isinstance(parse(text), Response))]


def test_every_gold_answer_rendered_earns_the_accuracy_reward(task):
    completions = [render("Because.", label) for label in task.labels.names]
    assert accuracy_reward(
        completions, question=rows_of(list(task.labels.names)), style=["think"] * len(completions), task=task
    ) == [1.0] * len(completions)


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("awe", 1.0),
        ("Awe.", 1.0),
        ("AWE", 1.0),
        ("awe or fear", 0.0),
        ("awe, fear", 0.0),
        ("not awe", 0.0),
        ("awesome", 0.0),
        ("fear", 0.0),
        ("?", 0.0),
    ],
)
def test_the_whole_answer_has_to_spell_the_label(answer, earned, task):
    assert accuracy_reward(
        [f"<think>It is awe.</think><answer>{answer}</answer>"], question=rows_of(["awe"]), style=["think"], task=task
    ) == [earned]


def test_the_share_of_answers_that_are_no_label_is_logged_where_answers_are_closed(task):
    told: list[tuple[str, float]] = []
    texts = [f"<think>So.</think><answer>{answer}</answer>" for answer in ("awe", "fear", "awer")]

    def asked(rows: list[Question], task: Task) -> None:
        accuracy_reward(
            [*texts, "no form"],
            question=rows,
            style=["think"] * 4,
            task=task,
            log_metric=lambda name, value: told.append((name, value)),
        )

    asked(rows_of(["awe"] * 4), task)
    assert told == [("answers/not_a_label_ratio", 0.25)]
    # Rows that ask for a number have no labels to miss.
    open_ended = dataclasses.replace(task, labels=None)
    asked([dataclasses.replace(row, kind="number") for row in rows_of(["awe"] * 4)], open_ended)
    assert len(told) == 1


def test_a_guess_that_its_benchmark_scores_in_the_place_of_an_answer_earns_nothing():
    task = Task("mmmu", ("validation",), lambda split: Split(()), judge=mmmu.judge)
    rows = [Question(f"validation_Math_{number}", (), "Which?", ("w", "x", "y", "z"), "B") for number in range(20)]
    unread, stated = (render("Hm.", answer) for answer in ("???", "B"))
    assert any(task.judge(row, unread, "think").correct for row in rows)
    assert accuracy_reward([unread] * 20, question=rows, style=["think"] * 20, task=task) == [0.0] * 20
    assert accuracy_reward([stated] * 20, question=rows, style=["think"] * 20, task=task) == [1.0] * 20


def test_the_label_in_the_thinking_alone_earns_nothing(task):
    assert accuracy_reward(
        ["<think>awe</think><answer>none</answer>"], question=rows_of(["awe"]), style=["think"], task=task
    ) == [0.0]


def test_completions_and_labels_of_unequal_number_are_an_error(task):
    with pytest.raises(ValueError, match="zip"):
        accuracy_reward([WELL_FORMED[0]], question=rows_of(["awe", "fear"]), style=["think"] * 2, task=task)


def test_rewards_read_plain_and_conversational_completions():
    text = WELL_FORMED[0]
    assert completion_text(text) == text
    assert completion_text([{"role": "assistant", "content": text}]) == text
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": text}]}]) == text


def test_loaded_rewards_score_trls_batches_and_keep_their_names(task):
    rewards = load_rewards(["format", "accuracy"], task)
    assert [reward.__name__ for reward in rewards] == ["format_reward", "accuracy_reward"]
    batch = {
        "prompts": [[], []],
        "completions": [[{"role": "assistant", "content": WELL_FORMED[0]}], [{"role": "assistant", "content": "awe"}]],
        "completion_ids": [[1], [2]],
        "answer": ["awe", "awe"],
        "question": ['{"text": "Which?", "kind": "label"}'] * 2,
        "style": ["think", "think"],
        "id": ["a", "b"],
        "trainer_state": None,
    }
    assert [reward(**batch) for reward in rewards] == [[1.0, 0.0], [1.0, 0.0]]


def test_a_reward_of_ones_own_by_dotted_path_may_say_it_does_not_apply(task, tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(
        textwrap.dedent(
            """
            def brevity_reward(completions, *, answer, task, **columns):
                assert answer[0] in task.labels.names
                return [None if gold == "awe" else 1 / (1 + len(text)) for text, gold in zip(completions, answer)]
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    (reward,) = load_rewards(["own_scores.brevity_reward"], task)
    sys.modules.pop("own_scores")
    assert reward.__name__ == "brevity_reward"
    assert reward(["x", "x"], answer=["fear", "awe"]) == [0.5, None]


def test_a_reward_that_asks_for_the_label_is_told_what_it_is_called_now(task, tmp_path, monkeypatch):
    (tmp_path / "old_scores.py").write_text("def brevity_reward(completions, *, label, **columns):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="asks for the column label; rows have answer"):
        load_rewards(["old_scores.brevity_reward"], task)
    sys.modules.pop("old_scores")


@pytest.mark.parametrize("judge", [judge_choice, judge_kind])
def test_a_row_of_its_own_question_is_judged_by_what_its_columns_say(judge):
    letters = Task("t", ("train",), lambda _: Split(()), judge=judge)
    rows = [
        Question("1", (), "Which?\n(A) red\n(B) blue", ("red", "blue"), "B", "letter"),
        Question("2", (), "Which?\n(A) red\n(B) blue\n(C) grey", ("red", "blue", "grey"), "C", "letter"),
    ]
    columns = grpo_columns(letters, rows, "think")
    (reward,) = load_rewards(["accuracy"], letters)
    columns.pop("prompt")
    said = [render("Seen.", answer) for answer in ("B", "grey")]
    assert reward(completions=said, **columns) == [1.0, 1.0]
    assert reward(completions=said[::-1], **columns) == [0.0, 0.0]


def test_the_guide_s_reward_reads_what_the_task_knows_of_each_row(task, tmp_path, monkeypatch, repo_root):
    guide = (repo_root / "docs" / "rewards.md").read_text(encoding="utf-8")
    (tmp_path / "of_the_guide.py").write_text(guide.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    (reward,) = load_rewards(["of_the_guide.scene_reward"], task)
    sys.modules.pop("of_the_guide")
    rows = [
        {"scene": "park", "object": ["ball", "kite"], "brightness": 0.4, "taken": datetime.date(2026, 1, 2)},
        {"scene": "street", "wert": "Ä", "id": "not the row's"},
        {},
    ]
    examples = [labelled_image(str(n), Path(f"{n}.png"), "awe", attributes) for n, attributes in enumerate(rows)]
    columns = grpo_columns(task, examples, "think")
    # As the stage's workers read them.
    write_rows(tmp_path, columns, {})
    assert read_rows(tmp_path) == (columns, {})
    columns.pop("prompt")
    assert reward(completions=["in a park"] * 3, **columns) == [0.5, 0.0, None]
    assert columns["id"] == ["0", "1", "2"]


def test_a_reward_reads_the_groups_a_table_is_split_by(task, tmp_path, monkeypatch):
    (tmp_path / "by_walk.py").write_text(
        "def by_walk_reward(completions, *, groups, **columns):\n    return [float(row.get('walk', 0)) for row in groups]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (reward,) = load_rewards(["by_walk.by_walk_reward"], task)
    sys.modules.pop("by_walk")
    examples = [
        labelled_image("1", Path("1.png"), "awe", groups={"walk": "3"}),
        labelled_image("2", Path("2.png"), "awe"),
    ]
    columns = grpo_columns(task, examples, "think")
    columns.pop("prompt")
    assert reward(completions=["x", "y"], **columns) == [3.0, 0.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brevity", "function brevity_reward in rewards.brevity"),
        ("no_such_package.scores.brevity_reward", "no_such_package"),
        ("pipeline.scoring.response.brevity_reward", "function brevity_reward in pipeline.scoring.response"),
    ],
)
def test_an_unknown_reward_is_refused_by_name(name, expected, task):
    with pytest.raises(UserError) as refused:
        load_rewards(["format", name], task)
    assert repr(name) in str(refused.value)
    assert expected in str(refused.value)


def test_a_direct_answer_is_judged_by_what_the_whole_of_it_states(task):
    texts = [
        "awe",
        "<think>It is awe.</think><answer>awe</answer>",
        "The answer is awe.",
        "awe or fear",
        "awesome",
        "fear",
    ]
    rewards = accuracy_reward(texts, question=rows_of(["awe"] * 6), style=["direct"] * 6, task=task)
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward(texts, question=rows_of(["awe"] * 6), style=["think"] * 6, task=task) == [
        0.0,
        1.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ]
