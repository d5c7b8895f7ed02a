"""One vector per row, for classifiers of whole rows. Knows nothing about what it is classified as.

B: batch, T: time, H: hidden size.
"""

import torch
from torch import Tensor, nn

from .configuration_mini_transformer import MiniTransformerConfig


class Pooler(nn.Module):
    """A linear layer and tanh over what `config.pooling` takes of each row.

    "token" is one token (Devlin et al. 2019, "BERT", arXiv:1810.04805, section 4.1): the first real one of a row that was read both ways, and the
    last of one read from left to right, which alone has seen all others. "mean" is the mean over real tokens, which needs fewer labels.
    """

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__()
        self.pooling, self.last = config.pooling, config.is_decoder
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """From (B, T, H), with the mask (B, T) of real tokens or None if all are, to (B, H)."""
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}; a head that pools a row needs (B, T), 1 at real tokens.")
        pool = self._mean if self.pooling == "mean" else self._choose
        return torch.tanh(self.dense(pool(hidden_states, attention_mask)))

    def _mean(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return hidden_states.mean(1)
        real = attention_mask.bool()
        return hidden_states.masked_fill(~real[..., None], 0.0).sum(1) / real.sum(1, keepdim=True).clamp(min=1)

    def _choose(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return hidden_states[:, -1 if self.last else 0]
        real = attention_mask.long()
        places = (real.cumsum(1) * real if self.last else real).argmax(1)  # argmax gives the first of equal numbers
        return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), places]
