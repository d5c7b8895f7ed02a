"""How transcripts are made comparable before their errors are counted: each way has a name, and every report states it.

    NORMALIZERS["english"].words("It's the 2nd, isn't it?")  # ["it's", "the", "second", "isn't", "it"]

Error rates under different normalisers do not compare. A new way is a function and a line in NORMALIZERS. This module knows texts only, nothing
about error rates, models or data sets.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

LARGEST_SPELT = 999_999_999
APOSTROPHES = "'\u2018\u2019"  # straight, and the two curly ones; NFKC makes the full-width one straight
SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((1_000_000, "million"), (1_000, "thousand"))
IRREGULAR_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}

START_OF_NUMBER = r"(?<!\w)(?<![0-9][.,])"  # not inside a word, and not after the comma or point of a number
GROUPED = re.compile(START_OF_NUMBER + r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])")
DECIMAL = re.compile(START_OF_NUMBER + r"([0-9]+)\.([0-9]+)(?!\w|[.,][0-9])")
PERCENT = re.compile(r"(?<=[0-9])\s?%")
CARDINAL = re.compile(r"0|[1-9][0-9]{0,8}")
ORDINAL = re.compile(r"(0|[1-9][0-9]{0,8})(st|nd|rd|th)")
LEADING_ZEROS = re.compile(r"0[0-9]+")


@dataclass(frozen=True)
class Normalizer:
    """One way to make transcripts comparable."""

    normalize: Callable[[str], str]
    """From a transcript to the text whose characters are compared; done twice it gives the same as done once."""
    summary: str
    """What it does, as a sentence for reports."""
    is_spaced: bool = True
    """Whether spaces separate words; if not, every character is a word."""

    def words(self, text: str) -> list[str]:
        """Normalise `text` and return its words."""
        return self.cut(self.normalize(text))

    def cut(self, normalized: str) -> list[str]:
        """Return the words of a text that is normalised already."""
        return normalized.split() if self.is_spaced else list(normalized)


def unchanged(text: str) -> str:
    """Return `text` with white space made single and stripped, and nothing else changed."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Return `text` in lower case without punctuation, for any script whose words are separated by spaces.

    In this order: Unicode NFKC (so ligatures, full-width and superscript signs become plain: "ﬁ" "fi", "m²" "m2", "½" "1 2"); lower case;
    invisible format characters (category Cf, such as soft hyphens and joiners) removed; apostrophes between two letters, marks or digits made
    straight and kept; all other punctuation and symbols (categories P and S: hyphens, currency signs and emoji too) made spaces; white space made
    single and stripped. Accents and other marks stay.
    """
    return _without_punctuation(_folded(text))


def english(text: str) -> str:
    """Return what `basic` returns, with the English numbers and signs spelt out that can be read without knowing what is spoken about.

    Before punctuation goes: "&" becomes "and"; "1,000" becomes 1000; a point between digits becomes "point" with the digits after it read
    one by one (3.14 "three point one four"); "%" after a digit becomes "percent". After it, a word that is a number from 0 to 999,999,999 is spelt
    out (105 "one hundred five", without "and" or hyphens), as is an ordinal with its right ending (22nd "twenty second"), and a number
    with leading zeros is read digit by digit (007 "zero zero seven").

    Left as they are: larger numbers, and numbers joined to letters (1990s, 5kg). Contractions are not
    expanded, British and American spelling are not unified, and titles (Mr, Dr) are not written out. A year is read as a number (1984 "one
    thousand nine hundred eighty four"), a currency sign is dropped, "-5" is read "five" and "½" "one two": a reference that spells such
    things as they are spoken will count them as errors.
    """
    folded = _folded(text).replace("&", " and ")
    folded = GROUPED.sub(lambda found: found[0].replace(",", ""), folded)
    folded = DECIMAL.sub(lambda found: f"{found[1]} point {' '.join(found[2])}", folded)
    folded = PERCENT.sub(" percent ", folded)
    return " ".join(_spelt(word) for word in _without_punctuation(folded).split())


def characters(text: str) -> str:
    """Return `text` without spaces and punctuation, for scripts that do not separate words, such as Chinese: each character is a word.

    Unicode NFKC, lower case, then format characters, punctuation, symbols and white space (categories Cf, P, S) removed; also apostrophes. A
    character is a Unicode code point.
    """
    without_apostrophes = _folded(text).translate(dict.fromkeys(map(ord, APOSTROPHES)))
    return unicodedata.normalize("NFKC", "".join(_without_punctuation(without_apostrophes).split()))


NORMALIZERS: dict[str, Normalizer] = {
    "none": Normalizer(unchanged, "Nothing is changed but white space made single: case and punctuation count."),
    "basic": Normalizer(basic, "Unicode NFKC, lower case, punctuation and symbols made spaces except apostrophes inside words."),
    "english": Normalizer(
        english,
        "Unicode NFKC, lower case, punctuation and symbols made spaces except apostrophes inside words; & and % read as words, numbers up to "
        "999,999,999 and ordinals spelt out.",
    ),
    "characters": Normalizer(
        characters, "Unicode NFKC, lower case, punctuation, symbols and spaces removed; every character counts as a word.", is_spaced=False
    ),
}


def cardinal(number: int) -> str:
    """Return a number from 0 to `LARGEST_SPELT` in American English words, without "and" or hyphens. Raises `ValueError` outside."""
    if not 0 <= number <= LARGEST_SPELT:
        raise ValueError(f"The number {number} is not spelt out; give one from 0 to {LARGEST_SPELT}.")
    words = []
    for scale, name in SCALES:
        count, number = divmod(number, scale)
        words += [*_below_thousand(count), name] if count else []
    return " ".join(words + _below_thousand(number)) or SMALL[0]


def ordinal(number: int) -> str:
    """Return the ordinal of a number from 0 to `LARGEST_SPELT`: 21 is "twenty first". Raises `ValueError` outside."""
    *rest, last = cardinal(number).split()
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return " ".join([*rest, IRREGULAR_ORDINALS.get(last, regular)])


def _below_thousand(number: int) -> list[str]:
    """Words of a number from 0, which has none, to 999."""
    hundreds, number = divmod(number, 100)
    words = [SMALL[hundreds], "hundred"] if hundreds else []
    if number >= len(SMALL):
        tens, number = divmod(number, 10)
        words.append(TENS[tens])
    return [*words, SMALL[number]] if number else words


def _spelt(word: str) -> str:
    """A word as it is read if it is a number, else as it is."""
    if CARDINAL.fullmatch(word):
        return cardinal(int(word))
    if LEADING_ZEROS.fullmatch(word):
        return " ".join(SMALL[int(digit)] for digit in word)
    found = ORDINAL.fullmatch(word)
    return ordinal(int(found[1])) if found and found[2] == _ending(int(found[1])) else word


def _ending(number: int) -> str:
    """The letters that make digits an ordinal: 1st, 11th."""
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _folded(text: str) -> str:
    """NFKC in lower case without format characters; NFKC again, because lower case and what then stands side by side may come apart or together."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    return unicodedata.normalize("NFKC", "".join(sign for sign in lowered if unicodedata.category(sign) != "Cf"))


def _without_punctuation(text: str) -> str:
    """`text` with punctuation and symbols made spaces, apostrophes inside words made straight, white space made single."""
    neighbours = zip(f" {text}", text, f"{text[1:]} ", strict=False)
    return " ".join("".join(_kept(before, sign, after) for before, sign, after in neighbours).split())


def _kept(before: str, sign: str, after: str) -> str:
    """What becomes of `sign` between its neighbours."""
    if sign in APOSTROPHES:
        return "'" if _is_word_sign(before) and _is_word_sign(after) else " "
    return " " if unicodedata.category(sign)[0] in "PS" else sign


def _is_word_sign(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LMN"
