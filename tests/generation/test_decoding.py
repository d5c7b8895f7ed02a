import random

import pytest
from transformers import ByT5Tokenizer

from hflab.data.processors import TOKENIZERS, build_tokenizer
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.generation.decoding import IncrementalDecoder, StopFilter
from hflab.recipe import ProcessorSection

# ruff: noqa: RUF001 - Chinese text has Chinese punctuation
TEXT = "春眠不觉晓，处处闻啼鸟 🐦。\nShall I compare thee? Élan 👨‍👩‍👧!\n\n  two  spaces"


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def tokenizer_and_text(request):
    """A tokenizer, and a text that its tokens spell exactly: symbols stand one space apart."""
    text = " ".join(TEXT.split() * 2) if request.param == "symbols" else TEXT
    return build_tokenizer(ProcessorSection(tokenizer=request.param), [Piece(0, TEXT)]), text


def test_pieces_spell_the_text_from_any_token_on(tokenizer_and_text):
    tokenizer, text = tokenizer_and_text
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) > 10
    for start in range(len(tokens)):
        decoder = IncrementalDecoder(tokenizer, tokens[:start])
        spelt = "".join(decoder.push(token) for token in tokens[start:])
        assert text.endswith(spelt)
        if tokenizer.decode(tokens[:start]) + spelt != text:
            assert "\ufffd" in tokenizer.decode(tokens[:start])  # the context ended inside a character, which the next piece completes
            assert tokenizer.decode(tokens[:start]).rstrip("\ufffd") + spelt == text


def test_every_piece_is_whole_characters_and_comes_at_once():
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=258), [Piece(0, "x")])  # every byte a token
    decoder = IncrementalDecoder(tokenizer, [])
    pieces = [decoder.push(token) for token in tokenizer("a晓🐦b")["input_ids"]]
    assert pieces == ["a", "", "", "晓", "", "", "", "🐦", "b"]


def test_bytes_that_are_no_character_are_dropped():
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=258), [Piece(0, "x")])
    bird, a = tokenizer("🐦")["input_ids"], tokenizer("a")["input_ids"]
    decoder = IncrementalDecoder(tokenizer, [])
    assert "".join(decoder.push(token) for token in [*bird[:2], *a, bird[3], *bird, *a]) == "a🐦a"


def test_random_bytes_never_show_a_replacement_character():
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=258), [Piece(0, "x")])
    generator = random.Random(0)
    decoder = IncrementalDecoder(tokenizer, [])
    text = "".join(decoder.push(generator.randrange(2, len(tokenizer))) for _ in range(3000))
    assert len(text) > 100
    assert "\ufffd" not in text


def test_special_tokens_have_no_text(tokenizer_and_text):
    tokenizer, text = tokenizer_and_text
    decoder = IncrementalDecoder(tokenizer, [])
    tokens = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"], tokenizer.pad_token_id]
    assert "".join(decoder.push(token) for token in tokens) == text


def test_tokenizer_written_in_python_is_refused():
    with pytest.raises(UserError, match=r"ByT5Tokenizer .* tokenizer\.json"):
        IncrementalDecoder(ByT5Tokenizer(), [])


@pytest.mark.parametrize("seed", range(60))
def test_stop_filter_cuts_where_a_search_of_the_whole_text_does(seed):
    generator = random.Random(seed)
    text = "".join(generator.choices("ab", k=generator.randrange(30)))
    stops = ["".join(generator.choices("ab", k=generator.randrange(1, 6))) for _ in range(generator.randrange(3))]
    expected = text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]
    stop_filter, shown, read = StopFilter(stops), "", 0
    while read < len(text) and not stop_filter.stopped:
        size = generator.randrange(4)
        shown += stop_filter.push(text[read : read + size])
        read += size
        assert expected.startswith(shown)
        held = text[len(shown) : read]
        assert stop_filter.stopped or not held or any(stop.startswith(held) for stop in stops)  # no more is held than must be
    assert stop_filter.stopped == any(stop in text for stop in stops)
    assert shown + stop_filter.flush() == expected
