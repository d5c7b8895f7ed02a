"""A one-directional recurrent model on sound that comes piece by piece: the scores that it gives the whole waveform, a chunk at a time.

    chunks = ChunkedLogits(recognizer, chunk_frames=8)
    for samples in microphone:
        logits = chunks.feed(samples)      # (F, V), for as many frames as are due
    logits = chunks.finish()

Frames of features are windows of samples and nothing else, convolutions look back a few frames only, and the blocks carry a state: what is held does
not grow with the sound. Knows nothing about text.

N: samples, T: frames of features, M: mel bands, F: frames of logits, V: vocabulary.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode
from .recognizer import Recognizer


def check_streamable(recognizer: Recognizer) -> None:
    """Raise `UserError` unless the model is a recurrent one that reads in one direction."""
    model = recognizer.model
    # by name, since the class may come from the code inside a model folder as well as from hflab
    if type(model).__name__ != "RecurrentForCTC":
        raise UserError(
            f"The model is {type(model).__name__}, which needs whole recordings; only RecurrentForCTC hears live sound. Train one "
            "(hflab train ctc_synthetic_digits --model.bidirectional false), or transcribe files with this one."
        )
    if model.config.bidirectional:
        raise UserError(
            "The model reads recordings in both directions, so it cannot write before they end. Train one with model.bidirectional: false for live "
            "sound, or transcribe files with this one."
        )


class ChunkedLogits:
    """Scores of one waveform, `chunk_frames` frames of them at a time. Raises `UserError` for a model that needs whole waveforms."""

    def __init__(self, recognizer: Recognizer, chunk_frames: int) -> None:
        check_streamable(recognizer)
        self._model: Any = recognizer.model
        self._extractor: Any = recognizer.extractor
        self._chunk = chunk_frames * self._model.config.subsampling_factor  # in frames of features
        self._samples = np.empty(0, np.float32)  # of which frames are still to be made
        self._context = torch.empty(0, self._model.config.num_mel_bins)  # the last frames read, (T, M)
        self._cache: Cache | None = None

    def feed(self, samples: np.ndarray) -> Tensor:
        """Hear the next samples, (N,) float32; returns the logits (F, V) float32 that are due, on the CPU."""
        self._samples = np.concatenate([self._samples, samples])
        hop, window = self._extractor.hop_length, self._extractor.window_length
        step = self._chunk * hop
        due = [self._no_logits]
        while len(self._samples) >= max(step, step - hop + window):
            due.append(self._run(self._extractor.features(torch.from_numpy(self._samples[: step - hop + window]))))
            self._samples = self._samples[step:]
        return torch.cat(due)

    def finish(self) -> Tensor:
        """The logits (F, V) of what is left; nothing may be fed afterwards."""
        is_short = self._cache is None and len(self._samples)  # less than a window in all is filled up with zeros
        if not is_short and len(self._samples) < self._extractor.window_length:
            return self._no_logits
        return self._run(self._extractor.features(torch.from_numpy(self._samples)))

    @property
    def _no_logits(self) -> Tensor:
        return torch.empty(0, self._model.config.vocab_size)

    def _run(self, features: Tensor) -> Tensor:
        """Logits of the next frames of features (T, M)."""
        seen = torch.cat([self._context, features])
        with self._evaluation():
            outputs = self._model(
                input_features=seen[None].to(self._model.device),
                past_key_values=self._cache,
                use_cache=True,
                num_context_frames=len(self._context),
            )
        self._cache = outputs.past_key_values
        lookback = self._model.config.lookback_frames
        self._context = seen[max(0, len(seen) - lookback) :]
        logits: Tensor = outputs.logits[0].float().cpu()
        return logits

    def _evaluation(self) -> AbstractContextManager[object]:
        # walking over the modules takes as long as a small model takes for a chunk, so it is left to models in training
        return evaluation_mode(self._model) if self._model.training else torch.no_grad()
