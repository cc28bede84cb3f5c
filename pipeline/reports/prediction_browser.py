"""What the prediction browser of a page reads: every row once, with every entry's greedy answer, as JSON inside the page.

Completions are hostile text. They reach the page as JSON that holds no character HTML could take for markup, and its script
makes text nodes of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.formatting import printable
from pipeline.metrics.paired_tests import right
from pipeline.reports.entries import Entry

SIDE = 160
"""Longest side of an inlined picture, in pixels."""
PICTURE_BYTES = 12_000_000
"""Of all inlined pictures of a page, as they stand in it; pictures beyond are links."""
_CHARACTERS = 4000
"""Of one completion; longer ones are cut, and say so."""


def browser(entries: Sequence[Entry], root: Path, folder: Path, first: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return the data of the browser; None without an answer.

    Args:
        entries: their greedy predictions are shown.
        root: where relative paths of pictures start when they do not exist from here.
        folder: of the page, which links start from.
        first: ids of rows whose pictures are inlined before all others.

    Returns:
        ``entries`` (name, mode, q prompt), ``texts`` (every text once), ``rows`` and ``pictures``, in the short keys
        templates/_page.js.jinja reads, ``inlined``, ``linked``, ``missing``: how many pictures are what, and ``mapped``: how many
        answers have an occlusion map.
    """
    shown = [entry for entry in entries if entry.greedy]
    if not shown:
        return None
    texts = _Texts()
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    prompts = [_one_prompt(entry) for entry in shown]
    for number, entry in enumerate(shown):
        for row in entry.greedy:
            key = (entry.task, row["id"], row["gold"], row.get("question"))
            rows.setdefault(key, _row(row, texts, bool(prompts[number])))["a"][number] = _answer(row, texts)
    paths = {key: tuple(row.pop("images")) for key, row in rows.items()}
    maps = [entry.occlusion.rows if entry.occlusion else {} for entry in shown]
    wanted = {*first, *(row_id for of_entry in maps for row_id in of_entry)}
    ordered = sorted(rows, key=lambda key: key[1] not in wanted)
    pictures = _Pictures(root, folder)
    for key in ordered:
        rows[key]["p"] = [pictures.add(path) for path in paths[key]]
        mapped = {number: of_entry[key[1]] for number, of_entry in enumerate(maps) if key[1] in of_entry}
        # Two tasks may have rows of one id.
        if mapped := {number: overlays for number, overlays in mapped.items() if number in rows[key]["a"]}:
            rows[key]["m"] = {
                number: [[pictures.add(str(one.path)), round(one.largest, 2)] for one in overlays]
                for number, overlays in mapped.items()
            }
    return {
        "entries": [
            {"name": printable(entry.name), "mode": _mode(entry), "q": texts.add(prompts[number])}
            for number, entry in enumerate(shown)
        ],
        "rows": [row | {"a": [row["a"].get(number, 0) for number in range(len(shown))]} for row in rows.values()],
        "texts": texts.all,
        "pictures": pictures.all,
        "mapped": sum(len(row.get("m", ())) for row in rows.values()),
        **pictures.counts,
    }


def as_json(value: Any) -> str:
    """Return JSON that may stand in a script element: no ``<``, ``>`` or ``&``, whatever the texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Texts:
    """Texts by number, each kept once: prompts and many completions repeat."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._known: dict[str, int] = {}

    def add(self, text: str | None) -> int:
        """Return the number of a text; -1 for none."""
        if not text:
            return -1
        if text not in self._known:
            self._known[text] = len(self.all)
            clean = printable(text)
            cut = f"{clean[:_CHARACTERS]}… ({len(clean)} characters)" if len(clean) > _CHARACTERS else clean
            self.all.append(cut.strip())
        return self._known[text]


class _Pictures:
    """Pictures by number, each kept once: as a small JPEG while there is room, then as a link, else as why there is none."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.all: list[dict[str, str]] = []
        self.counts = {"inlined": 0, "linked": 0, "missing": 0}
        self._root, self._folder, self._room = root, folder, PICTURE_BYTES
        self._paths: dict[str, int] = {}
        self._bytes: dict[bytes, int] = {}

    def add(self, path: str) -> int:
        if path not in self._paths:
            self._paths[path] = self._new(path)
        return self._paths[path]

    def _new(self, path: str) -> int:
        found = next((one for one in (Path(path), self._root / path) if _is_file(one)), None)
        if found is None:
            return self._keep("missing", {"why": "picture not found"})
        # A name may hold what an address reads otherwise, such as # and ?.
        link = quote(Path(os.path.relpath(found, self._folder)).as_posix())
        if self._room <= 0:
            return self._keep("linked", {"link": link})
        from pipeline.data.images import ImageError

        try:
            jpeg = thumbnail(found)
        except ImageError as error:
            return self._keep("missing", {"why": error.reason.replace("_", " ")})
        digest = hashlib.sha256(jpeg).digest()
        if digest not in self._bytes:
            data = base64.b64encode(jpeg).decode()
            self._room -= len(data)
            self._bytes[digest] = self._keep("inlined", {"jpeg": data})
        return self._bytes[digest]

    def _keep(self, kind: str, picture: dict[str, str]) -> int:
        self.counts[kind] += 1
        self.all.append(picture)
        return len(self.all) - 1


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # Text that is longer than a name can be, such as the picture itself as a data: URI.
        return False


def thumbnail(path: Path) -> bytes:
    """Return a picture as a JPEG of at most `SIDE` pixels a side.

    Raises:
        ImageError: when it cannot be read.
    """
    from pipeline.data.images import encode_picture, open_rgb

    small = open_rgb(path, longest_side=SIDE)
    small.thumbnail((SIDE, SIDE))
    return encode_picture(small, "JPEG", quality=72, optimize=True)


def _row(row: dict[str, Any], texts: _Texts, told: bool) -> dict[str, Any]:
    """What a question is: i id, g gold, q question (or prompt, unless that is `told` of the entry), o options, k groups,
    a answers by entry."""
    groups = {printable(str(key)): printable(str(value)) for key, value in (row.get("groups") or {}).items()}
    return {
        "i": printable(row["id"]),
        "g": printable(str(row["gold"])) if row["gold"] is not None else None,
        "q": texts.add(row.get("question") or (None if told else row.get("prompt"))),
        "o": [printable(str(option)) for option in row.get("options") or ()],
        "k": {key: value for key, value in groups.items() if (key, value) != ("label", row["gold"])},
        "images": row.get("images") or ([row["image"]] if row.get("image") else []),
        "a": {},
    }


def _answer(row: dict[str, Any], texts: _Texts) -> list[Any]:
    """[label, right, text, reason, cut, description, guessed, log probability], less those at the end without a value."""
    reason = None if row["label"] is not None else printable(row.get("reason") or "no answer")
    label = printable(str(row["label"])) if row["label"] is not None else None
    answer: list[Any] = [label, int(right(row)), texts.add(row["completion"]), reason, int(bool(row.get("truncated")))]
    guessed, logprob = row.get("guessed"), row.get("logprob")
    answer += [texts.add(row.get("description")), guessed and printable(str(guessed))]
    if isinstance(logprob, int | float) and logprob == logprob:
        # JSON knows no infinity; this is as impossible.
        answer.append(round(min(0.0, max(-1000.0, float(logprob))), 4))
    # A float is a log probability, of which 0 and -1 say something.
    while not isinstance(answer[-1], float) and answer[-1] in (None, -1, 0) and len(answer) > 3:
        answer.pop()
    return answer


def _one_prompt(entry: Entry) -> str | None:
    """What every row of an entry was asked; None where rows have questions of their own."""
    asked = {row.get("prompt") for row in entry.greedy}
    return asked.pop() if len(asked) == 1 and not entry.greedy[0].get("question") else None


def _mode(entry: Entry) -> str:
    """How it was asked: a lab cell's mode, else the prompt style."""
    first = entry.greedy[0]
    return printable(str(first.get("mode") or first["style"]))
