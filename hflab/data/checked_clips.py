"""Every clip of some splits, looked at once: what its sound measures, or why it cannot be read, and its transcript.

    clips = checked_clips(raw.splits, sampling_rate=16000, normalizer=NORMALIZERS["basic"])

Sounds are read as they are stored and forgotten when they are measured; what cannot be read is noted and nothing stops at it. Knows nothing about
what is a problem (`speech_problems.py`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ..speech.audio import SoundBlock, UnreadableRecording, as_floats, read_blocks, resampled_length
from ..speech.sound_quality import SoundQuality, measure_sound
from ..speech.text_normalization import Normalizer
from .clips import Clip, Recording, Spoken
from .waveform_store import GROUPS_AT_ONCE, clips_by_maker, make_sound


@dataclass(frozen=True)
class CheckedClip:
    """A clip and what was found out about it alone."""

    split: str
    name: str
    """What lists call it."""
    file: str
    """Where its sound is; empty where it is in no file of its own."""
    given_text: str
    """The transcript as it was given."""
    text: str
    """The transcript as it is learnt, normalised."""
    speaker: str | None
    sound: SoundQuality | None
    """None: it cannot be read."""
    error: str
    """Why it cannot be read; empty where it can."""

    def num_samples(self, sampling_rate: int) -> int:
        """Of its sound at another rate, in Hz; 0 where it cannot be read."""
        return 0 if self.sound is None else resampled_length(self.sound.num_samples, self.sound.sampling_rate, sampling_rate)

    @property
    def seconds(self) -> float:
        """Its length; 0 where it cannot be read."""
        return 0.0 if self.sound is None else self.sound.seconds

    @property
    def characters_per_second(self) -> float | None:
        """Of the transcript in the time in which something is heard; None where nothing is, or nothing is said."""
        if self.sound is None or self.sound.silence or not self.text:
            return None
        return len(self.text) / self.sound.heard_seconds


def checked_clips(splits: Mapping[str, Sequence[Clip]], *, sampling_rate: int, normalizer: Normalizer) -> list[CheckedClip]:
    """Look at every clip of `splits`.

    Args:
        splits: clips by split.
        sampling_rate: at which utterances of synthetic voices are made, in Hz; recordings are measured at their own.
        normalizer: of the transcripts.

    Raises:
        UserError: a package that reads or makes sound is missing.
    """
    clips = [(split, clip) for split, of_split in splits.items() for clip in of_split]
    measured = tqdm(
        _measured([clip for _, clip in clips], sampling_rate), total=len(clips), desc="checking", unit=" clips", disable=None, leave=False
    )
    return [
        CheckedClip(
            split=split,
            name=_name(clip.audio),
            file=str(clip.audio.source) if isinstance(clip.audio, Recording) and isinstance(clip.audio.source, Path) else "",
            given_text=clip.text,
            text=normalizer.normalize(clip.text),
            speaker=clip.speaker,
            sound=found if isinstance(found, SoundQuality) else None,
            error=found if isinstance(found, str) else "",
        )
        for (split, clip), found in zip(clips, measured, strict=True)
    ]


def _name(audio: Recording | Spoken) -> str:
    return audio.name.rstrip(",") if isinstance(audio, Recording) else f"{audio.voice}: {audio.text!r}"


def _measured(clips: Sequence[Clip], sampling_rate: int) -> Iterator[SoundQuality | str]:
    """Each clip's measures, or why it cannot be read, in order, found by threads that hold one block of sound each."""
    groups = clips_by_maker(clips)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        for start in range(0, len(groups), GROUPS_AT_ONCE):
            for found in workers.map(lambda group: _measure_group(group, sampling_rate), groups[start : start + GROUPS_AT_ONCE]):
                yield from found


def _measure_group(group: Sequence[Recording | Spoken], sampling_rate: int) -> list[SoundQuality | str]:
    first = group[0]
    if isinstance(first, Recording):
        return [_measure_recording(first)]
    made = make_sound(group, sampling_rate)
    return [found if isinstance(found, str) else measure_sound([SoundBlock(as_floats(found)[:, None], sampling_rate)]) for found in made]


def _measure_recording(recording: Recording) -> SoundQuality | str:
    if not recording.is_there:
        return "there is no such file" + (f" ({recording.listed})" if recording.listed else "")
    start, end = recording.start_seconds, recording.end_seconds
    try:
        return measure_sound(read_blocks(recording.content, name=recording.name, start_seconds=start, end_seconds=end))
    except UnreadableRecording as error:
        return error.reason
