"""The reasoning recipe: who is asked what, when the label is shown, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted import Scripted, think

from cot_builder.teachers.base import GIVEN_UP, Reply
from pipeline.errors import UserError
from pipeline.types import Judgement


def wrong(label: str) -> str:
    return "fear" if label != "fear" else "awe"


def test_the_first_hidden_reply_that_agrees_with_the_label_is_kept(tmp_path):
    build = Scripted(tmp_path, attempts=3, fallback="answer_given_v1")
    outcome = build.settle(lambda _, q: think(q.row.gold if q.attempt == 1 else wrong(q.row.gold)))
    assert build.modes() == ["answer_hidden"] * 2
    assert outcome.kept["mode"] == "answer_hidden"
    assert (outcome.kept["attempt"], outcome.kept["agreement"]) == (1, 0.5)
    assert [vote["reason"] for vote in outcome.kept["votes"]] == ["wrong_label", None]
    assert [vote["answer"] for vote in outcome.kept["votes"]] == [wrong(outcome.kept["label"]), outcome.kept["label"]]


def test_hidden_questions_never_hold_the_label_as_the_answer(tmp_path):
    build = Scripted(tmp_path, attempts=2, fallback="answer_given_v1")
    texts = {}
    for index in range(12):
        build.asked.clear()
        build.settle(lambda _, q: "nonsense", index)
        hidden, given = build.asked[0][1], build.asked[-1][1]
        texts[hidden.row.gold] = hidden.text
        assert given.mode == "answer_given"
        assert given.text.endswith(f"answered: {given.row.gold}.")
    assert len(texts) > 1
    # The same words whatever the label is.
    assert len(set(texts.values())) == 1


def test_the_fallback_is_asked_once_and_marks_its_row(tmp_path):
    build = Scripted(tmp_path, attempts=2, fallback="answer_given_v1")
    outcome = build.settle(lambda _, q: think(q.row.gold) if q.mode == "answer_given" else "I do not know")
    assert build.modes() == ["answer_hidden", "answer_hidden", "answer_given"]
    assert outcome.kept["mode"] == "answer_given"
    assert outcome.kept["prompt_version"] == "answer_given_v1"
    # What was told the label is no vote.
    assert outcome.kept["agreement"] == 0


def test_without_a_fallback_the_row_is_rejected_for_the_reply_that_came_furthest(tmp_path):
    build = Scripted(tmp_path, attempts=2)
    outcome = build.settle(lambda _, q: think(wrong(q.row.gold)) if q.attempt else "nothing")
    assert outcome.kept is None
    assert outcome.reason == "wrong_label"
    assert [each.reason for each in outcome.tried] == ["no_think", "wrong_label"]


def test_naming_the_label_that_was_shown_before_the_conclusion_is_leakage(tmp_path):
    build = Scripted(tmp_path, attempts=1, fallback="answer_given_v1")
    early = "The mood of {label} is plain. Tall peaks rise over a lake. It all fits."

    def say(_, question):
        if question.mode == "answer_hidden":
            return "nothing"
        return think(question.row.gold, early.format(label=question.row.gold))

    assert build.settle(say).reason == "leakage"


def test_each_attempt_has_its_temperature_and_the_last_one_repeats(tmp_path):
    build = Scripted(tmp_path, attempts=4, temperatures=[0.0, 0.7])
    build.settle(lambda *_: "nothing")
    assert [question.temperature for _, question in build.asked] == [0.0, 0.7, 0.7, 0.7]


def test_a_class_can_have_its_own_policy(tmp_path):
    build = Scripted(tmp_path, attempts=1, per_class={"awe": {"attempts": 3, "fallback": "answer_given_v1"}})
    counts = {}
    for index in range(24):
        build.asked.clear()
        build.settle(lambda *_: "nothing", index)
        counts.setdefault(build.asked[0][1].row.gold, set()).add(tuple(build.modes()))
    assert counts.pop("awe") == {("answer_hidden",) * 3 + ("answer_given",)}
    assert set().union(*counts.values()) == {("answer_hidden",)}


def test_a_class_can_be_asked_with_the_label_at_once(tmp_path):
    build = Scripted(
        tmp_path, per_class={name: {"attempts": 0, "fallback": "answer_given_v1"} for name in ("awe", "fear")}
    )
    for index in range(24):
        build.asked.clear()
        build.settle(lambda _, q: think(q.row.gold), index)
        label, modes = build.asked[0][1].row.gold, build.modes()
        assert modes == (["answer_given"] if label in ("awe", "fear") else ["answer_hidden"])


def test_every_teacher_of_a_row_votes_and_the_preferred_one_is_kept(tmp_path):
    build = Scripted(tmp_path, teachers=3, teachers_per_row=3)
    order = build.plan.assigned[0]
    outcome = build.settle(lambda name, q: think(wrong(q.row.gold) if name == order[0] else q.row.gold))
    assert outcome.kept["teacher"] == order[1]
    assert [vote["teacher"] for vote in outcome.kept["votes"]] == list(order)
    assert outcome.kept["agreement"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("address", ["localhost:9", "localhost:8"])
def test_two_files_of_one_model_give_a_row_one_reply_and_are_refused(tmp_path, address):
    build = Scripted(tmp_path, teachers=2, teachers_per_row=2)
    text = (tmp_path / "a.yaml").read_text().replace("localhost:9", address)
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(UserError, match="a and b ask the same model in the same way"):
        _ = build.plan
    (tmp_path / "b.yaml").write_text(text + "temperature: 0.123\n")
    assert build.plan.assigned


def test_too_little_agreement_rejects_what_one_teacher_got_right(tmp_path):
    build = Scripted(tmp_path, teachers=3, teachers_per_row=3, filters={"min_agreement": 0.6})
    order = build.plan.assigned[0]
    assert (
        build.settle(lambda n, q: think(q.row.gold if n == order[0] else wrong(q.row.gold))).reason == "low_agreement"
    )
    assert build.settle(lambda n, q: think(q.row.gold if n != order[0] else wrong(q.row.gold))).kept is not None


@pytest.mark.parametrize("reason", ["server_error", "no_reply", "moderated", None])
def test_a_server_that_fails_is_no_teacher_who_disagrees(tmp_path, reason):
    build = Scripted(tmp_path, teachers=2, teachers_per_row=2, filters={"min_agreement": 1.0})
    failing = build.plan.assigned[0][0]
    failure = Reply("", refused="HTTP 500", usage={GIVEN_UP: reason} if reason else {})
    outcome = build.settle(lambda name, q: failure if name == failing else think(q.row.gold))
    assert outcome.kept["agreement"] == 1
    assert [vote["reason"] for vote in outcome.kept["votes"]] == [reason or "request_refused", None]


def test_hints_are_shown_and_recorded(tmp_path):
    build = Scripted(tmp_path, prompt="answer_hidden_v2", hints=["facial_expression", "scene"])
    outcome = build.settle(lambda _, q: think(q.row.gold))
    question = build.asked[0][1]
    assert outcome.kept["hints"] == ["facial_expression", "scene"]
    assert f"- scene: {question.row.attributes['scene']}" in question.text


def test_an_offline_teacher_reads_no_hints_and_its_rows_name_none(tmp_path):
    build = Scripted(tmp_path, prompt="answer_hidden_v2", hints=["scene"])
    (tmp_path / "a.yaml").write_text("kind: attribute\n")
    assert build.settle(lambda _, q: think(q.row.gold)).kept["hints"] == []


def test_hints_need_a_prompt_that_shows_them(tmp_path):
    with pytest.raises(UserError, match="answer_hidden_v1 shows no hints; answer_hidden_v2 does"):
        _ = Scripted(tmp_path, hints=["scene"]).plan


def test_a_fallback_must_show_the_hints_too(tmp_path):
    with pytest.raises(UserError, match="answer_given_v1 shows no hints; answer_given_v2 does"):
        _ = Scripted(tmp_path, prompt="answer_hidden_v2", hints=["scene"], fallback="answer_given_v1").plan


def test_a_row_that_fell_back_is_not_judged_by_the_vote_it_lost(tmp_path):
    build = Scripted(
        tmp_path, teachers=2, teachers_per_row=2, filters={"min_agreement": 0.6}, fallback="answer_given_v1"
    )
    order = build.plan.assigned[0]

    def say(name, question):
        split = question.mode == "answer_hidden" and name == order[0]
        return think(wrong(question.row.gold) if split else question.row.gold)

    outcome = build.settle(say)
    assert outcome.kept["mode"] == "answer_given"
    assert outcome.kept["agreement"] == 0.5


def test_a_fallback_must_show_the_label(tmp_path):
    with pytest.raises(UserError, match="prompt answer_hidden_v2 does not show the label"):
        _ = Scripted(tmp_path, fallback="answer_hidden_v2").plan


class TestCrossCheck:
    """A second teacher reads the reasoning without its conclusion."""

    def build(self, folder, **check):
        return Scripted(folder, teachers=2, cross_check=check, attempts=2)

    def test_the_reader_is_another_teacher_and_sees_no_conclusion(self, tmp_path):
        build = self.build(tmp_path)
        outcome = build.settle(lambda _, q: q.row.gold if q.mode.startswith("check") else think(q.row.gold))
        author = build.asked[0][0]
        checks = [(name, question) for name, question in build.asked if question.mode.startswith("check")]
        assert [question.mode for _, question in checks] == ["check_text", "check_image"]
        assert {name for name, _ in checks} == set("ab") - {author}
        assert [bool(question.pictures) for _, question in checks] == [False, True]
        for _, question in checks:
            assert "Tall peaks" in question.text
            assert "This suggests" not in question.text
            assert question.choices == build.plan.task.labels.names
            assert question.temperature == 0
        assert (outcome.kept["check_text"], outcome.kept["check_image"]) == (1, 1)

    def test_a_reader_who_arrives_elsewhere_rejects_the_reply_and_the_next_attempt_is_asked(self, tmp_path):
        build = self.build(tmp_path)

        def say(_, question):
            if question.mode.startswith("check"):
                return question.row.gold if "second" in question.text else wrong(question.row.gold)
            return think(question.row.gold, ("A second look" if question.attempt else "A first look") + " shows peaks.")

        outcome = build.settle(say)
        assert outcome.kept["attempt"] == 1
        assert outcome.tried[0].reason == "cross_check_failed"
        assert "text 0.00 < 0.5" in outcome.tried[0].detail

    def test_a_guess_in_the_place_of_an_unreadable_conclusion_is_none(self, tmp_path):
        build = self.build(tmp_path)
        judge = build.plan.task.judge

        def guessing(row, text, style):
            return Judgement(None, True, "no_answer", guessed=row.gold) if text == "???" else judge(row, text, style)

        build.plan = replace(build.plan, task=replace(build.plan.task, judge=guessing))
        outcome = build.settle(lambda _, q: "???" if q.mode.startswith("check") else think(q.row.gold))
        assert outcome.reason == "cross_check_failed"

    def test_a_score_can_be_recorded_without_rejecting(self, tmp_path):
        build = self.build(tmp_path, samples=4, views=["text"], min_score=0.0)

        def say(_, question):
            if question.mode == "check_text":
                return question.row.gold if question.attempt == 0 else wrong(question.row.gold)
            return think(question.row.gold)

        outcome = build.settle(say)
        assert outcome.kept["check_text"] == 0.25
        assert outcome.kept["check_image"] is None

    def test_reasoning_that_is_all_conclusion_leaves_nothing_to_check(self, tmp_path):
        build = self.build(tmp_path)
        outcome = build.settle(lambda _, q: think(q.row.gold, f"It plainly shows {q.row.gold} here."))
        assert outcome.reason == "cross_check_failed"
        assert "nothing is left" in outcome.tried[-1].detail

    def test_one_teacher_cannot_check_itself(self, tmp_path):
        with pytest.raises(UserError, match="needs a second served teacher"):
            _ = Scripted(tmp_path, cross_check={}).plan

    def test_an_offline_teacher_cannot_read(self, tmp_path):
        (tmp_path / "offline.yaml").write_text("kind: attribute\n")
        with pytest.raises(UserError, match="is offline and reads nothing; name a served teacher"):
            _ = Scripted(tmp_path, cross_check={"teacher": str(tmp_path / "offline.yaml")}).plan

    def test_a_teacher_with_a_quota_reads_nothing_of_its_own_accord(self, tmp_path):
        plan = Scripted(tmp_path, teachers=3, rows=60, quotas={"c": 2}, cross_check={}).plan
        for author, reader in (("a", {"b"}), ("b", {"a"}), ("c", {"a", "b"})):
            assert {plan.reader(author, row) for row in plan.split.rows} == reader
        with pytest.raises(UserError, match="what a writes would be read by b, whose quota counts no reading"):
            _ = Scripted(tmp_path, teachers=2, quotas={"b": 2}, cross_check={}).plan
        # Who names it means it.
        _ = Scripted(tmp_path, teachers=2, quotas={"b": 2}, cross_check={"teacher": str(tmp_path / "b.yaml")}).plan

    def test_a_reader_that_refuses_says_nothing_of_the_reasoning(self, tmp_path):
        build = Scripted(tmp_path, teachers=2, cross_check={})
        refusal = Reply("", refused="HTTP 400: structured_outputs is unknown")
        outcome = build.settle(lambda _, q: refusal if q.mode.startswith("check") else think(q.row.gold))
        reader = next(name for name, question in build.asked if question.mode.startswith("check"))
        assert outcome.reason == "request_refused"
        assert outcome.tried[0].detail == f"by {reader}, who was to read it: {refusal.refused}"

    def test_the_reader_can_be_a_teacher_that_writes_nothing(self, tmp_path):
        Scripted(tmp_path, teachers=2)
        build = Scripted(tmp_path, teachers=1, cross_check={"teacher": str(tmp_path / "b.yaml")})
        build.settle(lambda _, q: q.row.gold if q.mode.startswith("check") else think(q.row.gold))
        assert [name for name, _ in build.asked] == ["a", "b", "b"]


class TestWhoIsAsked:
    """Rows are shared out by their ids, by weight and quota."""

    def test_weights_share_the_rows_out(self, tmp_path):
        assigned = Scripted(tmp_path, teachers=2, rows=200, weights={"a": 3}).plan.assigned
        assert 130 <= sum(chosen == ("a",) for chosen in assigned) <= 170

    def test_a_quota_is_never_passed_and_the_others_take_the_rest(self, tmp_path):
        assigned = Scripted(tmp_path, teachers=2, rows=100, quotas={"a": 10}).plan.assigned
        assert sum(chosen == ("a",) for chosen in assigned) == 10
        assert sum(chosen == ("b",) for chosen in assigned) == 90

    def test_quotas_that_leave_rows_without_a_teacher_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="leave 80 of 100 rows with fewer than 1 teachers"):
            _ = Scripted(tmp_path, teachers=2, rows=100, quotas={"a": 10, "b": 10}).plan

    def test_a_rows_teacher_depends_on_no_other_row(self, tmp_path):
        few, many = (Scripted(tmp_path, teachers=3, rows=rows).plan for rows in (30, 90))
        of = [{row.id: chosen for row, chosen in zip(p.split.rows, p.assigned, strict=True)} for p in (few, many)]
        assert of[0].items() <= of[1].items()

    def test_another_teacher_moves_only_the_rows_it_takes(self, tmp_path):
        two, three = (Scripted(tmp_path, teachers=count, rows=90).plan.assigned for count in (2, 3))
        assert all(new in (old, ("c",)) for old, new in zip(two, three, strict=True))


@pytest.mark.parametrize(
    ("cot", "parts"),
    [
        ({"teachers_per_row": 3}, ["teachers_per_row: 3 is more than the 2 teachers"]),
        ({"weights": {"z": 1}}, ["cot.weights: 'z' is not one of the run's teachers a, b"]),
        ({"quotas": {"a": 0}}, ["cot.quotas.a: 0 must be above 0"]),
        ({"per_class": {"joy": {"attempts": 2}}}, ["cot.per_class: 'joy' is not a label of task scenes"]),
        (
            {"per_class": {"awe": {"atempts": 2}}},
            ["cot.per_class.awe.atempts is not a known key; did you mean attempts?"],
        ),
        ({"per_class": {"awe": {"attempts": 0}}}, ["no attempts and no fallback"]),
        ({"fallback": "answer_givn_v1"}, ["cot.fallback: 'answer_givn_v1'", "did you mean answer_given_v1?"]),
        ({"recipe": "reasonin"}, ["cot.recipe: 'reasonin'", "did you mean reasoning?"]),
        ({"balance": 0.5}, ["cot.balance: 0.5 must be a number from 1"]),
        ({"balance": float("inf")}, ["cot.balance: inf must be a number from 1"]),
        ({"filters": {"language": "xx"}}, ["cot.filters.language: 'xx' is not one of"]),
        ({"filters": {"max_repetition": 2}}, ["cot.filters.max_repetition: 2"]),
        ({"cross_check": {"views": ["sound"]}}, ["cot.cross_check.views: ['sound'] must hold text, image or both"]),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_cure(tmp_path, cot, parts):
    with pytest.raises(UserError) as caught:
        _ = Scripted(tmp_path, **{"teachers": 2, **cot}).plan
    for part in parts:
        assert part in str(caught.value)
