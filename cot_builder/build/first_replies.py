"""Stop a teacher whose first replies all fail for one reason: its prompt or its parser is wrong, for all rows alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cot_builder.build.plan import BuildPlan
from cot_builder.filters.accept import NO_REPLIES
from cot_builder.row import Outcome
from cot_builder.teachers.base import Teacher

_UNSAID = ("unreadable_image", *NO_REPLIES)
_CURES = {
    "truncated": "raise max_tokens in its file",
    "no_think": "ask in the prompt for <think>, or serve the model with its reasoning parser",
    "unclosed_think": "raise max_tokens in its file",
}


class FirstReplies:
    """Counts a teacher's replies for as long as all have failed for the same reason. Replies out of the journal count too.

    Args:
        plan: the build; offline teachers cost nothing and are left alone.
        teachers: those that may be stopped.
    """

    def __init__(self, plan: BuildPlan, teachers: Mapping[str, Teacher]) -> None:
        self._plan, self._teachers, self._most = plan, teachers, plan.cot.stop_after_failures
        self._failed: dict[str, Counter[str]] = {name: Counter() for name in teachers if not plan.is_offline(name)}

    def note(self, row_id: str, outcome: Outcome) -> None:
        """Count the replies about a row, and stop a teacher when that makes enough."""
        for each in outcome.tried:
            failed = self._failed.get(each.teacher)
            if failed is None or each.reason in _UNSAID:
                continue
            failed[each.reason or ""] += 1
            if not each.reason or len(failed) > 1:
                del self._failed[each.teacher]
            elif failed[each.reason] == self._most:
                said = " ".join(each.text.split())[:200]
                cure = _CURES.get(each.reason, "look at them with preview and mend the prompt or the teacher's file")
                self._teachers[each.teacher].stop(
                    f"its first {self._most} replies all fail as {each.reason} (the last: {row_id}: {said!r}); {cure}, or set "
                    "cot.stop_after_failures=0 to go on asking"
                )
