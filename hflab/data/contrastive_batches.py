"""Batches for the pre-training of wav2vec 2.0: clips, which of their frames are hidden, and which others stand beside the right one in each.

    prepared = prepare_sounds(recipe.data, frames, least_frames=20, extractor=lambda rows: extractor)
    batches = ContrastiveBatches(prepared.splits["train"], prepared.extractor, SpeechBatching(batch_size=16), Masking(frames.count, 0.65, 10))
    batch = batches.batch(step=0, share=slice(0, 16))

What is hidden (Baevski et al. 2020, arXiv:2006.11477, section 3.2) is drawn by transformers' own functions, for one clip at a time and from the seed,
the epoch and the clip alone: neither the other clips of a batch nor a resume change it. Shapes: `b` clips asked for, `T'` frames that the model makes
of the longest, `K` negatives. Knows nothing about models but the frames they make.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import SequenceFeatureExtractor
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ..errors import UserError
from ..recipe import DataSection
from .speech_batches import EncodedClips, SpeechBatches, SpeechBatching
from .speech_corpus import SpeechCorpus, SpeechRows, load_speech
from .speech_preparation import ModelFrames


@dataclass(frozen=True)
class PreparedSounds:
    """Clips with their sound. `facts` is JSON, as in `PreparedSpeech`."""

    corpus: SpeechCorpus
    extractor: SequenceFeatureExtractor
    splits: dict[str, EncodedClips]
    facts: dict[str, Any]


class ContrastiveBatch(NamedTuple):
    """The caller's share of a step."""

    inputs: dict[str, Tensor]
    """What the feature extractor makes, as in `SpeechBatch`."""
    is_hidden: Tensor
    """(b, T') bool; nothing is hidden in padding, nor in a clip that only fills the step."""
    negatives: Tensor
    """(b, T', K) int64: for each hidden frame others of its clip, as places in (b * T'); elsewhere zeros."""
    rows: np.ndarray
    """(b,) numbers of the clips in their split; -1 for a clip that only fills the step."""
    num_tokens: int
    """Hidden frames of all clips of the step, not only of the caller's: what its loss is divided by."""
    temperature: float
    """Of the Gumbel softmax that chooses codes."""

    def to(self, device: torch.device | str) -> "ContrastiveBatch":
        """The batch with its tensors on `device`."""
        inputs = {name: values.to(device) for name, values in self.inputs.items()}
        return self._replace(inputs=inputs, is_hidden=self.is_hidden.to(device), negatives=self.negatives.to(device))


@dataclass(frozen=True)
class Masking:
    """How much of clips is hidden."""

    frames: Callable[[np.ndarray], np.ndarray]
    """From samples of clips (n,) to frames of the model (n,), int64."""
    probability: float
    """Share of the frames that the spans would cover if none met."""
    span: int
    """Frames of a span."""
    min_spans: int = 2
    num_negatives: int = 100


@dataclass(frozen=True)
class TemperatureDecay:
    """The temperature of the Gumbel softmax: `highest` at first, times `decay` at each step, `lowest` at the least."""

    highest: float = 2.0
    lowest: float = 0.5
    decay: float = 0.999995

    def at(self, step: int) -> float:
        """The temperature at an optimizer step, counted from 0."""
        return max(self.highest * self.decay**step, self.lowest)


def prepare_sounds(
    data: DataSection, frames: ModelFrames, *, least_frames: int, extractor: Callable[[SpeechRows], SequenceFeatureExtractor]
) -> PreparedSounds:
    """Read and split the clips of `data`, which need no transcripts.

    Clips that are shorter or longer than `data` allows, or of which the model makes fewer than `least_frames`, are left out of every split.

    Raises:
        UserError: as `load_speech` does; or no clip of a split can be used.
    """
    corpus = load_speech(data, sampling_rate=frames.sampling_rate, normalizer="none", with_texts=False)
    facts, splits = corpus.facts(), {}
    for name, rows in corpus.splits.items():
        lengths = rows.waveforms.lengths
        seconds = lengths / frames.sampling_rate
        kept = (seconds >= data.min_clip_seconds) & (seconds <= data.max_clip_seconds) & (frames.count(lengths) >= least_frames)
        if not kept.any():
            raise UserError(
                f"None of the {len(rows)} clips of the {name} split can be used: they must last from {data.min_clip_seconds:g} to "
                f"{data.max_clip_seconds:g} s (data.min_clip_seconds, data.max_clip_seconds), and for {least_frames} frames of the model."
            )
        facts["splits"][name]["rows_left_out"] = {"too short or too long": int((~kept).sum())} if not kept.all() else {}
        splits[name] = EncodedClips(rows, [np.zeros(0, dtype=np.int64)] * len(rows), np.flatnonzero(kept))
    return PreparedSounds(corpus, extractor(corpus.splits["train"]), splits, facts)


class ContrastiveBatches:
    """Batches of clips of about one length, some frames hidden anew every epoch.

    Args:
        clips: what is read.
        extractor: makes what the model reads of waveforms.
        batching: how; clips must be heard as long as they are, at their own speed and not joined.
        masking: how much is hidden.
        decay: of the temperature.

    Raises:
        UserError: there are no clips.
    """

    def __init__(
        self,
        clips: EncodedClips,
        extractor: SequenceFeatureExtractor,
        batching: SpeechBatching,
        masking: Masking,
        decay: TemperatureDecay | None = None,
    ) -> None:
        self._sounds = SpeechBatches(clips, extractor, batching)
        self.steps_per_epoch, self.batch_size = self._sounds.steps_per_epoch, batching.batch_size
        self._clips, self._batching, self._masking, self._decay = clips, batching, masking, decay or TemperatureDecay()

    def batch(self, step: int, share: slice) -> ContrastiveBatch:
        """Return the clips `share` of the batch of `step`, counted from 0 over all epochs."""
        sounds = self._sounds.batch(step, share)
        num_frames = self._masking.frames(sounds.num_samples)
        width, num_negatives = int(num_frames.max()), self._masking.num_negatives
        drawn = self._draw_all(step)
        is_hidden = np.zeros((len(sounds.rows), width), dtype=bool)
        negatives = np.zeros((len(sounds.rows), width, num_negatives), dtype=np.int64)
        for place, row in enumerate(sounds.rows):
            if row >= 0:
                hidden, others = drawn[int(row)]
                is_hidden[place, : len(hidden)] = hidden
                negatives[place, : len(hidden)][hidden] = others[hidden] + place * width
        return ContrastiveBatch(
            inputs=sounds.inputs,
            is_hidden=torch.from_numpy(is_hidden),
            negatives=torch.from_numpy(negatives),
            rows=sounds.rows,
            num_tokens=sum(int(hidden.sum()) for hidden, _ in drawn.values()),
            temperature=self._decay.at(step),
        )

    def _draw_all(self, step: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Hidden frames (T',) and negatives (T', K) of each clip of the step, by the clip's number."""
        rows = self._sounds.rows_of(step)
        epoch = step // self.steps_per_epoch if self._batching.shuffle else 0
        num_frames = self._masking.frames(self._clips.rows.waveforms.lengths[rows])
        return {
            int(row): draw_hidden(int(frames), self._masking, (self._batching.seed, epoch, int(row)))
            for row, frames in zip(rows, num_frames, strict=True)
        }


def draw_hidden(num_frames: int, masking: Masking, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which of the frames of a clip are hidden (T',) bool, and for each of those K others that are hidden too (T', K); zeros for the rest.

    Nothing is hidden of a clip that is shorter than a span.
    """
    nothing = np.zeros(num_frames, dtype=bool), np.zeros((num_frames, masking.num_negatives), dtype=np.int64)
    if num_frames < masking.span:
        return nothing
    with _numpy_seed(*seed):
        hidden = _compute_mask_indices((1, num_frames), masking.probability, masking.span, min_masks=masking.min_spans)
        if hidden.sum() < 2:  # a frame needs another one beside it
            return nothing
        negatives = _sample_negative_indices((1, num_frames), masking.num_negatives, mask_time_indices=hidden)
    return hidden[0], negatives[0].astype(np.int64) * hidden[0][:, None]


@contextmanager
def _numpy_seed(*numbers: int) -> Iterator[None]:
    """Seed numpy's global generator, which transformers' functions draw from, inside the block; afterwards it goes on as before."""
    before = np.random.get_state()  # noqa: NPY002  transformers draws from it
    np.random.seed(list(numbers))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
