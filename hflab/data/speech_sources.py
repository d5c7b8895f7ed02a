"""Where clips come from: a name of `SPEECH_SOURCES` leads to `RawSpeech`, lists of clips with what is known about them.

    raw = SPEECH_SOURCES["synthetic_speech"](DataSection(source="synthetic_speech", sentences="digits"))

A new source is a function and a line in `SPEECH_SOURCES`. Knows nothing about how sound is kept, features and tokens.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe import DataSection
from ..speech.audio import UnreadableRecording
from .clips import Clip, Recording
from .debian_speech import asterisk_clips, split_prompts, stamp_clips
from .hub_datasets import HubRows, load_hub_rows
from .sources import package_origin
from .speech_folders import TableColumns, read_clips
from .synthetic_speech import GRAMMARS, SyntheticPlan, synthetic_clips
from .text_files import check_column, check_text


@dataclass(frozen=True)
class RawSpeech:
    """Clips and what is known about them. `splits` has "train" alone, or the source's own train, validation and test."""

    name: str
    description: str
    license: str | None
    """SPDX id in lower case, or None where it is not known."""
    language: str | None
    """ISO 639 code, or None where it is not known."""
    origin: str
    """`package==version`, `Hub id@revision` or a file's name; never an absolute path."""
    splits: dict[str, list[Clip]]
    is_synthetic: bool = False
    """Whether machines speak, which cards say."""


def synthetic_speech(data: DataSection) -> RawSpeech:
    """Voices of espeak-ng that say `data.sentences`, in noise; the held-out voices are heard in no other split."""
    language = data.language or "en"
    plan = SyntheticPlan(data.sentences, data.num_clips, language, data.synthesis_seed)
    said = data.sentences if data.sentences in GRAMMARS else f"the sentences of {Path(data.sentences).name}"
    return RawSpeech(
        name="synthetic_speech",
        description=f"Synthetic speech: voices of espeak-ng say {said}, with white, pink and brown noise at 30, 20 and 10 dB. No human speaks.",
        license="apache-2.0",  # made here; the licence of the synthesizer is not that of what it says
        language=language,
        origin=package_origin("espeakng_loader", "speech"),
        splits=synthetic_clips(plan),
        is_synthetic=True,
    )


def own_speech(data: DataSection, *, with_texts: bool = True) -> RawSpeech:
    """Sound files and transcripts of the user, in one of the layouts of `speech_folders.py`."""
    if data.path is None:
        raise UserError("data.source is 'speech', which needs a folder of sounds and transcripts, or a table of them; set data.path.")
    name = Path(data.path).expanduser().resolve().name
    text_column = data.text_column if with_texts else None
    splits = read_clips(data.path, TableColumns(data.audio_column, text_column, data.speaker_column, data.condition_column))
    return RawSpeech(
        name=name,
        description=f"Own recordings: {sum(map(len, splits.values())):,} clips of {name}.",
        license=None,
        language=None,
        origin=name,
        splits=splits,
    )


def hub_speech(data: DataSection, *, with_texts: bool = True) -> RawSpeech:
    """A data set of the Hub with a column of audio, its own splits respected."""
    found = load_hub_rows(data, audio_column=data.audio_column)
    columns = f"columns {data.audio_column!r} and {data.text_column!r}" if with_texts else f"column {data.audio_column!r}"
    return RawSpeech(
        name=found.name,
        description=f"The Hub data set {found.name}, {columns}.",
        license=found.license,
        language=found.language,
        origin=found.origin,
        splits={role: _hub_clips(found, role, data, with_texts=with_texts) for role in found.splits},
    )


def asterisk_prompts(data: DataSection) -> RawSpeech:
    """The telephone prompts of Asterisk, spoken by one woman, out of two packages of Debian (at data.path, if not installed)."""
    return RawSpeech(
        name="asterisk_prompts",
        description="Prompts of the Asterisk telephone system, read by one trained speaker at 8 kHz. Held-out prompts are of the same voice.",
        license="cc-by-sa-3.0",
        language="en",
        origin="Debian packages asterisk-core-sounds-en and asterisk-core-sounds-en-wav",
        splits=split_prompts(asterisk_clips(data.path)),
    )


def tuxpaint_stamps(data: DataSection) -> RawSpeech:
    """What the stamps of Tux Paint are called, in data.language (default: French), out of a package of Debian (at data.path, if not installed)."""
    language = data.language or "fr"
    return RawSpeech(
        name="tuxpaint_stamps",
        description="Names of pictures in Tux Paint, read by volunteers who are not named; held-out names are of the same voices.",
        license="gpl-2.0",
        language=language,
        origin="Debian package tuxpaint-stamps-default",
        splits=split_prompts(stamp_clips(data.path, language)),
    )


SPEECH_SOURCES: dict[str, Callable[[DataSection], RawSpeech]] = {
    "speech": own_speech,
    "hub": hub_speech,
    "synthetic_speech": synthetic_speech,
    "asterisk_prompts": asterisk_prompts,
    "tuxpaint_stamps": tuxpaint_stamps,
}
# the same where what is said is not looked at, so that there need be no transcripts
SOUND_SOURCES: dict[str, Callable[[DataSection], RawSpeech]] = {
    **SPEECH_SOURCES,
    "speech": functools.partial(own_speech, with_texts=False),
    "hub": functools.partial(hub_speech, with_texts=False),
}


def _hub_clips(found: HubRows, role: str, data: DataSection, *, with_texts: bool) -> list[Clip]:
    from datasets import Audio

    dataset = found.splits[role]
    keys = {"audio_column": data.audio_column, **({"text_column": data.text_column} if with_texts else {})}
    keys |= {key: name for key in ("speaker_column", "condition_column") if (name := getattr(data, key)) is not None}
    split = f"the split {role!r} of {found.name}"
    for key, name in keys.items():
        check_column(name, dataset.column_names, split.capitalize(), key)
    sounds = dataset.select_columns([data.audio_column])
    feature = sounds.features[data.audio_column]
    if not isinstance(feature, Audio) and not (isinstance(feature, dict) and {"bytes", "path"} & set(feature)):
        raise UserError(f"The column {data.audio_column!r} of {split} is no audio but {feature}; set data.audio_column to the column of audio.")
    described = [name for key, name in keys.items() if key != "audio_column"]
    rows = dataset.select_columns(described) if described else [{}] * len(dataset)
    clips = []
    for number, row in enumerate(rows):
        where = f"Row {number + 1} of {split}"
        text = check_text(row[data.text_column], where, data.text_column) if with_texts else ""
        speaker, condition = (_as_name(row, getattr(data, key)) for key in ("speaker_column", "condition_column"))
        clips.append(Clip(Recording(functools.partial(_hub_sound, sounds, number, where), where), text, speaker, condition))
    return clips


def _hub_sound(sounds: Any, number: int, where: str) -> Path | bytes:
    """The content of a sound file as `Audio(decode=False)` hands it out, or the file. Raises `UnreadableRecording` where a row has neither."""
    (value,) = sounds[number].values()
    content: bytes | None = value and value.get("bytes")
    path: str | None = value and value.get("path")
    if content:
        return content
    if not path:
        raise UnreadableRecording(where, "has no audio", "mend or remove the row")
    return Path(path)


def _as_name(row: dict[str, Any], column: str | None) -> str | None:
    return None if column is None or row[column] is None else str(row[column]).strip() or None
