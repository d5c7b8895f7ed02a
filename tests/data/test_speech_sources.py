import io
import json
import sys

import numpy as np
import pytest

from hflab.data.clips import Recording
from hflab.data.speech_corpus import load_speech, read_split_clips
from hflab.data.speech_sources import SPEECH_SOURCES
from hflab.data.waveform_store import open_waveforms
from hflab.errors import UserError
from hflab.recipe import DataSection
from hflab.speech.audio import UnreadableRecording

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("scipy")

RATE = 8000


def sound(number=0, suffix="WAV", rate=RATE):
    """The content of a sound file and its samples."""
    samples = np.round(np.random.default_rng(number).uniform(-0.5, 0.5, 800) * 32768) / 32768
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=suffix, subtype="PCM_16")
    return target.getvalue(), samples.astype(np.float32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Write a data set with audio as `datasets` finds it in a folder; returns its data section."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")

    def hub(splits, audio_columns=("audio",), **keys):
        folder = tmp_path / "hub" / "made"
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in splits.items():
            dataset = datasets.Dataset.from_list(rows)
            for column in audio_columns:
                dataset = dataset.cast_column(column, datasets.Audio(decode=True))
            dataset.to_parquet(folder / f"{name}.parquet")
        return DataSection(source="hub", dataset=str(folder), cache_dir=str(tmp_path / "cache"), **keys)

    return hub


@pytest.fixture
def no_torchcodec(monkeypatch):
    """As where torchcodec is not installed, whether or not it is here."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)


def row(number=0, suffix="WAV", **columns):
    return {"audio": {"bytes": sound(number, suffix)[0], "path": f"{number}.wav"}, "text": f"text {number}", **columns}


@pytest.mark.parametrize("suffix", ["WAV", "FLAC"])
def test_audio_of_a_data_set_is_read_without_torchcodec_or_network(hub, no_torchcodec, suffix):
    data = hub({"train": [row(number, suffix) for number in range(12)]}, validation_fraction=0.3)
    corpus = load_speech(data, sampling_rate=RATE, normalizer="basic")
    assert corpus.facts()["origin"] == "made"
    assert set(corpus.splits) == {"train", "validation"}
    for rows in corpus.splits.values():
        for place, text in enumerate(rows.texts):
            assert np.array_equal(rows.waveforms.waveform(place), sound(int(text.split()[1]), suffix)[1])


def test_the_import_of_torchcodec_is_what_the_test_blocks(hub, no_torchcodec):
    """Otherwise the test above would show nothing."""
    import datasets

    data = hub({"train": [row()]})
    with pytest.raises(ImportError, match="torchcodec"):
        datasets.load_dataset(data.dataset)["train"][0]


def test_a_data_set_without_transcripts_is_read_where_none_are_wanted(hub, no_torchcodec):
    """With and without columns beside the sound; text that is there is not looked at, so none need be whole."""
    spoken = [{"audio": row(number)["audio"]} for number in range(12)]
    with pytest.raises(UserError, match="no column 'text'"):
        load_speech(hub({"train": spoken}), sampling_rate=RATE, normalizer="none")
    corpus = load_speech(hub({"train": spoken}, validation_fraction=0.3), sampling_rate=RATE, normalizer="none", with_texts=False)
    assert corpus.raw.description == "The Hub data set made, column 'audio'."
    assert {name: set(rows.texts) for name, rows in corpus.splits.items()} == {"train": {""}, "validation": {""}}
    heard = [rows.waveforms.waveform(place).tolist() for rows in corpus.splits.values() for place in range(len(rows))]
    assert sorted(heard) == sorted(sound(number)[1].tolist() for number in range(12))


def test_speakers_of_a_data_set_without_transcripts_stay_together(hub):
    spoken = [{"audio": row(number)["audio"], "text": None, "who": f"speaker {number % 4}"} for number in range(12)]
    data = hub({"train": spoken}, speaker_column="who", validation_fraction=0.5)
    raw = read_split_clips(data, with_texts=False)
    voices = [{clip.speaker for clip in clips} for clips in raw.splits.values()]
    assert all(voices)
    assert set.union(*voices) == {f"speaker {number}" for number in range(4)}
    assert set.isdisjoint(*voices)
    assert {clip.text for clips in raw.splits.values() for clip in clips} == {""}


def test_a_data_set_that_cannot_be_had_says_how_sound_is_given_without_a_network():
    with pytest.raises(UserError) as caught:
        read_split_clips(DataSection(source="hub", dataset="user/sounds"))
    for fragment in ("'user/sounds' cannot be had", "hf download --repo-type dataset user/sounds", "data.source=speech and data.path=FOLDER"):
        assert fragment in str(caught.value)


def test_splits_speakers_and_conditions_of_a_data_set(hub):
    splits = {
        "train": [row(0, speaker=7, room="hall"), row(1, speaker=None, room=None)],
        "dev": [row(2, speaker=8, room=" ")],
        "test": [row(3, speaker=9, room="lab")],
    }
    raw = read_split_clips(hub(splits, speaker_column="speaker", condition_column="room"))
    assert {name: [(clip.text, clip.speaker, clip.condition) for clip in clips] for name, clips in raw.splits.items()} == {
        "train": [("text 0", "7", "hall"), ("text 1", None, None)],
        "validation": [("text 2", "8", None)],
        "test": [("text 3", "9", "lab")],
    }
    assert raw.description == "The Hub data set made, columns 'audio' and 'text'."
    assert not raw.is_synthetic


def test_sounds_stay_in_the_data_set_until_they_are_asked_for(hub, tmp_path):
    """A hundred hours in memory would be six gigabytes."""
    raw = read_split_clips(hub({"train": [row(number) for number in range(3)]}, validation_fraction=0.0))
    clips = raw.splits["train"]
    assert not any(isinstance(value, bytes) for clip in clips for value in vars(clip.audio).values())
    assert [clip.audio.content for clip in clips] == [sound(number)[0] for number in range(3)]
    assert all(clip.audio.is_there for clip in clips)
    assert len(open_waveforms(tmp_path / "cache", clips, RATE)) == 3


def test_other_columns_are_not_decoded(hub, no_torchcodec):
    rows = [row(0, other={"bytes": b"no sound at all", "path": None})]
    raw = read_split_clips(hub({"train": rows}, ("audio", "other"), validation_fraction=0.0))
    assert raw.splits["train"][0].text == "text 0"


def test_a_column_of_bytes_and_paths_is_audio_too(hub, tmp_path):
    content, samples = sound(4)
    (tmp_path / "four.wav").write_bytes(content)
    rows = [{"file": {"bytes": None, "path": str(tmp_path / "four.wav")}, "said": "a"}, {"file": {"bytes": content, "path": None}, "said": "b"}]
    data = hub({"train": rows}, (), audio_column="file", text_column="said", validation_fraction=0.0)
    waveforms = load_speech(data, sampling_rate=RATE, normalizer="basic").splits["train"].waveforms
    assert [np.array_equal(waveforms.waveform(clip), samples) for clip in range(2)] == [True, True]


@pytest.mark.parametrize(
    ("keys", "fragments"),
    [
        ({"audio_column": "audoi"}, ["The split 'train' of made has no column 'audoi'", "data.audio_column", "Did you mean 'audio'?"]),
        ({"text_column": "txt"}, ["no column 'txt'", "data.text_column", "Did you mean 'text'?"]),
        ({"speaker_column": "who"}, ["no column 'who'", "data.speaker_column"]),
        ({"condition_column": "rom"}, ["no column 'rom'", "data.condition_column"]),
        ({"audio_column": "text"}, ["The column 'text' of the split 'train' of made is no audio", "string", "set data.audio_column"]),
        ({"text_column": "count"}, ["Row 1 of the split 'train' of made has '5' (int) in the column 'count'"]),
        ({"revision": "main", "streaming": True}, ["data.streaming"]),
    ],
)
def test_a_wrong_column_names_the_key_and_the_nearest(hub, keys, fragments):
    with pytest.raises(UserError) as caught:
        read_split_clips(hub({"train": [row(0, count=5)]}, **keys))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_rows_without_audio_and_with_damaged_audio_are_named(hub):
    rows = [row(0), {"audio": None, "text": "a"}, {"audio": {"bytes": None, "path": None}, "text": "b"}]
    data = hub({"train": rows, "validation": [row(1)]})
    clips = SPEECH_SOURCES["hub"](data).splits["train"]
    for number in (1, 2):
        with pytest.raises(UnreadableRecording, match=rf"Row {number + 1} of the split 'train' of made has no audio; mend or remove the row\."):
            _ = clips[number].audio.content
    with pytest.raises(UserError, match="Row 2 of the split 'train' of made has no audio"):
        load_speech(data, sampling_rate=RATE, normalizer="basic")


def test_damaged_audio_of_a_data_set_is_named_by_its_row(hub):
    data = hub({"train": [row(0), {"audio": {"bytes": b"no sound", "path": "x.wav"}, "text": "a"}], "validation": [row(1)]})
    with pytest.raises(UserError, match=r"Row 2 of the split 'train' of made cannot be decoded"):
        load_speech(data, sampling_rate=RATE, normalizer="basic")


def test_a_text_that_is_missing_is_named_by_its_row(hub):
    with pytest.raises(UserError, match="Row 2 of the split 'validation' of made has null in the column 'text'"):
        read_split_clips(hub({"train": [row(0)], "validation": [row(1), {**row(2), "text": None}]}))


def test_a_data_set_without_training_split_is_refused(hub):
    with pytest.raises(UserError, match=r"has no training split, only: test"):
        read_split_clips(hub({"test": [row(0)]}))


def test_own_speech_says_what_it_is(own_speech):
    data = own_speech([{"text": "a"}, {"text": "b"}])
    raw = SPEECH_SOURCES["speech"](data)
    assert (raw.name, raw.origin, raw.license, raw.language, raw.is_synthetic) == ("speech", "speech", None, None, False)
    assert all(isinstance(clip.audio, Recording) for clip in raw.splits["train"])
    facts = json.dumps([raw.name, raw.description, raw.origin])
    assert data.path not in facts
    assert len(raw.splits["train"]) == 2


def test_a_missing_synthesizer_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"espeakng.loader.*pip install 'hflab\[speech\]'"):
        SPEECH_SOURCES["synthetic_speech"](DataSection(source="synthetic_speech", num_clips=8))
