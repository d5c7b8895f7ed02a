"""Recordings as waveforms: one channel of float32 samples between -1 and 1 at the rate that is asked for.

    waveform = read_waveform(Path("talk.flac"), 16000)

wav, flac, mp3, ogg and what else libsndfile knows are decoded by `soundfile`, without programs of the system. Knows nothing about data sets,
features and models.

N: samples.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError

EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".aifc", ".au", ".w64", ".rf64", ".caf")
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # in Hz; a file that says another is damaged
BLOCK_SECONDS = 60  # of sound in memory where a recording is read in blocks


class UnreadableRecording(UserError):
    """The recording itself is at fault: it is missing, no audio, empty or damaged."""


class SoundBlock(NamedTuple):
    """A stretch of a recording as it is stored."""

    samples: np.ndarray
    """(n, channels) float32."""
    sampling_rate: int
    """In Hz."""


def read_waveform(
    source: Path | bytes, sampling_rate: int, *, name: str | None = None, start_seconds: float = 0.0, end_seconds: float | None = None
) -> np.ndarray:
    """Decode a recording, or a part of it; its channels are averaged and it is resampled.

    Args:
        source: file, or the content of one.
        sampling_rate: of the result, in Hz.
        name: what messages call the recording; default: the file's name.
        start_seconds: where the part begins.
        end_seconds: where it ends; None: with the recording.

    Returns:
        (N,) float32. Float files may exceed ±1.

    Raises:
        UnreadableRecording: it does not exist, is no audio, is empty or holds values that are no numbers; the part lies outside it.
        UserError: a package is missing.
    """
    mono, rate = [], sampling_rate
    for block in read_blocks(source, name=name, start_seconds=start_seconds, end_seconds=end_seconds):
        mono.append(block.samples.mean(axis=1, dtype=np.float32))
        rate = block.sampling_rate
    return resample(np.concatenate(mono), rate, sampling_rate)


def read_blocks(
    source: Path | bytes, *, name: str | None = None, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Iterator[SoundBlock]:
    """Decode a recording, or a part of it, as it is stored, a block of at most `BLOCK_SECONDS` after the other, at least one.

    The arguments are those of `read_waveform`, and so is what is raised.
    """
    shown = name or (source.name if isinstance(source, Path) else "The recording")
    is_empty = True
    with _opened(source, shown) as file:
        rate = int(file.samplerate)
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise UnreadableRecording(f"{shown} says it has {rate} samples a second, which no recording has; mend it or leave it out.")
        start = round(start_seconds * rate)
        if start > file.frames:
            raise UnreadableRecording(f"{shown} ends after {file.frames / rate:.2f} s{_of_part(start_seconds, end_seconds)}; mend the times.")
        file.seek(start)
        left = math.inf if end_seconds is None else max(0, round(end_seconds * rate) - start)
        while len(samples := file.read(int(min(left, BLOCK_SECONDS * rate)), dtype="float32", always_2d=True)):
            if not np.isfinite(samples).all():
                raise UnreadableRecording(f"{shown} holds values that are no finite numbers; mend the recording or leave it out.")
            yield SoundBlock(samples, rate)
            is_empty = False
            left -= len(samples)
    if is_empty:
        raise UnreadableRecording(f"{shown} holds no samples{_of_part(start_seconds, end_seconds)}; leave it out.")


def resampled_length(num_samples: int, rate: int, new_rate: int) -> int:
    """Samples of a waveform of `num_samples` after `resample`."""
    return -(-num_samples * new_rate // rate)


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """The waveform (N,) at another rate, in Hz, by a polyphase filter; as long in seconds, rounded up to a sample."""
    if rate == new_rate:
        return np.asarray(waveform, dtype=np.float32)
    divisor = math.gcd(rate, new_rate)
    return np.asarray(_scipy_signal().resample_poly(waveform, new_rate // divisor, rate // divisor), dtype=np.float32)


def as_integers(waveform: np.ndarray) -> np.ndarray:
    """The waveform (N,) as 16-bit samples, clipped at full scale, int16."""
    return np.round(np.clip(waveform, -1.0, 32767 / 32768) * 32768).astype(np.int16)


def as_floats(samples: np.ndarray) -> np.ndarray:
    """The inverse of `as_integers`, (N,) float32."""
    return samples.astype(np.float32) / np.float32(32768)


def wav_bytes(waveform: np.ndarray, sampling_rate: int) -> bytes:
    """The waveform (N,) as a WAV file of 16-bit samples."""
    target = io.BytesIO()
    _soundfile().write(target, as_integers(waveform), sampling_rate, format="WAV", subtype="PCM_16")
    return target.getvalue()


@contextmanager
def _opened(source: Path | bytes, shown: str) -> Iterator[Any]:
    """The recording as `soundfile` reads it; what it says of a file that it cannot read becomes `UnreadableRecording`."""
    soundfile = _soundfile()
    if isinstance(source, Path) and not source.is_file():
        raise UnreadableRecording(f"There is no recording {str(source)!r}; check the path.")
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        reason = str(error).split(": ")[-1].rstrip(".")
        raise UnreadableRecording(
            f"{shown} cannot be decoded ({reason}); give one of: {', '.join(EXTENSIONS)}, or mend the file."
        ) from None


def _of_part(start_seconds: float, end_seconds: float | None) -> str:
    if start_seconds == 0 and end_seconds is None:
        return ""
    return f", and the part from {start_seconds:g} to {'its end' if end_seconds is None else f'{end_seconds:g} s'} was asked for"


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UserError("Reading audio needs the package 'soundfile', which is not installed; run: pip install 'hflab[speech]'") from error
    return soundfile


def _scipy_signal() -> Any:
    try:
        from scipy import signal
    except ImportError as error:
        raise UserError("Resampling audio needs the package 'scipy', which is not installed; run: pip install 'hflab[speech]'") from error
    return signal
