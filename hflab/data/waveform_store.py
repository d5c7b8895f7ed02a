"""The sound of clips on disk: decoded, brought to one rate or synthesised once, and read through a memory map from then on.

    waveforms = open_waveforms(cache_folder(None), clips, 16000)
    waveforms.waveform(0)     # (N,) float32

An entry is a folder `waveforms/KEY` of the cache with 16-bit samples of all clips one after the other; KEY is a hash of what the clips are made of:
names, sizes and times of files, or voices and texts. Knows nothing about texts, splits and features.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import UserError
from ..speech.audio import as_floats, as_integers, read_waveform
from ..speech.noise import add_noise
from ..speech.synthesis import Utterance, speak
from .cache_entries import open_entry, write_file
from .clips import Clip, Recording, Spoken

FORMAT = 1  # raise it when the same clips would be stored differently
WHAT = "the decoded audio"
ERRORS_SHOWN = 3
QUIETEST = 3e-4  # noise below it would be lost in rounding to 16 bits: the floor of a clip that says nothing


@dataclass(frozen=True)
class Waveforms:
    """The sound of some clips, in their order."""

    samples: np.ndarray
    """Of all clips, one after the other, (sum of N,) int16, a read-only memory map."""
    starts: np.ndarray
    """Where each clip begins, and where the last one ends, (clips + 1,) int64."""
    sampling_rate: int
    fingerprint: str
    """SHA-256 of the samples."""

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.starts) - 1

    def waveform(self, clip: int) -> np.ndarray:
        """Its samples, (N,) float32."""
        return as_floats(self.samples[self.starts[clip] : self.starts[clip + 1]])

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each clip, (clips,) int64."""
        return np.diff(self.starts)


def open_waveforms(folder: Path, clips: Sequence[Clip], sampling_rate: int) -> Waveforms:
    """Return the sound of `clips` from the cache `folder`, or, the first time, decode or synthesise it into there.

    Raises:
        UserError: a recording cannot be read (the first few are named); the disk is full or the folder cannot be used.
    """
    assert clips, "a split has clips"
    identity = {"format": FORMAT, "rate": sampling_rate, "clips": [_identity(clip.audio) for clip in clips]}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def read(entry: Path) -> Waveforms:
        facts = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        starts = np.concatenate([[0], np.cumsum(facts["lengths"], dtype=np.int64)])
        path = entry / "samples.bin"
        if path.stat().st_size != 2 * starts[-1]:
            raise ValueError(f"samples.bin has {path.stat().st_size} bytes, not {2 * starts[-1]}")
        samples = np.memmap(path, dtype="<i2", mode="r", shape=(int(starts[-1]),))
        return Waveforms(samples, starts, sampling_rate, facts["sha256"])

    def write(partial: Path) -> None:
        _write(partial, clips, sampling_rate)

    return open_entry(folder / "waveforms" / key, WHAT, read, write)


def _identity(audio: Recording | Spoken) -> dict[str, Any]:
    """What decides the sound, as JSON."""
    if isinstance(audio, Spoken):
        return asdict(audio)
    part = {"start": audio.start_seconds, "end": audio.end_seconds}
    if isinstance(audio.source, bytes):
        return {"sha256": hashlib.sha256(audio.source).hexdigest(), **part}
    try:
        facts = audio.source.stat()
    except OSError:
        raise UserError(f"There is no recording {str(audio.source)!r}; check the path, or remove its row.") from None
    return {"path": str(audio.source.resolve()), "bytes": facts.st_size, "modified": facts.st_mtime_ns, **part}


def _write(partial: Path, clips: Sequence[Clip], sampling_rate: int) -> None:
    """Decode all clips into the folder of an entry."""
    lengths: list[int] = []
    digest = hashlib.sha256()

    def blocks() -> Iterator[memoryview]:
        # disable=None: a bar on terminals only
        for samples in tqdm(_decoded(clips, sampling_rate), total=len(clips), desc="decoding", unit=" clips", disable=None, leave=False):
            lengths.append(len(samples))
            digest.update(samples.data)
            yield samples.data

    write_file(partial / "samples.bin", blocks(), WHAT)
    facts = {"lengths": lengths, "sha256": digest.hexdigest()}
    write_file(partial / "manifest.json", [json.dumps(facts).encode()], WHAT)


def _decoded(clips: Sequence[Clip], sampling_rate: int) -> Iterator[np.ndarray]:
    """Each clip's samples (N,) int16, in order, made by threads. Raises `UserError` that names recordings which cannot be read."""
    failed: list[str] = []
    groups = _groups(clips)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        for start in range(0, len(groups), 64):  # so that not all clips wait in memory
            for made in workers.map(lambda group: _make(group, sampling_rate), groups[start : start + 64]):
                failed += [result for result in made if isinstance(result, str)]
                yield from (result for result in made if not isinstance(result, str))
    if failed:
        more = f" And {len(failed) - ERRORS_SHOWN} more." if len(failed) > ERRORS_SHOWN else ""
        raise UserError(f"{' '.join(failed[:ERRORS_SHOWN])}{more} `hflab data check` lists them all.")


def _groups(clips: Sequence[Clip]) -> list[list[Recording | Spoken]]:
    """Clips that are made together: neighbouring utterances of a voice, which one process speaks; each recording by itself."""
    groups: list[list[Recording | Spoken]] = []
    for clip in clips:
        audio, last = clip.audio, groups[-1][-1] if groups else None
        if isinstance(audio, Spoken) and isinstance(last, Spoken) and last.voice == audio.voice:
            groups[-1].append(audio)
        else:
            groups.append([audio])
    return groups


def _make(group: Sequence[Recording | Spoken], sampling_rate: int) -> list[np.ndarray | str]:
    """The samples of each, or why there are none."""
    first = group[0]
    if isinstance(first, Recording):
        try:
            found = read_waveform(first.source, sampling_rate, name=first.name, start_seconds=first.start_seconds, end_seconds=first.end_seconds)
        except UserError as error:
            return [str(error)]
        return [as_integers(found)]
    spoken = [audio for audio in group if isinstance(audio, Spoken)]
    utterances = [Utterance(audio.text, speed=audio.speed, pitch=audio.pitch) for audio in spoken]
    heard = speak(first.voice, utterances, sampling_rate)
    return [as_integers(_in_noise(speech, audio, sampling_rate)) for speech, audio in zip(heard, spoken, strict=True)]


def _in_noise(speech: np.ndarray, audio: Spoken, sampling_rate: int) -> np.ndarray:
    """The speech at its level, with silence around it and noise over all of it."""
    generator = np.random.default_rng(audio.seed)
    scaled = speech * np.float32(audio.peak / max(float(np.abs(speech).max(initial=0.0)), QUIETEST))
    around = [np.zeros(round(seconds * sampling_rate), dtype=np.float32) for seconds in audio.silence]
    return add_noise(np.concatenate([around[0], scaled, around[1]]), audio.signal_to_noise, audio.noise, generator)
