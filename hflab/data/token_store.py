"""Tokenised text on disk: tokenised once, found again by what it was made from, and read through memory maps or directly from its files.

An entry is a folder `tokens/KEY` of the cache with `manifest.json`, a raw file of token ids per split, and the tokenizer if it was trained here.
KEY is a hash of the text's fingerprint, the rule of its splits and the tokenizer. How entries come to be whole stands in `cache_entries.py`. This
module knows nothing about batches.
"""

import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .cache_entries import open_entry, write_file
from .encoding import EncodedBlock, encode_documents, token_dtype
from .processors import wrap
from .splits import CHANGED, SplitPlan

FORMAT = 1  # raise it when the same text would be stored differently
SAMPLE_CHARACTERS = 200
WHAT = "the tokenised text"


@dataclass(frozen=True)
class TokenSplit:
    """A tokenised split and what it was made of."""

    tokens: np.ndarray
    """Token ids, (N,) uint16 or uint32, a read-only memory map; each document is closed by the eos token."""
    num_tokens: int
    num_characters: int
    num_bytes: int
    """Bytes of the text in UTF-8."""
    num_documents: int
    num_unknown: int = 0
    """Tokens that stand for text the tokenizer does not know."""
    sample: str = ""
    """The first characters of the text."""


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer, or how to train it."""

    identity: dict[str, Any]
    """JSON values: another tokenizer has others."""
    make: Callable[[], PreTrainedTokenizerBase]
    is_trained: bool
    """Whether `make` trains: then the tokenizer is stored with the tokens and trained only once."""


class StoredText(NamedTuple):
    """An entry of the store."""

    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, TokenSplit]


def existing_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TokenizerSource:
    """A tokenizer that need not be trained, known by a hash of all that decides its ids."""
    content = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = [type(tokenizer).__name__, content, str(tokenizer.eos_token_id), str(tokenizer.unk_token_id), str(tokenizer.split_special_tokens)]
    return TokenizerSource({"sha256": hashlib.sha256("\0".join(parts).encode()).hexdigest()}, lambda: tokenizer, is_trained=False)


def open_tokens(folder: Path, plan: SplitPlan, source: TokenizerSource) -> StoredText:
    """Return the tokens of `plan`'s splits from the cache `folder`, or, the first time, tokenise them into it.

    Raises:
        UserError: the disk is full or the folder cannot be used; the text changed meanwhile.
    """
    identity = {"format": FORMAT, "fingerprint": plan.fingerprint, "rule": plan.rule, "tokenizer": source.identity}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def read(entry: Path) -> StoredText:
        return _read_entry(entry, source)

    def write(partial: Path) -> None:
        tokenizer = source.make()
        _write_contents(partial, plan, tokenizer, keep_tokenizer=source.is_trained)

    return open_entry(folder / "tokens" / key, WHAT, read, write)


class TokenRows:
    """Rows of consecutive tokens out of an array.

    A memory map is read through its file: pages of the map that are touched count as this process's memory, over an epoch the whole text.

    Args:
        tokens: (N,) token ids.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = tokens
        self._num_bytes = tokens.nbytes
        self._descriptor: int | None = None
        self._num_bytes = 0
        # a part of a map has another array as its base and is read as an array; on Windows there is no pread, and so is every map
        if isinstance(tokens, np.memmap) and isinstance(tokens.base, mmap.mmap) and tokens.offset == 0 and os.name == "posix":
            assert tokens.filename is not None
            self._descriptor = os.open(tokens.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the tokens from each of `starts` (b,) on, (b, length) int64; what lies outside the array is arbitrary."""
        if self._descriptor is None:
            positions = starts[:, None] + np.arange(length)
            return self._tokens.take(positions, mode="clip").astype(np.int64)
        width = self._tokens.itemsize
        data = b"".join([self._read_bytes(start * width, length * width) for start in starts.tolist()])
        return np.frombuffer(data, dtype=self._tokens.dtype).reshape(len(starts), length).astype(np.int64)

    def _read_bytes(self, offset: int, size: int) -> bytes:
        """`size` bytes of the file from `offset` on, which may lie before its beginning; zeros stand for what is outside."""
        assert self._descriptor is not None
        if offset >= 0 and offset + size <= self._num_bytes:
            return os.pread(self._descriptor, size, offset)
        before = max(-offset, 0)
        return (bytes(before) + os.pread(self._descriptor, size - before, offset + before)).ljust(size, b"\0")


def _read_entry(entry: Path, source: TokenizerSource) -> StoredText:
    """Open an entry. Raises what `open_entry` expects if it is not there or is damaged."""
    manifest = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
    _check_files(entry, manifest["files"])
    tokenizer = wrap(Tokenizer.from_file(str(entry / "tokenizer.json"))) if source.is_trained else source.make()
    splits = {
        name: TokenSplit(tokens=_map_tokens(entry / f"{name}.bin", manifest["dtype"], counts["num_tokens"]), **counts)
        for name, counts in manifest["splits"].items()
    }
    return StoredText(tokenizer, splits)


def _check_files(entry: Path, files: dict[str, dict[str, Any]]) -> None:
    """Compare the files with the manifest: all by size, the tokenizer, which is small, by its hash too. Raises `ValueError`."""
    for name, expected in files.items():
        size = (entry / name).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{name} has {size} bytes, not {expected['bytes']}")
        if "sha256" in expected and _sha256(entry / name) != expected["sha256"]:
            raise ValueError(f"{name} has other content than was written")


def _map_tokens(path: Path, dtype: str, num_tokens: int) -> np.ndarray:
    if num_tokens == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(num_tokens,))


def _write_contents(partial: Path, plan: SplitPlan, tokenizer: PreTrainedTokenizerBase, *, keep_tokenizer: bool) -> None:
    splits = {}
    # disable=None: a bar on terminals only
    with tqdm(total=plan.num_characters, desc="tokenising", unit=" characters", unit_scale=True, disable=None, leave=False) as progress:
        for name in plan.streams:
            splits[name] = _write_split(partial / f"{name}.bin", plan, tokenizer, progress.update)
    if sum(counts["num_characters"] for counts in splits.values()) != plan.num_characters:
        raise UserError(CHANGED)
    if keep_tokenizer:
        write_file(partial / "tokenizer.json", [tokenizer.backend_tokenizer.to_str().encode("utf-8")], WHAT)
    files: dict[str, dict[str, Any]] = {path.name: {"bytes": path.stat().st_size} for path in sorted(partial.iterdir())}
    if keep_tokenizer:
        files["tokenizer.json"]["sha256"] = _sha256(partial / "tokenizer.json")
    manifest = {"files": files, "dtype": token_dtype(tokenizer).str, "splits": splits}
    write_file(partial / "manifest.json", [json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8")], WHAT)


def _write_split(path: Path, plan: SplitPlan, tokenizer: PreTrainedTokenizerBase, report: Callable[[int], Any]) -> dict[str, Any]:
    """Tokenise the split that `path` is named for; return the counts of its `TokenSplit`."""
    stream = plan.streams[path.stem]
    counts = {"num_tokens": 0, "num_characters": 0, "num_bytes": 0, "num_documents": 0, "num_unknown": 0}

    def count(block: EncodedBlock) -> memoryview:
        counts["num_tokens"] += len(block.tokens)
        for name in ("num_characters", "num_bytes", "num_documents", "num_unknown"):
            counts[name] += getattr(block, name)
        report(block.num_characters)
        return block.tokens.data

    def needed() -> str:
        size = counts["num_tokens"] * token_dtype(tokenizer).itemsize
        return f"about {size * plan.num_characters // counts['num_characters']:,}"

    write_file(path, (count(block) for block in encode_documents(tokenizer, stream())), WHAT, needed)
    return {**counts, "sample": _first_text(stream())}


def _first_text(pieces: Iterable[Any]) -> str:
    """The first characters of a text; short documents follow one another on lines of their own."""
    text, document = "", 0
    for piece in pieces:
        text += "\n" * (text != "" and piece.document != document) + piece.text[:SAMPLE_CHARACTERS]
        document = piece.document
        if len(text) >= SAMPLE_CHARACTERS:
            break
    return text[:SAMPLE_CHARACTERS]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
