"""Decompositions that do not fail where a library's first choice of algorithm does."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), rising, and eigenvectors (..., n, n) of finite symmetric matrices.

    Divide and conquer, which torch calls, may end without them where thousands of eigenvalues are the same,
    as of columns that no row has a number in. The QR algorithm is slower and does not (LAPACK Users' Guide,
    3rd ed., section 2.4.4).
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:
        flat = matrices.reshape(-1, *matrices.shape[-2:]).cpu().numpy()
        found = [scipy.linalg.eigh(matrix, driver="ev") for matrix in flat]
        values, vectors = (
            torch.from_numpy(np.stack(part)).to(matrices).view(shape)
            for part, shape in zip(
                zip(*found, strict=True), (matrices.shape[:-1], matrices.shape), strict=True
            )
        )
    return values, vectors
