"""Speech made ready for a CTC model: tokenizer and feature extractor of the training clips, token ids, and what is left out.

    prepared = prepare_speech(recipe.data, recipe.processor, build_extractor=lambda mean, deviation: extractor)
    batches = SpeechBatches(prepared.splits["train"], prepared.extractor, SpeechBatching(batch_size=16))

Knows nothing about models but what it is told: how many frames they make of a clip.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor, Wav2Vec2CTCTokenizer

from ..errors import UserError
from ..recipe import DataSection, ProcessorSection
from .speech_batches import DELIMITER, EncodedClips, encode_clips
from .speech_corpus import SpeechCorpus, SpeechRows, load_speech

BLANK, UNKNOWN = "<pad>", "<unk>"
MOST_MEASURED_CLIPS = 300  # for mean and deviation of features
SMALLEST_DEVIATION = 1e-3  # of a band that is the same everywhere
MANY_LEFT_OUT = 0.01  # share of clips, from which on a warning is due

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSpeech:
    """Clips with sound, texts and token ids. `facts` is JSON: what they are, their fingerprint, and counts and a sample of every split."""

    corpus: SpeechCorpus
    tokenizer: PreTrainedTokenizerBase
    extractor: SequenceFeatureExtractor
    splits: dict[str, EncodedClips]
    facts: dict[str, Any]


@dataclass(frozen=True)
class ModelFrames:
    """What a model makes of sound."""

    sampling_rate: int
    """Of the waveforms that it reads, in Hz."""
    count: Callable[[np.ndarray], np.ndarray]
    """From samples of clips (n,) to frames of logits (n,), int64."""


def prepare_speech(
    data: DataSection,
    processor: ProcessorSection,
    frames: ModelFrames,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    extractor: Callable[[SpeechRows], SequenceFeatureExtractor],
) -> PreparedSpeech:
    """Read, split and tokenise the clips of `data`.

    Args:
        data: the source, its columns and its splits.
        processor: the normaliser, and how many characters a new vocabulary may have.
        frames: of the model.
        tokenizer: a trained model's; None: one of the characters of the training texts.
        extractor: from the training clips to the feature extractor.

    Raises:
        UserError: as `load_speech` does; or no training clip can be used.
    """
    corpus = load_speech(data, sampling_rate=frames.sampling_rate, normalizer=processor.normalizer)
    tokenizer = tokenizer or character_tokenizer(corpus.splits["train"].texts, processor)
    facts, splits = corpus.facts(), {}
    for name, rows in corpus.splits.items():
        encoded = encode_clips(rows, tokenizer)
        if name == "train":
            left_out = _left_out(encoded, data, frames)
            splits[name] = encode_clips(rows, tokenizer, np.setdiff1d(np.arange(len(rows)), np.concatenate(list(left_out.values()))))
            facts["splits"][name]["rows_left_out"] = _report_left_out(left_out, len(rows), data)
        else:
            splits[name] = encoded
        facts["splits"][name]["tokens"] = sum(len(encoded.labels[row]) for row in splits[name].chosen)
        facts["splits"][name]["unknown_tokens"] = sum(int((labels == tokenizer.unk_token_id).sum()) for labels in encoded.labels)
    return PreparedSpeech(corpus, tokenizer, extractor(corpus.splits["train"]), splits, facts)


def character_tokenizer(texts: Iterable[str], processor: ProcessorSection) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer for CTC over the characters of `texts`, in the order of their code points; `<pad>` is the blank, `|` a space."""
    counts = Counter(character for text in texts for character in text)
    counts.pop(DELIMITER, None)
    has_spaces = counts.pop(" ", 0) > 0
    kept = [character for character in counts if counts[character] >= processor.min_frequency]
    special = [BLANK, UNKNOWN, *([DELIMITER] if has_spaces else [])]
    if processor.vocab_size is not None:
        kept = sorted(sorted(kept), key=lambda character: -counts[character])[: processor.vocab_size - len(special)]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(kept)])}
    with tempfile.TemporaryDirectory() as folder:  # it can only be made from a file
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file), bos_token=None, eos_token=None, unk_token=UNKNOWN, pad_token=BLANK, word_delimiter_token=DELIMITER if has_spaces else None
        )


def feature_statistics(rows: SpeechRows, features: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (M,) of the features (T, M) that `features` makes of waveforms, over evenly drawn clips."""
    drawn = np.unique(np.linspace(0, len(rows) - 1, num=min(len(rows), MOST_MEASURED_CLIPS)).astype(np.int64))
    made = torch.cat([features(torch.from_numpy(rows.waveforms.waveform(int(row)))) for row in drawn]).double()
    deviation = made.std(dim=0, unbiased=False).clamp(min=SMALLEST_DEVIATION)
    return [round(value, 4) for value in made.mean(dim=0).tolist()], [round(value, 4) for value in deviation.tolist()]


def _left_out(clips: EncodedClips, data: DataSection, frames: ModelFrames) -> dict[str, np.ndarray]:
    """Numbers of the clips that cannot be learnt from, by the reason."""
    seconds = clips.rows.waveforms.lengths / clips.rows.waveforms.sampling_rate
    needed = np.array([len(labels) + int((labels[1:] == labels[:-1]).sum()) for labels in clips.labels])  # equal neighbours need a blank between
    empty = np.array([len(labels) == 0 for labels in clips.labels])
    too_short, too_long = seconds < data.min_clip_seconds, seconds > data.max_clip_seconds
    crowded = (frames.count(clips.rows.waveforms.lengths) < needed) & ~too_short & ~too_long
    reasons = {
        "without text": empty,
        "too short": too_short & ~empty,
        "too long": too_long & ~empty,
        "too few frames for their text": crowded & ~empty,
    }
    return {reason: np.flatnonzero(flags) for reason, flags in reasons.items()}


def _report_left_out(left_out: dict[str, np.ndarray], num_clips: int, data: DataSection) -> dict[str, int]:
    """Counts by reason; a warning where they are many, an error where nothing is left."""
    counts = {reason: len(rows) for reason, rows in left_out.items() if len(rows)}
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    cure = f"clips may last from {data.min_clip_seconds:g} to {data.max_clip_seconds:g} s (data.min_clip_seconds, data.max_clip_seconds)"
    if sum(counts.values()) == num_clips:
        raise UserError(f"None of the {num_clips} training clips can be used: {listed}; {cure}.")
    if sum(counts.values()) > MANY_LEFT_OUT * num_clips:
        logger.warning("%d of %d training clips are left out: %s; %s.", sum(counts.values()), num_clips, listed, cure)
    return counts
