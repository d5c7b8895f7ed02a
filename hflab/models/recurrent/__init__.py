"""The recurrent family: configuration, cells, the sequence engine, blocks, cache, models and their heads.

The files here are copied flat into every saved model folder, so that it loads in a process without hflab; they import each other as siblings and
never hflab.
"""

from .attention_recurrent import ATTENTIONS
from .blocks_recurrent import BLOCKS
from .cache_recurrent import cache_from_states, detach_cache, states_from_cache
from .cells_recurrent import CELLS, RecurrentState
from .classification_recurrent import RecurrentForSequenceClassification, RecurrentForTokenClassification
from .configuration_recurrent import AUTO_MAP, RecurrentConfig
from .ctc_recurrent import RecurrentForCTC
from .feature_extraction_recurrent import RecurrentFeatureExtractor
from .heads_recurrent import HEADS
from .modeling_recurrent import RecurrentForCausalLM, RecurrentModel, RecurrentPreTrainedModel
from .pooling_recurrent import POOLING
from .seq2seq_recurrent import RecurrentForConditionalGeneration

CONFIG_CLASS = RecurrentConfig
FEATURE_EXTRACTOR_CLASS = RecurrentFeatureExtractor

__all__ = [
    "ATTENTIONS",
    "AUTO_MAP",
    "BLOCKS",
    "CELLS",
    "CONFIG_CLASS",
    "FEATURE_EXTRACTOR_CLASS",
    "HEADS",
    "POOLING",
    "RecurrentConfig",
    "RecurrentFeatureExtractor",
    "RecurrentForCTC",
    "RecurrentForCausalLM",
    "RecurrentForConditionalGeneration",
    "RecurrentForSequenceClassification",
    "RecurrentForTokenClassification",
    "RecurrentModel",
    "RecurrentPreTrainedModel",
    "RecurrentState",
    "cache_from_states",
    "detach_cache",
    "states_from_cache",
]
