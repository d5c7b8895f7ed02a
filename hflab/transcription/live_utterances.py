"""The scores of live sound become events: words that may still change, and words that are final.

    utterances = LiveUtterances(recognizer, start_seconds, pause_seconds=0.8, max_seconds=20)
    events = utterances.hear(logits)     # for each chunk
    events = utterances.finish()

Partial words are the greedy ones. So are final words where the recognizer decodes greedily; for any other decoder the scores of the running utterance
are kept and decoded at its end, which takes the decoder's time once an utterance, and no more memory than `max_seconds` of scores. Knows nothing
about sound and models.

Shapes: `F` frames of logits, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..speech.ctc_decoding import Transcript, Word, greedy_decode
from ..speech.ctc_greedy_stream import GreedyStream
from ..speech.subtitles import CaptionWord, to_text
from .recognizer import Recognizer


@dataclass(frozen=True)
class StreamEvent:
    """What became known of an utterance."""

    kind: Literal["partial", "final"]
    """After a partial event another one with the same beginning or other words may follow; a final event ends the utterance."""
    words: list[CaptionWord]
    """All of the utterance so far, with times in seconds from the beginning of the stream and confidences. A final event has none where a decoder
    with a language model takes back all that was shown."""
    joiner: str
    """What stands between two words."""

    @property
    def text(self) -> str:
        """The words on one line."""
        return to_text(self.words, joiner=self.joiner).rstrip("\n")


class LiveUtterances:
    """Tells the utterances of a stretch of sound.

    An utterance ends when no letter was written for `pause_seconds`; one that has lasted `max_seconds` since its first word ends at the widest gap
    between two words of its second half.

    Args:
        recognizer: alphabet and decoder; the model is not used.
        start_seconds: where the stretch begins in the stream.
        pause_seconds: above 0.
        max_seconds: above 0.
    """

    def __init__(self, recognizer: Recognizer, start_seconds: float, *, pause_seconds: float, max_seconds: float) -> None:
        self._recognizer, self._start = recognizer, start_seconds
        self._pause = max(1, round(pause_seconds / recognizer.seconds_per_frame))
        self._longest = max(1, round(max_seconds / recognizer.seconds_per_frame))
        self._greedy = GreedyStream(recognizer.alphabet)
        self._is_greedy = recognizer.decode is greedy_decode
        self._kept: list[Tensor] = []  # log-probabilities, each (F, V), of the running utterance where they are to be decoded again
        self._first_kept = 0  # frame
        self._shown: list[str] = []  # of the running utterance

    def hear(self, logits: Tensor) -> list[StreamEvent]:
        """Read the next frames, (F, V) float32, as many as there are."""
        log_probabilities = logits.log_softmax(dim=-1)
        self._greedy.feed(log_probabilities)
        if not self._is_greedy:
            self._kept.append(log_probabilities)
        words, events = self._greedy.words, []
        if words and self._greedy.num_silent_frames >= self._pause:
            events = self._end_utterance(len(words), self._greedy.num_frames)
        elif words and self._greedy.num_frames - words[0].start > self._longest:
            events = self._end_utterance(*self._cut(words))
        return events + self._show()

    def finish(self) -> list[StreamEvent]:
        """End the stretch and with it the utterance."""
        return self._end_utterance(len(self._greedy.words), self._greedy.num_frames)

    def _show(self) -> list[StreamEvent]:
        """The running utterance, if there is news of it."""
        words = self._greedy.words
        if not words:
            self._forget(self._greedy.num_frames - self._pause)
        texts = [word.text for word in words]
        if texts == self._shown:
            return []
        self._shown = texts
        return [self._event("partial", words)]

    def _cut(self, words: list[Word]) -> tuple[int, int]:
        """How many words a long utterance keeps, and the frame of its end; the word that is being written is left to the next one."""
        middle = words[0].start + self._longest // 2
        gaps = [(right.start - left.end, count) for count, (left, right) in enumerate(pairwise(words), 1) if left.end >= middle]
        if not gaps:
            return len(words), self._greedy.num_frames
        _, count = max(gaps)
        return count, (words[count - 1].end + words[count].start) // 2

    def _end_utterance(self, count: int, end: int) -> list[StreamEvent]:
        """Make the first words final; the utterance ends before the frame `end`."""
        words, was_shown = self._greedy.take(count), bool(self._shown)
        self._shown = []
        first = 0
        if not self._is_greedy:
            first = self._first_kept
            words = self._decoded(end - first)
            self._forget(end)
        return [self._event("final", words, first)] if words or was_shown else []

    def _decoded(self, num_frames: int) -> list[Word]:
        """The decoder's words of the first of the frames that are kept."""
        if num_frames == 0:
            return []
        frames = torch.cat(self._kept)[None, :num_frames]
        (transcript,) = self._recognizer.decode(frames, torch.tensor([num_frames]), self._recognizer.alphabet)
        return transcript.words

    def _forget(self, end: int) -> None:
        """Drop what is kept of frames before `end`."""
        if self._kept and end > self._first_kept:
            self._kept = [torch.cat(self._kept)[end - self._first_kept :]]
            self._first_kept = end

    def _event(self, kind: Literal["partial", "final"], words: Sequence[Word], first: int = 0) -> StreamEvent:
        """With the words' frames, counted from the stretch's frame `first`, as seconds."""
        start = self._start + first * self._recognizer.seconds_per_frame
        found = self._recognizer.words_in_seconds(Transcript("", list(words), 0.0), start)
        return StreamEvent(kind, found, self._recognizer.alphabet.space)
