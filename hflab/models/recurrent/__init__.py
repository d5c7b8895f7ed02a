"""The recurrent family: configuration, cells, the sequence engine, blocks, cache, models and their heads.

The files here are copied flat into every saved model folder, so that it loads in a process without hflab; they import each other as siblings and
never hflab.
"""

from collections.abc import Callable
from typing import Any

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


def build_feature_extractor(config: RecurrentConfig, measure: Callable[..., Any] | None = None) -> RecurrentFeatureExtractor:
    """Log-mel features of the sizes that a model of `config` reads.

    Args:
        config: of the model.
        measure: from the function that makes features (T, M) of a waveform to their mean and standard deviation (M,) in the data; None: they are not
            normalised.
    """
    sizes: dict[str, Any] = {"num_mel_bins": config.num_mel_bins, "hop_length": config.hop_length}
    plain = RecurrentFeatureExtractor(**sizes)
    if measure is None:
        return plain
    mean, deviation = measure(plain.features)
    return RecurrentFeatureExtractor(**sizes, mean=mean, standard_deviation=deviation)


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
    "build_feature_extractor",
    "cache_from_states",
    "detach_cache",
    "states_from_cache",
]
