import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from hflab.data.synthetic_speech import ENGLISH_ACCENTS, ESPEAK_NAMES, TIMBRES
from hflab.errors import UserError
from hflab.speech import synthesis
from hflab.speech.synthesis import Utterance, speak

pytest.importorskip("espeakng_loader")
pytest.importorskip("scipy")

RATE = 16000
NATIVE = 22050  # of espeak-ng


def one(voice, text="one two three", rate=RATE, **how):
    (waveform,) = speak(voice, [Utterance(text, **how)], rate)
    return waveform


def list_of_three():
    return speak("en-us+Andy", [Utterance(text) for text in ("one two", "three", "one two")], RATE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_same_voice_and_list_give_the_same_samples_in_every_process():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as workers:
        elsewhere = [workers.submit(list_of_three) for _ in range(2)]
        here = list_of_three()
        found = [future.result() for future in elsewhere]
    assert all(waveform.dtype == np.float32 and waveform.ndim == 1 for waveform in here)
    for waveforms in found:
        assert all(np.array_equal(waveform, same) for waveform, same in zip(waveforms, here, strict=True))


def test_samples_do_not_depend_on_the_time_of_day():
    """Voices with noise in them draw it from a generator that espeak-ng seeds with the second."""
    breathing = ["en-us+f2", "en-us+f3", "en-us+f5", "en-us+Alicia", "en-us+sandro", "en-us+victor"]
    before = [one(voice) for voice in breathing]
    time.sleep(1.01)
    for voice, waveform in zip(breathing, before, strict=True):
        assert np.array_equal(waveform, one(voice))


def test_several_processes_at_once_do_not_disturb_each_other():
    voices = ["en-us+m1", "en-us+f2", "en-gb-scotland+m3", "cmn"] * 2
    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(one, voices))
    for voice, waveform in zip(voices[:4], found[:4], strict=True):
        assert np.array_equal(waveform, one(voice))
    assert len({waveform.tobytes() for waveform in found}) == 4


def test_speed_pitch_and_rate_do_what_they_say():
    slow, usual, fast = (one("en-us", speed=speed) for speed in (100, 175, 300))
    assert len(slow) > 1.3 * len(usual) > 1.5 * len(fast)
    assert not np.array_equal(one("en-us", pitch=20)[:8000], one("en-us", pitch=80)[:8000])
    assert not np.array_equal(one("en-us", pitch_range=0)[:8000], one("en-us", pitch_range=90)[:8000])
    assert len(one("en-us", rate=8000)) == pytest.approx(len(usual) / 2, abs=2)
    assert len(one("en-us", rate=NATIVE)) == pytest.approx(len(usual) * NATIVE / RATE, abs=2)


def test_nothing_to_say_is_almost_no_sound_and_disturbs_no_neighbour():
    empty, spoken, signs = speak("en-us", [Utterance(""), Utterance("one two three"), Utterance(" ... ")], RATE)
    assert len(empty) < RATE / 10
    assert len(signs) < RATE / 10
    assert len(spoken) == pytest.approx(len(one("en-us")), rel=0.05)
    assert speak("en-us", [], RATE) == []


def test_markup_is_text():
    assert len(one("en-us", "<speak>one</speak>")) > len(one("en-us", "speak one speak"))
    assert len(one("en-us", "[[h@'loU]]")) != len(one("en-us", "hello"))


def test_chinese_is_spoken():
    waveform = one("cmn", "你好\uff0c世界。")
    assert 0.5 * RATE < len(waveform) < 3 * RATE
    assert np.sqrt(np.mean(waveform**2)) > 0.02
    assert not np.array_equal(waveform, one("cmn", "今天天气很好。")[: len(waveform)])


@pytest.mark.parametrize(
    ("voice", "hint"),
    [("nosuch", ""), ("", ""), ("+f1", ""), ("english", ""), ("en-uss", " Did you mean 'en-us'?"), ("cmm+f1", " Did you mean 'cmn'?")],
)
def test_an_unknown_voice_is_refused(voice, hint):
    with pytest.raises(UserError) as caught:
        one(voice)
    assert str(caught.value).startswith(f"espeak-ng has no voice {voice!r}; give a language such as 'en-us'")
    assert str(caught.value).endswith(f"for a variant.{hint}")


@pytest.mark.parametrize(
    ("variant", "hint"),
    [
        ("nosuch", "There are: Alex, Alicia,"),
        ("", "There are: "),
        ("alex", "Did you mean 'Alex'?"),
        ("f3 ", "Did you mean 'f3'?"),
        ("edwardo", "Did you mean 'edward'?"),
        ("f1+f2", ""),
        ("../../phontab", ""),
        (".", ""),
    ],
)
def test_an_unknown_variant_is_refused_and_the_nearest_named(variant, hint):
    """espeak-ng itself would speak without the variant."""
    with pytest.raises(UserError) as caught:
        one(f"en-us+{variant}")
    assert str(caught.value).startswith(f"The voice 'en-us+{variant}' has no variant {variant!r}; give another, or 'en-us' alone.")
    assert hint in str(caught.value)


def test_a_failure_of_the_process_shows_what_it_said(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import sys; sys.exit('the library is gone')")
    monkeypatch.setattr(synthesis, "_PROGRAM", tmp_path / "broken.py")
    with pytest.raises(RuntimeError, match=r"status 1: the library is gone"):
        one("en-us")


def check_sound(waveform):
    """Heard, and not cut off at full scale but for a few peaks."""
    assert 0.3 * NATIVE < len(waveform) < 4 * NATIVE
    assert np.sqrt(np.mean(waveform**2)) > 0.02
    assert np.mean(np.abs(waveform) > 0.999) < 0.002


@pytest.mark.parametrize("accent", [*ENGLISH_ACCENTS, *ESPEAK_NAMES.values()])
def test_every_accent_of_the_synthetic_corpus_is_spoken_with_a_timbre(accent):
    check_sound(one(f"{accent}+f3", "one seven nine", NATIVE))


def test_every_timbre_of_the_synthetic_corpus_is_another_voice_that_can_be_heard():
    with ThreadPoolExecutor(2) as workers:
        spoken = list(workers.map(lambda timbre: one(f"en-us+{timbre}", "one seven nine", NATIVE), TIMBRES))
    for waveform in spoken:
        check_sound(waveform)
    plain = one("en-us", "one seven nine", NATIVE)
    assert len({waveform.tobytes() for waveform in (*spoken, plain)}) == len(TIMBRES) + 1 == len(set(TIMBRES)) + 1 > 50
