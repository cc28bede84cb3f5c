"""The words by which a text states an option, denies it or leaves it open. Patterns alone; `multiple_choice` holds the rules.

English throughout; of Chinese, Japanese and Korean what states, joins and denies an answer ("故选B", "正解はB", "不是A").
"""

from __future__ import annotations

import re

from pipeline.scoring.markup import REFUSAL

OPEN, CLOSE = r"[(\[{<\"'“‘「『【《]*", r"[)\]}>\"'”’」』】》]*"
NOUN = r"(?:option|choice|letter|answer)"
_AFTER_LETTER = r"(?!['’]\w|(?![正是对對为為的项項选選或和与與及都がはで은는이가로와과입임예야])\w)"
_JOINER = r"(?:,|/|&|\+|\band\b|\bor\b|和|或|与|與|及|、|と|と|와|과)"

LEADING = re.compile(
    rf"[\s:=\->–—]*(?:(?:it|this|that)(?:['’]s|\s+is)\s+)?(?:(?:the|an)\s+)?(?:(?:correct|final|best|right)\s+)*(?:{NOUN}\s*(?:is)?[:\s]\s*)?"
    rf"(?P<open>{OPEN})(?P<letter>[A-Za-z]){_AFTER_LETTER}(?P<close>{CLOSE})(?P<after>\s*)(?P<next>\S?)",
    re.IGNORECASE,
)
"""A letter that a text begins with."""
ANOTHER = re.compile(
    rf"\s*{_JOINER}+\s*(?:(?:and|or)\s+)?(?:{NOUN}\s+)?{OPEN}([A-Z])(?=[)\].,;:!?*。都が]|\s*$|\s*\n)", re.MULTILINE
)
"""A second letter joined to the first: "A or B"."""
ADJACENT = re.compile(r"[^\S\n]*(?:[(\[{]([A-Z])[)\]}]|(?<=[\s])([A-Z])(?=\s*(?:$|\n|[.,;:!?)])))")
"""A second letter right behind the first: "(A)(D)", "A D"."""
JOINED = re.compile(rf"\s*(?:{_JOINER}|[.;:|!?\n。;]|(?<=\s)-)+\s*(?:(?:or|and)\s+)?", re.IGNORECASE)
"""What stands between the entries of a list of options."""
CONNECTOR = re.compile(r"(?:because|since|as|and|or|for|which|due|given|is|was|based)\b|[(\-–—\n]", re.IGNORECASE)
_SHOULD = r"(?:应该|应当|应|應該|應當|應)?"
DECLARATION = re.compile(
    r"\b(?:answer|ans|option|choice|letter|conclusion)\b[\"']?(?:\s+(?:to|for|among|from|here)\b[^.\n:]{0,80}?)?\s*(?:\(s\))?\s*"
    r"(?:(?:is|are|was|be|(?:would|should|must|will)\s+be)\b\s*(?:therefore|thus|clearly|indeed|likely|probably|most likely)?\s*|"
    r"[:=→>\-–])[\s:]*"
    r"|\b(?:i|we)(?:['’]d|\s+would|\s+will)?\s+(?:choose|select|pick|go\s+with|opt\s+for|answer)\b[\s:]*"
    rf"|(?:答案|正解|答え|정답|답)\s{{0,3}}(?:选项|選項)?{_SHOULD}(?:是|为|為|选择|选|選擇|選|は|은|는|이)?\s{{0,3}}:?\s{{0,3}}(?:选项|選項)?\s{{0,3}}"
    rf"|(?:选项|選項)\s{{0,3}}{_SHOULD}(?:是|为|為|:)\s{{0,3}}"
    r"|(?:选择|選擇|选(?![项择])|選(?![項擇]))(?:了|的是)?\s{0,3}:?\s{0,3}(?:选项|選項|答案)?\s{0,3}",
    re.IGNORECASE,
)
SAID_RIGHT = re.compile(
    rf"\b(?:{NOUN}\s+)?{OPEN}(?-i:([A-Z]))(?:{CLOSE}|[.)]\s[^\n]{{0,80}}?)\s+(?:is|seems|appears|looks|must\s+be|would\s+be)\s+(?:to\s+be\s+)?"
    r"(?:the\s+)?(?:most\s+|only\s+|best\s+)?(?:correct|right|best|accurate|appropriate|likely|answer)"
    r"(?:\s+(?:answer|option|choice|one|statement))?(?=\s*(?:[.,;:!?)]|$|because\b|since\b|as\b|here\b))"
    r"|(?<![A-Za-z])(?-i:([A-Z]))\)?\s{0,3}(?:选项|選項|项|項)?(?:是|为|為|が|가|이)?\s{0,3}(?:最)?(?:正确|正確|对的|對的|佳|合适|正解|맞|정답)"
    r"(?!与否|與否|吗|嗎|\?)",
    re.IGNORECASE,
)
CONCLUSION = re.compile(
    rf"\b(?:therefore|thus|hence|so)\b[,:]?\s+(?:it(?:['’]s|\s+is|\s+must\s+be)\s+|the\s+)?(?:{NOUN}\s+)?{OPEN}"
    rf"(?-i:([A-Z])){CLOSE}\s*[.!]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
LINE_LETTER = re.compile(rf"^[ *#>\-•]{{0,9}}{OPEN}([A-Z])(?:[)\]}}]+|[.:](?!\w))", re.MULTILINE)
OPENING_WORD = re.compile(r"([A-Z]),?\s+(?:because|since|as|is|not|and\s+not|but\s+not|rather)\b")
MARKED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\"?([A-Z])\b(?!['’]\w)")
CAPITAL = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
NEGATED = re.compile(
    r"^\W*(?:(?:definitely|clearly|certainly)\s+)?(?:n['’]t|(?:not|never|neither)\b|不是|并非|並非)", re.IGNORECASE
)
BUT = re.compile(
    r"(?:\b(?:but|rather|instead)\b|而是)[\s,]*(?:rather|actually|instead|it\s+is|it['’]s)?\s*", re.IGNORECASE
)
NONE_OF = re.compile(r"\b(?:none|neither)\b", re.IGNORECASE)
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|than|except|excludes?|eliminates?|without)|n['’]t|\b(?:rule[sd]?\s+out|instead\s+of))"
    r"\W+(?:\w+\W+){0,2}$"
    r"|\bno\s+(?:\w+\s+)?$|\b(?:none\s+of|neither)\b[^.!?;\n]{0,60}$"
    r"|(?:不是|不像|不选|不選|并非|並非|而非|没有|沒有|排除)\w{0,3}$",
    re.IGNORECASE,
)
NOT_AFTER = re.compile(
    r"^\W*(?:(?:is|are|was|were|does|do|can|could|would|seems?)\s*(?:not\b|n['’]t)|cannot|(?:is|are|seems?|looks?)\s+(?:\w+\s+)?"
    r"(?:incorrect|wrong|false|ruled|excluded|unlikely|impossible|absent))"
    r"|^\W*(?:是)?(?:不|错|錯|有误|有誤|ではな|じゃな|[이가]?\s?아니)",
    re.IGNORECASE,
)
_LETTERS = r"(?:[\s(),/]|\b[A-Z]\b|\band\b|\bor\b)*$"
_OPEN_QUESTION = re.compile(
    rf"\b(?:none\s+of|neither)\s+(?:\w+\s+){{0,3}}?(?-i:{_LETTERS})"
    r"|\bno\s+(?:option|choice|answer|letter)\b[^.,!?;\n]{0,40}$|\b(?:whether|if)\b[^.,!?;\n]{0,60}$"
    r"|(?:\bnot|n['’]t)\s+(?:\w+\s+){0,2}?(?:think|believe|say|sure|clear|certain|feel|agree|convinced)\b[^.,!?;\n]{0,60}$"
    r"|(?:[不勿别別未没沒非]|如果|假如)\w{0,3}$",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"[^.,!?;\n]{0,40}\b(?:that|whether|if|which)\b[^.,!?;\n]{0,60}$", re.IGNORECASE)
_NEW_CLAUSE = re.compile(r"[.!?;\n。]\s*|\b(?:but|however|so|therefore|thus|hence)\b|而是", re.IGNORECASE)


def is_negated(text: str, start: int, end: int) -> bool:
    """Check whether "not", "rather than", … stand within two words before, or "is wrong" after, in the same sentence."""
    before = re.split(r"[.!?;\n]\s|,\s*but\b|\bbut\b|。|,(?=[是而应應])", text[max(0, start - 60) : start])[-1]
    return bool(_NOT_BEFORE.search(before) or NOT_AFTER.match(text[end : end + 60]))


def is_undecided(text: str, start: int) -> bool:
    """Check whether the words before `start`, in its clause, take back what follows: "I do not think that", "none of A, B,"."""
    before = _NEW_CLAUSE.split(text[max(0, start - 160) : start])[-1]
    refused = REFUSAL.search(before)
    return bool(_OPEN_QUESTION.search(before) or (refused and _UNKNOWN.match(before, refused.end())))
