"""What Xet clients upload, turned into blobs.

    store.add_xorb(digest, file)              # chunks, checked against their hash
    store.register(read_shard(body))          # every file of the shard is put together and becomes a blob

A client sends chunks it believes to be new and then says, in a shard, of which chunks its files consist; later files may refer to any earlier
chunk. So that nothing is kept twice, a xorb is dropped once all its chunks lie in blobs, and a small map of where they are takes its place. Nothing
but the blobs' own hashes is believed: a xorb must have the hash it is sent under, and a file that which the shard names. Knows nothing about HTTP.
"""

import secrets
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .blobs import BlobStore, ContentMismatchError, sync_folder, write_file
from .xet_formats import (
    MAX_XORB_CHUNKS,
    Chunk,
    FileEntry,
    MalformedUploadError,
    Segment,
    chunk_hash,
    count_chunks,
    file_hash,
    read_xorb,
    to_hex,
    tree_hash,
)

_PLACE = struct.Struct("<32sQI")


class Place(NamedTuple):
    """Where a chunk is: `size` bytes of a blob from `offset` on."""

    sha256: str
    offset: int
    size: int


class XetStore:
    """Xorbs that wait for their files, maps of those whose files are here, and which blob a Xet hash stands for."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self._root, self._blobs = root, blobs
        name = root / "name"
        if not name.exists():
            root.mkdir(parents=True, exist_ok=True)
            write_file(name, secrets.token_hex(8).encode(), blobs.temporary())
        self.name = name.read_text("ascii")
        """Of this store and no other: clients remember what they have sent to an address, and would not send it again to a store that was emptied."""

    def add_xorb(self, digest: bytes, received: Path) -> bool:
        """Keep a xorb that lies in the file `received`, which is moved; False where it is here already.

        Raises:
            MalformedUploadError: it cannot be read, or has another hash.
        """
        with received.open("rb") as file:
            leaves = [(chunk.hash, len(chunk.data)) for chunk in read_xorb(file)]
        if not 0 < len(leaves) <= MAX_XORB_CHUNKS:
            raise MalformedUploadError(f"A xorb has {len(leaves)} chunks; allowed are 1 to {MAX_XORB_CHUNKS}.")
        if tree_hash(leaves) != digest:
            raise MalformedUploadError(f"The chunks have the hash {to_hex(tree_hash(leaves))}, and were sent as {to_hex(digest)}.")
        payload, places = self._payload(digest), self._map(digest)
        if payload.exists() or places.exists():
            return False
        payload.parent.mkdir(parents=True, exist_ok=True)
        received.replace(payload)
        sync_folder(payload.parent)
        return True

    def register(self, files: Iterable[FileEntry]) -> None:
        """Put every file together as a blob, and drop the xorbs that are wholly in blobs.

        Raises:
            MalformedUploadError: a file refers to chunks that are not here, or is not what its entry says.
        """
        found: dict[bytes, dict[int, Place]] = {}
        for entry in files:
            sha256 = self._assemble(entry, found)
            write_file(self._record(entry.hash), sha256.encode("ascii"), self._blobs.temporary())
        for digest, places in found.items():
            self._drop_if_covered(digest, places)

    def sha256_of(self, digest: bytes) -> str | None:
        """The blob that a file's Xet hash stands for, or None."""
        with suppress(FileNotFoundError):
            return self._record(digest).read_text("ascii")
        return None

    def _assemble(self, entry: FileEntry, found: dict[bytes, dict[int, Place]]) -> str:
        """Write the blob of a file, return its hash and add to `found` where its chunks now are."""
        leaves, chunks = [], []
        try:
            with self._blobs.incoming(max_bytes=entry.size) as blob:
                for segment in entry.segments:
                    for index, chunk in enumerate(self._read(segment), segment.first):
                        chunks.append((segment.xorb, index, blob.size, len(chunk.data)))
                        leaves.append((chunk.hash, len(chunk.data)))
                        blob.write(chunk.data)
                if file_hash(leaves) != entry.hash:
                    raise MalformedUploadError(f"The chunks of the file {to_hex(entry.hash)} have the hash {to_hex(file_hash(leaves))}.")
                sha256 = blob.finish(entry.sha256, entry.size)
        except ContentMismatchError as error:
            raise MalformedUploadError(f"The file {to_hex(entry.hash)} does not come out as its shard says: {error}") from None
        for xorb, index, offset, size in chunks:
            found.setdefault(xorb, {})[index] = Place(sha256, offset, size)
        return sha256

    def _read(self, segment: Segment) -> Iterator[Chunk]:
        """The chunks of a segment, from the xorb itself or from the blobs that its chunks lie in."""
        count = segment.end - segment.first
        try:
            with self._payload(segment.xorb).open("rb") as file:
                chunks = islice(read_xorb(file, skip=segment.first), count)
                num_read = 0
                for num_read, chunk in enumerate(chunks, 1):  # noqa: B007  counted for the check below
                    yield chunk
        except FileNotFoundError:
            num_read = 0
            for num_read, chunk in enumerate(self._read_places(segment), 1):  # noqa: B007
                yield chunk
        if num_read != count:
            raise MalformedUploadError(f"A file refers to the chunks {segment.first} to {segment.end} of {to_hex(segment.xorb)}, which has fewer.")

    def _read_places(self, segment: Segment) -> Iterator[Chunk]:
        for place in self._places(segment.xorb)[segment.first : segment.end]:
            with self._blobs.path(place.sha256).open("rb") as blob:
                blob.seek(place.offset)
                data = blob.read(place.size)
            yield Chunk(data, chunk_hash(data))

    def _places(self, digest: bytes) -> list[Place]:
        try:
            records = self._map(digest).read_bytes()
        except FileNotFoundError:
            raise MalformedUploadError(f"A file refers to the xorb {to_hex(digest)}, which was not uploaded.") from None
        return [Place(raw.hex(), offset, size) for raw, offset, size in _PLACE.iter_unpack(records)]

    def _drop_if_covered(self, digest: bytes, places: dict[int, Place]) -> None:
        """Replace a xorb by a map where all its chunks are, if all of them are in blobs."""
        try:
            with self._payload(digest).open("rb") as file:
                num_chunks = count_chunks(file)
        except FileNotFoundError:
            return
        if len(places) == num_chunks:
            records = b"".join(_PLACE.pack(bytes.fromhex(places[index].sha256), *places[index][1:]) for index in range(num_chunks))
            write_file(self._map(digest), records, self._blobs.temporary())
            self._payload(digest).unlink(missing_ok=True)

    def _payload(self, digest: bytes) -> Path:
        return self._at("xorbs", digest)

    def _map(self, digest: bytes) -> Path:
        return self._at("maps", digest)

    def _record(self, digest: bytes) -> Path:
        return self._at("files", digest)

    def _at(self, kind: str, digest: bytes) -> Path:
        name = to_hex(digest)
        return self._root / kind / name[:2] / name
