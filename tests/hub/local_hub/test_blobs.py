"""Blobs: under their hash or not at all, in parts, on a full disk, and after a kill."""

import errno
import hashlib

import pytest

from hflab.hub.local.blobs import BlobStore, ContentMismatchError

CONTENT = b"0123456789" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path)


def put(blobs, content=CONTENT, sha256=SHA256, size=None):
    with blobs.incoming() as blob:
        for start in range(0, len(content), 999):
            blob.write(content[start : start + 999])
        return blob.finish(sha256, size)


def leftovers(blobs):
    return list(blobs.temporary().parent.iterdir())


def test_a_blob_is_found_by_its_hash(blobs):
    assert blobs.size(SHA256) is None
    assert put(blobs) == put(blobs) == SHA256
    assert blobs.path(SHA256).read_bytes() == CONTENT
    assert blobs.size(SHA256) == len(CONTENT)
    assert not leftovers(blobs)


@pytest.mark.parametrize(("content", "size"), [(CONTENT[:-1], None), (CONTENT, len(CONTENT) - 1), (b"", None)])
def test_other_content_than_announced_is_dropped(blobs, content, size):
    with pytest.raises(ContentMismatchError):
        put(blobs, content, size=size)
    assert blobs.size(SHA256) is None
    assert not leftovers(blobs)


def test_more_than_announced_is_refused_as_it_comes(blobs):
    with blobs.incoming(max_bytes=100) as blob:
        blob.write(b"x" * 60)
        with pytest.raises(ContentMismatchError, match="100"):
            blob.write(b"x" * 60)
    assert not leftovers(blobs)


def test_a_full_disk_leaves_nothing(blobs, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        put(blobs)
    assert blobs.size(SHA256) is None
    assert not leftovers(blobs)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", SHA256.upper(), SHA256[:-1], SHA256 + "/", "." * 64])
def test_what_is_no_hash_names_no_file(blobs, name):
    assert blobs.size(name) is None
    with pytest.raises(ValueError, match="SHA-256"):
        blobs.path(name)


def test_parts_come_in_any_order_and_again(blobs):
    upload = "ab" * 16
    for offset in (4000, 0, 4000, 8000):
        with blobs.part(upload, offset) as file:
            file.write(CONTENT[offset : offset + 4000])
    blobs.finish_parts(upload, SHA256, len(CONTENT))
    assert blobs.path(SHA256).read_bytes() == CONTENT
    blobs.finish_parts(upload, SHA256, len(CONTENT))  # the answer was lost, and the client asks again
    assert not leftovers(blobs)


def test_a_missing_part_is_noticed_and_the_parts_are_dropped(blobs):
    upload = "ab" * 16
    with blobs.part(upload, 4000) as file:
        file.write(CONTENT[4000:])
    with pytest.raises(ContentMismatchError):
        blobs.finish_parts(upload, SHA256, len(CONTENT))
    assert not leftovers(blobs)
    with pytest.raises(ContentMismatchError, match="begin it again"):
        blobs.finish_parts(upload, SHA256, len(CONTENT))
    with pytest.raises(ContentMismatchError), blobs.part("../x", 0):
        pass


def test_what_a_killed_process_left_is_removed_at_the_start(tmp_path, blobs):
    put(blobs)
    (tmp_path / "incoming" / "half").write_bytes(b"x")
    again = BlobStore(tmp_path)
    assert not leftovers(again)
    assert again.size(SHA256) == len(CONTENT)
