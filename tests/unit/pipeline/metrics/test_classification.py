"""The numbers of a report, against hand-computed and scikit-learn's values."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from scipy.stats import binomtest
from sklearn.metrics import classification_report

from pipeline.metrics import classification, intervals, paired_tests
from pipeline.metrics.scores import Majority, MostAnswered, Rate, Repetition, UnknownAnswer, Unparsable
from pipeline.metrics.stored import to_json
from pipeline.scoring.kinds import judge_kind
from pipeline.scoring.labels import LabelSet
from pipeline.types import Question
from rewards.format import format_reward

LABELS = LabelSet.of(["cat", "dog", "owl"], {"cat": ["kitty"]})


def row(number: int, gold: str, label: str | None, **more: Any) -> dict[str, Any]:
    """A prediction; the reason of a missing label is no_answer unless told."""
    reason = None if label else "no_answer"
    plain = {"id": f"r{number}", "gold": gold, "label": label, "style": "think", "decoding": "greedy", "sample": 0}
    return {**plain, "reason": reason, "think": None, "truncated": False, "completion_tokens": 10, **more}


def rows(*pairs: tuple[str, str | None], **more: Any) -> list[dict[str, Any]]:
    return [row(number, gold, label, **more) for number, (gold, label) in enumerate(pairs)]


MIXED = rows(("cat", "cat"), ("cat", "dog"), ("cat", None), ("dog", "dog"), ("dog", "dog"), ("owl", "cat"))


def test_the_commonest_answer_that_is_no_label_is_named_with_what_it_stands_for() -> None:
    lost = [
        row(number, gold, None, reason="not_a_label", completion=text)
        for number, (gold, text) in enumerate(
            [
                ("owl", "<think>It flies.</think><answer>owler</answer>"),
                ("cat", "<think>It purrs.</think>\n<answer>owler</answer>"),
                ("owl", "<think>It sees.</think> <answer> owler </answer>"),
                # Asked to answer directly.
                ("dog", "a wolf"),
            ]
        )
    ]
    unreadable = row(9, "dog", None, completion="<think>")
    assert classification.score([*lost, unreadable], LABELS).unparsable == Unparsable(
        5, {"not_a_label": 4, "no_answer": 1}, UnknownAnswer("owler", "owl", 2)
    )
    (direct,) = [one for one in lost if one["gold"] == "dog"]
    assert classification.score([direct], LABELS).unparsable.unknown == UnknownAnswer("a wolf", "dog", 1)


def test_an_answer_without_a_label_stays_in_every_denominator() -> None:
    scores = classification.score(MIXED, LABELS)
    assert scores.accuracy.value == pytest.approx(3 / 6)
    assert scores.classes.per_class["cat"].recall.value == pytest.approx(1 / 3)
    assert scores.unparsable == Unparsable(1, {"no_answer": 1})
    assert scores.classes.confusion.columns[-1] == classification.UNPARSABLE
    assert scores.classes.confusion.counts == ((1, 1, 0, 1), (0, 2, 0, 0), (1, 0, 0, 0))
    assert sum(map(sum, scores.classes.confusion.counts)) == scores.n


def test_dropping_the_unparsable_would_have_raised_the_score() -> None:
    parsed = [r for r in MIXED if r["label"]]
    assert (
        classification.score(MIXED, LABELS).classes.macro.recall
        < classification.score(parsed, LABELS).classes.macro.recall
    )


def test_the_table_is_scikit_learns() -> None:
    scores = classification.score(MIXED, LABELS)
    gold, answers = [r["gold"] for r in MIXED], [r["label"] or "(none)" for r in MIXED]
    wanted = classification_report(gold, answers, labels=list(LABELS.names), output_dict=True, zero_division=0)
    stored = to_json(scores)
    for name in (*LABELS.names, "macro avg", "weighted avg"):
        table = stored["per_class"].get(name) or stored[name]
        for key in ("precision", "recall", "f1-score", "support"):
            assert table[key] == pytest.approx(wanted[name][key]), (name, key)
    # 2tp / (support + predicted)
    assert scores.classes.per_class["cat"].f1 == pytest.approx(2 * 1 / (3 + 2))


def test_a_class_without_rows_has_no_recall_and_leaves_the_macro_average() -> None:
    scores = classification.score(rows(("cat", "cat"), ("dog", "owl")), LABELS)
    owl = scores.classes.per_class["owl"]
    assert (owl.precision, owl.recall.value, owl.f1, owl.support) == (0.0, None, None, 0)
    assert scores.classes.macro.classes == 2
    assert scores.classes.macro.f1 == pytest.approx(0.5)


def test_a_class_never_answered_counts_as_zero_not_as_missing() -> None:
    scores = classification.score(rows(("cat", "cat"), ("dog", "cat"), ("owl", "cat")), LABELS)
    assert scores.classes.macro.precision == pytest.approx(1 / 9)
    assert scores.most_answered == MostAnswered("cat", Repetition(1.0, 3, 1))


def test_one_row_is_enough() -> None:
    right, wrong = (classification.score(rows(("cat", label)), LABELS) for label in ("cat", None))
    assert right.accuracy.value == right.macro_f1.value == 1
    assert right.macro_f1.low == pytest.approx(right.accuracy.low)
    assert wrong.accuracy.value == wrong.macro_f1.value == 0
    assert wrong.macro_f1.high == pytest.approx(wrong.accuracy.high)
    json.dumps(to_json([right, wrong]), allow_nan=False)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (10, 10), (3, 10), (448, 800), (1, 1)])
def test_wilson_is_scipys(count: int, n: int) -> None:
    wanted = binomtest(count, n).proportion_ci(method="wilson")
    assert intervals.wilson(count, n) == (pytest.approx(wanted.low, abs=1e-12), pytest.approx(wanted.high, abs=1e-12))


def test_a_rate_of_nothing_is_undefined() -> None:
    assert intervals.rate(0, 0) == Rate(None, None, None, 0, 0)


def test_the_f1_interval_is_near_the_normal_one_and_repeats_itself() -> None:
    # With two even classes and symmetric errors, macro-F1 moves like accuracy, whose standard error is known.
    pairs = [("cat", "cat")] * 160 + [("cat", "dog")] * 40 + [("dog", "dog")] * 160 + [("dog", "cat")] * 40
    first, second = (classification.score(rows(*pairs), LABELS).macro_f1 for _ in range(2))
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert first.low == pytest.approx(0.8 - half, abs=0.006)
    assert first.high == pytest.approx(0.8 + half, abs=0.006)
    assert first == second


def test_what_no_draw_changes_has_a_width_that_shrinks_with_rows() -> None:
    """One answer to everything has the same macro recall in every draw, and all right answers the same macro-F1."""

    def width(found: Rate) -> float:
        low, value, high = found.in_percent()
        assert low <= value <= high
        return high - low

    for named in (["cat", "cat", "cat"], ["cat", "dog", "owl"], [None, None, None]):
        few, many = (
            classification.score(rows(*[*zip(LABELS.names, named, strict=True)] * times), LABELS) for times in (6, 60)
        )
        assert width(few.classes.balanced) > 2.5 * width(many.classes.balanced) > 2
        assert width(few.macro_f1) > 2 * width(many.macro_f1) > 1
    # Zou, Huang and Zhang's, by hand: Wilson's of 6 in 6 and of 0 in 6, twice, squared and added.
    collapsed = classification.score(rows(*[("cat", "cat"), ("dog", "cat"), ("owl", "cat")] * 6), LABELS).classes
    (below, _), (_, above) = (intervals.wilson(count, 6) for count in (6, 0))
    assert collapsed.balanced.low == pytest.approx(1 / 3 - (1 - below) / 3)
    assert collapsed.balanced.high == pytest.approx(1 / 3 + 2**0.5 * above / 3)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    scores = classification.score(rows(*[("cat", "cat")] * 9, ("dog", "cat")), LABELS)
    assert scores.accuracy.value == pytest.approx(0.9)
    assert scores.classes.balanced.value == pytest.approx(0.5)


def test_the_blind_baselines() -> None:
    blind = classification.score(
        rows(("cat", None), ("cat", None), ("cat", None), ("dog", None)), LABELS
    ).classes.baselines
    assert blind.majority == Majority("cat", 0.75, pytest.approx(6 / 7 / 2))
    assert blind.chance.accuracy == pytest.approx(1 / 3)


def test_format_and_label_are_two_questions() -> None:
    think = classification.score(
        [
            *rows(("cat", None), ("cat", None), ("cat", "cat")),
            row(9, "dog", None, reason="not_a_label", think="It barks."),
        ],
        LABELS,
    )
    # not_a_label is well formed
    assert think.format.count == 2
    assert think.parsed.count == 1
    direct = classification.score([row(1, "dog", None, reason="not_a_label", style="direct")], LABELS)
    # a direct answer has no form but the label
    assert direct.format.count == 0


@pytest.mark.parametrize("answer", ["B", "A or C", "I cannot tell.", "E"])
def test_what_stands_inside_of_the_tags_does_not_decide_the_form(answer: str) -> None:
    question = Question("r1", (), "Which?", ("a cat", "a dog", "an owl"), "B", "letter")
    completion = f"<think>So.</think><answer>{answer}</answer>"
    verdict = judge_kind(question, completion, "think")
    told = row(1, "B", verdict.answer, reason=verdict.reason, think=verdict.think)
    assert classification.well_formed(told) == (format_reward([completion]) == [1.0])
    assert classification.well_formed({**told, "mode": "think"})


def test_a_reasoner_over_text_is_well_formed_when_it_ends_with_an_answer() -> None:
    thought = row(1, "B", None, think="It is B or C.", mode="caption-think")
    assert not classification.well_formed(thought)
    assert classification.well_formed({**thought, "reason": "not_an_option"})


def test_samples_are_scored_apart_from_the_greedy_headline() -> None:
    sampled = rows(("cat", None), ("cat", "cat"), decoding="sample")
    scores = classification.score(rows(("cat", "cat"), ("cat", "cat")) + sampled, LABELS)
    assert scores.n == 2
    assert scores.accuracy.value == 1
    assert scores.sample.accuracy == intervals.rate(1, 2)
    assert scores.sample.format == intervals.rate(1, 2)
    assert classification.score(MIXED, LABELS).sample is None


def test_rows_not_samples_are_the_unit_of_the_interval() -> None:
    # Ten samples a row that all agree say no more than one: the interval must be that of 40 rows, not of 400.
    sampled = [
        row(i, "cat", "cat" if i % 2 else None, decoding="sample", sample=s) for i in range(40) for s in range(10)
    ]
    rate = classification.score([row(0, "cat", "cat"), *sampled], LABELS).sample.accuracy
    low, high = intervals.wilson(20, 40)
    assert rate.value == 0.5
    assert (rate.n, rate.clusters) == (400, 40)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_paired_difference_and_mcnemar_by_hand() -> None:
    a = rows(*[("cat", "cat")] * 9, ("cat", "dog"))
    b = rows(*[("cat", "cat")] * 4, *[("cat", "dog")] * 5, ("cat", "cat"))
    result = paired_tests.paired(a, b)
    assert (result.n, result.only_a, result.only_b) == (10, 5, 1)
    assert result.difference == pytest.approx(0.4)
    # 2 · P(X ≤ 1), X ~ B(6, ½)
    assert result.p == pytest.approx(14 / 64)
    assert result.low < 0.4 < result.high
    assert paired_tests.paired(b, a).difference == pytest.approx(-0.4)


def test_pairs_are_common_rows_only() -> None:
    result = paired_tests.paired(rows(("cat", "cat")), [row(7, "cat", "cat")])
    assert result.n == 0
    assert result.p is None
    assert paired_tests.paired(MIXED, MIXED).p == 1


@pytest.mark.parametrize(
    ("think", "last"),
    [
        ("dog, then cat, then dog again", "dog"),
        ("a cat", "cat"),
        ("first an owl; no, a dog; rather a Kitty.", "cat"),
        ("nothing here, dogma", None),
        ("cat-dog", "dog"),
    ],
)
def test_the_last_label_of_a_text(think: str, last: str | None) -> None:
    assert classification.last_mentioned(think, LABELS) == last


def test_agreement_counts_what_the_thinking_ends_on() -> None:
    said = [("cat", "so a cat"), ("cat", "so a dog"), ("dog", "no idea"), (None, "a cat")]
    predictions = [row(i, "cat", label, think=think) for i, (label, think) in enumerate(said)]
    result = classification.score(predictions, LABELS).agreement
    assert (result.count, result.n, result.silent, result.disagree) == (1, 3, 1, 1)


def test_attributes_are_whole_words_with_underscores_as_spaces() -> None:
    attributes = {
        "emotion": "cat",
        "image_id": "park",
        "scene": "ski_slope",
        "object": ["Ball", "tree"],
        "brightness": 0.5,
    }
    think = "On a ski slope stands a street lamp and a ball."
    result = classification.attributes_named(
        [row(0, "cat", "cat", think=think, attributes=attributes), row(1, "cat", None)]
    )
    # ski slope, ball; "tree" is only a part of "street"
    assert (result.count, result.n) == (2, 3)
    assert result.by_attribute["object"].value == 0.5
    assert classification.attributes_named([row(0, "cat", "cat", think="x")]).value is None


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no greedy"):
        classification.score([], LABELS)
    with pytest.raises(ValueError, match="styles"):
        classification.score([*MIXED, row(9, "cat", "cat", style="direct")], LABELS)
    with pytest.raises(ValueError, match="emu"):
        classification.score([row(1, "emu", None)], LABELS)
    with pytest.raises(ValueError, match="emu"):
        classification.score([row(1, "cat", "emu")], LABELS)


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = ["torch", "sklearn", "matplotlib", "scipy", "numpy", "jinja2", "PIL"]
    code = f"import sys, pipeline.reports.write; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exact_traces_are_counted_where_the_task_can_tell_and_luck_is_told_apart() -> None:
    told = [
        {**one, "exact_trace": exact}
        for one, exact in zip(MIXED, (True, False, False, True, False, False), strict=True)
    ]
    found = classification.score(told, LABELS).exact_trace
    assert found
    assert (found.count, found.n) == (2, 6)
    # Three answers are right, one of them by other steps.
    assert (found.lucky.count, found.lucky.n) == (1, 3)


def test_no_exact_trace_is_claimed_where_no_row_tells() -> None:
    assert classification.score(MIXED, LABELS).exact_trace is None
    assert classification.score([{**one, "exact_trace": None} for one in MIXED], LABELS).exact_trace is None
    found = classification.score([{**one, "exact_trace": False} for one in MIXED], LABELS).exact_trace
    assert found
    assert found.value == 0


def test_samples_have_exact_traces_of_their_own() -> None:
    sampled = [{**one, "decoding": "sample", "exact_trace": number < 3} for number, one in enumerate(MIXED)]
    scores = classification.score([*MIXED, *sampled], LABELS)
    assert scores.exact_trace is None
    assert scores.sample
    assert scores.sample.exact_trace
    assert scores.sample.exact_trace.value == pytest.approx(0.5)


def test_what_shares_a_row_or_a_picture_is_drawn_together() -> None:
    clues = {"attributes": {"object": list("abcde")}}
    told = [
        row(
            n,
            "cat",
            "cat" if n % 2 else "dog",
            think="a b c d e: cat" if n % 2 else "a dog, no cat",
            exact_trace=n % 4 == 1,
            **clues,
        )
        for n in range(40)
    ]
    samples = [{**one, "decoding": "sample", "sample": k} for one in told for k in range(4)]
    alone = classification.score([*told, *samples], LABELS)
    assert alone.sample.exact_trace.clusters == alone.attributes.clusters == 40
    assert alone.sample.exact_trace.lucky.clusters == 20
    assert alone.classes.agreement.clusters is None

    # As if each picture had four rows.
    four = [{**one, "id": f"{one['id']}-{k}", "cluster": f"{one['id']}.png"} for one in told for k in range(4)]
    shared = classification.score(four, LABELS)
    assert shared.exact_trace.lucky.clusters == 20
    assert shared.classes.agreement.clusters == shared.attributes.clusters == 40
    independent = intervals.rate(80, 160)
    recall = shared.classes.per_class["cat"].recall
    assert recall.high - recall.low > 1.5 * (independent.high - independent.low)


def test_groups_are_in_the_order_of_their_numbers_and_have_their_own_exact_traces() -> None:
    values = ["10", "9", "2", "b", "a", "2"]
    told = [
        {**one, "groups": {"label": one["gold"], "walk": value}, "exact_trace": value == "2"}
        for one, value in zip(MIXED, values, strict=True)
    ]
    groups = classification.score(told, LABELS).groups
    assert list(groups) == ["walk"]
    assert list(groups["walk"]) == ["2", "9", "10", "a", "b"]
    assert [found.exact_trace and found.exact_trace.value for found in groups["walk"].values()] == [1, 0, 0, 0, 0]
    plain = classification.score([{**one, "groups": {"walk": "1"}} for one in MIXED], LABELS)
    assert plain.groups["walk"]["1"].exact_trace is None


@pytest.mark.parametrize("strange", ["²", "٣", "-1", "1.5", ""])
def test_a_value_that_only_looks_like_a_number_is_a_text(strange: str) -> None:
    assert sorted([strange, "10", "9"], key=classification.in_order) == ["9", "10", strange]
