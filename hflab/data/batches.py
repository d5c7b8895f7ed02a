"""Text to batches: `prepare_text` tokenises the splits of a source, and two layouts cut the tokens into batches.

    text = prepare_text(recipe.data, recipe.processor)
    lanes = LanguageModelLanes(text.splits["train"].tokens, num_lanes=32, sequence_length=128, eos_token_id=0, reset_at_documents=True)
    batch = lanes.batch(step=0, lanes=slice(0, 32))

Shapes: N tokens of a split, B lanes (or windows) of a batch, b of them asked for, T tokens of a window.

A batch is a function of its step alone, so that a resumed run needs no more than the step. In an epoch every token is predicted exactly once, from
the token before it; the first one is predicted from eos. This module knows nothing about models, devices or processes.
"""

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..recipe import DataSection, ProcessorSection
from .cache_entries import cache_folder
from .processors import build_tokenizer, check_has_eos, is_trained_here
from .sources import TextCorpus, load_corpus
from .splits import SplitPlan, plan_splits
from .token_store import TokenizerSource, TokenRows, TokenSplit, existing_tokenizer, open_tokens

__all__ = ["LanguageModelBatch", "LanguageModelLanes", "PreparedText", "ShuffledWindows", "TokenSplit", "prepare_text"]

IGNORED_LABEL = -100
MOST_UNKNOWN = 0.05  # share of tokens; a word tokenizer is never without some

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedText:
    """Tokenised text. `facts` is JSON: what the text is, its fingerprint, and counts and a sample of every split."""

    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, TokenSplit]
    facts: dict[str, Any]


def prepare_text(data: DataSection, processor: ProcessorSection, tokenizer: PreTrainedTokenizerBase | None = None) -> PreparedText:
    """Read, split and tokenise the text of `data`, or find it tokenised in the cache.

    Args:
        data: the source, its splits and the cache folder.
        processor: the tokenizer to train on the training split, or to load; not read when `tokenizer` is given.
        tokenizer: a tokenizer to use as it is.

    Raises:
        UserError: the source has no text or cannot be read; the tokenizer cannot be had; the disk is full; a split is shorter than a window.
    """
    corpus = load_corpus(data)
    if tokenizer is None and not is_trained_here(processor):
        tokenizer = build_tokenizer(processor, ())  # a pretrained one reads no text: a wrong name shows before any work
    plan = plan_splits(corpus, data)
    if tokenizer is None:
        source = _trained_tokenizer(processor, plan)
    else:
        check_has_eos(tokenizer)
        source = existing_tokenizer(tokenizer)
    stored = open_tokens(cache_folder(data.cache_dir), plan, source)
    for name, split in stored.splits.items():
        _check_split(name, split, data)
    return PreparedText(stored.tokenizer, stored.splits, _facts(corpus, plan.fingerprint, stored.splits))


class LanguageModelBatch(NamedTuple):
    """The caller's share of a step."""

    input_ids: Tensor
    """(b, T) int64."""
    shift_labels: Tensor
    """(b, T) int64: the token after each input, -100 where there is none to predict."""
    state_resets: Tensor | None
    """(b, T) bool, True where the state is set to zero before the token is read; None where that is nowhere."""
    carries_state: bool
    """True: the state that the step before left behind goes on. False: the state is zero."""
    num_tokens: int
    """Tokens to predict in all lanes of the step, not only in the caller's."""

    def to(self, device: torch.device | str) -> "LanguageModelBatch":
        """The batch with its tensors on `device`."""
        resets = None if self.state_resets is None else self.state_resets.to(device)
        return self._replace(input_ids=self.input_ids.to(device), shift_labels=self.shift_labels.to(device), state_resets=resets)


class LanguageModelLanes:
    """The text in B equal, contiguous lanes; a step reads the next window of each, and the state is carried (truncated back-propagation).

    Lane i begins with the last token of lane i - 1 as its input. An epoch begins with a zero state.

    Args:
        tokens: (N,) token ids, each document closed by eos.
        num_lanes: B.
        sequence_length: T.
        eos_token_id: id of the eos token.
        reset_at_documents: set the state to zero before an eos is read, so that the next document knows nothing of the last one.
        reset_probability: chance that a lane's state is set to zero at the beginning of a window, 0 to 1. It keeps a model good from a zero
            state, which training on one long text otherwise never shows it again.
        seed: of these draws, together with the step.

    Raises:
        UserError: N is less than B * T.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        num_lanes: int,
        sequence_length: int,
        eos_token_id: int,
        reset_at_documents: bool,
        reset_probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        _check_enough(len(tokens), num_lanes, sequence_length)
        self.num_lanes = num_lanes
        self.sequence_length = sequence_length
        self._windows = _WindowReader(tokens, sequence_length, eos_token_id, reset_at_documents)
        bounds = np.arange(num_lanes + 1) * len(tokens) // num_lanes
        self._starts, self._stops = bounds[:-1], bounds[1:]
        self.steps_per_epoch = -(-int((self._stops - self._starts).max()) // sequence_length)
        self._reset_probability, self._seed = reset_probability, seed

    def batch(self, step: int, lanes: slice) -> LanguageModelBatch:
        """Return `lanes` of the batch of `step`, counted from 0 over all epochs."""
        window = step % self.steps_per_epoch
        starts = self._starts + window * self.sequence_length
        lengths = np.minimum(np.maximum(self._stops - starts, 0), self.sequence_length)
        input_ids, labels, resets = self._windows.read(starts[lanes], lengths[lanes])
        if self._reset_probability:
            drawn = np.random.default_rng([self._seed, step]).random(self.num_lanes)[lanes] < self._reset_probability
            resets = torch.zeros_like(input_ids, dtype=torch.bool) if resets is None else resets
            resets[:, 0] |= torch.from_numpy(drawn)
        return LanguageModelBatch(input_ids, labels, resets, carries_state=window > 0, num_tokens=int(lengths.sum()))


class ShuffledWindows:
    """The text in windows of T tokens, in another order every epoch; a step reads B of them, each from a zero state.

    Args:
        tokens: (N,) token ids, each document closed by eos.
        batch_size: B.
        sequence_length: T.
        eos_token_id: id of the eos token.
        reset_at_documents: set the state to zero before an eos is read.
        seed: of the order, together with the epoch.

    Raises:
        UserError: N is less than B * T.
    """

    def __init__(self, tokens: np.ndarray, *, batch_size: int, sequence_length: int, eos_token_id: int, reset_at_documents: bool, seed: int) -> None:
        _check_enough(len(tokens), batch_size, sequence_length)
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self._windows = _WindowReader(tokens, sequence_length, eos_token_id, reset_at_documents)
        self._num_tokens = len(tokens)
        self._num_windows = -(-len(tokens) // sequence_length)
        self.steps_per_epoch = -(-self._num_windows // batch_size)
        self._seed = seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.uint32)  # the last epoch's order is kept: it is the same for all its steps

    def batch(self, step: int, lanes: slice) -> LanguageModelBatch:
        """Return `lanes` of the batch of `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._order_of(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        starts = np.full(self.batch_size, self._num_tokens)  # a last batch may have empty rows
        starts[: len(chosen)] = chosen.astype(np.int64) * self.sequence_length
        lengths = np.minimum(self._num_tokens - starts, self.sequence_length)
        input_ids, labels, resets = self._windows.read(starts[lanes], lengths[lanes])
        return LanguageModelBatch(input_ids, labels, resets, carries_state=False, num_tokens=int(lengths.sum()))

    def _order_of(self, epoch: int) -> np.ndarray:
        """The windows in the order of `epoch`, (number of windows,) uint32: half the memory of int64 where a text has millions."""
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._epoch, self._order = epoch, generator.permutation(np.arange(self._num_windows, dtype=np.uint32))
        return self._order


class _WindowReader:
    """Windows of inputs and labels out of a token array, which may be a memory map larger than memory."""

    def __init__(self, tokens: np.ndarray, sequence_length: int, eos_token_id: int, reset_at_documents: bool) -> None:
        self._rows = TokenRows(tokens)
        self._sequence_length = sequence_length
        self._eos_token_id = eos_token_id
        self._reset_at_documents = reset_at_documents

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return inputs, labels (b, T) int64 and resets (b, T) bool or None of the windows that predict tokens `starts` to `starts + lengths`.

        Inputs past a window's length are eos, their labels -100.
        """
        T, eos = self._sequence_length, self._eos_token_id
        ids = self._rows.read(starts - 1, T + 1)  # from the token before the first to be predicted
        ids[starts == 0, 0] = eos  # the text's first token is predicted from eos
        inputs, labels, resets = ids[:, :-1].copy(), ids[:, 1:].copy(), ids[:, :-1] == eos
        if lengths.min(initial=T) < T:
            past = np.arange(T) >= lengths[:, None]
            inputs[past], labels[past], resets[past] = eos, IGNORED_LABEL, False
        some_reset = self._reset_at_documents and resets.any()
        return torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(resets) if some_reset else None


def _trained_tokenizer(processor: ProcessorSection, plan: SplitPlan) -> TokenizerSource:
    identity = {"kind": processor.tokenizer, "vocab_size": processor.vocab_size, "min_frequency": processor.min_frequency}
    return TokenizerSource(identity, lambda: build_tokenizer(processor, plan.streams["train"]()), is_trained=True)


def _check_split(name: str, split: TokenSplit, data: DataSection) -> None:
    """Raise `UserError` if a split is shorter than a window; warn if the tokenizer does not know all of it."""
    if split.num_tokens < data.sequence_length:
        cure = "or give more text" if name == "train" else f"raise data.{name}_fraction, or give more text"
        if data.split_by == "document" and split.num_documents == 0:
            cure += "; few documents are better split with data.split_by=position"
        raise UserError(
            f"The {name} split has {split.num_tokens:,} tokens ({split.num_characters:,} characters), fewer than one window of "
            f"{data.sequence_length:,}: lower data.sequence_length, {cure}."
        )
    share = split.num_unknown / split.num_tokens
    if share > MOST_UNKNOWN:
        logger.warning(
            "The tokenizer does not know %.0f %% of the %s split, which makes its figures mean little; raise processor.vocab_size or use byte_bpe.",
            100 * share,
            name,
        )


def _facts(corpus: TextCorpus, fingerprint: str, splits: dict[str, TokenSplit]) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "description": corpus.description,
        "license": corpus.license,
        "language": corpus.language,
        "origin": corpus.origin,
        "fingerprint": fingerprint,
        "splits": {
            name: {
                "characters": split.num_characters,
                "bytes": split.num_bytes,
                "tokens": split.num_tokens,
                "documents": split.num_documents,
                "unknown_tokens": split.num_unknown,
                "sample": split.sample,
            }
            for name, split in splits.items()
        },
    }


def _check_enough(num_tokens: int, num_lanes: int, sequence_length: int) -> None:
    if num_tokens < num_lanes * sequence_length:
        raise UserError(
            f"The text has {num_tokens:,} tokens, but {num_lanes} windows of {sequence_length} tokens need {num_lanes * sequence_length:,}: lower "
            f"the batch size (training.batch_size or evaluation.batch_size) to {max(num_tokens // sequence_length, 1)}, or data.sequence_length."
        )
