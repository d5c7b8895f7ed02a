"""A reading as files: pictures and a page in a folder. Knows nothing about models."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .maps import Reading
from .page import write_page
from .pictures import draw_reading

MOST_NAMED = 10  # signs without a font that a note lists


@dataclass(frozen=True)
class Inspection:
    """What was found, and the files that show it. `notes` are sentences that a reader has to know."""

    reading: Reading
    page: Path
    pictures: tuple[Path, ...]
    notes: tuple[str, ...]


def write_inspection(reading: Reading, name: str, folder: Path) -> Inspection:
    """Write the pictures and the page about what model `name` did into `folder`; only files of the same names are replaced.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures, missing = draw_reading(reading, folder, name)
        notes = (_note_on_fonts(missing),) if missing else ()
        page = folder / ("attention.html" if reading.maps else "surprise_and_state.html")
        page.write_text(write_page(reading, name, notes), encoding="utf-8")
    except OSError as error:
        raise UserError(f"Nothing can be written into {folder}: {error.strerror or error}; choose another folder with --output.") from None
    return Inspection(reading, page, tuple(pictures), notes)


def _note_on_fonts(missing: str) -> str:
    named = " ".join(missing[:MOST_NAMED]) + (f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else "")
    return f"No font on this machine has {named}, so there are no PNG files; the page has everything. Noto Sans CJK is such a font."
