"""Positions: which place each token has, and the waves that tell a model of it, sinusoidal or rotary.

Everything is computed when it is needed, in float32, so there are no tables to run out of and no buffers to lose their precision or, on a model
begun on no device, their values. Knows nothing about attention or embeddings.

B: batch, T: time, H: hidden size, N: heads, D: width of a head.
"""

import math

import torch
from torch import Tensor

SINUSOIDAL_BASE = 10000.0


def positions_of_tokens(attention_mask: Tensor | None, past_length: int | Tensor, length: int, device: torch.device) -> Tensor:
    """The place of each token among the real tokens of its row, from 0.

    Args:
        attention_mask: (B, past + T), 1 at real tokens and 0 at padding, in any pattern; None if all are real.
        past_length: Number of tokens read before, padding included.
        length: T, the number of tokens at hand.
        device: Where to make the positions if there is no mask.

    Returns:
        (B, T), or (1, T) without a mask. Padding before the first real token has place 0.
    """
    if attention_mask is None:
        return (torch.arange(length, device=device) + past_length)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal position embeddings in float32.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5: feature 2i is sin(position / 10000^(2i / H)), feature 2i + 1 its cosine.

    Args:
        positions: (B, T).
        width: H, even.

    Returns:
        (B, T, H).
    """
    angles = _angles(positions, width, SINUSOIDAL_BASE)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotations(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which `rotate` turns a head, each (B, 1, T, D) in float32; `positions` is (B, T), `width` is D, even."""
    angles = _angles(positions, width, base)[:, None]
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys, (B, N, T, D), by the angles of their positions.

    Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.2.2; feature i is paired with feature i + D / 2, as GPT-NeoX and Llama have it, and not
    with its neighbour: the same model with the columns of its projections in another order.
    """
    cosine, sine = rotation
    first, second = heads.chunk(2, dim=-1)
    return (heads * cosine + torch.cat([-second, first], -1) * sine).to(heads.dtype)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    """Angles position / base^(2i / width) for i below width / 2, in float32."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].float() * torch.exp(exponents * -math.log(base))
