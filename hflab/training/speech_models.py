"""What a model of speech brings along before any data are known: config, feature extractor, tokenizer, the frames it makes, and safe settings.

    reader = pretrained_reader(recipe.model)
    frames = frames_of_model(reader.config, extractor)

Works for every CTC model of transformers that reads waveforms or features, and for hflab's own. Knows nothing about clips and training loops.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    Wav2Vec2CTCTokenizer,
)

from ..data.speech_preparation import ModelFrames
from ..errors import UserError
from ..evaluation.padding import SAMPLES, least_samples
from ..models import FAMILIES
from ..models.recurrent import RecurrentFeatureExtractor
from ..recipe import ModelSection
from .pretrained import AUTO_CLASSES, folder_of, load_pretrained_config

# transformers' defaults are to leave layers out at random, to let one clip with more letters than frames make the loss infinite, and to sum it over
# a batch. The first is for very large data; the others concern who trains the saved model elsewhere: the loss here is `label_nats`.
SAFE_FIELDS = {"layerdrop": 0.0, "ctc_zero_infinity": True, "ctc_loss_reduction": "mean"}
MEASURED_PER_SECOND = 100  # lengths of clips at which frames of features are counted, rounded down


@dataclass(frozen=True)
class SpeechReader:
    """What a model reads and writes with."""

    config: PreTrainedConfig
    extractor: SequenceFeatureExtractor | None = None
    """None: it is made for the training clips."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """None: it is made of the training transcripts."""


def pretrained_reader(section: ModelSection, *, writes: bool = True) -> SpeechReader:
    """What `section.pretrained` reads with, and, unless it gets a new head or `writes` is False, writes with.

    Raises:
        UserError: there is no such model, it has no feature extractor, or no tokenizer for CTC and `new_head` is not set.
    """
    assert section.pretrained is not None
    config = load_pretrained_config(section)  # first: it says so if there is no such model
    return SpeechReader(config, _pretrained_extractor(section), _ctc_tokenizer(section) if writes and not section.new_head else None)


def _pretrained_extractor(section: ModelSection) -> SequenceFeatureExtractor:
    """The folder's own: with another normalisation or rate than it was trained with, a model hears nothing, so none is guessed."""
    name = section.pretrained or ""
    try:
        extractor: SequenceFeatureExtractor = AutoFeatureExtractor.from_pretrained(folder_of(name), trust_remote_code=section.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained is {name!r}, which has no feature extractor that can be loaded ({(str(error).splitlines() or [''])[0]}); put the "
            "preprocessor_config.json of the model that it was trained from beside its config.json."
        ) from None
    return extractor


def _ctc_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    name, cure = section.pretrained or "", "set model.new_head: true to begin with the characters of your transcripts"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder_of(name), trust_remote_code=section.trust_remote_code)
    except (OSError, ValueError, ImportError, TypeError):  # TypeError: there are no files of one
        raise UserError(f"model.pretrained is {name!r}, which has no tokenizer that can be loaded; {cure}.") from None
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer) or tokenizer.pad_token_id is None:
        has = f"is a {type(tokenizer).__name__}" if not isinstance(tokenizer, Wav2Vec2CTCTokenizer) else "has no padding token, which is the blank"
        raise UserError(f"The tokenizer of model.pretrained {name!r} {has}, and speech is written by transformers' Wav2Vec2CTCTokenizer; {cure}.")
    return tokenizer


def family_reader(section: ModelSection) -> SpeechReader:
    """What a new model of `section.family` reads with: its extractor is made for the clips."""
    assert section.family is not None
    return SpeechReader(FAMILIES[section.family].config_class(**section.config))


def family_extractor(section: ModelSection, config: PreTrainedConfig, measure: Callable[..., Any] | None) -> SequenceFeatureExtractor:
    """The feature extractor of a new model; `measure` as in the family's `build_feature_extractor`."""
    assert section.family is not None
    build = FAMILIES[section.family].build_feature_extractor
    assert build is not None, "a family with a head that hears has one"
    return build(config, measure)


def check_vocabulary(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` unless the head of model.pretrained `name` has an output for every character and the blank of its tokenizer."""
    special = set(tokenizer.all_special_ids) - {tokenizer.pad_token_id}
    outputs: int = config.vocab_size
    needed = 1 + max(number for number in tokenizer.get_vocab().values() if number not in special)
    if needed > outputs:
        raise UserError(
            f"The head of {name!r} has {outputs} outputs and its tokenizer {needed} tokens, so they are not of one model; set model.new_head: true "
            "to begin with the characters of your transcripts."
        )


def frames_of_model(config: PreTrainedConfig, extractor: SequenceFeatureExtractor, head: str) -> ModelFrames:
    """How many frames a model with this config makes of clips that `extractor` reads; it is built without weights for that.

    Raises:
        UserError: transformers has no such model, or it does not say how long its outputs are.
    """
    auto_class: Any = getattr(transformers, AUTO_CLASSES[head])
    try:
        with torch.device("meta"):
            model: PreTrainedModel = auto_class.from_config(config)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise UserError(f"model.pretrained is a {config.model_type} model, which transformers has no {head} of.") from None
    after: Callable[[Tensor], Tensor] | None = getattr(model, "_get_feat_extract_output_lengths", None)
    if after is None:
        raise UserError(
            f"{type(model).__name__} does not say how many frames it makes of a sound, so its transcripts cannot be cut; take one of the kind of "
            "wav2vec2, hubert, wavlm, unispeech, sew, data2vec-audio or wav2vec2-bert."
        )
    read = _samples_read(model) if model.main_input_name == SAMPLES else _features_read(extractor)
    rate: Any = extractor
    return ModelFrames(rate.sampling_rate, lambda num_samples: np.asarray(after(torch.from_numpy(read(num_samples)))))


def _samples_read(model: PreTrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    least = least_samples(model.config)
    return lambda num_samples: np.maximum(num_samples, least)


def _features_read(extractor: Any) -> Callable[[np.ndarray], np.ndarray]:
    """From samples to frames of features."""
    if isinstance(extractor, RecurrentFeatureExtractor):
        return lambda num_samples: np.array([extractor.num_frames(int(samples)) for samples in num_samples], dtype=np.int64)
    step = extractor.sampling_rate // MEASURED_PER_SECOND

    def count(num_samples: np.ndarray) -> np.ndarray:
        lengths, places = np.unique(num_samples // step, return_inverse=True)
        made = [extractor([np.zeros(max(1, length) * step, dtype=np.float32)], sampling_rate=extractor.sampling_rate) for length in lengths]
        return np.array([int(np.sum(features["attention_mask"][0])) for features in made], dtype=np.int64)[places]

    return count
