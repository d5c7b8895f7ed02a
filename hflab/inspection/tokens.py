"""What stands beside the rows and above the columns of a map: tokens, spelt so that a reader sees each of them.

    name_tokens(tokenizer, [464, 3797])       # Token("The", "text"), Token("␣cat", "text")

Knows nothing about models and pictures.
"""

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .maps import Token

SIGNS = {" ": "␣", "\u2581": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}  # U+2581 is the space of SentencePiece
BYTES = {sign: byte for byte, sign in bytes_to_unicode().items()}  # how byte-level tokenizers write bytes


def name_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[Token, ...]:
    """The tokens of `ids`, in their order. White space gets a sign; bytes that are no whole character are shown as hexadecimal numbers."""
    byte_level = tokenizer.is_fast and "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)
    added, special = tokenizer.get_added_vocab(), set(tokenizer.all_special_ids)
    tokens = []
    for number, piece in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        if number in special:
            tokens.append(Token(piece, "padding" if number == tokenizer.pad_token_id != tokenizer.eos_token_id else "special"))
        else:
            tokens.append(Token(_visible(_spell_bytes(piece) if byte_level and piece not in added else piece)))
    return tuple(tokens)


def _spell_bytes(piece: str) -> str:
    """The text of a byte-level token, or its bytes where they are no text by themselves."""
    raw = bytes(BYTES[sign] for sign in piece)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{raw.hex(' ').upper()}⟩"


def _visible(text: str) -> str:
    """`text` with a sign for white space, a code point for what has no shape, and a circle under a mark that has nothing to stand on."""
    shown = "".join(SIGNS.get(character, character if character.isprintable() else f"⟨U+{ord(character):04X}⟩") for character in text)
    return f"◌{shown}" if shown and unicodedata.combining(shown[0]) else shown or "⟨⟩"
