import io
import os
import struct
import sys
import types

import numpy as np
import pytest

from hflab.errors import UserError
from hflab.speech.audio import as_integers, wav_bytes
from hflab.transcription import live_sources
from hflab.transcription.live_sources import SAMPLE_FORMATS, microphone_blocks, standard_input_blocks

RATE = 8000
SAMPLES = np.arange(-1000, 1000, dtype=np.int16) * 30
FLOATS = SAMPLES.astype(np.float32) / 32768


class Trickle(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read1(self, size=-1, /):
        return super().read(min(size, 1 + self.tell() % 5))


def heard(data, stream=io.BytesIO, **options):
    blocks = list(standard_input_blocks(stream(data), RATE, **options))
    assert all(block.dtype == np.float32 and block.ndim == 1 and 0 < len(block) <= RATE // 10 for block in blocks)
    return np.concatenate([np.empty(0, np.float32), *blocks])


def wav(samples=SAMPLES, *, rate=RATE, code=1, channels=1, size=None, before=b"", extra=b""):
    data, bits = samples.tobytes(), 8 * samples.itemsize
    description = struct.pack("<HHIIHH", code, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits) + extra
    header = b"fmt " + struct.pack("<I", len(description)) + description + before
    return b"RIFF\xff\xff\xff\xffWAVE" + header + b"data" + struct.pack("<I", len(data) if size is None else size) + data


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle], ids=["at once", "in drops"])
@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
def test_raw_samples(stream, sample_format):
    raw = (SAMPLES if sample_format == "s16le" else FLOATS).tobytes()
    for end in (b"", b"\x01"):  # an odd byte is left out
        assert np.array_equal(heard(raw + end, stream, sample_format=sample_format), FLOATS)


@pytest.mark.parametrize("num_bytes", range(30))
def test_short_streams_are_samples_whatever_their_length(num_bytes):
    assert np.array_equal(heard(SAMPLES.tobytes()[:num_bytes], Trickle), FLOATS[: num_bytes // 2])


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle], ids=["at once", "in drops"])
def test_wav_headers_are_heeded(stream):
    notes = b"LIST" + struct.pack("<I", 5) + b"notes\0"
    for data in (wav(), wav(before=notes), wav(size=0), wav(size=0xFFFFFFFF), wav(size=0x7FFFFFFF), wav() + notes, wav(FLOATS, code=3)):
        assert np.array_equal(heard(data, stream), FLOATS)
    extensible = struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    assert np.array_equal(heard(wav(code=0xFFFE, extra=extensible), stream), FLOATS)
    assert np.array_equal(heard(wav(np.stack([SAMPLES, np.zeros_like(SAMPLES)], axis=1).copy(), channels=2), stream), FLOATS / 2)


def test_wav_files_as_this_package_writes_them():
    assert np.array_equal(heard(wav_bytes(FLOATS, RATE)), FLOATS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wav(rate=44100), "44100 samples a second, but the model hears 8000; try: ffmpeg .* -ar 8000"),
        (wav(SAMPLES.astype(np.int32)), "32-bit samples of code 1, but 16-bit integers, 32-bit floats"),
        (b"RIFF\xff\xff\xff\xffWAVEdata\0\0\0\0", "header is damaged"),
        (wav()[:30], "header is damaged"),
        (b"fLaC" + bytes(100), "FLAC, not samples; decode it first: ffmpeg"),
        (b"OggS" + bytes(100), "Ogg"),
        (b"ID3\x04" + bytes(100), "MP3"),
    ],
)
def test_what_cannot_be_read_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        heard(data)


def test_a_terminal_and_an_unknown_format_are_refused():
    terminal = io.BytesIO()
    terminal.isatty = lambda: True
    with pytest.raises(UserError, match="is a terminal; pipe sound into it, such as: arecord -q -f S16_LE -r 8000"):
        list(standard_input_blocks(terminal, RATE))
    with pytest.raises(UserError, match="s16le"):
        heard(b"", sample_format="s16")


def test_blocks_come_as_soon_as_there_is_data():
    """With a pipe, which nobody else fills: a read that waited for a whole block would never return."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        blocks = standard_input_blocks(stream, RATE)
        for number in range(20):
            some = SAMPLES[10 * number : 10 * number + 10]
            os.write(writer, some.tobytes())
            assert np.array_equal(as_integers(next(blocks)), some)
        os.write(writer, b"\x01")
        os.close(writer)
        assert next(blocks, None) is None


class FakeMicrophone:
    """Stands in for sounddevice.InputStream: PortAudio cannot be tried where there is no sound card."""

    def __init__(self, **settings):
        self.settings, self.count = settings, 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.settings["closed"] = True

    def read(self, size):
        self.count += 1
        return np.full((size, 1), self.count / 10, np.float32), self.count == 2


def test_a_microphone_is_read_block_by_block(monkeypatch):
    opened = []
    fake = types.SimpleNamespace(PortAudioError=OSError, InputStream=lambda **settings: opened.append(FakeMicrophone(**settings)) or opened[-1])
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    blocks = microphone_blocks(RATE)
    assert np.array_equal(next(blocks), np.full(800, 0.1, np.float32))
    with pytest.warns(UserWarning, match="some is lost"):
        next(blocks)
    blocks.close()
    assert opened[0].settings == {"samplerate": RATE, "channels": 1, "dtype": "float32", "blocksize": 800, "device": None, "closed": True}


def test_a_microphone_that_is_missing_is_told_plainly(monkeypatch):
    def cannot(name):
        raise OSError("PortAudio library not found")

    def no_device(**settings):
        raise ValueError("No input device matching 'desk'")

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="pip install sounddevice"):
        next(microphone_blocks(RATE))
    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(PortAudioError=OSError, InputStream=no_device))
    with pytest.raises(UserError, match=r"No input device matching 'desk'.*lists the devices"):
        next(microphone_blocks(RATE, "desk"))
    monkeypatch.setattr(live_sources.importlib, "import_module", cannot)
    with pytest.raises(UserError, match=r"PortAudio library not found.*libportaudio2.*arecord"):
        next(microphone_blocks(RATE))
