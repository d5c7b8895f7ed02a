"""Batches for masked language modelling with next-sentence prediction (Devlin et al., 2019, sections 3.1 and A.2).

    prepared = prepare_sentences(recipe.data, recipe.processor)
    special = MaskingTokens.of(prepared.tokenizer)
    batches = MaskedBatches(prepared.splits["train"], special, batch_size=32, sequence_length=128, seed=1)
    batch = batches.batch(step=0, share=slice(0, 32))

A batch is a function of the documents, the seed and the step. Documents are cut once into chunks of consecutive sentences; an epoch reads each
chunk once, and draws anew where its first segment ends, whether its own rest or a piece of another document is the second one, and what is
masked ("dynamic masking"; Liu et al., 2019, section 4.1). Unlike in Devlin et al. the rest that a piece of another document displaces is not
read in that epoch. Shapes: `B` rows of a step, `b` of them asked for, `T` tokens of the step's longest row. This module knows nothing about
models, devices or processes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .sentences import SentenceTokens

IGNORED_LABEL = -100
MASKED, SWAPPED = 0.8, 0.1  # of the chosen tokens; the rest stay as they are (section A.1)
SHORT_CHUNKS = 0.1  # share of chunks of random length (section A.2), so that short texts are known too
RANDOM_NEXT = 0.5
IS_NEXT, IS_RANDOM = 0, 1  # classes of the second segment, numbered as in transformers' BertForPreTraining


@dataclass(frozen=True)
class MaskingTokens:
    """What masking needs of a tokenizer."""

    cls_token_id: int
    sep_token_id: int
    mask_token_id: int
    pad_token_id: int
    special_ids: np.ndarray
    """(.,) int64, never masked, and never put in the place of a token."""
    ordinary_ids: np.ndarray
    """(.,) int64, all other tokens."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "MaskingTokens":
        """Read them from a tokenizer. Raises `UserError` if it lacks one; `with_masked_lm_tokens` gives it."""
        names = ("cls_token_id", "sep_token_id", "mask_token_id", "pad_token_id")
        missing = [name.removesuffix("_id") for name in names if getattr(tokenizer, name) is None]
        if missing:
            raise UserError(f"The tokenizer {tokenizer.name_or_path!r} has no {', '.join(missing)}, which masked language modelling needs.")
        special = np.unique(tokenizer.all_special_ids)
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), special)
        ids = {name: int(getattr(tokenizer, name)) for name in names}
        return cls(**ids, special_ids=special, ordinary_ids=ordinary)


class MaskedBatch(NamedTuple):
    """The caller's share of a step."""

    input_ids: Tensor
    """(b, T) int64: cls, the first segment, sep, the second segment, sep; padded on the right."""
    token_type_ids: Tensor
    """(b, T) int64: 1 in the second segment and its sep, else 0."""
    attention_mask: Tensor
    """(b, T) int64, 1 where there is a token, 0 at padding."""
    labels: Tensor
    """(b, T) int64: the token that was there, where one was chosen to be predicted, else -100."""
    next_sentence_label: Tensor | None
    """(b,) int64: 0 where the second segment follows the first, 1 where it is of another document; None without pairs."""
    num_tokens: int
    """Tokens to predict in all rows of the step, not only in the caller's."""
    num_rows: int
    """Rows of the step that are counted: all but those that fill up the last one of an epoch."""

    def to(self, device: torch.device | str) -> "MaskedBatch":
        """The batch with its tensors on `device`."""
        moved = [value.to(device) if isinstance(value, Tensor) else value for value in self]
        return MaskedBatch._make(moved)


class MaskedBatches:
    """Pairs of segments with masked tokens, in another order, other pairs and with other masks every epoch.

    Where the last batch of an epoch has fewer rows, its first row fills it up, with labels of -100.

    Args:
        sentences: the documents.
        special: ids of the special tokens, and all others.
        batch_size: B.
        sequence_length: most tokens of a row, special tokens included; at least 8.
        seed: of every draw.
        mask_probability: share of a row's ordinary tokens to predict, 0 to 1; at least one of a row.
        next_sentence: pairs of segments; False: one segment in a row, as without next-sentence prediction (Liu et al., 2019, section 4.2).

    Raises:
        UserError: the documents hold no chunk of text, there is only one and pairs are asked for, or rows are too short.
    """

    def __init__(
        self,
        sentences: SentenceTokens,
        special: MaskingTokens,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
        mask_probability: float = 0.15,
        next_sentence: bool = True,
    ) -> None:
        num_documents = len(sentences.document_starts) - 1
        if sequence_length < 8:
            raise UserError(f"data.sequence_length is {sequence_length}; masked language modelling needs at least 8 tokens in a row.")
        if next_sentence and num_documents < 2:
            raise UserError(
                f"Next-sentence prediction takes wrong sentences from other documents, and the text has {num_documents}; "
                "give a source with more documents (rows or files)."
            )
        self.batch_size = batch_size
        self.next_sentence = next_sentence
        self._special, self._seed, self._mask_probability = special, seed, mask_probability
        self._is_special = np.isin(np.arange(max(special.special_ids.max(), special.ordinary_ids.max()) + 1), special.special_ids)
        self._tokens, self._document_starts = sentences.tokens, sentences.document_starts
        budget = sequence_length - (3 if next_sentence else 2)
        self._edges = _cut_long(sentences.sentence_starts, budget // 2)
        self._chunks = _cut_chunks(
            self._edges, self._document_starts, budget, np.random.default_rng([seed, 0, 0, 1]), least=2 if next_sentence else 1
        )
        if not len(self._chunks):
            raise UserError("The text has no sentence of two tokens, so there is nothing to mask; give more text.")
        self.steps_per_epoch = -(-len(self._chunks) // batch_size)
        self._last: tuple[int, list[_Row]] = (-1, [])  # the last step's rows are kept: processes and passes ask for it share by share
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def batch(self, step: int, share: slice) -> MaskedBatch:
        """Return the rows `share` of the batch of `step`, counted from 0 over all epochs."""
        if self._last[0] != step:
            self._last = (step, self._rows_of(step))
        rows = self._last[1]
        longest = max(len(row.input_ids) for row in rows)
        filled = [*rows, *[rows[0]._replace(labels=np.full_like(rows[0].labels, IGNORED_LABEL), is_random=None)] * (self.batch_size - len(rows))]
        mine = filled[share]
        shape = (len(mine), longest)
        ids, types, mask = np.full(shape, self._special.pad_token_id), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED_LABEL)
        for place, row in enumerate(mine):
            T = len(row.input_ids)
            ids[place, :T], labels[place, :T], mask[place, :T] = row.input_ids, row.labels, 1
            types[place, row.second : T] = 1
        follows = [IGNORED_LABEL if row.is_random is None else IS_RANDOM if row.is_random else IS_NEXT for row in mine]
        return MaskedBatch(
            input_ids=torch.from_numpy(ids),
            token_type_ids=torch.from_numpy(types),
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            next_sentence_label=torch.tensor(follows, dtype=torch.int64) if self.next_sentence else None,
            num_tokens=sum(int((row.labels != IGNORED_LABEL).sum()) for row in rows),
            num_rows=len(rows),
        )

    def _rows_of(self, step: int) -> list["_Row"]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._chunks))
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        # what becomes of a chunk depends on the epoch and the chunk, not on the batch size; + 1, for a last 0 would not change the seed
        return [self._masked(int(chunk), np.random.default_rng([self._seed, epoch, int(chunk) + 1])) for chunk in chosen]

    def _masked(self, chunk: int, generator: np.random.Generator) -> "_Row":
        """The row of a chunk, some of its tokens chosen to be predicted and changed."""
        input_ids, second, is_random = self._row(chunk, generator)
        labels = np.full(len(input_ids), IGNORED_LABEL)
        ordinary = np.flatnonzero(~self._is_special[input_ids])
        count = min(max(1, round(self._mask_probability * len(ordinary))), len(ordinary))
        chosen = generator.choice(ordinary, count, replace=False, shuffle=False)
        labels[chosen] = input_ids[chosen]
        draw = generator.random(count)
        swapped = generator.choice(self._special.ordinary_ids, count)
        input_ids[chosen[draw < MASKED]] = self._special.mask_token_id
        is_swapped = (draw >= MASKED) & (draw < MASKED + SWAPPED)
        input_ids[chosen[is_swapped]] = swapped[is_swapped]
        return _Row(input_ids, labels, second, is_random)

    def _row(self, chunk: int, generator: np.random.Generator) -> tuple[np.ndarray, int, bool]:
        """A chunk's token ids with special tokens, where its second segment begins, and whether that is of another document."""
        start, stop, document, target = self._chunks[chunk].tolist()
        first, last = np.array([self._special.cls_token_id]), np.array([self._special.sep_token_id])
        if not self.next_sentence:
            input_ids = np.concatenate([first, self._tokens[start:stop], last])
            return input_ids, len(input_ids), False
        edges = _between(self._edges, start, stop)
        split = int(generator.choice(edges)) if len(edges) else (start + stop) // 2
        is_random = bool(generator.random() < RANDOM_NEXT)
        begin, end = self._elsewhere(document, target - (split - start), generator) if is_random else (split, stop)
        parts = [first, self._tokens[start:split], last, self._tokens[begin:end], last]
        return np.concatenate(parts), split - start + 2, is_random

    def _elsewhere(self, document: int, most: int, generator: np.random.Generator) -> tuple[int, int]:
        """Where a piece of another document begins and ends: whole sentences, at least one, which is cut if it is longer than `most`."""
        other = int(generator.integers(len(self._document_starts) - 2))
        other += other >= document
        opens, closes = self._document_starts[other : other + 2].tolist()
        begin = int(generator.choice(np.concatenate([[opens], _between(self._edges, opens, closes)])))
        ends = _between(self._edges, begin, min(begin + most, closes) + 1)
        return begin, int(ends[-1]) if len(ends) else min(begin + most, closes)


class _Row(NamedTuple):
    input_ids: np.ndarray  # (T,) int64
    labels: np.ndarray  # (T,) int64
    second: int  # where the second segment begins
    is_random: bool | None  # None in a row that is not counted


def _between(edges: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The edges that lie above `start` and below `stop`."""
    return edges[np.searchsorted(edges, start, side="right") : np.searchsorted(edges, stop, side="left")]


def _cut_long(starts: np.ndarray, longest: int) -> np.ndarray:
    """Sentence starts, and further edges within sentences of more than `longest` tokens, at equal distances."""
    lengths = np.diff(starts)
    parts = np.maximum(-(-lengths // longest), 1)
    index = np.repeat(np.arange(len(lengths)), parts)
    number = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.concatenate([starts[index] + lengths[index] * number // parts[index], starts[-1:]])


def _cut_chunks(edges: np.ndarray, document_starts: np.ndarray, budget: int, generator: np.random.Generator, least: int) -> np.ndarray:
    """Chunks of consecutive sentences of one document: first token, end, document and the length aimed at, (chunks, 4) int64.

    A chunk takes as many sentences as fit into its length, one at least. Chunks of fewer than `least` tokens are left out.
    """
    chunks = []
    for document, (start, closes) in enumerate(zip(document_starts[:-1].tolist(), document_starts[1:].tolist(), strict=True)):
        while start < closes:
            target = int(generator.integers(least, budget + 1)) if generator.random() < SHORT_CHUNKS else budget
            ends = _between(edges, start, min(start + target, closes) + 1)
            stop = int(ends[-1]) if len(ends) else int(_between(edges, start, closes + 1)[0])
            if stop - start >= least:
                chunks.append((start, stop, document, max(target, stop - start)))
            start = stop
    return np.array(chunks, dtype=np.int64).reshape(-1, 4)
