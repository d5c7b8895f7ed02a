"""Where a recording has speech, as ranges of samples short enough to be transcribed one by one; and the same for live sound.

    segments = speech_segments(waveform, 16000, SegmentationOptions(max_seconds=20))
    pieces = [waveform[segment.start : segment.end] for segment in segments]

    detector = EndpointDetector(16000)
    for samples in microphone:
        events = detector.feed(samples)
    events = detector.finish()

Waveforms are mono floats with full scale at 1.0; levels are in dB relative to it. This module knows nothing about files, resampling,
models or text.

Legend: `N` samples, `F` frames.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import UserError, check_choice
from .loudness import (
    FLOOR_SECONDS,
    FRAMES_PER_SECOND,
    SMOOTHED_FRAMES,
    SUBFRAMES_PER_FRAME,
    SUBFRAMES_PER_HOP,
    Loudness,
    floor_of_frames,
    frame_levels,
    measure_loudness,
    moving_mean,
    noise_floor,
    subframe_samples,
)

ENTER_DB, EXIT_DB = 6.0, 3.0  # above the noise floor: a stretch above EXIT_DB is speech if it somewhere passes ENTER_DB
ONSET_SECONDS, HANGOVER_SECONDS = 0.1, 0.2  # weak consonants lie below the thresholds at the start and the end of a phrase
UNDECIDED_SECONDS = 0.5  # live, so long a stretch between the thresholds may later turn out to have begun the speech
LEAST_RATE = 1000  # Hz
SILERO_RATES = (8000, 16000)


class Segment(NamedTuple):
    """A range of samples, the end excluded."""

    start: int
    end: int


class Recording(NamedTuple):
    """A waveform, (N,) floats, N > 0, its rate in Hz, and its levels."""

    waveform: np.ndarray
    sampling_rate: int
    loudness: Loudness


class SpeechEvent(NamedTuple):
    """What a live detector found: that speech started or ended at a sample, counted from the first one fed."""

    kind: Literal["start", "end"]
    sample: int


@dataclass(frozen=True)
class SegmentationOptions:
    """How a recording is cut into segments. Raises `UserError` for values out of range."""

    method: str = "auto"
    """One of `METHODS`, or "auto": silero where it is installed and takes the sampling rate, else energy."""
    max_seconds: float = 20.0
    """No segment is longer; longer speech is cut at its quietest point. 1 or more."""
    min_silence_seconds: float = 0.5
    """Speech on both sides of a shorter silence is one segment."""
    padding_seconds: float = 0.1
    """How much of the silence before and after speech belongs to its segment."""
    min_speech_seconds: float = 0.1
    """Shorter sound that stands alone is no speech: a click, a key."""
    window_seconds: float = 20.0
    """For "windows": the longest window, `max_seconds` if that is less; its end is sought in its last quarter. 1 or more."""
    merge_up_to_seconds: float = 0.0
    """Neighbours are merged, with the silence between them, into segments of at most this length; 0: never."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, ["auto", *METHODS])
        for name, least in LEAST_SECONDS.items():
            given = getattr(self, name)
            if not (math.isfinite(given) and given >= least):
                raise UserError(f"{name} is {given}, but must be {least:g} seconds or more; give another number.")
        if self.merge_up_to_seconds > self.max_seconds:
            raise UserError(
                f"merge_up_to_seconds is {self.merge_up_to_seconds:g}, more than max_seconds, which is {self.max_seconds:g}; "
                "lower the first or raise the second."
            )


LEAST_SECONDS = {
    "max_seconds": 1.0,
    "window_seconds": 1.0,
    "min_silence_seconds": 0.0,
    "padding_seconds": 0.0,
    "min_speech_seconds": 0.0,
    "merge_up_to_seconds": 0.0,
}


def speech_segments(waveform: np.ndarray, sampling_rate: int, options: SegmentationOptions | None = None) -> list[Segment]:
    """Find the speech of a recording: in order, without overlap, within the recording, none longer than `max_seconds`.

    Args:
        waveform: (N,) floats.
        sampling_rate: in Hz, 1000 or more.
        options: default: `SegmentationOptions()`.

    Raises:
        UserError: for a waveform that is not mono, floating-point and finite, for a method that is not installed or does not take the rate.
    """
    options = options or SegmentationOptions()
    check_waveform(waveform)
    check_sampling_rate(sampling_rate)
    method = options.method
    if method == "auto":
        method = "silero" if sampling_rate in SILERO_RATES and importlib.util.find_spec("silero_vad") is not None else "energy"
    if not len(waveform):
        return []
    return METHODS[method](Recording(waveform, sampling_rate, measure_loudness(waveform, sampling_rate)), options)


def check_waveform(waveform: np.ndarray) -> None:
    """Raise `UserError` unless the waveform is one channel of finite floats."""
    if waveform.ndim != 1:
        raise UserError(f"waveform has the shape {waveform.shape}, but must be one channel, (samples,); give the mean of the channels.")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(f"waveform is of {waveform.dtype}, but must be of floats from -1 to 1; divide 16-bit samples by 32768.")
    if not np.isfinite(waveform).all():
        raise UserError("waveform has samples that are not finite numbers, but all must be; check how it was decoded.")


def check_sampling_rate(sampling_rate: int) -> None:
    """Raise `UserError` for a rate too low for speech."""
    if sampling_rate < LEAST_RATE:
        raise UserError(f"sampling_rate is {sampling_rate}, but must be {LEAST_RATE} Hz or more; give it in Hz, not kHz.")


def runs_above(levels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The runs of frames at or above `low` that somewhere reach `high`: (F,) each to (runs, 2), first frame and the one after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], levels >= low, [False]]).astype(np.int8))).reshape(-1, 2)
    reached = np.concatenate([[0], np.cumsum(levels >= high)])
    return edges[reached[edges[:, 1]] > reached[edges[:, 0]]]


def energy_segments(recording: Recording, options: SegmentationOptions) -> list[Segment]:
    """Speech by its level above a noise floor that is followed through the recording."""
    loudness, rate = recording.loudness, recording.sampling_rate
    floor = floor_of_frames(loudness.levels)
    runs = runs_above(loudness.levels, floor + EXIT_DB, floor + ENTER_DB)
    found = [Segment(int(first) * loudness.hop, (int(stop) - 1) * loudness.hop + loudness.frame) for first, stop in runs]
    return shape_segments(found, recording, options=options, margins=(round(ONSET_SECONDS * rate), round(HANGOVER_SECONDS * rate)))


def silero_segments(recording: Recording, options: SegmentationOptions) -> list[Segment]:
    """Speech by the model of Silero (github.com/snakers4/silero-vad). Not for several threads at once: the model has a state.

    Raises `UserError` if it is not installed or does not take the sampling rate.
    """
    rate = recording.sampling_rate
    if rate not in SILERO_RATES:
        allowed = " or ".join(map(str, SILERO_RATES))
        raise UserError(f"sampling_rate is {rate}, but method 'silero' takes {allowed} Hz; resample, or choose method 'energy'.")
    silero = load_silero()
    import torch

    samples = torch.from_numpy(np.ascontiguousarray(recording.waveform, dtype=np.float32))
    # its own lengths are set to nothing: they are applied below, alike for every method
    found = silero.package.get_speech_timestamps(samples, silero.model, sampling_rate=rate, min_speech_duration_ms=0, speech_pad_ms=0)
    return shape_segments([Segment(int(range_["start"]), int(range_["end"])) for range_ in found], recording, options=options)


class Silero(NamedTuple):
    """The package and its model."""

    package: Any
    model: Any


@cache
def load_silero() -> Silero:
    """Load the model that the package brings along, once. Raises `UserError` if the package is missing."""
    import torch

    threads = torch.get_num_threads()
    try:
        package = importlib.import_module("silero_vad")
    except ImportError as error:
        raise UserError(f"method is 'silero', which cannot be imported ({error}); pip install silero-vad, or choose method 'energy'.") from error
    torch.set_num_threads(threads)  # its import sets one thread for the whole process
    return Silero(package, package.load_silero_vad())


def window_segments(recording: Recording, options: SegmentationOptions) -> list[Segment]:
    """The whole recording, speech or not, in windows that end at quiet points."""
    longest = int(min(options.window_seconds, options.max_seconds) * recording.sampling_rate)
    pieces = cut_segment(Segment(0, len(recording.waveform)), recording.loudness, longest=longest, earliest=longest * 3 // 4)
    return merge_segments(pieces, int(options.merge_up_to_seconds * recording.sampling_rate))


METHODS: dict[str, Callable[[Recording, SegmentationOptions], list[Segment]]] = {
    "silero": silero_segments,
    "energy": energy_segments,
    "windows": window_segments,
}


def shape_segments(found: list[Segment], recording: Recording, *, options: SegmentationOptions, margins: tuple[int, int] = (0, 0)) -> list[Segment]:
    """Make segments of what a method found: join, drop, widen, cut, merge.

    Args:
        found: in order, without overlap; the last may reach beyond the recording.
        recording: that it was found in.
        options: the lengths.
        margins: samples before and after speech that the method is likely to have missed.
    """
    sampling_rate, loudness = recording.sampling_rate, recording.loudness
    joined = merge_close(found, options.min_silence_seconds * sampling_rate)
    speech = [segment for segment in joined if segment.end - segment.start >= options.min_speech_seconds * sampling_rate]
    padding = round(options.padding_seconds * sampling_rate)
    widened = widen(speech, before=margins[0] + padding, after=margins[1] + padding, num_samples=loudness.num_samples)
    longest = int(options.max_seconds * sampling_rate)
    pieces = [piece for segment in widened for piece in cut_segment(segment, loudness, longest=longest, earliest=longest // 2)]
    return merge_segments(pieces, int(options.merge_up_to_seconds * sampling_rate))


def merge_close(segments: list[Segment], gap: float) -> list[Segment]:
    """Join segments that are less than `gap` samples apart."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and segment.start - joined[-1].end < gap:
            joined[-1] = Segment(joined[-1].start, max(joined[-1].end, segment.end))
        else:
            joined.append(segment)
    return joined


def widen(segments: list[Segment], *, before: int, after: int, num_samples: int) -> list[Segment]:
    """Give each segment samples before and after it; where two would overlap they meet in proportion to what they asked for."""
    starts = [max(0, segment.start - before) for segment in segments]
    ends = [min(num_samples, segment.end + after) for segment in segments]
    for index in range(len(segments) - 1):
        gap_start, gap_end = segments[index].end, segments[index + 1].start
        if ends[index] > starts[index + 1]:
            ends[index] = starts[index + 1] = gap_start + (gap_end - gap_start) * after // (before + after) if before + after else gap_end
    return [Segment(start, end) for start, end in zip(starts, ends, strict=True)]


def cut_segment(segment: Segment, loudness: Loudness, *, longest: int, earliest: int) -> list[Segment]:
    """Cut a segment at quiet points into pieces of `earliest` to `longest` samples; the last may be shorter, down to a quarter of it."""
    pieces, (start, end) = [], segment
    while end - start > longest:
        cut = loudness.quietest(start + earliest, min(start + longest, end - longest // 4))
        pieces.append(Segment(start, cut))
        start = cut
    return [*pieces, Segment(start, end)]


def merge_segments(segments: list[Segment], longest: int) -> list[Segment]:
    """Merge neighbours while the whole, with the silence between them, has at most `longest` samples."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and segment.end - merged[-1].start <= longest:
            merged[-1] = Segment(merged[-1].start, segment.end)
        else:
            merged.append(segment)
    return merged


class EndpointDetector:
    """Finds the starts and ends of speech in live sound by the rule of method "energy", with a noise floor of the past alone.

    Speech is announced when it has lasted `min_speech_seconds`, and its end when the silence has lasted `min_silence_seconds`. Speech of
    `max_seconds` is cut at the quietest point of its second half, or of the last `FLOOR_SECONDS`. What is held does not grow with the sound.
    Until some two seconds have been heard, loud noise passes for speech; sound that is steady for `FLOOR_SECONDS` becomes noise.

    Raises `UserError` for a method that cannot be live, and for `merge_up_to_seconds`: what is announced cannot be merged.
    """

    look_back: int
    """How many samples before the last one fed a "start" may lie: the past that a caller has to keep."""

    def __init__(self, sampling_rate: int, options: SegmentationOptions | None = None) -> None:
        options = options or SegmentationOptions()
        if options.method not in ("auto", "energy"):
            raise UserError(f"method is {options.method!r}, but live speech is detected by 'energy' alone; choose it, or 'auto'.")
        if options.merge_up_to_seconds:
            raise UserError(f"merge_up_to_seconds is {options.merge_up_to_seconds:g}, but live segments are never merged; leave it 0.")
        check_sampling_rate(sampling_rate)
        self._subframe = subframe_samples(sampling_rate)
        self._hop, self._frame = self._subframe * SUBFRAMES_PER_HOP, self._subframe * SUBFRAMES_PER_FRAME
        self._before = round((ONSET_SECONDS + options.padding_seconds) * sampling_rate)
        self._after = round((HANGOVER_SECONDS + options.padding_seconds) * sampling_rate)
        self._least_silence = options.min_silence_seconds * sampling_rate
        self._least_speech = options.min_speech_seconds * sampling_rate
        self._longest = int(options.max_seconds * sampling_rate)
        self._undecided = round(UNDECIDED_SECONDS * sampling_rate)
        latency = self._frame + self._hop * SMOOTHED_FRAMES
        self.look_back = math.ceil(self._before + self._undecided + self._least_speech + self._least_silence) + latency
        self._samples = np.empty(0, np.float32)  # that no level has been measured from, or whose next frame will need them again
        self._levels = np.empty(0)  # that wait for those after them to be smoothed
        self._recent = np.empty(0)  # smoothed, the last `FLOOR_SECONDS`
        self._num_samples = self._num_frames = 0  # fed; decided
        self._run_start: int | None = None  # samples, as all below: of the present stretch above EXIT_DB
        self._run_is_speech = False  # it has passed ENTER_DB
        self._speech: Segment | None = None  # found, but not ended
        self._open: int | None = None  # the last start announced, if its end is not
        self._last_end = 0

    def feed(self, samples: np.ndarray) -> list[SpeechEvent]:
        """Hear the next samples, (N,) floats, as many as there are. Raises `UserError` as `speech_segments` does."""
        check_waveform(samples)
        self._samples = np.concatenate([self._samples, samples])
        self._num_samples += len(samples)
        return self._measure((len(self._samples) - self._frame) // self._hop + 1)

    def finish(self) -> list[SpeechEvent]:
        """Decide on what has been fed last and end the speech that is open. The detector is used up: make a new one for other sound."""
        if not self._num_samples:
            return []
        num_measured = (self._num_samples - len(self._samples)) // self._hop
        num_frames = math.ceil(self._num_samples / self._hop) - num_measured
        self._samples = np.pad(self._samples, (0, max(0, (num_frames - 1) * self._hop + self._frame - len(self._samples))), mode="edge")
        events = self._measure(num_frames)
        events += self._smooth(np.repeat(self._levels[-1:], SMOOTHED_FRAMES // 2))
        return events + self._end(self._num_samples)

    def _measure(self, num_frames: int) -> list[SpeechEvent]:
        if num_frames <= 0:
            return []
        levels = frame_levels(self._samples[: (num_frames - 1) * self._hop + self._frame], self._subframe)
        self._samples = self._samples[num_frames * self._hop :]
        if not self._num_frames and not len(self._levels):
            self._levels = np.repeat(levels[:1], SMOOTHED_FRAMES // 2)
        return self._smooth(levels)

    def _smooth(self, levels: np.ndarray) -> list[SpeechEvent]:
        levels = np.concatenate([self._levels, levels])
        self._levels = levels[-(SMOOTHED_FRAMES - 1) :]
        return [event for level in moving_mean(levels, SMOOTHED_FRAMES) for event in self._decide(level)]

    def _decide(self, level: float) -> list[SpeechEvent]:
        """Hear one frame more."""
        self._recent = np.append(self._recent, level)[-FLOOR_SECONDS * FRAMES_PER_SECOND :]
        above = level - noise_floor(self._recent)
        start, now = self._num_frames * self._hop, self._num_frames * self._hop + self._frame
        self._num_frames += 1
        if above < EXIT_DB:
            self._run_start, self._run_is_speech = None, False
        else:
            self._run_start = start if self._run_start is None else self._run_start
            self._run_is_speech |= bool(above >= ENTER_DB)
            if self._run_is_speech:
                self._speech = Segment(self._run_start if self._speech is None else self._speech.start, now)
            else:
                self._run_start = max(self._run_start, start - self._undecided)
        return self._announce(now)

    def _announce(self, now: int) -> list[SpeechEvent]:
        if self._speech is None:
            return []
        events = []
        if self._open is None and self._speech.end - self._speech.start >= self._least_speech:
            self._open = max(self._last_end, self._speech.start - self._before)
            events.append(SpeechEvent("start", self._open))
        if now - self._speech.end >= max(1, self._least_silence):
            return events + self._end(now)
        if self._open is not None and self._speech.end - self._open > self._longest:
            offset = (self._num_frames - len(self._recent)) * self._hop
            loudness = Loudness(self._recent, self._hop, self._frame, now - offset)
            earliest = max(offset, self._open + self._longest // 2)
            cut = loudness.quietest(earliest - offset, self._open + self._longest - offset) + offset
            events += [SpeechEvent("end", cut), SpeechEvent("start", cut)]
            self._open = cut
        return events

    def _end(self, now: int) -> list[SpeechEvent]:
        """Forget the speech found, and announce its end if its start was."""
        speech, start = self._speech, self._open
        self._speech = self._open = None
        if speech is None or start is None:
            return []
        self._last_end = min(speech.end + self._after, now, start + self._longest)
        return [SpeechEvent("end", self._last_end)]
