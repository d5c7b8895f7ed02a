import json
import logging

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hflab.data import speech_preparation
from hflab.data.speech_batches import SpeechBatches, SpeechBatching
from hflab.data.speech_corpus import SpeechRows
from hflab.data.speech_preparation import (
    BLANK,
    SMALLEST_DEVIATION,
    UNKNOWN,
    ModelFrames,
    character_tokenizer,
    clips_left_out,
    feature_statistics,
    frames_needed,
    prepare_speech,
)
from hflab.data.waveform_store import Waveforms
from hflab.errors import UserError
from hflab.models.recurrent.feature_extraction_recurrent import RecurrentFeatureExtractor
from hflab.recipe import DataSection, ProcessorSection
from hflab.speech.audio import as_integers
from hflab.speech.ctc_decoding import CtcAlphabet

pytest.importorskip("soundfile")
pytest.importorskip("scipy")

RATE = 8000
EXTRACTOR = RecurrentFeatureExtractor(8, RATE, hop_length=80, window_length=200)
FRAMES = ModelFrames(RATE, lambda lengths: 1 + np.maximum(0, lengths - 200) // 80)
TEXTS = {
    "english": ["hello world", "it's me", "a"],
    "chinese": ["\u4f60\u597d\u4e16\u754c", "\u597d"],
    "capitals": ["AB ba"],
    "one letter": ["aaa"],
    "delimiters": ["a|b c", "||"],
    "special": ["<pad> <unk>", "<s>"],
    "beyond 16 bits": ["\U0001f600 a", "e\u0301\u200d"],
}


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prepare(data, tokenizer=None, **processor):
    return prepare_speech(data, ProcessorSection(**processor), FRAMES, tokenizer=tokenizer, extractor=lambda rows: EXTRACTOR)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_character_is_a_token_and_a_text_comes_back(kind, tmp_path):
    texts = TEXTS[kind]
    tokenizer = character_tokenizer(texts, ProcessorSection())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    has_spaces = any(" " in text for text in texts)
    characters = sorted({character for text in texts for character in text} - {" ", "|"})
    expected = [BLANK, UNKNOWN, *(["|"] if has_spaces else []), *characters]
    for one in (tokenizer, again):
        assert one.get_vocab() == {token: number for number, token in enumerate(expected)}
        assert len(one) == len(expected)
        assert (one.pad_token_id, one.unk_token_id, one.bos_token, one.eos_token) == (0, 1, None, None)
        alphabet = CtcAlphabet.of_tokenizer(one)
        assert (alphabet.blank, alphabet.word_delimiter) == (0, 2 if has_spaces else None)
        for text in texts:
            assert ids(one, text) == [expected.index("|" if character == " " else character) for character in text]
            assert one.decode(ids(one, text), group_tokens=False).split() == text.replace("|", " ").split()


@pytest.mark.parametrize("kind", TEXTS)
def test_no_text_holds_the_blank(kind):
    """Which CTC could not learn: a text that spells a special token is its characters."""
    tokenizer = character_tokenizer(["a b"], ProcessorSection())
    for text in [*TEXTS[kind], "<pad>", "a<pad>b", "<unk>"]:
        assert 0 not in ids(tokenizer, text)
        assert len(ids(tokenizer, text)) == len(text)


def test_unknown_characters_and_spaces_where_there_were_none():
    tokenizer = character_tokenizer(["ab", "ba"], ProcessorSection())
    assert ids(tokenizer, "axb") == [2, 1, 3]
    assert ids(tokenizer, "a b") == [2, 3]
    assert ids(tokenizer, "a|b") == [2, 1, 3]


def test_the_vocabulary_keeps_the_most_frequent_characters():
    texts = ["aaaaa bbbb ccc dd e" + " fghij"]
    assert list(character_tokenizer(texts, ProcessorSection(vocab_size=8)).get_vocab()) == [BLANK, UNKNOWN, "|", *"abcde"]
    assert list(character_tokenizer(["aabbccddeeffgghh"], ProcessorSection(vocab_size=8)).get_vocab()) == [BLANK, UNKNOWN, *"abcdef"]
    assert list(character_tokenizer(texts, ProcessorSection(vocab_size=500)).get_vocab()) == [BLANK, UNKNOWN, "|", *"abcdefghij"]
    assert list(character_tokenizer(texts, ProcessorSection(min_frequency=3)).get_vocab()) == [BLANK, UNKNOWN, "|", *"abc"]
    with pytest.raises(UserError, match=r"processor\.min_frequency is 9, and no character is in the training texts so often; lower it"):
        character_tokenizer(texts, ProcessorSection(min_frequency=9))


def test_other_tokenizers_are_refused(own_speech):
    data = own_speech([{"text": "a"}, {"text": "b"}], validation_fraction=0.0)
    with pytest.raises(UserError, match=r"processor\.tokenizer is 'byte_bpe', and speech_recognition learns characters; set it to character"):
        prepare_speech(data, ProcessorSection(tokenizer="byte_bpe"), FRAMES, tokenizer=None, extractor=lambda rows: EXTRACTOR)


def rows_of(waveforms):
    starts = np.concatenate([[0], np.cumsum([len(waveform) for waveform in waveforms])])
    stored = Waveforms(as_integers(np.concatenate(waveforms)), starts, RATE, "0")
    return SpeechRows(stored, ["a"] * len(waveforms), [None] * len(waveforms), [None] * len(waveforms))


def test_statistics_are_mean_and_deviation_of_each_band():
    generator = np.random.default_rng(0)
    rows = rows_of([generator.uniform(-level, level, 4000).astype(np.float32) for level in (0.01, 0.1, 0.5, 0.9)])
    mean, deviation = feature_statistics(rows, EXTRACTOR.features)
    everything = torch.cat([EXTRACTOR.features(torch.from_numpy(rows.waveforms.waveform(clip))) for clip in range(4)]).double()
    assert mean == pytest.approx(everything.mean(dim=0).tolist(), abs=1e-4)
    assert deviation == pytest.approx(everything.std(dim=0, unbiased=False).tolist(), abs=1e-4)
    json.dumps([mean, deviation])
    normalised = RecurrentFeatureExtractor(8, RATE, hop_length=80, window_length=200, mean=mean, standard_deviation=deviation)
    found = torch.cat([normalised.features(torch.from_numpy(rows.waveforms.waveform(clip))) for clip in range(4)])
    assert found.mean(dim=0).abs().max() < 1e-3
    assert (found.std(dim=0) - 1).abs().max() < 1e-2


def test_statistics_of_silence_divide_by_no_zero():
    assert feature_statistics(rows_of([np.zeros(800, dtype=np.float32)]), EXTRACTOR.features)[1] == [SMALLEST_DEVIATION] * 8


def test_statistics_are_drawn_evenly_and_of_beginnings(monkeypatch):
    monkeypatch.setattr(speech_preparation, "MOST_MEASURED_CLIPS", 3)
    monkeypatch.setattr(speech_preparation, "MOST_MEASURED_SECONDS", 1)
    rows = rows_of([np.full(3 * RATE, level / 100, dtype=np.float32) for level in range(1, 12)])
    measured = []
    feature_statistics(rows, lambda waveform: measured.append((len(waveform), round(100 * float(waveform[0])))) or EXTRACTOR.features(waveform))
    assert measured == [(RATE, 1), (RATE, 6), (RATE, 11)]


@pytest.mark.parametrize(("labels", "needed"), [([], 0), ([4], 1), ([4, 5], 2), ([4, 4], 3), ([4, 4, 4], 5), ([4, 5, 4, 4, 5, 5], 8)])
def test_equal_neighbours_need_a_frame_between_them(labels, needed):
    assert frames_needed(np.array(labels, dtype=np.int64)) == needed


def test_ctc_has_an_alignment_exactly_where_there_are_frames_enough():
    generator = np.random.default_rng(0)
    for _ in range(50):
        labels = generator.integers(1, 3, generator.integers(1, 8))
        needed = frames_needed(labels)
        for frames, is_finite in ((needed, True), (needed - 1, False)):
            if frames:
                logits = torch.zeros(frames, 1, 3).log_softmax(-1)
                loss = torch.nn.functional.ctc_loss(logits, torch.tensor(labels)[None], torch.tensor([frames]), torch.tensor([len(labels)]))
                assert bool(loss.isfinite()) == is_finite


LEFT_OUT = [  # seconds, labels, reason
    (0.5, [3], None),
    (0.5, [], "without text"),
    (0.05, [], "without text"),
    (0.05, [3], "too short"),
    (2.5, [3], "too long"),
    (0.105, [3, 4, 5, 6, 7, 8, 9, 10], None),  # nine frames
    (0.105, [3, 3, 3, 3, 3], None),
    (0.105, [3, 3, 3, 3, 3, 3], "too few frames for their text"),
    (0.105, list(range(3, 13)), "too few frames for their text"),
]


def test_every_clip_is_left_out_for_one_reason_or_none():
    lengths = np.array([round(seconds * RATE) for seconds, *_ in LEFT_OUT])
    labels = [np.array(row[1], dtype=np.int64) for row in LEFT_OUT]
    found = clips_left_out(lengths, labels, DataSection(min_clip_seconds=0.1, max_clip_seconds=2.0), FRAMES)
    reasons = [next((reason for reason, rows in found.items() if number in rows), None) for number in range(len(LEFT_OUT))]
    assert FRAMES.count(lengths)[5] == 9
    assert reasons == [reason for *_, reason in LEFT_OUT]
    contradictory = clips_left_out(lengths, labels, DataSection(min_clip_seconds=3.0, max_clip_seconds=0.1), FRAMES)
    assert sorted(np.concatenate(list(contradictory.values())).tolist()) == list(range(len(LEFT_OUT)))


def test_what_is_left_out_is_counted_and_warned_of_and_held_out_clips_are_all_kept(own_speech, caplog, tmp_path):
    rows = [{"text": "hello there", "seconds": 0.5}] * 6
    rows += [{"text": "?!", "seconds": 0.5}, {"text": "a", "seconds": 0.05}, {"text": "a", "seconds": 0.9}, {"text": "aaaaaaa", "seconds": 0.1}]
    for split in ("train", "validation"):
        own_speech(rows, name=f"whole/{split}")
    keys = {"source": "speech", "path": str(tmp_path / "texts" / "whole"), "cache_dir": str(tmp_path / "cache")}
    prepared = prepare(DataSection(**keys, min_clip_seconds=0.1, max_clip_seconds=0.8))
    assert prepared.splits["train"].chosen.tolist() == list(range(6))
    assert prepared.splits["validation"].chosen.tolist() == list(range(10))
    facts = json.loads(json.dumps(prepared.facts))["splits"]
    assert facts["train"]["rows_left_out"] == {"without text": 1, "too short": 1, "too long": 1, "too few frames for their text": 1}
    assert "rows_left_out" not in facts["validation"]
    assert (facts["train"]["rows"], facts["train"]["tokens"], facts["validation"]["tokens"]) == (10, 66, 66 + 9)
    assert "4 of 10 training clips are left out: 1 without text, 1 too short, 1 too long, 1 too few frames for their text" in caplog.text
    assert "clips may last from 0.1 to 0.8 s (data.min_clip_seconds, data.max_clip_seconds)" in caplog.text


@pytest.mark.parametrize(
    ("rows", "keys", "reason"),
    [
        ([{"text": "..."}, {"text": ""}], {}, "2 without text"),
        ([{"text": "a"}, {"text": "b"}], {"min_clip_seconds": 3.0}, "2 too short"),
        ([{"text": "a"}, {"text": "b"}], {"max_clip_seconds": 0.2}, "2 too long"),
        ([{"text": "a"}, {"text": "b", "seconds": 0.9}], {"min_clip_seconds": 0.7, "max_clip_seconds": 0.6}, "1 too short, 1 too long"),
        ([{"text": "many words in no time", "seconds": 0.1}], {}, "1 too few frames for their text"),
    ],
)
def test_where_nothing_is_left_the_reasons_are_said(own_speech, rows, keys, reason):
    with pytest.raises(UserError, match=rf"None of the {len(rows)} training clips can be used: {reason}; clips may last from"):
        prepare(own_speech(rows, validation_fraction=0.0, **keys))


def test_nothing_is_said_where_nothing_is_left_out(own_speech, caplog):
    with caplog.at_level(logging.WARNING):
        prepared = prepare(own_speech([{"text": f"text {number}"} for number in range(20)], validation_fraction=0.5))
    assert caplog.text == ""
    assert prepared.facts["splits"]["train"]["rows_left_out"] == {}


def test_the_tokenizer_is_of_the_training_texts_alone(own_speech, tmp_path):
    own_speech([{"text": "ab"}, {"text": "ba"}], name="whole/train")
    own_speech([{"text": "axe b"}], name="whole/test")
    keys = {"source": "speech", "path": str(tmp_path / "texts" / "whole"), "cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.0}
    prepared = prepare(DataSection(**keys))
    assert list(prepared.tokenizer.get_vocab()) == [BLANK, UNKNOWN, "a", "b"]
    assert {name: split["unknown_tokens"] for name, split in prepared.facts["splits"].items()} == {"train": 0, "test": 2}
    trained = character_tokenizer(["abcdefx "], ProcessorSection())
    again = prepare(DataSection(**keys), tokenizer=trained)
    assert again.tokenizer is trained
    assert again.facts["splits"]["test"]["unknown_tokens"] == 0
    assert again.corpus.fingerprint == prepared.corpus.fingerprint


def test_prepared_clips_go_through_batches(own_speech):
    data = own_speech([{"text": f"text {number}", "seconds": 0.2 + number / 50} for number in range(20)], validation_fraction=0.3)
    prepared = prepare(data)
    batches = SpeechBatches(prepared.splits["train"], prepared.extractor, SpeechBatching(4, seed=1))
    batch = batches.batch(0, slice(0, 4))
    assert batch.inputs["input_features"].shape[::2] == (4, 8)
    for row, labels in zip(batch.rows.tolist(), batch.labels, strict=True):
        text = prepared.corpus.splits["train"].texts[row]
        assert prepared.tokenizer.decode(labels[labels != -100], group_tokens=False) == text
    assert prepared.facts["fingerprint"] == prepared.corpus.fingerprint
