"""The recurrent family: configuration, cells, the sequence engine, blocks, cache and models.

The files here are copied flat into every saved model folder, so that it loads in a process without hflab; they import each other as siblings and
never hflab.
"""

from .blocks_recurrent import BLOCKS
from .cache_recurrent import cache_from_states, detach_cache, states_from_cache
from .cells_recurrent import CELLS, RecurrentState
from .configuration_recurrent import AUTO_MAP, RecurrentConfig
from .modeling_recurrent import HEADS, RecurrentForCausalLM, RecurrentModel, RecurrentPreTrainedModel

CONFIG_CLASS = RecurrentConfig

__all__ = [
    "AUTO_MAP",
    "BLOCKS",
    "CELLS",
    "CONFIG_CLASS",
    "HEADS",
    "RecurrentConfig",
    "RecurrentForCausalLM",
    "RecurrentModel",
    "RecurrentPreTrainedModel",
    "RecurrentState",
    "cache_from_states",
    "detach_cache",
    "states_from_cache",
]
