"""The blocks that recurrent models are stacked from: "stacked" as in `torch.nn.LSTM`, and "residual" with a feed-forward.

A block is a function of its arguments alone: the state comes in and goes out as tensors, and the cache is left to the model. So gradient
checkpointing may run a block twice, and a state carried into it keeps its gradient. Knows nothing about tokens, heads or caches.

B: batch, T: time, H: hidden size, D: any feature width.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.modeling_layers import GradientCheckpointingLayer

from .cells_recurrent import CELLS, RecurrentCell, RecurrentState
from .configuration_recurrent import RecurrentConfig
from .sequence_recurrent import reverse_by_length, run_sequence


class BlockOutput(NamedTuple):
    """What a block returns: its output (B, T, D) and, if asked for, its state after the last token read, each (B, H) or None.

    A block that reads both ways hands out both states side by side, (B, 2 * H), the forward direction's first.
    """

    hidden_states: Tensor
    state_hidden: Tensor | None
    state_cell: Tensor | None


class RecurrentBlock(GradientCheckpointingLayer):
    """What all blocks have: one recurrence, in both directions if the config says so."""

    def __init__(self, config: RecurrentConfig, input_size: int) -> None:
        super().__init__()
        self.input_dropout = config.input_dropout
        self.recurrent_dropout = config.recurrent_dropout
        self.cell = CELLS[config.cell_type](input_size, config.hidden_size)
        self.backward_cell = CELLS[config.cell_type](input_size, config.hidden_size) if config.bidirectional else None

    def recur(self, inputs: Tensor, state: RecurrentState | None, *, mask: Tensor | None, resets: Tensor | None, keep_state: bool) -> BlockOutput:
        """Run the recurrence over `inputs` (B, T, D), to which locked dropout is applied; the output is (B, T, H), in both directions (B, T, 2 * H).

        `mask` (B, T) is True at real tokens, `resets` (B, T) where the state is set to zero before the token is read. If `keep_state`, the
        state after the last token read is handed out too, as in `BlockOutput`.
        """
        inputs = locked_dropout(inputs, self.input_dropout, training=self.training)
        dropout = self.recurrent_dropout if self.training else 0.0
        outputs, final = _run_cell(self.cell, inputs, state, mask=mask, resets=resets, recurrent_dropout=dropout, need_final_state=keep_state)
        if self.backward_cell is not None:
            backward_inputs = reverse_by_length(inputs, mask)
            options = {"mask": mask, "recurrent_dropout": dropout, "need_final_state": keep_state}
            backward, backward_final = _run_cell(self.backward_cell, backward_inputs, None, **options)
            outputs = torch.cat([outputs, reverse_by_length(backward, mask)], dim=-1)
            if keep_state:
                final = _side_by_side(final, backward_final)
        return BlockOutput(outputs, *(final if keep_state else (None, None)))


class StackedBlock(RecurrentBlock):
    """A layer of `torch.nn.LSTM`, `GRU` or `RNN`: the recurrence and nothing else."""

    def __init__(self, config: RecurrentConfig, layer_idx: int) -> None:
        num_directions = 2 if config.bidirectional else 1
        super().__init__(config, cast(int, config.embedding_size) if layer_idx == 0 else num_directions * config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        past_hidden: Tensor | None = None,
        past_cell: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        resets: Tensor | None = None,
        keep_state: bool = False,
    ) -> BlockOutput:
        """Read `hidden_states` (B, T, D) from a past state (B, H); the rest as in `recur`.

        Tensors with a gradient are positional and bare, as reentrant gradient checkpointing needs them.
        """
        return self.recur(hidden_states, _as_state(past_hidden, past_cell), mask=mask, resets=resets, keep_state=keep_state)


class ResidualBlock(RecurrentBlock):
    """Pre-norm: x + recurrence(norm(x)), then x + feed_forward(norm(x)).

    Xiong et al. 2020, arXiv:2002.04745, figure 1b, with a recurrence in place of attention.
    """

    def __init__(self, config: RecurrentConfig, layer_idx: int) -> None:
        super().__init__(config, config.hidden_size)
        H, intermediate_size = config.hidden_size, cast(int, config.intermediate_size)
        self.recurrence_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.direction_projection = nn.Linear(2 * H, H) if config.bidirectional else nn.Identity()
        self.feed_forward_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.up_projection = nn.Linear(H, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.down_projection = nn.Linear(intermediate_size, H)

    def forward(
        self,
        hidden_states: Tensor,
        past_hidden: Tensor | None = None,
        past_cell: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        resets: Tensor | None = None,
        keep_state: bool = False,
    ) -> BlockOutput:
        """Read `hidden_states` (B, T, H) from a past state (B, H); the rest as in `StackedBlock.forward`."""
        state = _as_state(past_hidden, past_cell)
        recurrence = self.recur(self.recurrence_norm(hidden_states), state, mask=mask, resets=resets, keep_state=keep_state)
        hidden_states = hidden_states + self.direction_projection(recurrence.hidden_states)
        inputs = locked_dropout(self.feed_forward_norm(hidden_states), self.input_dropout, training=self.training)
        hidden_states = hidden_states + self.down_projection(self.activation(self.up_projection(inputs)))
        return recurrence._replace(hidden_states=hidden_states)


BLOCKS: dict[str, type[StackedBlock | ResidualBlock]] = {"stacked": StackedBlock, "residual": ResidualBlock}


def locked_dropout(inputs: Tensor, probability: float, *, training: bool) -> Tensor:
    """Drop features of `inputs` (B, T, D), the same ones at every time step of a row, and scale up the others.

    Merity, Keskar and Socher 2017, arXiv:1708.02182, section 4.2.
    """
    if not training or probability == 0:
        return inputs
    return inputs * F.dropout(inputs.new_ones(inputs.shape[0], 1, inputs.shape[2]), probability)


def _side_by_side(forward: RecurrentState, backward: RecurrentState) -> RecurrentState:
    """The states of both directions (B, H) as one, (B, 2 * H)."""
    hidden = torch.cat([forward.hidden, backward.hidden], dim=-1)
    if forward.cell is None or backward.cell is None:
        return RecurrentState(hidden)
    return RecurrentState(hidden, torch.cat([forward.cell, backward.cell], dim=-1))


def _as_state(hidden: Tensor | None, cell: Tensor | None) -> RecurrentState | None:
    return None if hidden is None else RecurrentState(hidden, cell)


@force_accelerate_hooks(["input_projection", "hidden_projection"])
def _run_cell(cell: RecurrentCell, inputs: Tensor, state: RecurrentState | None, **options: Any) -> tuple[Tensor, RecurrentState]:
    """`run_sequence`, with weights that Accelerate keeps elsewhere brought here first: fast paths read them without calling their modules."""
    return run_sequence(cell, inputs, state, **options)
