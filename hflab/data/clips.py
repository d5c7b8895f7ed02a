"""A clip: what was said, by whom, under which conditions, and where its sound comes from.

Knows nothing about where clips are listed (`speech_sources.py`) and how their sound is kept (`waveform_store.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Recording:
    """A sound file, or a part of one."""

    source: Path | bytes
    """The file, or the content of one."""
    name: str
    """What messages call it."""
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None: to the end of the file."""


@dataclass(frozen=True)
class Spoken:
    """An utterance of a synthetic voice in noise."""

    voice: str
    text: str
    speed: int
    """Words a minute."""
    pitch: int
    """0 to 99."""
    signal_to_noise: float
    """In dB."""
    noise: str
    """A key of `hflab.speech.noise.NOISES`."""
    peak: float
    """Largest amplitude of the speech, 0 to 1."""
    silence: tuple[float, float]
    """Seconds before and after the speech."""
    seed: int


class Clip(NamedTuple):
    """A sound and its transcript."""

    audio: Recording | Spoken
    text: str
    speaker: str | None = None
    condition: str | None = None
    """Such as a level of noise or a room; figures are given for each."""
