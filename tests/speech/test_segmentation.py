import importlib.util
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from hflab.errors import UserError
from hflab.speech.loudness import SMOOTHED_FRAMES, floor_of_frames, measure_loudness, noise_floor
from hflab.speech.segmentation import METHODS, EndpointDetector, Segment, SegmentationOptions, SpeechEvent, runs_above, speech_segments

RATE = 16000
ENERGY = SegmentationOptions(method="energy")
SPEECH_LEVEL = -25.0  # dB


def white(generator, num_samples, level):
    return generator.standard_normal(num_samples) * 10 ** (level / 20)


def coloured(generator, num_samples, level, exponent):
    spectrum = np.fft.rfft(generator.standard_normal(num_samples))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20 * num_samples / RATE) ** exponent  # 20 Hz and below are equal
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / noise.std() * 10 ** (level / 20)


def speech_like(generator, num_samples, rate=RATE):
    """Noise that swells four times a second, as syllables do."""
    time = np.arange(num_samples) / rate
    swell = 0.15 + np.sin(2 * np.pi * 2 * time + generator.uniform(0, np.pi)) ** 2
    burst = generator.standard_normal(num_samples) * swell
    return burst / burst.std() * 10 ** (SPEECH_LEVEL / 20)


def recording(seed, snr, *, pauses=(0.9, 3.0), num_bursts=12, rate=RATE):
    """A waveform that starts and ends with speech, and where its bursts are; `snr` in dB, None for digital silence between them."""
    generator = np.random.default_rng(seed)
    parts, bursts, place = [], [], 0
    for index in range(num_bursts):
        pause = int(generator.uniform(*pauses) * rate) if index else 0
        length = int(generator.uniform(0.3, 5.0) * rate)
        parts += [np.zeros(pause), speech_like(generator, length, rate)]
        bursts.append(Segment(place + pause, place + pause + length))
        place += pause + length
    waveform = np.concatenate(parts)
    if snr is not None:
        waveform += white(generator, place, SPEECH_LEVEL - snr)
    return waveform.astype(np.float32), bursts


def check_segments(segments, num_samples, longest):
    assert all(0 <= segment.start < segment.end <= num_samples for segment in segments)
    assert all(left.end <= right.start for left, right in pairwise(segments))
    assert all(segment.end - segment.start <= longest for segment in segments)


def inside(burst, segments):
    return any(segment.start <= burst.start and burst.end <= segment.end for segment in segments)


def detect(waveform, options=ENERGY, chunk=RATE, rate=RATE):
    detector = EndpointDetector(rate, options)
    events = [event for first in range(0, len(waveform), chunk) for event in detector.feed(waveform[first : first + chunk])]
    return events + detector.finish()


def as_segments(events):
    assert [event.kind for event in events] == ["start", "end"] * (len(events) // 2)
    return [Segment(start.sample, end.sample) for start, end in zip(events[::2], events[1::2], strict=True)]


@pytest.mark.parametrize("snr", [10, 20, 40, None])
@pytest.mark.parametrize("find", [lambda x: speech_segments(x, RATE, ENERGY), lambda x: as_segments(detect(x))], ids=["whole", "live"])
def test_every_burst_is_inside_one_segment(find, snr):
    for seed in range(2):
        waveform, bursts = recording(seed, snr, num_bursts=7)
        segments = find(waveform)
        check_segments(segments, len(waveform), 20 * RATE)
        assert all(inside(burst, segments) for burst in bursts)
        assert len(segments) == len(bursts)  # none of the pauses passes for speech


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_other_sampling_rates(rate):
    waveform, bursts = recording(5, 20, num_bursts=3, rate=rate)
    segments = speech_segments(waveform, rate, ENERGY)
    check_segments(segments, len(waveform), 20 * rate)
    assert len(segments) == len(bursts)
    assert all(inside(burst, segments) for burst in bursts)
    assert all(inside(burst, as_segments(detect(waveform, rate=rate))) for burst in bursts)


@pytest.mark.parametrize("level", [-70.0, -40.0, -25.0])
@pytest.mark.parametrize("exponent", [0, 0.5, 1], ids=["white", "pink", "brown"])
def test_noise_alone_is_no_speech(exponent, level):
    noise = coloured(np.random.default_rng(0), 12 * RATE, level, exponent) + 0.1
    assert speech_segments(noise, RATE, ENERGY) == []
    assert all(event.sample < 2.5 * RATE for event in detect(noise))  # until it knows the noise, it may take it for speech


@pytest.mark.parametrize("num_samples", [0, 1, 5, 399, 400, 16000, 50000])
def test_silence_is_no_speech(num_samples):
    for waveform in (np.zeros(num_samples, np.float32), np.full(num_samples, 0.25, np.float32)):
        assert speech_segments(waveform, RATE, ENERGY) == detect(waveform) == []


def test_short_clip_of_speech_alone_is_one_segment():
    clip = speech_like(np.random.default_rng(0), RATE)
    assert speech_segments(clip, RATE, ENERGY) == as_segments(detect(clip)) == [Segment(0, len(clip))]


def test_held_note_is_kept_and_rising_noise_is_not():
    time = np.arange(30 * RATE) / RATE
    note = np.where((time > 5) & (time < 25), 0.1 * np.sin(2 * np.pi * 440 * time), 0)
    held = speech_segments(note, RATE, ENERGY)
    assert held[0].start <= 5 * RATE
    assert sum(segment.end - segment.start for segment in held) >= 20 * RATE
    noise = white(np.random.default_rng(0), 60 * RATE, -60) * np.where(np.arange(60 * RATE) < 30 * RATE, 1, 10)
    assert sum(segment.end - segment.start for segment in speech_segments(noise, RATE, ENERGY)) < 8 * RATE


def test_gain_and_offset_do_not_matter():
    waveform, _ = recording(1, 20)
    segments = speech_segments(waveform, RATE, ENERGY)
    assert speech_segments(waveform.astype(np.float64) * 0.5 + 0.3, RATE, ENERGY) == segments


def test_levels_are_those_of_the_definition():
    generator = np.random.default_rng(0)
    waveform = white(generator, RATE * 61 + 77, -30) * np.linspace(0, 1, RATE * 61 + 77)  # more than is measured at once
    loudness = measure_loudness(waveform, RATE)
    padded = np.append(waveform, np.full(loudness.frame, waveform[-1]))

    def level(index):
        frame = padded[index * loudness.hop :][: loudness.frame].reshape(5, -1)
        return max(-100.0, 10 * math.log10(frame.var(axis=1).mean() + 1e-30))

    count, reach = len(loudness.levels), SMOOTHED_FRAMES // 2
    assert count == math.ceil(len(waveform) / loudness.hop)
    for index in [0, 1, 2, 100, 5998, 5999, 6000, 6001, count - 2, count - 1]:
        around = [level(min(max(neighbour, 0), count - 1)) for neighbour in range(index - reach, index + reach + 1)]
        assert loudness.levels[index] == pytest.approx(np.mean(around))


def test_runs_are_those_of_a_machine_with_two_thresholds():
    generator = np.random.default_rng(0)
    for num_frames in [1, 2, 10, 300]:
        levels = generator.integers(0, 5, num_frames).astype(float)
        runs, start, reached = [], None, False
        for index, level in enumerate([*levels, -1.0]):
            if level >= 2:
                start, reached = index if start is None else start, reached or level >= 4
            elif start is not None:
                runs += [[start, index]] if reached else []
                start, reached = None, False
        assert runs_above(levels, np.full(num_frames, 2.0), np.full(num_frames, 4.0)).tolist() == runs


def test_noise_floor_is_a_low_percentile_within_limits():
    generator = np.random.default_rng(0)
    steady = generator.normal(-40, 1, 1000)
    assert noise_floor(steady) == pytest.approx(np.percentile(steady, 8), abs=0.1)  # 20 frames of 1020 are assumed
    assert noise_floor(steady[:100]) == -60
    assert noise_floor(np.full(1000, -100.0)) == -80
    assert noise_floor(np.append(np.full(999, -100.0), 0.0)) == -55
    assert noise_floor(np.stack([steady, steady + 10])).tolist() == [noise_floor(steady), noise_floor(steady + 10)]
    assert floor_of_frames(steady[:7]).shape == (7,)


@pytest.mark.parametrize("method", METHODS)
def test_segments_are_in_order_and_not_too_long(method):
    if method == "silero":
        pytest.importorskip("silero_vad")
    waveform, _ = recording(2, 20, num_bursts=3)
    options = SegmentationOptions(method=method, max_seconds=2, merge_up_to_seconds=1.5)
    check_segments(speech_segments(waveform, RATE, options), len(waveform), 2 * RATE)


@pytest.mark.parametrize("options", [ENERGY, SegmentationOptions(method="windows")], ids=["energy", "windows"])
def test_long_speech_is_cut_in_its_pauses(options):
    generator = np.random.default_rng(3)
    waveform = speech_like(generator, 60 * RATE)
    pauses = [Segment(second * RATE, second * RATE + 3200) for second in (17, 33, 50)]
    for pause in pauses:
        waveform[pause.start : pause.end] *= 0.01
    segments = speech_segments(waveform, RATE, options)
    check_segments(segments, len(waveform), 20 * RATE)
    assert len(segments) == 4
    assert (segments[0].start, segments[-1].end) == (0, len(waveform))
    assert all(inside(Segment(segment.end, segment.end), pauses) for segment in segments[:-1])
    assert all(left.end == right.start for left, right in pairwise(segments))
    if options.method == "energy":
        assert all(inside(Segment(found.end, found.end), pauses) for found in as_segments(detect(waveform))[:-1])


def test_windows_of_even_sound_are_nearly_full_and_none_is_a_splinter():
    for seconds in (20.0, 20.1, 50.0):
        noise = white(np.random.default_rng(0), int(seconds * RATE), -30)
        segments = speech_segments(noise, RATE, SegmentationOptions(method="windows", max_seconds=10))
        check_segments(segments, len(noise), 10 * RATE)
        assert sum(segment.end - segment.start for segment in segments) == len(noise)
        assert all(segment.end - segment.start > 9 * RATE for segment in segments[:-2])
        assert all(segment.end - segment.start >= 2.4 * RATE for segment in segments)


def bursts_at(*places, seconds=6.0):
    """Digital silence, and bursts of a tone at the (start, end) given in seconds."""
    time = np.arange(int(seconds * RATE)) / RATE
    return sum(np.where((time >= start) & (time < end), 0.1 * np.sin(2 * np.pi * 500 * time), 0) for start, end in places)


def test_short_silence_joins_and_long_divides():
    assert len(speech_segments(bursts_at((1, 2), (2.3, 3)), RATE, ENERGY)) == 1
    assert len(speech_segments(bursts_at((1, 2), (2.8, 3.5)), RATE, ENERGY)) == 2
    options = SegmentationOptions(method="energy", min_silence_seconds=1.0)
    assert len(speech_segments(bursts_at((1, 2), (2.8, 3.5)), RATE, options)) == 1


def test_click_is_no_speech():
    assert speech_segments(bursts_at((2, 2.003)), RATE, ENERGY) == detect(bursts_at((2, 2.003))) == []
    assert len(speech_segments(bursts_at((2, 2.003)), RATE, SegmentationOptions(method="energy", min_speech_seconds=0))) == 1
    assert speech_segments(bursts_at((2, 2.3)), RATE, SegmentationOptions(method="energy", min_speech_seconds=0.5)) == []


def test_padding_is_added_on_both_sides_and_meets_between():
    waveform = bursts_at((1, 2), (2.8, 3.5))
    bare, padded, touching = (
        speech_segments(waveform, RATE, SegmentationOptions(method="energy", padding_seconds=seconds)) for seconds in (0, 0.1, 3)
    )
    assert [(segment.start - 1600, segment.end + 1600) for segment in bare] == padded
    assert touching[0].end == touching[1].start
    assert bare[0].end < touching[0].end < bare[1].start
    assert (touching[0].start, touching[1].end) == (0, len(waveform))


def test_merging_joins_neighbours_up_to_the_length():
    waveform, _ = recording(4, 20)
    apart = speech_segments(waveform, RATE, ENERGY)
    merged = speech_segments(waveform, RATE, SegmentationOptions(method="energy", merge_up_to_seconds=15))
    check_segments(merged, len(waveform), 15 * RATE)
    assert len(merged) < len(apart)
    assert all(inside(segment, merged) for segment in apart)
    firsts = [next(segment for segment in apart if segment.start == whole.start) for whole in merged]  # each begins where one began
    assert all(following.end - whole.start > 15 * RATE for whole, following in zip(merged, firsts[1:], strict=False))


@pytest.mark.parametrize("chunk", [1, 160, 401, 7777])
def test_live_events_do_not_depend_on_how_the_sound_is_fed(chunk):
    waveform, _ = recording(6, 15, num_bursts=1 if chunk == 1 else 3)
    assert detect(waveform, chunk=chunk) == detect(waveform, chunk=len(waveform))


def test_live_start_lies_within_look_back_and_end_in_the_past():
    waveform, _ = recording(7, 10, num_bursts=4)
    detector, fed, events = EndpointDetector(RATE, ENERGY), 0, []
    for first in range(0, len(waveform), 160):
        fed += len(waveform[first : first + 160])
        for event in detector.feed(waveform[first : first + 160]):
            assert fed - detector.look_back <= event.sample <= fed
            events.append(event)
    assert len(events) >= 7  # the last end comes when it is finished


def test_live_speech_is_cut_at_max_seconds():
    waveform, bursts = recording(8, 20, num_bursts=5)
    segments = as_segments(detect(waveform, SegmentationOptions(max_seconds=2)))
    check_segments(segments, len(waveform), 2 * RATE)
    assert len(segments) > len(bursts)


def test_live_state_does_not_grow():
    detector = EndpointDetector(1000)
    generator = np.random.default_rng(0)

    def size():
        return sum(value.size for value in vars(detector).values() if isinstance(value, np.ndarray))

    sizes = [(detector.feed(white(generator, 12000, -30)), size())[1] for _ in range(4)]
    assert max(sizes[1:]) == min(sizes[1:]) > 0


def test_live_without_sound_has_no_events():
    assert EndpointDetector(RATE).finish() == []
    assert EndpointDetector(RATE).feed(np.empty(0, np.float32)) == []


def test_live_finds_what_the_whole_recording_shows():
    waveform = bursts_at((3, 4), (5, 5.4), seconds=8)
    whole = speech_segments(waveform, RATE, ENERGY)
    assert as_segments(detect(waveform)) == whole
    assert detect(waveform)[0] == SpeechEvent("start", whole[0].start)


def test_auto_is_energy_where_silero_is_missing_or_cannot_be_used(monkeypatch):
    waveform, _ = recording(9, 20, num_bursts=3)
    assert speech_segments(waveform, 22050) == speech_segments(waveform, 22050, ENERGY)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert speech_segments(waveform, RATE) == speech_segments(waveform, RATE, ENERGY)


def test_silero_that_is_missing_says_how_it_is_installed(monkeypatch):
    from hflab.speech.segmentation import load_silero

    load_silero.cache_clear()
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(UserError, match="pip install silero-vad"):
        speech_segments(np.zeros(RATE), RATE, SegmentationOptions(method="silero"))


def test_silero_and_energy_find_the_words_of_a_synthetic_voice():
    pytest.importorskip("silero_vad")
    if importlib.util.find_spec("espeakng_loader") is None:
        pytest.skip("needs espeakng-loader")
    from hflab.speech.synthesis import Utterance, speak

    texts = ["she sells sea shells by the sea shore", "half of the people have left the hall", "six thick thistle sticks"]
    spoken = speak("en-us", [Utterance(text) for text in texts], RATE)
    waveform = np.concatenate([part for words in spoken for part in (np.zeros(RATE), words)] + [np.zeros(RATE)])
    waveform += white(np.random.default_rng(0), len(waveform), -55)
    threads = torch.get_num_threads()
    found = {method: speech_segments(waveform, RATE, SegmentationOptions(method=method)) for method in ("silero", "energy", "auto")}
    assert torch.get_num_threads() == threads
    assert found["auto"] == found["silero"]
    assert len(found["silero"]) == len(found["energy"]) == len(texts)
    for silero, energy in zip(found["silero"], found["energy"], strict=True):
        assert min(silero.end, energy.end) - max(silero.start, energy.start) > 0.8 * (silero.end - silero.start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "enrgy"}, "Did you mean 'energy'"),
        ({"max_seconds": 0.5}, "max_seconds is 0.5"),
        ({"max_seconds": math.nan}, "max_seconds is nan"),
        ({"padding_seconds": -1}, "padding_seconds is -1"),
        ({"merge_up_to_seconds": 30}, "merge_up_to_seconds is 30"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SegmentationOptions(**options)


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros((2, 100)), RATE, "mean of the channels"),
        (np.zeros(100, np.int16), RATE, "divide"),
        (np.zeros(100), 16, "in Hz"),
        (np.append(np.zeros(1000), np.nan), RATE, "finite"),
        (np.append(np.zeros(1000), np.inf), RATE, "finite"),
    ],
)
def test_wrong_waveforms_are_refused(waveform, rate, message):
    with pytest.raises(UserError, match=message):
        speech_segments(waveform, rate, ENERGY)
    with pytest.raises(UserError, match=message):
        EndpointDetector(rate, ENERGY).feed(waveform)


def test_what_cannot_be_live_is_refused():
    for options, message in [(SegmentationOptions(method="silero"), "energy"), (SegmentationOptions(merge_up_to_seconds=5), "never merged")]:
        with pytest.raises(UserError, match=message):
            EndpointDetector(RATE, options)
    with pytest.raises(UserError, match="8000 or 16000"):
        speech_segments(np.zeros(100), 22050, SegmentationOptions(method="silero"))
