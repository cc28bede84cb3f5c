"""Which texts count as which label."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.labels import LabelSet

EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
LABELS = LabelSet.of(EMOTIONS, {"awe": ["wonder"], "fear": ["being afraid"]})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("awe", "awe"),
        ("AWE", "awe"),
        ("  Awe.\n", "awe"),
        ("**awe**", "awe"),
        ('"sadness"', "sadness"),
        ("“sadness”", "sadness"),
        ("wonder", "awe"),
        ("Being_Afraid", "fear"),
        ("being-afraid!", "fear"),
        ("being   afraid", "fear"),
        # Full-width letters are the same word.
        ("ａｗｅ", "awe"),
    ],
)
def test_a_label_is_recognised_however_it_is_written(text: str, label: str) -> None:
    assert LABELS.normalise(text) == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        ".",
        "***",
        "amusement or awe",
        "awe, fear",
        "awe/fear",
        "not awe",
        "awesome",
        "aw",
        "the answer is awe",
        "amusement awe contentment excitement anger disgust fear sadness",
        "aẉe",
        # The first letter is Cyrillic.
        "аwe",
        "a we",
        "awe" * 10_000,
        "awe" + " " * 10_000,
    ],
)
def test_nothing_else_is_a_label(text: str) -> None:
    assert LABELS.normalise(text) is None


@pytest.mark.parametrize(
    ("composed", "typed"), [("café", "cafe\u0301"), ("Straße", "STRASSE"), ("İzmir", "i\u0307zmir")]
)
def test_the_same_unicode_word_matches_in_every_form(composed: str, typed: str) -> None:
    assert LabelSet.of([composed, "other"]).normalise(typed) == composed


def test_every_label_and_alias_reads_as_itself() -> None:
    for name in LABELS.names:
        for spelling in (name, *LABELS.aliases.get(name, ())):
            assert LABELS.normalise(spelling) == name


@given(
    st.lists(st.sampled_from(EMOTIONS), min_size=2, max_size=8),
    st.sampled_from([" ", ", ", " or ", " and ", "/", "|", "\n"]),
)
def test_a_list_of_labels_is_never_one_label(words: list[str], glue: str) -> None:
    assert LABELS.normalise(glue.join(words)) is None


@given(st.text())
def test_no_text_breaks_the_matcher(text: str) -> None:
    assert LABELS.normalise(text) in (None, *EMOTIONS)
    assert set(LABELS.mentioned(text)) <= set(EMOTIONS)


def test_mentions_are_whole_words_in_order_of_appearance() -> None:
    assert LABELS.mentioned("Sadness at first, then a sense of wonder; awe-inspiring, not fearful.") == [
        "sadness",
        "awe",
    ]
    assert LABELS.mentioned("an awesome, amusements-free day") == []


@pytest.mark.parametrize(
    ("names", "aliases", "message"),
    [
        ([], {}, "at least one label"),
        (["t-shirt", "T shirt"], {}, "would mean both"),
        (["awe", "fear"], {"fear": ["Awe"]}, "would mean both"),
        (["awe"], {"joy": ["fun"]}, "unknown labels"),
        (["awe", "..."], {}, "empty after normalisation"),
    ],
)
def test_ambiguous_label_sets_are_refused(names: list[str], aliases: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSet.of(names, aliases)
