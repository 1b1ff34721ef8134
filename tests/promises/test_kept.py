"""Files of fitted estimators from earlier versions, in tests/kept, load and predict as they did."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from kept.make import SKOPS, fits, rows

KEPT = Path(__file__).parents[1] / "kept"
NAMES = sorted(fits())
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
PUBLIC = {"TorchLogisticClassifier", "TorchLogisticClassifierCV", "ModuleSpec"}


def predicts_as_it_did(name, estimator):
    X, _ = rows(name)
    assert_allclose(estimator.predict_proba(X), np.load(KEPT / f"{name}.npy"), rtol=1e-6, atol=1e-9)
    check_is_fitted(estimator)
    repr(estimator)
    assert len(estimator.history_) == len(estimator.loss_curve_)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_of_an_earlier_version_predicts_as_it_did(name):
    estimator = pickle.loads((KEPT / f"{name}.pkl").read_bytes())
    predicts_as_it_did(name, estimator)
    clone(estimator).fit(*rows(name))


@pytest.mark.parametrize("name", SKOPS)
def test_a_file_of_skops_of_an_earlier_version_predicts_as_it_did(name):
    file = KEPT / f"{name}.skops"
    unknown = skops.io.get_untrusted_types(file=file)
    ours = {of for of in unknown if of.startswith("torch_logreg")}
    assert len(ours) == 1 and ours <= {f"torch_logreg.{public}" for public in PUBLIC}
    predicts_as_it_did(name, skops.io.load(file, trusted=unknown))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_names_no_class_of_ours_but_the_public_ones(name):
    estimator = fits()[name].fit(*rows(name))
    found = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module, of):
            found.add((module, of))
            return super().find_class(module, of)

    Noting(io.BytesIO(pickle.dumps(estimator))).load()
    ours = {pair for pair in found if pair[0].startswith("torch_logreg")}
    assert ours and ours <= {("torch_logreg", name) for name in PUBLIC}
