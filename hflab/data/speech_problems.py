"""What can be wrong with speech data, and which clips have it: `PROBLEMS`, a rule and a cure for each.

    for clip, why in PROBLEMS["clipping"].find(examined): ...

Every rule is a pure function of what is known about the clips; a new problem is a function and a line in `PROBLEMS`. What training leaves out is
decided by `speech_preparation.clips_left_out` alone. Knows nothing about reading sound and about how findings are shown.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..recipe import DataSection
from .checked_clips import CheckedClip

CLIPPED_SHARE = 1e-3  # of the samples at full scale: a few are the peaks of a recording that was made as loud as it can be
LARGEST_OFFSET = 0.01  # of full scale
LONGEST_SILENCE = 2.0  # seconds before or after what is said
RARE = 5  # a character that occurs less often in training is hardly learnt
LEAST_COMPARED = 10  # clips, to know what is usual
LEAST_FACTOR = 2.0  # from the median of characters per second
DEVIATIONS = 4.0  # from it, in robust standard deviations
DEVIATION_OF_MEDIAN = 1.4826  # standard deviations in the median distance from the median, of a normal distribution
SLACK_SECONDS, SLACK_CHARACTERS = 1.0, 2  # by which a clip may miss what is usual: of a single word the speed says little
CHARACTERS_NAMED = 8

Found = tuple[CheckedClip, str]
Kind = Literal["stops", "left_out", "spoils", "note"]
KINDS: dict[Kind, str] = {
    "stops": "Training stops at these",
    "left_out": "Training leaves these out (held-out ones are evaluated all the same)",
    "spoils": "These spoil training or its figures",
    "note": "Worth knowing",
}


@dataclass(frozen=True)
class Examined:
    """Clips and what is known about them together. Lists of the readable clips are in the order of `readable`."""

    clips: Sequence[CheckedClip]
    data: DataSection
    sampling_rate: int
    """Of the waveforms that the model reads, in Hz."""
    reasons: Sequence[str]
    """Why training leaves a readable clip out, or would if it were in the training split; empty where it does not."""
    num_frames: Sequence[int]
    """Which the model makes of a readable clip."""
    frames_needed: Sequence[int]
    """By CTC for its transcript."""
    unknown: frozenset[str]
    """Characters for which the tokenizer has no token."""
    has_own_vocabulary: bool
    """Whether the tokenizer was made of the training transcripts; what it lacks of them is left out on purpose."""

    @functools.cached_property
    def readable(self) -> list[CheckedClip]:
        """The clips whose sound was measured."""
        return [clip for clip in self.clips if clip.sound is not None]

    @property
    def learnable(self) -> list[CheckedClip]:
        """The clips that training would not leave out."""
        return [clip for clip, reason in zip(self.readable, self.reasons, strict=True) if not reason]

    @property
    def train(self) -> list[CheckedClip]:
        """The readable training clips."""
        return [clip for clip in self.readable if clip.split == "train"]

    @property
    def held_out(self) -> list[CheckedClip]:
        """The readable clips of other splits."""
        return [clip for clip in self.readable if clip.split != "train"]


@dataclass(frozen=True)
class Problem:
    """What can be wrong with a clip."""

    title: str
    kind: Kind
    find: Callable[[Examined], Iterator[Found]]
    """The clips that have it, and why."""
    cure: str


def _unreadable(examined: Examined) -> Iterator[Found]:
    return ((clip, clip.error) for clip in examined.clips if clip.sound is None)


def _empty(examined: Examined, *, given: bool) -> Iterator[Found]:
    """Clips without a text to learn: those that were `given` one, of which normalisation leaves nothing, or the others."""
    for clip, reason in zip(examined.readable, examined.reasons, strict=True):
        if reason == "without text" and bool(clip.given_text.strip()) == given:
            yield clip, f"{_shortened(clip.given_text)!r} becomes empty" if given else "its transcript is empty"


def _of_wrong_length(examined: Examined, *, wanted: str) -> Iterator[Found]:
    limit = f"less than {examined.data.min_clip_seconds:g} s" if wanted == "too short" else f"more than {examined.data.max_clip_seconds:g} s"
    for clip, reason in zip(examined.readable, examined.reasons, strict=True):
        if reason == wanted:
            yield clip, f"{clip.seconds:.2f} s, {limit}"


def _crowded(examined: Examined) -> Iterator[Found]:
    for clip, reason, has, needs in zip(examined.readable, examined.reasons, examined.num_frames, examined.frames_needed, strict=True):
        if reason == "too few frames for their text":
            yield clip, f"{has} frames in {clip.seconds:.2f} s, and {needs} are needed for {_shortened(clip.text)!r}"


def _silent(examined: Examined) -> Iterator[Found]:
    return ((clip, clip.sound.silence) for clip in examined.readable if clip.sound and clip.sound.silence)


def _clipped(examined: Examined) -> Iterator[Found]:
    for clip in examined.readable:
        if clip.sound and clip.sound.full_scale_share > CLIPPED_SHARE and not clip.sound.silence:
            yield clip, f"{clip.sound.full_scale_share:.1%} of its samples are at full scale"


def _offset(examined: Examined) -> Iterator[Found]:
    for clip in examined.readable:
        if clip.sound and abs(clip.sound.offset) > LARGEST_OFFSET:
            yield clip, f"its mean is {clip.sound.offset:+.3f} of full scale"


def _quiet_ends(examined: Examined) -> Iterator[Found]:
    for clip in examined.readable:
        sound = clip.sound
        ends = [] if sound is None else [(sound.leading_seconds, "at the beginning"), (sound.trailing_seconds, "at the end")]
        found = [f"{seconds:.1f} s {where}" for seconds, where in ends if seconds > LONGEST_SILENCE]
        if found:
            yield clip, f"silent for {' and '.join(found)}"


def _upsampled(examined: Examined) -> Iterator[Found]:
    for clip in examined.readable:
        if clip.sound and clip.sound.sampling_rate < examined.sampling_rate:
            yield clip, f"{clip.sound.sampling_rate:,} Hz, and the model reads {examined.sampling_rate:,} Hz"


def usual_speeds(examined: Examined) -> tuple[float, float] | None:
    """Between which characters per second nearly all correct transcripts lie; None where too few clips tell what is usual."""
    speeds = [speed for clip in examined.learnable if (speed := clip.characters_per_second) is not None]
    if len(speeds) < LEAST_COMPARED:
        return None
    logs = np.log(speeds)
    median = float(np.median(logs))
    distance = max(math.log(LEAST_FACTOR), DEVIATIONS * DEVIATION_OF_MEDIAN * float(np.median(np.abs(logs - median))))
    return math.exp(median - distance), math.exp(median + distance)


def _implausible_speed(examined: Examined) -> Iterator[Found]:
    limits = usual_speeds(examined)
    if limits is None:
        return
    for clip in examined.learnable:
        speed = clip.characters_per_second
        if clip.sound is None or speed is None:
            continue
        least = limits[0] * (clip.sound.heard_seconds - SLACK_SECONDS)
        most = limits[1] * clip.sound.heard_seconds + SLACK_CHARACTERS
        if not least <= len(clip.text) <= most:
            yield clip, f"{speed:.1f} characters a second, where {limits[0]:.1f} to {limits[1]:.1f} are usual: {_shortened(clip.text)!r}"


def _unknown_characters(examined: Examined) -> Iterator[Found]:
    for clip in examined.held_out if examined.has_own_vocabulary else examined.readable:
        unknown = sorted(set(clip.text) & examined.unknown)
        if unknown:
            yield clip, f"the vocabulary has no {_named(unknown)}"


def _rare_characters(examined: Examined) -> Iterator[Found]:
    counts = Counter(character for clip in examined.train for character in clip.text if character != " ")
    for clip in examined.train:
        rare = sorted({character for character in clip.text if 0 < counts[character] < RARE})
        if rare:
            yield clip, ", ".join(f"{_named([character])} occurs {_times(counts[character])}" for character in rare[:CHARACTERS_NAMED])


def _same_sound(examined: Examined, *, other_text: bool) -> Iterator[Found]:
    """Clips that sound like an earlier one of the training split, or of the held-out ones, with its text or, on request, with another."""
    for clips in (examined.train, examined.held_out):
        first: dict[str, CheckedClip] = {}
        for clip in clips:
            if clip.sound is None or clip.sound.silence:
                continue
            earlier = first.setdefault(clip.sound.digest, clip)
            if earlier is not clip and (earlier.text != clip.text) == other_text:
                texts = f", but the transcripts are {_shortened(clip.text)!r} and {_shortened(earlier.text)!r}" if other_text else ""
                yield clip, f"sounds as {earlier.name} does{texts}"


def _same_sound_held_out(examined: Examined) -> Iterator[Found]:
    trained = {clip.sound.digest: clip for clip in examined.train if clip.sound and not clip.sound.silence}
    for clip in examined.held_out:
        if clip.sound and clip.sound.digest in trained:
            yield clip, f"is {trained[clip.sound.digest].name} of the training split"


def _same_text_held_out(examined: Examined) -> Iterator[Found]:
    trained = {clip.text: clip for clip in examined.train}
    for clip in examined.held_out:
        if clip.text and clip.text in trained:
            yield clip, f"{_shortened(clip.text)!r} is said in {trained[clip.text].name} too"


def _shared_speakers(examined: Examined) -> Iterator[Found]:
    first: dict[str, str] = {}
    for clip in sorted(examined.clips, key=lambda clip: clip.split != "train"):
        if clip.speaker is not None and (earlier := first.setdefault(clip.speaker, clip.split)) != clip.split:
            yield clip, f"{clip.speaker!r} speaks in the {earlier} split too"


PROBLEMS: dict[str, Problem] = {
    "unreadable": Problem("unreadable recordings", "stops", _unreadable, "mend them, or remove them with their rows or transcripts"),
    "empty_transcript": Problem("empty transcripts", "left_out", functools.partial(_empty, given=False), "write what is said, or remove the clips"),
    "nothing_left": Problem(
        "transcripts of which normalisation leaves nothing",
        "left_out",
        functools.partial(_empty, given=True),
        "choose another processor.normalizer, mend the transcripts, or remove the clips",
    ),
    "too_short": Problem(
        "too short",
        "left_out",
        functools.partial(_of_wrong_length, wanted="too short"),
        "remove them, or lower data.min_clip_seconds if they are whole",
    ),
    "too_long": Problem(
        "too long", "left_out", functools.partial(_of_wrong_length, wanted="too long"), "cut them at pauses, or raise data.max_clip_seconds"
    ),
    "too_few_frames": Problem(
        "too few frames for their transcript",
        "left_out",
        _crowded,
        "the transcript may be of another clip; if it is right, lower model.hop_length or model.num_conv_layers",
    ),
    "silence": Problem("nothing to hear", "spoils", _silent, "listen to them, and remove them or record them again"),
    "clipping": Problem("clipped", "spoils", _clipped, "record them again at a lower level: what was cut off cannot be had back"),
    "implausible_speed": Problem(
        "implausible characters per second", "spoils", _implausible_speed, "listen to them: the transcript may be of another clip, or incomplete"
    ),
    "unknown_characters": Problem(
        "characters outside the vocabulary",
        "spoils",
        _unknown_characters,
        "the model never writes them: add training clips that have them, or choose another processor.normalizer",
    ),
    "same_sound_held_out": Problem(
        "held-out clips that are in training too", "spoils", _same_sound_held_out, "figures on them flatter the model: remove them from one split"
    ),
    "same_sound_other_text": Problem(
        "one sound with different transcripts",
        "spoils",
        functools.partial(_same_sound, other_text=True),
        "at most one of the transcripts is right: listen to them, and remove the others",
    ),
    "long_silence": Problem("long silence around the speech", "note", _quiet_ends, "trim it: it costs time and teaches nothing"),
    "offset": Problem("constant offset (DC)", "note", _offset, "a high-pass filter removes it; the device that recorded them is at fault"),
    "upsampled": Problem(
        "upsampled", "note", _upsampled, "they hold nothing above half their rate, as telephones do; have such clips in every split or in none"
    ),
    "rare_characters": Problem(
        "rare characters in training", "note", _rare_characters, "they are hardly learnt: add clips, or mend the transcripts if they are misprints"
    ),
    "same_sound": Problem(
        "the same clip again", "note", functools.partial(_same_sound, other_text=False), "it counts more than once: remove all but one"
    ),
    "same_text_held_out": Problem(
        "held-out texts that are in training too",
        "note",
        _same_text_held_out,
        "harmless where few sentences are said by many; else part the splits by text",
    ),
    "shared_speakers": Problem(
        "speakers of several splits", "note", _shared_speakers, "figures are then not of unheard voices: give every speaker to one split"
    ),
}


def _named(characters: Sequence[str]) -> str:
    shown = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in characters[:CHARACTERS_NAMED])
    return f"{shown} and {len(characters) - CHARACTERS_NAMED} more" if len(characters) > CHARACTERS_NAMED else shown


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _shortened(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
