"""The file of a report: found out to be writable before hours of work, and whole or not there afterwards.

    check_report_file(path, (".md",))
    write_report_file(path, text)

Knows nothing about what reports say.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

ANOTHER = "give another --report FILE."


def check_report_file(path: Path, suffixes: Sequence[str]) -> None:
    """Check that a report of one of these kinds can be written into the file `path`; nothing is left behind.

    Raises:
        UserError: it ends in none of `suffixes`, it is a folder or may not be changed, or its folder can neither be written into nor made.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f"The report {str(path)!r} must end in {' or '.join(suffixes)}; give such a name.")
    if path.is_dir():
        raise UserError(f"The report {str(path)!r} is a folder; {ANOTHER}")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"The report {str(path)!r} is there and may not be changed; {ANOTHER}")
    folder = next(above for above in path.absolute().parents if above.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot_be_written(path, error) from None


def write_report_file(path: Path, text: str) -> Path:
    """Write UTF-8 `text` into `path`, making its folder, and return it; whoever interrupts leaves the file as it was.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # a speaker may be named for a folder whose name is no UTF-8
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
            partial.replace(path)
        except BaseException:  # also Ctrl-C
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_be_written(path, error) from None
    return path


def _cannot_be_written(path: Path, error: OSError) -> UserError:
    return UserError(f"The report {str(path)!r} cannot be written: {error.strerror}; {ANOTHER}")
