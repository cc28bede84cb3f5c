"""A user's own prompt: what it may say, that it asks every row's question, and that a published prompt can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import TaskConfig
from pipeline.data.load import asked_as, load_task
from pipeline.data.questions.own_prompt import fill_prompt, prompt_problems
from pipeline.data.questions.prompting import asked_for_letter, lettered
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Question, Split

CHOICES = ("two", "three")
ROW = Question("7", (), f"How many cups?\n{lettered(CHOICES)}", CHOICES, "B", kind="letter")
TASK = Task("t", ("train",), lambda split: Split((ROW,)))
DIRECT = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ question }}", "How many cups?\n(A) two\n(B) three"),
        ("Q: {{ question }}\n{{ instruction }}", f"Q: How many cups?\n(A) two\n(B) three\n{DIRECT}"),
        ("{{ question }}\n{{ options }}\nLetter:", "How many cups?\n(A) two\n(B) three\nLetter:"),
        (
            "{{ question }}{% for option in options %}\n{{ option.letter }}. {{ option.text }}{% endfor %}",
            "How many cups?\nA. two\nB. three",
        ),
        ("{% if style == 'direct' %}Short: {% endif %}{{ question }}", "Short: How many cups?\n(A) two\n(B) three"),
    ],
)
def test_a_template_puts_the_question_as_it_says(template: str, prompt: str) -> None:
    assert asked_as(TASK, template).prompt(ROW, "direct") == prompt


def test_the_instruction_is_of_the_style_that_is_asked_for() -> None:
    task = asked_as(TASK, "{{ instruction }} {{ question }}")
    assert task.prompt(ROW, "think").startswith("Reason inside <think> </think>, then give the letter of your choice")
    assert task.prompt(ROW, "direct").startswith(DIRECT)


@pytest.mark.parametrize("shape", ["({}) {}", "{}. {}", "{}: {}", "{}) {}"])
def test_options_are_told_once_however_the_data_list_them(shape: str) -> None:
    row = Question("7", (), f"How many cups?\n{lettered(CHOICES, shape)}\n", CHOICES, "B")
    told = fill_prompt("{{ question }} | {{ options }}", row, "direct", asked_for_letter)
    assert told == "How many cups? | (A) two\n(B) three"


def test_options_in_the_middle_of_a_text_are_not_told_twice() -> None:
    row = Question("7", (), "Two or (B) three cups?", CHOICES, "B")
    with pytest.raises(UserError, match=r"row 7 does not end with a list of its options.*leave it out"):
        fill_prompt("{{ question }} {{ options }}", row, "direct", asked_for_letter)
    assert fill_prompt("{{ question }}", row, "direct", asked_for_letter) == row.text


def test_labels_are_options_without_letters() -> None:
    row = Question("7", (), "Which animal?", answer="cat")
    task = labelled_task("t", LabelSet.of(["cat", "dog"]), "Which animal?", ("train",), lambda split: Split((row,)))
    task = asked_as(task, "{{ question }} ({{ options }}) {{ instruction }}")
    (read,) = task.read("train").rows
    assert task.prompt(read, "direct").startswith("Which animal? (cat, dog) ")
    assert task.judge(read, "cat", "direct").correct


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Name the cups.", "never uses {{ question }}, so that it asks nothing"),
        ("{{ question", "not readable as Jinja"),
        ("{{ question }} {{ choices }}", "{{ choices }} is nothing a prompt may use; there are: instruction, options"),
    ],
)
def test_a_template_that_asks_nothing_or_is_none_is_refused(template: str, said: str, tmp_path: Path) -> None:
    assert said in "\n".join(prompt_problems(template))
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig("shapes", prompt=template), tmp_path)
    assert said in str(caught.value)


def test_without_a_template_a_task_asks_as_it_does() -> None:
    assert asked_as(TASK, None) is TASK
