"""Padding in batches of sound: which kinds of models it reaches, and that no result depends on the other rows, whatever the kind."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
import small_speech

from hflab.data.speech_batches import features_of
from hflab.evaluation import padding
from hflab.evaluation.model_properties import evaluation_mode
from hflab.evaluation.padding import least_samples, padding_reaches
from hflab.evaluation.speech_evaluator import label_nats, recognise, run_on_features
from hflab.speech.ctc_beam_search import beam_decode
from hflab.speech.ctc_decoding import CtcAlphabet, greedy_decode
from hflab.transcription.recognizer import Recognizer

# from half a sample of a frame to many; two of one length
LENGTHS = [3100, 2400, 2400, 1555, 800, 130, 60]


@pytest.fixture(scope="module", params=small_speech.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    torch.manual_seed(0)
    return small_speech.build(kind, initializer_range=0.2).eval()


@pytest.fixture(scope="module")
def waveforms(kind):
    draw = np.random.default_rng(0)
    lengths = [length for length in LENGTHS if kind != "wav2vec2-bert" or length > 1000]  # its extractor refuses less than a window
    return [(draw.standard_normal(length) * draw.uniform(0.05, 0.5)).astype(np.float32) for length in lengths]


def logits_of(model, extractor, waveforms):
    with evaluation_mode(model):
        frames = run_on_features(model, features_of(extractor, waveforms), torch.tensor([len(waveform) for waveform in waveforms]))
    return [row[:length] for row, length in zip(frames.logits, frames.lengths.tolist(), strict=True)]


def test_padding_reaches_those_that_are_known_for_it(kind, model):
    inputs = features_of(small_speech.make_extractor(kind), [np.zeros(4000, dtype=np.float32)])
    harmless = {"wav2vec2-layer", "hubert-layer", "wavlm-layer", "unispeech-layer", "wav2vec2-bert"}
    assert padding_reaches(model, inputs) == (kind not in harmless)


def test_one_row_is_as_many(kind, model, waveforms):
    extractor = small_speech.make_extractor(kind)
    alone = [logits_of(model, extractor, [waveform])[0] for waveform in waveforms]
    assert all(len(row) > 0 for row in alone)
    for size in (2, 3, len(waveforms)):
        for start in range(0, len(waveforms), size):
            together = logits_of(model, extractor, waveforms[start : start + size])
            for expected, found in zip(alone[start : start + size], together, strict=True):
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_no_transcript_and_no_loss_depends_on_the_batch(kind, model, waveforms):
    extractor, tokenizer = small_speech.make_extractor(kind), small_speech.make_tokenizer(None)
    alphabet = CtcAlphabet.of_tokenizer(tokenizer)
    labels = torch.tensor([[3, 4, 5]] * len(waveforms))
    for decode in (greedy_decode, beam_decode):
        recognizer = Recognizer(model, extractor, alphabet, decode)
        alone = [recognizer.recognize([waveform])[0].text for waveform in waveforms]
        assert any(alone)
        for seconds in (0.0, 1.0, 100.0):
            assert [found.text for found in recognizer.recognize(waveforms, batch_seconds=seconds)] == alone
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    assert recognise(model, tokenizer, features_of(extractor, waveforms), lengths) == [
        recognise(model, tokenizer, features_of(extractor, [waveform]), lengths[row : row + 1])[0] for row, waveform in enumerate(waveforms)
    ]
    with evaluation_mode(model):
        nats = label_nats(run_on_features(model, features_of(extractor, waveforms), lengths), labels, 0)
        one = [
            label_nats(run_on_features(model, features_of(extractor, [waveform]), lengths[row : row + 1]), labels[:1], 0)[0]
            for row, waveform in enumerate(waveforms)
        ]
    torch.testing.assert_close(nats, torch.stack(one), atol=1e-3, rtol=1e-3)


def test_features_of_a_row_are_those_of_its_waveform_alone():
    """Without a mask transformers' own extractor normalises over the padding too."""
    draw = np.random.default_rng(1)
    waveforms = [draw.standard_normal(length).astype(np.float32) * 0.3 + 0.1 for length in (900, 500)]
    for kind in ("wav2vec2-group", "wav2vec2-layer"):
        extractor = small_speech.make_extractor(kind)
        made = features_of(extractor, waveforms)
        assert ("attention_mask" in made) == (kind == "wav2vec2-layer")
        torch.testing.assert_close(made["input_values"][1, :500], features_of(extractor, waveforms[1:])["input_values"][0])
        assert not made["input_values"][1, 500:].any()


def test_rows_of_one_length_are_run_together_and_a_model_is_measured_once(monkeypatch):
    model = small_speech.build("wav2vec2-group").eval()
    sizes, forward = [], type(model).forward

    def counting(self, input_values, **arguments):
        sizes.append(tuple(input_values.shape))
        return forward(self, input_values, **arguments)

    monkeypatch.setattr(type(model), "forward", counting)
    for _ in range(2):
        run_on_features(model, {"input_values": torch.randn(4, 1000)}, torch.tensor([1000, 600, 1000, 996]))
    assert sizes == [(1, 8000), (1, 16000), *[(2, 1000), (1, 996), (1, 600)] * 2]
    sizes.clear()
    run_on_features(model, {"input_values": torch.randn(4, 1000)}, torch.tensor([1000, 600, 1000, 996]), nearness=0.01)
    assert sizes == [(3, 1000), (1, 600)]
    sizes.clear()
    run_on_features(model, {"input_values": torch.randn(4, 1000)}, torch.tensor([1000] * 4))
    assert sizes == [(4, 1000)]


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "sew-group"])
def test_least_samples_are_just_enough(kind):
    model = small_speech.build(kind).eval()
    least = least_samples(model.config)
    assert model(torch.randn(1, least)).logits.shape[1] > 0
    with pytest.raises(RuntimeError):
        model(torch.randn(1, least - 1))


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wavlm-layer", "sew-group", "data2vec-audio", "wav2vec2-bert"])
def test_clips_shorter_than_a_span_of_spec_augment_train(kind):
    model = small_speech.build(kind, mask_time_prob=0.5, mask_time_length=10).train()
    waveforms = [np.random.default_rng(0).standard_normal(length).astype(np.float32) for length in (700, 600)]
    inputs = features_of(small_speech.make_extractor(kind), waveforms)
    with pytest.raises(ValueError, match="mask_length"):  # what transformers says
        model(**inputs)
    frames = run_on_features(model, inputs, torch.tensor([700, 600]))
    frames.logits.sum().backward()
    assert torch.isfinite(frames.logits).all()
    model.eval()
    assert padding._spec_augment_arguments(model, inputs) == {}
    longer = {name: values.repeat(1, 12, *[1] * (values.ndim - 2)) for name, values in inputs.items()}
    assert padding._spec_augment_arguments(model.train(), longer) == {}
