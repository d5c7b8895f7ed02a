"""Recordings of any length to words with times: the sound is cut where nobody speaks, and the pieces are recognised in batches.

    spoken = transcribe_waveform(recognizer, waveform, TranscriptionOptions())
    for file, spoken in transcribe_files(recognizer, files, options): ...

Knows nothing about how results are written (`hflab.speech.subtitles`) and where models come from.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..speech.audio import EXTENSIONS, read_waveform
from ..speech.segmentation import Segment, SegmentationOptions, speech_segments
from ..speech.subtitles import CaptionWord, to_text
from .recognizer import BATCH_SECONDS, Recognizer

SHORTEST_SEGMENT = 0.05  # in seconds; less holds no word, and some models need a few frames


@dataclass(frozen=True)
class TranscriptionOptions:
    """How recordings are read."""

    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    batch_seconds: float = BATCH_SECONDS
    """Seconds of sound, padding included, that the model reads at a time."""


@dataclass(frozen=True)
class Spoken:
    """What was said in a recording."""

    words: list[CaptionWord]
    """In their order, with times in seconds from the beginning and confidences."""
    joiner: str
    """What stands between two words."""
    seconds: float
    """Of the recording."""
    speech_seconds: float
    """Of the pieces that were recognised."""
    elapsed_seconds: float
    """That it took, reading the file included."""

    @property
    def text(self) -> str:
        """All words on one line."""
        return to_text(self.words, joiner=self.joiner).rstrip("\n")

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound."""
        return self.elapsed_seconds / max(self.seconds, 1e-9)


def transcribe_waveform(
    recognizer: Recognizer,
    waveform: np.ndarray,
    options: TranscriptionOptions | None = None,
    *,
    report: Callable[[float], object] = lambda seconds: None,
) -> Spoken:
    """Write down a waveform (N,) float32 at the recognizer's rate; `report` is told seconds of sound as they are done."""
    options, began, rate = options or TranscriptionOptions(), time.perf_counter(), recognizer.sampling_rate
    segments = [found for found in speech_segments(waveform, rate, options.segmentation) if found.end - found.start >= SHORTEST_SEGMENT * rate]
    words: list[CaptionWord] = []
    place, done = 0, 0.0
    while place < len(segments):
        # a few batches at a time, so that the pieces of a window are of about one length and progress is seen
        group: list[Segment] = []
        seconds = 0.0
        while place < len(segments) and (not group or seconds < 4 * options.batch_seconds):
            group.append(segments[place])
            seconds += (segments[place].end - segments[place].start) / rate
            place += 1
        found = recognizer.recognize([waveform[piece.start : piece.end] for piece in group], batch_seconds=options.batch_seconds)
        for piece, transcript in zip(group, found, strict=True):
            words += recognizer.words_in_seconds(transcript, piece.start / rate)
        report(group[-1].end / rate - done)
        done = group[-1].end / rate
    report(len(waveform) / rate - done)
    return Spoken(
        words=words,
        joiner=recognizer.alphabet.space,
        seconds=len(waveform) / rate,
        speech_seconds=sum(piece.end - piece.start for piece in segments) / rate,
        elapsed_seconds=time.perf_counter() - began,
    )


def transcribe_file(
    recognizer: Recognizer, file: Path, options: TranscriptionOptions | None = None, *, report: Callable[[float], object] = lambda seconds: None
) -> Spoken:
    """Write down a sound file. Raises `UserError` if it cannot be read."""
    began = time.perf_counter()
    waveform = read_waveform(file, recognizer.sampling_rate)
    spoken = transcribe_waveform(recognizer, waveform, options, report=report)
    return Spoken(spoken.words, spoken.joiner, spoken.seconds, spoken.speech_seconds, time.perf_counter() - began)


def find_recordings(given: list[Path]) -> list[Path]:
    """The files that were given, and the sound files below the folders that were given, sorted.

    Raises:
        UserError: something does not exist, or a folder holds no sound.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."))
            if not inside:
                raise UserError(f"The folder {str(path)!r} holds no sound: none of its files ends in {', '.join(EXTENSIONS)}.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"There is no recording {str(path)!r}; check the path.")
    return list(dict.fromkeys(files))
