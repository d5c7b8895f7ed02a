import sys
import unicodedata

import pytest

from hflab.speech.text_normalization import LARGEST_SPELT, NORMALIZERS, cardinal, ordinal

EXAMPLES = {
    "none": {"  Hello,\n world! ": "Hello, world!", "": ""},
    "basic": {
        "Hello,  World!": "hello world",
        "Don\u2019t 'quote' the dogs' rock\u2018n\u2019roll": "don't quote the dogs rock'n'roll",
        "well-known e-mail_address": "well known e mail address",
        "\uff21\uff22\uff23 \ufb01ne \u2026 $5 \N{GRINNING FACE}": "abc fine 5",
        "co\u00adoperate \ufeffnow": "cooperate now",
        "Stra\u00dfe \u00c9te\u0301": "stra\u00dfe \u00e9t\u00e9",
        "l\uff07homme": "l'homme",
        "\u0939\u093f\u0928\u094d\u0926\u0940\u0964": "\u0939\u093f\u0928\u094d\u0926\u0940",  # vowel signs stay, the full stop goes
        "...": "",
        "": "",
    },
    "english": {
        "It\u2019s the 2nd, isn't it?": "it's the second isn't it",
        "AT&T and R & B": "at and t and r and b",
        "12 men, 105 women, 1,234,500 ants.": "twelve men one hundred five women one million two hundred thirty four thousand five hundred ants",
        "3.14 or 50% or 0.5 %": "three point one four or fifty percent or zero point five percent",
        "the 21st, 112th, 1,000th and 13th": "the twenty first one hundred twelfth one thousandth and thirteenth",
        "22th 1990s 5kg v2.0 2nd": "22th 1990s 5kg v2 zero second",
        "agent 007 at 10:05": "agent zero zero seven at ten zero five",
        "1,2,3 and 1.2.3 and 10,000,00": "one two three and one two three and ten zero zero zero zero zero",
        "1234567890 1,234,567,890": "1234567890 1234567890",
        "1984": "one thousand nine hundred eighty four",
        "\uff11\uff12": "twelve",
        "Wait...5.": "wait five",
    },
    "characters": {
        "\u4eca\u5929\u3001 \u5929\u6c14 \u597d\uff01": "\u4eca\u5929\u5929\u6c14\u597d",
        "it's \uff21": "itsa",
        "": "",
    },
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_examples(name):
    assert EXAMPLES[name]
    for text, expected in EXAMPLES[name].items():
        assert NORMALIZERS[name].normalize(text) == expected


@pytest.mark.parametrize("name", NORMALIZERS)
def test_done_twice_is_done_once_for_every_character(name):
    """Every code point outside the large blocks of one kind, side by side and between a letter and an apostrophe."""
    normalize = NORMALIZERS[name].normalize
    signs = [chr(point) for block in (range(0x3500), range(0xF900, 0x11000), range(0x1D000, 0x1FB00)) for point in block]
    for text in ("".join(signs), "a'".join(signs)):
        once = normalize(text)
        assert normalize(once) == once


@pytest.mark.parametrize("name", NORMALIZERS)
def test_words_are_those_of_the_normalised_text(name):
    normalizer = NORMALIZERS[name]
    text = "The 3 cats, it\u2019s said: \u4eca\u5929!"
    words = normalizer.words(text)
    assert normalizer.summary.endswith(".")
    assert (" " if normalizer.is_spaced else "").join(words) == normalizer.normalize(text)
    assert normalizer.words(" \n ") == []


def test_no_punctuation_is_left():
    signs = "".join(chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point))[0] in "PS")
    assert len(signs) > 1000
    for name in ("basic", "english", "characters"):
        assert {unicodedata.category(sign)[0] for sign in NORMALIZERS[name].normalize(signs)} <= {"L", "M", "N", "Z"}


def value(words):
    """The number that words spell, read the other way round."""
    small = {cardinal(number): number for number in [*range(20), *range(20, 100, 10)]}
    total = part = 0
    for word in words.split():
        if word in ("thousand", "million"):
            total, part = total + part * {"thousand": 1_000, "million": 1_000_000}[word], 0
        else:
            part = part * 100 if word == "hundred" else part + small[word]
    return total + part


def test_numbers_read_back_are_the_numbers():
    numbers = [*range(3000), *range(3000, LARGEST_SPELT, 123_457), 10**6, 10**6 + 1, LARGEST_SPELT]
    assert len(numbers) > 10_000
    assert [value(cardinal(number)) for number in numbers] == numbers
    assert len({cardinal(number) for number in numbers}) == len(numbers)
    assert cardinal(0) == "zero"
    assert cardinal(999_000_019) == "nine hundred ninety nine million nineteen"
    for number in (-1, LARGEST_SPELT + 1):
        with pytest.raises(ValueError, match="not spelt out"):
            cardinal(number)


def test_ordinals():
    expected = {0: "zeroth", 1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth", 20: "twentieth"}
    expected |= {14: "fourteenth", 33: "thirty third", 100: "one hundredth", 1_000_000: "one millionth", 41_000: "forty one thousandth"}
    assert {number: ordinal(number) for number in expected} == expected
