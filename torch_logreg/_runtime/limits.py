"""How much is worked on at a time, by kind of device: blocks, chunks, scratch arrays and what is kept.

No limit changes an answer by more than rounding. Where one way to solve or to multiply gives place to another
is no limit: that stands with these ways.

Each limit says its unit, what it bounds and why it is what it is. A script that is named is one of
`examples/benchmarks/` that times or weighs what the limit bounds; without one the number was chosen for its
order of magnitude and never tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

UNBOUNDED = 2**62


@dataclass(frozen=True)
class Limits:
    """The most of each thing, where "least" is not in its name; stored numbers are those of sparse rows."""

    # Raw predictions of a block of rows, of all problems and outputs: 8 MB of float64.
    block_numbers: int
    # The same of dense rows, and such rows, on a CPU: the second product of a block then finds in the cache
    # what the first has read (tall.py, one_pass.py).
    dense_block_numbers: int
    dense_block_rows: int
    # Rows of a dense block, or of one of 16 bits: fewer cost more in calls than a cache saves.
    least_block_rows: int
    # Numbers of X that are upcast from 16 bits: 4 MB, which a cache holds for both products; or what keeps
    # an accelerator busy (half.py).
    upcast_numbers: int
    # Numbers of X that are gathered for minibatches: 16 MB of float64. A gather a minibatch would take longer
    # than its products (sgd_throughput.py).
    chunk_numbers: int
    # Numbers of X that are centred, for moments: 1 MB of float64, which the cache of a core holds (tall.py).
    centred_numbers: int
    # Rows of a sample that are gathered anew in each pass, for it is to take no memory (softmax.py --probe,
    # memory.py).
    sample_rows: int
    # Numbers of X that are looked at for NaN and infinity: what is made on the way is as large as they are.
    finite_numbers: int

    # Weighted columns in the scratch array of a Fisher matrix over blocks: 4 MB of float64, which a cache
    # holds.
    sandwich_numbers: int
    # The same of rows that are held: arrays larger than a cache take twice as long.
    weighted_numbers: int
    # The same, where the array is kept from one Fisher matrix to the next (small.py).
    kept_numbers: int
    # Products of two held columns, which are kept: 32 MB of float64, for half the work (cv.py).
    outer_numbers: int
    # Fisher information of rows, kept between the products of one solve by conjugate gradients: 64 MB of
    # float32.
    information_numbers: int
    # Rows in a strip of the symmetric matrix of inner products of rows, made up to the end of its diagonal:
    # strips of 128 of 1024 rows are an eighth more than half of the matrix (wide.py).
    strip_rows: int

    # Numbers of a sparse block: several are transposed at once, each by a thread of its own (sparse.py).
    block_stored: int
    # Numbers that are turned into float64: copies of them stay below the memory of X (memory.py).
    exact_stored: int
    # Numbers of a matrix that scipy multiplies with on one thread, in less time than several take to start
    # (sparse.py); -1 on devices that scipy cannot read.
    few_stored: int
    # Numbers of a matrix that is copied to have slack behind it: some megabytes. Of a small product most
    # would otherwise be overhead.
    copied_stored: int
    # Numbers from which on a thread of its own pays.
    least_thread_stored: int

    # Rows in one forward pass over all rows, or whose raw predictions are made for a score: what a layer
    # makes of so few stays in a cache (sgd_throughput.py).
    forward_rows: int
    # Numbers of X that are made dense for a forward pass, or float64 to look for separated classes: 8 MB of
    # float64.
    dense_numbers: int
    # Rows, and raw predictions, of a chunk of `predict` and its like: what caches of a CPU hold
    # (predict.py).
    predicted_rows: int
    predicted_numbers: int
    # Numbers of X and raw predictions of such a chunk together, where X has to be moved: what keeps an
    # accelerator busy.
    moved_numbers: int
    # Numbers of X that are made dense for such a chunk of a module: 256 MB of float32.
    module_numbers: int
    # Raw predictions that are held for scores, unless those of one C are more: 4 MB of float64 (cv.py).
    scored_numbers: int


CPU = Limits(
    block_numbers=2**20,
    dense_block_numbers=2**17,
    dense_block_rows=2**14,
    least_block_rows=2**10,
    upcast_numbers=2**20,
    chunk_numbers=2**21,
    centred_numbers=2**17,
    sample_rows=2**8,
    finite_numbers=2**21,
    sandwich_numbers=2**19,
    weighted_numbers=2**20,
    kept_numbers=2**17,
    outer_numbers=2**22,
    information_numbers=2**24,
    strip_rows=2**7,
    block_stored=2**22,
    exact_stored=2**17,
    few_stored=2**20,
    copied_stored=2**20,
    least_thread_stored=2**17,
    forward_rows=2**12,
    dense_numbers=2**20,
    predicted_rows=2**15,
    predicted_numbers=2**20,
    moved_numbers=UNBOUNDED,
    module_numbers=2**26,
    scored_numbers=2**19,
)

# What a GPU is built for; none of these was timed on one.
ACCELERATOR = replace(
    CPU,
    dense_block_numbers=2**20,
    dense_block_rows=2**20,
    upcast_numbers=2**26,
    centred_numbers=2**26,
    finite_numbers=2**26,
    exact_stored=UNBOUNDED,
    few_stored=-1,
    forward_rows=2**14,
    predicted_rows=UNBOUNDED,
    predicted_numbers=UNBOUNDED,
    moved_numbers=2**26,
)

ANY_OTHER = "any other"  # kind of device
OF_KIND = {"cpu": CPU, ANY_OTHER: ACCELERATOR}  # by the type of a torch.device


def limits_of(device: torch.device) -> Limits:
    """The limits of the kind of device that `device` is."""
    return OF_KIND.get(device.type, OF_KIND[ANY_OTHER])
