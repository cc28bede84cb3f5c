"""Every split of every phase is selected before anything is paid for; what does not do is told at once, by its key."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pipeline import __main__
from pipeline.checks.splits import FEW, check_splits, cot_row_problems
from pipeline.config.loader import load
from pipeline.config.schema import CotConfig, RunConfig, TaskConfig
from pipeline.data.load import load_task
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Problem, Split, labelled_image

LABELS = ("bird", "cat", "dog")


def task_of(
    rows: dict[str, dict[str, int]], labels: tuple[str, ...] = LABELS, broken: tuple[str, ...] = (), name: str = "own"
) -> Task:
    """A task whose splits have so many rows of each label; no picture of a label in `broken` can be used."""
    known = LabelSet.of(list(labels))

    def read(split: str) -> Split:
        found = [(f"{label}/{n}", label) for label, count in rows[split].items() for n in range(count)]
        usable = tuple(
            labelled_image(row_id, Path(row_id), known.normalise(label) or "")
            for row_id, label in found
            if label not in broken and known.normalise(label)
        )
        lost = tuple(Problem(row_id, "truncated_image") for row_id, label in found if label in broken)
        return Split(usable, lost)

    return labelled_task(name, known, "Which?", tuple(rows), read, listed=lambda split: Counter(rows[split]))


PHOTOGRAPHS = {
    "train": {"bird": 60, "cat": 60, "dog": 67},
    "val": {"bird": 9, "cat": 9, "dog": 9},
    "test": {"bird": 20, "cat": 20, "dog": 20},
}


def config_of(*overrides: str) -> RunConfig:
    base = ["cot.split=train", "baselines.sft_labels.split=train"] + [
        f"stages.{number}.split=train" for number in (2, 3, 4)
    ]
    return load("demo_scenes", [*base, *overrides])


def told(*overrides: str, task: Task | None = None, quick: bool = False, built: bool = False) -> list[str]:
    try:
        check_splits(config_of(*overrides), task or task_of(PHOTOGRAPHS), quick=quick, built=built)
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize("quick", [False, True])
def test_splits_that_do_are_not_spoken_of(quick: bool) -> None:
    assert told(quick=quick) == []
    assert check_splits(config_of(), task_of(PHOTOGRAPHS), quick=quick) == []


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "stages.2.split=train[4000:]",
            ["stages.stage2_grpo_format.split: ", "'train[4000:]' selects no row", "187 usable rows"],
        ),
        ("stages.4.split=train[:0]", ["stages.stage4_clgrpo.split: ", "'train[:0]' selects no row"]),
        ("cot.split=train[187:]", ["cot.split: ", "'train[187:]' selects no row"]),
        ("baselines.sft_labels.split=train[90%:50%]", ["baselines.sft_labels.split: ", "selects no row"]),
        ("evaluation.split=test[800:]", ["evaluation.split: ", "'test[800:]' selects no row", "60 usable rows"]),
        ("stages.1.validation={split: 'val[27:]'}", ["stages.stage1_sft.validation.split: ", "selects no row"]),
        (
            "baselines.sft_labels.validation={split: 'val[:1%]'}",
            ["baselines.sft_labels.validation.split: ", "selects no row"],
        ),
        ("evaluation.split=tst", ["evaluation.split: 'tst': the data has no such split; it has train, val, test"]),
        ("stages.2.split=train[:5]", ["stages.stage2_grpo_format.split: 'train[:5]' has 5 rows", "one rollout asks"]),
        ("stages.3.split=train[3%:4%]", ["stages.stage3_grpo_accuracy.split: ", "has 2 rows", "num_generations"]),
        ("cot.min_rows=500", ["cot.min_rows: 500 is more than the 187 rows of cot.split 'train'", "lower it"]),
        (
            "cot.min_rows_per_class=64",
            ["cot.min_rows_per_class: 64 is more than", "(bird 60, cat 60)", "more pictures"],
        ),
    ],
)
def test_a_split_that_does_not_do_is_told_by_its_key(override: str, words: list[str], quick: bool) -> None:
    (problem,) = told(override, quick=quick)
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("cot", "stage", "words"),
    [
        (
            "train[:100]",
            "train[100:]",
            "'train[100:]' holds 87 of the 187 rows of 'train' and none of cot.split 'train[:100]'",
        ),
        ("train[:100]", "train[:0]", "'train[:0]' holds none of the 187 rows of 'train'"),
        ("train[50%:]", "train[:50%]", "'train[:50%]' holds 93 of the 187 rows"),
        ("train", "train[187:]", "holds none of the 187 rows"),
    ],
)
def test_a_slice_of_rows_that_are_not_asked_about_is_refused(cot: str, stage: str, words: str, quick: bool) -> None:
    (problem,) = told(f"cot.split={cot}", f"stages.1.split={stage}", quick=quick)
    assert problem.startswith(f"stages.stage1_sft.split: {stage!r}")
    assert words in problem
    assert "leave it out to train on all built rows" in problem


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("cot", "stage"), [("train[:100]", "train[99:]"), ("train[:100]", "train"), ("val", "train")])
def test_a_slice_that_shares_a_row_and_none_of_its_own_are_fine(cot: str, stage: str, quick: bool) -> None:
    assert told(f"cot.split={cot}", f"stages.1.split={stage}", quick=quick) == []


def test_a_further_split_that_shares_no_row_with_the_built_ones_is_refused() -> None:
    task = task_of(PHOTOGRAPHS)
    part, apart = task.read("train"), task.read("val")
    further = {
        "part": dataclasses.replace(part, rows=part.rows[:30]),
        "apart": Split(tuple(dataclasses.replace(row, id=f"val/{row.id}") for row in apart.rows)),
    }
    made = dataclasses.replace(
        task,
        splits=(*task.splits, *further),
        read=lambda split: further[split] if split in further else task.read(split),
        listed=None,
    )
    settings = [f"task.options.splits.{name}.a=train" for name in further]
    assert told("cot.split=train", "stages.1.split=part", *settings, task=made) == []
    (problem,) = told("cot.split=train", "stages.1.split=apart", *settings, task=made)
    assert problem.startswith("stages.stage1_sft.split: 'apart' holds none of the rows of cot.split 'train'")


def test_everything_is_told_at_once_and_keys_of_one_split_share_a_line() -> None:
    found = told("stages.2.split=train[4000:]", "stages.3.split=train[4000:]", "stages.4.split=train[:2]",
                 "cot.min_rows=900", "evaluation.split=tast")  # fmt: skip
    assert [problem.split(":")[0] for problem in found] == [
        "evaluation.split",
        "stages.stage2_grpo_format.split, stages.stage3_grpo_accuracy.split",
        "stages.stage4_clgrpo.split",
        "cot.min_rows",
    ]


def test_rows_that_are_built_are_not_asked_to_be_more() -> None:
    assert told("cot.min_rows=900", "cot.min_rows_per_class=90", built=True) == []


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("brid", "cat", "dog"), ["'brid' is the label of no row; did you mean bird?", "the data have bird, cat, dog"]),
        (("bird", "katze", "dog"), ["'katze' is the label of no row; drop it", "the data have bird, cat, dog"]),
        (("t-shirt", "trouser"), ["none of t-shirt, trouser is the label of a row", "bird, cat, dog", "null"]),
        (("Vogel", "Katze", "Hund"), ["none of Vogel, Katze, Hund"]),
        (("birds",), ["none of birds is the label of a row"]),
        (("bird", "cat", "dgo"), ["'dgo' is the label of no row; did you mean dog?"]),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_labels_that_no_row_has_are_told_with_those_there_are(labels: tuple[str, ...], words: list[str], quick: bool):
    found = told(f"task.labels=[{','.join(labels)}]", task=task_of(PHOTOGRAPHS, labels), quick=quick)
    assert len(found) == 1
    assert all(word in found[0] for word in ["task.labels: ", *words]), found


@pytest.mark.parametrize("labels", [("bird", "cat"), ("Bird", "CAT", "dog"), ("dog", "bird", "cat")])
def test_fewer_labels_other_case_and_another_order_are_fine(labels: tuple[str, ...]) -> None:
    assert told(f"task.labels=[{','.join(labels)}]", task=task_of(PHOTOGRAPHS, labels)) == []


def test_a_label_beyond_those_of_the_data_is_a_warning() -> None:
    labels = (*LABELS, "fish")
    notes = check_splits(config_of(f"task.labels=[{','.join(labels)}]"), task_of(PHOTOGRAPHS, labels))
    assert notes == ["warning: no split has a row of fish: an answer that is offered and never right"]


@pytest.mark.parametrize("labels", [LABELS, ("dog", "cat", "bird")])
def test_a_class_without_a_usable_picture_is_refused(labels: tuple[str, ...]) -> None:
    (problem,) = told(task=task_of(PHOTOGRAPHS, labels, broken=("cat",)))
    assert "has no usable picture (none of its 80 pictures can be used)" in problem
    # A listing cannot know.
    assert told(task=task_of(PHOTOGRAPHS, labels, broken=("cat",)), quick=True) == []


def test_a_class_whose_folder_is_empty_is_refused_from_the_listing() -> None:
    rows = {split: {**counts, "eel": 0} for split, counts in PHOTOGRAPHS.items()}
    (problem,) = told(task=task_of(rows, (*LABELS, "eel")), quick=True)
    assert "has no usable picture (it has none)" in problem


def test_a_class_that_one_split_lacks_is_a_warning_with_the_keys() -> None:
    rows = {**PHOTOGRAPHS, "test": {"bird": 20, "cat": 20}}
    assert check_splits(config_of(), task_of(rows)) == ["warning: evaluation.split: 'test' has no row of dog"]


def test_a_task_that_lists_nothing_is_left_to_the_run_and_that_is_said() -> None:
    task = dataclasses.replace(task_of(PHOTOGRAPHS), listed=None)
    assert "when the run begins" in check_splits(config_of("stages.2.split=train[900:]"), task, quick=True)[0]
    assert "selects no row" in told("stages.2.split=train[900:]", task=task)[0]
    assert told("evaluation.split=tst", task=task, quick=True)


@pytest.mark.parametrize(
    ("settings", "most"),
    [({}, 187), ({"balance": 1.0}, 180), ({"balance": 1.05}, 183), ({"balance": 2.0}, 187)],
)
def test_what_a_build_keeps_at_most_counts_its_balance(settings: dict[str, float], most: int) -> None:
    counts = PHOTOGRAPHS["train"]
    assert list(cot_row_problems(CotConfig(min_rows=most, **settings), counts)) == []
    (problem,) = cot_row_problems(CotConfig(min_rows=most + 1, **settings), counts)
    assert problem.startswith(f"cot.min_rows: {most + 1} is more than the 187 rows")
    assert ("cot.balance" in problem) == (most < 187)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number in range(40):
        folder = tmp_path / "own" / ("bird", "cat")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "own" / "bird" / "40.png").write_bytes(b"no picture")
    return tmp_path / "own"


def plan(photographs: Path, *overrides: str) -> int:
    own = ["task.name=imagefolder", f"task.path={photographs}", f"output_dir={photographs.parent / 'runs'}"]
    return __main__.main(["plan", "--config", "demo_scenes", *own, *overrides])


def test_the_plan_of_own_photographs_tells_all_of_it(photographs: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan(photographs)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        ", ".join(f"stages.{name}.split" for name in ("stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"))
    ]
    assert "selects no row; 'train' has" in caught.value.problems[0]
    assert "usable rows (problems: unreadable_image 1)" in caught.value.problems[0]


def test_a_large_set_is_listed_and_not_decoded(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checks.splits.FEW", 2)
    monkeypatch.setattr("pipeline.conductor.pictures.FEW", 2)
    monkeypatch.setattr("pipeline.conductor.pictures._LISTED", 2)
    monkeypatch.setattr("pipeline.data.images.open_rgb", None)
    assert plan(photographs, *[f"stages.{number}.split=train" for number in (2, 3, 4)]) == 0
    assert FEW >= 1000


@pytest.mark.parametrize("options", [{}, {"test_share": 0.5}])
def test_a_folder_lists_the_rows_it_reads(photographs: Path, options: dict[str, float]) -> None:
    (photographs / "bird" / "40.png").unlink()
    task = load_task(TaskConfig("imagefolder", str(photographs), options=options), photographs.parent / "cache")
    for split in task.splits:
        assert task.listed(split) == Counter(row.gold for row in task.read(split).rows)


def test_drawn_pictures_are_listed_as_they_are_drawn(tmp_path: Path) -> None:
    task = load_task(TaskConfig("scenes", options={"train": 9, "val": 2, "test": 4, "size": 16}), tmp_path)
    listed = {split: task.listed(split) for split in task.splits}
    assert not list(tmp_path.rglob("*.jpg"))
    assert listed == {split: Counter(row.gold for row in task.read(split).rows) for split in task.splits}


@pytest.mark.parametrize("option", ["train=-1", "val=many", "size=0", "test=1.5", "ambiguous=2", "ambiguous=x"])
def test_an_option_that_cannot_be_drawn_is_told(option: str) -> None:
    with pytest.raises(UserError, match=f"task.options.{option.split('=')[0]}: "):
        __main__.main(["plan", "--config", "demo_scenes", f"task.options.{option}"])


def test_the_builder_refuses_rows_it_can_never_keep_before_it_asks(photographs: Path) -> None:
    from cot_builder.build.plan import plan as build_plan

    config = load("demo_scenes", ["task.name=imagefolder", f"task.path={photographs}", "cot.split=train", "cot.min_rows=500",
                           f"output_dir={photographs.parent}", "cot.teachers=[qwen2_5_vl_7b]"])  # fmt: skip
    with pytest.raises(UserError, match=r"cot\.min_rows: 500 is more than the"):
        build_plan(config)
