"""Attention: the readable formula, and the module that computes it through whichever implementation transformers is told to use.

`scaled_dot_product_attention` and `multi_head_attention` are the reference, loops and all; every fast path is tested against them. The module hands
its queries, keys and values to `ALL_ATTENTION_FUNCTIONS` ("sdpa", flash attention, flex) or to `eager_attention_forward` below, which alone gives the
attention weights out. Knows nothing about how masks are made or where in a block attention stands.

B: batch, T: time of the queries, S: time of the keys, H: hidden size, N: heads, D: width of a head, H = N * D.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mini_transformer import MiniTransformerConfig
from .positions_mini_transformer import rotate

Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (B, 1, T, D)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(D)) V for one head: the reference.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1.

    Args:
        query: (T, D).
        key: (S, D).
        value: (S, D).
        visible: (T, S) bool, True where a query sees a key; None: everywhere. A query that sees nothing gets zeros.

    Returns:
        The mean of the values seen, (T, D), and the weights of that mean, (T, S).
    """
    scores = query @ key.T / math.sqrt(query.shape[-1])
    if visible is None:
        visible = torch.ones_like(scores, dtype=torch.bool)
    exponentials = torch.where(visible, torch.exp(scores - scores.max(-1, keepdim=True).values.detach()), 0.0)
    total = exponentials.sum(-1, keepdim=True)
    weights = exponentials / torch.where(total > 0, total, 1.0)
    return weights @ value, weights


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of every head of every row, one after the other: the reference.

    Vaswani et al. 2017, section 3.2.2, between the projections into the heads and the one out of them.

    Args:
        query: (B, N, T, D).
        key: (B, N, S, D).
        value: (B, N, S, D).
        visible: (B, T, S) bool, the same for all heads; None: everywhere.

    Returns:
        The outputs of the heads side by side, (B, T, N * D), and their weights, (B, N, T, S).
    """
    rows = []
    for b in range(len(query)):
        seen = None if visible is None else visible[b]
        heads = [scaled_dot_product_attention(query[b, n], key[b, n], value[b, n], seen) for n in range(query.shape[1])]
        rows.append((torch.cat([output for output, _ in heads], -1), torch.stack([weights for _, weights in heads])))
    return torch.stack([outputs for outputs, _ in rows]), torch.stack([weights for _, weights in rows])


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as matrix products over all rows and heads, with the signature that transformers gives every implementation.

    Args:
        module: The attention that calls.
        query: (B, N, T, D).
        key: (B, N, S, D).
        value: (B, N, S, D).
        attention_mask: (B, 1, T, S) added to the scores, the lowest number of its type where a query does not see a key; None: nothing hidden.
        scaling: Factor of the scores.
        dropout: Probability of dropping a weight.
        **kwargs: For other implementations.

    Returns:
        Outputs (B, T, N, D) and weights (B, N, T, S). A query that sees nothing gets zeros, as "sdpa" has it.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32)
    if attention_mask is not None:
        weights = weights.masked_fill(attention_mask <= torch.finfo(attention_mask.dtype).min, 0.0)
    weights = F.dropout(weights.to(query.dtype), dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MultiHeadAttention(nn.Module):
    """What self-attention and cross-attention share: the heads, and the way out of them. Vaswani et al. 2017, section 3.2.2."""

    def __init__(self, config: MiniTransformerConfig, layer_idx: int, *, is_causal: bool) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal  # read by implementations that make the causal mask themselves
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.output_projection = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def split(self, states: Tensor) -> Tensor:
        """From (B, T, H) to heads (B, N, T, D)."""
        return states.view(*states.shape[:-1], -1, self.head_size).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Outputs (B, T, H) and, if the implementation gives them, weights (B, N, T, S), for heads (B, N, T, D) and (B, N, S, D)."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        outputs, weights = attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.output_projection(outputs.reshape(*outputs.shape[:2], -1)), weights


class SelfAttention(MultiHeadAttention):
    """Attention of a row to itself. One layer makes queries, keys and values at once, which on a CPU is faster than three."""

    def __init__(self, config: MiniTransformerConfig, layer_idx: int, *, is_causal: bool) -> None:
        super().__init__(config, layer_idx, is_causal=is_causal)
        self.query_key_value_projection = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        rotation: Rotation | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from `hidden_states` (B, T, H) to themselves and to what the cache holds, which is updated.

        `attention_mask` is of the kind that the implementation wants, as transformers' mask functions make it; `rotation` turns queries and keys.
        """
        query, key, value = (self.split(states) for states in self.query_key_value_projection(hidden_states).chunk(3, dim=-1))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if past_key_values is not None:
            cache = past_key_values.self_attention_cache if isinstance(past_key_values, EncoderDecoderCache) else past_key_values
            key, value = cache.update(key, value, self.layer_idx)
        return self.attend(query, key, value, attention_mask, **kwargs)


class CrossAttention(MultiHeadAttention):
    """Attention of a decoder's row to the encoder's. Its keys and values are the same at every step of decoding, so they are computed once."""

    def __init__(self, config: MiniTransformerConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, is_causal=False)
        self.query_projection = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.key_value_projection = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from `hidden_states` (B, T, H) to `encoder_hidden_states` (B, S, H)."""
        query = self.split(self.query_projection(hidden_states))
        key, value = self._keys_and_values(encoder_hidden_states, past_key_values)
        return self.attend(query, key, value, attention_mask, **kwargs)

    def _keys_and_values(self, encoder_hidden_states: Tensor, past_key_values: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, N, S, D), from the cache if it has them; else computed, and stored if there is a cache."""
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer = cast(CacheLayerMixin, past_key_values.cross_attention_cache.layers[self.layer_idx])
            return cast(Tensor, layer.keys), cast(Tensor, layer.values)
        key, value = (self.split(states) for states in self.key_value_projection(encoder_hidden_states).chunk(2, dim=-1))
        if past_key_values is not None:
            key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
            past_key_values.is_updated[self.layer_idx] = True
        return key, value
