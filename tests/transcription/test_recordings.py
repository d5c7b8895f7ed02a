from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tone_recognizer import RATE, build, draw_text, noise, recording, seconds_of, speak

from hflab.errors import UserError
from hflab.speech.audio import wav_bytes
from hflab.speech.ctc_decoding import CtcAlphabet
from hflab.speech.segmentation import SegmentationOptions
from hflab.transcription.recordings import TranscriptionOptions, find_recordings, transcribe_file, transcribe_waveform

ENERGY = TranscriptionOptions(SegmentationOptions(method="energy"))
WINDOWS = TranscriptionOptions(SegmentationOptions(method="windows", window_seconds=2.0))


def test_every_utterance_of_a_recording_is_found_where_it_is(trained):
    generator = np.random.default_rng(1)
    waveform, texts, starts = recording(generator, 15)
    spoken = transcribe_waveform(trained, waveform, ENERGY)
    assert spoken.text == " ".join(texts)
    words = iter(spoken.words)
    for text, start in zip(texts, starts, strict=True):
        found = [next(words) for _ in text.split()]
        assert start / RATE - 0.1 < found[0].start < start / RATE + 0.2
        assert found[-1].end < (start + len(speak(text, generator))) / RATE + 0.3
    assert spoken.seconds == pytest.approx(len(waveform) / RATE)
    assert sum(len(speak(text, generator)) for text in texts) / RATE < spoken.speech_seconds < spoken.seconds
    assert 0 < spoken.real_time_factor < 10


@pytest.mark.parametrize("options", [ENERGY, WINDOWS, replace(WINDOWS, batch_seconds=0.5)], ids=["energy", "windows", "one by one"])
def test_words_lie_in_the_recording_in_order(options):
    """Of a model that hears words everywhere."""
    recognizer = build()
    with torch.no_grad():
        recognizer.model.lm_head.weight *= 20
    waveform, _, _ = recording(np.random.default_rng(2), 6)
    words = transcribe_waveform(recognizer, waveform, options).words
    step = recognizer.seconds_per_frame
    assert len(words) > 20
    assert all(0 <= word.start < word.end <= len(waveform) / RATE + step for word in words)  # the last frame may be one of few samples
    assert all(left.start < right.start and left.end <= right.start + step for left, right in pairwise(words))


def test_joined_clips_have_the_words_of_the_clips(trained):
    generator = np.random.default_rng(3)
    clips = [speak(draw_text(generator), generator) for _ in range(10)]
    apart = [transcript.text for transcript in trained.recognize(clips)]
    joined = np.concatenate([part for clip in clips for part in (clip, noise(generator.uniform(1.0, 2.0), generator))])
    assert transcribe_waveform(trained, joined, ENERGY).text == " ".join(apart)


def test_batches_do_not_change_what_is_found(trained):
    waveform, _, _ = recording(np.random.default_rng(4), 10)
    whole = transcribe_waveform(trained, waveform, ENERGY).words
    for batch_seconds in (0.1, 2.0, 7.0):
        words = transcribe_waveform(trained, waveform, replace(ENERGY, batch_seconds=batch_seconds)).words
        assert [word[:3] for word in words] == [word[:3] for word in whole]


@pytest.mark.parametrize("options", [ENERGY, WINDOWS], ids=["energy", "windows"])
@pytest.mark.parametrize("num_samples", [0, 1, 100, 10 * RATE])
def test_silence_and_nothing_have_no_words(trained, options, num_samples):
    for waveform in (np.zeros(num_samples, np.float32), noise(num_samples / RATE, np.random.default_rng(5))):
        done = []
        spoken = transcribe_waveform(trained, waveform, options, report=done.append)
        assert (spoken.words, spoken.text) == ([], "")
        assert spoken.seconds == len(waveform) / RATE
        assert sum(done) == pytest.approx(spoken.seconds)


def test_progress_adds_up_to_the_recording(trained):
    waveform, _, _ = recording(np.random.default_rng(6), 10)
    done = []
    transcribe_waveform(trained, waveform, replace(ENERGY, batch_seconds=1.0), report=done.append)
    assert len(done) > 2
    assert all(seconds >= 0 for seconds in done)
    assert sum(done) == pytest.approx(len(waveform) / RATE)


def test_words_without_spaces_between_them_are_joined_without(trained):
    characters = replace(trained, alphabet=CtcAlphabet(("", "", "我", "们", "好"), blank=0))
    generator = np.random.default_rng(7)
    spoken = transcribe_waveform(characters, np.concatenate([noise(1.0, generator), speak("ab c", generator), noise(1.0, generator)]), ENERGY)
    assert spoken.text == "我们好"
    assert len(spoken.words) == 3


def test_a_file_has_the_words_of_its_waveform_at_any_rate(trained, tmp_path):
    generator = np.random.default_rng(8)
    waveform, texts, _ = recording(generator, 4)
    for rate in (RATE, 2 * RATE):
        file = tmp_path / f"{rate}.wav"
        file.write_bytes(wav_bytes(np.repeat(waveform, rate // RATE), rate))
        spoken = transcribe_file(trained, file, ENERGY)
        assert spoken.text == " ".join(texts)
        assert spoken.seconds == pytest.approx(len(waveform) / RATE, abs=1e-3)
    with pytest.raises(UserError, match=r"nothing\.wav"):
        transcribe_file(trained, tmp_path / "nothing.wav")


def test_recordings_are_found_in_files_and_folders(tmp_path):
    names = ["b.wav", "a.FLAC", "deep/er/c.mp3", "deep/.hidden.wav", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_recordings([tmp_path]) == [tmp_path / name for name in ("a.FLAC", "b.wav", "deep/er/c.mp3")]
    given = [tmp_path / "deep", tmp_path / "notes.txt", tmp_path / "b.wav", tmp_path / "b.wav"]
    assert find_recordings(given) == [tmp_path / name for name in ("deep/er/c.mp3", "notes.txt", "b.wav")]  # a file is taken at its word


def test_what_holds_no_recording_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no recording"):
        find_recordings([tmp_path / "nothing"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no sound: .*\.wav"):
        find_recordings([tmp_path])


def test_a_long_stretch_is_cut_into_pieces_of_the_longest_length(trained):
    generator = np.random.default_rng(9)
    text = " ".join(draw_text(generator) for _ in range(8))
    waveform = np.concatenate([noise(1.0, generator), speak(text, generator), noise(1.0, generator)])
    options = TranscriptionOptions(SegmentationOptions(method="energy", max_seconds=4.0))
    assert len(waveform) > seconds_of(10)
    assert transcribe_waveform(trained, waveform, options).text.replace(" ", "") == text.replace(" ", "")  # a cut between words has no delimiter
