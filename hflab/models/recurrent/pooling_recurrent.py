"""From the outputs of a recurrent model at every token to one vector for a row, whatever the padding.

Knows nothing about models and labels. A row without a real token gives zeros.

B: batch, T: time, H: hidden size, D: width of the outputs, P: width of the pooled row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .configuration_recurrent import RecurrentConfig


def splits_directions(config: RecurrentConfig) -> bool:
    """Whether the outputs are those of the forward direction beside those of the backward direction; residual blocks mix the two."""
    return config.bidirectional and config.block_style == "stacked"


def output_width(config: RecurrentConfig) -> int:
    """D, the width of the model's output at a token."""
    return 2 * config.hidden_size if splits_directions(config) else config.hidden_size


def pooled_width(config: RecurrentConfig) -> int:
    """P, the width of a pooled row: that of the outputs, but for "last", which takes two ends of a row that is read both ways."""
    return 2 * config.hidden_size if config.bidirectional and config.pooling == "last" else output_width(config)


def pool_last(outputs: Tensor, mask: Tensor | None, config: RecurrentConfig) -> Tensor:
    """The outputs where a direction has read the whole row: the forward one at the last real token, the backward one at the first.

    Args:
        outputs: (B, T, D).
        mask: (B, T) bool, True at real tokens; None: all are.
        config: Says which directions there are. Where residual blocks mix them, both ends are taken whole.

    Returns:
        (B, P).
    """
    if mask is None:
        mask = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
    rows, real = torch.arange(len(outputs), device=outputs.device), mask.any(1, keepdim=True)
    last_place = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    last = outputs[rows, last_place].masked_fill(~real, 0.0)
    if not config.bidirectional:
        return last
    first = outputs[rows, mask.long().argmax(1)].masked_fill(~real, 0.0)
    if splits_directions(config):
        last, first = last[:, : config.hidden_size], first[:, config.hidden_size :]
    return torch.cat([last, first], dim=-1)


def pool_mean(outputs: Tensor, mask: Tensor | None, config: RecurrentConfig) -> Tensor:
    """The mean (B, D) over real tokens; arguments as in `pool_last`."""
    if mask is None:
        return outputs.mean(1)
    return outputs.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def pool_max(outputs: Tensor, mask: Tensor | None, config: RecurrentConfig) -> Tensor:
    """The maximum (B, D) of each feature over real tokens; arguments as in `pool_last`."""
    if mask is None:
        return outputs.amax(1)
    largest = outputs.masked_fill(~mask[..., None], torch.finfo(outputs.dtype).min).amax(1)
    return largest.masked_fill(~mask.any(1, keepdim=True), 0.0)


POOLING: dict[str, Callable[[Tensor, Tensor | None, RecurrentConfig], Tensor]] = {"last": pool_last, "mean": pool_mean, "max": pool_max}
