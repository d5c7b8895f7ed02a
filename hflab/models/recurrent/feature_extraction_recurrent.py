"""Log-mel features of speech, as recurrent speech recognisers read them.

    extractor = RecurrentFeatureExtractor()
    batch = extractor([waveform, other], sampling_rate=16000, return_tensors="pt")   # input_features (B, T, M), attention_mask (B, T)

Frames are windows of the waveform and nothing else: no padding at the ends, no statistics of the recording, so that a waveform read in pieces has
the frames of the whole. Mean and standard deviation, by which features are normalised, are those of the training data and stand in the saved file.
Knows nothing about models and text.

N: samples, T: frames, M: mel bands, B: waveforms.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

LOG_FLOOR = 1e-7  # power below which all is silence: that of the rounding of 16-bit samples
LOUDEST = 100.0  # no recording between -1 and 1 comes near it, and 16-bit samples do
FRAMES_AT_ONCE = 4096  # of the spectrum, which takes ten times the memory of the features


class RecurrentFeatureExtractor(SequenceFeatureExtractor):
    """Logarithms of the power in bands of the mel scale (Davis and Mermelstein 1980, without the cosine transform), normalised by band.

    Args:
        num_mel_bins: M, at least 2; transformers would pad a single band as if it were a waveform.
        sampling_rate: of the waveforms it takes, in Hz.
        hop_length: samples from one frame to the next.
        window_length: samples of a frame, under a Hann window, at least 3.
        min_frequency: lower edge of the lowest band, in Hz.
        max_frequency: upper edge of the highest band, in Hz; None: half the sampling rate.
        mean: of each band, taken from its features; None: zeros.
        standard_deviation: of each band, which its features are divided by; None: ones.
        padding_value: what fills short rows of a batch, after normalisation.
        return_attention_mask: whether the attention mask is handed out where the call does not say.
        **kwargs: of `SequenceFeatureExtractor`, which stores them.

    Raises:
        ValueError: a size is too small, the frequencies are no range below half the sampling rate, `mean` and `standard_deviation` are not M
            numbers, the latter above 0, or `feature_size`, transformers' name of M, is another number.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  transformers declares it as a plain attribute

    def __init__(
        self,
        num_mel_bins: int = 80,
        sampling_rate: int = 16000,
        *,
        hop_length: int = 160,
        window_length: int = 400,
        min_frequency: float = 20.0,
        max_frequency: float | None = None,
        mean: Sequence[float] | None = None,
        standard_deviation: Sequence[float] | None = None,
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        feature_size = kwargs.pop("feature_size", num_mel_bins)  # in the saved file
        super().__init__(feature_size=num_mel_bins, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.num_mel_bins = num_mel_bins
        self.hop_length, self.window_length = hop_length, window_length
        self.min_frequency, self.max_frequency = min_frequency, max_frequency
        self.mean = None if mean is None else [float(value) for value in mean]
        self.standard_deviation = None if standard_deviation is None else [float(value) for value in standard_deviation]
        self.return_attention_mask = return_attention_mask
        self._check(feature_size)

    def _check(self, feature_size: int) -> None:
        """Raise the ValueErrors of the constructor."""
        if feature_size != self.num_mel_bins:
            raise ValueError(f"feature_size is {feature_size} and num_mel_bins {self.num_mel_bins}, two names of one size; leave feature_size out.")
        for name, least in (("num_mel_bins", 2), ("sampling_rate", 1), ("hop_length", 1), ("window_length", 3)):
            size = getattr(self, name)
            if not isinstance(size, int) or size < least:
                raise ValueError(f"{name} is {size}, but must be a whole number of at least {least}.")
        if not 0 <= self.min_frequency < self._highest_frequency <= self.sampling_rate / 2:
            raise ValueError(
                f"min_frequency is {self.min_frequency} and max_frequency {self.max_frequency}; give two numbers from 0 to half the sampling rate, "
                f"{self.sampling_rate / 2:g}, the first the smaller one."
            )
        for name in ("mean", "standard_deviation"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != self.num_mel_bins:
                raise ValueError(f"{name} has {len(values)} numbers for {self.num_mel_bins} bands; give one for each band.")
            if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
                raise ValueError(f"{name} is {values}; give finite numbers{'' if name == 'mean' else ' above 0'}.")

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform: every whole window, and at least one."""
        return max(1, 1 + (num_samples - self.window_length) // self.hop_length)

    def features(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel features (T, M), float32, of a waveform (N,); one that is shorter than a window is filled up with zeros."""
        filled = torch.nn.functional.pad(waveform, (0, max(0, self.window_length - len(waveform))))
        frames = filled.unfold(0, self.window_length, self.hop_length)
        logs = torch.cat([self._logs(some) for some in frames.split(FRAMES_AT_ONCE)])
        if self.mean is not None:
            logs = logs - torch.tensor(self.mean)
        return logs if self.standard_deviation is None else logs / torch.tensor(self.standard_deviation)

    def _logs(self, frames: Tensor) -> Tensor:
        """Logarithms of the power in each band (T, M) of frames (T, window_length)."""
        spectrum = torch.fft.rfft(frames * torch.hann_window(self.window_length, periodic=False), n=self._fft_length)
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)  # four times as fast as of the absolute value, a square root
        return (power @ self._filters).clamp(min=LOG_FLOOR).log()

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        *,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Features of one waveform or of a list of them.

        Args:
            raw_speech: samples between -1 and 1 of one channel (N,), as list, array or tensor, or a list of such.
            sampling_rate: of the waveforms, in Hz; None leaves a wrong rate undiscovered.
            padding: how rows of a batch are made equally long, as transformers has it; False: not at all.
            max_length: frames, for `padding="max_length"` and `truncation`.
            truncation: cut rows after `max_length` frames.
            pad_to_multiple_of: frames.
            return_tensors: "pt" or "np"; None: "np". Rows that are not equally long cannot be "pt".
            return_attention_mask: whether to say which frames are real; default: as the extractor was made.

        Returns:
            `input_features` (B, T, M) float32 and `attention_mask` (B, T), 1 at real frames.

        Raises:
            ValueError: another sampling rate, more than one channel, an empty waveform, or samples that are no numbers between -1 and 1 (a
                little more is let through).
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"The waveform has {sampling_rate} samples a second, and the model reads {self.sampling_rate}; resample it.")
        waveforms = [_checked(waveform) for waveform in _as_batch(raw_speech)]
        rows = BatchFeature({"input_features": [self.features(waveform).numpy() for waveform in waveforms]})
        return self.pad(
            rows,
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    @property
    def _fft_length(self) -> int:
        return 1 << (self.window_length - 1).bit_length()

    @property
    def _highest_frequency(self) -> float:
        return self.sampling_rate / 2 if self.max_frequency is None else self.max_frequency

    @property
    def _filters(self) -> Tensor:
        """Weights (frequencies, M) of each frequency of the transform in each band."""
        key = (self._fft_length, self.num_mel_bins, self.min_frequency, self._highest_frequency, self.sampling_rate)
        if key not in _FILTERS:
            frequencies, bands, low, high, rate = key
            filters = mel_filter_bank(frequencies // 2 + 1, bands, low, high, rate, norm=None, mel_scale="htk")
            _FILTERS[key] = torch.from_numpy(filters).float()
        return _FILTERS[key]


_FILTERS: dict[tuple[int, int, float, float, int], Tensor] = {}  # no attribute, which would be saved


def _as_batch(raw_speech: Any) -> list[Any]:
    """One waveform as a batch of one."""
    if isinstance(raw_speech, (list, tuple)) and len(raw_speech) and not isinstance(raw_speech[0], Real):
        return list(raw_speech)
    if getattr(raw_speech, "ndim", 1) == 2:
        raise ValueError(f"The waveform has shape {tuple(raw_speech.shape)}; give one channel, (N,), or a list of waveforms.")
    return [raw_speech]


def _checked(waveform: Any) -> Tensor:
    """The waveform (N,) in float32. Raises `ValueError` as `__call__` does."""
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().cpu()
        waveform = waveform.float() if waveform.is_floating_point() else waveform  # numpy has no bfloat16
    samples = np.asarray(waveform)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"A waveform has shape {samples.shape}; give samples of one channel, (N,), at least one.")
    if samples.dtype.kind != "f":
        raise ValueError(f"A waveform holds {samples.dtype}; give numbers between -1 and 1 (16-bit samples divided by 32768).")
    if not np.isfinite(samples).all():
        raise ValueError("A waveform holds samples that are no finite numbers; mend the recording.")
    loudest = np.abs(samples).max()
    if loudest > LOUDEST:
        raise ValueError(f"A waveform holds samples up to {loudest:g}; give numbers between -1 and 1 (16-bit samples divided by 32768).")
    return torch.from_numpy(samples.astype(np.float32))


RecurrentFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
