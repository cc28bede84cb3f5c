"""The pages a person judges rows by: nothing from outside, nothing unescaped, every reason in words."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from cot_builder.filters.accept import REASONS
from cot_builder.output.gallery import GroupSample, PreviewReply, PreviewRow, gallery_page, preview_page
from cot_builder.output.page import EXPLANATIONS

HOSTILE = "</pre></div><script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)> & \ud800\x00"
MANIFEST = {
    "status": "complete",
    "why": None,
    "rows": {"selected": 12, "kept": 8, "rejected": 3, "unasked": 1},
    "rejected_rows_by_reason": {"wrong_label": 3},
    "rejected_replies_by_reason": {"wrong_label": 5},
    "kept_rows_by_mode": {"answer_hidden": 7, "answer_given": 1},
    "per_class": {
        "awe": {"kept": 5, "rejected": {"wrong_label": 3}, "unasked": 1, "modes": {}, "teachers": {}},
        "fear": {"kept": 3, "rejected": {}, "unasked": 0, "modes": {}, "teachers": {}},
        "<b>odd</b>": {"kept": 0, "rejected": {}, "unasked": 0, "modes": {}, "teachers": {}},
    },
    "teachers": {"one": {"config": {"kind": "openai", "model": "maker/Model-7B"}}},
    "per_teacher": {
        "one": {"replies": 14, "kept": 8, "rejected": 5, "prompt_tokens": 14000, "completion_tokens": 1400}
    },
    "data_digest": "0123abcd",
}
KEPT = {
    "id": "a.png",
    "image": "a.png",
    "label": "awe",
    "think": "Tall peaks.",
    "answer": "awe",
    "completion": "<think>Tall peaks.</think>\n<answer>awe</answer>",
    "teacher": "one",
    "mode": "answer_hidden",
    "attempt": 1,
    "prompt_version": "answer_hidden_v2",
    "hints": ["brightness"],
    "votes": [
        {"teacher": "one", "mode": "answer_hidden", "attempt": 0, "answer": None, "reason": "no_think"},
        {"teacher": "one", "mode": "answer_hidden", "attempt": 1, "answer": "awe", "reason": None},
    ],
    "agreement": 0.5,
    "check_text": 1.0,
    "check_image": None,
}
REJECTED = {
    "id": "b.png",
    "label": "fear",
    "teacher": "one",
    "mode": "answer_hidden",
    "attempt": 0,
    "reason": "wrong_label",
    "detail": "awe, not fear",
    "reply": "<think>Dark.</think><answer>awe</answer>",
}


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())
        self.pieces.append(" " if tag in ("th", "td", "li", "div", "p", "h3", "h4") else "")

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.pieces.append(data)

    @property
    def words(self):
        return "".join(self.pieces)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def pictures(tmp_path):
    files = {name: tmp_path / name for name in ("a.png", "b.png")}
    for path, colour in zip(files.values(), ("red", "blue"), strict=True):
        Image.new("RGB", (640, 320), colour).save(path)
    return files


def page_of(pictures, kept=(KEPT,), rejected=(REJECTED,), prompts=None, **manifest):
    texts = prompts or {"answer_hidden_v2": "Look & say."}
    return gallery_page("run: rows", {**MANIFEST, **manifest}, kept, rejected, pictures, texts)


def test_every_reason_is_explained_in_a_sentence():
    assert set(REASONS) <= EXPLANATIONS.keys()
    for explanation in EXPLANATIONS.values():
        assert re.fullmatch(r"[A-Z].*\.", explanation)


def test_a_kept_row_shows_all_that_is_known_of_it(pictures):
    page = Page(page_of(pictures, [{**KEPT, "mode": "answer_given"}]))
    for words in (
        "a.png", "gold awe", "Tall peaks.", "one, attempt 1", "⚑ answer given", "answer_hidden_v2",
        "agreement 50%: no label 1, awe 1",
        "cross-check text 1.00", "hints shown: brightness", "2 votes", "one, answer_hidden, attempt 0: no label (no_think)",
    ):  # fmt: skip
        assert words in page.words, words


def test_a_rejected_reply_says_why_in_words(pictures):
    words = Page(page_of(pictures)).words
    assert EXPLANATIONS["wrong_label"] in words
    assert "awe, not fear" in words
    assert "<think>Dark.</think><answer>awe</answer>" in words


def test_the_page_starts_with_the_yields(pictures):
    words = " ".join(Page(page_of(pictures)).words.split())
    assert "8 of 12 rows kept, 3 rejected, 1 not answered yet" in words
    assert "awe 55.6 5 3 1 wrong_label 3" in words
    assert "one maker/Model-7B 14 5 8 14 000 1 400" in words
    assert "answer hidden 7 87.5" in words
    assert "Look & say." in words
    assert "0123abcd" in words


def test_what_teachers_wrote_is_text_and_nothing_else(pictures):
    hostile = dict.fromkeys(("id", "think", "answer", "teacher", "mode", "prompt_version"), HOSTILE)
    vote = {"teacher": HOSTILE, "mode": HOSTILE, "attempt": 0, "answer": HOSTILE, "reason": HOSTILE}
    kept = {**KEPT, **hostile, "hints": [HOSTILE], "votes": [vote]}
    rejected = {**REJECTED, "id": HOSTILE, "detail": HOSTILE, "reply": HOSTILE, "teacher": HOSTILE, "reason": HOSTILE}
    page = page_of(pictures, [kept], [rejected], {HOSTILE: HOSTILE}, why=HOSTILE)
    page.encode()
    parsed = Page(page)
    assert len(parsed.all("script")) == 1
    assert "<script>alert(1)</script>" in parsed.words
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    previewed = preview_page(HOSTILE, [PreviewRow(HOSTILE, HOSTILE, pictures["a.png"], [
        PreviewReply(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)])], {HOSTILE: HOSTILE}, HOSTILE)  # fmt: skip
    previewed.encode()
    assert len(Page(previewed).all("script")) == 1


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(pictures):
    page = page_of(pictures)
    parsed = Page(page)
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search(r"url\(|@import", page)
    policy = next(
        each["content"] for each in parsed.all("meta") if "content" in each and "default-src" in each["content"]
    )
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_pictures_are_small_and_have_a_text(pictures):
    images = Page(page_of(pictures)).all("img")
    assert [image["alt"] for image in images] == ["Picture a.png, gold label awe", "Picture b.png, gold label fear"]
    small = Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2])))
    assert small.size == (256, 128)


def test_a_picture_that_cannot_be_shown_says_why(pictures):
    pictures["a.png"].write_bytes(b"no picture")
    del pictures["b.png"]
    page = Page(page_of(pictures))
    assert page.all("img") == []
    assert "unreadable image" in page.words
    assert "picture not found" in page.words


def test_the_filter_offers_what_is_there(pictures):
    page = Page(page_of(pictures))
    choices = {attributes["value"] for attributes in page.all("option")}
    assert choices == {"", "awe", "fear", "kept", "rejected", "wrong_label", "one", "answer_hidden"}
    assert "hidden" in page.all("form")[0]
    assert {each["data-outcome"] for each in page.all("article")} == {"kept", "wrong_label"}
    assert not any("hidden" in each for each in page.all("article"))


def test_a_page_stays_openable_whatever_it_is_given(pictures):
    page = Page(page_of(pictures, [{**KEPT, "think": "word " * 300_000}] * 400, [REJECTED] * 400))
    assert len(page.all("article")) == 300
    assert "all 1\u202f499\u202f999 characters" in page.words
    assert len(page.words) < 5_000_000


def test_rows_of_descriptions_are_shown_too(pictures):
    kept = {
        "id": "a.png", "label": "awe", "image": "a.png", "prompt": "Describe the sky.", "completion": "A wide sky.",
        "statements": ["The picture shows awe."], "observe": "sky", "teacher": "one", "mode": "description", "attempt": 0,
        "prompt_version": "describe_v1", "hints": [],
    }  # fmt: skip
    words = Page(page_of(pictures, [kept])).words
    for text in ("Describe the sky.", "A wide sky.", "• The picture shows awe."):
        assert text in words


def test_a_build_of_nothing_has_a_page(pictures):
    nothing = {
        "rows": {"selected": 2, "kept": 0, "rejected": 0, "unasked": 2},
        "kept_rows_by_mode": {},
        "per_teacher": {},
    }
    none = {
        "rejected_rows_by_reason": {},
        "rejected_replies_by_reason": {},
        "status": "incomplete",
        "why": "teacher down",
    }
    words = Page(page_of(pictures, [], [], **nothing, **none)).words
    assert "This build is incomplete." in words
    assert "No reply was rejected." in words


def test_a_preview_shows_every_teacher_beside_every_picture(pictures):
    replies = [
        PreviewReply("one", "answer_hidden", "<think>x</think>", "no_answer", "", 1200),
        PreviewReply("two", "answer_given", "<think>x</think><answer>awe</answer>", "kept", "", 800),
        PreviewReply("three", "", "", "unasked", "no reply for 5 s"),
    ]
    rows = [PreviewRow(name, "awe", path, replies) for name, path in pictures.items()]
    page = Page(preview_page("preview", rows, {"p": "Look."}, "one: 1,200 tokens a row\ntwo: 800"))
    words = " ".join(page.words.split())
    assert len(page.all("img")) == 2
    for text in (
        "one: 1,200 tokens a row", "one answer hidden 2 0 1 200 no_answer 2", "two ⚑ answer given 2 2 800 –",
        EXPLANATIONS["no_answer"], "✓ kept ⚑ answer given 800 tokens", "∅ unasked", "no reply for 5 s", "Look.",
    ):  # fmt: skip
        assert text in words, text


def test_a_sample_is_spread_and_stays_small():
    sample = GroupSample(2)
    for number in range(1000):
        sample.offer("abc"[number % 3] if number > 10 else "a", {"n": number})
    assert [record["n"] for record in sample.records()] == [0, 11, 13, 1, 14, 16]
    assert GroupSample(3).records() == []
