"""The block that every stack is made of: self-attention, cross-attention where there is an encoder to look at, and a feed-forward.

Knows nothing about tokens, positions or heads of models.

B: batch, T: time, S: time of the encoder, H: hidden size, I: intermediate size.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_mini_transformer import CrossAttention, Rotation, SelfAttention
from .configuration_mini_transformer import GATED_ACTIVATIONS, MiniTransformerConfig


def activation_of(config: MiniTransformerConfig) -> Callable[[Tensor], Tensor]:
    """The activation, without its gate if it has one."""
    return ACT2FN[GATED_ACTIVATIONS.get(config.hidden_act, config.hidden_act)]


class FeedForward(nn.Module):
    """Two linear layers with an activation between them (Vaswani et al. 2017, section 3.3), or three with a gate (Shazeer 2020, equation 6)."""

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__()
        H, intermediate_size = config.hidden_size, cast(int, config.intermediate_size)
        gated = config.hidden_act in GATED_ACTIVATIONS
        self.activation_dropout = config.activation_dropout
        self.up_projection = nn.Linear(H, intermediate_size, bias=config.mlp_bias)
        self.gate_projection = nn.Linear(H, intermediate_size, bias=config.mlp_bias) if gated else None
        self.activation = activation_of(config)
        self.down_projection = nn.Linear(intermediate_size, H, bias=config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """From (B, T, H) to (B, T, H), each token for itself."""
        inner = self.up_projection(hidden_states)
        inner = self.activation(inner) if self.gate_projection is None else self.activation(self.gate_projection(hidden_states)) * inner
        return self.down_projection(F.dropout(inner, self.activation_dropout, training=self.training))


class MiniTransformerBlock(GradientCheckpointingLayer):
    """A layer of an encoder or a decoder. Vaswani et al. 2017, section 3.1, with norms after or before the sublayers."""

    def __init__(self, config: MiniTransformerConfig, layer_idx: int, *, is_causal: bool, has_cross_attention: bool) -> None:
        super().__init__()
        self.norm_first = config.norm_position == "pre"
        self.hidden_dropout = config.hidden_dropout
        H, eps = config.hidden_size, config.layer_norm_eps
        self.self_attention = SelfAttention(config, layer_idx, is_causal=is_causal)
        self.self_attention_norm = nn.LayerNorm(H, eps=eps)
        self.cross_attention = CrossAttention(config, layer_idx) if has_cross_attention else None
        self.cross_attention_norm = nn.LayerNorm(H, eps=eps) if has_cross_attention else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(H, eps=eps)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Read `hidden_states` (B, T, H), with cross-attention beside `encoder_hidden_states` (B, S, H).

        The masks are of the kind that the attention implementation wants, for self-attention and for cross-attention; the cache is updated. Tensors
        with a gradient are positional and bare, as reentrant gradient checkpointing needs them.
        """

        def attend(inputs: Tensor) -> Tensor:
            return self.self_attention(inputs, attention_mask, rotation=rotation, past_key_values=past_key_values, **kwargs)[0]

        def look_at_encoder(inputs: Tensor) -> Tensor:
            assert self.cross_attention is not None
            return self.cross_attention(inputs, encoder_hidden_states, encoder_attention_mask, past_key_values=past_key_values, **kwargs)[0]

        hidden_states = self._add(attend, self.self_attention_norm, hidden_states)
        if self.cross_attention_norm is not None:
            hidden_states = self._add(look_at_encoder, self.cross_attention_norm, hidden_states)
        return self._add(self.feed_forward, self.feed_forward_norm, hidden_states)

    def _add(self, sublayer: Callable[[Tensor], Tensor], norm: nn.LayerNorm, hidden_states: Tensor) -> Tensor:
        """Add what a sublayer makes of the stream (B, T, H) to it, with its norm before or after."""
        outputs = sublayer(norm(hidden_states) if self.norm_first else hidden_states)
        hidden_states = hidden_states + F.dropout(outputs, self.hidden_dropout, training=self.training)
        return hidden_states if self.norm_first else norm(hidden_states)
