"""Forward and backward passes of the known cells over packed sequences, written by hand as `torch.autograd.Function`s.

What makes them fast, beside no autograd graph: the input products of all tokens come in as one buffer, which turns into the gates in
place; every step works on contiguous rows; the derivative of each gate is computed for all tokens at once before the backward loop,
so that a step of that loop is one matrix product and a few multiplications, and the recurrent weight's gradient is one matrix product at
the end. Kept for the backward pass: gates, states, nothing else.

In float32 and float64 tanh(x) is computed as 2 * sigmoid(2 * x) - 1, within two units of the last place of 1: torch's sigmoid takes a third of the
time of its tanh on CPU, and one call serves all gates of a step. The doubling is done beforehand, in the input product and in the weight.

Knows nothing about masks, resets and the projection of the input; the order of packed tokens is told in `packing_recurrent.py`.

N: tokens, S: pieces, H: hidden size, G: gates of the cell.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells_recurrent import ElmanCell, GruCell, LstmCell, NvsiCell, RecurrentCell, RecurrentState
from .packing_recurrent import Packing

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


class _Doubling:
    """Whether the pre-activations of a tanh come in doubled, and what follows from it; see the head of this module."""

    def __init__(self, product: Tensor) -> None:
        self.is_on = product.dtype in (torch.float32, torch.float64)  # the shorter types would lose digits
        self.minus_one = product.new_full((), -1.0)

    def prepare(self, product: Tensor, weight: Tensor, gate: slice) -> Tensor:
        """Double the columns `gate` of `product` (N, G * H) in place; return the weight to use with it, (H, G * H)."""
        if not self.is_on:
            return weight.t()
        product[:, gate].mul_(2)
        weight = weight.clone()
        weight[gate].mul_(2)
        return weight.t()

    def tanh_(self, values: Tensor) -> Tensor:
        """The tanh of prepared `values`, in place."""
        if not self.is_on:
            return values.tanh_()
        return torch.add(self.minus_one, values.sigmoid_(), alpha=2, out=values)

    def activate_(self, gates: Tensor, candidate: Tensor) -> None:
        """In place the tanh of prepared `candidate`, which is a part of `gates`, and the sigmoid of their other parts."""
        if self.is_on:
            gates.sigmoid_()
            torch.add(self.minus_one, candidate, alpha=2, out=candidate)
        else:
            squashed = candidate.tanh()
            gates.sigmoid_()
            candidate.copy_(squashed)

    def tanh(self, values: Tensor) -> Tensor:
        """The tanh of values that were not prepared."""
        return self.tanh_(values + values) if self.is_on else values.tanh()


class RnnFunction(torch.autograd.Function):
    """h_t = tanh(product_t + W h_{t-1}); see `ElmanCell`."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, weight: Tensor, initial: Tensor, packing: Packing) -> Tensor:
        """Turn `product` (N, H) into the hidden states (N, H) in place; `initial` is (S, H)."""
        sizes = packing.batch_sizes
        hidden = product.detach()
        doubling = _Doubling(hidden)
        transposed = doubling.prepare(hidden, weight, slice(None))
        steps = hidden.split(sizes)
        for step, before in zip(steps, (initial, *_continued(steps, sizes)), strict=False):
            doubling.tanh_(step.addmm_(before, transposed))
        ctx.save_for_backward(hidden, weight, initial)
        ctx.packing = packing
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of product, weight and initial state from that of the hidden states (N, H)."""
        hidden, weight, initial = ctx.saved_tensors
        packing, sizes = ctx.packing, ctx.packing.batch_sizes
        slope = torch.addcmul(hidden.new_ones(()), hidden, hidden, value=-1)
        delta = grad_hidden.clone(memory_format=torch.contiguous_format)
        steps = delta.split(sizes)
        later = delta[:0]
        for step, continued, factor in _backwards(steps, _continued(steps, sizes), slope.split(sizes)):
            continued.addmm_(later, weight)
            later = step.mul_(factor)
        return delta, delta.t() @ packing.shift(hidden, initial), later @ weight, None


class NvsiFunction(torch.autograd.Function):
    """h_t = sigmoid(i) * tanh(g) with i, g = product_t + W h_{t-1}; see `NvsiCell`."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, weight: Tensor, initial: Tensor, packing: Packing) -> Tensor:
        """Turn `product` (N, 2 * H) into the gates in place and return the hidden states (N, H); `initial` is (S, H)."""
        sizes, H = packing.batch_sizes, initial.shape[1]
        gates = product.detach()
        hidden = gates.new_empty(len(gates), H)
        doubling = _Doubling(gates)
        transposed = doubling.prepare(gates, weight, slice(H, 2 * H))
        both_steps, gate_steps, candidate_steps, steps = (x.split(sizes) for x in (gates, *gates.chunk(2, dim=1), hidden))
        befores = (initial, *_continued(steps, sizes))
        for both, gate, candidate, step, before in zip(both_steps, gate_steps, candidate_steps, steps, befores, strict=False):
            doubling.activate_(both.addmm_(before, transposed), candidate)
            torch.mul(gate, candidate, out=step)
        ctx.save_for_backward(gates, hidden, weight, initial)
        ctx.packing = packing
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of product, weight and initial state from that of the hidden states (N, H)."""
        gates, hidden, weight, initial = ctx.saved_tensors
        packing, sizes = ctx.packing, ctx.packing.batch_sizes
        gate, candidate = gates.chunk(2, dim=1)
        delta = torch.empty_like(gates)
        per_gate = delta.unflatten(1, (2, -1))
        _sigmoid_backward(candidate, gate, grad_input=per_gate[:, 0])
        _tanh_backward(gate, candidate, grad_input=per_gate[:, 1])
        grads = grad_hidden.clone(memory_format=torch.contiguous_format)
        continued_grads = _continued(grads.split(sizes), sizes)
        later = delta[:0]
        for continued, grad, step, flat in _backwards(continued_grads, *(x.split(sizes) for x in (grads.unsqueeze(1), per_gate, delta))):
            continued.addmm_(later, weight)
            step.mul_(grad)
            later = flat
        return delta, delta.t() @ packing.shift(hidden, initial), later @ weight, None


class GruFunction(torch.autograd.Function):
    """h_t = (1 - z) * n + z * h_{t-1} with n = tanh(product_n + r * (W_n h_{t-1} + bias)); see `GruCell`."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, weight: Tensor, bias: Tensor, initial: Tensor, packing: Packing) -> Tensor:
        """Turn `product` (N, 3 * H) into the gates in place and return the hidden states (N, H).

        `bias` (H,) is the candidate's hidden bias, those of the other gates are part of `product`; `initial` is (S, H).
        """
        sizes, H = packing.batch_sizes, initial.shape[1]
        gates = product.detach()
        doubling = _Doubling(gates)
        transposed = doubling.prepare(gates, weight, slice(2 * H, 3 * H))
        candidates = gates[:, 2 * H :].clone(memory_format=torch.contiguous_format)
        # The candidate's block gives its place to its hidden product, so that one matrix product serves all three gates.
        gates[:, 2 * H :] = bias + bias if doubling.is_on else bias
        hidden = torch.empty_like(candidates)
        steps = hidden.split(sizes)
        views = (x.split(sizes) for x in (gates, gates[:, : 2 * H], *gates.chunk(3, dim=1), candidates))
        for step, before, all_gates, reset_update, reset, update, recurrent, candidate in zip(
            steps, (initial, *_continued(steps, sizes)), *views, strict=False
        ):
            all_gates.addmm_(before, transposed)
            reset_update.sigmoid_()
            doubling.tanh_(candidate.addcmul_(reset, recurrent))
            torch.lerp(candidate, before, update, out=step)
        if doubling.is_on:
            gates[:, 2 * H :].div_(2)
        ctx.save_for_backward(gates, candidates, hidden, weight, initial)
        ctx.packing = packing
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of product, weight, bias and initial state from that of the hidden states (N, H)."""
        gates, candidates, hidden, weight, initial = ctx.saved_tensors
        packing, sizes = ctx.packing, ctx.packing.batch_sizes
        reset, update, recurrent = gates.chunk(3, dim=1)
        before = packing.shift(hidden, initial)
        delta = torch.empty_like(gates)
        per_gate = delta.unflatten(1, (3, -1))
        slope = _tanh_backward(1 - update, candidates)
        _sigmoid_backward(slope * recurrent, reset, grad_input=per_gate[:, 0])
        _sigmoid_backward(before - candidates, update, grad_input=per_gate[:, 1])
        torch.mul(slope, reset, out=per_gate[:, 2])
        grads = grad_hidden.clone(memory_format=torch.contiguous_format)
        steps = grads.split(sizes)
        views = (x.split(sizes) for x in (grads.unsqueeze(1), delta, per_gate, update))
        later = (grads[:0], grads[:0], delta[:0])
        for grad, continued, grad_per_gate, flat, step, kept in _backwards(steps, _continued(steps, sizes), *views):
            _carry_back(continued, later, weight)
            step.mul_(grad_per_gate)
            later = (grad, kept, flat)
        grad_initial = _carry_back(torch.zeros_like(initial), later, weight)
        grad_weight, grad_bias = delta.t() @ before, per_gate[:, 2].sum(0)
        torch.mul(grads, slope, out=per_gate[:, 2])
        return delta, grad_weight, grad_bias, grad_initial, None


class LstmFunction(torch.autograd.Function):
    """c_t = f * c_{t-1} + i * g and h_t = o * tanh(c_t) with i, f, g, o from product_t + W h_{t-1}; see `LstmCell`."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, weight: Tensor, initial: Tensor, initial_cell: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Turn `product` (N, 4 * H) into the gates in place; return the hidden states (N, H) and the last cell states (S, H)."""
        sizes, H = packing.batch_sizes, initial.shape[1]
        gates = product.detach()
        hidden, cells = gates.new_empty(len(gates), H), gates.new_empty(len(gates), H)
        doubling = _Doubling(gates)
        transposed = doubling.prepare(gates, weight, slice(2 * H, 3 * H))
        steps, cell_steps = hidden.split(sizes), cells.split(sizes)
        befores = zip((initial, *_continued(steps, sizes)), (initial_cell, *_continued(cell_steps, sizes)), strict=True)
        views = (x.split(sizes) for x in (gates, *gates.chunk(4, dim=1)))
        for (before, cell_before), step, cell, all_gates, write, keep, candidate, read in zip(befores, steps, cell_steps, *views, strict=False):
            doubling.activate_(all_gates.addmm_(before, transposed), candidate)
            torch.mul(keep, cell_before, out=cell).addcmul_(write, candidate)
            torch.mul(read, doubling.tanh(cell), out=step)
        ctx.save_for_backward(gates, cells, hidden, weight, initial, initial_cell)
        ctx.packing = packing
        return hidden, packing.last_of(cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_last_cell: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of product, weight and both initial states from those of the outputs, (N, H) and (S, H)."""
        gates, cells, hidden, weight, initial, initial_cell = ctx.saved_tensors
        packing, sizes = ctx.packing, ctx.packing.batch_sizes
        delta, through_tanh = _lstm_factors(gates, cells, packing.shift(cells, initial_cell))
        per_gate = delta.unflatten(1, (4, -1))
        grads = grad_hidden.clone(memory_format=torch.contiguous_format)
        # Rows that end early wait in the buffer, with the gradient of their last cell state, until the loop comes to their last token.
        grad_cell = grad_last_cell.clone(memory_format=torch.contiguous_format)
        steps = grads.split(sizes)
        running = [grad_cell if size == len(grad_cell) else grad_cell[:size] for size in sizes]
        views = (x.split(sizes) for x in (delta, per_gate[:, :3], per_gate[:, 3], through_tanh, gates.chunk(4, dim=1)[1]))
        later = delta[:0]
        for grad, continued, grad_of_cell, flat, cell_gates, read, factor, keep in _backwards(steps, _continued(steps, sizes), running, *views):
            continued.addmm_(later, weight)
            grad_of_cell.addcmul_(grad, factor)
            cell_gates.mul_(grad_of_cell.unsqueeze(1))
            read.mul_(grad)
            grad_of_cell.mul_(keep)
            later = flat
        return delta, delta.t() @ packing.shift(hidden, initial), later @ weight, grad_cell, None


def _lstm_factors(gates: Tensor, cells: Tensor, previous_cells: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives that do not depend on the gradient, for all tokens.

    The first, (N, 4 * H), is of the cell state (gates i, f, g) or hidden state (gate o) by the gate before its activation, the second,
    (N, H), of the hidden state by the cell state.
    """
    write, keep, candidate, read = gates.chunk(4, dim=1)
    factors = torch.empty_like(gates)
    by_write, by_keep, by_candidate, by_read = factors.chunk(4, dim=1)
    squashed = _Doubling(cells).tanh(cells)
    _sigmoid_backward(candidate, write, grad_input=by_write)
    _sigmoid_backward(previous_cells, keep, grad_input=by_keep)
    _tanh_backward(write, candidate, grad_input=by_candidate)
    _sigmoid_backward(squashed, read, grad_input=by_read)
    return factors, _tanh_backward(read, squashed)


def _continued(steps: tuple[Tensor, ...], sizes: list[int]) -> list[Tensor]:
    """For each step the rows (at most S, ...) that have a next token; none at the last step."""
    following = [*sizes[1:], 0]
    return [step if size == after else step[:after] for step, size, after in zip(steps, sizes, following, strict=True)]


def _backwards(*views: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The views of each time step together, from the last step to the first."""
    return zip(*(reversed(view) for view in views), strict=True)


def _carry_back(earlier: Tensor, later: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
    """Add to the gradient of a GRU's earlier hidden state (at most S, H) what comes from the later one, directly and through the gates."""
    grad, kept, delta = later
    return earlier.addcmul_(grad, kept).addmm_(delta, weight)


def _run_rnn(product: Tensor, weight: Tensor, bias: Tensor | None, state: RecurrentState, packing: Packing) -> tuple[Tensor, Tensor | None]:
    return RnnFunction.apply(product, weight, state.hidden, packing), None


def _run_nvsi(product: Tensor, weight: Tensor, bias: Tensor | None, state: RecurrentState, packing: Packing) -> tuple[Tensor, Tensor | None]:
    return NvsiFunction.apply(product, weight, state.hidden, packing), None


def _run_gru(product: Tensor, weight: Tensor, bias: Tensor | None, state: RecurrentState, packing: Packing) -> tuple[Tensor, Tensor | None]:
    return GruFunction.apply(product, weight, bias, state.hidden, packing), None


def _run_lstm(product: Tensor, weight: Tensor, bias: Tensor | None, state: RecurrentState, packing: Packing) -> tuple[Tensor, Tensor | None]:
    return LstmFunction.apply(product, weight, state.hidden, state.cell, packing)


Kernel = Callable[[Tensor, Tensor, Tensor | None, RecurrentState, Packing], tuple[Tensor, Tensor | None]]

# Kernel of each cell: from the input product (N, G * H), which it overwrites, the recurrent weight (G * H, H), the bias (H,) of the last gate's
# hidden product (None unless `gates_hidden_product`), the initial state (S, H) and the packing, to the hidden states (N, H) and, for cells
# that have one, each row's last cell state (S, H). Keyed by the exact class: a subclass may have changed the step.
KERNELS: dict[type[RecurrentCell], Kernel] = {ElmanCell: _run_rnn, NvsiCell: _run_nvsi, GruCell: _run_gru, LstmCell: _run_lstm}
