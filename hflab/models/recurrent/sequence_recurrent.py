"""Walking a recurrent cell over a batch of sequences: one function, a readable reference and two fast paths.

    outputs, state = run_sequence(cell, inputs)                              # (B, T, I) -> (B, T, H)
    outputs, state = run_sequence(cell, more, state, mask=mask, resets=resets)   # goes on from there

Padding may be anywhere and the state may be reset anywhere. The fast paths cut every row into pieces at its resets, leave out padding, and
run the pieces side by side, so that neither needs an operation in the time loop.

- "reference": `for t in range(T)` over the cell's step under autograd. Runs every cell; the fast paths are tested against it.
- "autograd": `kernels_recurrent.py`, our own forward and backward passes over packed tokens.
- "fused": torch's kernels behind nn.RNN, nn.GRU and nn.LSTM (oneDNN on CPU, cuDNN on CUDA), for the cells that they compute.

Knows nothing about configurations, caches, layers and directions.

Data types: outputs and states carry the type of the input product, that is the autocast type under torch.autocast and the parameters' type
elsewhere; a state of another type is converted.

B: batch, T: time, I: input size, H: hidden size, G: gates of the cell, N: real tokens, S: pieces, P: tokens of the longest piece.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cells_recurrent import ElmanCell, GruCell, LstmCell, RecurrentCell, RecurrentState
from .kernels_recurrent import KERNELS
from .packing_recurrent import Packing, pack_all, pack_pieces

IMPLEMENTATIONS = ("auto", "reference", "autograd", "fused")

# Gate pre-activations at the padding of a fused LSTM: large enough that sigmoid gives exactly 0 or 1 in every type, and finite in float16.
_SATURATED = 30000.0
# Share of real tokens in the rectangle of pieces below which our kernel beats oneDNN's LSTM, which computes the padding too. The overhead of our
# loop weighs less the larger the matrix product of a time step is: at least this many multiply-adds per gate make it large.
_FUSED_FILL_SMALL, _FUSED_FILL_LARGE = 0.5, 0.75
_LARGE_STEP = 2**20


def run_sequence(
    cell: RecurrentCell,
    inputs: Tensor,
    state: RecurrentState | None = None,
    *,
    mask: Tensor | None = None,
    resets: Tensor | None = None,
    recurrent_dropout: float = 0.0,
    need_final_state: bool = True,
    implementation: str = "auto",
) -> tuple[Tensor, RecurrentState]:
    """Walk `cell` over `inputs`.

    Args:
        cell: the cell, one of CELLS or any other `RecurrentCell`.
        inputs: (B, T, I), at least one row and one token.
        state: the state before the first token, each part (B, H); zeros if None.
        mask: (B, T) bool, True at real tokens, False at padding, in any pattern. Padding leaves the state as it was, also where `resets` is True,
            and the output there is zero. None: all tokens are real.
        resets: (B, T) bool, True where the state is set to zero before the token is read.
        recurrent_dropout: probability with which each element of the recurrent weight is dropped while `cell.training`, one draw per call
            (DropConnect; Merity et al. 2017, arXiv:1708.02182, section 2).
        need_final_state: if False, the returned state's `cell` is None, which spares work for padded LSTM batches.
        implementation: "reference", "autograd", "fused" or "auto", the fastest that is exact by measurement (`_choose`).

    Returns:
        The outputs (B, T, H), in memory time-major after a fast path as those of nn.LSTM, and the state after each row's last real token.

    Raises:
        ValueError: shapes or types do not fit, or the asked-for implementation cannot run this cell.
    """
    _check_arguments(cell, inputs, state, mask, resets, implementation)
    dtype = _compute_dtype(inputs)
    weight, bias = cell.recurrent_weight(dtype)
    weight = F.dropout(weight, recurrent_dropout, cell.training)
    if state is None:
        state = cell.initial_state(inputs.shape[0], device=inputs.device, dtype=dtype)
    state = state.apply(lambda part: part.to(dtype))
    call = _Call(cell, inputs, state, mask, resets, weight, bias)
    if implementation in ("auto", "reference") and inputs.shape[1] == 1:
        outputs, final = _walk(call)  # the step of decoding, which torch.compile takes in one graph
    else:
        outputs, final = _run_loop(call, implementation, need_final_state)
    return outputs, final if need_final_state else RecurrentState(final.hidden)


def reverse_by_length(values: Tensor, mask: Tensor | None) -> Tensor:
    """Reverse the order of each row's real tokens and leave padding where it is; the function is its own inverse.

    Args:
        values: (B, T, ...).
        mask: (B, T) bool, True at real tokens; None if all are.

    Returns:
        Values shaped like the given ones.
    """
    if mask is None:
        return values.flip(1)
    real_first = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    rank_from_end = mask.sum(dim=1, keepdim=True) - mask.cumsum(dim=1)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    source = torch.where(mask, real_first.gather(1, rank_from_end), places)
    return values.gather(1, source.reshape(*source.shape, *[1] * (values.dim() - 2)).expand_as(values))


class _Call(NamedTuple):
    """The arguments of one `run_sequence`, checked and converted: a state that is never None, and the recurrent weight (G * H, H) and bias."""

    cell: RecurrentCell
    inputs: Tensor
    state: RecurrentState
    mask: Tensor | None
    resets: Tensor | None
    weight: Tensor
    bias: Tensor | None


@torch.compiler.disable(reason="a loop over time would be unrolled")
def _run_loop(call: _Call, implementation: str, need_cell: bool) -> tuple[Tensor, RecurrentState]:
    """`run_sequence` over any number of tokens, out of torch.compile's sight."""
    packing = _pack(call)
    if implementation == "auto":
        implementation = _choose(call, packing)
    if implementation == "reference" or packing is None:
        return _walk(call)
    begin = call.state.apply(packing.begin)
    if implementation == "fused":
        hidden, last_cell = _run_fused(call, begin, packing, need_cell)
    else:
        hidden, last_cell = _run_autograd(call, begin, packing)
    final_hidden = packing.finish(packing.last_of(hidden), call.state.hidden)
    final_cell = None if call.state.cell is None or last_cell is None else packing.finish(last_cell, call.state.cell)
    return packing.unpack(hidden, call.inputs.shape[1]), RecurrentState(final_hidden, final_cell)


def _walk(call: _Call) -> tuple[Tensor, RecurrentState]:
    """The reference: outputs (B, T, H) and the last state."""
    state, outputs = call.state, []
    for t, token in enumerate(call.inputs.unbind(1)):
        real = None if call.mask is None else call.mask[:, t, None]
        if call.resets is not None:
            reset = call.resets[:, t, None] if real is None else call.resets[:, t, None] & real
            state = _select(reset, state.apply(torch.zeros_like), state)
        hidden_product = F.linear(state.hidden, call.weight, call.bias)
        output, after = call.cell.step(call.cell.input_projection(token), hidden_product, state)
        outputs.append(output if real is None else output.masked_fill(~real, 0.0))
        state = after if real is None else _select(real, after, state)
    return torch.stack(outputs, dim=1), state


def _select(condition: Tensor, state: RecurrentState, other: RecurrentState) -> RecurrentState:
    """`state` in the rows where `condition` (B, 1) is True, `other` elsewhere."""
    hidden = torch.where(condition, state.hidden, other.hidden)
    if state.cell is None or other.cell is None:
        return RecurrentState(hidden)
    return RecurrentState(hidden, torch.where(condition, state.cell, other.cell))


def _run_autograd(call: _Call, begin: RecurrentState, packing: Packing) -> tuple[Tensor, Tensor | None]:
    """Our kernels: hidden states of the packed tokens (N, H) and last cell states of the pieces (S, H), from the states that they begin with."""
    cell, weight, bias = call.cell, call.weight, call.bias
    tokens, projection, shift, candidate_bias = packing.pack(call.inputs), cell.input_projection, None, None
    if bias is not None:
        candidate_bias = bias[-cell.hidden_size :]
        shift = F.pad(bias[: -cell.hidden_size], (0, cell.hidden_size))
    if type(projection) is nn.Linear:
        product = F.linear(tokens, projection.weight, projection.bias if shift is None else projection.bias + shift)
    else:
        # The kernel overwrites the product, which a wrapper may still need, so that it gets a copy.
        product = projection(tokens) + (0.0 if shift is None else shift)
    return KERNELS[type(cell)](product, weight, candidate_bias, begin, packing)


def _run_fused(call: _Call, begin: RecurrentState, packing: Packing, need_cell: bool) -> tuple[Tensor, Tensor | None]:
    """The kernels of torch over the rectangle of pieces; results as those of `_run_autograd`."""
    cell, weight, bias = call.cell, call.weight, call.bias
    tokens, S = packing.pack(call.inputs).to(weight.dtype), packing.batch_sizes[0]
    input_weight, input_bias = cell.input_projection.weight.to(weight.dtype), cell.input_projection.bias.to(weight.dtype)
    real_places = None
    if packing.fill < 1:
        places, real = packing.grid()
        real_places = real.flatten().nonzero().squeeze(1)
        tokens = tokens.index_select(0, places.flatten())
        if need_cell and begin.cell is not None:
            tokens = torch.cat([tokens, (~real).flatten()[:, None].to(tokens.dtype)], dim=1)
            input_weight = torch.cat([input_weight, _padding_gates(input_weight, cell.hidden_size)], dim=1)
    weights = _as_cudnn_wants([input_weight, weight, input_bias, torch.zeros_like(input_bias) if bias is None else bias])
    states = [part.contiguous()[None] for part in begin if part is not None]
    options = (weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)
    results = _FUSED[type(cell)](tokens.unflatten(0, (-1, S)), states if begin.cell is not None else states[0], *options)
    hidden = results[0].flatten(0, 1)
    if real_places is not None:
        hidden = hidden.index_select(0, real_places)
    return hidden, results[2][0] if begin.cell is not None else None


def _padding_gates(weight: Tensor, hidden_size: int) -> Tensor:
    """An LSTM's input weight (4 * H, 1) for a feature that is 1 at padding.

    It shuts the input gate and opens the forget gate, so that padding at the end of a row hands on the cell state and gets no gradient.
    """
    return weight.new_tensor([-_SATURATED, _SATURATED, 0.0, 0.0]).repeat_interleave(hidden_size)[:, None]


def _as_cudnn_wants(weights: list[Tensor]) -> list[Tensor]:
    """The weights; on CUDA as parts of one block of memory, without which cuDNN copies them with a warning."""
    if not weights[0].is_cuda:
        return weights
    block = torch.cat([weight.flatten() for weight in weights])
    parts = block.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


_FUSED: dict[type[RecurrentCell], Callable[..., tuple[Tensor, ...]]] = {ElmanCell: torch.rnn_tanh, GruCell: torch.gru, LstmCell: torch.lstm}


def _can_fuse(cell: RecurrentCell) -> bool:
    """Whether torch has a kernel for the cell: an adapter around the input projection can only be called, not handed over as a weight."""
    return type(cell) in _FUSED and type(cell.input_projection) is nn.Linear


def _choose(call: _Call, packing: Packing | None) -> str:
    """The fastest exact implementation, as measured by `scripts/benchmark_recurrent.py`.

    On CPU oneDNN's LSTM in float32 beats our kernels unless much of the rectangle is padding; for everything else torch loops over time itself, with
    an autograd graph, and our kernels win. On CUDA a loop in Python is bound by the launches of its kernels, and cuDNN wins wherever it can run.
    """
    cell = call.cell
    if call.inputs.device.type == "cpu":
        one_dnn = type(cell) is LstmCell and call.weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
        fused_wins = one_dnn and packing is not None and packing.fill >= _fill_for_fused(packing, cell)
    else:
        fused_wins = call.inputs.is_cuda
    if fused_wins and _can_fuse(cell):
        return "fused"
    return "autograd" if type(cell) in KERNELS else "reference"


def _fill_for_fused(packing: Packing, cell: RecurrentCell) -> float:
    """The share of real tokens from which oneDNN's LSTM is the faster one."""
    step = packing.batch_sizes[0] * cell.hidden_size**2
    return _FUSED_FILL_LARGE if step >= _LARGE_STEP else _FUSED_FILL_SMALL


def _pack(call: _Call) -> Packing | None:
    """The packing of the call's tokens, or None if none is real."""
    B, T, _ = call.inputs.shape
    if call.mask is None and call.resets is None:
        return pack_all(B, T, call.inputs.device)
    mask = torch.ones(B, T, dtype=torch.bool, device=call.inputs.device) if call.mask is None else call.mask
    return pack_pieces(mask, call.resets)


def _compute_dtype(inputs: Tensor) -> torch.dtype:
    """The type of the input product: autocast's where autocast would convert it, else the inputs', which a linear layer keeps."""
    device_type = inputs.device.type
    if torch.is_autocast_enabled(device_type) and inputs.dtype is not torch.float64:
        return torch.get_autocast_dtype(device_type)
    return inputs.dtype


def _check_arguments(
    cell: RecurrentCell, inputs: Tensor, state: RecurrentState | None, mask: Tensor | None, resets: Tensor | None, implementation: str
) -> None:
    """Raise the ValueErrors that `run_sequence` promises."""
    if inputs.dim() != 3 or 0 in inputs.shape[:2] or inputs.shape[2] != cell.input_size:
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}; (B, T, {cell.input_size}) with at least one row and one token is needed.")
    for name, flags in (("mask", mask), ("resets", resets)):
        if flags is not None and (flags.shape != inputs.shape[:2] or flags.dtype is not torch.bool):
            raise ValueError(f"{name} is {flags.dtype} of shape {tuple(flags.shape)}; torch.bool of shape {tuple(inputs.shape[:2])} is needed.")
    if state is not None:
        _check_state(cell, state, (inputs.shape[0], cell.hidden_size))
    if implementation not in IMPLEMENTATIONS:
        close = difflib.get_close_matches(implementation, IMPLEMENTATIONS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"implementation is {implementation!r}; choose from: {', '.join(IMPLEMENTATIONS)}.{hint}")
    if implementation == "autograd" and type(cell) not in KERNELS:
        raise ValueError(f'implementation is "autograd", but {type(cell).__name__} has no kernel in KERNELS; use "reference" or "auto".')
    if implementation == "fused" and not _can_fuse(cell):
        names = ", ".join(known.__name__ for known in _FUSED)
        raise ValueError(
            f'implementation is "fused", but {type(cell).__name__} has no kernel in torch: it needs one of {names} with a plain nn.Linear as'
            ' input_projection; use "auto".'
        )


def _check_state(cell: RecurrentCell, state: RecurrentState, shape: tuple[int, int]) -> None:
    """Raise a ValueError unless `state` has the parts that the cell needs, each of `shape`."""
    given = tuple(None if part is None else tuple(part.shape) for part in state)
    needed = (shape, shape if cell.has_cell_state else None)
    if given != needed:
        raise ValueError(f"state (hidden, cell) has shapes {given}; {type(cell).__name__} with these inputs needs {needed}.")
