"""A CTC model with all that leads from waveforms to words: feature extractor, alphabet and decoder.

    recognizer = Recognizer(model, extractor, CtcAlphabet.of_tokenizer(tokenizer))
    transcripts = recognizer.recognize([waveform, other])

Rows are cut to their true frames before they are decoded: what is found in a waveform does not depend on the others of its batch. Knows nothing about
files and long recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..data.speech_batches import features_of
from ..evaluation.model_properties import evaluation_mode
from ..evaluation.speech_evaluator import Decoder, run_on_features
from ..speech.ctc_decoding import CtcAlphabet, Transcript, greedy_decode
from ..speech.subtitles import CaptionWord

BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class Recognizer:
    """A CTC model of transformers, ready to hear."""

    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    alphabet: CtcAlphabet
    decode: Decoder = greedy_decode

    @property
    def sampling_rate(self) -> int:
        """Of the waveforms that it hears, in Hz."""
        extractor: Any = self.extractor
        return int(extractor.sampling_rate)

    @property
    def seconds_per_frame(self) -> float:
        """From one frame of logits to the next."""
        return float(self.model.config.inputs_to_logits_ratio) / self.sampling_rate

    def recognize(self, waveforms: Sequence[np.ndarray], *, batch_seconds: float = BATCH_SECONDS) -> list[Transcript]:
        """What is said in each waveform, (N,) float32 at `sampling_rate`, in their order.

        Waveforms of about one length are read together, as many as have `batch_seconds` of sound with their padding, at least one.
        """
        found: dict[int, Transcript] = {}
        for rows in self._batches([len(waveform) for waveform in waveforms], batch_seconds * self.sampling_rate):
            found |= dict(zip(rows, self._recognize_together([waveforms[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(waveforms))]

    def words_in_seconds(self, transcript: Transcript, start: float = 0.0) -> list[CaptionWord]:
        """The words of a transcript with times in seconds, counted from `start` before its first frame."""
        step = self.seconds_per_frame
        return [CaptionWord(word.text, start + word.start * step, start + word.end * step, word.confidence) for word in transcript.words]

    @staticmethod
    def _batches(lengths: Sequence[int], most_samples: float) -> list[list[int]]:
        """Rows that are read together, the longest first, so that little is padded and memory is known at once."""
        batches: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= most_samples:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _recognize_together(self, waveforms: list[np.ndarray]) -> list[Transcript]:
        inputs = {name: values.to(self.model.device) for name, values in features_of(self.extractor, waveforms).items()}
        with evaluation_mode(self.model):
            frames = run_on_features(self.model, inputs, torch.tensor([len(waveform) for waveform in waveforms]))
            return self.decode(frames.logits.float().log_softmax(dim=-1), frames.lengths, self.alphabet)
