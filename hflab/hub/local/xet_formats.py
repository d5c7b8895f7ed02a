"""The two formats that a Xet client uploads, and the hashes in them: xorbs hold compressed chunks, shards say what files consist of.

    chunks = [chunk.data for chunk in read_xorb(file)]
    shard = read_shard(body)                  # shard.files[0].segments: which chunks of which xorbs, in order

After the published format of huggingface/xet-core (`xet_core_structures`). A hash is 32 bytes, written as four little-endian numbers of 16
hexadecimal digits each. Everything here comes from outside: what is not as it must be raises `MalformedUploadError` and
is never trusted. Knows nothing about files, repositories and HTTP.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import blake3
import lz4.frame
import numpy as np

MAX_CHUNK_BYTES = 128 * 1024
MAX_XORB_BYTES = 64 * 1024 * 1024
MAX_XORB_CHUNKS = 8 * 1024
MAX_SHARD_BYTES = 64 * 1024 * 1024

_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_BRANCHING = 4  # mean children of a node of the tree of hashes
_CHUNK_HEADER = struct.Struct("<B3sB3s")
_XORB_FOOTER = b"XETBLOB"
_SHARD_TAG = b"HFRepoMetaData\x00" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_SHARD_HEADER = struct.Struct("<32sQQ")
_ENTRY = struct.Struct("<32sIIII")  # every record of a shard has this size
_END_OF_SECTION = b"\xff" * 32
_WITH_VERIFICATION, _WITH_SHA256 = 1 << 31, 1 << 30


class MalformedUploadError(Exception):
    """What a client sent is not what the format asks for; says what is wrong."""


class Chunk(NamedTuple):
    """A chunk of a xorb, uncompressed."""

    data: bytes
    hash: bytes


class Segment(NamedTuple):
    """Chunks `first` to `end` (exclusive) of a xorb; `size` bytes uncompressed."""

    xorb: bytes
    size: int
    first: int
    end: int


class FileEntry(NamedTuple):
    """A file as a sequence of segments; `sha256` in hexadecimal, where the client told it."""

    hash: bytes
    segments: list[Segment]
    sha256: str | None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(segment.size for segment in self.segments)


def to_hex(digest: bytes) -> str:
    """A hash as the protocol writes it."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def from_hex(text: str) -> bytes:
    """The hash that the protocol writes so. Raises `MalformedUploadError`."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise MalformedUploadError(f"{text[:80]!r} is no hash of 64 lower-case hexadecimal digits.")
    return struct.pack("<4Q", *(int(text[start : start + 16], 16) for start in range(0, 64, 16)))


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk's bytes."""
    return blake3.blake3(data, key=_CHUNK_KEY).digest()


def tree_hash(leaves: Sequence[tuple[bytes, int]]) -> bytes:
    """The root over (hash, size) of chunks, which is the hash of their xorb; 32 zeros for no chunk."""
    level = list(leaves)
    while len(level) > 1:
        parents, start = [], 0
        while start < len(level):
            end = start + _children(level[start : start + 2 * _BRANCHING + 1])
            parents.append(_parent(level[start:end]))
            start = end
        level = parents
    return level[0][0] if level else bytes(32)


def file_hash(leaves: Sequence[tuple[bytes, int]]) -> bytes:
    """The hash of the file that consists of chunks with these hashes and sizes; 32 zeros for an empty file."""
    return blake3.blake3(tree_hash(leaves), key=bytes(32)).digest() if leaves else bytes(32)


def _children(nodes: Sequence[tuple[bytes, int]]) -> int:
    """How many of the next nodes share a parent: at least two where there are two, up to the first whose hash is a multiple of four."""
    for index in range(2, len(nodes)):
        if struct.unpack("<Q", nodes[index][0][24:])[0] % _BRANCHING == 0:
            return index + 1
    return len(nodes)


def _parent(nodes: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    text = "".join(f"{to_hex(digest)} : {size}\n" for digest, size in nodes)
    return blake3.blake3(text.encode("ascii"), key=_NODE_KEY).digest(), sum(size for _, size in nodes)


def read_xorb(file: BinaryIO, skip: int = 0) -> Iterator[Chunk]:
    """The chunks of a serialised xorb after the first `skip`; what follows them, which repeats their hashes, is not read.

    Raises:
        MalformedUploadError: a chunk that is cut short, too large or not decompressed to its stated size.
    """
    for index, (scheme, num_packed, num_unpacked) in enumerate(_chunk_headers(file)):
        if index < skip:
            file.seek(num_packed, 1)
            continue
        body = file.read(num_packed)
        if len(body) < num_packed:
            raise MalformedUploadError("The xorb ends within a chunk.")
        data = _decompress(body, scheme, num_unpacked)
        yield Chunk(data, chunk_hash(data))


def count_chunks(file: BinaryIO) -> int:
    """The number of chunks of a serialised xorb, none of which is decompressed. Raises `MalformedUploadError`."""
    count = 0
    for _, num_packed, _ in _chunk_headers(file):
        file.seek(num_packed, 1)
        count += 1
    return count


def _chunk_headers(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Scheme, compressed and uncompressed size of each chunk; whoever asks for the next one has read or skipped the chunk before."""
    while header := file.read(_CHUNK_HEADER.size):
        if header.startswith(_XORB_FOOTER):
            return
        if len(header) < _CHUNK_HEADER.size:
            raise MalformedUploadError("The xorb ends within the header of a chunk.")
        version, packed, scheme, unpacked = _CHUNK_HEADER.unpack(header)
        num_packed, num_unpacked = int.from_bytes(packed, "little"), int.from_bytes(unpacked, "little")
        if version != 0 or num_packed > 2 * MAX_CHUNK_BYTES or num_unpacked > MAX_CHUNK_BYTES:
            raise MalformedUploadError(f"A chunk has version {version} and {num_unpacked} bytes; allowed are version 0 and {MAX_CHUNK_BYTES} bytes.")
        yield scheme, num_packed, num_unpacked


def _decompress(body: bytes, scheme: int, size: int) -> bytes:
    if scheme == 0:
        data = body
    elif scheme in (1, 2):
        data = _unpack(body, size)
        data = _regroup(data) if scheme == 2 else data
    else:
        raise MalformedUploadError(f"A chunk is compressed by scheme {scheme}; known are 0, 1 and 2.")
    if len(data) != size:
        raise MalformedUploadError(f"A chunk of {size} bytes has {len(data)} after decompression.")
    return data


def _unpack(body: bytes, size: int) -> bytes:
    """An lz4 frame of at most `size` bytes: a few bytes that would grow to gigabytes are not followed."""
    try:
        return lz4.frame.LZ4FrameDecompressor().decompress(body, max_length=size + 1)
    except (RuntimeError, EOFError) as error:
        raise MalformedUploadError(f"A chunk is no lz4 frame: {error}") from None


def _regroup(data: bytes) -> bytes:
    """Undo the grouping of every fourth byte, which lets numbers of four bytes compress better."""
    grouped, result, start = np.frombuffer(data, dtype=np.uint8), np.empty(len(data), dtype=np.uint8), 0
    for offset in range(4):
        count = len(range(offset, len(data), 4))
        result[offset::4] = grouped[start : start + count]
        start += count
    return result.tobytes()


def read_shard(body: bytes) -> list[FileEntry]:
    """The files that an uploaded shard describes.

    Raises:
        MalformedUploadError: no shard, cut short, or with counts that do not fit.
    """
    if len(body) < _SHARD_HEADER.size:
        raise MalformedUploadError("The shard is shorter than its header.")
    tag, version, _ = _SHARD_HEADER.unpack_from(body)
    if tag != _SHARD_TAG or version != 2:
        raise MalformedUploadError(f"The body is no shard of version 2, but of version {version}." if tag == _SHARD_TAG else "The body is no shard.")
    position = _SHARD_HEADER.size
    files: list[FileEntry] = []
    while True:
        digest, flags, num_segments, _, _ = _entry(body, position)
        if digest == _END_OF_SECTION:
            return files
        position += _ENTRY.size
        num_verifications = num_segments if flags & _WITH_VERIFICATION else 0
        segments = []
        for index in range(num_segments):
            xorb, _, size, first, end = _entry(body, position + index * _ENTRY.size)
            if not first < end <= MAX_XORB_CHUNKS:
                raise MalformedUploadError(f"A segment has the chunks {first} to {end}; allowed are 0 to {MAX_XORB_CHUNKS}, and at least one.")
            segments.append(Segment(xorb, size, first, end))
        position += (num_segments + num_verifications) * _ENTRY.size
        sha256 = None
        if flags & _WITH_SHA256:
            sha256 = to_hex(_entry(body, position)[0])
            position += _ENTRY.size
        files.append(FileEntry(digest, segments, sha256))


def _entry(body: bytes, position: int) -> tuple[bytes, int, int, int, int]:
    if position + _ENTRY.size > len(body):
        raise MalformedUploadError("The shard ends before its list of files does.")
    return _ENTRY.unpack_from(body, position)
