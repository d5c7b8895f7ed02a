"""From token ids, one at a time, to text that is certain: complete characters, and nothing that may belong to a stop string.

This module knows nothing about models.
"""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from ..errors import UserError

CONTEXT_TOKENS = 16  # tokens before the first one that decide how it is spelt: a space before a word, the first bytes of a character


class IncrementalDecoder:
    """Spells tokens as soon as they complete a character.

    A replacement character (U+FFFD) stands for bytes that are no character, and is never given out: bytes that later tokens may still
    complete are held, and bytes that can no longer become a character are dropped. Special tokens have no text.

    Args:
        tokenizer: a tokenizer of the `tokenizers` library.
        context: the tokens before the first that is pushed.

    Raises:
        UserError: the tokenizer is written in Python.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: Sequence[int]) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} cannot spell token by token; use a tokenizer that has a tokenizer.json.")
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        for token in context[-CONTEXT_TOKENS:]:
            self.push(token)

    def push(self, token: int) -> str:
        """Return the text that `token` makes certain; may be empty."""
        piece = self._stream.step(self._tokenizer, token)
        return piece.replace("\ufffd", "") if piece else ""


class StopFilter:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one.

    Args:
        stop_strings: none of them empty.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Return what of the held text and `text` is certain to lie before every stop string. Sets `stopped` at one."""
        self._held += text
        found = [index for stop in self._stop_strings if (index := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.flush()
        certain = len(self._held) - self._length_of_possible_stop()
        passed, self._held = self._held[:certain], self._held[certain:]
        return passed

    def flush(self) -> str:
        """Return the held text: nothing follows that could complete a stop string."""
        passed, self._held = self._held, ""
        return passed

    def _length_of_possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self._stop_strings)), 0)
