"""Problems of `examples/benchmarks/soak.py` that once went wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers import optima

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "benchmarks"))
import soak  # noqa: E402

FOUND = {
    5010522: "nearly separable: more than 100 steps of directions as rough as the quadratic model",
    5012349: "a row of much leverage: the fit ended while its loss vanished",
    9103157: "float32 CSR without an intercept, far from 0: the gradient is rounding, and no warning",
    9110428: "a row of much leverage, in float32",
    20002598: "a sum of columns of large units: the preconditioner had more curvature than the penalty",
    20006654: "a sum of columns far from 0: the judge took its rounding for a column",
    20008025: "nearly separable: more than 100 steps",
    70000617: "separable in part: a likely class hid that another one's probability had vanished",
    70011890: "one row in each of four classes: more than 100 steps, cut in half again and again",
    40017316: "separable in part: the linear program's first method ended in numerical difficulties",
    140005414: "float32: as near to the optimum as the rule asks, and a probability was to be nearer",
    50012256: "float32 CSR: the sums of the last step rose by rounding, and it was not taken",
}


@pytest.mark.parametrize("seed", FOUND)
def test_a_problem_that_went_wrong_goes_right(seed, monkeypatch):
    monkeypatch.setattr(soak, "oracle", optima)
    assert soak.judge(soak.draw(seed)).split(":")[0] in ("the optimum", "rounding", "separation")
