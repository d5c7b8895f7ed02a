"""Synthetic speech by espeak-ng, which the package `espeakng-loader` brings: for tests, lessons and first experiments, without network or recordings.

    waveforms = speak("en-us+f3", [Utterance("one two three")], 16000)

A voice is a language or accent and, after a plus, a variant of timbre: "en-gb-scotland+m5". The same voice and list of utterances give the same
samples, since each list is spoken by a process of its own. Knows nothing about data sets and models.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .audio import as_floats, resample

MOST_SECONDS = 600  # of a process; it speaks a hundred times faster than real time
_PROGRAM = Path(__file__).with_name("espeak_process.py")


@dataclass(frozen=True)
class Utterance:
    """A text and how it is spoken."""

    text: str
    speed: int = 175
    """Words a minute, 80 to 450."""
    pitch: int = 50
    """0 to 99."""
    pitch_range: int = 50
    """0, monotonous, to 99."""


def speak(voice: str, utterances: Sequence[Utterance], sampling_rate: int) -> list[np.ndarray]:
    """The waveforms of the utterances, (N,) float32 each, at `sampling_rate` in Hz.

    Raises:
        UserError: espeak-ng is not installed, or has no such voice.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError("Synthetic speech needs the package 'espeakng-loader', which is not installed; run: pip install 'hflab[speech]'")
    job = json.dumps({"voice": voice, "utterances": [asdict(utterance) for utterance in utterances]})
    done = subprocess.run([sys.executable, "-I", str(_PROGRAM)], input=job.encode(), capture_output=True, timeout=MOST_SECONDS, check=False)
    if done.returncode == 3:
        raise UserError(f"espeak-ng has no voice {voice!r}; give one such as 'en-us', 'en-gb-scotland' or 'cmn', with '+f1' or '+m3' for a variant.")
    if done.returncode:
        raise RuntimeError(f"espeak-ng failed with status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return _waveforms(done.stdout, len(utterances), sampling_rate)


def _waveforms(output: bytes, count: int, sampling_rate: int) -> list[np.ndarray]:
    """What the process wrote, as waveforms."""
    rate = int.from_bytes(output[:4], "little")
    place, waveforms = 4, []
    for _ in range(count):
        length = int.from_bytes(output[place : place + 4], "little")
        samples = np.frombuffer(output, dtype="<i2", count=length, offset=place + 4)
        place += 4 + 2 * length
        waveforms.append(resample(as_floats(samples), rate, sampling_rate))
    return waveforms
