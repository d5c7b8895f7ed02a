from hflab.inspection.maps import Token
from hflab.inspection.tokens import name_tokens


def names(tokenizer, text):
    return [token.label for token in name_tokens(tokenizer, tokenizer(text)["input_ids"])]


def test_white_space_is_seen(character_tokenizer):
    assert names(character_tokenizer, "I \n我") == ["I", "␣", "↵", "我"]


def test_pieces_of_words_and_of_characters(byte_tokenizer):
    assert "".join(names(byte_tokenizer, "the theme")) == "the␣theme"
    assert len(names(byte_tokenizer, "the theme")) < len("the theme")
    assert names(byte_tokenizer, "我") == ["⟨E6⟩", "⟨88⟩", "⟨91⟩"]
    assert names(byte_tokenizer, "\x00\u0301"[:1]) == ["⟨U+0000⟩"]


def test_marks_stand_on_a_circle(character_tokenizer):
    tokenizer = character_tokenizer
    from hflab.inspection.tokens import _visible

    assert _visible("\u0301") == "◌\u0301"
    assert names(tokenizer, "$") == ["$"]


def test_special_tokens_and_padding_are_shown_as_what_they_are(character_tokenizer, byte_tokenizer):
    ids = [character_tokenizer.eos_token_id, character_tokenizer.pad_token_id, character_tokenizer.unk_token_id]
    assert name_tokens(character_tokenizer, ids) == (Token("<eos>", "special"), Token("<pad>", "padding"), Token("<unk>", "special"))
    # the name of a special token, written in a text, is text
    assert {token.kind for token in name_tokens(byte_tokenizer, byte_tokenizer("<eos>")["input_ids"])} == {"text"}


def test_long_labels_are_shortened():
    assert Token("unbelievable").shortened(5) == "unbe…"
    assert Token("short").shortened(5) == "short"
