"""wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477): transformers' own classes, under the name of a family.

So recipes can train one of any size from scratch: on sound alone (task speech_pretraining), or on sound and transcripts (speech_recognition). Fields
go by transformers' names: `model: {family: wav2vec2, hidden_size: 128, conv_dim: [64, 64], conv_kernel: [10, 8], conv_stride: [5, 4]}`. A saved
folder needs no code but transformers'.
"""

from collections.abc import Callable
from typing import Any

from transformers import (
    PreTrainedModel,
    SequenceFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

CONFIG_CLASS = Wav2Vec2Config
FEATURE_EXTRACTOR_CLASS = Wav2Vec2FeatureExtractor

HEADS: dict[str, type[PreTrainedModel]] = {
    "Model": Wav2Vec2Model,
    "ForCTC": Wav2Vec2ForCTC,
    "ForPreTraining": Wav2Vec2ForPreTraining,
}


def build_feature_extractor(config: Wav2Vec2Config, measure: Callable[..., Any] | None = None) -> SequenceFeatureExtractor:
    """Waveforms of mean 0 and variance 1 each: nothing of the data is measured.

    Only models with layer norm in all convolutions (`feat_extract_norm: layer`) read an attention mask; the others take their statistics over all of
    a row, padding included, and transformers hands them no mask.
    """
    return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=config.feat_extract_norm == "layer")


__all__ = ["CONFIG_CLASS", "FEATURE_EXTRACTOR_CLASS", "HEADS", "build_feature_extractor"]
