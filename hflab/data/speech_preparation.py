"""Speech made ready for a CTC model: tokenizer and feature extractor of the training clips, token ids, and what is left out.

    prepared = prepare_speech(recipe.data, recipe.processor, frames, tokenizer=None, extractor=lambda rows: extractor)
    batches = SpeechBatches(prepared.splits["train"], prepared.extractor, SpeechBatching(batch_size=16))

Knows nothing about models but what it is told: how many frames they make of a clip.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor, Wav2Vec2CTCTokenizer

from ..errors import UserError
from ..recipe import DataSection, ProcessorSection
from .speech_batches import DELIMITER, EncodedClips, encode_clips
from .speech_corpus import SpeechCorpus, SpeechRows, load_speech
from .transcript_spelling import unknown_characters

BLANK, UNKNOWN = "<pad>", "<unk>"
MOST_MEASURED_CLIPS, MOST_MEASURED_SECONDS = 300, 30  # for mean and deviation of features
SMALLEST_DEVIATION = 1e-3  # of a band that is the same everywhere
MANY_LEFT_OUT = 0.01  # share of clips, from which on a warning is due
MANY_UNKNOWN = 0.01  # share of characters, likewise
MOST_SHOWN = 8  # characters in a warning

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
    if tokenizer is None and processor.tokenizer != "character":
        raise UserError(f"processor.tokenizer is {processor.tokenizer!r}, and speech_recognition learns characters; set it to character.")
    corpus = load_speech(data, sampling_rate=frames.sampling_rate, normalizer=processor.normalizer)
    tokenizer = tokenizer or character_tokenizer(corpus.splits["train"].texts, processor)
    facts, splits = corpus.facts(), {}
    for name, rows in corpus.splits.items():
        encoded = encode_clips(rows, tokenizer)
        if name == "train":
            left_out = clips_left_out(encoded.rows.waveforms.lengths, encoded.labels, data, frames)
            splits[name] = replace(encoded, chosen=np.setdiff1d(encoded.chosen, np.concatenate(list(left_out.values()))))
            facts["splits"][name]["rows_left_out"] = _report_left_out(left_out, len(rows), data)
        else:
            splits[name] = encoded
        facts["splits"][name]["tokens"] = sum(len(encoded.labels[row]) for row in splits[name].chosen)
        facts["splits"][name]["unknown_tokens"] = sum(int((labels == tokenizer.unk_token_id).sum()) for labels in encoded.labels)
    _warn_of_unknown(corpus.splits["train"].texts, tokenizer)
    return PreparedSpeech(corpus, tokenizer, extractor(corpus.splits["train"]), splits, facts)


def character_tokenizer(texts: Iterable[str], processor: ProcessorSection) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer for CTC over the characters of `texts`, in the order of their code points; `<pad>` is the blank, `|` a space.

    A `|` in a text is read as a space, or is unknown where the texts have no spaces.

    Raises:
        UserError: no character occurs `processor.min_frequency` times.
    """
    counts = Counter(character for text in texts for character in text)
    counts.pop(DELIMITER, None)
    has_spaces = counts.pop(" ", 0) > 0
    kept = [character for character in counts if counts[character] >= processor.min_frequency]
    if counts and not kept:
        raise UserError(f"processor.min_frequency is {processor.min_frequency}, and no character is in the training texts so often; lower it.")
    special = [BLANK, UNKNOWN, *([DELIMITER] if has_spaces else [])]
    if processor.vocab_size is not None:
        kept = sorted(sorted(kept), key=lambda character: -counts[character])[: processor.vocab_size - len(special)]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(kept)])}
    with tempfile.TemporaryDirectory() as folder:  # it can only be made from a file
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN,
            pad_token=BLANK,
            word_delimiter_token=DELIMITER if has_spaces else "",  # None is saved as a further token "None"
            split_special_tokens=True,  # a text that holds "<pad>" is no blank
        )


def feature_statistics(rows: SpeechRows, features: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (M,) of the features (T, M) that `features` makes of waveforms, over the beginnings of evenly drawn clips."""
    drawn = np.unique(np.linspace(0, len(rows) - 1, num=min(len(rows), MOST_MEASURED_CLIPS)).astype(np.int64))
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for row in drawn:
        beginning = rows.waveforms.waveform(int(row))[: MOST_MEASURED_SECONDS * rows.waveforms.sampling_rate]
        made = features(torch.from_numpy(beginning)).double()
        count, total, squares = count + len(made), total + made.sum(dim=0), squares + made.square().sum(dim=0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=SMALLEST_DEVIATION**2).sqrt()
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in deviation.tolist()]


def clips_left_out(lengths: np.ndarray, labels: Sequence[np.ndarray], data: DataSection, frames: ModelFrames) -> dict[str, np.ndarray]:
    """Which clips training leaves out because nothing can be learnt from them: the one rule of it.

    Args:
        lengths: samples of each clip at the model's rate, (clips,).
        labels: token ids of each, (L,).
        data: how long clips may last.
        frames: of the model.

    Returns:
        Numbers of the clips by the reason, one for each clip.
    """
    seconds = lengths / frames.sampling_rate
    needed = np.array([frames_needed(of_clip) for of_clip in labels], dtype=np.int64)
    empty = np.array([len(of_clip) == 0 for of_clip in labels], dtype=bool)
    too_short, too_long = seconds < data.min_clip_seconds, seconds > data.max_clip_seconds
    crowded = (frames.count(lengths) < needed) & ~too_short & ~too_long
    reasons = {
        "without text": empty,
        "too short": too_short & ~empty,
        "too long": too_long & ~too_short & ~empty,
        "too few frames for their text": crowded & ~empty,
    }
    return {reason: np.flatnonzero(flags) for reason, flags in reasons.items()}


def frames_needed(labels: np.ndarray) -> int:
    """Fewest frames in which CTC can say the labels (L,): equal neighbours need a blank between."""
    return len(labels) + int((labels[1:] == labels[:-1]).sum())


def _warn_of_unknown(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn where a good share of what is said cannot be written."""
    unknown = unknown_characters(texts, tokenizer)
    share = unknown.total() / max(1, sum(map(len, texts)))
    if share > MANY_UNKNOWN:
        listed = ", ".join(f"{character!r} ({count:,} times)" for character, count in unknown.most_common(MOST_SHOWN))
        logger.warning(
            "The tokenizer cannot write %.1f %% of the characters of the transcripts: %s%s. They are learnt as nothing; change the transcripts or "
            "processor.normalizer, or, with a pretrained model, set model.new_head: true.",
            100 * share,
            listed,
            ", ..." if len(unknown) > MOST_SHOWN else "",
        )


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
