import logging
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hflab.data.checked_clips import checked_clips
from hflab.data.speech_folders import TableColumns, read_clips
from hflab.data.waveform_store import open_waveforms
from hflab.errors import UserError
from hflab.speech import audio, media_file
from hflab.speech.audio import EXTENSIONS, UnreadableRecording, duration_of, read_blocks, read_waveform
from hflab.speech.media_file import MediaFile
from hflab.speech.text_normalization import NORMALIZERS
from hflab.transcription.recordings import find_recordings

av = pytest.importorskip("av")
signal = pytest.importorskip("scipy.signal")

LOST_FRAME = 0.02  # seconds: the encoder of WMA drops what fills no frame
ADDED_FRAMES = 0.15  # seconds of silence by which encoders fill up the ends, where the format does not say how many


@dataclass(frozen=True)
class Written:
    """How a file of a format is made, and how near its sound must be."""

    codec: str
    rate: int = 16000
    delay: float = 0.0
    """Seconds that the encoder adds before the sound, which the format says nothing of."""
    error: float = 0.08
    """Root mean square of the difference, relative to that of the sound."""
    has_picture: bool = False
    format: str | None = None
    bit_rate: int | None = None


AAC_DELAY = 1024
SUFFIXES = {
    ".m4a": Written("aac"),
    ".m4b": Written("alac", error=1e-4),
    ".mp4": Written("aac", 44100, has_picture=True),
    ".m4v": Written("aac", has_picture=True, format="mp4"),
    ".mov": Written("pcm_s16le", error=1e-3, has_picture=True),
    ".3gp": Written("aac", 8000, format="3gp"),
    ".webm": Written("libopus", 48000, error=0.2, has_picture=True),
    ".mka": Written("libopus", 48000, error=0.2, format="matroska"),
    ".mkv": Written("flac", error=1e-3, has_picture=True),
    ".aac": Written("aac", delay=AAC_DELAY / 16000),
    ".flv": Written("aac", 44100, delay=AAC_DELAY / 44100),
    ".mts": Written("aac", 48000, delay=AAC_DELAY / 48000, format="mpegts"),
    ".wma": Written("wmav2", delay=512 / 16000, bit_rate=64000),
    ".wmv": Written("wmav2", delay=512 / 16000, bit_rate=64000, has_picture=True),
    ".amr": Written("libopencore_amrnb", 8000, delay=0.005, error=1.2),  # telephone speech: the wave itself is not kept
    ".ac3": Written("ac3", 48000, delay=256 / 48000),
    ".avi": Written("mp2", has_picture=True, delay=481 / 16000),
    ".mpg": Written("mp2", 48000, delay=481 / 48000),
    ".mpeg": Written("mp2", 48000, delay=481 / 48000),
    ".tta": Written("tta", error=0.05),  # its encoder is asked for 8 bits first
}


def rustle(rate, seconds=2.0):
    """Noise between 200 and 3,000 Hz that swells and fades, (N,): every stretch of it is found at one place only."""
    filtered = signal.sosfilt(signal.butter(6, [200, 3000], "bandpass", fs=16000, output="sos"), np.random.default_rng(0).standard_normal(32000))
    loud = 0.6 * filtered / np.abs(filtered).max() * (0.3 + 0.7 * np.abs(np.sin(np.arange(32000) / 3000)))
    divisor = np.gcd(rate, 16000)
    return signal.resample_poly(loud, rate // divisor, 16000 // divisor)[: round(seconds * rate)].astype(np.float32)


def write(path, pieces, how, **container_options):
    """Write samples (N,) or (channels, N), from the second on at which each piece begins; the picture lasts four seconds."""
    with av.open(path, "w", format=how.format, container_options=container_options) as out:
        planes = np.atleast_2d(pieces[0][1])
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(planes)]
        track = out.add_stream(how.codec, rate=how.rate, layout=layout)
        if how.bit_rate:
            track.bit_rate = how.bit_rate
        track.codec_context.open()
        if how.has_picture:
            add_picture(out, path)
        for start, samples in pieces:
            codec = track.codec_context
            fitted = av.AudioResampler(format=codec.format, layout=layout, rate=how.rate, frame_size=codec.frame_size or None)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.atleast_2d(samples)), format="fltp", layout=layout)
            frame.sample_rate = how.rate
            place = round(start * how.rate)
            for part in [*fitted.resample(frame), *fitted.resample(None)]:
                part.pts, part.time_base = place, Fraction(1, how.rate)
                place += part.samples
                out.mux(track.encode(part))
        out.mux(track.encode())
    return path


def add_picture(out, path):
    picture = out.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=5)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p"
    for number in range(20):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, dtype=np.uint8))
        frame.pts, frame.time_base = number, Fraction(1, 5)
        out.mux(picture.encode(frame))
    out.mux(picture.encode())


def differs(found, expected, delay):
    """How much the middle of `expected` differs from what stands there in `found`, so many samples later: root mean square, relative."""
    start, end = len(expected) // 4, 3 * len(expected) // 4
    return np.sqrt(np.mean((found[start + delay : end + delay] - expected[start:end]) ** 2) / np.mean(expected[start:end] ** 2))


def lag_of(found, expected, most):
    """By how many samples the middle of `expected` comes later in `found`, at most `most`."""
    start, end = len(expected) // 2, len(expected) // 2 + len(expected) // 8
    return int(np.correlate(found[start - most : end + most], expected[start:end], "valid").argmax()) - most


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_format_is_read_from_files_and_from_bytes(tmp_path, suffix):
    how = SUFFIXES[suffix]
    samples = rustle(how.rate)
    path = write(tmp_path / f"Tön 1{suffix}", [(0, samples)], how)
    found = read_waveform(path, how.rate)
    assert found.dtype == np.float32
    assert -LOST_FRAME <= len(found) / how.rate - 2.0 <= (ADDED_FRAMES if how.delay else 0.001)
    delay = round(how.delay * how.rate)
    assert abs(lag_of(found, samples, delay + 200) - delay) <= 1
    assert differs(found, samples, delay) < how.error
    assert np.array_equal(read_waveform(path.read_bytes(), how.rate), found)
    assert abs(duration_of(path) - len(found) / how.rate) < 0.05


def test_every_ending_is_tested_and_looked_for():
    assert set(SUFFIXES) == set(media_file.EXTENSIONS)
    assert set(media_file.EXTENSIONS) < set(EXTENSIONS)
    assert len(EXTENSIONS) == len(set(EXTENSIONS))


@pytest.mark.parametrize("num_channels", [2, 6])
def test_channels_are_averaged_and_the_rate_changes(tmp_path, num_channels):
    sound = rustle(44100)
    path = write(tmp_path / "a.m4a", [(0, np.stack([sound * (number % 2) for number in range(num_channels)]))], Written("alac", 44100))
    assert next(read_blocks(path)).samples.shape == (88200, num_channels)
    assert differs(read_waveform(path, 44100), 0.5 * sound, 0) < 1e-3
    assert differs(read_waveform(path, 16000), 0.5 * rustle(16000), 0) < 0.05


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".mkv", ".webm", ".wma", ".aac", ".mts"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.25), (0.3, 0.7), (1.5, None), (1.9, 9.0)])
def test_a_part_is_that_stretch_of_the_whole(tmp_path, suffix, start, end):
    how = SUFFIXES[suffix]
    path = write(tmp_path / f"a{suffix}", [(0, rustle(how.rate))], how)
    expected = read_waveform(path, how.rate)[round(start * how.rate) : None if end is None else round(end * how.rate)]
    part = read_waveform(path, how.rate, start_seconds=start, end_seconds=end)
    rounding = how.rate // 1000 if suffix in (".mkv", ".webm") else 0  # Matroska keeps times in whole milliseconds
    assert abs(len(part) - len(expected)) <= rounding
    if len(expected) > how.rate // 5:
        delay = lag_of(part, expected, rounding)
        assert differs(part, expected, delay) < (0.1 if how.codec == "libopus" else 0.02)  # codecs add noise of their own


def test_a_long_recording_is_read_in_blocks_that_make_up_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 0.3)
    path = write(tmp_path / "a.m4a", [(0, np.stack([rustle(8000), rustle(8000)]))], Written("alac", 8000))
    blocks = list(read_blocks(path))
    assert [len(block.samples) for block in blocks] == [2400] * 6 + [1600]
    monkeypatch.undo()
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), next(read_blocks(path)).samples)


def test_far_into_a_long_recording_nothing_before_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", [(0, np.tile(rustle(8000), 400))], Written("alac", 8000))  # 13 minutes, more than a gap may last
    frames = []
    monkeypatch.setattr(MediaFile, "_as_floats", lambda self, frame, old=MediaFile._as_floats: frames.append(1) or old(self, frame))
    part = read_waveform(path, 8000, start_seconds=701.0, end_seconds=701.5)
    assert np.allclose(part, rustle(8000)[8000:12000], atol=1e-3)
    assert len(frames) < 10


@pytest.mark.parametrize(("suffix", "rate", "codec"), [(".mp4", 16000, "aac"), (".webm", 48000, "libopus"), (".mkv", 16000, "flac")])
def test_the_sound_of_a_film_stands_where_its_picture_does(tmp_path, suffix, rate, codec):
    late = write(tmp_path / f"late{suffix}", [(1.0, rustle(rate))], Written(codec, rate, has_picture=True))
    found = read_waveform(late, rate)
    assert len(found) / rate == pytest.approx(3.0, abs=0.01)
    assert np.abs(found[: int(0.98 * rate)]).max() < 0.01  # codecs spread a little
    assert abs(lag_of(found[round(0.99 * rate) :], rustle(rate), rate // 50) - 0.01 * rate) <= 0.002 * rate
    assert len(read_waveform(late, rate, start_seconds=0.2, end_seconds=0.6)) == round(0.4 * rate)
    gap = write(tmp_path / f"gap{suffix}", [(0.0, rustle(rate, 1.0)), (3.0, rustle(rate, 1.0))], Written(codec, rate))
    found = read_waveform(gap, rate)
    assert len(found) / rate == pytest.approx(4.0, abs=0.05)
    assert np.abs(found[int(1.1 * rate) : int(2.9 * rate)]).max() < 1e-3
    assert np.abs(found[int(3.1 * rate) :]).max() > 0.1


def test_a_header_without_a_length_is_no_hindrance(tmp_path, caplog):
    live = write(tmp_path / "live.webm", [(0, rustle(48000))], Written("libopus", 48000), live="1")  # as browsers record
    pieces = write(tmp_path / "pieces.mp4", [(0, rustle(16000))], Written("aac"), movflags="frag_keyframe+empty_moov", frag_duration="300000")
    for path in (live, pieces):
        assert duration_of(path) == pytest.approx(2.0, abs=0.1)
        assert len(read_waveform(path, 16000)) == pytest.approx(32000, abs=1600)
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", [".m4a", ".webm", ".wma", ".amr"])
@pytest.mark.parametrize("seconds", [0.05, 0.1])
def test_very_short_recordings_are_read_silently(tmp_path, suffix, seconds, caplog):
    how = SUFFIXES[suffix]
    sound = rustle(how.rate, 1.0)[-round(seconds * how.rate) :]
    found = read_waveform(write(tmp_path / f"a{suffix}", [(0, sound)], how), how.rate)
    assert 0.5 * seconds <= len(found) / how.rate <= seconds + 0.08
    assert caplog.text == ""


NO_AUDIO = {
    "empty.m4a": b"",
    "text.m4a": b"This is a letter and no sound.\n" * 50,
    "page.webm": b"<!DOCTYPE html><html>404</html>" * 50,
    "zeros.mp4": bytes(5000),
    "picture.mp4": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", NO_AUDIO)
def test_what_is_no_audio_is_named_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(NO_AUDIO[name])
    with pytest.raises(UnreadableRecording, match=rf"^{name} cannot be decoded \(.*; give one of: .*\.webm, .*, or mend the file\.$"):
        read_waveform(tmp_path / name, 16000)
    assert duration_of(tmp_path / name) == 0


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_a_file_that_names_others_is_not_followed(tmp_path, playlist):
    private = write(tmp_path / "private.mts", [(0, rustle(48000))], SUFFIXES[".mts"])
    for name in ("list.mp4", "list.m3u8", "list.wav"):
        (tmp_path / name).write_text(playlist.format(private))
        with pytest.raises(UnreadableRecording, match="cannot be decoded"):
            read_waveform(tmp_path / name, 16000)


def test_the_name_of_a_file_is_no_address_and_says_nothing_of_its_format(tmp_path, monkeypatch):
    written = write(tmp_path / "a.m4a", [(0, rustle(16000))], SUFFIXES[".m4a"])
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.m4a", "data:x,y.mp4", "talk.wma", "talk.wav", "talk"):
        assert len(read_waveform(written.rename(tmp_path / name), 16000)) == 32000
        written = Path(name)
        assert len(read_waveform(written, 16000)) == 32000


def test_a_film_without_sound_says_so(tmp_path):
    with av.open(tmp_path / "silent.mp4", "w") as out:
        add_picture(out, tmp_path / "silent.mp4")
    with pytest.raises(UnreadableRecording, match=r"silent.mp4 cannot be decoded \(it has no sound, only video\)"):
        read_waveform(tmp_path / "silent.mp4", 16000)


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_that_is_cut_off_is_refused_or_warned_of(tmp_path, suffix, share, caplog):
    content = write(tmp_path / f"whole{suffix}", [(0, rustle(SUFFIXES[suffix].rate))], SUFFIXES[suffix]).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    try:
        found = read_waveform(path, 16000)
    except UnreadableRecording as error:
        assert str(error).startswith(f"cut{suffix} ")  # noqa: PT017 - either is right
    else:
        # films keep sound and picture apart, so a share of the file is no share of the sound
        assert suffix in (".ac3", ".aac", ".mts", ".mpg", ".mpeg", ".amr", ".wmv") or "where " in caplog.text or len(found) > 31000


def test_a_damaged_recording_is_refused(tmp_path):
    content = bytearray(write(tmp_path / "a.m4a", [(0, rustle(16000))], SUFFIXES[".m4a"]).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = np.random.default_rng(1).bytes(200)
    with pytest.raises(UnreadableRecording, match="cannot be decoded"):
        read_waveform(bytes(content), 16000, name="a.m4a")


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path = write(tmp_path / "a.mka", [(0, rustle(48000))], SUFFIXES[".mka"])
    content = path.read_bytes()
    assert b"Lavf" in content
    assert len(read_waveform(content.replace(b"Lavf", b"L\xe4\xff\xfe"), 48000)) == 96000


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.m4a", [(0, rustle(16000))], SUFFIXES[".m4a"])
    (tmp_path / "text.wav").write_bytes(b"no sound" * 99)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs the package 'av', .*pip install 'hflab\[media\]'$") as caught:
        read_waveform(path, 16000)
    assert not isinstance(caught.value, UnreadableRecording)
    assert duration_of(path) == 0
    for source in (path.read_bytes(), tmp_path / "text.wav"):
        with pytest.raises(UnreadableRecording, match=r"or mend the file, or, for other formats, run: pip install 'hflab\[media\]'\.$"):
            read_waveform(source, 16000)
    assert logging.WARNING not in {record.levelno for record in caplog.records}


def test_folders_of_training_data_and_recordings_to_transcribe_may_hold_them(tmp_path):
    for name in ("Ann/a.m4a", "Bob/b.webm"):
        path = tmp_path / name
        path.parent.mkdir()
        write(path, [(0, rustle(SUFFIXES[path.suffix].rate))], SUFFIXES[path.suffix])
        path.with_suffix(".txt").write_text("one two")
    clips = read_clips(str(tmp_path), TableColumns("audio", "text"))["train"]
    assert [(clip.audio.name, clip.speaker) for clip in clips] == [("Ann/a.m4a", "Ann"), ("Bob/b.webm", "Bob")]
    waveforms = open_waveforms(tmp_path / "cache", clips, 16000)
    assert waveforms.lengths.tolist() == [32000, 32000]
    assert find_recordings([tmp_path]) == [tmp_path / "Ann/a.m4a", tmp_path / "Bob/b.webm"]
    checked = checked_clips({"train": clips}, sampling_rate=16000, normalizer=NORMALIZERS["basic"])
    assert [(clip.error, clip.seconds, clip.sound.sampling_rate) for clip in checked] == [("", 2.0, 16000), ("", 2.0, 48000)]
