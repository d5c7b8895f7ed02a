"""The encoder of an encoder-decoder, which hands out the states it ends in, and the bridge from these to the decoder's first states.

The encoder is `RecurrentModel` with another kind of output, so that its weights load into, and from, every other head. Knows nothing about
attention, caches and output layers.

B: batch, S: source tokens, E: embedding size, H: hidden size, D: width of the encoder's outputs, N: layers, R: directions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import LongTensor, Tensor, nn
from transformers.utils.generic import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from .blocks_recurrent import locked_dropout
from .cells_recurrent import CELLS, RecurrentState
from .configuration_recurrent import RecurrentConfig
from .modeling_recurrent import RecurrentModel, columns_of_call, refuse_unknown

_ARGUMENTS = ("input_ids", "attention_mask", "inputs_embeds")


@dataclass
class RecurrentEncoderOutput(ModelOutput):
    """What the encoder found.

    Attributes:
        last_hidden_state: Outputs (B, S, D).
        final_hidden: (B, N, R * H), the hidden state of each layer after the last real token, beside that of the backward direction after the first.
        final_cell: The cell states likewise, or None for cells without one.
        hidden_states: On request the embeddings and the outputs of every layer.
    """

    last_hidden_state: Tensor | None = None
    final_hidden: Tensor | None = None
    final_cell: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class RecurrentEncoder(RecurrentModel):
    """`RecurrentModel` over whole rows, in one direction or both."""

    @capture_outputs
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> RecurrentEncoderOutput:
        """Read a batch of source rows.

        Args:
            input_ids: Tokens (B, S); or give `inputs_embeds`.
            attention_mask: (B, S), 1 at real tokens and 0 at padding, in any pattern.
            inputs_embeds: Embeddings (B, S, E) instead of tokens.
            **kwargs: `output_hidden_states`, `return_dict` and the like, as transformers passes them; any other name is refused.

        Raises:
            ValueError: For inputs that do not fit together.
            TypeError: For an argument that does not exist.
        """
        for name in ("output_attentions", "labels"):  # `generate` hands the encoder all that it was given
            kwargs.pop(name, None)
        refuse_unknown(kwargs, _ARGUMENTS)
        embeds = self._embed(input_ids, inputs_embeds)
        mask = columns_of_call(attention_mask, embeds)
        hidden_states, hidden, cells = self.embedding_projection(embeds), [], []
        for block in self.layers:
            hidden_states, final_hidden, final_cell = block(hidden_states, mask=mask, keep_state=True)
            hidden.append(final_hidden)
            cells.append(final_cell)
        hidden_states = locked_dropout(self.norm(hidden_states), self.config.output_dropout, training=self.training)
        final_cells = torch.stack(cells, 1) if CELLS[self.config.cell_type].has_cell_state else None
        return RecurrentEncoderOutput(last_hidden_state=hidden_states, final_hidden=torch.stack(hidden, 1), final_cell=final_cells)


class StateBridge(nn.Module):
    """From the states that the encoder ends in to those that the decoder starts from: tanh of a linear map, for each layer and part of the state.

    As Cho et al. 2014, arXiv:1406.1078, appendix A.2, and Bahdanau, Cho and Bengio 2015, arXiv:1409.0473, appendix A.2.2, begin their decoders. These
    have one layer; here each layer of the decoder begins from one of the encoder's, counted from the top, and where the decoder has more layers its
    lowest ones all begin from the encoder's first.

    Attributes:
        hidden_projections: for each layer of the decoder R * H -> H.
        cell_projections: likewise for the cell state; empty for cells without one.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        num_layers, num_source_layers = config.decoder_config().num_hidden_layers, config.num_hidden_layers
        self.source_layers = [max(0, layer + num_source_layers - num_layers) for layer in range(num_layers)]
        width, H = (2 if config.bidirectional else 1) * config.hidden_size, config.hidden_size
        self.hidden_projections = nn.ModuleList(nn.Linear(width, H) for _ in range(num_layers))
        with_cell = CELLS[config.cell_type].has_cell_state
        self.cell_projections = nn.ModuleList(nn.Linear(width, H) for _ in range(num_layers if with_cell else 0))

    def forward(self, final_hidden: Tensor, final_cell: Tensor | None) -> list[RecurrentState]:
        """One state, each part (B, H), for each layer of the decoder from the encoder's, (B, N, R * H) each."""
        hidden = self._project(self.hidden_projections, final_hidden)
        if final_cell is None:
            return [RecurrentState(part) for part in hidden]
        return [RecurrentState(*parts) for parts in zip(hidden, self._project(self.cell_projections, final_cell), strict=True)]

    def _project(self, projections: nn.ModuleList, states: Tensor) -> list[Tensor]:
        return [torch.tanh(projection(states[:, layer])) for projection, layer in zip(projections, self.source_layers, strict=True)]
