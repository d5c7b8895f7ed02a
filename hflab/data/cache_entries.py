"""Entries of hflab's cache: folders that are there whole or not at all, made once by whichever process comes first.

    tokens = open_entry(folder / "tokens" / KEY, "the tokenised text", read, write)

An entry is written beside its place, flushed, and renamed into it; a lock per entry keeps processes from doing the work twice. This module knows
nothing about what the entries hold.
"""

import contextlib
import errno
import io
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from ..errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Content = TypeVar("Content")

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> Path:
    """`cache_dir`, else the environment variable HFLAB_CACHE, else `~/.cache/hflab`."""
    return Path(cache_dir or os.environ.get("HFLAB_CACHE") or "~/.cache/hflab").expanduser()


def open_entry(entry: Path, what: str, read: Callable[[Path], Content], write: Callable[[Path], None]) -> Content:
    """Return what `read` finds in the entry; the first time, or where it is damaged, `write` makes it.

    Args:
        entry: the folder.
        what: it holds, for messages.
        read: raises FileNotFoundError if it is not there, and ValueError, KeyError, TypeError or AttributeError if it is damaged.
        write: fills an empty folder beside the entry.

    Raises:
        UserError: the disk is full or the folder cannot be used.
    """
    stored = _try_read(entry, what, read)
    if stored is not None:
        return stored
    lock = FileLock(entry.with_suffix(".lock"))
    with disk_errors(entry.parent, what):
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        stored = _try_read(entry, what, read)  # another process may have written it meanwhile
        if stored is None:
            _write_entry(entry, what, write)
            stored = _try_read(entry, what, read)
    finally:
        lock.release()
    assert stored is not None, "an entry just written is whole"
    return stored


def _try_read(entry: Path, what: str, read: Callable[[Path], Content]) -> Content | None:
    """What the entry holds; None if it is not there or is damaged."""
    with disk_errors(entry.parent, what):
        try:
            return read(entry)
        except FileNotFoundError:
            if entry.exists():
                logger.warning("The cache entry %s is incomplete and is made again.", entry)
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("The cache entry %s is damaged (%s) and is made again.", entry, error)
            return None


def _write_entry(entry: Path, what: str, write: Callable[[Path], None]) -> None:
    """Write an entry beside its place and rename it. The caller holds the entry's lock, so a partial one is a dead process's."""
    partial = entry.with_suffix(".partial")
    with disk_errors(entry.parent, what):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        write(partial)
        with disk_errors(entry.parent, what):
            _flush_folder(partial)
            shutil.rmtree(entry, ignore_errors=True)  # a damaged one
            partial.rename(entry)
            _flush_folder(entry.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_file(path: Path, blocks: Iterable[bytes | memoryview], what: str, needed: Callable[[], str] = lambda: "more") -> None:
    """Write and flush a file of an entry. Errors of the disk become `UserError`; those of `blocks`, which reads the data, are left as they are."""
    folder = path.parent.parent
    with disk_errors(folder, what):
        file = io.FileIO(path, "w")
    with file:
        for block in blocks:
            with disk_errors(folder, what, needed):
                _write_whole(file, block)
        with disk_errors(folder, what, needed):
            os.fsync(file.fileno())


def _write_whole(file: io.FileIO, block: bytes | memoryview) -> None:
    rest = memoryview(block).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system knows of that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_errors(folder: Path, what: str, needed: Callable[[], str] = lambda: "more") -> Iterator[None]:
    """Turn an OSError into a `UserError` that says how many bytes were `needed`, how many are free, and which key to change."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise UserError(f"The cache folder {str(folder)!r} cannot be used: {error.strerror}. Set data.cache_dir to a folder that can.") from error
        # what was written of an entry is removed with this error, so it counts as free
        free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.glob("*.partial/*"))
        raise UserError(
            f"No room for {what} in {str(folder)!r} ({error.strerror}): it needs {needed()} bytes, {free:,} are free. "
            "Free some, or set data.cache_dir to a folder on a larger disk."
        ) from error
