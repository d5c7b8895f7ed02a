"""Large files by the SHA-256 of their content, shared by all repositories.

    with blobs.incoming() as blob:
        blob.write(b"...")
        sha256 = blob.finish(expected)        # checked, on disk, under its name: or nothing is there

A file appears under its name in one step, after its bytes are on the disk; a process that is killed leaves at most something in `incoming`, which the
next start removes. A disk that is full raises `OSError` and leaves nothing. Knows nothing about repositories and HTTP.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SHA256_DIGITS = 64


class ContentMismatchError(Exception):
    """Bytes that arrived are not those that were announced; says both."""


class IncomingBlob:
    """A blob that is being written. Made by `BlobStore.incoming`."""

    def __init__(self, path: Path, store: "BlobStore", max_bytes: int | None) -> None:
        self._path, self._store, self._max_bytes = path, store, max_bytes
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes. Raises `ContentMismatchError` beyond the largest size, and `OSError` where the disk takes no more."""
        self.size += len(data)
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise ContentMismatchError(f"More than the {self._max_bytes:,} bytes that were announced have arrived.")
        self._digest.update(data)
        self._file.write(data)

    def finish(self, sha256: str | None = None, size: int | None = None) -> str:
        """Put the blob under its name and return that; the same content may be there already.

        Raises:
            ContentMismatchError: the content has another hash or size than announced; it is dropped.
        """
        found = self._digest.hexdigest()
        _check(found, self.size, sha256, size)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._store.keep(self._path, found)
        return found

    def discard(self) -> None:
        """Close and remove what was not finished."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobStore:
    """A folder of blobs: `ab/abcd…` by hash, and `incoming` for those on their way. One process at a time may own it."""

    def __init__(self, root: Path) -> None:
        self._root, self._incoming = root, root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    def path(self, sha256: str) -> Path:
        """Where the blob of this hash is, or would be. Raises `ValueError` for what is no hash, so that no request reaches another file."""
        if not is_sha256(sha256):
            raise ValueError(f"{sha256[:80]!r} is no SHA-256 of {SHA256_DIGITS} lower-case hexadecimal digits.")
        return self._root / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob, or None where it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except (ValueError, FileNotFoundError):
            return None

    def temporary(self) -> Path:
        """A new name in the folder of what is on its way, on the same disk."""
        return self._incoming / secrets.token_hex(16)

    @contextlib.contextmanager
    def incoming(self, max_bytes: int | None = None) -> Iterator[IncomingBlob]:
        """A blob to write; it is dropped unless it is finished."""
        blob = IncomingBlob(self.temporary(), self, max_bytes)
        try:
            yield blob
        finally:
            blob.discard()

    @contextlib.contextmanager
    def part(self, upload: str, offset: int) -> Iterator[BinaryIO]:
        """A file that comes in parts, open for writing from `offset` on; parts may come in any order, and again."""
        path = self._part_file(upload)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(offset)
            yield file

    def finish_parts(self, upload: str, sha256: str, size: int) -> None:
        """Make the file whose parts have come a blob. Raises `ContentMismatchError`, also where it is one already and its parts are gone."""
        path = self._part_file(upload)
        if not path.exists() and self.size(sha256) == size:  # asked a second time, because the first answer was lost
            return
        try:
            with path.open("rb+") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                _check(found, file.tell(), sha256, size)
                os.fsync(file.fileno())
            self.keep(path, found)
        except FileNotFoundError:
            raise ContentMismatchError("No part of this upload is here; begin it again.") from None
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, sha256: str) -> None:
        """Put a file of `incoming`, whose bytes are on the disk and have this hash, under its name."""
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        sync_folder(target.parent)

    def _part_file(self, upload: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", upload):
            raise ContentMismatchError("There is no such upload; begin it again.")
        return self._incoming / f"parts-{upload}"


def _check(sha256: str, size: int, announced_sha256: str | None, announced_size: int | None) -> None:
    """Raise `ContentMismatchError` unless content is what was announced, if anything was."""
    if announced_size not in (None, size):
        raise ContentMismatchError(f"{size:,} bytes have arrived, {announced_size:,} were announced.")
    if announced_sha256 not in (None, sha256):
        raise ContentMismatchError(f"What has arrived has the SHA-256 {sha256}, {announced_sha256} was announced.")


def is_sha256(text: str) -> bool:
    """Whether this is the SHA-256 of something, in lower-case hexadecimal digits."""
    return len(text) == SHA256_DIGITS and set(text) <= set("0123456789abcdef")


def sync_folder(folder: Path) -> None:
    """Have the disk remember the names in a folder, so that a file that was renamed into it is there after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, temporary: Path) -> None:
    """Replace a file in one step, through `temporary` on the same disk."""
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
