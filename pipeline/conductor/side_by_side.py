"""Work on several phases of a run at once, each a process of its own: start what waits for nothing, tell how each ends."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from pipeline.command_line import STOPPED
from pipeline.conductor.schedule import by_urgency, hands_on, lacks_room, requirements
from pipeline.config.derived import trainer_gpus
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.logs import PHASE
from pipeline.run_dir import COT, RunDir
from pipeline.system.hardware import free_memory
from pipeline.system.processes import Children, children

log = logging.getLogger(__name__)
_POLL = 0.1
# Seconds after which it is looked again whether the memory holds a phase that it did not hold; asking a GPU takes a while.
_AGAIN = 10.0


def dies_by(name: str) -> signal.Signals:
    """Return what a phase's process is sent when the conductor dies.

    A stage answers SIGTERM by a checkpoint; without a conductor nobody waits for that.
    """
    return signal.SIGTERM if name == COT else signal.SIGKILL


def failure(name: str, code: int) -> str:
    """Return how a run says that a phase failed."""
    return f"{name} failed (exit status {code}); mend the cause and run the same command: it goes on here"


def run_side_by_side(
    config: RunConfig,
    run: RunDir,
    names: Sequence[str],
    limit: int,
    command: Callable[[str], Sequence[str] | None],
    after: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Run phases, up to `limit` at once, each once what it is made from has been handed on; the most urgent first.

    When one fails, those that run go on to their end, and no other starts.

    Args:
        config: of the run.
        run: its folder.
        names: of the phases, in an order in which each stands after what it waits for.
        limit: how many may run at once.
        command: gives what runs a phase; None where it is done.
        after: called when a phase has ended well; raises UserError where nothing may be made from it.
        tell: told what begins and what is done.

    Raises:
        UserError: when a phase fails.
        KeyboardInterrupt: after all have ended, when they were asked to.
    """
    with children() as ours:
        work = _SideBySide(config, run, names, limit, ours)
        while work.running or (work.waiting and work.goes_on):
            if work.goes_on:
                work.start(command, tell)
            time.sleep(_POLL)
            work.reap(after, tell)
    if ours.pressed:
        raise KeyboardInterrupt
    if work.failed:
        raise UserError([problem for problems in work.failed.values() for problem in problems])


class _SideBySide:
    """Where the phases stand."""

    def __init__(self, config: RunConfig, run: RunDir, names: Sequence[str], limit: int, ours: Children) -> None:
        self.config, self.run, self.limit, self.ours = config, run, limit, ours
        self.needs = requirements(config, names)
        self.waiting = by_urgency(self.needs)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: set[str] = set()
        self.failed: dict[str, list[str]] = {}
        # What had been handed on before is checked by its process, which takes a moment.
        self.checked: set[str] = set()
        # When the memory was found not to hold a phase.
        self.lacking: dict[str, float] = {}
        self.at_start = min(free_memory(trainer_gpus(config)), default=0)

    @property
    def goes_on(self) -> bool:
        """Whether more phases are to be started."""
        return not (self.failed or self.ours.pressed)

    def start(self, command: Callable[[str], Sequence[str] | None], tell: Callable[[str], None]) -> None:
        """Start the phases that wait for nothing, as far as there is room."""
        for name in list(self.waiting):
            if len(self.running) < self.limit and all(map(self._passed, self.needs[name])) and self._has_room(name):
                self.waiting.remove(name)
                tell(name)
                words = command(name)
                if words is None:
                    self.ended.add(name)
                    continue
                if hands_on(self.config, self.run, name):
                    self.checked.add(name)
                # The others' lines stand between its own.
                self.running[name] = self.ours.start(words, dies_by=dies_by(name), environment={PHASE: name})

    def _passed(self, name: str) -> bool:
        """Whether a phase may be started from."""
        return name in self.ended or (
            name in self.running and name not in self.checked and hands_on(self.config, self.run, name)
        )

    def _has_room(self, name: str) -> bool:
        if time.monotonic() - self.lacking.get(name, -_AGAIN) < _AGAIN:
            return False
        why = lacks_room(self.config, self.run, name, list(self.running), self.at_start)
        if why is None:
            return True
        if name not in self.lacking:
            log.info("%s waits for %s to end: %s", name, " or ".join(self.running), why)
        self.lacking[name] = time.monotonic()
        return False

    def reap(self, after: Callable[[str], None], tell: Callable[[str], None]) -> None:
        """Take note of the phases that have ended."""
        for name, child in list(self.running.items()):
            if (code := child.poll()) is None:
                continue
            del self.running[name]
            # What lacked room is looked at anew, and is not told again.
            self.lacking = dict.fromkeys(self.lacking, -_AGAIN)
            if not code:
                self.ended.add(name)
                tell(f"{name} is done")
                try:
                    after(name)
                except UserError as error:
                    self._fail(name, error.problems)
            elif code == STOPPED and not self.ours.pressed:
                # Somebody stopped this one alone, and means the run.
                self.ours.press(signal.SIGINT)
            elif not self.ours.pressed:
                self._fail(name, [failure(name, code)])

    def _fail(self, name: str, problems: list[str]) -> None:
        self.failed[name] = problems
        if self.running:
            on = " and ".join(self.running)
            log.warning("%s failed; what has begun goes on to its end (%s), and nothing else is started", name, on)
