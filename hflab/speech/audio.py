"""Recordings as waveforms: one channel of float32 samples between -1 and 1 at the rate that is asked for.

    waveform = read_waveform(Path("talk.flac"), 16000)

wav, flac, mp3, ogg and what else libsndfile knows are decoded by `soundfile`, without programs of the system; m4a, webm, films and others by an extra
(`media_file.py`). Knows nothing about data sets, features and models.

N: samples.
"""

import io
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from . import media_file
from .media_file import MediaError, MediaFile

SOUNDFILE_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".aifc", ".au", ".w64", ".rf64", ".caf")
EXTENSIONS = (*SOUNDFILE_EXTENSIONS, *media_file.EXTENSIONS)
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # in Hz; a file that says another is damaged
BLOCK_SECONDS = 60  # of sound in memory where a recording is read in blocks
WHOLE = 0.99  # share of the announced sound from which on a recording is taken for whole
FRAME_SECONDS = 0.05  # at most, of compressed sound; its end is filled up, which formats count or do not
UNKNOWN_FORMAT = (1, 4)  # libsndfile's errors: format not recognised, encoding not supported
STREAMED = 2**31 - 2**16  # bytes; programs that write to a pipe announce so many or more, for they do not know
ANNOUNCED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")  # in the notes of libsndfile

logger = logging.getLogger(__name__)


class UnreadableRecording(UserError):  # noqa: N818 - names what it is raised for
    """The recording itself is at fault: it is missing, no audio, empty, cut off or damaged.

    Args:
        shown: what the message calls the recording.
        reason: what is wrong with it.
        cure: what to do.
    """

    def __init__(self, shown: str, reason: str, cure: str) -> None:
        super().__init__(f"{shown} {reason}; {cure}.")
        self.reason = reason


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
        UnreadableRecording: it does not exist, is no audio, is empty, is cut off or holds values that are no numbers; the part lies outside it.
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
    of_part = _of_part(start_seconds, end_seconds)
    if not (0 <= start_seconds < math.inf and (end_seconds is None or start_seconds < end_seconds < math.inf)):
        raise UnreadableRecording(shown, f"has no such part{of_part}", "give a beginning of 0 or more and an end after it, in seconds")
    num_read = 0
    with _opened(source, shown) as file:
        rate = int(file.samplerate)
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise UnreadableRecording(shown, f"says it has {rate} samples a second, which no recording has", "mend it or leave it out")
        _check_whole(file.extra_info, shown)
        start = round(start_seconds * rate)
        if start > file.frames:
            raise UnreadableRecording(shown, f"ends after {file.frames / rate:.2f} s{of_part}", "mend the times")
        file.seek(start)
        wanted = math.inf if end_seconds is None else round(end_seconds * rate) - start
        announced = min(wanted, file.frames - start)
        while len(samples := file.read(int(min(wanted - num_read, BLOCK_SECONDS * rate)), dtype="float32", always_2d=True)):
            if not np.isfinite(samples).all():
                raise UnreadableRecording(shown, "holds values that are no finite numbers", "mend the recording or leave it out")
            yield SoundBlock(samples, rate)
            num_read += len(samples)
    if not num_read:
        raise UnreadableRecording(shown, f"holds no samples{of_part}", "leave it out")
    if num_read < min(WHOLE * announced, announced - FRAME_SECONDS * rate):  # no error: what some formats announce is a guess
        logger.warning("%s has %.2f s of sound where %.2f s were announced; check that it is whole.", shown, num_read / rate, announced / rate)


def duration_of(file: Path) -> float:
    """Seconds of sound that a file announces; 0 for one that cannot be read, also for want of a package."""
    try:
        with _opened(file, file.name) as opened:
            return float(opened.frames / opened.samplerate)
    except UserError:
        return 0.0


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
    """The recording as `soundfile` reads it, or as PyAV does; what they say of a file that they cannot read becomes `UnreadableRecording`."""
    if isinstance(source, Path) and not os.path.isfile(source):  # unlike Path.is_file, it takes a name that is too long for one that is not there
        raise UnreadableRecording("There", f"is no recording {str(source)!r}", "check the path")
    if isinstance(source, Path) and source.suffix.lower() == ".raw":
        raise UnreadableRecording(shown, "has no header that says its rate and format", "write it as .wav or .flac")
    try:
        with _open(source) as file:
            yield file
    except (_soundfile().LibsndfileError, MediaError) as error:
        reason = str(error).split(": ")[-1].rstrip(".")
        more = "" if media_file.is_installed() else ", or, for other formats, run: pip install 'hflab[media]'"
        raise UnreadableRecording(shown, f"cannot be decoded ({reason})", f"give one of: {', '.join(EXTENSIONS)}, or mend the file{more}") from None


def _open(source: Path | bytes) -> Any:
    """The recording as `soundfile` opens it, or as PyAV does, where `soundfile` cannot or the file's ending says that it could not."""
    soundfile = _soundfile()
    if isinstance(source, Path) and source.suffix.lower() in media_file.EXTENSIONS:
        return MediaFile(source)
    opened = io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source) if os.name == "posix" else str(source)  # any name of a file
    try:
        return soundfile.SoundFile(opened)
    except soundfile.LibsndfileError as error:
        if error.code in UNKNOWN_FORMAT and media_file.is_installed():
            with suppress(MediaError):  # for these endings, what `soundfile` says is more to the point
                return MediaFile(source)
        raise


def _check_whole(notes: str, shown: str) -> None:
    """Raise `UnreadableRecording` if libsndfile noted that an uncompressed file has less sound than its header announces."""
    found = ANNOUNCED_BYTES.search(notes)
    announced, present = (int(found[1]), int(found[2])) if found else (0, 0)
    if present < WHOLE * announced and announced < STREAMED:
        share = f"{100 * present / announced:.0f} %"
        raise UnreadableRecording(shown, f"is cut off, {share} of the sound that it announces is there", "copy it again or leave it out")


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
