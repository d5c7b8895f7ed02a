import json
import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hflab.data import processors
from hflab.data.processors import TOKENIZERS, build_tokenizer, check_encodable, with_masked_lm_tokens
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.recipe import ProcessorSection

ENGLISH = "It's a test, isn't it?  Two  spaces,\ttabs\nand 3 lines; snake_case 12,345.\n\n"
CHINESE = "我们去了北京。今天天气很好!ひらがなとカタカナ、\u3000全角\n"
OTHER = (
    "caf\u00e9 cafe\u0301 na\u00efve \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u202eR\u05ea \x7f\r\nCR\rLF\u2028"
    "<eos> <unk> <pad> <|endoftext|>"
)
TEXT = ENGLISH + CHINESE + OTHER
OF_TEXT = [kind for kind in TOKENIZERS if kind != "symbols"]  # which keep white space


def build(kind, text=TEXT, **keys):
    return build_tokenizer(ProcessorSection(tokenizer=kind, **keys), [Piece(0, text)])


@pytest.mark.parametrize("kind", OF_TEXT)
def test_known_text_comes_back_from_a_saved_tokenizer_character_by_character(kind, tmp_path):
    tokenizer = build(kind)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, ENGLISH, CHINESE, OTHER, "", " ", "\n", "  3", " cafe\u0301"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == text
        assert not set(ids) & set(tokenizer.all_special_ids)
    assert not loaded.clean_up_tokenization_spaces


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_come_first_and_are_added_by_nobody(kind):
    tokenizer = build(kind)
    assert tokenizer.eos_token == tokenizer.bos_token == "<eos>"
    assert tokenizer.eos_token_id == 0
    assert sorted(tokenizer.all_special_ids) == list(range(len(set(tokenizer.all_special_ids))))
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
    assert len(tokenizer) == tokenizer.vocab_size == max(tokenizer.get_vocab().values()) + 1
    assert tokenizer.decode([0, *tokenizer.encode("It's")], skip_special_tokens=True) == "It's"


def test_character_has_a_token_for_every_character_in_order():
    tokenizer = build("character")
    characters = sorted(set(TEXT))
    assert tokenizer.convert_ids_to_tokens(range(3, len(tokenizer))) == characters
    assert tokenizer.encode(characters[-1] + "\u4e01" + characters[0]) == [len(tokenizer) - 1, tokenizer.unk_token_id, 3]


@pytest.mark.parametrize(
    ("keys", "kept"),
    [({}, "abcde"), ({"vocab_size": 5}, "ab"), ({"min_frequency": 40}, "abc")],  # a 60, c 40, b 40, d and e 20: a tie goes to the lower code point
)
def test_character_counts_over_pieces_and_keeps_the_most_frequent(keys, kept):
    pieces = [Piece(number, "aaab" if number % 2 else "bccde") for number in range(40)]
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="character", **keys), pieces)
    assert tokenizer.convert_ids_to_tokens(range(3, len(tokenizer))) == list(kept)


def test_byte_bpe_writes_any_text():
    tokenizer = build("byte_bpe", "only a few letters", vocab_size=300)
    generator = random.Random(0)
    for _ in range(50):
        points = [generator.choice([generator.randrange(0xD800), generator.randrange(0xE000, 0x110000)]) for _ in range(30)]
        text = "".join(map(chr, points))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(UserError, match=r"processor\.vocab_size is 100; byte_bpe needs at least 258"):
        build("byte_bpe", vocab_size=100)


def test_word_takes_words_with_their_space_and_ideographs_singly():
    tokenizer = build("word", "Hello world, hello!  再见world_1\n")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("Hello world, hello!  再见world_1\n"))
    assert tokens == ["Hello", " world", ",", " hello", "!", " ", " ", "再", "见", "world_1", "\n"]
    assert tokenizer.encode("Hello planet") == [tokenizer.encode("Hello")[0], tokenizer.unk_token_id]


def test_symbols_are_what_white_space_separates(tmp_path):
    tokenizer = build("symbols", "b a  AE1\tB\nb <eos> \u3000IY0")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.convert_ids_to_tokens(range(len(loaded))) == ["<eos>", "<unk>", "<pad>", "AE1", "B", "IY0", "a", "b"]
    for text in ("b a", " b\n\nAE1\u3000 a ", ""):
        ids = tokenizer.encode(text)
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == " ".join(text.split())
        assert loaded.decode([0, *ids, 0, 2, 2], skip_special_tokens=True) == " ".join(text.split())
    assert loaded.encode("AE1 q") == [3, loaded.unk_token_id]


@pytest.mark.parametrize(("keys", "kept"), [({}, ["a", "b", "c", "d"]), ({"vocab_size": 5}, ["a", "c"]), ({"min_frequency": 3}, ["a", "b", "c"])])
def test_symbols_keep_the_most_frequent(keys, kept):
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="symbols", **keys), [Piece(0, "d c c c"), Piece(1, "c b a b a b a")])
    assert tokenizer.convert_ids_to_tokens(range(3, len(tokenizer))) == kept


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_masked_lm_tokens_frame_texts_and_pairs(kind, tmp_path):
    plain = build(kind, "a test, b and so on")
    ids = {text: plain.encode(text) for text in ("a", " b", "test,")}
    size = len(plain)
    with_masked_lm_tokens(plain).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    first, last, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    assert len({first, last, mask, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 5
    assert len(tokenizer) == size + 3
    encoded = tokenizer("a", "test,")
    assert encoded["input_ids"] == [first, *ids["a"], last, *ids["test,"], last]
    if "token_type_ids" in tokenizer.model_input_names:
        assert encoded["token_type_ids"] == [0] * (len(ids["a"]) + 2) + [1] * (len(ids["test,"]) + 1)
    assert tokenizer.encode("test,") == [first, *ids["test,"], last]
    space = tokenizer.encode(" ", add_special_tokens=False) if kind == "character" else []
    assert tokenizer.encode("a <mask> b") == [first, *ids["a"], *space, mask, *ids[" b"], last]
    assert tokenizer.decode([first, *ids["a"], last], skip_special_tokens=True) == "a"


def test_a_tokenizer_that_has_masked_lm_tokens_stays_as_it_is(saved):
    special = {"cls_token": "[UNK]", "sep_token": "[SEP]", "mask_token": "hello", "pad_token": "world"}
    tokenizer = AutoTokenizer.from_pretrained(saved(**special))
    before = tokenizer.backend_tokenizer.to_str()
    assert with_masked_lm_tokens(tokenizer) is tokenizer
    assert tokenizer.backend_tokenizer.to_str() == before


def test_vocab_size_and_min_frequency_bound_the_trained_vocabulary():
    text = "one two two three three three " * 50 + "rare"
    assert len(build("word", text, vocab_size=5)) == 5
    assert " rare" not in build("word", text, min_frequency=2).get_vocab()
    assert len(build("byte_bpe", text, vocab_size=262)) == 262


REPEATABLE = """
from hflab.data.processors import TOKENIZERS, build_tokenizer
from hflab.data.sources import Piece
from hflab.recipe import ProcessorSection

pieces = [Piece(0, " ".join(str(i * i % 9973) + "ab" * (i % 7) for i in range(3000)))]
built = {kind: build_tokenizer(ProcessorSection(tokenizer=kind, vocab_size=400), pieces).backend_tokenizer.to_str() for kind in TOKENIZERS}
"""


def test_training_again_in_another_process_gives_the_same_tokenizers():
    here = {}
    exec(REPEATABLE, here)
    there = subprocess.run([sys.executable, "-c", REPEATABLE + "import json; print(json.dumps(built))"], capture_output=True, check=True).stdout
    assert json.loads(there) == here["built"]
    assert len(json.loads(here["built"]["byte_bpe"])["model"]["vocab"]) == 400


def test_a_long_text_is_drawn_from_evenly(monkeypatch):
    monkeypatch.setattr(processors, "MOST_TRAINING_BYTES", 1000)
    pieces = [Piece(number, f"{number:010}") for number in range(10_000)]
    numbers = [int(text) for text in processors._evenly_drawn(pieces, 1000)]
    assert 50 <= len(numbers) <= 100
    assert set(np.diff(numbers)) == {numbers[1] - numbers[0]}
    assert numbers[-1] > 9_800
    assert len(list(processors._evenly_drawn(pieces, 10**6))) == 10_000
    seen = build_tokenizer(ProcessorSection(tokenizer="word"), pieces)
    assert len(seen) - 3 == len(numbers)


UNKNOWN = [
    ("日", "'日' (U+65E5)"),
    ("\u200b", "U+200B (ZERO WIDTH SPACE)"),
    ("\u0301", "U+0301 (COMBINING ACUTE ACCENT)"),
    ("\u3000", "U+3000 (IDEOGRAPHIC SPACE)"),
    ("\x07", "U+0007 (unnamed)"),
]


@pytest.mark.parametrize(("character", "named"), UNKNOWN)
def test_unknown_characters_are_named_once(character, named):
    tokenizer = build("character", "abc ")
    with pytest.raises(UserError) as caught:
        check_encodable(tokenizer, f"a{character}b{character}")
    assert str(caught.value).count(named) == 1
    check_encodable(tokenizer, "cab a")


def test_unknown_words_are_named_and_long_lists_cut():
    with pytest.raises(UserError, match="does not know ' planet', ' x'; it knows"):
        check_encodable(build("word", "Hello world"), "Hello planet x")
    with pytest.raises(UserError, match="and 16 more"):
        check_encodable(build("character", "A"), "abcdefghijklmnopqrstuvwxyz")


def test_a_tokenizer_that_knows_everything_refuses_nothing():
    check_encodable(build("byte_bpe"), "日本 \u200b")
    gpt2_like = build("byte_bpe")
    gpt2_like.unk_token, gpt2_like.split_special_tokens = "<eos>", False  # GPT-2 uses one token as eos and unk
    check_encodable(gpt2_like, "a<eos>b")


@pytest.fixture
def saved(tmp_path):
    """Save a tokenizer of words in lower case, as BERT has them, with the special tokens given."""

    def saved(**special):
        backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "hello": 2, "world": 3}, unk_token="[UNK]"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.decoder = decoders.WordPiece()
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", model_max_length=4, **special).save_pretrained(tmp_path / "saved")
        return str(tmp_path / "saved")

    return saved


def test_a_pretrained_tokenizer_is_taken_from_a_folder(saved):
    tokenizer = build(saved(eos_token="[SEP]"))
    assert tokenizer.encode("Hello WORLD there") == [2, 3, 0]
    assert tokenizer.eos_token_id == 1


def test_a_pretrained_tokenizer_without_eos_uses_sep_or_is_refused(saved, caplog):
    assert build(saved(sep_token="[SEP]")).eos_token == "[SEP]"
    assert "no eos token" in caplog.text
    with pytest.raises(UserError, match=r"has no eos token.*add_special_tokens"):
        build(saved())


def test_a_misspelt_kind_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"'charakter'.*character, byte_bpe, word.*Did you mean 'character'\?"):
        build("charakter")
    with pytest.raises(UserError, match="neither one of"):
        build(str(tmp_path))
