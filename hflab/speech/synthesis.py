"""Synthetic speech by espeak-ng, which the package `espeakng-loader` brings: for tests, lessons and first experiments, without network or recordings.

    waveforms = speak("en-us+f3", [Utterance("one two three")], 16000)

A voice is a language or accent and, after a plus, a variant of timbre: "en-gb-scotland+m5". The same voice and list of utterances give the same
samples, since each list is spoken by a process of its own. Knows nothing about data sets and models.
"""

import functools
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
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
    espeak = _espeak()
    _check_variant(voice, espeak)
    paths = {"library": str(espeak.library), "data": str(espeak.data)}
    job = json.dumps({**paths, "voice": voice, "utterances": [asdict(utterance) for utterance in utterances]})
    done = subprocess.run([sys.executable, "-I", str(_PROGRAM)], input=job.encode(), capture_output=True, timeout=MOST_SECONDS, check=False)
    if done.returncode == 3:
        languages = [file.name.lower() for file in (espeak.data / "lang").rglob("*") if file.is_file()]
        hint = nearest(voice.split("+")[0].lower(), languages)
        raise UserError(
            f"espeak-ng has no voice {voice!r}; give a language such as 'en-us', 'en-gb-scotland' or 'cmn', with '+f1' or '+m3' for a variant.{hint}"
        )
    if done.returncode:
        raise RuntimeError(f"espeak-ng failed with status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return _waveforms(done.stdout, len(utterances), sampling_rate)


def espeak_version() -> str:
    """Of the package that brings espeak-ng. Raises `UserError` if it is not installed."""
    _espeak()
    return importlib.metadata.version("espeakng-loader")


@dataclass(frozen=True)
class _Espeak:
    """Where espeak-ng is."""

    library: Path
    data: Path


def _espeak() -> _Espeak:
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError("Synthetic speech needs the package 'espeakng-loader', which is not installed; run: pip install 'hflab[speech]'") from error
    return _Espeak(Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path()))


def _check_variant(voice: str, espeak: _Espeak) -> None:
    """Raise `UserError` for a variant that does not exist: espeak-ng would speak without it and say nothing."""
    language, plus, variant = voice.partition("+")
    variants = _variants(espeak.data)
    if plus and variant not in variants:
        hint = nearest(variant, variants) or f" There are: {', '.join(variants)}."
        raise UserError(f"The voice {voice!r} has no variant {variant!r}; give another, or {language!r} alone.{hint}")


@functools.cache
def _variants(data: Path) -> list[str]:
    return sorted(file.name for file in (data / "voices" / "!v").iterdir())


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
