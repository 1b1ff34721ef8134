"""What is kept of the oracle's answers is what it answers."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers import optima, oracle

rng = np.random.default_rng(0)
X, CODES, WEIGHT = rng.normal(size=(60, 3)), np.arange(60) % 3, rng.random(60)
PROBLEM = {
    "X": X,
    "codes": CODES,
    "n_classes": 3,
    "C": 1.0,
    "sample_weight": WEIGHT,
    "fit_intercept": True,
}
OTHERS = {
    "X": X + np.spacing(X) * (np.arange(180) == 7).reshape(60, 3),
    "codes": np.where(np.arange(60) == 7, 0, CODES),
    "n_classes": 4,
    "C": np.nextafter(1.0, 2.0),
    "sample_weight": np.where(np.arange(60) == 7, 0, WEIGHT),
    "fit_intercept": False,
}


@pytest.fixture
def an_empty_file(tmp_path, monkeypatch):
    monkeypatch.setattr(optima, "FILE", tmp_path / "optima.npz")
    monkeypatch.setattr(optima, "met", {})
    optima._stored.cache_clear()
    yield
    optima._stored.cache_clear()


@pytest.mark.parametrize("name", OTHERS)
def test_a_problem_that_differs_in_the_last_digit_of_anything_is_another(name):
    key = optima._key(tuple(PROBLEM.values()))
    assert key == optima._key(tuple(PROBLEM.values()))
    assert key != optima._key(tuple((PROBLEM | {name: OTHERS[name]}).values()))


def test_no_weights_are_not_equal_weights_of_another_length():
    assert optima._key((X, None)) != optima._key((X, np.ones(60))) != optima._key((X, np.ones(59)))


def test_an_answer_that_was_written_is_read_and_the_oracle_not_asked(an_empty_file, monkeypatch):
    two = X, CODES % 2, 2
    expected = optima.solve(**PROBLEM), optima.solve(*two, np.inf), optima.separable(*two)
    for got, right in zip(expected, (oracle.solve(**PROBLEM), oracle.solve(*two, np.inf)), strict=False):
        assert all(np.array_equal(a, b) for a, b in zip(got, right, strict=True))
    optima._write()
    optima._stored.cache_clear()
    optima.met.clear()
    monkeypatch.setattr(optima, "oracle", None)
    read = optima.solve(**PROBLEM), optima.solve(*two, np.inf), optima.separable(*two)
    for got, right in zip(read[:2], expected[:2], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got, right, strict=True))
    assert read[2] is expected[2] is False


def test_a_wrong_answer_in_the_file_is_found(an_empty_file, monkeypatch):
    optima.solve(**PROBLEM)
    coef, *rest = optima.met.popitem()[1]
    optima.met[optima._key(("solve", *PROBLEM.values()))] = (coef * (1 + 1e-5), *rest)
    optima._write()
    optima._stored.cache_clear()
    optima.met.clear()
    monkeypatch.setenv(optima.ANEW, "compare")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        optima.solve(**PROBLEM)


@pytest.mark.slow
def test_the_file_says_what_the_oracle_says():
    command = [sys.executable, "-m", "helpers.optima", "--compare"]
    path = os.pathsep.join([str(optima.TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=optima.TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ of \d+ problems are in the file", done.stdout, flags=re.MULTILINE)
