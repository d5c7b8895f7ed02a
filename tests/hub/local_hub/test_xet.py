"""Xet: formats read as written, hashes that are known, files put together, and everything that is malformed or lies."""

import contextlib
import hashlib
import io
import random
import tracemalloc

import lz4.frame
import pytest

from hflab.hub.local.blobs import BlobStore
from hflab.hub.local.xet_formats import MalformedUploadError, count_chunks, from_hex, read_shard, read_xorb, to_hex, tree_hash
from hflab.hub.local.xet_store import XetStore

from .xet_uploads import serialise, shard, xorb_hash


def some_chunks(count, seed=1):
    draw = random.Random(seed)
    return [draw.randbytes(draw.randint(1, 5000)) for _ in range(count)]


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def store(tmp_path, blobs):
    return XetStore(tmp_path / "xet", blobs)


@pytest.fixture
def upload(tmp_path, store):
    def send(chunks, digest=None, body=None):
        received = tmp_path / "received"
        received.write_bytes(serialise(chunks) if body is None else body)
        return store.add_xorb(digest or xorb_hash(chunks), received)

    return send


def whole(chunks):
    """The shard entry of a file that is one whole xorb."""
    return (chunks, [(xorb_hash(chunks), sum(map(len, chunks)), 0, len(chunks))], hashlib.sha256(b"".join(chunks)).hexdigest())


def sha256_of(chunks):
    return hashlib.sha256(b"".join(chunks)).hexdigest()


@pytest.mark.parametrize("scheme", [0, 1, 2])
@pytest.mark.parametrize("sizes", [[1], [2, 3, 4, 5], [131072, 1, 70001]])
def test_a_xorb_is_read_as_it_was_written(scheme, sizes):
    draw = random.Random(0)
    chunks = [bytes(draw.choices(range(7), k=size)) for size in sizes]
    body = serialise(chunks, scheme, footer=b"XETBLOB" + b"\x01 and whatever follows")
    assert [chunk.data for chunk in read_xorb(io.BytesIO(body))] == chunks
    assert [chunk.data for chunk in read_xorb(io.BytesIO(body), skip=1)] == chunks[1:]
    assert count_chunks(io.BytesIO(body)) == len(chunks)


def test_hashes_are_written_as_the_protocol_has_it():
    text = "0100000000000000" + "00" * 7 + "02" + "0" * 32
    digest = from_hex(text)
    assert digest[7] == 1
    assert digest[8] == 2
    assert to_hex(digest) == text
    for wrong in ("", text[:-1], text.upper().replace("0", "A"), "g" * 64, text + "\n"):
        with pytest.raises(MalformedUploadError):
            from_hex(wrong)


def test_the_tree_of_one_chunk_is_its_hash_and_of_none_is_zero():
    assert tree_hash([]) == bytes(32)
    assert tree_hash([(b"\x07" * 32, 5)]) == b"\x07" * 32


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        serialise([b"abc"])[:-1],
        b"\x01" + serialise([b"abc"])[1:],
        serialise([b"abc"]).replace(b"\x03\x00\x00\x00", b"\x03\x00\x00\x09", 1),
        serialise([b"abc"], 1)[:-3] + b"xyz",
        b"\x00" + (40).to_bytes(3, "little") + b"\x01" + (9).to_bytes(3, "little") + lz4.frame.compress(b"abc").ljust(40, b"\0"),
        b"\x00\xff\xff\xff\x00\xff\xff\xff" + b"x" * 100,
    ],
)
def test_a_xorb_that_is_none_is_refused(upload, body):
    with pytest.raises(MalformedUploadError):
        upload([b"abc"], body=body)


def test_a_few_bytes_that_would_grow_to_gigabytes_are_not_followed(upload):
    bomb = lz4.frame.compress(bytes(200_000_000))[:200_000]
    body = b"\x00" + len(bomb).to_bytes(3, "little") + b"\x01" + (1000).to_bytes(3, "little") + bomb
    tracemalloc.start()
    with pytest.raises(MalformedUploadError):
        upload([b"abc"], body=body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_xorb_under_a_foreign_hash_is_refused(upload, store):
    with pytest.raises(MalformedUploadError, match="sent as"):
        upload([b"abc"], digest=xorb_hash([b"abd"]))
    assert upload([b"abc"])
    assert not upload([b"abc"])


def test_a_file_becomes_a_blob_and_its_xorb_goes(upload, store, blobs, tmp_path):
    chunks = some_chunks(40)
    upload(chunks)
    store.register(read_shard(shard([whole(chunks)])))
    assert blobs.path(sha256_of(chunks)).read_bytes() == b"".join(chunks)
    assert not list((tmp_path / "xet" / "xorbs").rglob("*/*"))
    assert not upload(chunks), "the client is told that it is here"


def test_a_later_file_may_use_chunks_whose_xorb_is_gone(upload, store, blobs):
    old, new = some_chunks(10, 1), some_chunks(3, 2)
    upload(old)
    store.register(read_shard(shard([whole(old)])))
    upload(new)
    mixed = [*old[2:5], *new, *old[:1]]
    segments = [
        (xorb_hash(old), sum(map(len, old[2:5])), 2, 5),
        (xorb_hash(new), sum(map(len, new)), 0, 3),
        (xorb_hash(old), len(old[0]), 0, 1),
    ]
    store.register(read_shard(shard([(mixed, segments, None)])))
    assert blobs.path(sha256_of(mixed)).read_bytes() == b"".join(mixed)


def test_a_xorb_that_is_not_wholly_in_files_stays(upload, store, blobs):
    chunks = some_chunks(6)
    upload(chunks)
    store.register(read_shard(shard([(chunks[:2], [(xorb_hash(chunks), sum(map(len, chunks[:2])), 0, 2)], None)])))
    store.register(read_shard(shard([(chunks[1:], [(xorb_hash(chunks), sum(map(len, chunks[1:])), 1, 6)], None)])))
    assert blobs.size(sha256_of(chunks[:2])) is not None
    assert blobs.size(sha256_of(chunks[1:])) is not None


@pytest.mark.parametrize("lie", ["sha256", "file hash", "size", "chunks", "xorb", "order"])
def test_a_file_that_is_not_what_its_shard_says_is_refused(upload, store, blobs, tmp_path, lie):
    chunks = some_chunks(4)
    upload(chunks)
    told, digest, size, end, sha256 = chunks, xorb_hash(chunks), sum(map(len, chunks)), 4, sha256_of(chunks)
    if lie == "sha256":
        sha256 = "ab" * 32
    elif lie == "file hash":
        told = chunks[:-1]
    elif lie == "size":
        size += 1
    elif lie == "chunks":
        end = 9
    elif lie == "xorb":
        digest = bytes(31) + b"\x01"
    elif lie == "order":
        told = chunks[::-1]
    with pytest.raises(MalformedUploadError):
        store.register(read_shard(shard([(told, [(digest, size, 0, end)], sha256)])))
    assert not list((tmp_path / "blobs" / "incoming").iterdir())
    assert blobs.size(sha256_of(chunks)) is None


def test_a_shard_that_is_none_is_refused():
    good = shard([whole(some_chunks(3))])
    for body in (b"", good[:10], b"x" + good[1:], good[:-48], good[:120]):
        with pytest.raises(MalformedUploadError):
            read_shard(body)


def test_random_bytes_never_do_more_than_be_refused(upload):
    good, draw = serialise(some_chunks(3), 1), random.Random(5)
    table = shard([whole(some_chunks(3))])
    for _ in range(500):
        for body, read in ((bytearray(good), lambda data: list(read_xorb(io.BytesIO(data)))), (bytearray(table), read_shard)):
            for _ in range(draw.randint(1, 6)):
                body[draw.randrange(len(body))] = draw.randrange(256)
            with contextlib.suppress(MalformedUploadError):
                read(bytes(body[: draw.randint(0, len(body))]))
