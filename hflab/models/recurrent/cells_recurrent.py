"""Recurrent cells: what one time step computes, and the parameters it needs.

A cell is two affine projections, one of the input and one of the previous hidden state, and a pure `step` that turns their two
products and the previous state into the next state. Walking over a sequence, padding and document boundaries is the business of
`sequence_recurrent.run_sequence`; a cell knows nothing about them, nor about configurations and caches.

To add a cell: write a `RecurrentCell` subclass with its own `step` and give it a line in `CELLS`.

Shapes: B batch, I input size, H hidden size, G gates of the cell.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class RecurrentState(NamedTuple):
    """What a cell remembers between two tokens.

    Attributes:
        hidden: (B, H), the hidden state, which is also the cell's output.
        cell: (B, H), the inner memory of cells that keep one (`has_cell_state`), else None.
    """

    hidden: Tensor
    cell: Tensor | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> "RecurrentState":
        """The state with `function` applied to its tensors."""
        return RecurrentState(function(self.hidden), None if self.cell is None else function(self.cell))


class RecurrentCell(nn.Module):
    """Base of all cells: the two projections and everything that follows from `step`.

    Attributes:
        num_gates: G, the number of H-wide blocks that each projection produces.
        has_cell_state: whether `RecurrentState.cell` is used.
        gates_hidden_product: whether a gate multiplies a block of the hidden product. Then that block's bias cannot be merged
            with the input's, and `hidden_projection` has a bias of its own.
        torch_class: the `torch.nn` module that computes the same, if there is one.
        input_projection: affine map I -> G * H with bias.
        hidden_projection: affine map H -> G * H.
    """

    num_gates: ClassVar[int]
    has_cell_state: ClassVar[bool] = False
    gates_hidden_product: ClassVar[bool] = False
    torch_class: ClassVar[type[nn.RNNBase] | None] = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the projections with torch.nn.Linear's default initialisation.

        Args:
            input_size: I, the number of features of a token.
            hidden_size: H, the width of the state.
            device: where the parameters live.
            dtype: the parameters' floating-point type.
        """
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        width = self.num_gates * hidden_size
        self.input_projection = nn.Linear(input_size, width, device=device, dtype=dtype)
        self.hidden_projection = nn.Linear(hidden_size, width, bias=self.gates_hidden_product, device=device, dtype=dtype)

    def step(self, input_product: Tensor, hidden_product: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One time step after the two projections; a pure function, and all that a new cell has to define.

        Args:
            input_product: (B, G * H), `input_projection` of the token.
            hidden_product: (B, G * H), `hidden_projection` of `state.hidden`.
            state: the state before the token.

        Returns:
            The output (B, H) and the state after the token.
        """
        raise NotImplementedError

    def forward(self, inputs: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """One time step from a raw token: (B, I) and a state (zeros if None) to an output (B, H) and the next state."""
        input_product = self.input_projection(inputs)
        if state is None:
            state = self.initial_state(inputs.shape[0], device=input_product.device, dtype=input_product.dtype)
        return self.step(input_product, self.hidden_projection(state.hidden), state)

    def initial_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RecurrentState:
        """The state before any token: zeros, (batch_size, H)."""
        hidden = torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)
        return RecurrentState(hidden, torch.zeros_like(hidden) if self.has_cell_state else None)

    def recurrent_weight(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The weight (G * H, H) and the bias (G * H,) or None that `hidden_projection` applies, in `dtype`.

        An adapter wrapped around the projection (LoRA, for one) is honoured, and receives its gradient, because the identity and
        a row of zeros are sent through it: the answers are the rows of weight.T + bias, and the bias.
        """
        projection = self.hidden_projection
        if type(projection) is nn.Linear:
            bias = projection.bias
            return projection.weight.to(dtype), None if bias is None else bias.to(dtype)
        device = next(projection.parameters()).device
        probe = torch.eye(self.hidden_size + 1, self.hidden_size, device=device, dtype=dtype)
        product = projection(probe).to(dtype)
        bias = product[-1]
        return (product[:-1] - bias).t(), bias if self.gates_hidden_product else None

    @torch.no_grad()
    def load_torch_weights(self, module: nn.RNNBase, *, layer: int = 0, reverse: bool = False) -> None:
        """Copy one layer's weights from a torch.nn.RNN, GRU or LSTM, so that this cell computes what that layer computes.

        torch keeps two biases where one would do. The cell's input bias becomes their sum; where the cell has a hidden bias of
        its own, both are copied as they are.

        Args:
            module: the module to copy from, of the class named by `torch_class`.
            layer: which of the module's layers, from 0.
            reverse: take the backward direction of a bidirectional module.

        Raises:
            ValueError: the module is of another class, size or nonlinearity, or has projections (`proj_size`).
        """
        self._check_torch_module(module, layer=layer, reverse=reverse)
        suffix = f"_l{layer}{'_reverse' if reverse else ''}"
        self.input_projection.weight.copy_(module.get_parameter(f"weight_ih{suffix}"))
        self.hidden_projection.weight.copy_(module.get_parameter(f"weight_hh{suffix}"))
        self.input_projection.bias.zero_()
        if self.hidden_projection.bias is not None:
            self.hidden_projection.bias.zero_()
        if module.bias:
            hidden_bias = self.hidden_projection.bias
            target = self.input_projection.bias if hidden_bias is None else hidden_bias
            self.input_projection.bias.add_(module.get_parameter(f"bias_ih{suffix}"))
            target.add_(module.get_parameter(f"bias_hh{suffix}"))

    def _check_torch_module(self, module: nn.RNNBase, *, layer: int, reverse: bool) -> None:
        """Raise ValueError unless the asked-for layer of `module` computes what this cell computes."""
        expected = self.torch_class
        if expected is None or not isinstance(module, expected):
            allowed = "no torch module" if expected is None else f"torch.nn.{expected.__name__}"
            raise ValueError(f"{type(self).__name__} computes what {allowed} computes; weights of {type(module).__name__} do not fit it.")
        if isinstance(module, nn.RNN) and module.nonlinearity != "tanh":
            raise ValueError(f"The nonlinearity is {module.nonlinearity!r}; {type(self).__name__} uses 'tanh'.")
        if module.proj_size:
            raise ValueError(f"proj_size is {module.proj_size}; only modules without a projection (proj_size=0) can be copied.")
        if not 0 <= layer < module.num_layers or (reverse and not module.bidirectional):
            raise ValueError(
                f"Layer {layer} (reverse={reverse}) was asked of a module with {module.num_layers} layers and bidirectional={module.bidirectional}."
            )
        suffix = f"_l{layer}{'_reverse' if reverse else ''}"
        given = tuple(reversed(module.get_parameter(f"weight_ih{suffix}").shape))
        own = (self.input_size, self.num_gates * self.hidden_size)
        if given != own:
            raise ValueError(f"The module's input projection is {given[0]} -> {given[1]}, the cell's {own[0]} -> {own[1]}.")


class ElmanCell(RecurrentCell):
    """The simple recurrent network of Elman, "Finding Structure in Time" (1990), as torch.nn.RNN computes it.

    h_t = tanh(W_x x_t + b + W_h h_{t-1})
    """

    num_gates = 1
    torch_class = nn.RNN

    def step(self, input_product: Tensor, hidden_product: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One step; see `RecurrentCell.step`."""
        hidden = torch.tanh(input_product + hidden_product)
        return hidden, RecurrentState(hidden)


class NvsiCell(RecurrentCell):
    """A cell with an input gate and nothing else between Elman's network and the gated ones.

    Gates in the order input gate i, candidate g:

    i_t = sigmoid(W_xi x_t + b_i + W_hi h_{t-1})
    g_t = tanh(W_xg x_t + b_g + W_hg h_{t-1})
    h_t = i_t * g_t
    """

    num_gates = 2

    def step(self, input_product: Tensor, hidden_product: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One step; see `RecurrentCell.step`."""
        gate, candidate = (input_product + hidden_product).chunk(2, dim=-1)
        hidden = torch.sigmoid(gate) * torch.tanh(candidate)
        return hidden, RecurrentState(hidden)


class GruCell(RecurrentCell):
    """The gated recurrent unit of Cho et al. (2014, arXiv:1406.1078), in the variant that torch.nn.GRU computes.

    Gates in the order reset r, update z, candidate n; the reset gate multiplies the hidden product, bias included:

    r_t = sigmoid(W_xr x_t + b_xr + W_hr h_{t-1} + b_hr)
    z_t = sigmoid(W_xz x_t + b_xz + W_hz h_{t-1} + b_hz)
    n_t = tanh(W_xn x_t + b_xn + r_t * (W_hn h_{t-1} + b_hn))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    """

    num_gates = 3
    gates_hidden_product = True
    torch_class = nn.GRU

    def step(self, input_product: Tensor, hidden_product: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One step; see `RecurrentCell.step`."""
        input_reset, input_update, input_candidate = input_product.chunk(3, dim=-1)
        hidden_reset, hidden_update, hidden_candidate = hidden_product.chunk(3, dim=-1)
        reset = torch.sigmoid(input_reset + hidden_reset)
        update = torch.sigmoid(input_update + hidden_update)
        candidate = torch.tanh(input_candidate + reset * hidden_candidate)
        hidden = torch.lerp(candidate, state.hidden, update)
        return hidden, RecurrentState(hidden)


class LstmCell(RecurrentCell):
    """Long short-term memory of Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), as torch.nn.LSTM.

    Gates in the order input i, forget f, candidate g, output o:

    i_t, f_t, o_t = sigmoid(W_x x_t + b + W_h h_{t-1}), g_t = tanh(W_xg x_t + b_g + W_hg h_{t-1})
    c_t = f_t * c_{t-1} + i_t * g_t
    h_t = o_t * tanh(c_t)
    """

    num_gates = 4
    has_cell_state = True
    torch_class = nn.LSTM

    def step(self, input_product: Tensor, hidden_product: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One step; see `RecurrentCell.step`."""
        assert state.cell is not None  # run_sequence and initial_state see to it
        gates = (input_product + hidden_product).chunk(4, dim=-1)
        kept = torch.sigmoid(gates[1]) * state.cell
        cell = kept + torch.sigmoid(gates[0]) * torch.tanh(gates[2])
        hidden = torch.sigmoid(gates[3]) * torch.tanh(cell)
        return hidden, RecurrentState(hidden, cell)


CELLS: dict[str, type[RecurrentCell]] = {
    "rnn": ElmanCell,
    "nvsi": NvsiCell,
    "gru": GruCell,
    "lstm": LstmCell,
}
