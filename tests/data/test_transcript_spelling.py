"""Transcripts in the case of a tokenizer, and the characters that it cannot write."""

import json

import numpy as np
import pytest
from transformers import Wav2Vec2CTCTokenizer

from hflab.data.speech_preparation import character_tokenizer
from hflab.data.transcript_spelling import encode_texts, spelling, unknown_characters
from hflab.recipe import ProcessorSection


@pytest.fixture
def make(tmp_path):
    def tokenizer(letters, **arguments):
        vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        return Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **arguments)

    return tokenizer


@pytest.mark.parametrize(
    ("letters", "arguments", "spelled"),
    [
        ("ABC'", {}, "ABBA CAB'S"),
        ("abc'", {}, "abba cab's"),
        ("aAbBcC", {}, "Abba cab's"),
        ("ABC", {"do_lower_case": True}, "Abba cab's"),  # the tokenizer itself makes capitals of it
        ("零一二", {}, "Abba cab's"),
    ],
)
def test_the_case_is_that_of_the_vocabulary(make, letters, arguments, spelled):
    assert spelling(make(letters, **arguments))("Abba cab's") == spelled


@pytest.mark.parametrize(("letters", "arguments"), [("ABC", {}), ("abc", {}), ("ABC", {"do_lower_case": True})])
def test_texts_of_any_case_have_the_same_ids(make, letters, arguments):
    tokenizer = make(letters, **arguments)
    expected = [[5, 6, 4, 7], [7]]
    for texts in (["ab c", "c"], ["AB C", "C"], ["aB c", "C"]):
        found = encode_texts(texts, tokenizer)
        assert [ids.tolist() for ids in found] == expected
        assert all(ids.dtype == np.int64 for ids in found)


def test_unknown_characters_are_counted_as_they_stand_in_the_texts(make):
    assert unknown_characters(["abé a", "éÉ", "z"], make("ABC")) == {"é": 2, "É": 1, "z": 1}
    assert not unknown_characters(["ab ba"], make("abc"))
    assert not unknown_characters(["héllo wörld"], character_tokenizer(["héllo wörld"], ProcessorSection()))
