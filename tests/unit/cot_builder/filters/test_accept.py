"""The judge of teachers' replies: what is kept, and why the rest is not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cot_builder.filters.accept import REASONS, Accepted, Rejected, accept, accept_text, reasoning_without_labels
from cot_builder.teachers.base import Reply
from pipeline.config.schema import FilterConfig
from pipeline.data.task import labelled_task
from pipeline.scoring.labels import LabelSet
from pipeline.types import Split, labelled_image

TASK = labelled_task(
    "t",
    LabelSet.of(["awe", "fear"], {"awe": ["wonder"]}, descriptions={"awe": "something vast"}),
    "What is felt?",
    ("train",),
    lambda _: Split(()),
)
ROW = labelled_image("r", Path("none.jpg"), "awe", {"brightness": 0.9, "facial_expression": "happy"})
FILTERS = FilterConfig(min_words=2, max_words=400, language="en")


def judge(text, *, mode="answer_hidden", filters=FILTERS, **reply):
    return accept(ROW, Reply(text, **reply), TASK, filters, mode)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>Tall peaks.</think>\n<answer>awe</answer>", None),
        (" <think>Tall peaks.</think><answer> Awe. </answer>\n", None),
        ("<think>Tall peaks.</think><answer>wonder</answer>", None),
        ("<think>Tall peaks.</think><answer>fear</answer>", "wrong_label"),
        ("<think>Tall peaks.</think><answer>awe or fear</answer>", "not_a_label"),
        ("<think>Tall peaks.</think><answer>joy</answer>", "not_a_label"),
        ("<answer>awe</answer>", "no_think"),
        ("awe", "no_think"),
        ("", "empty"),
        ("<think>Tall peaks.</think><answer>awe</answer> Hope this helps!", "text_outside"),
        ("<think>Tall peaks.</think><answer>awe</answer><answer>awe</answer>", "several_answers"),
        ("<think>Tall peaks.", "unclosed_think"),
        ("<think> </think><answer>awe</answer>", "empty_think"),
        ("<think>The correct answer is awe.</think><answer>awe</answer>", "leakage"),
        ("<think>Peaks, so the given label fits.</think><answer>awe</answer>", "leakage"),
        ("<think>It is labeled as awe.</think><answer>awe</answer>", "leakage"),
        ("<think>Matches the ground truth.</think><answer>awe</answer>", "leakage"),
        ("<think>A labeled bottle on the right; the answer is calm.</think><answer>awe</answer>", None),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("<think>As an AI, I only see peaks.</think><answer>awe</answer>", "refusal"),
        (
            "<think>Hohe Gipfel ragen über das weite Tal, und die Sonne geht auf.</think><answer>awe</answer>",
            "wrong_language",
        ),
        ("<think>Peaks.</think><answer>awe</answer>", "too_short"),
        (f"<think>{'Peaks and clouds. ' * 200}</think><answer>awe</answer>", "too_long"),
        ("<think>Tall peaks. Tall peaks. Tall peaks.</think><answer>awe</answer>", "repetition"),
        ("<think>The picture is dark.</think><answer>awe</answer>", "contradiction"),
    ],
)
def test_what_is_accepted_and_why_not(text, reason):
    verdict = judge(text)
    if reason is None:
        assert isinstance(verdict, Accepted)
        assert verdict.answer == "awe"
        assert verdict.completion == f"<think>{verdict.think}</think>\n<answer>awe</answer>"
    else:
        assert isinstance(verdict, Rejected)
        assert verdict.reason == reason
        assert reason in REASONS


def test_a_refused_request_is_rejected_whatever_its_text():
    verdict = judge("<think>x</think><answer>awe</answer>", refused="HTTP 400")
    assert verdict == Rejected("request_refused", "HTTP 400")


def test_a_reply_cut_off_by_the_token_limit_says_so_and_a_whole_one_is_kept():
    cut = {"usage": {"finish_reason": "length"}}
    assert judge("<think>Tall peaks", **cut) == Rejected("truncated", "unclosed_think")
    assert isinstance(judge("<think>Tall peaks.</think><answer>awe</answer>", **cut), Accepted)
    assert judge("<think>Tall peaks.</think><answer>joy</answer>", **cut) == Rejected("not_a_label")
    assert judge("<think>Tall peaks", usage={"finish_reason": "stop"}) == Rejected("unclosed_think")


def test_every_reply_with_a_label_votes_whatever_it_is_rejected_for():
    replies = [
        ("Tall peaks.", "fear"),
        ("The picture is dark.", "Wonder"),
        ("Peaks.", "awe"),
        ("As an AI, yes.", "awe"),
    ]
    for think, answer in replies:
        verdict = judge(f"<think>{think}</think><answer>{answer}</answer>")
        assert isinstance(verdict, Rejected)
        assert verdict.answer == TASK.labels.normalise(answer)
    assert judge("<think>Peaks.</think><answer>joy</answer>").answer is None


def test_only_a_teacher_that_was_told_the_answer_may_not_open_with_it():
    text = "<think>The wonder is plain. Peaks rise over a valley.</think><answer>awe</answer>"
    assert isinstance(judge(text), Accepted)
    assert judge(text, mode="answer_given") == Rejected("leakage", "names awe before its conclusion", "awe", right=True)
    concluded = "<think>Peaks rise over a valley. This inspires awe.</think><answer>awe</answer>"
    assert isinstance(judge(concluded, mode="answer_given"), Accepted)
    alone = "<think>Tall peaks inspire awe.</think><answer>awe</answer>"
    assert isinstance(judge(alone, mode="answer_given"), Accepted)


def test_templates_are_judged_by_grammar_label_leakage_and_contradiction_alone():
    def reason(think):
        verdict = judge(f"<think>{think}</think><answer>awe</answer>", mode="attribute")
        return getattr(verdict, "reason", None)

    assert reason("Awe.") is None
    assert reason("Ein Berg steht vor einem See und die Sonne geht hinter ihm auf.") is None
    assert reason("A peak. A peak. A peak. Awe.") is None
    assert reason("The light is dark.") == "contradiction"
    assert reason("The given label is awe.") == "leakage"


def test_a_filter_that_is_off_rejects_nothing():
    off = FilterConfig(min_words=0, language=None, contradiction=False, max_repetition=1.0)
    for think in ("Dunkel ist das Bild, und still liegt das Tal vor uns.", "The picture is dark."):
        assert isinstance(judge(f"<think>{think}</think><answer>awe</answer>", filters=off), Accepted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" A couple walks along a beach at sunset. ", None),
        ("", "empty"),
        ("I'm unable to assist with identifying people.", "refusal"),
        ("According to the annotations a couple walks here.", "leakage"),
        ("Beach.", "too_short"),
        ("The scene is dimly lit. A couple walks.", "contradiction"),
    ],
)
def test_free_text_needs_no_grammar(text, reason):
    verdict = accept_text(ROW, Reply(text), FILTERS)
    assert verdict == text.strip() if reason is None else isinstance(verdict, Rejected) and verdict.reason == reason


def test_free_text_that_was_cut_off_is_never_kept():
    cut = Reply("A couple walks along", usage={"finish_reason": "length"})
    assert accept_text(ROW, cut, FILTERS) == Rejected("truncated")
    assert accept_text(ROW, Reply("A couple", refused="HTTP 400"), FILTERS) == Rejected("request_refused", "HTTP 400")


@pytest.mark.parametrize(
    ("think", "left"),
    [
        ("Peaks rise. Light falls softly. This inspires awe.", "Peaks rise. Light falls softly."),
        ("Peaks rise with Wonder! Light falls.", "Light falls."),
        ("Peaks rise. Light falls.", "Peaks rise. Light falls."),
        ("It is awesome. So it is fearless.", "It is awesome. So it is fearless."),
        ("Tall peaks inspire awe.", ""),
        ("", ""),
    ],
)
def test_evidence_is_the_reasoning_without_the_sentences_that_name_an_answer(think, left):
    assert reasoning_without_labels(think, TASK.labels) == left


MODES = st.sampled_from(["answer_hidden", "answer_given", "attribute"])


@given(st.text() | st.text("<think>awer /.。\n!?'’", max_size=60), MODES)
@example("\ud800 \x00", "answer_given")
@example("<think>\ud800 \x00 ﷺ</think><answer>awe</answer>", "answer_given")
def test_no_text_raises_and_every_reason_is_listed(text, mode):
    for reply in (Reply(text), Reply(f"<think>{text}</think><answer>awe</answer>")):
        verdict = accept(ROW, reply, TASK, FILTERS, mode)
        assert isinstance(verdict, Accepted) or verdict.reason in REASONS
        free = accept_text(ROW, reply, FILTERS)
        assert isinstance(free, str) or free.reason in REASONS
    assert isinstance(reasoning_without_labels(text, TASK.labels), str)


_HOSTILE = [
    "x", "a ", ". ", ".", "\n", ".\"'", "他", "Mr. ", "1. ", "I cannot ", "sorry, but ", "people who looked ", "the image is ",
    "a bright ", "The face is very ", "<think>", "é\u0301", "a a a b ", "awe ", "not fear ",
]  # fmt: skip


@pytest.mark.parametrize("piece", _HOSTILE)
def test_a_hostile_text_of_100_kilobytes_is_judged_at_once(piece):
    judge("<think>Warm up the language model with a few words.</think><answer>awe</answer>")
    text = piece * (100_000 // len(piece)) + "z"
    open_ended = dataclasses.replace(FILTERS, min_words=0, max_words=10**9, max_repetition=1.0)
    started = time.process_time()
    judge(text)
    judge(f"<think>{text}</think><answer>awe</answer>", mode="answer_given", filters=open_ended)
    accept_text(ROW, Reply(text), open_ended)
    # A hundredth of this on an idle core; a quadratic rule takes minutes.
    assert time.process_time() - started < 30


def test_judging_loads_no_language_model_before_it_needs_one(repo_root):
    code = "import sys, cot_builder.filters.accept\nassert not {'py3langid', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True)


@pytest.mark.parametrize("token", ["<image>", "<end_of_utterance>", "<|im_end|>", "</s>", "<|vision_start|>", "<mine>"])
def test_reasoning_that_the_student_would_read_as_control_tokens_is_rejected(token):
    """SFT would look for a picture there is none of, or learn to stop in mid-thought."""
    task = labelled_task("t", LabelSet.of(["awe", "fear"]), "Which?", ("train",), lambda name: Split(()))
    text = f"<think>Wide skies {token} over still water. This suggests awe.</think><answer>awe</answer>"
    row = labelled_image("1", Path("1.png"), "awe")
    found = accept(row, Reply(text), task, FilterConfig(), "answer_hidden", ("<mine>",))
    assert isinstance(found, Rejected)
    assert (found.reason, found.detail) == ("special_token", token)
    described = accept_text(row, Reply(f"Wide skies {token} over still water."), FilterConfig(), ("<mine>",))
    assert isinstance(described, Rejected)
    assert described.reason == "special_token"
