"""What is measured of a sound: silence, clipping, offset, and a hash that knows it again in another format."""

import io

import numpy as np
import pytest
import soundfile

from hflab.speech import audio
from hflab.speech.audio import SoundBlock, as_integers, read_blocks, read_waveform, resampled_length
from hflab.speech.noise import NOISES
from hflab.speech.sound_quality import measure_sound

RATE = 16000


def spoken(seconds=2.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * 220 * time) * ((time % 0.2) < 0.12)


def measured(*channels, rate=RATE):
    return measure_sound([SoundBlock(np.stack(channels, axis=1).astype(np.float32), rate)])


def file_of(samples, rate=RATE, **how):
    target = io.BytesIO()
    soundfile.write(target, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **how})
    return target.getvalue()


def test_a_sound_without_fault_has_none():
    found = measured(spoken())
    assert (found.silence, found.full_scale_share, found.num_channels, found.num_samples) == ("", 0, 1, 2 * RATE)
    assert abs(found.offset) < 3e-3
    assert found.leading_seconds < 0.1
    assert found.trailing_seconds < 0.2
    assert found.loudness == pytest.approx(20 * np.log10(np.sqrt(np.mean(spoken() ** 2))), abs=0.01)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seconds", [0.5, 3.0, 12.0])
def test_noise_alone_is_silence(noise, seconds):
    generator = np.random.default_rng(1)
    assert "noise" in measured(0.03 * NOISES[noise](round(seconds * RATE), generator)).silence


@pytest.mark.parametrize("noise", NOISES)
def test_speech_in_noise_is_none(noise):
    generator = np.random.default_rng(1)
    assert measured(spoken() + 0.03 * NOISES[noise](2 * RATE, generator)).silence == ""


@pytest.mark.parametrize(("sound", "expected"), [(np.zeros(RATE), "digital"), (np.full(RATE, 0.2), "digital"), (1e-5 * spoken(), "dBFS")])
def test_what_cannot_be_heard_is_silence(sound, expected):
    found = measured(sound)
    assert expected in found.silence
    assert found.heard_seconds == found.seconds


def test_channels_that_cancel_each_other_are_silence():
    assert measured(spoken(), -spoken()).silence == "digital silence"


@pytest.mark.parametrize("level", [0, 1e-3, 1e-2])
def test_silent_ends_are_measured_in_noise_too(level):
    generator = np.random.default_rng(1)
    sound = np.concatenate([np.zeros(3 * RATE), spoken(), np.zeros(4 * RATE)])
    found = measured(sound + level * generator.standard_normal(len(sound)))
    assert found.leading_seconds == pytest.approx(3, abs=0.1)
    assert found.trailing_seconds == pytest.approx(4.08, abs=0.15)


def test_clipping_counts_in_either_channel_and_as_16_bit_samples_have_it():
    loud = np.clip(4 * spoken(), -1, 1)
    share = np.mean(np.abs(loud) >= 1)
    assert share > 0.1
    assert measured(loud, spoken()).full_scale_share == pytest.approx(share)
    assert measure_sound(read_blocks(file_of(loud))).full_scale_share == pytest.approx(share, rel=0.05)


def test_the_same_sound_has_the_same_hash_in_every_format_without_loss_and_no_other_sound_has():
    sound = as_integers(spoken())
    same = {measure_sound(read_blocks(file_of(sound, **how))).digest for how in ({}, {"format": "FLAC"}, {"format": "AIFF"}, {"subtype": "PCM_24"})}
    both = measure_sound(read_blocks(file_of(np.stack([sound, sound], axis=1)))).digest
    assert same == {both}
    assert measure_sound(read_blocks(file_of(sound, rate=8000))).digest not in same
    assert measure_sound(read_blocks(file_of(sound[:-1]))).digest not in same


def test_blocks_are_measured_as_the_whole_is(monkeypatch):
    content = file_of(np.concatenate([np.zeros(RATE), spoken(5), np.zeros(RATE)]) + 0.001)
    whole = measure_sound(read_blocks(content))
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 2)
    assert len(list(read_blocks(content))) == 4
    assert np.array_equal(np.concatenate([block.samples[:, 0] for block in read_blocks(content)]), read_waveform(content, RATE))
    parts = measure_sound(read_blocks(content))
    exact = ("digest", "num_samples", "full_scale_share", "silence")
    assert [getattr(parts, name) for name in exact] == [getattr(whole, name) for name in exact]
    assert parts.offset == pytest.approx(whole.offset)
    assert parts.loudness == pytest.approx(whole.loudness)
    assert parts.leading_seconds == pytest.approx(whole.leading_seconds, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 16000])
@pytest.mark.parametrize("num_samples", [1, 999, 16001])
def test_the_length_at_another_rate_is_known_without_resampling(rate, num_samples):
    assert resampled_length(num_samples, rate, RATE) == len(read_waveform(file_of(spoken()[:num_samples], rate=rate), RATE))
