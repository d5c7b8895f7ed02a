import json

import numpy as np
import pytest

from hflab.data import speech_corpus
from hflab.data.sources import SPEECH_KEYS, load_corpus
from hflab.data.speech_corpus import load_speech, read_split_clips
from hflab.data.speech_sources import SPEECH_SOURCES
from hflab.errors import UserError
from hflab.recipe import DataSection
from hflab.speech.audio import read_waveform
from hflab.speech.text_normalization import NORMALIZERS

pytest.importorskip("soundfile")
pytest.importorskip("scipy")

RATE = 8000


def load(data, normalizer="basic", rate=RATE):
    return load_speech(data, sampling_rate=rate, normalizer=normalizer)


def rows_by(num_speakers, num_texts, count=120):
    return [{"text": f"text {number % num_texts}", "speaker": f"s{number % num_speakers}", "seconds": 0.1} for number in range(count)]


def speakers(corpus):
    return {name: set(rows.speakers) for name, rows in corpus.splits.items()}


def texts(corpus):
    return {name: set(rows.texts) for name, rows in corpus.splits.items()}


def are_disjoint(sets):
    return sum(map(len, sets.values())) == len(set.union(*sets.values()))


def test_clips_have_their_sound_text_speaker_and_condition(own_speech):
    rows = [
        {"text": "One, TWO!", "speaker": "Ann", "room": "hall", "seconds": 0.3},
        {"text": "three", "speaker": "Bob", "room": None, "seconds": 0.2},
    ]
    data = own_speech(rows, speaker_column="speaker", condition_column="room", validation_fraction=0.0)
    corpus = load(data, rate=16000)
    (split,) = corpus.splits.values()
    assert (split.texts, split.speakers, split.conditions) == (["one two", "three"], ["Ann", "Bob"], ["hall", None])
    assert len(split) == len(split.waveforms) == 2
    assert split.waveforms.lengths.tolist() == [4800, 3200]
    assert split.seconds == pytest.approx(0.5)
    expected = read_waveform(corpus.raw.splits["train"][0].audio.source, 16000)
    assert np.abs(split.waveforms.waveform(0) - expected).max() <= 0.5 / 32768


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_every_normalizer_is_applied_to_all_splits(own_speech, normalizer):
    data = own_speech([{"text": f"The {number}nd,  Caf\u00e9!", "seconds": 0.1} for number in range(30)], validation_fraction=0.3)
    corpus = load(data, normalizer)
    assert corpus.normalizer == corpus.facts()["normalizer"] == normalizer
    for name, split in corpus.splits.items():
        assert split.texts == [NORMALIZERS[normalizer].normalize(clip.text) for clip in corpus.raw.splits[name]]
    assert set(corpus.splits) == {"train", "validation"}


def test_no_speaker_is_in_two_splits(own_speech):
    data = own_speech(rows_by(40, 3), speaker_column="speaker", validation_fraction=0.2, test_fraction=0.2)
    corpus = load(data)
    assert are_disjoint(speakers(corpus))
    assert not are_disjoint(texts(corpus))
    assert 0.05 < len(corpus.splits["test"]) / 120 < 0.4
    assert sum(map(len, corpus.splits.values())) == 120
    again = load(own_speech(rows_by(40, 3), speaker_column="speaker", validation_fraction=0.2, test_fraction=0.2))
    assert speakers(corpus) == speakers(again)


@pytest.mark.parametrize("keys", [{}, {"speaker_column": "speaker"}])
def test_no_text_is_in_two_splits_where_speakers_are_not_known_or_there_is_one(own_speech, keys):
    rows = rows_by(1, 40)
    for number, row in enumerate(rows):
        row["text"] += "." if number % 2 else " !"  # the same sentence all the same
    corpus = load(own_speech(rows, validation_fraction=0.2, test_fraction=0.2, **keys))
    assert are_disjoint(texts(corpus))
    assert len(set.union(*texts(corpus).values())) == 40
    assert set(corpus.splits) == {"train", "validation", "test"}


@pytest.mark.parametrize("num_speakers", [1, 2, 3])
@pytest.mark.parametrize("keys", [{}, {"test_fraction": 0.1}])
def test_with_few_speakers_clips_are_held_out_by_their_text_and_that_is_said(own_speech, caplog, num_speakers, keys):
    data = own_speech(rows_by(num_speakers, 40), speaker_column="speaker", **keys)
    raw = read_split_clips(data)
    assert all(0 < len(clips) < 45 for name, clips in raw.splits.items() if name != "train")
    assert are_disjoint({name: {clip.text for clip in clips} for name, clips in raw.splits.items()})
    assert f"has {num_speakers} speaker{'s' * (num_speakers > 1)}, too few to hold some out by chance (train " in caplog.text
    assert "figures are of voices that training hears" in caplog.text
    assert f"(folders {' and '.join(raw.splits)})" in caplog.text


def test_clips_without_a_speaker_are_drawn_by_their_text(own_speech):
    rows = rows_by(20, 30)
    for row in rows[::3]:
        row["speaker"] = None
    corpus = load(own_speech(rows, speaker_column="speaker", validation_fraction=0.5))
    known = {name: {speaker for speaker in found if speaker} for name, found in speakers(corpus).items()}
    assert are_disjoint(known)
    assert all(None in found for found in speakers(corpus).values())


def test_splits_of_the_source_are_kept_and_only_missing_ones_drawn(own_speech, tmp_path):
    for split in ("train", "dev"):
        own_speech([{"text": f"text {number}", "seconds": 0.1} for number in range(40)], name=f"whole/{split}")
    keys = {"source": "speech", "path": str(tmp_path / "texts" / "whole"), "cache_dir": str(tmp_path / "cache")}
    corpus = load(DataSection(**keys, validation_fraction=0.5, test_fraction=0.25))
    assert len(corpus.splits["validation"]) == 40
    assert len(corpus.splits["train"]) + len(corpus.splits["test"]) == 40
    assert set(load(DataSection(**keys, test_fraction=0.0)).splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("keys", "fragments"),
    [
        ({"validation_fraction": 0.01}, ["The validation split of 'speech' has no clips of 6", "Raise data.validation_fraction, set it to 0"]),
        ({"validation_fraction": 0.0, "test_fraction": 0.01}, ["The test split", "Raise data.test_fraction, set it to 0"]),
        ({"validation_fraction": 0.9}, ["The train split of 'speech' has no clips of 6", "Lower the fractions that are held out"]),
    ],
)
def test_an_empty_split_says_which_key_to_change(own_speech, keys, fragments):
    rows = [{"text": str(number), "speaker": f"s{number % 2}", "seconds": 0.1} for number in range(6)]
    with pytest.raises(UserError) as caught:
        load(own_speech(rows, speaker_column="speaker", **keys))
    for fragment in [*fragments, "with few speakers or texts", "give splits of your own (folders train and"]:
        assert fragment in str(caught.value)


def test_the_fingerprint_is_of_sound_text_order_and_splits(own_speech):
    rows = [{"text": f"text {number}", "seconds": 0.1} for number in range(12)]

    def fingerprint(rows, name, normalizer="none", **keys):
        return load(own_speech(rows, name, **({"validation_fraction": 0.0} | keys)), normalizer).fingerprint

    plain = fingerprint(rows, "one")
    assert plain == fingerprint(rows, "other place")
    others = [
        fingerprint([{**rows[0], "seconds": 0.11}, *rows[1:]], "sound"),
        fingerprint([{**rows[0], "text": "text zero"}, *rows[1:]], "text"),
        fingerprint([rows[1], rows[0], *rows[2:]], "order of texts"),
        fingerprint(rows[:-1], "fewer"),
        fingerprint([{**row, "text": row["text"].upper()} for row in rows], "case"),
        fingerprint(rows, "splits", validation_fraction=0.5),
    ]
    assert len({plain, *others}) == 7
    assert fingerprint(rows, "basic", "basic") == fingerprint([{**row, "text": row["text"].upper()} for row in rows], "upper", "basic")


def test_facts_are_json_and_count_every_split(own_speech):
    data = own_speech(rows_by(30, 50), speaker_column="speaker", validation_fraction=0.2, license="cc0-1.0", language="en")
    corpus = load(data)
    facts = json.loads(json.dumps(corpus.facts()))
    assert (facts["name"], facts["origin"], facts["license"], facts["language"]) == ("speech", "speech", "cc0-1.0", "en")
    assert facts["is_synthetic"] is False
    assert sum(split["rows"] for split in facts["splits"].values()) == 120
    assert sum(split["speakers"] for split in facts["splits"].values()) == 30
    assert sum(split["seconds"] for split in facts["splits"].values()) == pytest.approx(12, abs=0.2)
    assert facts["splits"]["train"]["sample"].split("\n") == corpus.splits["train"].texts[:3]
    assert facts["description"] == "Own recordings: 120 clips of speech."
    assert data.path not in json.dumps(facts)


def test_clips_can_be_looked_at_before_any_sound_is_read(own_speech, monkeypatch):
    monkeypatch.setattr(speech_corpus, "open_waveforms", lambda *arguments: pytest.fail("sound was read"))
    raw = read_split_clips(own_speech(rows_by(30, 50), speaker_column="speaker", validation_fraction=0.2))
    assert set(raw.splits) == {"train", "validation"}


REFUSED = [
    ({"source": "speech", "dataset": "user/name"}, "data.dataset is 'user/name', which only the source 'hub' reads"),
    ({"source": "hub", "path": "folder"}, "data.path is 'folder', which only the source"),
    ({"source": "speech", "sentences": "commands"}, "data.sentences is 'commands', which only the source 'synthetic_speech' reads"),
    ({"source": "hub", "num_clips": 9}, "data.num_clips is 9, which only the source 'synthetic_speech' reads"),
    ({"source": "speech", "synthesis_seed": 2}, "which only the source 'synthetic_speech' reads"),
    ({"source": "synthetic_speech", "path": "folder"}, "data.path is 'folder', which only the source"),
    ({"source": "synthetic_speech", "speaker_column": "speaker"}, "which only the sources speech and hub read"),
    ({"source": "synthetic_speech", "audio_column": "file"}, "which only the sources speech and hub read"),
    ({"source": "synthetic_speech", "text_column": "said"}, "which only the sources speech and hub read"),
    ({"source": "hub", "streaming": True}, "data.streaming is True, which only tasks that read running text use"),
    ({"source": "speech", "max_characters": 100}, "which only tasks that read running text use"),
    ({"source": "speech", "label_column": "label"}, "which only tasks with labelled examples read"),
    ({"source": "text"}, "choose from: speech, hub, synthetic_speech"),
    ({"source": "synthetic_speach"}, "Did you mean 'synthetic_speech'?"),
    ({"source": "speech"}, "set data.path"),
    ({"source": "hub"}, "set data.dataset"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(keys, message):
    with pytest.raises(UserError) as caught:
        load(DataSection(**keys))
    assert message in str(caught.value)


def test_a_normalizer_that_does_not_exist_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"processor\.normalizer is 'basik'.*Did you mean 'basic'\?"):
        load(DataSection(source="speech"), "basik")


SET = {"audio_column": "file", "speaker_column": "who", "condition_column": "room", "sentences": "commands", "num_clips": 9, "synthesis_seed": 2}
SET |= {"min_clip_seconds": 1.0, "max_clip_seconds": 9.0, "speed_percents": [90], "noise_probability": 0.5, "join_probability": 0.5}


@pytest.mark.parametrize("key", SPEECH_KEYS)
def test_tasks_that_read_text_refuse_keys_of_speech(own_text, key):
    from hflab.data.examples import load_examples

    with pytest.raises(UserError, match=rf"data\.{key} is .*, which only speech_recognition reads"):
        load_corpus(own_text("abc", **{key: SET[key]}))
    with pytest.raises(UserError, match=rf"data\.{key} is .*, which only speech_recognition reads"):
        load_examples(DataSection(source="cmudict", **{key: SET[key]}), "seq2seq")


def test_the_synthetic_corpus_is_loaded_with_its_own_splits(tmp_path):
    pytest.importorskip("espeakng_loader")
    data = DataSection(source="synthetic_speech", num_clips=8, cache_dir=str(tmp_path), validation_fraction=0.5)
    corpus = load(data)
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 8, "validation": 1, "test": 1}
    assert are_disjoint(speakers(corpus))
    assert all(1000 < length < 8 * RATE for rows in corpus.splits.values() for length in rows.waveforms.lengths)
    assert corpus.facts()["is_synthetic"] is True
    assert corpus.fingerprint == load(data).fingerprint
    data.synthesis_seed = 2
    assert corpus.fingerprint != load(data).fingerprint


def test_every_source_that_is_tested_here_exists():
    assert {"speech", "hub", "synthetic_speech"} <= set(SPEECH_SOURCES)
