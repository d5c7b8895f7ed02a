import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hflab.data.example_encoding import EncodingLimits, encode_split, prepare_examples, train_on_examples
from hflab.data.examples import load_examples
from hflab.data.processors import TOKENIZERS
from hflab.errors import UserError
from hflab.recipe import DataSection, ProcessorSection

PAIRS = "\n".join(f'{{"source": "the cat {number} sat", "target": "K AE{number} T"}}' for number in range(40))
TEXTS = "\n".join(f'{{"text": "word{number} and so on, said Ann", "label": "{"xy"[number % 2]}"}}' for number in range(40))
WORDS = "\n".join(f'{{"tokens": ["Ann", "saw", "New York", "{number}"], "labels": ["P", "O", "L", "O"]}}' for number in range(40))
LIMITS = EncodingLimits(max_source_tokens=50)


@pytest.fixture
def corpus(write):
    def corpus(content, task):
        return load_examples(DataSection(source="examples", path=write("rows.jsonl", content)), task)

    return corpus


def bert_like():
    """A tokenizer of words in lower case that frames every text with cls and sep, as BERT's does."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["ann", "saw", "new", "york", "and", "so", "on", "said", "word", "the", "cat", "sat"], ","]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_sources_and_targets_end_with_eos_and_decode_to_themselves(corpus, kind):
    pairs = corpus(PAIRS, "seq2seq")
    tokenizer = train_on_examples(pairs, ProcessorSection(tokenizer=kind, vocab_size=300))
    encoded = encode_split(pairs, "train", tokenizer, LIMITS)
    assert len(encoded) == pairs.splits["train"].num_rows > 25
    assert encoded.num_cut == 0
    for row, source, target in zip(pairs.splits["train"], encoded.inputs, encoded.labels, strict=True):
        for ids, text in ((source, row["source"]), (target, row["target"])):
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids[:-1].tolist()) == text
            assert (ids == tokenizer.eos_token_id).sum() == 1


def test_the_tokenizer_knows_sources_and_targets_of_the_training_rows_alone(corpus):
    pairs = corpus(PAIRS, "seq2seq")
    vocabulary = train_on_examples(pairs, ProcessorSection(tokenizer="symbols")).get_vocab()
    assert {"the", "cat", "sat", "K", "T"} < set(vocabulary)
    held_out = {target.split()[1] for target in pairs.splits["validation"]["target"]}
    assert held_out
    assert not held_out & set(vocabulary)


def test_eos_that_a_tokenizer_adds_itself_is_not_doubled(corpus):
    encoded = encode_split(corpus(PAIRS, "seq2seq"), "train", bert_like(), LIMITS)
    for ids in encoded.inputs + encoded.labels:
        assert ids[0] == 2
        assert (ids == 3).sum() == 1
        assert ids[-1] == 3


def test_texts_have_the_tokenizers_own_special_tokens_and_the_class(corpus):
    texts = corpus(TEXTS, "text_classification")
    framed = encode_split(texts, "train", bert_like(), LIMITS)
    assert framed.inputs[0].tolist() == [2, 1, 8, 9, 10, 16, 11, 4, 3]
    assert [int(label) for label in framed.labels] == texts.splits["train"]["label"][:]
    tokenizer = train_on_examples(texts, ProcessorSection(tokenizer="character"))
    plain = encode_split(texts, "train", tokenizer, LIMITS)
    assert tokenizer.decode(plain.inputs[0].tolist()) == texts.splits["train"]["text"][0]


@pytest.mark.parametrize("kind", [*TOKENIZERS, "bert"])
def test_the_first_token_of_a_word_has_its_class_and_the_tokens_are_those_of_the_text(corpus, kind):
    words = corpus(WORDS, "token_classification")
    tokenizer = bert_like() if kind == "bert" else train_on_examples(words, ProcessorSection(tokenizer=kind, vocab_size=300))
    encoded = encode_split(words, "train", tokenizer, LIMITS)
    for row, ids, labels in zip(words.splits["train"], encoded.inputs, encoded.labels, strict=True):
        assert ids.tolist() == tokenizer.encode(" ".join(row["tokens"]))
        assert ids.shape == labels.shape
        classes = labels[labels != -100].tolist()
        assert classes == row["labels"]
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        first = {"character": "A", "byte_bpe": tokens[0]}.get(kind, "ann" if kind == "bert" else "Ann")
        assert tokens[labels.tolist().index(row["labels"][0])] == first
        if kind == "character":  # each letter is a token, and a space is of no word
            expected = [f"{word[0]}" for word in row["tokens"]]
            assert [token for token, label in zip(tokens, labels, strict=True) if label != -100] == expected


def test_what_is_longer_than_the_limit_is_cut_and_counted(corpus, caplog):
    pairs = corpus(PAIRS, "seq2seq")
    tokenizer = train_on_examples(pairs, ProcessorSection(tokenizer="symbols"))
    encoded = encode_split(pairs, "train", tokenizer, EncodingLimits(max_source_tokens=4, max_target_tokens=3))
    assert encoded.num_cut == 2 * len(encoded)
    assert "longer than 4 tokens and were cut" in caplog.text
    assert {len(ids) for ids in encoded.inputs} == {4}
    assert {len(ids) for ids in encoded.labels} == {3}
    assert all(ids[-1] == tokenizer.eos_token_id for ids in encoded.inputs + encoded.labels)
    framed = encode_split(corpus(TEXTS, "text_classification"), "train", bert_like(), EncodingLimits(max_source_tokens=5))
    assert framed.inputs[0].tolist() == [2, 1, 8, 9, 3]
    words = encode_split(corpus(WORDS, "token_classification"), "train", bert_like(), EncodingLimits(max_source_tokens=4))
    assert (words.inputs[0].tolist(), words.labels[0].tolist()) == ([2, 4, 5, 3], [-100, 2, 1, -100])
    plain = encode_split(corpus(TEXTS, "text_classification"), "train", tokenizer, EncodingLimits(max_source_tokens=3))
    assert plain.num_cut == len(plain)
    assert {len(ids) for ids in plain.inputs} == {3}


def test_a_text_without_any_token_is_eos_alone(write):
    content = "\n".join(f'{{"text": "\\u3000x{number}", "label": "{"xy"[number % 2]}"}}' for number in range(40))
    texts = load_examples(DataSection(source="examples", path=write("rows.jsonl", content)), "text_classification")
    tokenizer = bert_like()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(".", "")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(character, "") for character in "x\u30000123456789"])
    tokenizer.backend_tokenizer.post_processor = None
    assert {tuple(ids.tolist()) for ids in encode_split(texts, "train", tokenizer, LIMITS).inputs} == {(tokenizer.eos_token_id,)}


def test_limits_without_room_are_refused(corpus):
    with pytest.raises(UserError, match=r"At most 3 tokens.* at least 4"):
        encode_split(corpus(TEXTS, "text_classification"), "train", bert_like(), EncodingLimits(max_source_tokens=3))


@pytest.mark.parametrize(("content", "task"), [(PAIRS, "seq2seq"), (TEXTS, "text_classification"), (WORDS, "token_classification")])
def test_prepared_examples_have_every_split_and_true_facts(write, content, task):
    data = DataSection(source="examples", path=write("rows.jsonl", content), test_fraction=0.2)
    prepared = prepare_examples(data, ProcessorSection(tokenizer="symbols"), task, EncodingLimits(max_source_tokens=6))
    facts = json.loads(json.dumps(prepared.facts))
    assert facts["fingerprint"] == prepared.corpus.fingerprint
    assert set(prepared.splits) == set(facts["splits"]) == {"train", "validation", "test"}
    for name, encoded in prepared.splits.items():
        assert len(encoded) == prepared.corpus.splits[name].num_rows == facts["splits"][name]["rows"]
        assert facts["splits"][name]["tokens"] == sum(len(row) for row in encoded.inputs)
        assert facts["splits"][name]["rows_cut"] == encoded.num_cut


def test_a_tokenizer_at_hand_is_used_and_pads_with_eos_where_it_has_no_padding(write):
    data = DataSection(source="examples", path=write("rows.jsonl", TEXTS))
    tokenizer = bert_like()
    tokenizer.pad_token = None
    prepared = prepare_examples(data, ProcessorSection(tokenizer="nonsense"), "text_classification", LIMITS, tokenizer)
    assert prepared.tokenizer is tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no eos token"):
        prepare_examples(data, ProcessorSection(), "text_classification", LIMITS, tokenizer)


def test_a_wrong_tokenizer_shows_before_any_reading(write):
    data = DataSection(source="examples", path="no such file")
    with pytest.raises(UserError, match="Did you mean 'symbols'"):
        prepare_examples(data, ProcessorSection(tokenizer="symbol"), "seq2seq", LIMITS)
