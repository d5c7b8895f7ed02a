"""Documents as sentences of token ids, for pre-training on pairs of sentences.

    prepared = prepare_sentences(recipe.data, recipe.processor)
    sentences = prepared.splits["train"]

A sentence ends at the end of a line; after a full stop, exclamation or question mark that white space and no small letter follow, unless the
full stop closes an abbreviation or an initial; and after a Chinese or Japanese full stop, exclamation or question mark or semicolon. Closing
quotes and brackets stay with the sentence, the space after it goes to the next one, as byte-level and word tokenizers have it; so sentences
concatenate to the text. The rules are few on purpose: a segment of a pair is several sentences long, and an end that is missed or made up moves
its edge by some words. This module knows nothing about batches or masks.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..recipe import DataSection, ProcessorSection
from .processors import build_tokenizer, is_trained_here, with_masked_lm_tokens
from .sources import Piece, TextStream, load_corpus
from .splits import plan_splits

SENTENCES_PER_CALL = 1000
SAMPLE_CHARACTERS = 200
LONGEST_ABBREVIATION = 12  # characters to look back, more than any abbreviation below has
_CLOSING = "\"'\u201d\u2019)\\]\u300d\u300f\uff09\u3011"
_OPENING = "\"'\u201c\u2018(\\["
_END = re.compile(
    rf"[.!?]+[{_CLOSING}]*(?=\s+[{_OPENING}]*[^\W_a-z])"  # before a capital, a digit or a letter of a script without capitals
    rf"|[\u3002\uff01\uff1f\uff1b]+[{_CLOSING}]*"
    r"|\n+"
)
# words after which a full stop rarely ends a sentence, and single capitals, which are initials
_ABBREVIATION = re.compile(r"(?:^|[\s(\[\"'])(?:Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Col|Sen|Gov|St|Mt|vs|etc|cf|e\.g|i\.e|No|Vol|Fig|pp|ed|ca|c|[A-Z])\.$")


@dataclass(frozen=True)
class SentenceTokens:
    """Documents as sentences as token ids, end to end, N tokens, S sentences and D documents in all. No sentence or document is empty."""

    tokens: np.ndarray
    """(N,) int32."""
    sentence_starts: np.ndarray
    """(S + 1,) int64: the first token of each sentence, and N."""
    document_starts: np.ndarray
    """(D + 1,) int64: the first token of each document, and N."""


@dataclass(frozen=True)
class PreparedSentences:
    """Documents as sentences, split. `facts` is JSON: what the text is, its fingerprint, and counts and a sample of every split."""

    tokenizer: PreTrainedTokenizerBase
    """With cls, sep, mask and pad tokens."""
    splits: dict[str, SentenceTokens]
    facts: dict[str, Any]


def prepare_sentences(data: DataSection, processor: ProcessorSection, tokenizer: PreTrainedTokenizerBase | None = None) -> PreparedSentences:
    """Read, split and tokenise the text of `data` for pre-training on pairs of sentences. The tokens are held in memory, four bytes each.

    Args:
        data: the source and its splits; held-out documents want split_by "document".
        processor: the tokenizer to train on the training split, or to load; not read when `tokenizer` is given.
        tokenizer: a tokenizer to use; the special tokens that it lacks are added to it.

    Raises:
        UserError: as `load_corpus`, `plan_splits`, `build_tokenizer` and `with_masked_lm_tokens` do.
    """
    corpus = load_corpus(data)
    if tokenizer is None and not is_trained_here(processor):
        tokenizer = build_tokenizer(processor, ())  # a pretrained one reads no text: a wrong name shows before any work
    plan = plan_splits(corpus, data)
    tokenizer = with_masked_lm_tokens(tokenizer or build_tokenizer(processor, plan.streams["train"]()))
    splits = {name: encode_sentences(stream(), tokenizer) for name, stream in plan.streams.items()}
    facts: dict[str, Any] = {key: getattr(corpus, key) for key in ("name", "description", "license", "language", "origin")}
    facts["fingerprint"] = plan.fingerprint
    facts["splits"] = {name: _describe(plan.streams[name], split, tokenizer.unk_token_id) for name, split in splits.items()}
    return PreparedSentences(tokenizer, splits, facts)


def _describe(stream: TextStream, split: SentenceTokens, unknown: int | None) -> dict[str, Any]:
    """Counts of a split, and its first characters."""
    sample, characters, size = "", 0, 0
    for piece in stream():
        sample += piece.text[: SAMPLE_CHARACTERS - len(sample)]
        characters += len(piece.text)
        size += len(piece.text.encode("utf-8"))
    return {
        "characters": characters,
        "bytes": size,
        "tokens": len(split.tokens),
        "sentences": len(split.sentence_starts) - 1,
        "documents": len(split.document_starts) - 1,
        "unknown_tokens": 0 if unknown is None else int((split.tokens == unknown).sum()),
        "sample": sample,
    }


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, which concatenate to it; none of several is white space alone."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if _ABBREVIATION.search(text[max(start, end - LONGEST_ABBREVIATION) : end]):
            continue
        _append(sentences, text[start:end])
        start = end
    _append(sentences, text[start:])
    return sentences


def _append(sentences: list[str], text: str) -> None:
    """Add a sentence; white space alone goes to the one before it, at the beginning of a text to the one after it."""
    if sentences and (not text.strip() or not sentences[-1].strip()):
        sentences[-1] += text
    elif text:
        sentences.append(text)


def encode_sentences(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase) -> SentenceTokens:
    """Cut each document into sentences and tokenise them, without special tokens; one document is held in memory at a time."""
    return from_lists(_encoded_documents(pieces, tokenizer))


def from_lists(documents: Iterable[Iterable[Sequence[int]]]) -> SentenceTokens:
    """Documents given as lists of sentences of token ids. Empty sentences and documents are left out."""
    tokens: list[np.ndarray] = []
    sentence_lengths: list[int] = []
    document_lengths: list[int] = []
    for document in documents:
        sentences = [np.asarray(sentence, dtype=np.int32) for sentence in document if len(sentence)]
        if sentences:
            tokens.append(np.concatenate(sentences))
            sentence_lengths += map(len, sentences)
            document_lengths.append(len(tokens[-1]))
    joined = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int32)
    return SentenceTokens(joined, _starts(sentence_lengths), _starts(document_lengths))


def _encoded_documents(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[list[int]]]:
    for _, document in itertools.groupby(pieces, key=lambda piece: piece.document):
        sentences = split_sentences("".join(piece.text for piece in document))
        encoded: list[list[int]] = []
        for start in range(0, len(sentences), SENTENCES_PER_CALL):
            batch = sentences[start : start + SENTENCES_PER_CALL]
            encoded += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        yield encoded


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
