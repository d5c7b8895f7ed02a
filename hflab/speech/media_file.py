"""The sound of files that libsndfile does not know, and of films: m4a, webm, mp4, wma and others, decoded by PyAV, which brings ffmpeg's libraries.

    with MediaFile(Path("talk.m4a")) as file:
        samples = file.read(16000)     # (n, channels) float32, n at most 16000

A file is read through Python, so that its name is no address to ffmpeg, and only formats that hold their own sound are let in: no playlists, which
name other files. Time begins with the file, not with its sound: of a film whose sound sets in late, the beginning is silent, so that subtitles fit.
Knows nothing about messages to users and about resampling.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import UserError

EXTENSIONS = (
    *(".m4a", ".m4b", ".aac", ".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mka", ".mkv"),
    *(".wma", ".wmv", ".amr", ".ac3", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".tta"),
)
FORMATS = (  # ffmpeg's names
    *("mov", "matroska", "aac", "asf", "amr", "amrnb", "amrwb", "ac3", "eac3", "avi", "flv", "mpeg", "mpegts", "mpegvideo", "tta", "wv", "ape"),
    *("mp3", "ogg", "wav", "w64", "flac", "aiff", "au", "caf"),  # with codecs that libsndfile does not know
)
SAYS_LENGTH = {"mov", "matroska", "asf", "avi", "flv", "tta", "wav", "caf", "aiff"}  # formats whose header does; of others it would be a guess
SEEKS = {"mov", "matroska"}  # formats with an index by time
PREROLL_SECONDS = 1.0  # decoded before a part and thrown away: codecs need some frames until they sound as in the whole
SHORTEST_GAP, LONGEST_GAP = 0.1, 600.0  # in seconds; times jitter by less, and more is a damaged time


class MediaError(Exception):
    """The file cannot be decoded; the message is a phrase that says why."""


class MediaFile:
    """Sound as `soundfile.SoundFile` hands it out, of the stream that ffmpeg takes for the best.

    Args:
        source: file, or the content of one.

    Attributes:
        samplerate: in Hz.
        frames: samples of a channel up to the end of the sound that the file announces, or, where it announces nothing, has.
        extra_info: nothing, which `soundfile` has too.

    Raises:
        MediaError: it is none of `FORMATS`, holds no sound, or is damaged. Reading raises it too.
        UserError: the package is missing.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._av, self._source, self.extra_info = _av(), source, ""
        self._open()
        codec = self._stream.codec_context
        if not codec.rate or not codec.channels:
            self.close()
            raise MediaError("its sound has no rate or no channels")
        self.samplerate, self._num_channels = int(codec.rate), int(codec.channels)
        announced = self._announced_seconds()
        if announced is None:
            announced = self._counted_seconds()
            self.close()
            self._open()
        self.frames = round(announced * self.samplerate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back file and memory."""
        self._container.close()
        self._file.close()

    def seek(self, frame: int) -> None:
        """Go on reading at that sample of a channel."""
        self._next, self._waiting = frame, []
        early = frame / self.samplerate - PREROLL_SECONDS
        if early <= 0 or self._format not in SEEKS:
            return
        try:
            self._container.seek(int((self._origin + early) / self._stream.time_base), stream=self._stream)
            self._decoded = self._samples(None)
            first = next(self._decoded, None)
        except (self._av.FFmpegError, MediaError):
            first = None
        if first is None or first[0] > frame:  # without an index there may be nowhere to go
            self.close()
            self._open()
            self._next = frame
        else:
            self._waiting = [first]

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next samples, (n, channels) float32, n = `frames` unless the sound ends before; none at its end."""
        assert dtype == "float32", "is what this decodes to"
        assert always_2d, "is what this decodes to"
        found: list[np.ndarray] = []
        end = self._next + frames
        while self._next < end and (piece := self._waiting.pop() if self._waiting else next(self._decoded, None)) is not None:
            start, samples = piece
            silence = max(0, min(start, end) - self._next)
            if silence:
                found.append(np.zeros((silence, self._num_channels), np.float32))
            used = samples[max(0, self._next - start) :][: max(0, end - max(start, self._next))]
            found.append(used)
            self._next = max(self._next, min(start, end)) + len(used)
            if start + len(samples) > end:
                self._waiting = [piece]
        return np.concatenate(found) if found else np.zeros((0, self._num_channels), np.float32)

    def _open(self) -> None:
        """Go to the beginning of the file."""
        self._file: Any = io.BytesIO(self._source) if isinstance(self._source, bytes) else open(self._source, "rb")  # noqa: SIM115 - `close` closes it
        limits = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
        try:
            # of a file's name, ffmpeg would take the ending for its format
            self._container = self._av.open(_Nameless(self._file), container_options=limits, metadata_errors="replace")
        except (self._av.FFmpegError, OSError) as error:
            self._file.close()
            raise MediaError(_reason(error)) from None
        self._stream = self._container.streams.best("audio")
        if self._stream is None:
            kinds = " and ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self.close()
            raise MediaError(f"it has no sound, only {kinds}")
        for stream in self._container.streams:
            if stream is not self._stream:
                stream.discard = self._av.stream.Discard.all  # a picture need not even be read
        self._format = next((name for name in self._container.format.name.split(",") if name in FORMATS), "")
        self._origin = (self._container.start_time or 0) / self._av.time_base  # seconds on the clock of the file
        self._next, self._waiting, self._decoded = 0, [], self._samples(0)

    def _announced_seconds(self) -> float | None:
        """Where the sound ends, of what the header says; None where it says nothing."""
        stream, container = self._stream, self._container
        if self._format not in SAYS_LENGTH:
            return None
        if stream.duration and self._format != "asf":  # which says of every stream how long the longest is
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._origin
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # of Matroska
        if tag:
            return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - self._origin
        alone = len(container.streams) == 1
        return container.duration / self._av.time_base if alone and container.duration else None

    def _counted_seconds(self) -> float:
        """Where the sound ends, by the times of all packets."""
        end = 0
        try:
            for packet in self._container.demux(self._stream):
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        except self._av.FFmpegError:
            pass  # what can be read is all that there is; decoding says where it is damaged
        return max(0.0, float(end * self._stream.time_base) - self._origin) if end else 0.0

    def _samples(self, place: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """Decoded samples (n, channels) with the number of the first, to the end of the sound; `place`: of the very first, None: its time says it."""
        previous: tuple[int, np.ndarray] | None = None
        for piece in self._placed(place):
            if previous is not None:
                yield previous
            previous = piece
        if previous is not None:
            start, samples = previous
            # the last frame of most codecs is filled up, and only this family of formats says exactly by how much
            end = self.frames if self._format == "mov" and start < self.frames else start + len(samples)
            yield start, samples[: end - start]

    def _placed(self, place: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """As `_samples`, with all of the last frame."""
        shortest = 0.0  # at the beginning nothing has jittered yet: some decoders drop the first frames
        for frame in self._frames():
            samples = self._as_floats(frame)
            if frame.pts is not None:
                said = round((float(frame.pts * frame.time_base) - self._origin) * self.samplerate)
                if place is None or shortest <= (said - place) / self.samplerate <= LONGEST_GAP:
                    place = said
            if place is None:
                return
            yield place, samples
            place, shortest = place + len(samples), SHORTEST_GAP

    def _frames(self) -> Iterator[Any]:
        """Decoded frames. Raises `MediaError`."""
        try:
            yield from self._container.decode(self._stream)
        except (self._av.FFmpegError, OSError) as error:
            raise MediaError(_reason(error)) from None

    def _as_floats(self, frame: Any) -> np.ndarray:
        """Samples of a frame, (n, channels) float32."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.samplerate, self._num_channels):
            now = f"from {self.samplerate} Hz, {self._num_channels} channels to {frame.sample_rate} Hz, {frame.layout.nb_channels} channels"
            raise MediaError(f"its sound changes {now}")
        samples = frame.to_ndarray()
        samples = samples.T if frame.format.is_planar else samples.reshape(-1, self._num_channels)
        if samples.dtype.kind == "f":
            return samples.astype(np.float32)
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        offset = full_scale if samples.dtype.kind == "u" else 0.0
        return ((samples - offset) / full_scale).astype(np.float32)


class _Nameless:
    """A file without its name."""

    def __init__(self, file: Any) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def is_installed() -> bool:
    """Whether the package is there that this needs."""
    try:
        _av()
    except UserError:
        return False
    return True


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "Reading sound of other formats than soundfile knows, and of films, needs the package 'av', which is not installed; "
            "run: pip install 'hflab[media]'"
        ) from error
    return av
