"""Documents as token ids, in blocks of about a million characters, each document closed by the eos token.

Long documents are cut where cutting does not change the tokens (`chunk_documents`), so that chunked = whole. A character tokenizer is replaced
by a table from code points to ids, which gives the same ids many times faster. This module knows nothing about files.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .sources import Piece

CHUNK_CHARACTERS = 2**14
BLOCK_CHARACTERS = 2**20
LONGEST_RUN = 2**20  # characters without a place to cut, after which a document is cut all the same
LONGEST_WHOLE_DOCUMENT = 2**23  # characters; for tokenizers that no cut leaves unchanged
CHARACTER_SPLIT = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")

# A cut before white space that follows a letter or digit: no pre-tokenizer joins the two sides, and the run of white space stays whole.
_BEFORE_SPACE = re.compile(r"(?<=[^\W_])[ \t\n]")
# For text without spaces: before punctuation that follows an ideograph, kana or Latin letter.
_BEFORE_PUNCTUATION = re.compile(r"(?<=[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff])[,.!?;:\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]")

Encode = Callable[[list[str]], tuple[np.ndarray, list[int]]]  # texts -> ids of all of them, and how many each has


class Chunk(NamedTuple):
    """A part of a document that can be tokenised by itself."""

    text: str
    ends_document: bool


class EncodedBlock(NamedTuple):
    """Tokens of consecutive documents, eos tokens included, and what they were made of."""

    tokens: np.ndarray  # (N,) of `token_dtype`
    num_characters: int
    num_bytes: int  # of UTF-8
    num_documents: int  # that end in this block
    num_unknown: int  # tokens that stand for text the tokenizer does not know


def encode_documents(tokenizer: PreTrainedTokenizerBase, pieces: Iterable[Piece]) -> Iterator[EncodedBlock]:
    """Tokenise documents without special tokens, and close each with `tokenizer.eos_token_id`.

    Raises:
        UserError: a document of more than `LONGEST_WHOLE_DOCUMENT` characters meets a tokenizer that may not be given parts of it.
    """
    encode = _choose_encode(tokenizer)
    chunks = chunk_documents(pieces) if cuts_keep_tokens(tokenizer) else _whole_documents(pieces, tokenizer)
    for group in group_chunks(chunks):
        texts = [chunk.text for chunk in group]
        ids, lengths = encode(texts)
        ends = np.cumsum(lengths)[[chunk.ends_document for chunk in group]]
        has_unknown = tokenizer.unk_token_id not in (None, tokenizer.eos_token_id)  # GPT-2 names its eos token for both
        yield EncodedBlock(
            tokens=np.insert(ids, ends, tokenizer.eos_token_id),
            num_characters=sum(map(len, texts)),
            num_bytes=sum(len(text) if text.isascii() else len(text.encode("utf-8")) for text in texts),
            num_documents=len(ends),
            num_unknown=int(np.count_nonzero(ids == tokenizer.unk_token_id)) if has_unknown else 0,
        )


def token_dtype(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id of the tokenizer."""
    return np.dtype("<u2" if len(tokenizer) <= 2**16 else "<u4")


def chunk_documents(pieces: Iterable[Piece], size: int = CHUNK_CHARACTERS) -> Iterator[Chunk]:
    """Cut documents into chunks of at most `size` characters, or more where there is no place to cut.

    Cut is before white space that follows a letter or digit, else before punctuation that follows a letter: there the pre-tokenizers of GPT-2,
    of later byte-level models, of BERT and of `hflab.data.processors`, symbols left out, end a word whatever comes next and begin one whatever
    went before, so the tokens of the chunks are those of the whole. Only a run of `LONGEST_RUN` characters without such a place is cut elsewhere.
    """
    for _, document in itertools.groupby(pieces, key=lambda piece: piece.document):
        pending = ""
        for piece in document:
            pending += piece.text
            start = 0
            while len(pending) - start > size and (cut := _find_cut(pending, start, size)):
                yield Chunk(pending[start:cut], ends_document=False)
                start = cut
            pending = pending[start:]
        yield Chunk(pending, ends_document=True)


def group_chunks(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks together, about `BLOCK_CHARACTERS` at a time: many short documents are tokenised in one call."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += len(chunk.text)
        if size >= BLOCK_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def cuts_keep_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer gives parts of a text the tokens of the whole. Some mark the beginning of every text they are given."""
    parts = ["The café closed", " at 10", "\nor 11", "\n\n  it said", ". 我们去了北京", "。再见", "!"]
    whole = tokenizer("".join(parts), add_special_tokens=False, verbose=False)["input_ids"]
    return whole == list(itertools.chain.from_iterable(tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"]))


def is_character_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer gives every character, those of its special tokens' names included, a token of its own."""
    if not tokenizer.is_fast or not tokenizer.split_special_tokens:
        return False
    backend = tokenizer.backend_tokenizer
    added_by_hand = [token for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if backend.normalizer is not None or backend.pre_tokenizer is None or added_by_hand:
        return False
    state = backend.pre_tokenizer.__getstate__()  # its JSON; the object itself has no equality
    return type(backend.model).__name__ == "WordLevel" and json.loads(state) == json.loads(CHARACTER_SPLIT.__getstate__())


def character_table(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The token id of every code point, (0x110000,); `unk_token_id` where the character tokenizer does not know it."""
    table = np.full(0x110000, tokenizer.unk_token_id, dtype=token_dtype(tokenizer))
    for token, index in tokenizer.get_vocab().items():
        if len(token) == 1:
            table[ord(token)] = index
    return table


def code_points(text: str) -> np.ndarray:
    """The code points of `text`, (len(text),) uint32."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _choose_encode(tokenizer: PreTrainedTokenizerBase) -> Encode:
    dtype = token_dtype(tokenizer)
    if is_character_tokenizer(tokenizer):
        table = character_table(tokenizer)
        return lambda texts: (table[code_points("".join(texts))], [len(text) for text in texts])
    if not tokenizer.is_fast:
        return lambda texts: _joined(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"], dtype)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    # without offsets, and without the copies and warnings of the tokenizer's own call
    return lambda texts: _joined([encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)], dtype)


def _joined(ids: list[list[int]], dtype: np.dtype) -> tuple[np.ndarray, list[int]]:
    lengths = [len(one) for one in ids]
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=dtype, count=sum(lengths)), lengths


def _find_cut(text: str, start: int, size: int) -> int:
    """The last place to cut within `size` characters from `start`; 0 where there is none and more text may bring one."""
    near = start + size - min(256, size // 2)
    for first in (near, start + 1):
        for boundary in (_BEFORE_SPACE, _BEFORE_PUNCTUATION):
            cuts = [match.start() for match in boundary.finditer(text, first, start + size + 1)]
            if cuts:
                return cuts[-1]
    later = [match.start() for boundary in (_BEFORE_SPACE, _BEFORE_PUNCTUATION) if (match := boundary.search(text, start + size))]
    if later:
        return min(later)
    return start + LONGEST_RUN if len(text) - start > LONGEST_RUN else 0


def _whole_documents(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase) -> Iterator[Chunk]:
    for _, document in itertools.groupby(pieces, key=lambda piece: piece.document):
        texts, size = [], 0
        for piece in document:
            texts.append(piece.text)
            size += len(piece.text)
            if size > LONGEST_WHOLE_DOCUMENT:
                raise UserError(
                    f"The tokenizer {tokenizer.name_or_path!r} changes its tokens where a text is cut, and a document has more than "
                    f"{LONGEST_WHOLE_DOCUMENT:,} characters. Split the document, or set processor.tokenizer to byte_bpe."
                )
        yield Chunk("".join(texts), ends_document=True)
