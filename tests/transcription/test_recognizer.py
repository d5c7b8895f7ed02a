from dataclasses import replace

import numpy as np
import pytest
import torch
from tone_recognizer import ALPHABET, RATE, build, draw_text, noise, speak

from hflab.speech.ctc_beam_search import beam_decode
from hflab.speech.ctc_decoding import Transcript, Word
from hflab.transcription.recognizer import Recognizer

SHAPES = {
    "one way": {},
    "both ways": {"bidirectional": True},
    "both ways, residual": {"bidirectional": True, "block_style": "residual", "cell_type": "lstm", "num_hidden_layers": 2},
}


def waveforms_of(seed, count):
    """Sounds of many lengths, one shorter than a window."""
    generator = np.random.default_rng(seed)
    waveforms = [speak(draw_text(generator, 6), generator) for _ in range(count - 2)]
    return [waveforms[0][:100], *waveforms, noise(0.5, generator)]


def same(found, expected):
    assert [transcript.text for transcript in found] == [transcript.text for transcript in expected]
    for some, others in zip(found, expected, strict=True):
        assert [word[:3] for word in some.words] == [word[:3] for word in others.words]
        assert [word.confidence for word in some.words] == pytest.approx([word.confidence for word in others.words], abs=1e-4)
        assert some.log_probability == pytest.approx(others.log_probability, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_batched_is_single_for_every_batch_size(shape):
    recognizer, waveforms = build(**SHAPES[shape]), waveforms_of(1, 7)
    with torch.no_grad():
        recognizer.model.lm_head.weight *= 20  # so that frames differ in their likeliest token
    single = [recognizer.recognize([waveform])[0] for waveform in waveforms]
    assert sum(len(transcript.text) for transcript in single) > 20
    for batch_seconds in (0.001, 1.0, 2.0, 3.0, 5.0, 8.0, 1000.0):
        same(recognizer.recognize(waveforms, batch_seconds=batch_seconds), single)


def test_batched_is_single_with_a_beam_search(trained):
    recognizer, waveforms = replace(trained, decode=beam_decode), waveforms_of(2, 5)
    same(recognizer.recognize(waveforms), [recognizer.recognize([waveform])[0] for waveform in waveforms])


def test_what_is_said_is_found_in_the_order_given(trained):
    generator = np.random.default_rng(3)
    texts = [draw_text(generator) for _ in range(12)]
    found = trained.recognize([speak(text, generator) for text in texts], batch_seconds=4.0)
    assert [transcript.text for transcript in found] == texts


@pytest.mark.parametrize("batch_seconds", [0.001, 3.0, 7.5, 1000.0])
def test_batches_have_no_more_sound_than_asked_for(batch_seconds):
    lengths = np.random.default_rng(4).integers(1, 5 * RATE, size=40).tolist()
    batches = Recognizer._batches(lengths, batch_seconds * RATE)
    assert sorted(row for batch in batches for row in batch) == list(range(40))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= batch_seconds * RATE


def test_no_waveforms_have_no_transcripts(trained):
    assert trained.recognize([]) == []


def test_frames_become_seconds():
    recognizer = build()
    assert recognizer.sampling_rate == RATE
    assert recognizer.seconds_per_frame == pytest.approx(0.04)
    transcript = Transcript("ab c", [Word("ab", 0, 5, 0.75), Word("c", 10, 12, 0.5)], -1.0)
    first, second = recognizer.words_in_seconds(transcript, 100.0)
    assert tuple(first) == ("ab", 100.0, pytest.approx(100.2), 0.75)
    assert tuple(second) == ("c", pytest.approx(100.4), pytest.approx(100.48), 0.5)


def test_the_model_keeps_its_mode_and_has_no_dropout():
    recognizer = build(input_dropout=0.5)
    waveforms = waveforms_of(5, 3)
    expected = recognizer.recognize(waveforms)
    recognizer.model.train()
    same(recognizer.recognize(waveforms), expected)
    assert recognizer.model.training


def test_the_decoder_gets_logarithms_of_probabilities_and_true_frames():
    seen = []

    def decode(log_probabilities, lengths, alphabet):
        seen.append((log_probabilities, lengths, alphabet))
        return [Transcript("", [], 0.0) for _ in lengths]

    recognizer = replace(build(), decode=decode)
    recognizer.recognize([np.zeros(4000, np.float32), np.zeros(8000, np.float32)])
    ((log_probabilities, lengths, alphabet),) = seen
    assert log_probabilities.exp().sum(dim=-1).allclose(torch.ones(1))
    assert lengths.tolist() == [-(-((samples - 200) // 80 + 1) // 4) for samples in (8000, 4000)]  # the longest first
    assert alphabet == ALPHABET
