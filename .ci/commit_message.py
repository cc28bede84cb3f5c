"""Check a commit's message: ``python .ci/commit_message.py FILE``, which git's commit-msg hook calls before every commit.

The subject says in the imperative what the change does; the body says why. Exit status 1, with all that is wrong, when not.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LONGEST = 72
SMALL = 10
"""Changed lines up to which a subject may stand alone."""
MADE_BY_GIT = ("Merge ", "Revert ", "fixup! ", "squash! ", "amend! ")
TRAILERS = ("signed-off-by:", "co-authored-by:", "reviewed-by:", "change-id:")
NO_VERBS = (
    "a all an and another any are at both by each every few first five for four from how i if in into is it its last many"
    " more most my new no not now of on one only other our same several so some ten that the their there these they this"
    " those three to two we what when where which why with you your"
)
VERBS_LIKE_OTHERS = "alias bias bring canvas cling embed focus ring shed sling spring string swing wed"
"""Imperatives that end as a noun in the plural, a past or a gerund does."""


def problems(message: str, changed_lines: int) -> list[str]:
    """What is wrong with a message; empty when nothing is.

    Args:
        message: as git hands it over, its own comments included.
        changed_lines: lines that the commit adds and removes.
    """
    subject, *rest = _written(message) or [""]
    if subject.startswith(MADE_BY_GIT):
        return []
    found = []
    if not subject:
        return ["the message is empty; say in one line what the change does"]
    if len(subject) > LONGEST:
        found.append(f"the subject has {len(subject)} characters; at most {LONGEST}, the rest belongs in the body")
    if subject.endswith("."):
        found.append("the subject ends in a full stop; leave it out")
    first = subject.split()[0]
    if not first[0].isupper():
        found.append(f"the subject begins with '{first}'; begin with a capital letter and no prefix")
    elif not _may_be_imperative(first):
        found.append(f"'{first}' is no imperative; begin with what the change does ('Refuse a stage that cannot clip')")
    if rest and rest[0].strip():
        found.append("the second line is not empty; leave it empty between subject and body")
    body = [line for line in rest if line.strip() and not line.lower().startswith(TRAILERS)]
    if changed_lines > SMALL and not body:
        found.append(f"{changed_lines} lines changed and no body; say why, after an empty line")
    return found


def _written(message: str) -> list[str]:
    """The lines of a message without what git wrote into the file, from the first with words to the last."""
    lines = []
    for line in message.splitlines():
        if line.startswith("# ---") and ">8" in line:
            break
        if not line.startswith("#"):
            lines.append(line.rstrip())
    return "\n".join(lines).strip("\n").splitlines()


def _may_be_imperative(word: str) -> bool:
    word = word.lower()
    if word in VERBS_LIKE_OTHERS.split():
        return True
    if word in NO_VERBS.split() or not word.isalpha():
        return False
    past, plural = word.endswith("ed") and not word.endswith("eed"), word.endswith("s") and not word.endswith("ss")
    return not (past or plural or word.endswith("ing"))


def staged_lines() -> int:
    """Lines that the commit about to be made adds and removes; a file that is not text counts as none."""
    command = ["git", "diff", "--cached", "--numstat"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(count) for line in shown for count in line.split("\t")[:2] if count.isdigit())


def main(words: Sequence[str]) -> int:
    """Check the message in a file; the exit status."""
    found = problems(Path(words[0]).read_text(encoding="utf-8"), staged_lines())
    for one in found:
        print(f"commit message: {one}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
