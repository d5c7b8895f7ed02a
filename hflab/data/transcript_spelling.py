"""Transcripts in the letters of a tokenizer, and what of them it cannot write.

    spell = spelling(tokenizer)
    spell("hello")     # "HELLO", for facebook/wav2vec2-base-960h

The case is decided by the vocabulary alone, so that training and every later evaluation agree. Knows nothing about sound and models.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase


def spelling(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """From a transcript to the letters that the tokenizer knows: capitals if it has no small ones, and the other way round; else as they are.

    A tokenizer with `do_lower_case` sees to it by itself.
    """
    special = set(tokenizer.all_special_tokens)
    letters = [token for token in tokenizer.get_vocab() if token not in special]
    has_capitals, has_small = (any(token != other(token) for token in letters) for other in (str.lower, str.upper))
    if getattr(tokenizer, "do_lower_case", False) or has_capitals == has_small:
        return str
    return str.upper if has_capitals else str.lower


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The token ids of each text, (L,) int64, in the tokenizer's own case."""
    spell = spelling(tokenizer)
    return [np.asarray(tokenizer(spell(text), add_special_tokens=False)["input_ids"], dtype=np.int64) for text in texts]


def unknown_characters(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Counter[str]:
    """How often each character occurs that the tokenizer cannot write."""
    counts = Counter(character for text in texts for character in text)
    encoded = zip(counts.items(), encode_texts(list(counts), tokenizer), strict=True)
    return Counter({character: count for (character, count), ids in encoded if tokenizer.unk_token_id in ids})
