"""What the entry points share: overrides anywhere among the options, and how a command ends."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence

from pipeline.errors import UserError

STOPPED = 128 + signal.SIGINT
"""The exit status after Ctrl-C."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with ``a.b=c`` words taken wherever they stand: argparse leaves those after a later option."""
    arguments, more = parser.parse_known_args(argv)
    strange = [word for word in more if word.startswith("-") or "=" not in word or not hasattr(arguments, "overrides")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if more:
        arguments.overrides = [*arguments.overrides, *more]
    return arguments


def status(work: Callable[[], int]) -> int:
    """Do the work of an entry point.

    Returns:
        Its exit status; 2 after a UserError or on a full disk and 130 after Ctrl-C, each told without a traceback.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # The reader (`| head`) has seen enough. Python would say so again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(
            f"error: {error.filename or 'writing'}: the disk is full; make room, then the same command", file=sys.stderr
        )
        return 2
