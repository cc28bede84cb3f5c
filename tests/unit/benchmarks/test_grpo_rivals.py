"""The comparison of GRPO steps gives all contestants the same work, and its table says what the runs did."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.grpo_rivals import Line, ratios, table
from benchmarks.rivals import grpo_probe
from benchmarks.rivals.environments import pins
from benchmarks.rivals.grpo_bed import FILLER, QUESTION, Point, options, question
from benchmarks.rivals.grpo_probe import kind, share_of_vowels

POINT = Point(4, 120, 32)


def line(contestant: str, seconds: list[float], score: int) -> Line:
    work = {"generate": [32, 756], "score": [score, 760 * score], "train": [1, 760], "vision": [2 + score, 2048]}
    told = {"peak_mb": 900.4, "prompt": "158-abc", "work": work}
    steps = [{**told, "seconds": one, "cpu_seconds": 0.5 * one} for one in seconds]
    return Line(contestant, contestant, "1.0", POINT, start_mb=600.0, steps=steps)


def test_a_point_is_read_as_it_is_written_and_one_completion_is_no_group() -> None:
    assert Point.parse("8,350,32") == Point(8, 350, 32)
    assert Point.parse("8,350,32").text() == "8,350,32"
    for wrong in ("8,350", "1,350,32", "8,350,0", "a,b,c"):
        with pytest.raises(ValueError, match="expected G,P,C"):
            Point.parse(wrong)


def test_a_rollout_is_one_group_and_one_optimizer_step() -> None:
    told = options(POINT)
    assert told["num_generations"] == told["per_device_train_batch_size"] == 4
    assert told["steps_per_generation"] == told["gradient_accumulation_steps"] == told["num_iterations"] == 1
    assert told["max_completion_length"] == 32
    assert told["beta"] == 0


def test_the_question_grows_until_its_prompt_is_long_enough_and_no_further() -> None:
    count = lambda asked: 20 + len(asked.split())  # noqa: E731
    assert question(count, 10) == QUESTION
    asked = question(count, 40)
    assert count(asked) == 40
    assert asked.startswith(f"{QUESTION} {FILLER[0]} {FILLER[1]}")


def test_a_pass_is_for_generation_scoring_or_training() -> None:
    assert kind(cached=True, with_gradient=False) == "generate"
    assert kind(cached=False, with_gradient=False) == "score"
    assert kind(cached=False, with_gradient=True) == "train"


def test_the_reward_tells_completions_apart_and_bears_an_empty_one() -> None:
    assert share_of_vowels(["aeiou", "xyz", "ab", ""]) == [1.0, 0.0, 0.5, 0.0]


def test_ms_swift_is_given_every_option_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(grpo_probe.__file__).parent))
    from benchmarks.rivals.swift_grpo import flags

    words = flags({"folder": "/somewhere", "trainer": options(POINT)}, "/out")
    told = dict(zip(words[::2], words[1::2], strict=True))
    assert {f"--{name}": str(value) for name, value in options(POINT).items()}.items() <= told.items()
    assert told["--dataset"] == "/somewhere/rows.jsonl"
    assert told["--torch_dtype"] == "float32"
    assert told["--freeze_vit"] == "False"


def test_ratios_are_of_steps_in_the_same_turn() -> None:
    assert ratios(line("swift", [3.0, 8.0], 1), line("trl", [2.0, 4.0], 0), "seconds") == [1.5, 2.0]


def test_the_table_names_what_was_measured() -> None:
    rows = table([line("trl", [2.0, 4.0, 3.0], 0), line("swift", [4.0, 4.0, 6.0], 1)]).splitlines()
    cells = [cell.strip() for cell in rows[3].strip("|").split("|")]
    # The prompt as it was read, not as it was asked for.
    assert cells[0] == "4, 158, 32"
    assert cells[1] == "swift 1.0"
    assert cells[2:4] == ["4.00 [4.00, 6.00]", "2.00 [1.00, 2.00]"]
    assert cells[4:6] == ["2.00 [2.00, 3.00]", "2.00 [1.00, 2.00]"]
    assert cells[6] == "900 (600)"
    assert cells[7:] == ["32, 756", "1, 760", "1, 760", "3, 2,048"]


def test_a_lock_file_holds_the_pins_of_those_it_names(tmp_path: Path) -> None:
    (tmp_path / "base.lock").write_text("a==1\nb==2\n")
    (tmp_path / "more.lock").write_text("-r base.lock\nc==3\n")
    assert pins(tmp_path / "more.lock") == "a==1\nb==2\nc==3\n"
    assert pins(tmp_path / "base.lock") == "a==1\nb==2\n"
