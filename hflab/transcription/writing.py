"""Transcripts of many recordings as files, so that an interrupted job goes on where it stopped.

    for done in write_transcripts(recognizer, find_recordings([Path("talks")]), Path("texts"), WritingOptions(formats=("srt", "txt"))):
        print(done.recording, done.files)

A file is written beside its place and renamed: what is there is whole. Knows nothing about models.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, check_choice
from ..speech.subtitles import WRITERS, CaptionOptions, captions
from .recognizer import Recognizer
from .recordings import Spoken, TranscriptionOptions, transcribe_file


@dataclass(frozen=True)
class WritingOptions:
    """What is written of each recording. Raises `UserError` for a format that does not exist."""

    formats: Sequence[str] = ("txt",)
    """Of txt, json, srt and vtt."""
    overwrite: bool = False
    """Write anew what is there already; else a recording with all its files, none of them older than it, is passed over."""
    transcription: TranscriptionOptions = field(default_factory=TranscriptionOptions)

    def __post_init__(self) -> None:
        if not self.formats:
            raise UserError(f"There is no format; give one or more of: {', '.join(WRITERS)}.")
        for name in self.formats:
            check_choice("The format", name, WRITERS)


@dataclass(frozen=True)
class Written:
    """What became of a recording."""

    recording: Path
    files: list[Path]
    spoken: Spoken | None
    """None: it was there already, or could not be read."""
    problem: str | None = None
    """Why it could not be read."""


def formatted(spoken: Spoken, format_name: str) -> str:
    """The content of a file of that format."""
    if format_name == "txt":
        return spoken.text + "\n"
    return WRITERS[format_name](captions(spoken.words, CaptionOptions(joiner=spoken.joiner)))


def write_transcripts(
    recognizer: Recognizer,
    recordings: Sequence[Path],
    folder: Path,
    options: WritingOptions,
    *,
    report: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Written]:
    """Write down each recording into files of `folder` that have its name; one that cannot be read is told of and keeps no other back.

    Raises:
        UserError: two recordings would be written into one file, or the folder cannot be written into.
    """
    for recording, stem in _stems(recordings).items():
        files = [folder / f"{stem}.{name}" for name in options.formats]
        if not options.overwrite and all(_is_up_to_date(file, recording) for file in files):
            yield Written(recording, files, None)
            continue
        try:
            spoken = transcribe_file(recognizer, recording, options.transcription, report=report)
        except UserError as error:
            yield Written(recording, [], None, str(error))
            continue
        for file, name in zip(files, options.formats, strict=True):
            _write(file, formatted(spoken, name))
        yield Written(recording, files, spoken)


def _stems(recordings: Sequence[Path]) -> dict[Path, str]:
    """The path of each recording below the folder that they share, without its ending."""
    shared = Path(*_common_parts([file.resolve().parent for file in recordings]))
    stems = {file: file.resolve().relative_to(shared).with_suffix("").as_posix() for file in recordings}
    owners: dict[str, Path] = {}
    for file, stem in stems.items():
        other = owners.setdefault(stem, file)
        if other != file:
            raise UserError(f"{str(other)!r} and {str(file)!r} would be written into one file, {stem}; rename one of them.")
    return stems


def _common_parts(folders: Sequence[Path]) -> list[str]:
    parts: list[str] = []
    for level in zip(*(folder.parts for folder in folders), strict=False):
        if len(set(level)) > 1:
            break
        parts.append(level[0])
    return parts


def _is_up_to_date(file: Path, recording: Path) -> bool:
    return file.is_file() and file.stat().st_mtime >= recording.stat().st_mtime


def _write(file: Path, content: str) -> None:
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"The transcript {str(file)!r} cannot be written: {error.strerror}; give another --output FOLDER or free some room."
        ) from None
