"""A look at the speech data of a recipe before training: what is there, what is wrong with it, and what training would leave out.

    found = check_speech(recipe.data, recipe.processor, frames)
    found.has_problems, found.findings["clipping"], found.left_out

Every clip of every split is looked at, and nothing stops at those that cannot be read. Knows nothing about models but how many frames they make of
a clip, and nothing about how findings are shown (`hflab.summaries`, `speech_check_files.py`, `hflab.inspection.speech_check_picture`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import check_choice
from ..recipe import DataSection, ProcessorSection
from ..speech.text_normalization import NORMALIZERS
from .checked_clips import CheckedClip, checked_clips
from .clips import Clip, Recording
from .speech_corpus import read_split_clips
from .speech_folders import sounds_below
from .speech_preparation import ModelFrames, character_tokenizer, clips_left_out, frames_needed
from .speech_problems import PROBLEMS, Examined, usual_speeds
from .transcript_spelling import encode_texts, unknown_characters

UNREADABLE = "unreadable"  # the reason that `clips_left_out` cannot know


class Finding(NamedTuple):
    """A clip that has a problem, and why."""

    clip: CheckedClip
    why: str


class LeftOut(NamedTuple):
    """A training clip that training leaves out."""

    clip: CheckedClip
    reason: str
    """`UNREADABLE`, at which training stops as long as it is there, or a key of what `clips_left_out` returns."""


class SplitSize(NamedTuple):
    """How much is in a split."""

    clips: int
    seconds: float
    """Of the readable clips."""
    speakers: int | None
    """None where speakers are not known."""
    median_seconds: float
    longest_seconds: float


class StoredAs(NamedTuple):
    """How recordings are stored."""

    sampling_rate: int
    """In Hz."""
    num_channels: int


@dataclass(frozen=True)
class SpeechCheck:
    """What was found. Clips are in the order of the splits."""

    name: str
    """Of the source."""
    origin: str
    normalizer: str
    sampling_rate: int
    """Of the waveforms that the model reads, in Hz."""
    clip_seconds: tuple[float, float]
    """How long training clips may last, at least and at most."""
    usual_speeds: tuple[float, float] | None
    """Between which characters per second transcripts are plausible; None where too few clips tell."""
    clips: list[CheckedClip]
    findings: dict[str, list[Finding]]
    """By key of `PROBLEMS`; those that no clip has are left out."""
    left_out: list[LeftOut]
    """All that training leaves out."""
    unlisted_sounds: list[str]
    """Sound files in the folder of the data that are no clip, relative to it: for want of a transcript or of a row."""

    @property
    def has_problems(self) -> bool:
        """Whether something loses or spoils data; what is only worth knowing does not count."""
        return any(PROBLEMS[name].kind != "note" for name in self.findings)

    @property
    def splits(self) -> dict[str, SplitSize]:
        """The sizes of the splits."""
        names = dict.fromkeys(clip.split for clip in self.clips)
        return {name: _size([clip for clip in self.clips if clip.split == name]) for name in names}

    @property
    def stored_as(self) -> dict[StoredAs, int]:
        """Clips by how they are stored, the most frequent first."""
        counts = Counter(StoredAs(clip.sound.sampling_rate, clip.sound.num_channels) for clip in self.clips if clip.sound)
        return dict(counts.most_common())


def check_speech(
    data: DataSection, processor: ProcessorSection, frames: ModelFrames, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> SpeechCheck:
    """Look at every clip that `data` names.

    Args:
        data: the source, its columns and its splits.
        processor: the normaliser, and which characters get a token.
        frames: of the model.
        tokenizer: a trained model's; None: one of the characters of the training texts.

    Raises:
        UserError: as `load_speech` does, but not for sound that cannot be read.
    """
    check_choice("processor.normalizer", processor.normalizer, NORMALIZERS)
    raw = read_split_clips(data)
    clips = checked_clips(raw.splits, sampling_rate=frames.sampling_rate, normalizer=NORMALIZERS[processor.normalizer])
    texts = (clip.text for clip in clips if clip.sound and clip.split == "train")
    examined = examine(clips, data, frames, tokenizer or character_tokenizer(texts, processor), has_own_vocabulary=tokenizer is None)
    findings = {name: [Finding(*found) for found in problem.find(examined)] for name, problem in PROBLEMS.items()}
    return SpeechCheck(
        name=raw.name,
        origin=raw.origin,
        normalizer=processor.normalizer,
        sampling_rate=frames.sampling_rate,
        clip_seconds=(data.min_clip_seconds, data.max_clip_seconds),
        usual_speeds=usual_speeds(examined),
        clips=clips,
        findings={name: found for name, found in findings.items() if found},
        left_out=list(_left_out(examined)),
        unlisted_sounds=_unlisted_sounds(data, raw.splits.values()),
    )


def examine(
    clips: list[CheckedClip], data: DataSection, frames: ModelFrames, tokenizer: PreTrainedTokenizerBase, *, has_own_vocabulary: bool
) -> Examined:
    """What is known about the clips together: characters without a token, and what training would leave out, by its own rule."""
    readable = [clip for clip in clips if clip.sound is not None]
    lengths = np.array([clip.num_samples(frames.sampling_rate) for clip in readable], dtype=np.int64)
    labels = encode_texts([clip.text for clip in readable], tokenizer)
    reasons = [""] * len(readable)
    for reason, rows in clips_left_out(lengths, labels, data, frames).items():
        for row in rows:
            reasons[row] = reason
    return Examined(
        clips=clips,
        data=data,
        sampling_rate=frames.sampling_rate,
        reasons=reasons,
        num_frames=[int(count) for count in frames.count(lengths)],
        frames_needed=[frames_needed(of_clip) for of_clip in labels],
        has_own_vocabulary=has_own_vocabulary,
        unknown=frozenset(unknown_characters([clip.text for clip in readable], tokenizer)),
    )


def _left_out(examined: Examined) -> Iterator[LeftOut]:
    """The training clips that are not learnt from, in their order."""
    reasons = iter(examined.reasons)
    for clip in examined.clips:
        reason = UNREADABLE if clip.sound is None else next(reasons)
        if reason and clip.split == "train":
            yield LeftOut(clip, reason)


def _size(clips: Sequence[CheckedClip]) -> SplitSize:
    seconds = [clip.seconds for clip in clips if clip.sound] or [0.0]
    speakers = {clip.speaker for clip in clips} - {None}
    return SplitSize(len(clips), sum(seconds), len(speakers) or None, median(seconds), max(seconds))


def _unlisted_sounds(data: DataSection, splits: Iterable[Sequence[Clip]]) -> list[str]:
    """Sound files below the folder of own recordings that no clip is made of."""
    if data.source != "speech" or data.path is None:
        return []
    audios = [clip.audio for clips in splits for clip in clips]
    listed = {audio.source.resolve() for audio in audios if isinstance(audio, Recording) and isinstance(audio.source, Path)}
    folder = Path(data.path).expanduser()
    return [file.relative_to(folder).as_posix() for file in sounds_below(data.path) if file.resolve() not in listed]
