"""Checks of a module before it is trained, and how it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torch_logreg._data.inputs import OfModule, call, described, expected_of, parts_of
from torch_logreg._losses.criteria import Criterion
from torch_logreg._losses.links import LogitLink, ProbabilityLink, by_row
from torch_logreg._modules.copies import copied
from torch_logreg._runtime.blame import naming
from torch_logreg._runtime.compat import is_lazy

MATERIALISING_ROWS = 2  # for lazy layers, which want a shape and no values
LOG_PROBABILITY_ERROR = 1e-3  # of log-probabilities, in the log of their sum


def forward(module: nn.Module, X: OfModule) -> Any:
    """Call a module with rows X, which it may write to: layers that work in place do."""
    try:
        return call(module, X)
    except Exception:
        with naming(f"module={type(module).__name__} called with {described(X)}", _advice(X)):
            raise


def _advice(X: OfModule) -> str:
    takes = f"{expected_of(X)}, and all tensors that it makes have to be of X's dtype and device; "
    dtypes = {part.dtype for part in parts_of(X).values()}
    if torch.int64 in dtypes:
        return takes + "integers that an nn.Embedding looks up have to be below its num_embeddings."
    if torch.float64 in dtypes:
        return takes + "pass X.astype('float32') to a module that works in float32 inside."
    return takes + "convert inside to what a layer needs, as by x.long() for an embedding."


def evaluate(module: nn.Module, X: OfModule) -> Any:
    """`forward` without a graph, unless the module needs one to differentiate something inside itself."""
    try:
        with torch.no_grad():
            return forward(module, X)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    with torch.enable_grad():
        return forward(module, X).detach()


def check_module(module: nn.Module, criterion: Criterion, X: OfModule) -> int:
    """Check what `module` gives for some rows X before it is trained, and return its number of outputs.

    Materialises lazy layers. Runs in eval mode, which leaves buffers as they are. Inside
    `RandomStream.running`, as lazy layers draw.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        if any(is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            with torch.no_grad():
                forward(module, X[:MATERIALISING_ROWS])
        with torch.enable_grad():
            output = forward(module, X)
    finally:
        for layer, training in modes:
            layer.training = training
    output = _check_output(output, module, len(X))
    n_outputs = 1 if output.ndim == 1 else output.shape[1]
    if n_outputs not in criterion.outputs:
        needed = " or ".join(str(n) for n in criterion.outputs)
        raise ValueError(
            f"module={type(module).__name__} gives {n_outputs} outputs a row, and criterion={criterion.name} "
            f"needs {needed} for these classes; change its last layer."
        )
    _check_link(output, module, criterion, X)
    return n_outputs


def _check_output(output: Any, module: nn.Module, n_rows: int) -> Tensor:
    name, needed = f"module={type(module).__name__}", "(n_rows,) or (n_rows, n_outputs)"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"{name} gives a {kind}; forward must return one floating-point tensor of shape {needed}."
        )
    rows = by_row(output, n_rows)
    if rows.ndim not in (1, 2) or len(rows) != n_rows:
        raise ValueError(
            f"{name} gives an output of shape {tuple(output.shape)} for {n_rows} rows; it must be {needed}."
        )
    if not output.requires_grad:
        raise ValueError(
            f"{name} gives an output that does not depend on any trainable parameter; forward must not run "
            "under no_grad, nor detach its result."
        )
    if bool(output.isnan().any()):
        raise ValueError(f"{name} gives NaN with the weights it starts from; initialise it anew.")
    return rows


# What torch calls the gradients of operations that move, pick or bound numbers, and of those that end in
# probabilities or their logarithms.
MOVING = re.compile(
    r"(UnsafeView|View|ReshapeAlias|Squeeze|Unsqueeze|Select|Slice|T|Transpose|Permute|ToCopy|Clone|Alias|"
    r"Expand|Clamp|ClampMin|ClampMax|Stack|Cat)Backward\d*"
)
SQUASHING = re.compile(r"(Sigmoid|Hardsigmoid|LogSigmoid|Softmax|LogSoftmax)Backward\d*")
LINEAR = re.compile(r"(Addmm|Mm|Addmv|Mv)Backward\d*")


def _last_operations(output: Tensor) -> set[str]:
    """Names of the operations that computed the numbers in `output`, whichever way they are written.

    The graph shows ``nn.Sigmoid``, a submodule's call and ``torch.sigmoid`` alike. Values would not: a logit
    may well lie between 0 and 1.
    """
    found, nodes = set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if MOVING.fullmatch(node.name()):
            nodes += [parent for parent, _ in node.next_functions]
        else:
            found.add(node.name())
    return found


def _check_link(output: Tensor, module: nn.Module, criterion: Criterion, X: OfModule) -> None:
    """Raise if the outputs cannot be what the criterion takes them for."""
    name, operations = type(module).__name__, _last_operations(output)
    output = output.detach()
    if isinstance(criterion.link, LogitLink):
        named = sorted(match[1] for match in map(SQUASHING.fullmatch, operations) if match)
        found = named[0] if named else _squashing_seen(output, module, X)
        if found:
            instead = {
                "Sigmoid": "set criterion=nn.BCELoss() (one output)",
                "Softmax": "make it LogSoftmax and set criterion=nn.NLLLoss()",
                "LogSoftmax": "set criterion=nn.NLLLoss()",
            }.get(found, "set a criterion that takes it")
            like = "" if named else " or the like: it gives probabilities whatever its weights are"
            raise ValueError(
                f"module={name} ends in {found}{like}, but criterion={criterion.name} takes its outputs for "
                f"logits, before any {found}; drop it from the module, or {instead}."
            )
    elif isinstance(criterion.link, ProbabilityLink):
        if not _within_bounds(output) or any(map(LINEAR.fullmatch, operations)):
            raise ValueError(
                f"module={name} gives outputs that are no probabilities (from {float(output.min()):.3g} to "
                f"{float(output.max()):.3g}), which criterion={criterion.name} needs; end it with "
                "nn.Sigmoid(), or set criterion=nn.BCEWithLogitsLoss()."
            )
        if any(operation.startswith("Softmax") for operation in operations):
            raise ValueError(
                f"module={name} ends in Softmax over its one output, which is always 1; end it with "
                "nn.Sigmoid()."
            )
    elif bool((output.logsumexp(dim=1).abs() > LOG_PROBABILITY_ERROR).any()):
        raise ValueError(
            f"module={name} gives outputs that are no log-probabilities (their exponentials do not sum to "
            f"1), which criterion={criterion.name} needs; end it with nn.LogSoftmax(dim=1), or set "
            "criterion=nn.CrossEntropyLoss()."
        )


TRIED_ROWS, TRIED_SPREADS = 32, (10.0, 1e4) * 4
# What a module may raise of weights it was not made for: NaN, an index computed from them, its own checks.
REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError)
SUM_ERROR = 1e-3  # of probabilities, in their sum


def _within_bounds(output: Tensor) -> bool:
    return bool(((output >= 0) & (output <= 1)).all())


def _squashing_seen(output: Tensor, module: nn.Module, X: OfModule) -> str | None:
    """Name what ends a module whose outputs are probabilities on all trials, however that is computed."""
    if not _within_bounds(output):
        return None
    sums = output.ndim == 2 and output.shape[1] > 1
    trials = list(_with_other_weights(module, X))
    if not trials or not all(map(_within_bounds, trials)):
        return None
    sums = sums and all(bool(((t.sum(dim=1) - 1).abs() < SUM_ERROR).all()) for t in trials)
    return "Softmax" if sums else "Sigmoid"


def _with_other_weights(module: nn.Module, X: OfModule) -> Iterator[Tensor]:
    """Outputs with weights drawn at random, so large that logits leave their bounds; finite ones alone.

    A module that refuses such weights is not judged by them.

    Those of the module itself say little: logits may well lie between 0 and 1, and of weights 0 all are 0.
    """
    tried, X = copied(module).eval(), X[:TRIED_ROWS]
    generator = torch.Generator(device="cpu").manual_seed(0)
    for spread in TRIED_SPREADS:
        for parameter in tried.parameters():
            drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
            parameter.data = drawn.normal_(std=spread, generator=generator).to(parameter)
        try:
            output = by_row(evaluate(tried, X), len(X))
        except REFUSALS:
            return
        if bool(output.isfinite().all()):
            yield output
