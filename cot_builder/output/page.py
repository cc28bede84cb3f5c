"""What the builder's pages are made of: one file each, pictures inside it, nothing fetched, readable without JavaScript.

What teachers wrote is hostile text. It reaches a page through `printable` and Jinja's autoescaping alone, and a page runs no
script but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.data.images import ImageError, encode_picture, open_rgb
from pipeline.reports import page
from pipeline.system.chat_api import data_url

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL = 256
"""Longest side of a picture on a page, in pixels."""
_SHOWN_CHARACTERS, _MOST_CHARACTERS = 1200, 20_000
"""Of one text: at once, and when asked for."""

EXPLANATIONS = {
    "unreadable_image": "The picture cannot be read, so nothing was asked about it.",
    "no_picture": "The row has no picture to describe, so nothing was asked.",
    "request_refused": "The server refused the request, and says why.",
    "server_error": "The server failed at this request again and again, while it answered others.",
    "no_reply": "The server never replied to this request, while it answered others.",
    "moderated": "The server denied this request (a moderation), while it answered others.",
    "refusal": "The teacher declines to answer, or speaks of itself instead.",
    "truncated": "The reply was cut off at the token limit; a larger max_tokens is the cure.",
    "empty": "The reply holds nothing.",
    "no_think": "The reply has no <think> block.",
    "no_answer": "The reply has no <answer> block.",
    "unclosed_think": "The <think> block is not closed.",
    "unclosed_answer": "The <answer> block is not closed.",
    "several_thinks": "The reply has more than one <think> block.",
    "several_answers": "The reply has more than one <answer> block.",
    "wrong_order": "The tags do not come in the order think, then answer.",
    "text_outside": "The reply says something outside its <think> and <answer> blocks.",
    "empty_think": "The <think> block holds nothing.",
    "empty_answer": "The <answer> block holds nothing.",
    "not_a_label": "The answer is none of the labels, nor a known spelling of one.",
    "not_an_answer": "What stands in <answer> is no answer of the kind that the question asks for.",
    "wrong_answer": "The answer can be read, and is not the right one.",
    "wrong_label": "The answer is a label, but not the one the picture has.",
    "special_token": "The text holds what a student's tokenizer reads as a control token, such as <image> or an end token.",
    "other_conclusion": "The reasoning concludes one label and the answer gives another.",
    "leakage": "The text speaks of an answer it was told, of annotations it was shown, or of the exercise itself.",
    "wrong_language": "The text is not in the language that was asked for.",
    "too_short": "The text has fewer words than cot.filters.min_words.",
    "too_long": "The text has more words than cot.filters.max_words.",
    "repetition": "The text says the same over and over.",
    "contradiction": "The text contradicts an annotated attribute of the picture.",
    "low_agreement": "Too few of the row's replies that did not know the label answered with it.",
    "cross_check_failed": "A second teacher, given the reasoning without its conclusion, did not arrive at the label.",
    "no_statements": "The question and its answer could not be turned into statements to describe the picture by.",
    "near_duplicate": "The text nearly repeats that of an earlier row.",
    "balanced_out": "The row was good, but its class has as many rows as cot.balance lets it have.",
    "unasked": "No reply was to be had; the row is asked again next time.",
}
"""Reason: what it means, in a sentence."""


def render(template: str, script: str | None = None, **values: Any) -> str:
    """Return a page from one of the builder's templates, in the style of all pages of the product."""
    return page.render(
        template,
        style="_gallery.css.jinja",
        script=script,
        folder=_TEMPLATES,
        more_filters={
            "count": lambda number: f"{number:,}".replace(",", "\u202f"),
            "explain": lambda reason: EXPLANATIONS.get(reason, ""),
        },
        **values,
    )


def picture(path: Path | None) -> dict[str, str]:
    """Return a small JPEG of a picture as a data: URI, or why there is none."""
    if path is None:
        return {"uri": "", "why": "picture not found"}
    try:
        image = open_rgb(path)
    except ImageError as error:
        return {"uri": "", "why": error.reason.replace("_", " ")}
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return {"uri": Markup(data_url(encode_picture(image, "JPEG", quality=82, optimize=True), "jpeg")), "why": ""}


def alt_text(row_id: str, label: str) -> str:
    """Return what a picture is, for those who do not see it."""
    return f"Picture {row_id}, gold label {label}"


def cut(value: str | Sequence[str]) -> dict[str, Any]:
    """Return a text's beginning, and the whole of it when that is longer."""
    text = (value if isinstance(value, str) else "\n".join(f"• {line}" for line in value)).strip()
    if len(text) <= _SHOWN_CHARACTERS:
        return {"short": text, "whole": "", "length": len(text)}
    whole = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"
    return {"short": f"{text[:_SHOWN_CHARACTERS]} …", "whole": whole, "length": len(text)}
