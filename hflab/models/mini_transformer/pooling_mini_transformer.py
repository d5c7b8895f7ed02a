"""One vector per row, for classifiers of whole rows. Knows nothing about what it is classified as.

B: batch, T: time, H: hidden size.
"""

import torch
from torch import Tensor, nn


class Pooler(nn.Module):
    """A linear layer and tanh over one token of each row (Devlin et al. 2019, "BERT", arXiv:1810.04805, section 4.1).

    It is the first real token of a row that was read both ways, and the last of one read from left to right, which alone has seen all others.
    """

    def __init__(self, hidden_size: int, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """From (B, T, H), with the mask (B, T) of real tokens or None if all are, to (B, H)."""
        return torch.tanh(self.dense(self._choose(hidden_states, attention_mask)))

    def _choose(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return hidden_states[:, -1 if self.last else 0]
        if attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; a head that reads one token of a row needs (B, T), 1 at real ones."
            )
        real = attention_mask.long()
        places = (real.cumsum(1) * real if self.last else real).argmax(1)  # argmax gives the first of equal numbers
        return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), places]
