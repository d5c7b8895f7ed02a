"""Batches of clips: a function of the seed and the optimizer step alone, augmentation included, so that a resumed run needs no more than the step.

    encoded = encode_clips(corpus.splits["train"], tokenizer)
    batches = SpeechBatches(encoded, extractor, SpeechBatching(batch_size=16, seed=1))
    batch = batches.batch(step=0, share=slice(0, 16))

A batch holds clips of about one length, in the order of `row_order.py`. Features of training are made as batches are asked for: that takes a small
part of a step, and every epoch hears the clips at other speeds and in other noise. Those of held-out clips, which come in the same batches at every
evaluation and take a quarter of one, are kept in memory, as far as there is room. Shapes: `b` clips asked for, `T` frames or samples of the
longest of them, `L` labels of the longest. Knows nothing about models, devices or processes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor

from ..speech.ctc_decoding import CtcAlphabet
from ..speech.noise import NOISES, add_noise, change_speed
from .example_encoding import IGNORED_LABEL
from .row_order import RowOrder
from .speech_corpus import SpeechRows
from .transcript_spelling import encode_texts

QUIETEST_NOISE, LOUDEST_NOISE = 30.0, 5.0  # signal to noise, in dB
DELIMITER = "|"  # what tokenizers for CTC write for a space
MOST_KEPT_BYTES = 2**28  # of held-out clips: some four hours of sound as 40 mel bands, one as waveforms
MOST_JOINED = 3  # clips that may follow one
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # between joined clips, in seconds
PAUSE_LEVEL = 3e-4  # of the noise in a pause: about that of 12 bits, no recording is as silent as zeros


class SpeechBatch(NamedTuple):
    """The caller's share of a step."""

    inputs: dict[str, Tensor]
    """What the feature extractor makes: `input_features` (b, T, M) or `input_values` (b, T), and `attention_mask` (b, T) where the model wants it."""
    labels: Tensor
    """(b, L) int64 token ids, -100 at padding."""
    num_samples: np.ndarray
    """(b,) samples of each clip as it is heard, int64."""
    rows: np.ndarray
    """(b,) numbers of the clips in their split; -1 for a clip that only fills the step and is not to be counted."""
    num_tokens: int
    """Labels of all clips of the step, not only of the caller's: what its loss is divided by."""

    def to(self, device: torch.device | str) -> "SpeechBatch":
        """The batch with its tensors on `device`."""
        return self._replace(inputs={name: values.to(device) for name, values in self.inputs.items()}, labels=self.labels.to(device))


class KeptFeatures:
    """Features of batches that come again. What is there stays: batches come in turns, so that the one to come last would be thrown away first.

    Args:
        most_bytes: no more is kept once there is so much.
    """

    def __init__(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._most_bytes, self._num_bytes = most_bytes, 0
        self._kept: dict[tuple[int, ...], tuple[SequenceFeatureExtractor, dict[str, Tensor]]] = {}

    def of(self, rows: np.ndarray, extractor: SequenceFeatureExtractor, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` gives for clips `rows` by `extractor`, or gave before; it is not to be changed in place."""
        key = tuple(rows.tolist())
        if key in self._kept and self._kept[key][0] is extractor:
            return self._kept[key][1]
        made = make()
        if key not in self._kept and self._num_bytes < self._most_bytes:
            self._kept[key] = (extractor, made)
            self._num_bytes += sum(values.nbytes for values in made.values())
        return made


@dataclass(frozen=True)
class EncodedClips:
    """Clips with their transcripts as token ids."""

    rows: SpeechRows
    labels: list[np.ndarray]
    """Of each clip, (L,) int64."""
    chosen: np.ndarray
    """Numbers of the clips to read, (n,) int64; the others are left out."""
    space: int | None = None
    """Token id of what stands between two words; None where words are not separated."""
    kept: KeptFeatures = field(default_factory=KeptFeatures, compare=False, repr=False)
    """Features of batches that were read unshuffled."""


@dataclass(frozen=True)
class SpeechBatching:
    """How batches are made."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    """False: clips in the order of their lengths, the longest first, as evaluation wants them."""
    speed_percents: Sequence[int] = (100,)
    noise_probability: float = 0.0
    join_probability: float = 0.0
    """That another clip follows after a pause, for each of `MOST_JOINED`: a model that hears one sentence at a time only never learns of pauses."""
    max_seconds: float = 30.0
    """Of joined clips."""
    nearness: float | None = None
    """For a model that padding harms: the clips of a batch are as near to one length as `RowOrder` has it."""


def encode_clips(rows: SpeechRows, tokenizer: PreTrainedTokenizerBase, chosen: np.ndarray | None = None) -> EncodedClips:
    """The clips with their texts as token ids; `chosen`: numbers of those to read, default: all."""
    labels = encode_texts(rows.texts, tokenizer)
    space = CtcAlphabet.of_tokenizer(tokenizer).word_delimiter
    return EncodedClips(rows, labels, np.arange(len(rows)) if chosen is None else chosen, space)


class SpeechBatches:
    """Batches of clips of about one length.

    Where the last batch of an epoch has fewer clips, its first fills it up and is not counted: the shares of all processes have as many rows.

    Args:
        clips: what is read.
        extractor: makes features of waveforms; a model whose extractor hands out no attention mask gets none.
        batching: how.

    Raises:
        UserError: there are no clips.
    """

    def __init__(self, clips: EncodedClips, extractor: SequenceFeatureExtractor, batching: SpeechBatching) -> None:
        lengths = clips.rows.waveforms.lengths[clips.chosen]
        self._order = RowOrder(lengths, batch_size=batching.batch_size, seed=batching.seed, shuffle=batching.shuffle, nearness=batching.nearness)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._clips, self._extractor, self._batching = clips, extractor, batching

    def rows_of(self, step: int) -> np.ndarray:
        """Numbers of the clips of a step, counted from 0 over all epochs, (at most B,) int64."""
        return self._clips.chosen[self._order.rows_of(step)]

    def batch(self, step: int, share: slice) -> SpeechBatch:
        """Return the clips `share` of the batch of `step`, counted from 0 over all epochs."""
        rows = self.rows_of(step)
        epoch, size = step // self.steps_per_epoch, self._batching.batch_size
        joined = [self._joined(int(row), epoch) for row in rows]
        labels = [self._labels_of(following) for following in joined]
        filled = [*range(len(rows)), *[0] * (size - len(rows))][share]
        heard = [self._heard(joined[place], epoch) for place in filled]
        make = functools.partial(features_of, self._extractor, heard)
        padded = np.full((len(filled), max(len(labels[place]) for place in filled)), IGNORED_LABEL, dtype=np.int64)
        for row, place in enumerate(filled):
            padded[row, : len(labels[place])] = labels[place]
        return SpeechBatch(
            inputs=make() if self._batching.shuffle else self._clips.kept.of(rows[filled], self._extractor, make),
            labels=torch.from_numpy(padded),
            num_samples=np.array([len(waveform) for waveform in heard]),
            rows=np.where((np.arange(size) < len(rows))[share], rows[filled], -1),
            num_tokens=sum(map(len, labels)),
        )

    def _joined(self, row: int, epoch: int) -> list[int]:
        """The clip and those that follow it in `epoch`, drawn from all."""
        found, batching = [row], self._batching
        if not batching.shuffle or batching.join_probability == 0:
            return found
        generator = np.random.default_rng([batching.seed, epoch, row, 1])
        waveforms = self._clips.rows.waveforms
        room = batching.max_seconds * waveforms.sampling_rate - waveforms.lengths[row]
        while len(found) <= MOST_JOINED and generator.random() < batching.join_probability:
            following = int(generator.choice(self._clips.chosen))
            room -= waveforms.lengths[following] + LONGEST_PAUSE * waveforms.sampling_rate
            if room < 0:
                break
            found.append(following)
        return found

    def _labels_of(self, rows: Sequence[int]) -> np.ndarray:
        """Labels of joined clips, with a space between two of them, (L,) int64."""
        space = [] if self._clips.space is None else [np.array([self._clips.space])]
        parts = [part for row in rows for part in (*space, self._clips.labels[row])]
        return np.concatenate(parts[len(space) :])

    def _heard(self, rows: Sequence[int], epoch: int) -> np.ndarray:
        """The waveform of joined clips as it is heard in `epoch`."""
        batching, waveforms = self._batching, self._clips.rows.waveforms
        waveform = waveforms.waveform(rows[0])
        if not batching.shuffle:
            return waveform
        generator = np.random.default_rng([batching.seed, epoch, rows[0]])
        for row in rows[1:]:
            length = int(generator.uniform(SHORTEST_PAUSE, LONGEST_PAUSE) * waveforms.sampling_rate)
            pause = generator.standard_normal(length, dtype=np.float32) * np.float32(PAUSE_LEVEL)
            waveform = np.concatenate([waveform, pause, waveforms.waveform(row)])
        speed = int(generator.choice(np.asarray(batching.speed_percents)))
        if speed != 100:
            waveform = change_speed(waveform, speed)
        if generator.random() < batching.noise_probability:
            noise = str(generator.choice(list(NOISES)))
            waveform = add_noise(waveform, float(generator.uniform(LOUDEST_NOISE, QUIETEST_NOISE)), noise, generator)
        return waveform


def features_of(extractor: SequenceFeatureExtractor, waveforms: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """What a model reads of `waveforms`, (N,) float32 each at the extractor's rate, padded to the longest of them.

    Each row is what its waveform gives by itself: without a mask, transformers' extractors take mean and variance of a row over its padding too, so
    one is asked for, and dropped where the model reads none.
    """
    maker: Any = extractor
    made = maker(list(waveforms), sampling_rate=maker.sampling_rate, padding=True, return_tensors="pt", return_attention_mask=True)
    dropped = () if maker.return_attention_mask else ("attention_mask",)
    return {name: values for name, values in made.items() if isinstance(values, Tensor) and name not in dropped}
