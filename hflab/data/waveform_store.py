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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import UserError
from ..speech.audio import UnreadableRecording, as_floats, as_integers, read_waveform
from ..speech.noise import add_noise
from ..speech.synthesis import Utterance, espeak_version, speak
from .cache_entries import open_entry, write_file
from .clips import Clip, Recording, Spoken

FORMAT = 2  # raise it when the same clips would be stored differently
WHAT = "the decoded audio"
ERRORS_SHOWN = 3
LISTED_BY = "`hflab data check` lists all such recordings."
GROUPS_AT_ONCE = 4 * (os.cpu_count() or 1)  # so that not all clips wait in memory
MOST_TOGETHER = 100  # utterances that a process speaks, for the same reason
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
    """SHA-256 of the samples and of where clips begin."""

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
    synthesizer = espeak_version() if any(isinstance(clip.audio, Spoken) for clip in clips) else None
    identity = {"format": FORMAT, "rate": sampling_rate, "synthesizer": synthesizer, "clips": [_identity(clip.audio) for clip in clips]}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def read(entry: Path) -> Waveforms:
        facts = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        starts = np.concatenate([[0], np.cumsum(facts["lengths"], dtype=np.int64)])
        path = entry / "samples.bin"
        if len(starts) != len(clips) + 1 or path.stat().st_size != 2 * starts[-1]:
            raise ValueError(f"samples.bin has {path.stat().st_size} bytes, and the manifest {len(starts) - 1} clips of {2 * starts[-1]} bytes")
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
    content = audio.content
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), **part}
    found = replace(audio, source=content)
    if not found.is_there:
        raise UserError(f"{found.absence} {LISTED_BY}")
    facts = content.stat()
    return {"path": str(content.resolve()), "bytes": facts.st_size, "modified": facts.st_mtime_ns, **part}


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
    digest.update(json.dumps(lengths).encode())
    facts = {"lengths": lengths, "sha256": digest.hexdigest()}
    write_file(partial / "manifest.json", [json.dumps(facts).encode()], WHAT)


def _decoded(clips: Sequence[Clip], sampling_rate: int) -> Iterator[np.ndarray]:
    """Each clip's samples (N,) int16, in order, made by threads. Raises `UserError` that names recordings which cannot be read."""
    failed: list[str] = []
    groups = clips_by_maker(clips)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        for start in range(0, len(groups), GROUPS_AT_ONCE):
            for made in workers.map(lambda group: make_sound(group, sampling_rate), groups[start : start + GROUPS_AT_ONCE]):
                failed += [result for result in made if isinstance(result, str)]
                yield from (result for result in made if not isinstance(result, str))
    if failed:
        more = f" And {len(failed) - ERRORS_SHOWN} more." if len(failed) > ERRORS_SHOWN else ""
        raise UserError(f"{' '.join(failed[:ERRORS_SHOWN])}{more} {LISTED_BY}")


def clips_by_maker(clips: Sequence[Clip]) -> list[list[Recording | Spoken]]:
    """Clips that are made together: some neighbouring utterances of a voice, which one process speaks; each recording by itself."""
    groups: list[list[Recording | Spoken]] = []
    for clip in clips:
        audio, last = clip.audio, groups[-1][-1] if groups else None
        if isinstance(audio, Spoken) and isinstance(last, Spoken) and last.voice == audio.voice and len(groups[-1]) < MOST_TOGETHER:
            groups[-1].append(audio)
        else:
            groups.append([audio])
    return groups


def make_sound(group: Sequence[Recording | Spoken], sampling_rate: int) -> list[np.ndarray | str]:
    """The samples (N,) int16 of each of a group of `clips_by_maker`, or why there are none. Raises `UserError` where a package is missing."""
    first = group[0]
    if isinstance(first, Recording):
        try:
            found = read_waveform(first.content, sampling_rate, name=first.name, start_seconds=first.start_seconds, end_seconds=first.end_seconds)
        except UnreadableRecording as error:
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
