"""Clips out of files of the user: tables of files and texts, a text beside each sound, or Kaldi's lists.

    splits = read_clips("recordings", TableColumns(audio="audio", text="text"))

| layout | found by | clip |
|---|---|---|
| table | a .csv, .tsv, .jsonl or .parquet file, alone or in the folder | a row; files are named relative to the table's folder (also AudioFolder's) |
| Kaldi | `wav.scp` and `text` in the folder, `segments` and `utt2spk` if they are there | a line of `text` |
| beside | sound files | a sound file and the .txt file of the same name; the first folder below is the speaker |

Folders, or tables, named train, validation and test (or dev, val ...) are the splits; all is training otherwise. Tables and lists are taken for the
user's own: they may name any file that the user may read ("/data/a.wav", "../a.wav"), which is decoded as sound and nothing else; commands of
Kaldi's lists are refused. Links to files are followed, links to folders below the given one are not. Knows nothing about sound itself.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..speech.audio import EXTENSIONS
from .clips import Clip, Recording
from .hub_datasets import SPLIT_NAMES
from .text_files import ROW_READERS, Column, decoded_blocks, find_text_files, read_rows

KALDI_SOUNDS, KALDI_TEXTS, KALDI_SEGMENTS, KALDI_SPEAKERS = "wav.scp", "text", "segments", "utt2spk"
KALDI_END = -1.0  # for the end of a sound, in `segments`
AUDIO_FOLDER = {"audio": ("file_name",), "text": ("transcription", "sentence")}  # as data sets of the Hub have them; read where ours are not there
MOST_NAMED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns of a table; None: there is none."""

    audio: str
    text: str | None
    """None: what is said is not looked at, so that there need be no transcripts."""
    speaker: str | None = None
    condition: str | None = None


def read_clips(given: str, columns: TableColumns) -> dict[str, list[Clip]]:
    """The clips of each split that the file or folder `given` has.

    Raises:
        UserError: nothing is there, or nothing of the layouts above; a row lacks its sound or text; there are names of splits, but none for training.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return {"train": _read_table(path, columns)}
    if not path.is_dir():
        find_text_files(given, [*EXTENSIONS, *ROW_READERS])  # says what is near
    roles = {folder: role for folder in sorted(path.iterdir()) if folder.is_dir() and (role := _role(folder.name))}
    tables = _tables(path)
    if not roles:
        roles = {table: role for table in tables if (role := _role(table.stem))}
    if not roles:
        return {"train": _read_folder(path, columns)}
    if "train" not in roles.values():
        named = ", ".join(entry.name for entry in roles)
        raise UserError(f"The folder {given!r} has folders or tables named for splits ({named}) and none named train; add one.")
    _warn_of_unread(table.name for table in tables if table not in roles)
    splits: dict[str, list[Clip]] = {}
    for entry, role in roles.items():
        splits.setdefault(role, []).extend(_read_folder(entry, columns) if entry.is_dir() else _read_table(entry, columns))
    return splits


def sounds_below(given: str) -> list[Path]:
    """All sound files of the folder `given` and of those in it, but hidden ones; none, if it is a file."""
    path = Path(given).expanduser()
    found = (file for file in (path.rglob("*") if path.is_dir() else ()) if file.suffix.lower() in EXTENSIONS and file.is_file())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(path).parts))


def _role(name: str) -> str | None:
    """The split that a file or folder of this name holds."""
    return next((role for role, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _warn_of_unread(names: Iterable[str]) -> None:
    listed = list(names)
    if listed:
        logger.warning("Only what is named for a split is read; left out: %s.", _first(listed))


def _first(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ROW_READERS and file.is_file())


def _read_folder(folder: Path, columns: TableColumns) -> list[Clip]:
    if (folder / KALDI_SOUNDS).is_file():
        return _read_kaldi(folder, with_texts=columns.text is not None)
    tables = _tables(folder)
    if tables:
        return [clip for table in tables for clip in _read_table(table, columns)]
    return _read_beside(folder, with_texts=columns.text is not None)


def _read_table(table: Path, columns: TableColumns) -> list[Clip]:
    """A row, a clip."""
    if table.suffix.lower() not in ROW_READERS:
        raise UserError(f"The file {table.name!r} is no table; give a folder of sounds or one of: {', '.join(ROW_READERS)}.")
    wanted = [Column("audio_column", columns.audio, otherwise=AUDIO_FOLDER.get(columns.audio, ()))]
    if columns.text is not None:
        wanted.append(Column("text_column", columns.text, otherwise=AUDIO_FOLDER.get(columns.text, ())))
    optional = [("speaker_column", columns.speaker), ("condition_column", columns.condition)]
    wanted += [Column(key, name, holds_text=False) for key, name in optional if name is not None]
    clips = []
    for row in read_rows(table, wanted):
        audio, *others = row.values
        text = "" if columns.text is None else others.pop(0)
        if not audio.strip():
            raise UserError(f"{row.where} names no sound in the column {columns.audio!r}; mend or remove the row.")
        found = iter(others)
        speaker, condition = (None if name is None else _as_name(next(found)) for _, name in optional)
        clips.append(Clip(Recording(table.parent / audio, audio, listed=row.where), text, speaker, condition))
    if not clips:
        raise UserError(f"The table {table.name!r} has no rows; give rows with a sound and a text each.")
    return clips


def _as_name(value: Any) -> str | None:
    """A speaker or condition as text; None where nothing stands."""
    return None if value is None else str(value).strip() or None


def _read_beside(folder: Path, *, with_texts: bool) -> list[Clip]:
    """A sound file and the text of the same name; the first folder below `folder` is taken for the speaker, so that those in it stay together."""
    sounds = sounds_below(str(folder))
    with_text = [file for file in sounds if not with_texts or file.with_suffix(".txt").is_file()]
    if not sounds and not with_texts:
        raise UserError(f"The folder {str(folder)!r} holds no sound: none of its files ends in {', '.join(EXTENSIONS)}.")
    if not with_text:
        raise UserError(
            f"The folder {str(folder)!r} has {len(sounds)} sound files and no transcripts: put a .txt file of the same name beside each sound, "
            "or a table metadata.csv with a column of files and one of texts (data.audio_column, data.text_column)."
        )
    if len(with_text) < len(sounds):
        without = [file.relative_to(folder).as_posix() for file in sounds if file not in set(with_text)]
        logger.warning("%d of %d sound files have no .txt file beside them and are left out: %s.", len(without), len(sounds), _first(without))
    clips = []
    for file in with_text:
        inside = file.relative_to(folder)
        speaker = inside.parts[0] if len(inside.parts) > 1 else None
        text = "".join(decoded_blocks(file.with_suffix(".txt"))).strip() if with_texts else ""
        clips.append(Clip(Recording(file, inside.as_posix()), text, speaker))
    return clips


def _read_kaldi(folder: Path, *, with_texts: bool) -> list[Clip]:
    """Lines of `text`; their sound is a line of wav.scp of the same name, or the part of one that `segments` gives."""
    sounds = _keyed_lines(folder / KALDI_SOUNDS)
    segments = _keyed_lines(folder / KALDI_SEGMENTS) if (folder / KALDI_SEGMENTS).is_file() else {}
    texts = _keyed_lines(folder / KALDI_TEXTS) if with_texts else dict.fromkeys(segments or sounds, "")
    if not texts:
        raise UserError(f"The file {KALDI_TEXTS!r} of {folder.name!r} is empty; give it a line 'NAME WORDS' for each clip.")
    speakers = _keyed_lines(folder / KALDI_SPEAKERS) if (folder / KALDI_SPEAKERS).is_file() else {}
    return [Clip(_kaldi_recording(folder, name, sounds, segments), text, speakers.get(name)) for name, text in texts.items()]


def _kaldi_recording(folder: Path, name: str, sounds: dict[str, str], segments: dict[str, str]) -> Recording:
    sound, start, end = name, 0.0, KALDI_END
    if segments:
        fields = segments.get(name, "").split()
        try:
            sound, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            raise UserError(f"{name!r} has no line 'NAME SOUND START END' in {KALDI_SEGMENTS}; mend or remove it from {KALDI_TEXTS}.") from None
    command = sounds.get(sound)
    if command is None:
        raise UserError(f"{name!r} of {KALDI_TEXTS} needs the sound {sound!r}, which {KALDI_SOUNDS} does not have; mend or remove it.")
    if command.rstrip().endswith("|"):
        raise UserError(f"{sound!r} of {KALDI_SOUNDS} is a command ({command[:40]!r}); hflab runs no commands of data: decode it to a file first.")
    inside = Recording(folder / command, name, start, None if end == KALDI_END else end)
    return inside if inside.is_there else replace(inside, source=Path(command))


def _keyed_lines(file: Path) -> dict[str, str]:
    """The rest of each line by its first word."""
    if not file.is_file():
        raise UserError(f"The folder {file.parent.name!r} has {KALDI_SOUNDS} but no {file.name}; add it.")
    pairs = [line.split(maxsplit=1) for line in "".join(decoded_blocks(file)).split("\n") if line.strip()]
    twice = [key for key, count in Counter(pair[0] for pair in pairs).items() if count > 1]
    if twice:
        raise UserError(f"The file {file.name!r} has more than one line for {_first(twice)}; leave one of them.")
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}
