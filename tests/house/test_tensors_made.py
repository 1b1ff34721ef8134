"""Every tensor that the package makes has a device and a dtype of its own, whatever the defaults are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import torch_logreg

PACKAGE = Path(torch_logreg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# What makes a tensor of nothing, or of something that need not be one. `from_numpy`, `*_like` and methods
# such as `new_zeros` follow what they are given.
FACTORIES = (
    "arange as_tensor asarray bartlett_window blackman_window empty empty_permuted empty_strided eye full "
    "hamming_window hann_window kaiser_window linspace logspace normal ones rand randint randn randperm "
    "range scalar_tensor sparse_bsc_tensor sparse_bsr_tensor sparse_compressed_tensor sparse_coo_tensor "
    "sparse_csc_tensor sparse_csr_tensor tensor tril_indices triu_indices vander zeros"
).split()


def made_by_default(source: str) -> list[str]:
    """The calls that leave the device or the dtype to torch's defaults."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg for keyword in node.keywords}
        if called == "torch.Generator":
            missing = {"device"} - given
        elif called in {f"torch.{name}" for name in FACTORIES}:
            missing = {"device", "dtype"} - given
        else:
            continue
        if missing:
            found.append(f"line {node.lineno}: {ast.unparse(node)} without {' and '.join(sorted(missing))}")
    return found


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_no_tensor_is_made_without_a_device_and_a_dtype(file):
    assert made_by_default(file.read_text(encoding="utf-8")) == []


def test_such_a_tensor_is_found():
    assert made_by_default("x = torch.zeros(3, device=d)") == [
        "line 1: torch.zeros(3, device=d) without dtype"
    ]
    assert made_by_default("x = torch.Generator()") == ["line 1: torch.Generator() without device"]
    assert made_by_default("x = torch.zeros(3, device=d, dtype=t) + torch.zeros_like(y)") == []
