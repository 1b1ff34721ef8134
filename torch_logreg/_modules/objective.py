"""F of any module, its derivatives by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from torch_logreg._contracts.objective import Stochastic
from torch_logreg._contracts.rows import Block, Minibatched
from torch_logreg._data.inputs import OfModule, dense
from torch_logreg._losses.criteria import Criterion
from torch_logreg._modules.build import penalised
from torch_logreg._modules.copies import copied
from torch_logreg._modules.probe import check_module, evaluate, forward
from torch_logreg._runtime.compat import BATCH_NORM
from torch_logreg._runtime.devices import shares_memory, supports_float64
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.random import RandomStream

PROBE_ROWS = 256  # looked at before training


# What the forward pass of training computes in, by the names of `precision`; None is the dtype of the rows.
PRECISIONS: dict[str, torch.dtype | None] = {
    "32": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


Mode: TypeAlias = Literal["as it came", "train", "train on one row", "eval"]


class Snapshot(NamedTuple):
    """All that training changes."""

    w: Tensor  # (1, n_parameters)
    buffers: dict[str, Tensor]


class Epoch:
    """F by the minibatches of an epoch, each at the weights that it found."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._loss, self._weight, self._penalty = (
            torch.zeros(1, dtype=dtype, device=device) for _ in range(3)
        )
        self._n_batches = 0
        self._last: Block | None = None

    def add(self, block: Block, loss: Tensor, penalty: Tensor) -> None:
        """Count a minibatch, which may be looked at again by the same update."""
        if block is self._last:
            return
        self._loss += loss
        self._weight += block.weights.sum()
        self._penalty += penalty
        self._n_batches, self._last = self._n_batches + 1, block

    def value(self) -> Tensor:
        """F, (1,)."""
        return self._loss / self._weight + self._penalty / self._n_batches


class ModuleObjective(Stochastic):
    """One problem: any `nn.Module`, any criterion, an L2 penalty on the weights.

    With weights s and ``strength = 1 / (C * sum(s))``::

        F(w) = sum_i s_i * loss(module(x_i), y_i) / sum_i s_i  +  strength / 2 * |penalised(w)|²

    The coordinates w are the trainable parameters one after another. The module computes with them where
    they are: each call makes its parameters views into the w given, so a w updated in place (by a torch
    optimizer) needs no copy, and a w that a solver keeps is never written to.

    F itself is that of eval mode, of minibatches that of train mode. Random layers draw from `stream`;
    a layer that was in eval mode while the module was in train mode stays so (a frozen BatchNorm).

    Parameters
    ----------
    rows : Minibatched
        With class codes, int64, as the target.
    module : nn.Module
        Its own from now on; lazy layers are materialised.
    criterion : Criterion
    C : float
    stream : RandomStream, default=None
        None is one of seed 0.
    precision : {"32", "bf16-mixed", "16-mixed"}, default="32"
        Under the two others forward passes run in autocast, losses and weights stay as they are.
    l1_ratio : float, default=0.0
        The part of the L1 penalty, which is `left_out`.
    """

    n_problems = 1

    def __init__(
        self,
        rows: Minibatched,
        module: nn.Module,
        criterion: Criterion,
        C: float,
        stream: RandomStream | None = None,
        precision: str = "32",
        l1_ratio: float = 0.0,
    ) -> None:
        self.rows, self.module, self.criterion = rows, module, criterion
        self._lower = PRECISIONS[precision]
        self.is_mixed = self._lower is not None
        if self._lower == torch.float16:  # whose least number is 6e-8
            self.scaler = torch.amp.GradScaler(rows.device.type)
        criterion.to(rows.device, rows.dtype)
        self.stream = RandomStream(0, rows.device) if stream is None else stream
        self._drawn_from = self.stream.state
        self._exact = torch.float64 if supports_float64(rows.device) else torch.float32
        layers = list(module.modules())
        self._always_eval = [layer for layer in layers if not layer.training] if module.training else []
        with self.stream.running():
            check_module(self.module, self.criterion, dense(rows.first().X, 0, PROBE_ROWS))
        self.weight_sum = rows.weight_sum(self._exact)  # (1,)
        self._batch_norms = [layer for layer in module.modules() if isinstance(layer, BATCH_NORM)]
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._parameters = list(named.values())
        self.dtype = self._parameters[0].dtype
        self.n_parameters = sum(p.numel() for p in self._parameters)
        self._sum = float(self.weight_sum)
        self.strength = (1 - l1_ratio) / (C * self._sum)
        chosen = penalised(module)
        on = [
            torch.full((p.numel(),), float(name in chosen), dtype=self.dtype, device=rows.device)
            for name, p in named.items()
        ]
        self._penalised = torch.cat(on)  # (n_parameters,), 1 or 0
        if l1_ratio:
            self.left_out = (self._penalised * (l1_ratio / (C * self._sum)))[None]
        self._start = torch.cat([p.detach().reshape(-1) for p in self._parameters])[None]
        self._epoch = self._new_epoch()
        self._loaded: Tensor | None = None
        self._mode: Mode = "as it came"

    # ---- the module at some weights ----

    def start(self) -> Tensor:
        """The weights that the module came with, (1, n_parameters)."""
        return self._start.clone()

    def module_at(self, w: Tensor) -> nn.Module:
        """A copy of the module with these weights, in memory of its own and in eval mode."""
        self._load(w)
        return copied(self.module).eval()

    def snapshot(self, w: Tensor) -> Snapshot:
        """A copy of `w` and of the buffers as they are now."""
        return Snapshot(w.detach().clone(), self._buffers())

    def restore(self, snapshot: Snapshot) -> Tensor:
        """Put the buffers back and return the weights, both as they were."""
        self._set_buffers(snapshot.buffers)
        return snapshot.w.clone()

    def parameters(self, w: Tensor) -> list[nn.Parameter]:
        self._load(w)
        return self._parameters

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.module.named_buffers()}

    @torch.no_grad()
    def _set_buffers(self, buffers: dict[str, Tensor]) -> None:
        for name, buffer in self.module.named_buffers():
            if buffer.shape == buffers[name].shape:
                buffer.copy_(buffers[name])
            else:  # one that a forward pass replaces
                layer, _, own = name.rpartition(".")
                setattr(self.module.get_submodule(layer), own, buffers[name].clone())

    def _load(self, w: Tensor) -> None:
        if self._loaded is w and shares_memory(self._parameters[0], w):  # another may use the module too
            return
        self._loaded, flat, start = w, w.detach()[0], 0
        for parameter in self._parameters:
            parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def _train(self, n_rows: int) -> None:
        """Train mode for a batch of `n_rows` rows."""
        mode: Mode = "train" if n_rows > 1 else "train on one row"
        if mode == self._mode:
            return
        self._mode = mode
        self.module.train()
        for layer in self._always_eval:
            layer.training = False
        if n_rows == 1:  # has no variance: the last batch of an epoch must not fail on that
            for layer in self._batch_norms:
                layer.training = False

    def _eval(self) -> None:
        if self._mode != "eval":
            self._mode = "eval"
            self.module.eval()

    # ---- F over all rows ----

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        self._load(w)
        value = torch.zeros((), dtype=self._exact, device=self.rows.device)
        gradient = torch.zeros(self.n_parameters, dtype=self.dtype, device=self.rows.device)
        self._eval()
        with self.stream.running(), torch.enable_grad():
            for X, codes, weights in self._chunks():
                # In full precision: sums in 16 bits over all rows would overflow, and claim what is not so.
                loss = self._loss(forward(self.module, X), codes, weights)
                value += loss.detach()
                gradient += self._gradient(loss)
        return self._value(w, value, 1.0), self._penalise_gradient(w, gradient, 1.0)

    @torch.no_grad()
    def value(self, w: Tensor) -> Tensor:
        """F (1,) alone."""
        self._load(w)
        value = torch.zeros((), dtype=self._exact, device=self.rows.device)
        self._eval()
        with self.stream.running():
            for X, codes, weights in self._chunks():
                value += self._loss(self._called(evaluate, X), codes, weights)
        return self._value(w, value, 1.0)

    # ---- F estimated from a minibatch ----

    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        """F and its gradient, estimated in train mode from a batch of nominally `n_nominal` rows.

        Also a short last batch is divided by `n_nominal`: its mean would count each of its rows for more.
        """
        loss, gradient = self._of_batch(w, block, n_nominal, self._exact)
        return self._value(w, loss, self.rows.n_rows / n_nominal), gradient

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        return self._of_batch(w, block, n_nominal, self.rows.dtype)[1]

    def _of_batch(self, w: Tensor, block: Block, n_nominal: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The sum of the losses of a batch, in `dtype`, and the gradient of F that it estimates."""
        self._load(w)
        self._train(len(block.target))
        self._drawn_from = self.stream.state
        with self.stream.running(), torch.enable_grad():
            outputs = self._called(forward, dense(block.X, 0, len(block.target)))
            loss = self.criterion.weighted_sum(outputs, block.target, block.weights[0], dtype)
            gradient = self._gradient_of_batch(loss, n_nominal)
        if self.rows.streams:
            weights = w.detach()[0] * self._penalised
            self._epoch.add(block, loss.detach(), torch.dot(weights, weights).mul_(self.strength / 2))
        return loss.detach(), self._penalise_gradient(w, gradient, self.rows.n_rows / n_nominal)

    @torch.no_grad()
    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """F at other weights by the same batch, as the last `batch_value_and_gradient` would estimate it.

        Random layers draw once more what they drew then. Running statistics are put back after: a trial
        of a line search is no training.
        """
        self._load(w)
        self._train(len(block.target))
        buffers = self._buffers()
        try:
            with self.stream.running(replay=self._drawn_from):
                outputs = self._called(evaluate, dense(block.X, 0, len(block.target)))
                loss = self._loss(outputs, block.target, block.weights[0])
        finally:
            self._set_buffers(buffers)
        return self._value(w, loss, self.rows.n_rows / n_nominal)

    # ---- F of an epoch of rows that stream ----

    def epoch_value(self, w: Tensor) -> Tensor:
        if not self.rows.streams:
            return super().epoch_value(w)
        epoch, self._epoch = self._epoch, self._new_epoch()
        return epoch.value()

    def _new_epoch(self) -> Epoch:
        return Epoch(self._exact, self.rows.device)

    # ---- parts ----

    def _chunks(self) -> Iterator[tuple[OfModule, Tensor, Tensor]]:
        """Dense rows, class codes and weights, so few at a time that their activations fit in memory."""
        limits = limits_of(self.rows.device)
        step = min(limits.forward_rows, max(1, limits.dense_numbers // self.rows.n_features))
        for block in self.rows.blocks():
            if self.rows.streams:  # in batches that are trained on
                step = len(block.target)
            for start in range(0, len(block.target), step):
                part = slice(start, start + step)
                yield dense(block.X, start, start + step), block.target[part], block.weights[0, part]

    def _called(self, how: Callable[[nn.Module, OfModule], Any], X: OfModule) -> Any:
        """The outputs for some rows, in the precision of the fit; losses are of the dtype of the rows."""
        if self._lower is None:
            return how(self.module, X)
        with torch.autocast(self.rows.device.type, dtype=self._lower):
            outputs = how(self.module, X)
        return outputs.to(self.rows.dtype)

    def _loss(self, outputs: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
        return self.criterion.weighted_sum(outputs, codes, weights, self._exact)

    def outputs(self, w: Tensor, X: OfModule) -> Tensor:
        """The outputs of the module in eval mode, with weights `w`, for some dense rows."""
        self._load(w)
        self._eval()
        with self.stream.running(replay=self.stream.state):
            return evaluate(self.module, X)

    def _gradient(self, loss: Tensor) -> Tensor:
        # A parameter without a part in this loss has the gradient 0; that of an embedding may be sparse.
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        return torch.cat([gradient.to_dense().reshape(-1) for gradient in gradients])

    def _gradient_of_batch(self, loss: Tensor, n_rows: int) -> Tensor:
        """The gradient, in 16 bits by way of that of the mean over rows, as a loop by hand would round it."""
        if not self.is_mixed:
            return self._gradient(loss)
        if self.scaler is None:
            return self._gradient(loss / n_rows) * n_rows
        gradient = self._gradient(self.scaler.scale(loss / n_rows))
        return gradient * (n_rows / self.scaler.scale(torch.ones_like(gradient[:1])))

    def _value(self, w: Tensor, sum_of_losses: Tensor, factor: float) -> Tensor:
        return self.rows.total(sum_of_losses) * factor / self.weight_sum + self._penalty(w)  # (1,)

    def _penalty(self, w: Tensor) -> Tensor:
        weights = (w.detach()[0] * self._penalised).to(self._exact)
        return self.strength / 2 * weights.square().sum()

    def _penalise_gradient(self, w: Tensor, gradient: Tensor, factor: float) -> Tensor:
        loss = self.rows.total(gradient)[None].mul_(factor / self._sum)  # (1, n_parameters)
        return loss.addcmul_(self._penalised, w.detach(), value=self.strength) if self.strength else loss
