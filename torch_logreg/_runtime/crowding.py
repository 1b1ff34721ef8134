"""As many threads as find a core free, on a machine that other programs use too.

An operation of several threads ends when the last of them does. Where another program has taken the core of
one, all wait for its turn, for milliseconds at every operation: beside one busy process on two cores, two
threads take several times as long as one (underload.py).
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Threads taken off a core, a second: with cores free they are a third of it, else twice as many.
CROWDED = 100.0
ALARM = 5.0  # more of these than that, from which it is no chance
EVERY = 2e-3  # seconds between two looks, which take microseconds
# Seconds until one more thread is tried: at first, at most, and after which a trial counts as a success.
FIRST_PAUSE, LONGEST_PAUSE, CALM = 0.1, 2.0, 0.5
RECENT = 1.0  # seconds for which it is known what was found
SNAPSHOTS, APART = 3, 1e-4  # of what runs, and seconds between them: a thread of the system runs for less


def _switches() -> Callable[[], int] | None:
    """What counts how often threads of this process were taken off a core though they could go on.

    None where the system tells of no such thing.
    """
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows
        return None
    return lambda: int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


SWITCHES = _switches()


def busy_elsewhere() -> int:
    """How many threads of other processes want a core at this moment; 0 where that is not told."""
    least = _running_elsewhere()
    for _ in range(SNAPSHOTS - 1):
        if not least:
            break
        time.sleep(APART)
        least = min(least, _running_elsewhere())
    return least


def _running_elsewhere() -> int:
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
        if running < 2:  # this thread alone
            return 0
        own = (file.read_text() for file in Path("/proc/self/task").glob("*/stat"))
        return max(0, running - sum(stat.rpartition(")")[2].split()[0] == "R" for stat in own))
    except (OSError, IndexError, ValueError):
        return 0


class Crew:
    """The number of threads of computations, which ask anew at every look.

    Threads that are taken off a core tell of others that want it: their number over what is usual is summed
    up, and one thread fewer is used once that sum is too large for chance. After a pause one more is tried;
    where that fails again, the pause is doubled. What was found holds for the next computation too.

    References
    ----------
    Page (1954), Continuous inspection schemes, Biometrika 41: the cumulative sum.
    """

    def __init__(self, most: int, switches: Callable[[], int]) -> None:
        self.most, self.n_threads, self.pause, self._switches = most, most, FIRST_PAUSE, switches
        self._sum, self._count = 0.0, switches()
        self._now = self._changed = time.perf_counter()
        self.next_look = self._now

    def start(self, most: int, free: int) -> None:
        """Begin a computation with at most `most` threads, where `free` seem to find a core."""
        now = time.perf_counter()
        if most != self.most or now - self._now > RECENT:  # nothing is known
            self.most, self.n_threads, self.pause, self._changed = most, most, FIRST_PAUSE, now
        if free < self.n_threads:
            self._change(max(1, free), now)
        self._sum, self._count, self._now, self.next_look = 0.0, self._switches(), now, now + EVERY

    def look(self, now: float) -> int:
        """The number of threads from now on."""
        count = self._switches()
        usual = CROWDED * (now - self._now)
        self._sum = max(0.0, self._sum + count - self._count - usual)
        self._count, self._now, self.next_look = count, now, now + EVERY
        since = now - self._changed
        if self._sum > ALARM:
            if self.n_threads > 1 and since < CALM:
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self._change(max(1, self.n_threads - 1), now)  # even one may have to wait
        elif self.n_threads < self.most and since > self.pause:
            self._change(self.n_threads + 1, now)
        elif self.n_threads == self.most and since > CALM:
            self.pause = FIRST_PAUSE
        return self.n_threads

    def _change(self, n_threads: int, now: float) -> None:
        self.n_threads, self._changed, self._sum = n_threads, now, 0.0


CREW = None if SWITCHES is None else Crew(1, SWITCHES)
_here = threading.local()


@contextmanager
def as_many_as_are_free(limits: list[Callable[[int], int]]) -> Iterator[None]:
    """Compute with as many threads as find a core free, while `look` is called.

    `limits` set, for the calling thread, how many threads a library uses, and return how many it was. Where
    algorithms are to be deterministic (`torch.use_deterministic_algorithms`) nothing is changed: sums of
    fewer threads round differently.
    """
    most, crew, fixed = torch.get_num_threads(), CREW, torch.are_deterministic_algorithms_enabled()
    if crew is None or most == 1 or not limits or fixed or getattr(_here, "crew", None) is not None:
        yield
        return
    crew.start(most, (os.cpu_count() or most) - busy_elsewhere())
    _here.n_threads = crew.n_threads
    before = [limit(_here.n_threads) for limit in limits]
    _here.crew, _here.limits = crew, limits
    try:
        yield
    finally:
        _here.crew = None
        for limit, number in zip(limits, before, strict=True):
            limit(number)


def look() -> None:
    """Let the computation of this thread have fewer threads or more, within `as_many_as_are_free`."""
    crew = getattr(_here, "crew", None)
    if crew is None or (now := time.perf_counter()) < crew.next_look:
        return
    if crew.look(now) != _here.n_threads:
        _here.n_threads = crew.n_threads
        for limit in _here.limits:
            limit(_here.n_threads)
