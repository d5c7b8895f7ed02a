"""Training, validation and test text: the source's own splits, or shares of its training text, fixed by the content alone.

A first pass over the text measures it and takes its fingerprint; the splits are then streams over the same text. This module knows nothing
about tokens or caches.
"""

import array
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import UserError
from ..recipe import DataSection
from .sources import Piece, TextCorpus, TextStream

CHANGED = "The text changed while it was read; run the command again when nothing writes to it."
DRAW_RANGE = 2**32


@dataclass(frozen=True)
class SplitPlan:
    """The text of every split, as streams. `fingerprint` is a SHA-256 of all documents; `rule` is how splits were made of them."""

    fingerprint: str
    rule: dict[str, Any]
    streams: dict[str, TextStream]
    num_characters: int
    """Characters of all splits together."""


@dataclass
class _Scan:
    digest: str
    num_characters: int
    draws: "array.array[int]"
    """For each document a number below `DRAW_RANGE` that depends on its text alone, so that equal documents fall into one split."""


def plan_splits(corpus: TextCorpus, data: DataSection) -> SplitPlan:
    """Read the corpus once and lay out its splits.

    A held-out share is taken from the training text where it is above zero and the source has no such split. By position, the training
    text is cut at characters, training first, then validation, then test; by document, whole documents are drawn by a hash of their text.

    Raises:
        UserError: a split of the source has no text; and whatever the source raises.
    """
    scans = {name: _scan(name, stream, corpus.name) for name, stream in corpus.splits.items()}
    fingerprint = hashlib.sha256("\n".join(f"{name} {scan.digest}" for name, scan in sorted(scans.items())).encode()).hexdigest()
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    held_out = {name: share for name, share in fractions.items() if share > 0 and name not in corpus.splits}
    streams = dict(corpus.splits)
    if held_out:
        scan = scans["train"]
        total = scan.num_characters if data.split_by == "position" else DRAW_RANGE
        for name, (start, stop) in share_ranges(held_out, total).items():
            if data.split_by == "position":
                streams[name] = partial(_between, corpus.splits["train"], start, stop)
            else:
                streams[name] = partial(_drawn, corpus.splits["train"], scan.draws, start, stop)
    return SplitPlan(
        fingerprint=fingerprint,
        rule={"held_out": held_out, "split_by": data.split_by if held_out else None},
        streams=streams,
        num_characters=sum(scan.num_characters for scan in scans.values()),
    )


def share_ranges(held_out: dict[str, float], total: int) -> dict[str, tuple[int, int]]:
    """Consecutive ranges of `total` for train and then the held-out splits, whose shares of 1 are given."""
    shares = {"train": 1 - sum(held_out.values()), **held_out}
    ranges = {}
    start, up_to = 0, 0.0
    for name, share in shares.items():
        up_to = round(up_to + share, 12)  # 1 - 0.05 - 0.05 is 0.8999999999999999 to floating point
        stop = int(up_to * total)
        ranges[name] = (start, stop)
        start = stop
    return ranges


def _scan(name: str, stream: TextStream, corpus_name: str) -> _Scan:
    """Read a stream once. The digest is one of the documents' digests, so that moving a document's end changes it."""
    digests = hashlib.sha256()
    scan = _Scan("", 0, array.array("I"))
    blank = True
    for document in _documents(stream()):
        digest = hashlib.sha256()
        for text in document:
            digest.update(text.encode("utf-8"))
            scan.num_characters += len(text)
            blank = blank and text.isspace()
        digests.update(digest.digest())
        scan.draws.append(int.from_bytes(digest.digest()[:4], "big"))
    if blank:
        found = "only white space" if scan.num_characters else "no characters"
        raise UserError(f"The {name} text of {corpus_name!r} is empty: it has {found}. Give a file, folder or column that holds text.")
    scan.digest = digests.hexdigest()
    return scan


def _documents(pieces: Iterator[Piece]) -> Iterator[Iterator[str]]:
    """The texts of each document in turn."""
    for _, group in itertools.groupby(pieces, key=lambda piece: piece.document):
        yield (piece.text for piece in group)


def _between(stream: TextStream, start: int, stop: int) -> Iterator[Piece]:
    """The characters `start` to `stop` of a stream."""
    position = 0
    for piece in stream():
        text = piece.text[max(start - position, 0) : max(stop - position, 0)]
        if text:
            yield Piece(piece.document, text)
        position += len(piece.text)
        if position >= stop:
            return


def _drawn(stream: TextStream, draws: "array.array[int]", start: int, stop: int) -> Iterator[Piece]:
    """The documents of a stream whose draw lies from `start` to `stop`."""
    for piece in stream():
        if piece.document >= len(draws):
            raise UserError(CHANGED)
        if start <= draws[piece.document] < stop:
            yield piece
