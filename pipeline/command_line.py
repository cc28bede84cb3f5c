"""What the entry points share: overrides anywhere among the options, how much is told, and how a command ends."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pipeline import logs
from pipeline.errors import UserError

STOPPED = 128 + signal.SIGINT
"""The exit status after Ctrl-C."""
INCOMPLETE = 3
"""The exit status of a build that has rows without a reply."""
EXIT_CODES = {
    0: "done, or complete before, or a `--dry-run` that found nothing wrong",
    1: "an error that nothing here expects, told with its traceback; of `stages.sweep`: not every cell is complete",
    2: "something to mend, told in a line each: a setting, a file, a stage that failed or missed its gate, a full disk; "
    "of `preview`: no reply of a teacher was kept",
    INCOMPLETE: "of `cot_builder build` and `merge`: rows are without a reply; the same command asks them",
    128 + signal.SIGHUP: "the terminal closed; what was done is kept, and the same command goes on",
    STOPPED: "Ctrl-C; the same",
    128 + signal.SIGPIPE: "the reader of the output (`| head`) had seen enough",
    128 + signal.SIGTERM: "SIGTERM (`kill`, a batch system); as Ctrl-C",
}
"""What the exit status of every command says; 128 and more is 128 and the signal's number."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
log = logging.getLogger(__name__)


def doc_parser(module: str, doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return the parser of a module that is started by name and whose docstring is its help, as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments, with ``a.b=c`` words taken wherever they stand: argparse leaves those after a later option."""
    arguments, more = parse_known(parser, argv)
    strange = [word for word in more if word.startswith("-") or "=" not in word or not hasattr(arguments, "overrides")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if more:
        arguments.overrides = [*arguments.overrides, *more]
    return arguments


def parse_known(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments and the words that are none, with ``--verbose`` and ``--quiet`` added to the parser and heeded."""
    for one in _with_commands(parser):
        much = one.add_mutually_exclusive_group()
        for name, level, purpose in (
            ("--verbose", "DEBUG", "tell more, with time and place"),
            ("--quiet", "WARNING", "tell warnings and errors alone; results are printed all the same"),
        ):
            much.add_argument(
                name, dest="log_level", action="store_const", const=level, default=argparse.SUPPRESS, help=purpose
            )
    arguments, more = parser.parse_known_args(argv)
    if hasattr(arguments, "log_level"):
        # Its children's too.
        os.environ[logs.LEVEL] = arguments.log_level
    logs.log_to_terminal()
    return arguments, more


def _with_commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(command for action in actions for command in action.choices.values())]


def from_one(word: str) -> int:
    """Return an argument as a whole number from 1.

    Raises:
        ArgumentTypeError: when it is none.
    """
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1")
    return int(word)


def status(work: Callable[[], int]) -> int:
    """Do the work of an entry point.

    Returns:
        Its exit status; 2 after a UserError or on a full disk and 130 after Ctrl-C, each told without a traceback.
    """
    logs.log_to_terminal()
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UserError as error:
        for problem in error.problems:
            log.error(problem)
        return 2
    except KeyboardInterrupt:
        log.warning("\nstopped; the same command goes on where it was")
        return STOPPED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would say so again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        log.error("%s: the disk is full; make room, then the same command", error.filename or "writing")
        return 2
