"""Which rows of tokens gradients are measured on: windows of running text, or texts with a class, all of one length, so that nothing is padded.

Knows nothing about models beyond their tokenizers. B: rows, T: tokens of a row.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..data.example_encoding import EncodedExamples
from ..data.processors import check_encodable
from ..data.sources import SOURCES, load_corpus
from ..errors import UserError, nearest
from ..evaluation.sharing import evenly_drawn
from ..recipe import DataSection

MOST_CHARACTERS = 2**20  # that are read of a file: a few windows are all that is wanted


@dataclass(frozen=True)
class Rows:
    """Rows to measure on."""

    input_ids: Tensor
    """(B, T)."""
    labels: Tensor | None
    """(B, T) the token after each, or (B,) classes; None: the class that the model finds likeliest."""
    origin: str
    """Where they are from, for a reader."""

    @property
    def are_texts(self) -> bool:
        """Whether each row has one class, and not each token a next one."""
        return self.labels is None or self.labels.dim() == 1


def windows(tokens: Sequence[int] | np.ndarray, steps: int, most: int, origin: str) -> Rows:
    """At most `most` windows of `steps` tokens, evenly spread over `tokens` (N,), each with the token after it.

    Raises:
        UserError: there are fewer than `steps` + 1 tokens.
    """
    if len(tokens) <= steps:
        raise UserError(
            f"There are {len(tokens):,} tokens in {origin}, and --steps {steps} needs {steps + 1:,}: "
            + (f"give a longer text, or --steps {len(tokens) - 1} at most." if len(tokens) > 2 else "give a longer text.")
        )
    starts = evenly_drawn((len(tokens) - 1) // steps, most) * steps
    cut = torch.from_numpy(np.stack([np.asarray(tokens[start : start + steps + 1], dtype=np.int64) for start in starts]))
    return Rows(cut[:, :-1], cut[:, 1:], origin)


def texts_with_classes(examples: EncodedExamples, steps: int, most: int, origin: str) -> Rows:
    """The first `steps` tokens of at most `most` texts that have so many.

    Raises:
        UserError: no text is that long.
    """
    lengths = np.array([len(row) for row in examples.inputs])
    long_enough = np.flatnonzero(lengths >= steps)
    if not len(long_enough):
        raise UserError(
            f"The longest text of {origin} has {lengths.max():,} tokens, fewer than --steps {steps}; give --steps {lengths.max()} at most."
        )
    chosen = long_enough[evenly_drawn(len(long_enough), most)]
    ids = np.stack([examples.inputs[row][:steps] for row in chosen])
    return Rows(torch.from_numpy(ids), torch.from_numpy(np.array([int(examples.labels[row]) for row in chosen])), origin)


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a given text. Raises `UserError` if it is empty or has characters that the tokenizer does not know."""
    if not text.strip():
        raise UserError("The text is empty, so no gradient can be measured on it; give one, or leave --text out for the model's own data.")
    check_encodable(tokenizer, text)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def read_text_of(data: str, split: str) -> str:
    """The first characters of a file, folder or source of running text; of a source with splits of its own, of `split`.

    Raises:
        UserError: there is no such file and no such source, or it cannot be read.
    """
    if data not in SOURCES and not os.path.exists(data):
        raise UserError(f"There is neither a file nor a source {data!r}; give a path or one of: {', '.join(SOURCES)}.{nearest(data, SOURCES)}")
    section = DataSection(source=data) if data in SOURCES else DataSection(source="text", path=data)
    splits = load_corpus(section).splits
    text = ""
    for piece in splits.get(split, splits["train"])():
        text += piece.text
        if len(text) >= MOST_CHARACTERS:
            break
    return text[:MOST_CHARACTERS]
