"""The options of a task's file: what they stand for, and what their values must be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.errors import UserError, did_you_mean

Check = Callable[[Any], str]
"""Gives what is wrong with a value, such as "is neither true nor false"; "" where it is right."""


@dataclass(frozen=True)
class TaskOption:
    """An option of a task's file: its default, what it means, where it is one of a few words, which, and what else its value must
    be; docs/tasks.md has a table of them all.
    """

    default: Any
    meaning: str
    choices: Collection[str] = ()
    check: Check = lambda _: ""


def check_options(config: TaskConfig, allowed: Mapping[str, TaskOption]) -> dict[str, Any]:
    """Return the value of every option of a task: what ``options:`` sets, once it is known to be one, else its default.

    Raises:
        UserError: naming every other key and every value that is none of the choices, with the nearest right one, and every
            value that its check finds wrong.
    """
    problems = []
    for key, value in config.options.items():
        if key not in allowed:
            problems.append(
                f"task.options.{key}: the {config.name} task has no such option; {did_you_mean(key, allowed)}"
            )
        elif value is None and allowed[key].default is None:
            # It says that nothing is set.
            continue
        # A list, for a value that cannot be hashed is in no set.
        elif (choices := list(allowed[key].choices)) and value not in choices:
            problems.append(f"task.options.{key}: {value!r} is no {key}; {did_you_mean(value, choices)}")
        elif wrong := allowed[key].check(value):
            problems.append(f"task.options.{key}: {value!r} {wrong}")
    if problems:
        raise UserError(problems)
    return {name: config.options.get(name, option.default) for name, option in allowed.items()}


def whole_from(least: int) -> Check:
    """Return the check of a whole number."""
    return lambda value: "" if type(value) is int and value >= least else f"is not a whole number from {least}"


def true_or_false(value: Any) -> str:
    """Return what is wrong with the value of a switch."""
    return "" if isinstance(value, bool) else "is neither true nor false"


def share(value: Any) -> str:
    """Return what is wrong with a share from 0 to 1, both included."""
    return "" if type(value) in (int, float) and 0 <= value <= 1 else "is not a number from 0 to 1"


def share_below(most: float) -> Check:
    """Return the check of a share from 0 that stays below `most`."""
    return lambda value: (
        "" if type(value) in (int, float) and 0 <= value < most else f"is not a number from 0 to {most:g}"
    )


def a_name(value: Any) -> str:
    """Return what is wrong with the name of a column."""
    return "" if isinstance(value, str) else "is not a name"


def names(value: Any) -> str:
    """Return what is wrong with a list of names of columns."""
    whole = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    return "" if whole else "is not a list of names"


def a_name_or_names(value: Any) -> str:
    """Return what is wrong with the name of a column, or a list of some."""
    return a_name(value) and names(value) and "is neither a name nor a list of names"


def some_of(words: Collection[str], fewest: int = 0) -> Check:
    """Return the check of a list of words out of `words`, `fewest` of them at least."""

    def check(value: Any) -> str:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < fewest:
            return f"is not a list of some of {', '.join(words)}"
        unknown = [each for each in value if each not in list(words)]
        if not unknown:
            return ""
        return f"names {unknown[0]!r}, which is none of them; {did_you_mean(unknown[0], words)}"

    return check


def ends(what: str, least: int, most: int) -> Check:
    """Return the check of the two ends of a range.

    Args:
        what: the ends in words, such as "the shortest and the longest walk".
        least, most: what they lie between, both included.
    """

    def check(value: Any) -> str:
        if not (isinstance(value, Sequence) and len(value) == 2 and all(type(end) is int for end in value)):
            return f"is not {what}, such as [{least}, {most}]"
        return "" if least <= value[0] <= value[1] <= most else f"is not in order and from {least} to {most}"

    return check
