"""Where live sound comes from: standard input, or a microphone.

    for samples in standard_input_blocks(sys.stdin.buffer, 16000): ...
    for samples in microphone_blocks(16000): ...

    arecord -q -f S16_LE -r 16000 -c 1 | hflab transcribe MODEL - --stream
    ffmpeg -loglevel error -i rtsp://camera/1 -f s16le -ar 16000 -ac 1 - | hflab transcribe MODEL - --stream

Blocks are one channel, (N,) float32 between -1 and 1, as short as they arrive and at most `BLOCK_SECONDS` long. Standard input is raw samples, or a
WAV file with a header that may not know how long it is to become. Knows nothing about models.
"""

import importlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError, check_choice

BLOCK_SECONDS = 0.1
SAMPLE_FORMATS: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}  # under ffmpeg's names
ENDLESS = 0x7FFFF000  # a WAV header written before the sound has a size of about 2 or 4 GiB, or none
WAV_FORMATS = {(1, 16): "s16le", (3, 32): "f32le"}  # (code, bits of a sample)
EXTENSIBLE = 0xFFFE
MOST_HEADER_BYTES = 1 << 20
COMPRESSED = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\x1aE\xdf\xa3": "WebM or Matroska"}  # by their first bytes


@dataclass(frozen=True)
class _Encoding:
    """How bytes stand for samples."""

    sample_format: str
    num_channels: int = 1
    num_bytes: int | None = None
    """After which the sound ends; None: with the stream."""

    @property
    def num_bytes_per_frame(self) -> int:
        """A sample of every channel."""
        return SAMPLE_FORMATS[self.sample_format].itemsize * self.num_channels

    def decode(self, data: bytes) -> np.ndarray:
        """The mean of the channels, (N,) float32, of whole frames."""
        samples = np.frombuffer(data, SAMPLE_FORMATS[self.sample_format]).astype(np.float32)
        if self.sample_format == "s16le":
            samples /= 32768
        return samples.reshape(-1, self.num_channels).mean(axis=1)


def standard_input_blocks(stream: io.BufferedIOBase, sampling_rate: int, sample_format: str = "s16le") -> Iterator[np.ndarray]:
    """The sound of a stream of bytes, as it comes in.

    Args:
        stream: such as `sys.stdin.buffer`. A part of a sample at its end is left out.
        sampling_rate: that the model hears, in Hz; raw samples are taken to have it.
        sample_format: of raw samples of one channel, a key of `SAMPLE_FORMATS`. A WAV header says it by itself, and may have more channels.

    Yields:
        (N,) float32, N > 0.

    Raises:
        UserError: the stream is a terminal, a compressed file, or WAV at another rate or of samples that are not in `SAMPLE_FORMATS`.
    """
    check_choice("sample_format", sample_format, SAMPLE_FORMATS)
    if stream.isatty():
        raise UserError(
            "Standard input is a terminal; pipe sound into it, such as: "
            f"arecord -q -f S16_LE -r {sampling_rate} -c 1 | hflab transcribe MODEL - --stream"
        )
    beginning = _read_exactly(stream, 12)
    for magic, name in COMPRESSED.items():
        if beginning.startswith(magic):
            raise UserError(f"Standard input is {name}, not samples; decode it first: {_conversion(sampling_rate)}")
    if beginning[:4] == b"RIFF" and beginning[8:] == b"WAVE":
        yield from _decoded(stream, _read_header(stream, sampling_rate), b"", sampling_rate)
    else:
        yield from _decoded(stream, _Encoding(sample_format), beginning, sampling_rate)


def _decoded(stream: io.BufferedIOBase, encoding: _Encoding, data: bytes, sampling_rate: int) -> Iterator[np.ndarray]:
    """The samples of `data` and of what follows it in the stream."""
    whole = encoding.num_bytes_per_frame
    most = max(1, round(BLOCK_SECONDS * sampling_rate)) * whole
    left = None if encoding.num_bytes is None else encoding.num_bytes - len(data)
    while left is None or left > 0:
        room = most - len(data)
        read = stream.read1(room if left is None else min(room, left))  # returns with what there is, and waits only for the first byte
        if not read:
            break
        left = None if left is None else left - len(read)
        data += read
        usable = len(data) - len(data) % whole
        if usable:
            yield encoding.decode(data[:usable])
        data = data[usable:]
    if len(data) >= whole:
        yield encoding.decode(data[: len(data) - len(data) % whole])


def _read_header(stream: io.BufferedIOBase, sampling_rate: int) -> _Encoding:
    """Read the chunks of a WAV file up to its samples."""
    sample_format, num_channels = None, 0
    while len(head := _read_exactly(stream, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data" and sample_format is not None:
            return _Encoding(sample_format, num_channels, None if size == 0 or size >= ENDLESS else size)
        if name == b"data" or size > MOST_HEADER_BYTES:
            break
        content = _read_exactly(stream, size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            sample_format, num_channels = _described(content, sampling_rate)
    raise UserError("Standard input begins like a WAV file, but its header is damaged; send raw samples instead: " + _conversion(sampling_rate))


def _described(content: bytes, sampling_rate: int) -> tuple[str, int]:
    """Sample format and number of channels by the chunk "fmt " of a WAV file."""
    code, num_channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if code == EXTENSIBLE and len(content) >= 26:
        code = struct.unpack("<H", content[24:26])[0]
    if (code, bits) not in WAV_FORMATS or not num_channels:
        allowed = ", ".join(f"{bits}-bit {'integers' if code == 1 else 'floats'}" for code, bits in WAV_FORMATS)
        raise UserError(f"Standard input is WAV with {bits}-bit samples of code {code}, but {allowed} are read; try: {_conversion(sampling_rate)}")
    if rate != sampling_rate:
        raise UserError(f"Standard input has {rate} samples a second, but the model hears {sampling_rate}; try: {_conversion(sampling_rate)}")
    return WAV_FORMATS[code, bits], num_channels


def _conversion(sampling_rate: int) -> str:
    return f"ffmpeg -loglevel error -i INPUT -f s16le -ar {sampling_rate} -ac 1 -"


def _read_exactly(stream: io.BufferedIOBase, count: int) -> bytes:
    """`count` bytes, fewer only at the end of the stream."""
    data = b""
    while len(data) < count and (read := stream.read1(count - len(data))):
        data += read
    return data


def microphone_blocks(sampling_rate: int, device: str | int | None = None) -> Iterator[np.ndarray]:
    """The sound of a microphone, through the package sounddevice, without an end.

    Args:
        sampling_rate: in Hz.
        device: name or number by `python -m sounddevice`; None: the system's choice.

    Yields:
        (N,) float32 of `BLOCK_SECONDS`. A warning tells, once, that sound was lost because it was not taken fast enough.

    Raises:
        UserError: sounddevice or PortAudio is missing, or there is no such microphone.
    """
    sounddevice = _sounddevice()
    block = max(1, round(BLOCK_SECONDS * sampling_rate))
    try:
        with sounddevice.InputStream(samplerate=sampling_rate, channels=1, dtype="float32", blocksize=block, device=device) as stream:
            while True:
                samples, has_lost = stream.read(block)
                if has_lost:
                    warnings.warn("The microphone's sound was not read fast enough, and some is lost; free the processor.", stacklevel=2)
                yield samples[:, 0].copy()
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: no device of that name
        raise UserError(f"The microphone cannot be opened ({error}); `python -m sounddevice` lists the devices.") from None


def _sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise UserError("A microphone needs the package 'sounddevice', which is not installed; run: pip install sounddevice") from error
    except OSError as error:  # the package is there, its library is not
        raise UserError(
            f"A microphone needs the library PortAudio ({error}); install it (apt install libportaudio2), or pipe sound in: "
            "arecord -q -f S16_LE -r 16000 -c 1 | hflab transcribe MODEL - --stream"
        ) from error
