"""Live sound to words: one-directional recurrent models write while they hear.

    live = StreamingRecognizer(recognizer, StreamingOptions())
    for samples in microphone:
        for event in live.feed(samples):
            print(event.kind, event.text)
    events = live.finish()

The words of an utterance are partial, and may change, until its end makes them final. What is held is bounded by `max_seconds` of sound, and what is
found does not depend on how the samples are cut into feeds. Knows nothing about where sound comes from (`live_sources.py`) and goes to (`live.py`).

N: samples.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UserError
from ..speech.segmentation import EndpointDetector, SegmentationOptions, SpeechEvent, check_waveform
from .chunked_logits import ChunkedLogits, check_streamable
from .live_utterances import LiveUtterances, StreamEvent
from .recognizer import Recognizer

__all__ = ["StreamEvent", "StreamingOptions", "StreamingRecognizer"]

STEP_SECONDS = 0.02  # of sound that is looked at at a time, whatever is fed
ENDLESS_SECONDS = 1e9  # long speech is cut between words, not by the detector, which does not know them


@dataclass(frozen=True)
class StreamingOptions:
    """How live sound is read. Raises `UserError` for values out of range."""

    chunk_seconds: float = 0.32
    """Of sound that the model reads at a time, rounded to its frames. Less shows words sooner and takes more work."""
    pause_seconds: float = 0.8
    """An utterance ends when the model has written nothing for so long, or when the detector hears its end."""
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    """Where there is speech, by the detector of method "energy" ("auto" is the same here), and how long an utterance may be (`max_seconds`). With the
    method "windows" the model hears everything, for sound whose speech is hard to tell from noise."""

    def __post_init__(self) -> None:
        for name in ("chunk_seconds", "pause_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, but must be above 0 seconds; give another number.")
        longest = self.segmentation.max_seconds
        if self.chunk_seconds > longest:
            raise UserError(f"chunk_seconds is {self.chunk_seconds:g}, but an utterance has {longest:g} seconds at most; give a smaller number.")


class StreamingRecognizer:
    """Hears a stream and tells what is said in it. One recognizer hears one stream, from its beginning to its end.

    Each stretch of speech is read from a zero state, as the pieces of a recording are; long speech keeps its state where it is cut into utterances.
    On an hour of synthetic digits (`scripts/benchmark_streaming.py`) 15.1 % of words were wrong so, and 15.3 % in the recording as a whole; with one
    state from the beginning of the stream to its end, as method "windows" has it, 16.0 %, the difference being words that were heard in pauses.

    Raises:
        UserError: the model is not a one-directional `RecurrentForCTC`, or the segmentation has a method that cannot be live.
    """

    def __init__(self, recognizer: Recognizer, options: StreamingOptions | None = None) -> None:
        check_streamable(recognizer)
        self._recognizer, self._options = recognizer, options or StreamingOptions()
        segmentation, rate = self._options.segmentation, recognizer.sampling_rate
        self._detector = None
        if segmentation.method != "windows":
            self._detector = EndpointDetector(rate, replace(segmentation, max_seconds=ENDLESS_SECONDS))
        self._step = max(1, round(STEP_SECONDS * rate))
        self._waiting = np.empty(0, np.float32)  # less than a step
        self._recent = np.empty(0, np.float32)  # the last samples that were heard, since speech is found some time after it began
        self._num_heard = 0  # samples
        self._stretch = None if self._detector else self._stretch_from(0)

    def feed(self, samples: np.ndarray) -> list[StreamEvent]:
        """Hear the next samples, (N,) floats at the recognizer's rate, as many as there are; returns what became known by them.

        Raises `UserError` for samples that are not one channel of finite floats.
        """
        check_waveform(samples)
        waiting = np.concatenate([self._waiting, samples.astype(np.float32, copy=False)])
        events: list[StreamEvent] = []
        for first in range(0, len(waiting) - self._step + 1, self._step):
            events += self._hear(waiting[first : first + self._step])
        self._waiting = waiting[len(waiting) - len(waiting) % self._step :].copy()
        return events

    def finish(self) -> list[StreamEvent]:
        """End the stream: what has been heard becomes final. Nothing may be fed afterwards."""
        events = self._hear(self._waiting)
        for found in self._detector.finish() if self._detector else []:
            events += self._follow(found)
        return events + self._end_stretch(self._num_heard)

    def _hear(self, samples: np.ndarray) -> list[StreamEvent]:
        """Hear a step."""
        self._recent = np.concatenate([self._recent, samples])
        self._num_heard += len(samples)
        events: list[StreamEvent] = []
        for found in self._detector.feed(samples) if self._detector else []:
            events += self._follow(found)
        events += self._read(self._num_heard)
        kept = self._detector.look_back if self._detector else 0
        self._recent = self._recent[max(0, len(self._recent) - kept) :]
        return events

    def _follow(self, found: SpeechEvent) -> list[StreamEvent]:
        """Begin or end a stretch."""
        if found.kind == "end":
            return self._end_stretch(found.sample)
        self._stretch = self._stretch_from(found.sample)
        return []

    def _stretch_from(self, sample: int) -> "_Stretch":
        options, seconds_per_frame = self._options, self._recognizer.seconds_per_frame
        chunks = ChunkedLogits(self._recognizer, max(1, round(options.chunk_seconds / seconds_per_frame)))
        start = sample / self._recognizer.sampling_rate
        limits = {"pause_seconds": options.pause_seconds, "max_seconds": options.segmentation.max_seconds}
        return _Stretch(chunks, LiveUtterances(self._recognizer, start, **limits), sample)

    def _read(self, end: int) -> list[StreamEvent]:
        """Let the model hear what is heard of the stretch up to a sample, if there is a stretch."""
        stretch = self._stretch
        if stretch is None or end <= stretch.num_read:
            return []
        before = self._num_heard - len(self._recent)
        assert stretch.num_read >= before, "what the detector looks back on is kept"
        logits = stretch.chunks.feed(self._recent[stretch.num_read - before : end - before])
        stretch.num_read = end
        return stretch.utterances.hear(logits) if len(logits) else []

    def _end_stretch(self, sample: int) -> list[StreamEvent]:
        """End the stretch, if there is one, before a sample; silence that the model has read beyond it does no harm."""
        events = self._read(sample)
        if self._stretch is None:
            return []
        logits = self._stretch.chunks.finish()
        if len(logits):
            events += self._stretch.utterances.hear(logits)
        events += self._stretch.utterances.finish()
        self._stretch = None
        return events


@dataclass
class _Stretch:
    """Sound that is read from one zero state."""

    chunks: ChunkedLogits
    utterances: LiveUtterances
    num_read: int
    """The sample of the stream up to which it is read."""
