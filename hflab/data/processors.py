"""Tokenizers: trained on the spot (character, byte_bpe, word, symbols) or pretrained, always a transformers tokenizer with an eos token.

    tokenizer = build_tokenizer(ProcessorSection(tokenizer="character"), corpus.splits["train"]())
    check_encodable(tokenizer, "a prompt")

The trained ones begin with their special tokens (`<eos>` is id 0), add none by themselves, decode to the text they were given (symbols: with
single spaces), and read a special token's name in a text as plain characters (symbols: as that token). `<eos>` closes every document and every
target, and stands before the first token, a decoder's too; `<pad>` fills rows. `with_masked_lm_tokens` adds what BERT needs. This module knows
nothing about files, splits or batches.
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import UserError, cannot_be_loaded, nearest
from ..recipe import ProcessorSection
from .encoding import CHARACTER_SPLIT, Chunk, chunk_documents, code_points, group_chunks, is_character_tokenizer
from .sources import Piece

logger = logging.getLogger(__name__)

EOS, UNKNOWN, PADDING = "<eos>", "<unk>", "<pad>"
CLASSIFY, SEPARATOR, MASK = "<cls>", "<sep>", "<mask>"
DEFAULT_VOCAB_SIZE = 8000  # of byte_bpe and word
MOST_TRAINING_BYTES = 2**23  # of UTF-8; training takes up to 45 times as much memory where all words differ, as Chinese phrases do
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}"
# GPT-2's words without its contractions, every white space by itself, and characters of scripts without spaces singly
WORD_PATTERN = rf"[{_CJK}]| ?(?:(?![{_CJK}])\w)+| ?[^\w\s]+|\s"


def build_tokenizer(section: ProcessorSection, pieces: Iterable[Piece]) -> PreTrainedTokenizerBase:
    """Train the tokenizer that the section describes on `pieces` (the training split), or load the pretrained one it names.

    The character tokenizer reads all of the text. byte_bpe and word take at most `MOST_TRAINING_BYTES` of it, evenly drawn.

    Raises:
        UserError: the name is no kind and nothing that can be loaded; the pretrained one has no eos token; `vocab_size` is too small.
    """
    if section.tokenizer not in TOKENIZERS:
        return load_pretrained(section.tokenizer)
    return wrap(TOKENIZERS[section.tokenizer](section, pieces))


def is_trained_here(section: ProcessorSection) -> bool:
    """Whether the section describes a tokenizer to train, not a pretrained one."""
    return section.tokenizer in TOKENIZERS


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained here as transformers knows it; the inverse of its `backend_tokenizer`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PADDING,
        unk_token=UNKNOWN if backend.token_to_id(UNKNOWN) is not None else None,  # byte_bpe knows everything
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # a text that holds "<eos>" has five characters there, not the end of a document
    )


def with_masked_lm_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer with cls, sep, mask and pad tokens, those it lacks added to it, as pre-training like BERT's needs them.

    One that adds no special tokens by itself will frame a text as `<cls> A <sep>` and a pair as `<cls> A <sep> B <sep>` from then on (Devlin et
    al., 2019, figure 2), and read `<mask>` in a text as the mask token, as the fill-mask pipeline writes it.

    Raises:
        UserError: it lacks one of them and is not a fast tokenizer.
    """
    wanted: dict[str, Any] = {"cls_token": CLASSIFY, "sep_token": SEPARATOR, "mask_token": MASK, "pad_token": PADDING}
    missing = {name: token for name, token in wanted.items() if getattr(tokenizer, name) is None}
    if not missing:
        return tokenizer
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer {tokenizer.name_or_path!r} has no {', '.join(missing)}, which a masked language model needs; take another.")
    adds_none = not tokenizer.encode("", add_special_tokens=True)
    if "mask_token" in missing and not is_character_tokenizer(tokenizer):
        missing["mask_token"] = AddedToken(MASK, lstrip=True, special=True)  # it stands for a word with the space before it
    tokenizer.add_special_tokens(missing)
    tokenizer.split_special_tokens = False
    if adds_none:
        first, last = tokenizer.cls_token, tokenizer.sep_token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
        )
    return tokenizer


def with_closing_eos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer trained here such that it ends every text with its eos token, as an encoder-decoder reads sources and writes targets.

    It gives no segments from then on, which `generate` of an encoder-decoder would refuse.
    """
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B:1 {eos}:1", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def load_pretrained(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by Hub id or folder; one without an eos token closes documents with its sep token.

    Raises:
        UserError: it cannot be loaded, or has neither token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        kinds, hint = ", ".join(TOKENIZERS), nearest(name, TOKENIZERS)
        reason = cannot_be_loaded("processor.tokenizer", name, error, "--processor.tokenizer FOLDER")
        raise UserError(f"{reason} It is neither one of the kinds trained here: {kinds}.{hint}") from error
    close_with_sep(tokenizer, name)
    check_has_eos(tokenizer)
    return tokenizer


def close_with_sep(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let the sep token close documents where there is no eos token, as in BERT's tokenizers."""
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        logger.warning("The tokenizer %r has no eos token; its sep token %r closes documents.", name, tokenizer.sep_token)
        tokenizer.eos_token = tokenizer.sep_token


def check_has_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` if the tokenizer has no eos token, which must close every document."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer {tokenizer.name_or_path!r} has no eos token, which closes every document. Take another, or give it one and save it: "
            "tokenizer.add_special_tokens({'eos_token': '<eos>'}); tokenizer.save_pretrained(FOLDER)."
        )


def check_encodable(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise `UserError` if `text` has characters, or words, that the tokenizer does not know; the message names them."""
    unknown = _unknown_parts(tokenizer, text)
    if unknown:
        named = ", ".join(_named(part) for part in unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        raise UserError(
            f"The tokenizer does not know {named}; it knows what its training text held ({len(tokenizer):,} tokens). "
            "Leave these out, or use a model with a byte_bpe tokenizer, which knows any text."
        )


def _unknown_parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The distinct parts of `text` that become the unk token, in their order."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    if not tokenizer.is_fast:  # no offsets
        return [character for character in dict.fromkeys(text) if unknown in tokenizer.encode(character, add_special_tokens=False)]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    parts = [text[start:stop] for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if token == unknown]
    return [part for part in dict.fromkeys(parts) if part not in tokenizer.all_special_tokens]  # GPT-2's unk token is its eos token


def _named(part: str) -> str:
    """A word in quotes, a character with its code point, and with its name where it cannot be seen."""
    if len(part) != 1:
        return repr(part)
    code = f"U+{ord(part):04X}"
    if part.isspace() or not part.isprintable() or unicodedata.combining(part):
        return f"{code} ({unicodedata.name(part, 'unnamed')})"
    return f"{part!r} ({code})"


def _train_character(section: ProcessorSection, pieces: Iterable[Piece]) -> Tokenizer:
    """All characters, in the order of their code points; with `vocab_size` the most frequent ones."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for group in group_chunks(Chunk(piece.text, ends_document=False) for piece in pieces):
        counts += np.bincount(code_points("".join(chunk.text for chunk in group)), minlength=len(counts))
    special = [EOS, UNKNOWN, PADDING]
    kept = np.flatnonzero(counts >= section.min_frequency)
    if section.vocab_size is not None:
        by_frequency = np.argsort(-counts[kept], kind="stable")  # a tie goes to the lower code point
        kept = np.sort(kept[by_frequency[: section.vocab_size - len(special)]])
    vocabulary = {token: index for index, token in enumerate(special + [chr(point) for point in kept])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = CHARACTER_SPLIT
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(special)
    return backend


def _train_byte_bpe(section: ProcessorSection, pieces: Iterable[Piece]) -> Tokenizer:
    """GPT-2's scheme: byte pairs merged within words, all 256 bytes known, so that any text can be written."""
    special = [EOS, PADDING]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(special)
    vocab_size = section.vocab_size or DEFAULT_VOCAB_SIZE
    if vocab_size < smallest:
        raise UserError(f"processor.vocab_size is {vocab_size}; byte_bpe needs at least {smallest}, for every byte. Raise it, or use character.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=section.min_frequency, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_evenly_drawn(pieces, MOST_TRAINING_BYTES), trainer)
    return backend


def _train_word(section: ProcessorSection, pieces: Iterable[Piece]) -> Tokenizer:
    """The most frequent words, each with the space before it, punctuation, and single characters of scripts without spaces."""
    backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    backend.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=section.vocab_size or DEFAULT_VOCAB_SIZE,
        min_frequency=section.min_frequency,
        special_tokens=[EOS, UNKNOWN, PADDING],
        show_progress=False,
    )
    backend.train_from_iterator(_evenly_drawn(pieces, MOST_TRAINING_BYTES), trainer)
    return backend


def _train_symbols(section: ProcessorSection, pieces: Iterable[Piece]) -> Tokenizer:
    """Whatever white space separates, such as phonemes or notes: all of them in the order of their code points, or the most frequent ones."""
    counts: Counter[str] = Counter()
    for chunk in chunk_documents(pieces):
        counts.update(chunk.text.split())
    special = [EOS, UNKNOWN, PADDING]
    kept = sorted((symbol for symbol, count in counts.items() if count >= section.min_frequency and symbol not in special))
    if section.vocab_size is not None:
        kept = sorted(sorted(kept, key=lambda symbol: -counts[symbol])[: section.vocab_size - len(special)])
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(special + kept)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # without a decoder, tokens are joined by spaces
    backend.add_special_tokens(special)
    return backend


TOKENIZERS: dict[str, Callable[[ProcessorSection, Iterable[Piece]], Tokenizer]] = {
    "character": _train_character,
    "byte_bpe": _train_byte_bpe,
    "word": _train_word,
    "symbols": _train_symbols,
}


def _evenly_drawn(pieces: Iterable[Piece], limit: int) -> Iterator[str]:
    """All of a text of up to `limit` bytes of UTF-8, or every 2nd, 4th, 8th ... chunk of a longer one, at most `limit` bytes together."""
    stride = 1
    kept: list[tuple[int, str]] = []
    size = 0
    for index, chunk in enumerate(chunk_documents(pieces)):
        if index % stride:
            continue
        kept.append((len(chunk.text.encode("utf-8")), chunk.text))
        size += kept[-1][0]
        while size > limit and len(kept) > 1:
            kept = kept[::2]
            size = sum(num_bytes for num_bytes, _ in kept)
            stride *= 2
    return (text for _, text in kept)
