"""What a model is called with: checks that name a mistake, and what several heads derive from their arguments.

Knows nothing about how a model is computed.

B: batch, T: time, H: hidden size.
"""

import copy
import difflib
from typing import Any

from torch import LongTensor, Tensor, nn

from .configuration_mini_transformer import MiniTransformerConfig

# What transformers passes to any model's forward beyond its named arguments. Every other name is a mistake that must not vanish.
_PASSED_BY_TRANSFORMERS = ("num_items_in_batch", "output_hidden_states", "output_attentions")
_PASSED_TO_FLASH_ATTENTION = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache", "labels", "token_type_ids")


def with_flag(config: MiniTransformerConfig, flag: str) -> MiniTransformerConfig:
    """The config, or a copy of it, with `flag` True: a head says what it is, and the caller's config stays as it was."""
    if getattr(config, flag):
        return config
    config = copy.deepcopy(config)
    setattr(config, flag, True)
    return config


def embeddings_of(table: nn.Embedding, input_ids: LongTensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Embeddings (B, T, H): those given, or of tokens (B, T)."""
    if input_ids is None and inputs_embeds is not None:
        return inputs_embeds
    if input_ids is None or inputs_embeds is not None:
        raise ValueError("Both or neither of input_ids and inputs_embeds were given; give exactly one of them.")
    return table(input_ids)


def refuse_unknown(kwargs: dict[str, Any]) -> None:
    """Raise a TypeError for a keyword argument that means nothing here."""
    for name in kwargs:
        if name in _PASSED_BY_TRANSFORMERS or name in _PASSED_TO_FLASH_ATTENTION:
            continue
        close = difflib.get_close_matches(name, _ARGUMENTS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{name} was given, but is no argument of this model; leave it out.{hint}")


def check_mask(attention_mask: Any, embeds: Tensor) -> None:
    """Raise a ValueError for a mask (B, columns) of other rows than the embeddings' (B, T, H), or of fewer columns."""
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() == 4:
        return
    B, T = embeds.shape[:2]
    if attention_mask.dim() != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] < T:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but ({B}, {T}) is needed, or more columns for tokens read before; "
            "give 1 for every real token and 0 for padding."
        )
