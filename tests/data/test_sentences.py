import json

import numpy as np
import pytest

from hflab.data.processors import build_tokenizer
from hflab.data.sentences import encode_sentences, from_lists, prepare_sentences, split_sentences
from hflab.data.sources import Piece
from hflab.recipe import ProcessorSection

CASES = [
    ["One.", " Two!", "  Three?", " Four"],
    ['He said "Go."', " Then he went.", ' "So?" asked she.'],
    ["Mr. Smith met Dr. J. R. Brown at 5 p.m. on Monday.", " He left."],
    ["It cost $3.50 in 1999.", " 20 came, e.g. Ann."],
    ["Wait... what?", " \u00c9tienne came."],
    ["A line\n\n", "  another line \n", "last"],
    ["\n A line.\n", "Another. \n", "last \n\n"],
    ["我爱机器。", "你呢\uff1f", "\u201c好\uff01\u201d", "他说\uff1b", "走了"],
    ["中文。", "English.", " 再见。"],
    ["\n \n"],
    [],
]


@pytest.mark.parametrize("sentences", CASES)
def test_sentences_end_where_the_rules_say_and_concatenate_to_the_text(sentences):
    assert split_sentences("".join(sentences)) == sentences


def test_lists_are_laid_end_to_end_and_empty_ones_left_out():
    found = from_lists([[[1, 2], [], [3]], [], [[]], [[4, 5, 6]]])
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.sentence_starts.tolist() == [0, 2, 3, 6]
    assert found.document_starts.tolist() == [0, 3, 6]
    assert from_lists([]).document_starts.tolist() == [0]


@pytest.mark.parametrize("kind", ["byte_bpe", "word", "character"])
def test_documents_of_a_stream_become_sentences_of_tokens_whatever_the_pieces(kind):
    texts = ["One is here. Two is there! And three", "我爱机器。你呢。", "x"]
    tokenizer = build_tokenizer(ProcessorSection(tokenizer=kind, vocab_size=300), [Piece(0, "\n".join(texts))])
    split = [split_sentences(text) for text in texts]
    assert tokenizer("".join(texts))["input_ids"] == [token for sentences in split for sentence in sentences for token in tokenizer.encode(sentence)]
    expected = from_lists([[tokenizer.encode(sentence) for sentence in sentences] for sentences in split])
    for size in (1, 5, 100):
        pieces = [Piece(number, text[start : start + size]) for number, text in enumerate(texts) for start in range(0, len(text), size)]
        found = encode_sentences(pieces, tokenizer)
        for name in ("tokens", "sentence_starts", "document_starts"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert len(expected.sentence_starts) - 1 == 6


def test_prepared_sentences_are_those_of_the_splits_and_their_facts_are_true(own_text):
    rows = [f"Row {number} begins. It ends!\n" for number in range(60)]
    data = own_text("\n".join(json.dumps({"text": row}) for row in rows), "rows.jsonl", split_by="document", license="cc0-1.0")
    prepared = prepare_sentences(data, ProcessorSection(tokenizer="byte_bpe", vocab_size=300))
    facts = json.loads(json.dumps(prepared.facts))
    assert (facts["license"], facts["origin"], len(facts["fingerprint"])) == ("cc0-1.0", "rows.jsonl", 64)
    texts = []
    for name, split in prepared.splits.items():
        counts = facts["splits"][name]
        documents = len(split.document_starts) - 1
        text = prepared.tokenizer.decode(split.tokens.tolist())
        assert (counts["documents"], counts["sentences"], counts["tokens"]) == (documents, 2 * documents, len(split.tokens))
        assert counts["characters"] == counts["bytes"] == len(text)
        assert counts["sample"] == text[:200]
        texts += text.splitlines(keepends=True)
    assert sorted(texts) == sorted(rows)
    assert prepared.tokenizer.mask_token_id is not None


def test_unknown_tokens_are_counted(own_text):
    prepared = prepare_sentences(own_text("aaaa. " * 60 + "bbbb. " * 20, validation_fraction=0.25), ProcessorSection())
    assert prepared.facts["splits"]["train"]["unknown_tokens"] == 0
    assert prepared.facts["splits"]["validation"]["unknown_tokens"] == 80
