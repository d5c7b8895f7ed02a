"""A clip: what was said, by whom, under which conditions, and where its sound comes from.

Knows nothing about where clips are listed (`speech_sources.py`) and how their sound is kept (`waveform_store.py`).
"""

import os.path
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Recording:
    """A sound file, or a part of one."""

    source: Path | bytes | Callable[[], Path | bytes]
    """The file, the content of one, or what hands it out: the sounds of a data set need not all be in memory."""
    name: str
    """What messages call it."""
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None: to the end of the file."""
    listed: str | None = field(default=None, compare=False)
    """The row that names it, such as "Line 3 of metadata.csv"; None where files are looked for."""

    @property
    def content(self) -> Path | bytes:
        """The file, or the content of one."""
        return self.source() if callable(self.source) else self.source

    @property
    def is_there(self) -> bool:
        """Whether its file exists."""
        return not isinstance(self.source, Path) or os.path.isfile(self.source)

    @property
    def absence(self) -> str:
        """What to say where its file does not exist."""
        if self.listed:
            return f"{self.listed} names the sound {self.name!r}, and there is no file {str(self.source)!r}; mend or remove the row."
        return f"There is no recording {str(self.source)!r}; check the path, or remove its row."


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
