import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hflab.data import encoding
from hflab.data.encoding import Chunk, chunk_documents, cuts_keep_tokens, encode_documents, is_character_tokenizer
from hflab.data.processors import TOKENIZERS, build_tokenizer
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.recipe import ProcessorSection

WORDS = ["½", "it's", "we'll", "café", "cafe\u0301", "12,345", "x_y", "don''t", "(so)", "...", "—", "\U0001f600", "\U0001f468\u200d", "<eos>"]
SPACES = [" ", "  ", "\n", "\n\n", " \n", "\t", "\u3000", "\xa0 ", "\u2028", "\r", ""]
IDEOGRAPHS = ["我们去了北京", "。", "!", "\uff0c", "ひらがな", "カタカナ", "、", "今天", "?"]


def random_text(generator, length):
    return "".join(generator.choice(WORDS) + generator.choice(SPACES) + generator.choice(["", *IDEOGRAPHS]) for _ in range(length))


def pieces_of(documents, generator):
    """Documents in pieces of random lengths."""
    for number, text in enumerate(documents):
        start = 0
        while start < len(text):
            stop = start + generator.randint(1, 300)
            yield Piece(number, text[start:stop])
            start = stop


def cl100k_like(text):
    """A byte-level tokenizer with the words of later models, which join punctuation with the line's end."""
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<eos>"], initial_alphabet=byte_level.alphabet(), show_progress=False)
    backend.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def tokenizers(generator):
    text = random_text(generator, 2000)
    made = {kind: build_tokenizer(ProcessorSection(tokenizer=kind, vocab_size=400), [Piece(0, text)]) for kind in TOKENIZERS}
    return {**made, "cl100k": cl100k_like(text)}


def encode_whole(tokenizer, documents):
    return [token for text in documents for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]]


def encode_chunked(tokenizer, pieces):
    return np.concatenate([block.tokens for block in encode_documents(tokenizer, pieces)]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_chunked_is_whole(seed, monkeypatch):
    generator = random.Random(seed)
    monkeypatch.setattr(encoding, "BLOCK_CHARACTERS", 500)
    monkeypatch.setattr(encoding.chunk_documents, "__defaults__", (generator.choice([16, 40, 100]),))
    documents = [random_text(generator, generator.choice([1, 10, 300])) for _ in range(20)]
    for name, tokenizer in tokenizers(generator).items():
        assert cuts_keep_tokens(tokenizer) == (name != "symbols"), name  # symbols end at white space alone: their documents stay whole
        assert encode_chunked(tokenizer, pieces_of(documents, generator)) == encode_whole(tokenizer, documents), name


def test_chunks_are_about_the_size_asked_for_and_make_up_the_documents():
    generator = random.Random(0)
    documents = [random_text(generator, 500), "short", "我们去了北京。今天\uff0c" * 400]
    chunks = list(chunk_documents(pieces_of(documents, generator), size=200))
    assert "".join(chunk.text for chunk in chunks) == "".join(documents)
    assert sum(chunk.ends_document for chunk in chunks) == 3
    assert max(len(chunk.text) for chunk in chunks) <= 200
    assert len(chunks) < 1.5 * len("".join(documents)) / 200


def test_a_run_without_a_place_to_cut_grows_to_its_limit_only(monkeypatch):
    monkeypatch.setattr(encoding, "LONGEST_RUN", 1000)
    chunks = list(chunk_documents((Piece(0, "a" * 70) for _ in range(50)), size=100))
    assert [len(chunk.text) for chunk in chunks] == [1000, 1000, 1000, 500]
    assert list(chunk_documents([Piece(0, "a" * 150 + " b")], size=100)) == [Chunk("a" * 150, False), Chunk(" b", True)]


@pytest.mark.parametrize("seed", range(3))
def test_the_character_table_is_the_tokenizer(seed, tmp_path):
    generator = random.Random(seed)
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="character"), [Piece(0, random_text(generator, 200))])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    documents = [random_text(generator, 100) + "<eos><unk>未知\r\n\x00", "日本"]
    for each in (tokenizer, loaded):
        assert is_character_tokenizer(each)
        blocks = list(encode_documents(each, pieces_of(documents, generator)))
        assert np.concatenate([block.tokens for block in blocks]).tolist() == encode_whole(each, documents)
        assert sum(block.num_unknown for block in blocks) == sum(each.encode(text).count(each.unk_token_id) for text in documents) > 0


def test_other_tokenizers_are_no_character_tokenizers():
    made = tokenizers(random.Random(0))
    assert [name for name, tokenizer in made.items() if is_character_tokenizer(tokenizer)] == ["character"]
    made["character"].split_special_tokens = False  # then "<eos>" in a text is one token
    assert not is_character_tokenizer(made["character"])


def test_counts_are_those_of_the_text():
    generator = random.Random(1)
    documents = [random_text(generator, 50) for _ in range(30)]
    for tokenizer in tokenizers(generator).values():
        blocks = list(encode_documents(tokenizer, pieces_of(documents, generator)))
        assert sum(block.num_characters for block in blocks) == len("".join(documents))
        assert sum(block.num_bytes for block in blocks) == len("".join(documents).encode())
        assert sum(block.num_documents for block in blocks) == len(documents)
        assert all(block.tokens.dtype == np.uint16 for block in blocks)


def test_a_vocabulary_beyond_uint16_takes_uint32():
    backend = Tokenizer(models.WordLevel({"<eos>": 0, **{str(i): i + 1 for i in range(2**16)}}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    (block,) = encode_documents(tokenizer, [Piece(0, "5 65535")])
    assert block.tokens.tolist() == [6, 65536, 0]
    assert block.tokens.dtype == np.uint32


def marking_beginnings():
    """A tokenizer that puts a mark before every text it is given, so that parts have other tokens than the whole."""
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "_": 1, "a": 2, " ": 3}, unk_token="<eos>"))
    backend.normalizer = normalizers.Prepend("_")
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_a_tokenizer_that_marks_beginnings_gets_whole_documents(monkeypatch):
    tokenizer = marking_beginnings()
    assert not cuts_keep_tokens(tokenizer)
    documents = ["a aa " * 5000, "a"]
    assert encode_chunked(tokenizer, pieces_of(documents, random.Random(0))) == encode_whole(tokenizer, documents)
    monkeypatch.setattr(encoding, "LONGEST_WHOLE_DOCUMENT", 1000)
    with pytest.raises(UserError, match=r"more than 1,000 characters.*byte_bpe"):
        encode_chunked(tokenizer, pieces_of(documents, random.Random(0)))


def test_a_long_text_brings_no_warning_about_the_models_length(caplog):
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=300), [Piece(0, "a b c")])
    tokenizer.model_max_length = 4
    tokenizer.backend_tokenizer.enable_truncation(4)  # as some tokenizers are saved
    tokenizer.backend_tokenizer.enable_padding(length=4)
    assert len(encode_chunked(tokenizer, [Piece(0, "a b c " * 100), Piece(1, "a")])) > 300
    assert not caplog.records
