import itertools
import math
import random

import numpy as np
import pytest
import torch

from hflab.errors import UserError
from hflab.speech.ctc_alignment import best_alignment, with_silence
from hflab.speech.ctc_beam_search import BeamOptions, beam_decode
from hflab.speech.ctc_decoding import CtcAlphabet, greedy_decode
from hflab.speech.hot_words import HotWords
from hflab.speech.kneser_ney import build_ngram
from hflab.speech.language_model import KenlmModel, write_arpa

ALPHABETS = {
    "letters": CtcAlphabet(("", "a", "b"), blank=0),
    "letters and delimiter": CtcAlphabet(("a", "", "", "b"), blank=2, word_delimiter=1),
    "letters and special token": CtcAlphabet(("", "a", "b", ""), blank=3),
    "all kinds": CtcAlphabet(("a", "", "", ""), blank=1, word_delimiter=2),
}
LATIN = CtcAlphabet(("", "", *"abcdefghijklmnopqrstuvwxyz"), blank=0, word_delimiter=1)
EVERYTHING = {"num_beams": 10_000, "token_threshold": -math.inf}


def random_outputs(num_rows, num_frames, num_tokens, *, seed, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(num_rows, num_frames, num_tokens, generator=generator)).log_softmax(-1)


def written_by(alignment, alphabet):
    """The words of an alignment, by the definition of CTC."""
    tokens = [token for token, _ in itertools.groupby(alignment) if token not in alphabet.silent]
    if alphabet.word_delimiter is None:
        return tuple(alphabet.tokens[token] for token in tokens)
    return tuple("".join(" " if token == alphabet.word_delimiter else alphabet.tokens[token] for token in tokens).split())


def probabilities_by_enumeration(frames, alphabet):
    """Words -> log-probability, summed over every alignment that writes them."""
    found = {}
    for alignment in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        words = written_by(alignment, alphabet)
        log_probability = float(frames[np.arange(len(frames)), list(alignment)].sum())
        found[words] = np.logaddexp(found.get(words, -math.inf), log_probability)
    return found


def frames_of(text, *, blank=0.05, sharp=0.9):
    """Outputs (T, V) of LATIN for `text`, two frames for each character, of which the second is silent."""
    frames = torch.full((2 * len(text), len(LATIN.tokens)), (1 - sharp - blank) / (len(LATIN.tokens) - 2))
    for position, character in enumerate(text):
        token = LATIN.word_delimiter if character == " " else LATIN.tokens.index(character)
        frames[2 * position, [token, 0]] = torch.tensor([sharp, blank])
        frames[2 * position + 1, [0, token]] = torch.tensor([sharp, blank])
    return frames


def confused(frames, position, character, share=0.55):
    """Make `character` the likeliest at `position`, by taking from what is written there."""
    row, token = frames[2 * position], LATIN.word_delimiter if character == " " else LATIN.tokens.index(character)
    written = int(row.argmax())
    row[[written, token]] = torch.tensor([row[written] - share, share])
    return frames


def decode_one(frames, options=None, alphabet=LATIN):
    return beam_decode(frames.log()[None], torch.tensor([len(frames)]), alphabet, options)[0]


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@pytest.mark.parametrize("num_frames", [1, 2, 4, 6])
def test_best_text_and_its_probability_are_those_of_all_alignments(alphabet, num_frames):
    for seed in range(4):
        outputs = random_outputs(1, num_frames, len(alphabet.tokens), seed=seed, sharpness=1.5).double()
        expected = probabilities_by_enumeration(outputs[0].numpy(), alphabet)
        (transcript,) = beam_decode(outputs, torch.tensor([num_frames]), alphabet, BeamOptions(**EVERYTHING))
        best = max(expected, key=expected.get)
        assert tuple(word.text for word in transcript.words) == best
        assert transcript.text == alphabet.space.join(best)
        assert transcript.log_probability == pytest.approx(expected[best], abs=1e-9)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@pytest.mark.parametrize("extra", ["language model", "hot words", "lexicon", "all"])
def test_best_text_with_everything_that_adds_to_it_is_that_of_all_texts(alphabet, extra):
    model = build_ngram([["a", "b"], ["aa", "a"], ["b", "a", "a"]], order=3)
    hot_words, lexicon = ["aa", "b", "a b"], {"a", "aa", "b", "ba"}
    options = BeamOptions(
        **EVERYTHING,
        language_model=model if extra in ("language model", "all") else None,
        language_model_weight=0.7,
        word_bonus=0.9,
        unknown_word_penalty=1.5,
        hot_words=[word for word in hot_words if extra in ("hot words", "all") and ("b" not in word or "b" in alphabet.tokens)],
        hot_word_bonus=1.1,
        lexicon=lexicon if extra in ("lexicon", "all") else None,
    )

    def worth(words):
        if options.lexicon is not None and not lexicon.issuperset(words):
            return -math.inf
        text = f" {' '.join(words)} " if alphabet.space else "".join(words)
        patterns = [f" {word} " if alphabet.space else word.replace(" ", "") for word in options.hot_words]
        total = 1.1 * sum(text.startswith(pattern, first) for pattern in patterns for first in range(len(text)))
        if options.language_model is not None:
            state = model.begin()
            for word in words:
                log_probability, state = model.score(state, word)
                total += 0.7 * log_probability + 0.9 - (0 if model.knows(word) else 1.5)
            total += 0.7 * model.finish(state)
        return total

    found = set()
    for seed in range(6):
        outputs = random_outputs(1, 5, len(alphabet.tokens), seed=seed, sharpness=1.0).double()
        probabilities = probabilities_by_enumeration(outputs[0].numpy(), alphabet)
        best = max(probabilities, key=lambda words: probabilities[words] + worth(words))
        (transcript,) = beam_decode(outputs, torch.tensor([5]), alphabet, options)
        assert tuple(word.text for word in transcript.words) == best
        assert transcript.log_probability == pytest.approx(probabilities[best], abs=1e-9)
        found.update(best)
    assert found


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_alignment_is_the_most_likely_of_all_that_write_the_tokens(alphabet):
    num_frames, num_tokens = 5, len(alphabet.tokens)
    for seed in range(3):
        frames = random_outputs(1, num_frames, num_tokens, seed=seed)[0].double().numpy()
        scores = {}
        for alignment in itertools.product(set(range(num_tokens)) - set(alphabet.silent) | {alphabet.blank}, repeat=num_frames):
            words = written_by(alignment, alphabet)
            columns = [num_tokens if token == alphabet.blank else token for token in alignment]
            scores.setdefault(words, []).append(float(with_silence(frames, alphabet)[np.arange(num_frames), columns].sum()))
        for words, of_alignments in scores.items():
            tokens = [alphabet.tokens.index(letter) for letter in "".join(words)]
            if alphabet.space:
                letters = {" ": alphabet.word_delimiter} | {alphabet.tokens[token]: token for token in range(num_tokens) if alphabet.tokens[token]}
                tokens = [letters[letter] for letter in " ".join(words)]
            runs = best_alignment(with_silence(frames, alphabet), tokens, alphabet)
            assert [run.token for run in runs] == tokens
            edges = [0, *itertools.chain.from_iterable((run.start, run.end) for run in runs), num_frames]
            assert edges == sorted(edges)
            assert all(run.end > run.start for run in runs)
            if not alphabet.space and tokens:  # with delimiters a needless one may be nearer than silence
                quiet = set(range(num_frames)) - {frame for run in runs for frame in range(run.start, run.end)}
                total = sum(run.log_probability for run in runs) + sum(with_silence(frames, alphabet)[frame, num_tokens] for frame in quiet)
                assert total == pytest.approx(max(of_alignments), abs=1e-9)
    with pytest.raises(ValueError, match="2 tokens, 1 of them like the one before, cannot be aligned to 2 frames"):
        best_alignment(with_silence(frames, alphabet)[:2], [0, 0], alphabet)


def test_words_of_a_text_that_greedy_decoding_finds_too_are_the_same():
    outputs = random_outputs(20, 50, len(LATIN.tokens), seed=1, sharpness=6.0)
    lengths = torch.randint(0, 51, (20,), generator=torch.Generator().manual_seed(2))
    num_equal = 0
    for ours, greedy in zip(beam_decode(outputs, lengths, LATIN), greedy_decode(outputs, lengths, LATIN), strict=True):
        assert ours.log_probability >= greedy.log_probability - 1e-4
        if ours.text == greedy.text:
            num_equal += len(ours.words)
            assert [word[:3] for word in ours.words] == [word[:3] for word in greedy.words]
            assert [word.confidence for word in ours.words] == pytest.approx([word.confidence for word in greedy.words], rel=1e-4)
    assert num_equal > 10


def test_rows_are_decoded_alone_as_in_a_batch_whatever_the_padding():
    outputs, lengths = random_outputs(6, 30, len(LATIN.tokens), seed=4), torch.tensor([30, 0, 7, 1, 29, 12])
    options = BeamOptions(num_beams=8, language_model=build_ngram([["ab", "c"]]), hot_words=["dog"])
    single = [beam_decode(row[None, :length], length[None], LATIN, options)[0] for row, length in zip(outputs, lengths, strict=True)]
    garbage = outputs.masked_fill((torch.arange(30) >= lengths[:, None])[..., None], math.nan)
    assert beam_decode(outputs, lengths, LATIN, options) == beam_decode(garbage, lengths, LATIN, options) == single
    assert (single[1].text, single[1].words, single[1].log_probability) == ("", [], 0)
    assert single[0].text


@pytest.mark.parametrize("num_beams", [1, 2, 32])
def test_clear_outputs_are_read_by_any_beam(num_beams):
    frames = frames_of("good morning all")
    transcript = decode_one(frames, BeamOptions(num_beams=num_beams))
    assert transcript.text == "good morning all"
    assert [word[:3] for word in transcript.words] == [word[:3] for word in greedy_decode(frames.log()[None], torch.tensor([32]), LATIN)[0].words]


def test_more_beams_find_likelier_texts():
    outputs, lengths = random_outputs(20, 40, 10, seed=6, sharpness=1.0), torch.full((20,), 40)
    alphabet = CtcAlphabet(LATIN.tokens[:10], blank=0, word_delimiter=1)
    means = [
        np.mean([transcript.log_probability for transcript in beam_decode(outputs, lengths, alphabet, BeamOptions(num_beams=num_beams))])
        for num_beams in (1, 4, 32)
    ]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_language_model_corrects_a_word_by_the_words_before():
    frames = confused(confused(frames_of("the sea and a bee"), 4, "b"), 14, "s")
    model = build_ngram([["the", "sea"], ["the", "sea", "is", "blue"], ["a", "bee"], ["and", "a", "bee"], ["see"]] * 3)
    assert decode_one(frames).text == "the bea and a see"
    assert decode_one(frames, BeamOptions(language_model=model)).text == "the sea and a bee"


def test_kenlm_s_model_decodes_as_ours(tmp_path):
    pytest.importorskip("kenlm")
    model = build_ngram([["a", "b"], ["ab", "a"], ["c", "a", "b"]])
    write_arpa(model, tmp_path / "model.arpa")
    outputs = random_outputs(3, 30, 6, seed=8)
    alphabet, lengths = CtcAlphabet(LATIN.tokens[:6], blank=0, word_delimiter=1), torch.tensor([30, 20, 25])
    ours, theirs = (
        beam_decode(outputs, lengths, alphabet, BeamOptions(language_model=each)) for each in (model, KenlmModel(tmp_path / "model.arpa"))
    )
    assert [transcript.text for transcript in ours] == [transcript.text for transcript in theirs]
    assert all(transcript.text for transcript in ours)


def test_language_model_of_characters_needs_no_delimiter():
    alphabet = CtcAlphabet(("", "我", "们", "门", "好"), blank=0)
    frames = torch.tensor([[0.1, 0.8, 0, 0, 0.1], [0.9, 0.1, 0, 0, 0], [0.1, 0, 0.4, 0.5, 0], [0.1, 0, 0, 0, 0.9]])
    model = build_ngram([list("我们好"), list("我们"), list("门好")] * 2)
    assert decode_one(frames, alphabet=alphabet).text == "我门好"
    corrected = decode_one(frames, BeamOptions(language_model=model), alphabet)
    assert [word[:3] for word in corrected.words] == [("我", 0, 1), ("们", 2, 3), ("好", 3, 4)]


def test_word_bonus_decides_where_the_sound_does_not():
    frames = frames_of("in side")
    frames[4, [0, LATIN.word_delimiter]] = 0.45
    model = build_ngram([["in", "side"], ["inside"]] * 3)
    one, two = (BeamOptions(language_model=model, word_bonus=bonus) for bonus in (-3.0, 3.0))
    assert decode_one(frames, one).text == "inside"
    assert decode_one(frames, two).text == "in side"


def test_penalty_keeps_unknown_words_out():
    frames = confused(frames_of("in"), 1, "m", share=0.8)
    model = build_ngram([["in", "side"], ["inside"]])
    assert decode_one(frames, BeamOptions(language_model=model, language_model_weight=0.0, unknown_word_penalty=0.0)).text == "im"
    assert decode_one(frames, BeamOptions(language_model=model, language_model_weight=0.0)).text == "in"


def test_hot_word_is_found_in_a_narrow_beam_though_its_letters_are_unlikely():
    frames = frames_of("meet zorblax now")
    for position, character in {6: "a", 7: "p", 9: "e"}.items():
        confused(frames, position, character)
    assert decode_one(frames, BeamOptions(num_beams=4)).text != "meet zorblax now"
    assert decode_one(frames, BeamOptions(num_beams=4, hot_words=["zorblax"])).text == "meet zorblax now"
    assert decode_one(frames, BeamOptions(num_beams=4, hot_words=["zorblax now"])).text == "meet zorblax now"


@pytest.mark.parametrize("delimiter", [None, 1], ids=["characters", "words"])
def test_gains_of_hot_words_add_up_to_the_hot_words_that_are_there(delimiter):
    alphabet = CtcAlphabet(("", " ", "a", "b", "bc"), blank=0, word_delimiter=delimiter)
    words = ["ab", "a ab", "abcb", "b", "bca", "abab"]
    hot_words, generator = HotWords(words, alphabet, bonus=2.0), random.Random(0)
    space, num_found = alphabet.space, 0
    for _ in range(200):
        tokens = generator.choices([2, 3, 4] if delimiter is None else [1, 2, 3, 2, 3, 4], k=generator.randint(0, 12))
        state, total = hot_words.start, 0.0
        for token in tokens:
            gain = hot_words.gains(state)[token]
            total, state = total + gain, hot_words.follow(state, token)
        text = space + "".join(alphabet.tokens[token] for token in tokens) + space
        patterns = [space + space.join(word.split()) + space for word in words]
        occurrences = sum(text.startswith(pattern, first) for pattern in patterns for first in range(len(text)))
        assert total + hot_words.finish(state) == pytest.approx(2.0 * occurrences)
        num_found += occurrences
    assert num_found > 50


def test_beginning_of_a_hot_word_has_a_share():
    hot_words = HotWords(["abcd", "abxyzabc"], LATIN, bonus=8.0)
    state, gains = hot_words.start, []
    for token in [LATIN.tokens.index(letter) for letter in "abcq"]:
        gains.append(hot_words.gains(state)[token])
        state = hot_words.follow(state, token)
    assert gains == pytest.approx([2.0, 2.0, 2.0, -6.0])  # quarters of the shorter word
    assert hot_words.gains(state)[LATIN.tokens.index("a")] == 0  # not at the beginning of a word


def test_only_words_of_the_lexicon_are_written():
    frames = confused(frames_of("dog cat"), 5, "o")
    assert decode_one(frames).text == "dog cot"
    assert decode_one(frames, BeamOptions(lexicon={"dog", "cat", "do"})).text == "dog cat"
    words = {"a", "ab", "bad", "cab"}
    outputs = random_outputs(8, 30, len(LATIN.tokens), seed=9)
    texts = [transcript.text for transcript in beam_decode(outputs, torch.full((8,), 30), LATIN, BeamOptions(lexicon=words))]
    assert words.issuperset(" ".join(texts).split())
    assert any(texts)


def test_a_last_word_that_cannot_be_completed_is_cut_back():
    frames = frames_of("dog cat")[:-4]  # the recording ends within the word
    certain = (frames == frames.max(dim=-1, keepdim=True).values).float()
    transcript = decode_one(certain, BeamOptions(lexicon={"dog", "cats"}))
    assert transcript.text == "dog"
    assert transcript.words[0][:3] == ("dog", 0, 5)
    assert decode_one(certain[:2], BeamOptions(lexicon={"dog"})).text == ""


@pytest.mark.parametrize(
    ("least", "num_tokens_per_frame", "text"),
    [(0.001, 32, "cat"), (0.2, 32, "cat"), (0.4, 32, "cut"), (1.0, 32, "cut"), (0.2, 2, "cat"), (0.2, 1, "cut")],  # the likeliest always may
)
def test_unlikely_tokens_are_not_written_even_if_they_are_wanted(least, num_tokens_per_frame, text):
    frames = confused(frames_of("cat"), 1, "u", share=0.6)  # 0.3 is left for the a
    wanted = BeamOptions(hot_words=["cat"], hot_word_bonus=30.0, token_threshold=math.log(least), num_tokens_per_frame=num_tokens_per_frame)
    assert decode_one(frames, wanted).text == text


def test_tokens_without_any_probability_do_no_harm():
    frames = torch.zeros(4, len(LATIN.tokens))
    frames[[0, 1, 2, 3], [2, 3, 0, 3]] = 1.0
    assert decode_one(frames).text == "abb"
    impossible = frames.clone()
    impossible[1] = 0.0
    assert decode_one(impossible).log_probability == -math.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"num_tokens_per_frame": 0}, "num_tokens_per_frame is 0"),
        ({"token_threshold": 0.5}, "token_threshold is 0.5"),
        ({"unknown_word_penalty": -1.0}, "unknown_word_penalty is -1"),
        ({"hot_words": "cat"}, "hot_words is the text 'cat'"),
        ({"lexicon": "cat dog"}, "lexicon is the text"),
        ({"hot_words": ["Cat"]}, "hot word 'Cat' has 'C', which no token of the model spells, but 'c' it has"),
        ({"hot_words": ["naïve"]}, "has 'ï', which no token of the model spells; spell"),
        ({"hot_words": [" "]}, "hot word ' ' is empty"),
        ({"lexicon": {"CAT"}}, r"1 words \['CAT'\], none of which the model can spell"),
        ({"lexicon": set()}, "0 words"),
    ],
)
def test_options_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        decode_one(frames_of("a"), BeamOptions(**settings))


def test_nan_is_refused():
    outputs = random_outputs(2, 4, len(LATIN.tokens), seed=0)
    outputs[0, 2, 5] = math.nan
    with pytest.raises(ValueError, match="NaN in row 0, frame 2"):
        beam_decode(outputs, torch.tensor([3, 4]), LATIN)
    assert len(beam_decode(outputs, torch.tensor([2, 4]), LATIN)) == 2
