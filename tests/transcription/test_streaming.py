import functools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tone_recognizer import RATE, build, draw_text, noise, recording, seconds_of, speak
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hflab.data.speech_batches import features_of
from hflab.errors import UserError
from hflab.speech.ctc_beam_search import BeamOptions, beam_decode
from hflab.speech.ctc_decoding import Transcript, greedy_decode
from hflab.speech.segmentation import SegmentationOptions
from hflab.transcription.chunked_logits import ChunkedLogits
from hflab.transcription.live_utterances import LiveUtterances
from hflab.transcription.recordings import TranscriptionOptions, transcribe_waveform
from hflab.transcription.streaming import StreamingOptions, StreamingRecognizer

ENERGY = SegmentationOptions(method="energy")
EVERYTHING = StreamingOptions(segmentation=SegmentationOptions(method="windows"))
SHAPES = {
    "gru": {},
    "lstm, residual": {"cell_type": "lstm", "block_style": "residual", "num_hidden_layers": 2},
    "nvsi, one convolution": {"cell_type": "nvsi", "num_conv_layers": 1, "conv_kernel_size": 3},
    "rnn, no convolution": {"cell_type": "rnn", "num_conv_layers": 0, "embedding_size": 20},
    "gru, three wide convolutions": {"num_conv_layers": 3, "conv_kernel_size": 9},
}


def whole_logits(recognizer, waveform):
    with torch.no_grad():
        return recognizer.model(**features_of(recognizer.extractor, [waveform])).logits[0]


def chunked_logits(recognizer, waveform, sizes, chunk_frames):
    """Logits of a waveform that is fed in pieces of `sizes`, over and over; and the most that came at once."""
    chunks, found, place, number = ChunkedLogits(recognizer, chunk_frames), [], 0, 0
    while place < len(waveform):
        size = sizes[number % len(sizes)]
        found.append(chunks.feed(waveform[place : place + size]))
        place, number = place + size, number + 1
    return torch.cat([*found, chunks.finish()])


def events_of(recognizer, waveform, options=None, size=800):
    live = StreamingRecognizer(recognizer, options)
    return [event for first in range(0, len(waveform), size) for event in live.feed(waveform[first : first + size])] + live.finish()


def finals_of(events):
    return [event for event in events if event.kind == "final"]


@pytest.mark.parametrize("shape", SHAPES)
def test_chunked_logits_are_those_of_the_whole(shape):
    recognizer = build(**SHAPES[shape])
    generator = np.random.default_rng(1)
    waveform = np.concatenate([noise(0.3, generator), speak("ab cc", generator), noise(0.217, generator)])
    whole = whole_logits(recognizer, waveform)
    assert len(whole) > 10
    for sizes in ([len(waveform)], [80], [1000, 3, 0, 777], [5000]):
        for chunk_frames in (1, 8):
            found = chunked_logits(recognizer, waveform, sizes, chunk_frames)
            assert found.shape == whole.shape
            assert (found - whole).abs().max() < 1e-5


@pytest.mark.parametrize("length", [1, 199, 200, 201, 279, 280, 1000, 2680, 2681, 2760])
def test_chunked_logits_of_short_waveforms_sample_by_sample(length):
    recognizer = build()
    waveform = noise(0.5, np.random.default_rng(2))[:length]
    found, whole = chunked_logits(recognizer, waveform, [1], 2), whole_logits(recognizer, waveform)
    assert found.shape == whole.shape
    assert (found - whole).abs().max() < 1e-5


def test_nothing_has_no_logits():
    chunks = ChunkedLogits(build(), 8)
    assert chunks.feed(np.empty(0, np.float32)).shape == (0, 5)
    assert chunks.finish().shape == (0, 5)


def test_logits_of_a_model_that_is_training_are_those_of_evaluation():
    recognizer = build(input_dropout=0.5)
    waveform = noise(1.0, np.random.default_rng(3))
    whole = whole_logits(recognizer, waveform)
    recognizer.model.train()
    assert (chunked_logits(recognizer, waveform, [500], 8) - whole).abs().max() < 1e-5
    assert recognizer.model.training


def test_finals_are_what_was_said_where_it_was_said(trained):
    generator = np.random.default_rng(4)
    waveform, texts, starts = recording(generator, 12)
    finals = finals_of(events_of(trained, waveform))
    assert [event.text for event in finals] == texts
    for event, text, start in zip(finals, texts, starts, strict=True):
        length = len(speak(text, generator)) / RATE
        assert start / RATE - 0.1 < event.words[0].start < start / RATE + 0.2
        assert event.words[-1].end < start / RATE + length + 0.3
    words = [word for event in finals for word in event.words]
    assert all(left.end <= right.start for left, right in pairwise(words))
    assert all(0.5 < word.confidence <= 1 for word in words)


def test_the_words_are_those_of_the_recording(trained):
    waveform, _, _ = recording(np.random.default_rng(5), 12)
    offline = transcribe_waveform(trained, waveform, TranscriptionOptions(ENERGY))
    live = [word for event in finals_of(events_of(trained, waveform)) for word in event.words]
    assert [word.text for word in live] == [word.text for word in offline.words]
    assert [word.start for word in live] == pytest.approx([word.start for word in offline.words], abs=0.1)
    assert len(live) > 15


def test_without_a_detector_the_words_are_those_of_the_whole_waveform(trained):
    waveform, _, _ = recording(np.random.default_rng(6), 6)
    whole = trained.words_in_seconds(trained.recognize([waveform])[0])
    live = [word for event in finals_of(events_of(trained, waveform, EVERYTHING)) for word in event.words]
    assert [word.text for word in live] == [word.text for word in whole]
    for name in ("start", "end", "confidence"):
        assert [getattr(word, name) for word in live] == pytest.approx([getattr(word, name) for word in whole], abs=1e-4)


@pytest.mark.parametrize("options", [StreamingOptions(chunk_seconds=0.16), EVERYTHING], ids=["speech", "everything"])
def test_events_do_not_depend_on_the_feeds(trained, options):
    generator = np.random.default_rng(7)
    waveform, _, _ = recording(generator, 3)
    expected = events_of(trained, waveform, options, size=len(waveform))
    assert len(expected) > 8
    for size in (160, 1111, 4000):
        assert events_of(trained, waveform, options, size) == expected
    short = waveform[: seconds_of(2.5)]
    assert events_of(trained, short, options, size=1) == events_of(trained, short, options, size=len(short))


def test_partials_grow_into_the_final_and_come_while_it_is_said(trained):
    generator = np.random.default_rng(8)
    waveform = np.concatenate([noise(2.0, generator), speak("ab c bca ca", generator), noise(2.0, generator)])
    live, seen = StreamingRecognizer(trained), []
    for first in range(0, len(waveform), 400):
        seen += [(first + 400, event) for event in live.feed(waveform[first : first + 400])]
    *partials, (_, final) = seen
    assert [event.kind for _, event in partials] == ["partial"] * len(partials)
    assert final.kind == "final"
    texts = [event.text for _, event in partials]
    assert texts[-1] == final.text == "ab c bca ca"
    assert len(set(texts)) == len(texts) > 3
    for number, word in enumerate(final.words):
        shown = next(time for time, event in partials if event.text.split()[: number + 1] == final.text.split()[: number + 1])
        assert shown / RATE - word.end < 0.32 + 0.3
    assert live.finish() == []


def test_long_speech_is_cut_between_words_and_nothing_is_lost(trained):
    generator = np.random.default_rng(9)
    text = " ".join(draw_text(generator) for _ in range(20))
    waveform = np.concatenate([noise(0.5, generator), speak(text, generator), noise(0.5, generator)])
    segmentation = replace(EVERYTHING.segmentation, max_seconds=3.0)
    finals = finals_of(events_of(trained, waveform, replace(EVERYTHING, segmentation=segmentation)))
    assert " ".join(event.text for event in finals) == trained.recognize([waveform])[0].text
    assert len(finals) > 6
    assert all(event.words[-1].end - event.words[0].start <= 3.0 + 0.32 for event in finals)
    with_detector = finals_of(events_of(trained, waveform, StreamingOptions(segmentation=replace(ENERGY, max_seconds=3.0))))
    assert len(with_detector) > 6
    assert all(event.words[-1].end - event.words[0].start <= 3.0 + 0.32 for event in with_detector)


def test_a_pause_of_the_model_ends_an_utterance(trained):
    generator = np.random.default_rng(10)
    waveform = np.concatenate([speak("ab", generator), noise(1.5, generator), speak("c a", generator), noise(0.5, generator)])
    assert [event.text for event in finals_of(events_of(trained, waveform, EVERYTHING))] == ["ab", "c a"]
    patient = replace(EVERYTHING, pause_seconds=5.0)
    assert [event.text for event in finals_of(events_of(trained, waveform, patient))] == ["ab c a"]


@pytest.mark.parametrize("options", [None, EVERYTHING], ids=["speech", "everything"])
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 3.0])
def test_silence_says_nothing(trained, options, seconds):
    generator = np.random.default_rng(11)
    assert events_of(trained, noise(seconds, generator), options) == []
    assert events_of(trained, np.zeros(seconds_of(seconds), np.float32), options) == []


def test_what_is_held_does_not_grow(trained):
    """Ten times as much sound, speech and silence, leaves as much behind."""

    def held(num_utterances, decode):
        live = StreamingRecognizer(
            replace(trained, decode=decode), replace(EVERYTHING, segmentation=replace(EVERYTHING.segmentation, max_seconds=2.0))
        )
        waveform, _, _ = recording(np.random.default_rng(12), num_utterances, pauses=(0.1, 2.0))
        most = 0
        for first in range(0, len(waveform), 800):
            live.feed(waveform[first : first + 800])
            utterances = live._stretch.utterances
            frames = sum(map(len, utterances._kept)) + len(utterances._greedy._words) + len(utterances._greedy._letters)
            most = max(most, len(live._recent) + len(live._waiting) + len(live._stretch.chunks._samples) + frames)
        return most

    for decode in (greedy_decode, beam_decode):
        assert held(20, decode) <= 1.2 * held(4, decode)


def test_a_beam_search_decodes_each_utterance_at_its_end(trained):
    waveform, texts, _ = recording(np.random.default_rng(13), 5)
    beams = replace(trained, decode=functools.partial(beam_decode, options=BeamOptions(num_beams=8)))
    greedy, found = events_of(trained, waveform), events_of(beams, waveform)
    assert [event.text for event in finals_of(found)] == texts
    assert [event for event in found if event.kind == "partial"] == [event for event in greedy if event.kind == "partial"]
    starts = [[word.start for event in finals_of(events) for word in event.words] for events in (found, greedy)]
    assert starts[0] == pytest.approx(starts[1], abs=0.1)


def test_expected_words_change_finals_only(trained):
    generator = np.random.default_rng(14)
    waveform = np.concatenate([noise(1.5, generator), speak("ab", generator), noise(1.5, generator)])
    expecting = replace(trained, decode=functools.partial(beam_decode, options=BeamOptions(lexicon=["abc"], token_threshold=-50.0)))
    *partials, final = events_of(expecting, waveform)
    assert partials[-1].text == "ab"
    assert (final.kind, final.text) == ("final", "abc")


def test_a_decoder_may_take_all_back(trained):
    generator = np.random.default_rng(15)
    waveform = np.concatenate([noise(1.5, generator), speak("ab", generator), noise(1.5, generator)])
    heedless = replace(trained, decode=lambda frames, lengths, alphabet: [Transcript("", [], 0.0)])
    *_, final = events_of(heedless, waveform)
    assert (final.kind, final.words, final.text) == ("final", [], "")


def test_a_decoder_gets_the_frames_of_the_utterance(trained):
    """All frames of a stretch, one after the other, but for silence before words."""
    generator = np.random.default_rng(16)
    logits = whole_logits(trained, np.concatenate([speak("ab cc bc ca aa bac cab", generator), noise(2.0, generator), speak("b", generator)]))
    decoded = []

    def decode(frames, lengths, alphabet):
        assert frames.shape[1] == lengths.item()
        decoded.append(frames[0])
        return greedy_decode(frames, lengths, alphabet)

    utterances = LiveUtterances(replace(trained, decode=decode), 100.0, pause_seconds=0.4, max_seconds=1.5)
    events = [event for piece in logits.split(8) for event in utterances.hear(piece)] + utterances.finish()
    assert [word.text for event in finals_of(events) for word in event.words] == ["ab", "cc", "bc", "ca", "aa", "bac", "cab", "b"]
    expected = logits.log_softmax(-1)
    first = torch.cat(decoded[:-1])
    assert len(decoded) > 3
    assert torch.equal(first, expected[: len(first)])
    assert torch.equal(decoded[-1], expected[len(expected) - len(decoded[-1]) :])
    assert len(first) + len(decoded[-1]) < len(expected)
    starts = [word.start for event in finals_of(events) for word in event.words]
    assert 100 <= starts[0] < 100.3
    assert starts == sorted(starts)


def test_models_that_need_whole_recordings_are_refused():
    both_ways = build(bidirectional=True)
    with pytest.raises(UserError, match=r"model\.bidirectional: false.*transcribe files"):
        StreamingRecognizer(both_ways)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8], "conv_kernel": [10]}
    other = Wav2Vec2ForCTC(Wav2Vec2Config(**sizes, conv_stride=[5], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2))
    with pytest.raises(UserError, match=r"Wav2Vec2ForCTC.*model\.bidirectional false.*transcribe files"):
        StreamingRecognizer(replace(both_ways, model=other))


@pytest.mark.parametrize("field", ["chunk_seconds", "pause_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_options_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        StreamingOptions(**{field: value})


def test_options_that_do_not_fit_are_refused(trained):
    with pytest.raises(UserError, match="chunk_seconds is 30"):
        StreamingOptions(chunk_seconds=30.0)
    with pytest.raises(UserError, match="'silero'"):
        StreamingRecognizer(trained, StreamingOptions(segmentation=SegmentationOptions(method="silero")))
    with pytest.raises(UserError, match="one channel"):
        StreamingRecognizer(trained).feed(np.zeros((2, 100), np.float32))
