"""Which language a text is in: by its script, and from eight words on by the py3langid library.

The library (https://github.com/adbar/py3langid, after Lui & Baldwin 2012, langid.py) brings its model along and asks no
network. It takes most of a second and 100 MB to load, so it is loaded when the first text is asked about.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from cot_builder.filters.text_rules import words

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_FROM_WORDS = 8
"""Words from which the library is asked: a name and a verb ("Cispo ignores epsilon.") are too little for it."""
_SURE, _LIKELIEST = 0.95, 0.4
"""Probability all other languages together must have, since relatives (no, nn, da) share theirs, and the likeliest of them."""
_FOREIGN = 0.3
"""Share of words in another script from which a text is in another language; a shop sign that is quoted is less."""

_CODES = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy "
    "ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb "
    "lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk "
    "sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu"
)
"""The languages the library tells apart, written out so that a plan is checked without loading it."""
_OTHER_SCRIPTS = {
    "ARABIC": "ar ary arz az fa ku ps sdh ug ur",
    "ARMENIAN": "hy",
    "BENGALI": "as bn",
    "CJK": "ja ko wuu yue zh",
    "CYRILLIC": "ba be bg bs kk ky mk mn ru sr tg tt uk uz az",
    "DEVANAGARI": "gom hi mr ne",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el grc",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he hbo",
    "HIRAGANA": "ja",
    "KANNADA": "kn",
    "KATAKANA": "ja",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "ORIYA": "or",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "dz",
}
"""Scripts other than Latin, by the first word of their characters' Unicode names, and the languages written in them."""
_ALSO_LATIN = {"az", "bs", "ku", "sr", "uz"}


def language_codes() -> set[str]:
    """Return the codes `FilterConfig.language` may have: ISO 639-1, or 639-3 where a language has no shorter one."""
    return set(_CODES.split())


def other_language(text: str, code: str) -> str | None:
    """Return the script or language a text is in, when that is not the language `code`; None when it is, or may be.

    Wrong is a text with more than 0.3 of its words in a script the language is not written in, and one of at least 8
    words that the library takes for another language: with a probability of 0.95 it is not `code`, and with 0.4 it is that one.
    """
    said = words(text)
    scripts = Counter(script for word in said if (script := _script(word)))
    own = _scripts(code)
    foreign = Counter({script: count for script, count in scripts.items() if script not in own})
    if foreign.total() > _FOREIGN * scripts.total():
        return foreign.most_common(1)[0][0].lower()
    if len(said) < _FROM_WORDS:
        return None
    ranked = dict(_identifier().rank(" ".join(text.split())))
    # zxx is the library's word for "no language".
    others = 1 - ranked.get(code, 0.0) - ranked.pop("zxx", 0.0)
    language, probability = next(iter(ranked.items()))
    sure = language != code and others >= _SURE and probability >= _LIKELIEST
    return f"{language} {probability:.2f}" if sure else None


@functools.cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _scripts(code: str) -> frozenset[str]:
    """The scripts a language is written in."""
    own = {script for script, codes in _OTHER_SCRIPTS.items() if code in codes.split()}
    return frozenset(own | {"LATIN"} if not own or code in _ALSO_LATIN else own)


def _script(word: str) -> str | None:
    """The script of a word's first letter; None for numbers, marks and scripts outside the table."""
    letter = next((character for character in word if character.isalpha()), "")
    script = unicodedata.name(letter, "").partition(" ")[0] if letter else ""
    return script if script == "LATIN" or script in _OTHER_SCRIPTS else None
