"""Xorbs and shards as a client makes them, for tests."""

import struct

import lz4.frame
import numpy as np

from hflab.hub.local.xet_formats import chunk_hash, file_hash, from_hex, tree_hash

TAG = b"HFRepoMetaData\x00" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")


def group(data):
    """Every fourth byte together: the grouping of scheme 2."""
    array = np.frombuffer(data, dtype=np.uint8)
    return b"".join(array[offset::4].tobytes() for offset in range(4))


def pack(data, scheme):
    return {0: data, 1: lz4.frame.compress(data), 2: lz4.frame.compress(group(data))}[scheme]


def serialise(chunks, scheme=0, footer=b""):
    """A xorb of these chunks."""
    parts = []
    for data in chunks:
        body = pack(data, scheme)
        parts.append(struct.pack("<B3sB3s", 0, len(body).to_bytes(3, "little"), scheme, len(data).to_bytes(3, "little")) + body)
    return b"".join(parts) + footer


def leaves(chunks):
    return [(chunk_hash(data), len(data)) for data in chunks]


def xorb_hash(chunks):
    return tree_hash(leaves(chunks))


def shard(files):
    """A shard of files, each (its chunks, [(xorb, size, first, end)], sha256 or None)."""
    body = struct.pack("<32sQQ", TAG, 2, 0)
    for chunks, segments, sha256 in files:
        flags = (1 << 31) | ((1 << 30) if sha256 else 0)
        body += struct.pack("<32sIIQ", file_hash(leaves(chunks)), flags, len(segments), 0)
        body += b"".join(struct.pack("<32sIIII", xorb, 0, size, first, end) for xorb, size, first, end in segments)
        body += bytes(48) * len(segments)  # what verifies ranges, which is not looked at: the file's own hash says more
        if sha256:
            body += struct.pack("<32sQQ", from_hex(sha256), 0, 0)
    return body + b"\xff" * 32 + bytes(16)
