import dataclasses
import itertools

import pytest
import torch

from hflab.evaluation.decoder_tuning import COARSE, FINE, NUM_TRIALS, HeardClips, tune_decoder
from hflab.evaluation.speech_metrics import SpeechOutputs, WordErrorRate
from hflab.speech.ctc_decoding import CtcAlphabet
from hflab.speech.kneser_ney import build_ngram
from hflab.speech.saved_decoder import DecoderSettings

ALPHABET = CtcAlphabet(("", " ", *"abcd"), blank=0, word_delimiter=1)
SENTENCES = ["ab cd ab", "cd ab", "ab ab cd", "dad cab", "cd cab dad", "bad cab"]
START = DecoderSettings(num_beams=8)


@pytest.fixture(scope="module")
def language_model():
    return build_ngram([sentence.split() for sentence in SENTENCES], 2)


@pytest.fixture(scope="module")
def heard():
    """A model that is unsure of letters, and of where words end: greedily it is often wrong."""
    generator = torch.Generator().manual_seed(3)
    texts = [*SENTENCES, "ab bad", "dab cd"]  # the last has a word that the language model does not know
    rows = []
    for text in texts:
        letters = [token for letter in text for token in (ALPHABET.tokens.index(letter), 0)]
        right = torch.nn.functional.one_hot(torch.tensor(letters), len(ALPHABET.tokens)) * 2.5
        rows.append((right + torch.randn(right.shape, generator=generator)).log_softmax(-1))
    return HeardClips(rows, texts, "basic", ALPHABET)


def errors(heard, settings, language_model):
    return WordErrorRate.compute(SpeechOutputs(heard.texts(settings, language_model), heard.references, "basic"))


@pytest.fixture(scope="module")
def tuned(heard, language_model):
    trials = []
    return tune_decoder(heard, language_model, START, report=trials.append), len(trials)


def test_the_rate_is_that_of_the_settings_and_less_than_without(tuned, heard, language_model):
    found, _ = tuned
    assert found.word_error_rate == errors(heard, found.settings, language_model)
    without = errors(heard, dataclasses.replace(START, language_model_weight=0.0, word_bonus=0.0, unknown_word_penalty=0.0), language_model)
    assert found.word_error_rate < without


def test_no_pair_of_the_coarse_grid_and_no_change_of_the_last_number_is_better(tuned, heard, language_model):
    found, _ = tuned
    for weight, bonus in itertools.product(*COARSE.values()):
        settings = dataclasses.replace(START, language_model_weight=weight, word_bonus=bonus)
        assert errors(heard, settings, language_model) >= found.word_error_rate
    for bonus in FINE["word_bonus"]:
        assert errors(heard, dataclasses.replace(found.settings, word_bonus=bonus), language_model) >= found.word_error_rate


def test_every_trial_is_reported(tuned):
    found, reported = tuned
    assert found.num_trials == reported == NUM_TRIALS


def test_of_equally_good_values_the_nearest_to_nothing_are_taken(language_model):
    certain = torch.full((2, len(ALPHABET.tokens)), -30.0)
    certain[0, 2] = certain[1, 3] = 0.0  # "ab", whatever the language model says of it
    found = tune_decoder(HeardClips([certain], ["ab"], "basic", ALPHABET), language_model, START).settings
    assert (found.language_model_weight, found.word_bonus, found.unknown_word_penalty) == (0.0, 0.0, 0.0)
    assert found.num_beams == START.num_beams
