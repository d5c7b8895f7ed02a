"""Rows of examples as token ids, in memory: what `example_batches` cuts into batches.

    prepared = prepare_examples(recipe.data, recipe.processor, "seq2seq", EncodingLimits(max_source_tokens=64))
    batches = ExampleBatches(prepared.splits["train"], batch_size=32, pad_token_id=prepared.tokenizer.pad_token_id, seed=1)

Special tokens: a source, a text and a row of words have those that the tokenizer adds by itself (BERT's cls and sep; nothing for the tokenizers
trained here), a source and a target end with eos, which an encoder-decoder learns to write. This module knows nothing about batches.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import UserError
from ..recipe import DataSection, ProcessorSection
from .examples import ExampleCorpus, load_examples
from .processors import build_tokenizer, check_has_eos, is_trained_here, with_closing_eos

if TYPE_CHECKING:
    import datasets

IGNORED_LABEL = -100
ROWS_PER_CALL = 1000
ONLY_IDS: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
MANY_CUT = 0.01  # share of rows, from which on a warning is due

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodingLimits:
    """Most tokens of an input and of a target, special tokens included; what is longer is cut at its end."""

    max_source_tokens: int
    max_target_tokens: int | None = None
    """None: as many as of the source. Read for sequence to sequence only."""


@dataclass(frozen=True)
class EncodedExamples:
    """The rows of a split as token ids."""

    inputs: list[np.ndarray]
    """Of each row the token ids of its input, (T,) int64, at least one."""
    labels: list[np.ndarray]
    """Of each row the target's token ids (T',), its class (), or the class or -100 of each input token (T,); int64."""
    num_cut: int
    """Rows whose input or target was longer than the limit."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)


@dataclass(frozen=True)
class PreparedExamples:
    """Examples as rows and as token ids. `facts` is JSON: what they are, their fingerprint, and counts and a sample of every split."""

    corpus: ExampleCorpus
    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, EncodedExamples]
    """With the rows of `corpus.splits`, in their order."""
    facts: dict[str, Any]


def prepare_examples(
    data: DataSection,
    processor: ProcessorSection,
    task: str,
    limits: EncodingLimits,
    tokenizer: PreTrainedTokenizerBase | None = None,
    label_names: Sequence[str] | None = None,
) -> PreparedExamples:
    """Read, split and tokenise the examples of `data`.

    Args:
        data: the source, its columns and its splits.
        processor: the tokenizer to train on the training rows, or to load; not read when `tokenizer` is given.
        task: a key of `hflab.data.examples.COLUMNS`.
        limits: most tokens of a row.
        tokenizer: a tokenizer to use as it is; without a pad token its eos token is made that.
        label_names: the classes of a trained classifier; default: those of the rows.

    Raises:
        UserError: as `load_examples`, `build_tokenizer` and `encode_split` do.
    """
    if tokenizer is None and not is_trained_here(processor):
        tokenizer = build_tokenizer(processor, ())  # a pretrained one reads no text: a wrong name shows before any work
    corpus = load_examples(data, task, label_names)
    if tokenizer is None:
        tokenizer = train_on_examples(corpus, processor)
        if task == "seq2seq":
            tokenizer = with_closing_eos(tokenizer)
    check_has_eos(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    splits = {name: encode_split(corpus, name, tokenizer, limits) for name in corpus.splits}
    facts = corpus.facts()
    for name, encoded in splits.items():
        facts["splits"][name].update(tokens=sum(map(len, encoded.inputs)), rows_cut=encoded.num_cut)
    return PreparedExamples(corpus, tokenizer, splits, facts)


def train_on_examples(corpus: ExampleCorpus, section: ProcessorSection) -> PreTrainedTokenizerBase:
    """Train the section's tokenizer on the training rows, sources and targets together, or load the pretrained one it names."""
    return build_tokenizer(section, corpus.texts("train")())


def encode_split(corpus: ExampleCorpus, split: str, tokenizer: PreTrainedTokenizerBase, limits: EncodingLimits) -> EncodedExamples:
    """Return the rows of a split as token ids, in their order.

    A word of several tokens has its class at the first of them and -100 at the others, as transformers' examples have it.

    Raises:
        UserError: words are to be classified and the tokenizer is not a fast one, which alone knows whose tokens are whose; or a limit
            leaves no room beside the special tokens.
    """
    _check_limits(tokenizer, limits)
    rows = corpus.splits[split]
    if corpus.task == "seq2seq":
        encoded = _encode_pairs(rows, tokenizer, limits)
    elif corpus.task == "text_classification":
        inputs, num_cut = _encode_texts(rows["text"], tokenizer, limits.max_source_tokens, close=False)
        encoded = EncodedExamples(inputs, [np.asarray(label, dtype=np.int64) for label in rows["label"]], num_cut)
    else:
        encoded = _encode_words(rows, tokenizer, limits.max_source_tokens)
    if encoded.num_cut > MANY_CUT * len(encoded):
        longest = max(limits.max_source_tokens, limits.max_target_tokens or 0)
        logger.warning("%d of %d rows of the %s split are longer than %d tokens and were cut.", encoded.num_cut, len(encoded), split, longest)
    return encoded


def _check_limits(tokenizer: PreTrainedTokenizerBase, limits: EncodingLimits) -> None:
    room = tokenizer.num_special_tokens_to_add(pair=False) + 2  # eos, and a token of the text
    for limit in (limits.max_source_tokens, limits.max_target_tokens):
        if limit is not None and limit < room:
            raise UserError(f"At most {limit} tokens of a row leave no room for its text; the tokenizer needs at least {room}.")


def _encode_pairs(rows: "datasets.Dataset", tokenizer: PreTrainedTokenizerBase, limits: EncodingLimits) -> EncodedExamples:
    sources, sources_cut = _encode_texts(rows["source"], tokenizer, limits.max_source_tokens, close=True)
    most = limits.max_target_tokens or limits.max_source_tokens
    targets, targets_cut = _encode_texts(rows["target"], tokenizer, most, close=True, is_target=True)
    return EncodedExamples(sources, targets, sources_cut + targets_cut)


def _encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int, *, close: bool, is_target: bool = False
) -> tuple[list[np.ndarray], int]:
    """Token ids of each text, and how many texts were cut. `close`: eos at the end. A text without any token is eos alone."""
    encoded, num_cut = [], 0
    encode, eos = _choose_encode(tokenizer, is_target=is_target), tokenizer.eos_token_id
    for start in range(0, len(texts), ROWS_PER_CALL):
        batch = list(texts[start : start + ROWS_PER_CALL])
        for ids in encode(batch):
            if not ids or (close and ids[-1] != eos):
                ids = [*ids, eos]
            if len(ids) > most:
                ids = [ids[place] for place in _kept(ids, most, tokenizer)]
                num_cut += 1
            encoded.append(np.asarray(ids, dtype=np.int64))
    return encoded, num_cut


def _choose_encode(tokenizer: PreTrainedTokenizerBase, *, is_target: bool) -> Callable[[list[str]], list[list[int]]]:
    """How texts become token ids, with the special tokens that the tokenizer adds by itself."""
    if type(tokenizer) is PreTrainedTokenizerFast:  # trained here, or another without rules of its own for targets
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        # without offsets, and without the copies of the tokenizer's own call: several times as fast for short texts
        return lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    if is_target:
        return lambda texts: tokenizer(text_target=texts, **ONLY_IDS)["input_ids"]
    return lambda texts: tokenizer(texts, **ONLY_IDS)["input_ids"]


def _encode_words(rows: "datasets.Dataset", tokenizer: PreTrainedTokenizerBase, most: int) -> EncodedExamples:
    """Words joined by spaces, so that their tokens are those of running text, on which the tokenizer was trained."""
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer {tokenizer.name_or_path!r} does not say which token is of which word; classes of words need a fast one.")
    inputs, labels, num_cut = [], [], 0
    for row in rows:
        encoding = tokenizer(" ".join(row["tokens"]), return_offsets_mapping=True, verbose=False)
        ids = encoding["input_ids"]
        words = _words_of_tokens(row["tokens"], encoding["offset_mapping"])
        classes = [IGNORED_LABEL if word in (None, *words[max(place - 1, 0) : place]) else row["labels"][word] for place, word in enumerate(words)]
        num_cut += len(ids) > most
        kept = _kept(ids, most, tokenizer)
        inputs.append(np.asarray([ids[place] for place in kept] or [tokenizer.eos_token_id], dtype=np.int64))
        labels.append(np.asarray([classes[place] for place in kept] or [IGNORED_LABEL], dtype=np.int64))
    return EncodedExamples(inputs, labels, num_cut)


def _words_of_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """The word that each token's last character is of, None for a space by itself and for special tokens."""
    ends = np.cumsum([len(word) + 1 for word in words])  # where the next word begins
    found: list[int | None] = []
    for start, stop in offsets:
        word = int(np.searchsorted(ends, stop - 1, side="right"))
        found.append(word if stop > start and stop < ends[word] else None)
    return found


def _kept(ids: Sequence[int], most: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The places of at most `most` tokens: the first ones, and a special token at the end (eos, sep), which ends a cut row too."""
    places = list(range(min(len(ids), most)))
    if len(ids) > most and ids[-1] in tokenizer.all_special_ids:
        places[-1] = len(ids) - 1
    return places
