"""What a teacher's text must be like: one small pure function per rule. None raises on any text, and each is linear in it.

A function that looks for a fault gives what it found, for the record of the rejected row, or None. `verify.accept` says in
which order they are asked; language.py and contradiction.py hold the two rules that need tables of their own.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from pipeline.scoring.labels import LabelSet, Mention

# Kana and Han, which are written without spaces.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s\u2013\u2014\u2026\u3000-\u303f\uff00-\uff0f\uff1a-\uff20/{_UNSPACED}]+")
_MARKS = string.punctuation + "“”‘’«»¿¡"

# A run of end marks with the quotes that close behind it, or line breaks; possessive, so that no run is read twice.
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s|$)|[。！？।॥۔؟።။។]++[”’」』）]*+|\n++")
_NEVER_ENDS = re.compile(r"(?:^|[\s(\"“])(?:mr|mrs|ms|dr|st|prof|e\.g|i\.e|cf|vs|fig|[b-hj-z])\.$", re.IGNORECASE)
_SELDOM_ENDS = re.compile(r"(?:^|[\s(])(?:etc|a\.m|p\.m|al)\.$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"\s*\d{1,2}\.")


def words(text: str) -> list[str]:
    """Return the words of a text, casefolded, without the marks around them; each Chinese or Japanese character is one."""
    return [word for token in _WORD.findall(text.casefold()) if (word := token.strip(_MARKS))]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end at . ! ? … before white space, at 。！？ and the full stops of
    other scripts, and at line breaks.

    A full stop after an abbreviation, an initial or a list number ends none (Mr. Smith, e.g. a dog, 2. The sky).
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if end.group() == "." and _goes_on(text, start, end.end()):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def _goes_on(text: str, start: int, stop: int) -> bool:
    """Whether the full stop just before `stop` leaves the sentence that began at `start` open."""
    if stop - start < 12 and _LIST_NUMBER.fullmatch(text, start, stop):
        return True
    before = text[max(start, stop - 12) : stop]
    return bool(_NEVER_ENDS.search(before) or (_SELDOM_ENDS.search(before) and text[stop : stop + 2].strip().islower()))


_CANNOT = (
    "i (?:cannot|could not|will not|am (?:unable|not able|not allowed) to|(?:must |have to )?(?:decline|refuse) to)"
)
_PICTURES = "(?:the |this |that |any |your )?(?:attached |uploaded |provided )?(?:image|picture|photo)s?"
_STOP = r"(?=[.,;!?]|$)"
_UNSEEN = "without (?:seeing|access to|being able to see) the (?:image|picture|photo)"
# Pictures hang and lie in pictures too: "the photo is not attached to the wall".
_HERE = (
    rf"(?:{_STOP}|(?= (?:here|so|and|for (?:me|analysis|this)|(?:to|in|with) (?:your|this|our|the) (?:message|chat|conversation"
    r"|request|prompt|question|query))\b))"
)
_REFUSALS = [
    rf"{_CANNOT} (?:assist|comply|fulfil|engage with|help you|help with|help{_STOP})",
    rf"{_CANNOT} (?:answer|complete) (?:this|that|your|the) (?:question|request|task)",
    rf"{_CANNOT} provide (?:an?|the|any|that|this) (?:answer|analysis|description|assistance|information)",
    rf"{_CANNOT} (?:describe|identify|recogni[sz]e|discuss) (?:real |specific )?(?:people|individuals|anyone)"
    rf"(?:{_STOP}| (?:in|from|based|or|depicted|shown)\b)",
    rf"{_CANNOT} (?:identify|recogni[sz]e) (?:who is|the (?:person|people|individuals?)) in (?:this|the) (?:image|picture|photo)",
    rf"{_CANNOT} (?:see|view|access|open|load|display|process|analy[sz]e|interpret) {_PICTURES}"
    rf"(?:{_STOP}| (?:you|directly|or|because|as)\b)",
    r"(?:sorry|apologies|i apologi[sz]e)[,.;]? (?:but )?i (?:cannot|will not|do not|must|am (?:unable|not able))\b",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"i am (?:just |only )?an? (?:ai|(?:large )?language model)\b",
    r"i do not have the (?:ability|capability) to\b",
    r"i am not comfortable (?:with )?(?:answering|describing|identifying|analy[sz]ing|providing)\b",
    # A picture that never came: a right label is a lucky guess then.
    r"there is no (?:image|picture|photo) (?:attached|provided|included|uploaded|available|to (?:see|view|analy[sz]e|look at))"
    rf"{_HERE}",
    rf"no (?:image|picture|photo) (?:was|is|has been) (?:attached|provided|included|uploaded|shared){_HERE}",
    r"i do not see (?:an?|any|the) (?:image|picture|photo)s? (?:attached|provided|uploaded|in (?:your|this|our) (?:message|chat|"
    r"conversation|request|prompt))\b",
    rf"(?:image|picture|photo) (?:(?:is|was) not (?:visible to me|attached{_HERE}|uploaded)"
    r"|did not (?:load|upload|come through))\b",
    rf"{_UNSEEN}[,.;]? (?:i|it is (?:hard|difficult|impossible|not possible))\b",
    rf"(?:i cannot|i am unable|hard|difficult|impossible|not possible)\b[^.;!?]{{0,80}} {_UNSEEN}(?!'s| of)",
    r"(?:violates?|against) (?:my (?:\w+ )?|(?:our|the) (?:content|safety|usage) )(?:guidelines|polic(?:y|ies))\b",
]
_REFUSALS_ZH = (
    "(?:抱歉|对不起)[，,]?(?:但)?我(?:无法|不能)|我(?:无法|不能)(?:协助|识别图|查看图|回答)"
    "|作为(?:一个|一名)?(?:ai|人工智能|语言模型)"
)
_REFUSAL = re.compile(rf"(?<!\w)(?:{'|'.join(_REFUSALS)})|{_REFUSALS_ZH}")
_LONG_FORMS = {
    "’": "'",
    "i'm ": "i am ",
    "can't": "cannot",
    "can not": "cannot",
    "won't": "will not",
    "don't": "do not",
    "didn't": "did not",
    "isn't": "is not",
    "wasn't": "was not",
    "there's": "there is",
}


def refusal(text: str) -> str | None:
    """Return a teacher that declines, says what it is (I'm sorry, but I can't…; As an AI…) or that it was shown no picture; gives
    the words.

    It must be the writer who cannot, and what it cannot do must be the task: "she looks sorry", "I cannot see his face" and
    "I cannot help but feel awe" are reasoning.
    """
    plain = " ".join(text.casefold().split())
    for short, long in _LONG_FORMS.items():
        plain = plain.replace(short, long)
    match = _REFUSAL.search(plain)
    return match.group() if match else None


# Words that only a teacher who was told the answer, who was shown annotations, or who talks about the exercise writes.
_GIVEN = "(?:given|provided|supplied|specified|stated|listed|annotated|above)"
_SHOWN = "(?:attribute|hint|annotation|statement)s?"
_LEAKAGES = [
    "(?:the|this) (?:given|provided|gold|target|true|assigned|specified|stated) (?:label|answer|emotion|class|category|option)",
    "(?:the|this) (?:correct|right|expected|intended|known) (?:label|answer|option|choice|class|category)",
    "(?:the|this) (?:label|answer) (?:(?:is|was) )?(?:already )?(?:given|provided|known)",
    "ground[- ]truth",
    "(?:label+ed|annotated|tagged) as",
    "(?:as|was|were|is) (?:given|told|instructed) (?:in|by) the (?:prompt|question|label)",
    "(?:according to|based on|as per|given) the (?:given |provided )?(?:prompt|question|label|instruction|metadata)s?",
    f"(?:according to|based on|as per|given) (?:the|these|those) {_SHOWN}",
    r"(?:in|by|from|with) the (?:statement|annotation|hint)s\b(?! (?:on|of|at|in)\b)",
    "(?:according to|based on|as per) (?:the|these|those) notes",
    f"(?:the|these|those) {_GIVEN} (?:{_SHOWN}|metadata|clues?|captions?)",
    f"(?:the|these|those) {_SHOWN} (?:given|provided|above|says?|suggests?|indicates?|states?|mentions?)",
    "the (?:prompt|instructions?|exercise) (?:says?|asks?|states?|requires?|tells?|wants?)",
    "(?:i|we) (?:was|were|am|are|have been) (?:told|instructed|asked to)",
    "people (?:who (?:looked|saw|viewed)[^.]{0,40} )?answered",
]
_LEAKAGE = re.compile(rf"\b(?:{'|'.join(_LEAKAGES)})\b", re.IGNORECASE)


def leaked_phrase(text: str) -> str | None:
    """Return words that speak of an answer that was told, of annotations that were shown, or of the exercise itself."""
    match = _LEAKAGE.search(" ".join(text.split()))
    return match.group() if match else None


def label_before_conclusion(think: str, label: str, labels: LabelSet) -> str | None:
    """Return the label, where reasoning names it (or an alias) before its conclusion, which is its last sentence.

    A teacher that was told the answer and opens with it justifies it instead of reasoning towards it. One sentence alone is
    all conclusion.
    """
    before = "\n".join(sentences(think)[:-1])
    return label if label in labels.mentioned(before) else None


_DENIED = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|without|instead of|than|unlike|lacks?|despite|although|though)\b|n['’]t\b"
    r"|不是|不像|并非|並非|没有|沒有|而非)[^,;:，；：、]*$",
    re.IGNORECASE,
)
# Characters; more than a clause has, and few enough that a text of nothing but labels stays linear.
_CLAUSE = 200
_DENIED_AFTER = re.compile(r"^(?:ではな|じゃな|[이가]?\s?아니)")


_WHAT = "answer|emotion|feeling|mood|label|class|category|choice|option|conclusion|prediction"
_LEADS = "therefore|thus|hence|consequently|in conclusion|in summary|to conclude|finally"
_SHOWN_HERE = r"(?:(?:here|it evokes|(?:that is )?(?:shown|conveyed|evoked|expressed)) )?"
# The words before a label that make it what the whole text comes to; "finally, the sky adds a touch of fear" does not.
_CONCLUDES = re.compile(
    rf"(?:\b(?:the|my) (?:\w+ ){{0,2}}(?:{_WHAT}) {_SHOWN_HERE}(?:is|must be|has to be)\b|^\W*(?:so,? )?(?:it|this) must be\b"
    rf"|^\W*(?:{_LEADS})\b,?(?: (?:it|this|(?:the|this) (?:image|picture|photo|scene))"
    r" (?:is|must be|evokes|conveys|expresses)\b)?)"
    r"[^\w,;.]*(?:(?:clearly|plainly|most likely|best described as|one of|that of|an?|the) ){0,2}[^\w,;.]*$",
    re.IGNORECASE,
)
# What may follow it: a reason, or what it is not. Anything else may say that it does not hold.
_NO_MORE = re.compile(r"[\W_]*(?:$|(?:because|since|as|for|given|due|(?:and )?(?:not|rather)|an?)\b)", re.IGNORECASE)
_HEDGED = re.compile(
    r"\b(?:if|might|may|could|would|seems?|appears?|first|second|third|only|opposite|absent|missing|wrong|other|another)\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:but|however|yet|still|wait|actually|instead|although|though|except|on second thought)\b", re.IGNORECASE
)


def other_conclusion(think: str, answer: str, labels: LabelSet) -> str | None:
    """Return the label that the conclusion arrives at, where it plainly is another one than the answer.

    Models that have learned to write reasoning and to answer as two habits do this; a student would learn that one need not
    follow from the other. The conclusion is the last sentence; where that names no label, the last that does, if it says of
    itself that it concludes ("Therefore the emotion is fear. These details support it.") and nothing behind it takes it back.
    Labels that are denied ("not fear", "rather than awe") do not count, nor do several at once.
    """
    said = sentences(think)
    for position in range(len(said) - 1, -1, -1):
        mentions = list(labels.mentions(said[position]))
        if not mentions:
            continue
        behind = said[position + 1 :]
        if behind and (not _concludes(said[position], mentions) or any(map(_TAKEN_BACK.search, behind))):
            return None
        named = {
            mention.label
            for mention in mentions
            if not _DENIED.search(mention.text[max(0, mention.start - _CLAUSE) : mention.start])
            and not _DENIED_AFTER.match(mention.text[mention.end : mention.end + _CLAUSE])
        }
        return named.pop() if len(named) == 1 and answer not in named else None
    return None


def _concludes(sentence: str, mentions: Sequence[Mention]) -> bool:
    """Whether a sentence that others follow says of a label it names that it is the conclusion, and does so for good."""
    return not _HEDGED.search(sentence) and any(
        _CONCLUDES.search(one.text[max(0, one.start - _CLAUSE) : one.start])
        and _NO_MORE.match(one.text[one.end : one.end + _CLAUSE])
        for one in mentions
    )


def length(text: str, least: int, most: int) -> tuple[str, str] | None:
    """Return (too_short | too_long, the count) for a text of fewer than `least` or more than `most` words."""
    count = len(words(text))
    reason = "too_short" if count < least else "too_long" if count > most else None
    return (reason, f"{count} words") if reason else None


_SIZE = 4
# Below, one harmless repeated phrase is a large share.
_FEWEST_NGRAMS = 20
# Times the same sentence stands in a text that is caught in a loop.
_LOOP = 3
_CHARACTER_RUN = re.compile(r"([^\s])\1{19}")


def repetition(text: str, most: float) -> str | None:
    """Return what a text says over and over: a run of 20 equal characters, a sentence three times, or too many word 4-grams.

    The share of a text's word 4-grams that stand in it more than once may be at most `most`; the rule follows the repetition
    filters of MassiveText (Rae et al. 2021, Gopher, table A1), which measure the same in characters. A text of fewer than 20
    4-grams is not judged by it.
    """
    if run := _CHARACTER_RUN.search(text):
        return f"{run.group(1)!r} in a row"
    said = Counter(tuple(words(sentence)) for sentence in sentences(text))
    for sentence, count in said.most_common(1):
        if count >= _LOOP:
            return f"{count} times: {' '.join(sentence)[:80]}"
    tokens = words(text)
    grams = Counter(zip(*(tokens[start:] for start in range(_SIZE)), strict=False))
    total = max(0, len(tokens) - _SIZE + 1)
    share = sum(count for count in grams.values() if count > 1) / max(1, total)
    return f"{share:.2f} of its word {_SIZE}-grams repeat" if total >= _FEWEST_NGRAMS and share > most else None
