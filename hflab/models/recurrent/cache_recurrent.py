"""The state of a recurrent model as transformers' cache: what `past_key_values` holds, and how to hand states in and out.

    outputs = model(input_ids=first_half)
    outputs = model(input_ids=second_half, past_key_values=outputs.past_key_values)   # continues where the first half ended
    states = states_from_cache(outputs.past_key_values)                               # plain tensors, one RecurrentState per layer
    outputs = model(input_ids=more, past_key_values=cache_from_states(model.config, states))

Importing this module teaches `DynamicCache` and `StaticCache` the layer type "recurrent", so that `generate` builds the right cache by itself.
It knows nothing about cells: a state is one or two tensors of a layer.

B: batch, H: hidden size.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, StaticLayer

from .cells_recurrent import RecurrentState


class RecurrentCacheLayer(CacheLayerMixin):
    """The state of one recurrent layer after the tokens read so far.

    `keys` (B, H) is the hidden state and `values` (B, H) the cell state, (B, 0) for cells without one; transformers' names for the two tensors of
    a layer are kept so that its own tools find them. `cumulative_length` counts the tokens read, padding included, in a tensor: a number in
    Python would make `torch.compile` recompile at every step.

    New states replace the old tensors and never overwrite them, so gradients flow through all calls since the last `detach`.
    """

    _layer_type = "recurrent"  # registers the class with DynamicCache
    is_compileable = True
    is_croppable = False
    supports_early_init = False  # transformers would allocate keys of an attention layer's shape

    keys: Tensor
    values: Tensor
    cumulative_length: Tensor  # type: ignore[assignment]  # transformers has an int here or a tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cumulative_length = torch.zeros((), dtype=torch.long)

    @property
    def state(self) -> RecurrentState | None:
        """Hidden and cell state, each (B, H), or None before the first token."""
        if not self.is_initialized:
            return None
        return RecurrentState(self.keys, self.values if self.values.shape[-1] else None)

    def store_state(self, state: RecurrentState, *, num_tokens: int) -> None:
        """Replace the state by `state`, each part (B, H), after `num_tokens` more tokens."""
        self.update(state.hidden, state.hidden.new_empty(len(state.hidden), 0) if state.cell is None else state.cell, num_tokens)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zero states like `key_states` (B, H) and `value_states` (B, H or 0)."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = torch.zeros_like(key_states), torch.zeros_like(value_states)
        self.cumulative_length = self.cumulative_length.to(key_states.device)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, num_tokens: int = 0, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Replace the state.

        Args:
            key_states: New hidden state (B, H).
            value_states: New cell state (B, H), or (B, 0) for cells without one.
            num_tokens: How many tokens were read since the last update, at least 0.
            **kwargs: Not used; `Cache.update` may pass on more than this layer needs.

        Returns:
            The stored hidden and cell state.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._store(key_states, value_states, self.cumulative_length + num_tokens)
        return self.keys, self.values

    def _store(self, hidden: Tensor, cell: Tensor, length: Tensor) -> None:
        self.keys, self.values, self.cumulative_length = hidden, cell, length

    def get_seq_length(self) -> int:
        """Number of tokens read, padding included."""
        return int(self.cumulative_length)

    def get_max_length(self) -> int:
        """-1: a recurrent state is never full."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask that this layer reads: the columns of the tokens at hand, whatever came before."""
        return query_length, 0

    def detach(self) -> None:
        """Cut the state out of the autograd graph; the values stay."""
        if self.is_initialized:
            self.keys, self.values = self.keys.detach(), self.values.detach()

    def reset(self) -> None:
        """Back to no state, as before any token; the next call may bring any number of rows."""
        self.keys = self.values = None  # type: ignore[assignment]  # as transformers has it before the first token
        self.is_initialized = False
        self.cumulative_length = torch.zeros_like(self.cumulative_length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i the former row `beam_idx[i]`; `beam_idx` is (B,). Beam search calls this."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, (new B,), in that order."""
        if self.is_initialized:
            rows = indices.to(self.keys.device)
            self._store(self.keys.index_select(0, rows), self.values.index_select(0, rows), self.cumulative_length)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, the copies side by side."""
        if self.is_initialized:
            self._store(self.keys.repeat_interleave(repeats, 0), self.values.repeat_interleave(repeats, 0), self.cumulative_length)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: a recurrent state keeps no past to go back to.

        Raises:
            ValueError: Unless `tokens_to_remove` is 0.
        """
        if tokens_to_remove != 0:
            raise ValueError(
                f"crop({tokens_to_remove}) was asked of a recurrent state, which cannot forget tokens it has read; keep "
                "states_from_cache(cache) from before those tokens and continue with cache_from_states."
            )


class StaticRecurrentCacheLayer(RecurrentCacheLayer, StaticLayer):
    """The same state at fixed addresses, for compiled decoding: CUDA graphs read and write the same memory at every step.

    While gradients are recorded the tensors are replaced instead, since autograd needs the old ones. `max_cache_len` is accepted because
    `StaticCache` passes it, and limits nothing. Being a `StaticLayer` registers the class with `StaticCache`.
    """

    def __init__(self, max_cache_len: int = -1, **kwargs: Any) -> None:
        super().__init__(max_cache_len=max_cache_len, **kwargs)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zero states like `key_states` (B, H) and `value_states` (B, H or 0), and pin their addresses."""
        super().lazy_initialization(key_states, value_states)
        if not torch.compiler.is_compiling():
            for tensor in (self.keys, self.values, self.cumulative_length):
                torch._dynamo.mark_static_address(tensor)

    def reset(self) -> None:
        """Back to the zero state before any token, at the same addresses."""
        if self.is_initialized:
            self._store(torch.zeros_like(self.keys), torch.zeros_like(self.values), torch.zeros_like(self.cumulative_length))

    def _store(self, hidden: Tensor, cell: Tensor, length: Tensor) -> None:
        same_place = hidden.shape == self.keys.shape and not torch.is_grad_enabled()
        if not same_place:
            super()._store(hidden, cell, length)
            return
        self.keys.copy_(hidden)
        self.values.copy_(cell)
        self.cumulative_length.copy_(length)


def recurrent_layers(cache: Cache, num_layers: int, batch_size: int | None = None) -> list[RecurrentCacheLayer]:
    """The layers of `cache`, checked.

    Raises:
        ValueError: Unless they are `num_layers` recurrent ones, not offloaded, holding `batch_size` rows if both are known.
    """
    # by name, since the class may come from the code inside a model folder as well as from hflab
    if [getattr(layer, "_layer_type", None) for layer in cache.layers] != [RecurrentCacheLayer._layer_type] * num_layers:
        raise ValueError(
            f"past_key_values is {cache}, but a cache of {num_layers} recurrent layers is needed; build it with DynamicCache(config=model.config)."
        )
    if cache.offloading:
        raise ValueError("past_key_values is an offloaded cache, but a recurrent state is small and always in use; leave offloading out.")
    layers = cast(list[RecurrentCacheLayer], cache.layers)
    state = layers[0].state
    if batch_size is not None and state is not None and len(state.hidden) != batch_size:
        raise ValueError(
            f"past_key_values holds states of {len(state.hidden)} rows, but the inputs have {batch_size}; "
            "fit its rows with batch_select_indices or batch_repeat_interleave, or start without it."
        )
    return layers


def detach_cache(cache: Cache) -> Cache:
    """Cut the states out of the autograd graph, in place, between two windows of truncated backpropagation; returns the same cache."""
    for layer in recurrent_layers(cache, len(cache.layers)):
        layer.detach()
    return cache


def states_from_cache(cache: Cache) -> tuple[RecurrentState, ...]:
    """The states of all layers as plain tensors, each (B, H); `cell` is None for cells without one. Later calls do not change them.

    Raises:
        ValueError: If the cache has read no token yet.
    """
    states = [layer.state for layer in recurrent_layers(cache, len(cache.layers))]
    if not all(states):
        raise ValueError("The cache holds no state yet; run the model with it first, or start from no cache at all.")
    return tuple(RecurrentState(state.hidden.clone(), None if state.cell is None else state.cell.clone()) for state in states if state)


def cache_from_states(config: PreTrainedConfig, states: Sequence[RecurrentState], *, num_tokens: int = 0) -> DynamicCache:
    """A cache that continues from `states`, one per layer, each (B, H), as `states_from_cache` returns them.

    Args:
        config: The model's config.
        states: One state per layer, in order.
        num_tokens: How many tokens the states have read. `generate` takes the ids it is given to begin with those tokens and skips that many;
            with 0 it reads all of them.

    Raises:
        ValueError: If there is not one state for each layer.
    """
    cache = DynamicCache(config=config)
    if len(states) != len(cache.layers):
        raise ValueError(f"{len(states)} states were given for {len(cache.layers)} layers; give one RecurrentState per layer, first layer first.")
    for layer, state in zip(recurrent_layers(cache, len(states)), states, strict=True):
        layer.store_state(state, num_tokens=num_tokens)
    return cache
