"""How many pictures a row may have: what the student's family is tested on, and what several processes can train together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.config.families import PLACES


def picture_problems(spec: str, counts: Mapping[int, int], family: str | None, processes: int) -> Iterator[str]:
    """Yield why no stage can train on rows of so many pictures, with how many they are and the cure.

    Args:
        spec: the split's.
        counts: {pictures of a row: how many rows have as many}.
        family: of the student; None while that is not known.
        processes: that train together.
    """
    rows = sum(counts.values())
    other = rows - counts.get(1, 0)
    if other and family is not None and family not in PLACES:
        yield (
            f"{spec!r}: {other:,} of {rows:,} rows have {_listed(counts)} pictures, and no test holds that {family} is trained "
            f"rightly on others than one; take a model of {', '.join(PLACES)}, or leave these rows out"
        )
    none = counts.get(0, 0)
    if processes > 1 and 0 < none < rows:
        yield (
            f"{spec!r}: {none:,} of {rows:,} rows have no picture: of {processes} processes one may get a batch without any, "
            "and the others would wait for its vision model for ever; set launch.num_processes=1, or leave these rows out"
        )


def _listed(counts: Mapping[int, int]) -> str:
    *others, last = [str(number) for number in sorted(counts) if number != 1]
    return f"{', '.join(others)} or {last}" if others else last
