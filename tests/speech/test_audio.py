import math
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hflab.errors import UserError
from hflab.speech import audio
from hflab.speech.audio import (
    SOUNDFILE_EXTENSIONS,
    UnreadableRecording,
    as_floats,
    as_integers,
    read_blocks,
    read_waveform,
    resample,
    wav_bytes,
)
from hflab.speech.synthesis import speak

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("scipy")

RATES = [8000, 11025, 16000, 22050, 44100, 48000]
# (suffix, subtype): the largest error of a sample; compressed ones lose more
FORMATS = {
    (".wav", "PCM_U8"): 1 / 100,
    (".wav", "PCM_16"): 1 / 32000,
    (".wav", "PCM_24"): 1e-6,
    (".wav", "PCM_32"): 1e-6,
    (".wav", "FLOAT"): 1e-7,
    (".wav", "DOUBLE"): 1e-7,
    (".flac", "PCM_16"): 1 / 32000,
    (".flac", "PCM_24"): 1e-6,
    (".aiff", "PCM_16"): 1 / 32000,
    (".au", "PCM_16"): 1 / 32000,
    (".caf", "PCM_16"): 1 / 32000,
    (".w64", "PCM_16"): 1 / 32000,
    (".rf64", "PCM_16"): 1 / 32000,
    (".mp3", "MPEG_LAYER_III"): 0.1,
    (".ogg", "VORBIS"): 0.1,
    (".ogg", "OPUS"): 0.1,
}
FORMAT_NAMES = {".caf": "CAF", ".w64": "W64", ".rf64": "RF64"}


def tone(frequency, rate, seconds=1.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, samples, rate=16000, **options):
    options.setdefault("format", FORMAT_NAMES.get(path.suffix))
    soundfile.write(path, samples, rate, **options)
    return path


def level_of(waveform, frequency, rate):
    """Amplitude of a tone in the middle of the waveform, and the root mean square of all else."""
    middle = waveform[len(waveform) // 4 : 3 * len(waveform) // 4].astype(np.float64)
    times = np.arange(len(waveform))[len(waveform) // 4 : 3 * len(waveform) // 4] / rate
    found = 2 * np.mean(middle * np.exp(-2j * np.pi * frequency * times))
    rest = middle - (found * np.exp(2j * np.pi * frequency * times)).real
    return abs(found), math.sqrt(np.mean(rest**2))


def refusal(source, **part):
    with pytest.raises(UnreadableRecording) as caught:
        read_waveform(source, 16000, **part)
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_format_is_read_from_files_and_from_bytes(tmp_path, suffix, subtype, as_bytes):
    samples = tone(440, 16000)
    path = write(tmp_path / f"Tön 1{suffix}", samples, subtype=subtype)
    waveform = read_waveform(path.read_bytes() if as_bytes else path, 16000)
    assert waveform.dtype == np.float32
    assert waveform.shape == samples.shape
    assert np.abs(waveform - samples)[1000:-1000].max() < FORMATS[suffix, subtype]  # where a block is filled up, compression is coarse


def test_every_ending_that_soundfile_is_given_is_written_by_one_of_its_formats():
    known = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".oga", ".aif", ".aifc"}
    assert set(SOUNDFILE_EXTENSIONS) <= known
    assert {suffix for suffix, _ in FORMATS} <= set(SOUNDFILE_EXTENSIONS)


@pytest.mark.parametrize("num_channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, num_channels):
    channels = np.stack([tone(200 * (number + 1), 16000, level=0.9) for number in range(num_channels)], axis=1)
    waveform = read_waveform(write(tmp_path / "a.wav", channels, subtype="FLOAT"), 16000)
    assert np.allclose(waveform, channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("new_rate", [8000, 16000, 22050])
@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_its_frequency_level_and_length_at_another_rate(rate, new_rate):
    seconds = 1.0 + 7 / rate
    nyquist = min(rate, new_rate) / 2
    for frequency in (100.0, 0.3 * nyquist, 0.8 * nyquist):
        found = resample(tone(frequency, rate, seconds), rate, new_rate)
        assert len(found) == math.ceil(round(seconds * rate) * new_rate / rate)
        assert found.dtype == np.float32
        level, rest = level_of(found, frequency, new_rate)
        assert level == pytest.approx(0.5, rel=0.01)
        assert rest < 0.5 / 300  # -50 dB


@pytest.mark.parametrize(("rate", "new_rate"), [(16000, 8000), (22050, 16000), (44100, 16000), (48000, 8000), (48000, 22050), (44100, 11025)])
def test_what_the_new_rate_cannot_hold_is_gone_and_does_not_come_back_as_another_tone(rate, new_rate):
    for share in (1.2, 1.5, 1.9):
        frequency = share * new_rate / 2
        if frequency < rate / 2:
            found = resample(tone(frequency, rate), rate, new_rate)
            assert np.sqrt(np.mean(found[len(found) // 4 : -len(found) // 4] ** 2)) < 0.5 / 300


def test_a_file_is_resampled_and_the_same_rate_changes_nothing(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([tone(300, 44100)] * 2, axis=1), 44100)
    assert level_of(read_waveform(path, 16000), 300, 16000)[0] == pytest.approx(0.5, rel=0.01)
    waveform = tone(300, 16000)
    assert np.array_equal(resample(waveform, 16000, 16000), waveform)
    assert len(resample(waveform[:1], 48000, 8000)) == 1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.25), (0.3, 0.7), (0.5, None), (0.9, 3.0)])
def test_a_part_is_that_stretch_of_the_whole(tmp_path, suffix, start, end):
    path = write(tmp_path / f"a{suffix}", tone(220, 22050, level=0.4), 22050)
    whole = read_waveform(path, 22050)
    part = read_waveform(path, 22050, start_seconds=start, end_seconds=end)
    assert np.allclose(part, whole[round(start * 22050) : None if end is None else round(end * 22050)], atol=1e-6)


def test_a_long_recording_is_read_in_blocks_that_make_up_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 0.3)
    samples = np.stack([tone(220, 8000), tone(330, 8000)], axis=1)
    path = write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    blocks = list(read_blocks(path))
    assert [len(block.samples) for block in blocks] == [2400, 2400, 2400, 800]
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), samples)
    assert np.array_equal(read_waveform(path, 8000), samples.mean(axis=1, dtype=np.float32))
    part = np.concatenate([block.samples for block in read_blocks(path, start_seconds=0.2, end_seconds=0.7)])
    assert np.array_equal(part, samples[1600:5600])


@pytest.mark.parametrize(
    ("start", "end", "fragment"),
    [
        (1.0, None, "holds no samples, and the part from 1 to its end"),
        (2.5, None, "ends after 1.00 s, and the part from 2.5 to its end"),
        (2.5, 3.0, "ends after 1.00 s, and the part from 2.5 to 3 s"),
        (0.5, 0.5, "has no such part, and the part from 0.5 to 0.5 s"),
        (0.6, 0.5, "has no such part"),
        (-0.5, None, "has no such part"),
        (float("nan"), 1.0, "has no such part"),
        (0.0, float("nan"), "has no such part"),
        (0.0, float("inf"), "has no such part"),
        (float("inf"), None, "has no such part"),
    ],
)
def test_a_part_outside_the_recording_is_refused(tmp_path, start, end, fragment):
    message = refusal(write(tmp_path / "a.wav", tone(220, 16000)), start_seconds=start, end_seconds=end)
    assert message.startswith(f"a.wav {fragment}")


NO_AUDIO = {
    "empty.wav": b"",
    "empty.flac": b"",
    "text.wav": b"This is a letter and no sound.\n" * 50,
    "page.mp3": b"<!DOCTYPE html><html>404</html>" * 50,
    "zeros.ogg": bytes(5000),
    "zeros.wav": bytes(5000),
    "picture.wav": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    "header.wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
}


@pytest.mark.parametrize("name", NO_AUDIO)
def test_what_is_no_audio_is_named_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(NO_AUDIO[name])
    for source in (tmp_path / name, NO_AUDIO[name]):
        message = refusal(source, name=name)
        assert message.startswith(f"{name} cannot be decoded (")
        assert message.endswith("or mend the file.")
        assert ".flac" in message


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "broken.wav").symlink_to(tmp_path / "gone.wav")
    for path in (tmp_path / "none.wav", tmp_path / "folder.wav", tmp_path / "broken.wav", tmp_path / ("n" * 3000), Path("nul\0.wav")):
        assert refusal(path) == f"There is no recording {str(path)!r}; check the path."
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    assert refusal(tmp_path / "a.raw").startswith("a.raw has no header that says its rate")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".aiff", ".au", ".caf"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_recording_that_is_cut_off_is_refused(tmp_path, suffix, share):
    path = write(tmp_path / f"whole{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), subtype="PCM_16" if suffix != ".ogg" else None)
    content = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(share * len(content))])
    message = refusal(cut)
    assert message.startswith(f"cut{suffix} ")
    if suffix in (".wav", ".aiff", ".au"):
        assert message == f"cut{suffix} is cut off, {100 * share:.0f} % of the sound that it announces is there; copy it again or leave it out."
    assert "the part from" not in message


def test_an_mp3_that_is_cut_off_is_warned_of(tmp_path, caplog):
    content = write(tmp_path / "whole.mp3", np.tile(tone(440, 16000), 4)).read_bytes()
    assert len(read_waveform(content, 16000)) == 64000
    assert caplog.text == ""
    found = read_waveform(content[: len(content) // 2], 16000, name="talk.mp3")
    assert 0 < len(found) < 40000
    assert "talk.mp3 has " in caplog.text
    assert "where 4.00 s were announced" in caplog.text


@pytest.mark.parametrize("announced", [0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFF0])
def test_a_file_that_was_written_to_a_pipe_is_whole_though_its_header_announces_more(announced):
    content = bytearray(wav_bytes(tone(440, 16000), 16000))
    content[40:44] = struct.pack("<I", announced)
    assert len(read_waveform(bytes(content), 16000)) == 16000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_values_that_are_no_numbers_are_refused(tmp_path, value, num_channels):
    samples = np.stack([tone(440, 16000)] * num_channels, axis=1)
    samples[1234, -1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "holds values that are no finite numbers; mend" in refusal(write(tmp_path / "n.wav", samples, subtype="FLOAT"))


def test_a_file_without_samples_and_one_with_an_impossible_rate_are_refused(tmp_path):
    assert refusal(write(tmp_path / "none.wav", np.zeros(0))) == "none.wav holds no samples; leave it out."
    assert "says it has 200 samples a second" in refusal(write(tmp_path / "slow.wav", np.zeros(100), 200))


def test_a_float_file_may_exceed_full_scale_and_is_clipped_in_integers(tmp_path):
    waveform = read_waveform(write(tmp_path / "loud.wav", tone(440, 16000, level=3.0), subtype="FLOAT"), 16000)
    assert waveform.max() > 2.9
    assert as_integers(waveform).max() == 32767
    assert as_integers(waveform).min() == -32768


def test_integers_of_16_bits_survive_the_round_trip():
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(as_integers(as_floats(every)), every)
    assert as_floats(every).dtype == np.float32
    assert np.abs(as_floats(as_integers(tone(440, 16000))) - tone(440, 16000)).max() <= 0.5 / 32768
    assert np.array_equal(read_waveform(wav_bytes(as_floats(every), 8000), 8000), as_floats(every))


NEEDED = {
    "soundfile": lambda: read_waveform(b"", 16000),
    "scipy": lambda: resample(np.zeros(9, dtype=np.float32), 8000, 16000),
    "espeakng_loader": lambda: speak("en", [], 16000),
}


@pytest.mark.parametrize("package", NEEDED)
def test_a_missing_package_names_its_extra_and_is_no_fault_of_a_recording(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package '{package.replace('_', '-')}', .*pip install 'hflab\[speech\]'") as caught:
        NEEDED[package]()
    assert not isinstance(caught.value, UnreadableRecording)


WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1:])
import hflab.data.speech_preparation
from hflab.data.speech_corpus import load_speech
from hflab.recipe import DataSection
load_speech(DataSection(source="synthetic_speech"), sampling_rate=16000, normalizer="basic")
"""


def test_without_the_extra_all_but_sound_is_there():
    done = subprocess.run([sys.executable, "-c", WITHOUT, *NEEDED, "torchcodec", "torchaudio"], capture_output=True, text=True, check=False)
    assert "UserError" in done.stderr.splitlines()[-1]
    assert "pip install 'hflab[speech]'" in done.stderr
