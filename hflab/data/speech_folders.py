"""Clips out of files of the user: tables of files and texts, a text beside each sound, or Kaldi's lists.

    splits = read_clips("recordings", TableColumns(audio="audio", text="text"))

| layout | found by | clip |
|---|---|---|
| table | a .csv, .tsv, .jsonl or .parquet file, alone or in the folder | a row; sound files are named relative to the table's folder |
| Kaldi | `wav.scp` and `text` in the folder, `segments` and `utt2spk` if they are there | a line of `text` |
| beside | sound files | a sound file and the .txt file of the same name |

Folders, or tables, named train, validation and test (or dev, val ...) are the splits; all is training otherwise. Knows nothing about sound itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..speech.audio import EXTENSIONS
from .clips import Clip, Recording
from .hub_datasets import SPLIT_NAMES
from .text_files import ROW_READERS, Column, decoded_blocks, find_text_files, read_rows

KALDI_SOUNDS, KALDI_TEXTS, KALDI_SEGMENTS, KALDI_SPEAKERS = "wav.scp", "text", "segments", "utt2spk"


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns of a table; None: there is none."""

    audio: str
    text: str
    speaker: str | None = None
    condition: str | None = None


def read_clips(given: str, columns: TableColumns) -> dict[str, list[Clip]]:
    """The clips of each split that the file or folder `given` has.

    Raises:
        UserError: nothing is there, or nothing of the layouts above; a row lacks its sound or text; names of splits are mixed with others.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return {"train": _read_table(path, columns)}
    if not path.is_dir():
        find_text_files(given, [*EXTENSIONS, *ROW_READERS])  # says what is near
    roles = {folder: role for folder in sorted(path.iterdir()) if folder.is_dir() and (role := _role(folder.name))}
    if roles:
        if "train" not in roles.values():
            raise UserError(f"The folder {given!r} has folders named for splits ({', '.join(roles.values())}) and none named train; add one.")
        splits: dict[str, list[Clip]] = {}
        for folder, role in roles.items():
            splits.setdefault(role, []).extend(_read_folder(folder, columns))
        return splits
    tables = _tables(path)
    named = {role: table for table in tables if (role := _role(table.stem))}
    if "train" in named:
        return {role: _read_table(table, columns) for role, table in named.items()}
    return {"train": _read_folder(path, columns)}


def _role(name: str) -> str | None:
    """The split that a file or folder of this name holds."""
    return next((role for role, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ROW_READERS and file.is_file())


def _read_folder(folder: Path, columns: TableColumns) -> list[Clip]:
    if (folder / KALDI_SOUNDS).is_file():
        return _read_kaldi(folder)
    tables = _tables(folder)
    if tables:
        return [clip for table in tables for clip in _read_table(table, columns)]
    return _read_beside(folder)


def _read_table(table: Path, columns: TableColumns) -> list[Clip]:
    """A row, a clip."""
    if table.suffix.lower() not in ROW_READERS:
        raise UserError(f"The file {table.name!r} is no table; give a folder of sounds or one of: {', '.join(ROW_READERS)}.")
    wanted = [Column("audio_column", columns.audio), Column("text_column", columns.text)]
    optional = [("speaker_column", columns.speaker), ("condition_column", columns.condition)]
    wanted += [Column(key, name, holds_text=False) for key, name in optional if name is not None]
    clips = []
    for row in read_rows(table, wanted):
        audio, text, *others = row.values
        file = table.parent / audio
        if not audio.strip() or not file.is_file():
            raise UserError(f"{row.where} names the sound {audio!r}, and there is no file {str(file)!r}; mend or remove the row.")
        found = iter(others)
        speaker, condition = (None if name is None else str(next(found)) for _, name in optional)
        clips.append(Clip(Recording(file, audio), text, speaker, condition))
    if not clips:
        raise UserError(f"The table {table.name!r} has no rows; give rows with a sound and a text each.")
    return clips


def _read_beside(folder: Path) -> list[Clip]:
    """A sound file and the text of the same name; the folder that holds them, below `folder`, is taken for the speaker."""
    sounds = find_text_files(str(folder), EXTENSIONS)
    with_text = [file for file in sounds if file.with_suffix(".txt").is_file()]
    if not with_text:
        raise UserError(
            f"The folder {str(folder)!r} has {len(sounds)} sound files and no transcripts: put a .txt file of the same name beside each, "
            "or a table metadata.csv with the columns audio and text."
        )
    clips = []
    for file in with_text:
        inside = file.relative_to(folder)
        speaker = inside.parent.as_posix() if len(inside.parts) > 1 else None
        clips.append(Clip(Recording(file, inside.as_posix()), "".join(decoded_blocks(file.with_suffix(".txt"))).strip(), speaker))
    return clips


def _read_kaldi(folder: Path) -> list[Clip]:
    """Lines of `text`; their sound is a line of wav.scp of the same name, or the part of one that `segments` gives."""
    sounds, texts = _keyed_lines(folder / KALDI_SOUNDS), _keyed_lines(folder / KALDI_TEXTS)
    segments = _keyed_lines(folder / KALDI_SEGMENTS) if (folder / KALDI_SEGMENTS).is_file() else {}
    speakers = _keyed_lines(folder / KALDI_SPEAKERS) if (folder / KALDI_SPEAKERS).is_file() else {}
    return [Clip(_kaldi_recording(folder, name, sounds, segments), text, speakers.get(name)) for name, text in texts.items()]


def _kaldi_recording(folder: Path, name: str, sounds: dict[str, str], segments: dict[str, str]) -> Recording:
    sound, start, end = name, 0.0, None
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
    file = folder / command
    return Recording(file if file.is_file() else Path(command), name, start, end)


def _keyed_lines(file: Path) -> dict[str, str]:
    """The rest of each line by its first word."""
    if not file.is_file():
        raise UserError(f"The folder {file.parent.name!r} has {KALDI_SOUNDS} but no {file.name}; add it.")
    pairs: Sequence[list[str]] = [line.split(maxsplit=1) for line in "".join(decoded_blocks(file)).splitlines() if line.strip()]
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}
