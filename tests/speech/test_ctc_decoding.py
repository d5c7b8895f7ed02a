import dataclasses
import json
import math

import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer

from hflab.errors import UserError
from hflab.speech.ctc_decoding import CtcAlphabet, greedy_decode

LETTERS = CtcAlphabet(("", "", "", "a", "b", "c"), blank=0, word_delimiter=2)  # 1 is a special token
CHARACTERS = CtcAlphabet(("", "我", "们", "好"), blank=0)


def peaked(tokens, num_tokens, probability=0.9):
    """Logarithms (1, T, V) of frames in which each of `tokens` has `probability` and the others share the rest."""
    frames = torch.full((len(tokens), num_tokens), (1 - probability) / (num_tokens - 1))
    frames[torch.arange(len(tokens)), torch.tensor(tokens)] = probability
    return frames.log()[None]


def random_outputs(num_rows, num_frames, num_tokens, seed=0):
    """Logarithms (B, T, V) of a softmax, and lengths (B,) of which one is 0 and one all frames."""
    generator = torch.Generator().manual_seed(seed)
    outputs = (2 * torch.randn(num_rows, num_frames, num_tokens, generator=generator)).log_softmax(-1)
    lengths = torch.randint(1, num_frames, (num_rows,), generator=generator)
    lengths[0], lengths[-1] = num_frames, 0
    return outputs, lengths


def tokenizer_of(tmp_path, tokens, **settings):
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **settings)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([3, 3, 0, 4], "ab"),
        ([3, 0, 3], "aa"),
        ([3, 1, 3], "aa"),  # a special token is silent as the blank is
        ([3, 1, 0, 1], "a"),
        ([2, 3, 2, 0, 2, 4, 2], "a b"),
        ([0, 2, 1, 2], ""),
        ([5], "c"),
    ],
)
def test_repetitions_blanks_and_needless_delimiters_are_left_out(tokens, text):
    (transcript,) = greedy_decode(peaked(tokens, 6), torch.tensor([len(tokens)]), LETTERS)
    assert transcript.text == text
    assert [word.text for word in transcript.words] == text.split()
    assert transcript.log_probability == pytest.approx(len(tokens) * math.log(0.9), abs=1e-5)


def test_without_delimiter_every_token_is_a_word():
    (transcript,) = greedy_decode(peaked([1, 1, 0, 2, 2, 2, 3], 4), torch.tensor([7]), CHARACTERS)
    assert transcript.text == "我们好"
    assert [word[:3] for word in transcript.words] == [("我", 0, 2), ("们", 3, 6), ("好", 6, 7)]


def test_times_and_confidence_of_words_by_hand():
    outputs = torch.cat([peaked([0], 6, 0.9), peaked([3], 6, 0.8), peaked([3, 0], 6, 0.5), peaked([4], 6, 0.6), peaked([2, 5], 6, 0.7)], dim=1)
    (transcript,) = greedy_decode(outputs, torch.tensor([7]), LETTERS)
    assert [word[:3] for word in transcript.words] == [("ab", 1, 5), ("c", 6, 7)]
    assert transcript.words[0].confidence == pytest.approx((0.8 * 0.5 * 0.6) ** (1 / 3), rel=1e-5)
    assert transcript.words[1].confidence == pytest.approx(0.7, rel=1e-5)


def test_rows_are_decoded_alone_as_in_a_batch_whatever_the_padding():
    outputs, lengths = random_outputs(12, 40, 6)
    single = [greedy_decode(row[None, :length], length[None], LETTERS)[0] for row, length in zip(outputs, lengths, strict=True)]
    assert greedy_decode(outputs, lengths, LETTERS) == single
    for garbage in (math.nan, math.inf, 1e30):
        padding = torch.arange(40) >= lengths[:, None]
        assert greedy_decode(outputs.masked_fill(padding[..., None], garbage), lengths, LETTERS) == single
    assert single[-1].text == ""
    assert single[-1].words == []
    assert single[-1].log_probability == 0
    assert sum(len(transcript.words) for transcript in single) > 20


def test_texts_and_times_are_those_of_transformers(tmp_path):
    tokenizer = tokenizer_of(tmp_path, ["<pad>", "<unk>", "|", "a", "b", "c"])
    alphabet = CtcAlphabet.of_tokenizer(tokenizer)
    outputs, lengths = random_outputs(10, 60, 6, seed=3)
    outputs[..., 1] = -math.inf  # transformers spells <unk>
    for row, length, transcript in zip(outputs, lengths, greedy_decode(outputs, lengths, alphabet), strict=True):
        theirs = tokenizer.decode(row[:length].argmax(-1), output_word_offsets=True) if length else {"text": "", "word_offsets": []}
        assert transcript.text.split() == theirs["text"].split()
        offsets = [(word["word"], word["start_offset"], word["end_offset"]) for word in theirs["word_offsets"]]
        assert [word[:3] for word in transcript.words] == [offset for offset in offsets if offset[0].strip()]


def test_alphabet_of_a_tokenizer(tmp_path):
    alphabet = CtcAlphabet.of_tokenizer(tokenizer_of(tmp_path, ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "'"]))
    assert alphabet == CtcAlphabet(("", "", "", "", "", "E", "'"), blank=0, word_delimiter=4)
    assert alphabet.silent == (0, 1, 2, 3)
    assert alphabet.space == " "
    lower = CtcAlphabet.of_tokenizer(tokenizer_of(tmp_path, ["|", "<unk>", "E", "<pad>"], do_lower_case=True))
    assert lower.tokens[:4] == ("", "", "e", "")
    assert (lower.blank, lower.word_delimiter) == (3, 0)
    with pytest.raises(UserError, match="no padding token"):
        CtcAlphabet.of_tokenizer(tokenizer_of(tmp_path, ["|", "a"], pad_token=None))


def test_alphabet_of_characters_has_no_delimiter_even_where_transformers_adds_one(tmp_path):
    tokenizer = tokenizer_of(tmp_path, ["<pad>", "<unk>", "我", "们"])
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "saved")):
        assert each.word_delimiter_token_id is not None
        alphabet = CtcAlphabet.of_tokenizer(each)
        assert alphabet.word_delimiter is None
        assert [spelling for spelling in alphabet.tokens if spelling] == ["我", "们"]
        assert dataclasses.replace(alphabet, word_delimiter=each.word_delimiter_token_id).space == " "
        tokens = [each.convert_tokens_to_ids(character) for character in "我们"]
        assert greedy_decode(peaked(tokens, 4), torch.tensor([2]), alphabet)[0].text == "我们"  # the model lacks the added tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_decoded(dtype):
    outputs, lengths = random_outputs(4, 20, 6)
    expected = greedy_decode(outputs.to(dtype).float(), lengths, LETTERS)
    assert greedy_decode(outputs.to(dtype), lengths, LETTERS) == expected


@pytest.mark.parametrize(
    ("blank", "word_delimiter", "message"), [(3, None, "blank is 3"), (0, -1, "word_delimiter is -1.*of the 3 tokens"), (1, 1, "both 1")]
)
def test_impossible_alphabets_are_refused(blank, word_delimiter, message):
    with pytest.raises(UserError, match=message):
        CtcAlphabet(("", "a", "b"), blank, word_delimiter)


def broken(value):
    outputs = torch.full((2, 3, 6), 1 / 6).log()
    outputs[1, 1, 4] = value
    return outputs


@pytest.mark.parametrize(
    ("outputs", "lengths", "message"),
    [
        (broken(math.nan), [3, 2], "NaN in row 1, frame 1"),
        (broken(12.5), [3, 3], "has 12.5, but .* give logits.log_softmax"),
        (broken(0.0), [3, 4], r"lengths are \[3, 4\]; each must be from 0 to the 3"),
        (broken(0.0), [3, -1], "lengths are"),
        (broken(0.0), [3], r"shape \(2, 3, 6\) and lengths of \(1,\)"),
        (broken(0.0)[0], [3, 3], "of shape"),
        (broken(0.0).int(), [3, 3], "torch.int32"),
        (broken(0.0)[..., :5], [3, 3], "5 outputs, but the alphabet has 6 tokens"),
        (torch.zeros(2, 3, 7), [3, 3], "7 outputs, but the alphabet has 6 tokens"),
    ],
)
def test_outputs_that_are_none_are_refused(outputs, lengths, message):
    with pytest.raises(ValueError, match=message):
        greedy_decode(outputs, torch.tensor(lengths), LETTERS)


def test_no_rows_and_no_frames_are_nothing():
    assert greedy_decode(torch.zeros(0, 5, 6), torch.zeros(0, dtype=torch.long), LETTERS) == []
    assert [transcript.text for transcript in greedy_decode(torch.zeros(2, 0, 6), torch.tensor([0, 0]), LETTERS)] == ["", ""]
