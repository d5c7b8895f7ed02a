"""Speech as rows: `load_speech` leads from a data section to clips with sound and text, split, ready for features.

    corpus = load_speech(DataSection(source="synthetic_speech", sentences="digits"), sampling_rate=16000, normalizer="basic")
    corpus.splits["train"].texts[0], corpus.splits["train"].waveforms.waveform(0)

Knows nothing about features, tokens and models.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError, check_choice
from ..recipe import DataSection
from ..speech.text_normalization import NORMALIZERS, basic
from .cache_entries import cache_folder
from .clips import Clip
from .example_splits import Example, split_by_hash
from .sources import EXAMPLE_KEYS, check_not_set
from .speech_sources import SOUND_SOURCES, SPEECH_SOURCES, RawSpeech
from .waveform_store import Waveforms, open_waveforms

SAMPLE_CLIPS = 3
LEAST_TRAINED = 0.5  # of the share that training is to keep: with few speakers, chance may hold most of them out

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechRows:
    """The clips of a split."""

    waveforms: Waveforms
    texts: list[str]
    """What is said in each, normalised."""
    speakers: list[str | None]
    conditions: list[str | None]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.texts)

    @property
    def seconds(self) -> float:
        """Of all clips."""
        return float(self.waveforms.starts[-1]) / self.waveforms.sampling_rate


@dataclass(frozen=True)
class SpeechCorpus:
    """Clips by split and what is known about them."""

    raw: RawSpeech
    license: str | None
    language: str | None
    normalizer: str
    splits: dict[str, SpeechRows]
    fingerprint: str
    """SHA-256 of the sound and the texts of all splits."""

    def facts(self) -> dict[str, Any]:
        """What the clips are, as JSON: source, fingerprint, and clips, seconds, speakers and a sample of every split."""
        return {
            **{key: getattr(self.raw, key) for key in ("name", "description", "origin", "is_synthetic")},
            "license": self.license,
            "language": self.language,
            "fingerprint": self.fingerprint,
            "normalizer": self.normalizer,
            "splits": {
                name: {
                    "rows": len(rows),
                    "seconds": round(rows.seconds, 1),
                    "speakers": len(set(rows.speakers) - {None}),
                    "sample": "\n".join(rows.texts[:SAMPLE_CLIPS]).strip(),
                }
                for name, rows in self.splits.items()
            },
        }


def load_speech(data: DataSection, *, sampling_rate: int, normalizer: str, with_texts: bool = True) -> SpeechCorpus:
    """Return the clips that the data section names, split, with their sound at `sampling_rate` in Hz; without texts, they need no transcripts.

    Held-out shares are drawn by a hash of the speaker where several are known, else of the text, where the source has no split of its own: a
    speaker, or a sentence, is in one split only. Where speakers are so few that a split would get none, or training few, the text decides, which is
    warned of.

    Raises:
        UserError: the source does not exist; a key is set that it would not read; a split has no clips; and whatever the source and the sound raise.
    """
    check_choice("processor.normalizer", normalizer, NORMALIZERS)
    raw = read_split_clips(data, with_texts=with_texts)
    splits = {name: _rows(clips, data, sampling_rate, normalizer) for name, clips in raw.splits.items()}
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(json.dumps([name, splits[name].waveforms.fingerprint, splits[name].texts], ensure_ascii=False).encode())
    return SpeechCorpus(raw, data.license or raw.license, data.language or raw.language, normalizer, splits, digest.hexdigest())


def read_split_clips(data: DataSection, *, with_texts: bool = True) -> RawSpeech:
    """What the data section names, with every split that is trained or held out; no sound is read yet. Raises `UserError` as `load_speech` does."""
    check_choice("data.source for speech_recognition", data.source, SPEECH_SOURCES)
    _check_keys(data)
    raw = (SPEECH_SOURCES if with_texts else SOUND_SOURCES)[data.source](data)
    return replace(raw, splits=_hold_out(raw, data))


def _rows(clips: list[Clip], data: DataSection, sampling_rate: int, normalizer: str) -> SpeechRows:
    return SpeechRows(
        open_waveforms(cache_folder(data.cache_dir), clips, sampling_rate),
        [NORMALIZERS[normalizer].normalize(clip.text) for clip in clips],
        [clip.speaker for clip in clips],
        [clip.condition for clip in clips],
    )


def _check_keys(data: DataSection) -> None:
    """Refuse keys that the source would not read."""
    own_columns = ("audio_column", "text_column", "speaker_column", "condition_column")
    readers: dict[str, tuple[tuple[str, ...], bool]] = {
        "the sources speech, asterisk_prompts and tuxpaint_stamps read": (("path",), data.source not in ("hub", "synthetic_speech")),
        "the source 'hub' reads": (("dataset", "config_name", "revision"), data.source == "hub"),
        "the source 'synthetic_speech' reads": (("sentences", "num_clips", "synthesis_seed"), data.source == "synthetic_speech"),
        "the sources speech and hub read": (own_columns, data.source in ("speech", "hub")),
        "tasks that read running text use": (("streaming", "max_characters"), False),
        "tasks with labelled examples read": (EXAMPLE_KEYS, False),
    }
    for reader, (keys, is_read) in readers.items():
        if not is_read:
            check_not_set(data, keys, reader)


def _hold_out(raw: RawSpeech, data: DataSection) -> dict[str, list[Clip]]:
    """The splits of the source, and those drawn from its training clips. Raises `UserError` if one is empty."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    wanted = {name: share for name, share in fractions.items() if share > 0 and name not in raw.splits}
    splits = dict(raw.splits)
    if wanted:
        splits |= _drawn(raw, wanted)
    for name, clips in splits.items():
        if not clips:
            of = sum(map(len, splits.values()))
            cure = f"Raise data.{name}_fraction, set it to 0" if name in wanted else "Lower the fractions that are held out"
            raise UserError(
                f"The {name} split of {raw.name!r} has no clips of {of}: with few speakers or texts none may fall into it. {cure}, or give splits of "
                f"your own (folders {' and '.join(splits)})."
            )
    return splits


def _drawn(raw: RawSpeech, wanted: dict[str, float]) -> dict[str, list[Clip]]:
    """The training clips with the `wanted` shares of them held out: by speaker where there are enough of them, else by text."""
    clips = raw.splits["train"]
    speakers = {clip.speaker for clip in clips} - {None}
    by_text = _split_by(clips, [None] * len(clips), wanted)
    if not speakers:
        return by_text
    by_speaker = _split_by(clips, [clip.speaker for clip in clips], wanted)
    least = LEAST_TRAINED * (1 - sum(wanted.values())) * len(clips)
    if len(speakers) > 1 and all(by_speaker.values()) and len(by_speaker["train"]) >= least:
        return by_speaker
    if all(by_text.values()):
        logger.warning(
            "%s has %d speaker%s, too few to hold some out by chance (%s clips), so that clips are held out by their text: figures are of voices "
            "that training hears. For those of unheard voices, give splits of your own (folders %s).",
            raw.name,
            len(speakers),
            "s" if len(speakers) > 1 else "",
            " and ".join(f"{name} {len(found)}" for name, found in by_speaker.items()),
            " and ".join(by_text),
        )
    return by_text


def _split_by(clips: list[Clip], speakers: Sequence[str | None], wanted: dict[str, float]) -> dict[str, list[Clip]]:
    """The clips drawn by a hash of their speaker, or of their text where it is None."""
    # a sentence is the same with other punctuation; without one, every clip is by itself
    keys = [speaker or basic(clip.text) or str(number) for number, (clip, speaker) in enumerate(zip(clips, speakers, strict=True))]
    drawn = split_by_hash([Example(str(number), clip) for number, clip in enumerate(clips)], wanted, keys)
    return {name: [example.output for example in examples] for name, examples in drawn.items()}
