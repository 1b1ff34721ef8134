"""As many threads as find a core free."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from torch_logreg import TorchLogisticClassifier
from torch_logreg._runtime import crowding
from torch_logreg._runtime.crowding import FIRST_PAUSE, LONGEST_PAUSE, Crew, as_many_as_are_free, look


class Machine:
    """Time, and threads that are taken off a core so many times a second."""

    def __init__(self, rate: float) -> None:
        self.now, self.rate, self.count = 0.0, rate, 0.0

    def switches(self) -> int:
        return int(self.count)

    def clock(self) -> float:
        return self.now

    def run(self, crew: Crew, seconds: float, rate: float | None = None) -> list[int]:
        """The numbers of threads at each look."""
        seen, end = [], self.now + seconds
        self.rate = self.rate if rate is None else rate
        while self.now < end:
            self.now += 5e-3
            self.count += 5e-3 * self.rate * (crew.n_threads > 1 or self.rate > 1000)
            seen.append(crew.look(self.now))
        return seen


@pytest.fixture
def machine(monkeypatch) -> Machine:
    made = Machine(40.0)
    monkeypatch.setattr(crowding.time, "perf_counter", made.clock)
    return made


def crew_of(machine: Machine, most: int = 2) -> Crew:
    crew = Crew(most, machine.switches)
    crew.start(most, most)
    return crew


def test_threads_stay_where_cores_are_free(machine):
    assert set(machine.run(crew_of(machine), 20.0)) == {2}


def test_a_thread_less_is_used_soon_where_others_take_a_core(machine):
    crew = crew_of(machine)
    seen = machine.run(crew, 0.2, rate=200.0)
    assert seen[14] == 1  # after 75 ms


def test_another_thread_is_tried_ever_more_rarely_while_others_take_a_core(machine):
    crew = crew_of(machine)
    seen = np.array(machine.run(crew, 60.0, rate=200.0))
    assert (seen == 2).mean() < 0.1  # 60 ms of every two seconds, in the end
    assert max(np.diff(np.flatnonzero(np.diff(seen) > 0))) * 5e-3 > LONGEST_PAUSE
    late = machine.run(crew, 10.0, rate=40.0)
    assert late[-1] == 2 and crew.pause == FIRST_PAUSE


def test_no_fewer_than_one_thread_is_used(machine):
    assert machine.run(crew_of(machine), 5.0, rate=5000.0)[-1] == 1


def test_short_computations_go_on_where_the_one_before_ended(machine):
    crew = crew_of(machine)
    machine.run(crew, 0.1, rate=200.0)
    seen = []
    for _ in range(10):  # of 50 ms each, on a machine that is free by now
        crew.start(2, 2)
        seen += machine.run(crew, 0.05, rate=0.0)
    assert seen[0] == 1 and seen[-1] == 2
    machine.run(crew, 0.3, rate=200.0)
    machine.now += 2 * crowding.RECENT
    crew.start(2, 2)
    assert crew.n_threads == 2


def test_many_threads_leave_one_after_the_other(machine):
    seen = machine.run(crew_of(machine, 8), 1.0, rate=200.0)
    assert np.diff(seen).min() == -1 and min(seen) < 4


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def limits(two_threads, monkeypatch):
    """What sets the number of a thread of its own, in place of OpenMP's; and cores for all."""
    here = threading.local()

    def limit(number: int) -> int:
        before = getattr(here, "number", 2)
        here.number = number
        return before

    monkeypatch.setattr(crowding, "CREW", Crew(2, lambda: 0))
    monkeypatch.setattr(crowding.os, "cpu_count", lambda: 2)
    return limit


@pytest.mark.parametrize(("busy", "expected"), [(0, 2), (1, 1), (9, 1)])
def test_a_computation_starts_with_the_cores_that_are_free(busy, expected, limits, monkeypatch):
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: busy)
    with as_many_as_are_free([limits]):
        assert limits(expected) == expected
        with as_many_as_are_free([limits]):  # one inside another changes nothing
            assert limits(expected) == expected
    assert limits(2) == 2


def test_a_computation_that_is_crowded_goes_on_with_fewer_and_tells_the_next(limits, monkeypatch):
    count = [0]
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 0)
    monkeypatch.setattr(crowding, "CREW", Crew(2, lambda: count[0]))
    monkeypatch.setattr(crowding, "EVERY", 0.0)
    with as_many_as_are_free([limits]):
        look()
        assert limits(2) == 2
        count[0] = 1000
        look()
        assert limits(1) == 1
    assert limits(2) == 2
    with as_many_as_are_free([limits]):
        assert limits(1) == 1
    look()  # outside it does nothing


@pytest.mark.parametrize("deterministic", [True, False])
def test_algorithms_that_are_to_be_deterministic_keep_their_threads(deterministic, limits, monkeypatch):
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 1)
    torch.use_deterministic_algorithms(deterministic)
    try:
        with as_many_as_are_free([limits]):
            assert limits(2) == (2 if deterministic else 1)
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_error_puts_the_number_back(limits, monkeypatch):
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 1)
    with pytest.raises(ZeroDivisionError), as_many_as_are_free([limits]):
        raise ZeroDivisionError
    assert limits(2) == 2


def test_a_system_that_tells_nothing_changes_nothing(limits, monkeypatch):
    monkeypatch.setattr(crowding, "CREW", None)
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 1)
    with as_many_as_are_free([limits]):
        assert limits(2) == 2


def test_a_thread_that_runs_for_a_moment_makes_no_load(monkeypatch):
    found = iter([2, 1, 0])
    monkeypatch.setattr(crowding, "_running_elsewhere", lambda: next(found))
    assert crowding.busy_elsewhere() == 0


def test_the_load_of_this_machine_is_a_number_or_not_told(monkeypatch, tmp_path):
    assert crowding.busy_elsewhere() >= 0
    monkeypatch.setattr(crowding, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert crowding.busy_elsewhere() == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("0.5 0.5 0.5 4/100 77\n")
    (tmp_path / "proc" / "self" / "task" / "1").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "task" / "1" / "stat").write_text("1 (a) b) R 0 0\n")
    assert crowding.busy_elsewhere() == 3


def test_a_fit_looks_at_each_block(two_threads, monkeypatch):
    looked = []
    monkeypatch.setattr(crowding, "CREW", Crew(2, lambda: 0))
    monkeypatch.setattr(Crew, "look", lambda self, now: looked.append(now) or self.n_threads)
    monkeypatch.setattr(crowding, "EVERY", 0.0)
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40_000, 40))
    TorchLogisticClassifier(max_iter=3, tol=None).fit(X, (X[:, 0] > rng.normal(size=len(X))).astype(int))
    assert len(looked) >= 3
