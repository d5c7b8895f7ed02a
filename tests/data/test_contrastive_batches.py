"""Sound without transcripts, in every layout, made ready for pre-training."""

import csv

import numpy as np
import pytest
import soundfile
from transformers import Wav2Vec2FeatureExtractor

from hflab.data.contrastive_batches import prepare_sounds
from hflab.data.speech_corpus import load_speech
from hflab.data.speech_preparation import ModelFrames
from hflab.data.speech_sources import SOUND_SOURCES, SPEECH_SOURCES
from hflab.errors import UserError
from hflab.recipe import DataSection

FRAMES = ModelFrames(16000, lambda num_samples: num_samples // 320)


def write_sounds(folder, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        soundfile.write(folder / f"{number:02}.wav", np.random.default_rng(number).uniform(-0.3, 0.3, 4800 + 320 * number), 16000)
    return folder


def write_table(folder):
    write_sounds(folder)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["audio"], *([f"{number:02}.wav"] for number in range(12))])
    return folder


def write_kaldi(folder):
    write_sounds(folder)
    (folder / "wav.scp").write_text("\n".join(f"clip{number:02} {number:02}.wav" for number in range(12)))
    return folder


def write_kaldi_segments(folder):
    write_sounds(folder, count=1)
    (folder / "wav.scp").write_text("talk 00.wav")
    (folder / "segments").write_text("\n".join(f"clip{number:02} talk {number / 40} {number / 40 + 0.02}" for number in range(12)))
    return folder


@pytest.mark.parametrize("layout", [write_sounds, write_table, write_kaldi, write_kaldi_segments])
def test_sounds_need_no_transcripts_and_are_held_out_one_by_one(tmp_path, layout):
    data = DataSection(source="speech", path=str(layout(tmp_path / "sounds")), validation_fraction=0.3, cache_dir=str(tmp_path / "cache"))
    corpus = load_speech(data, sampling_rate=16000, normalizer="none", with_texts=False)
    sizes = {name: len(rows) for name, rows in corpus.splits.items()}
    assert sum(sizes.values()) == 12
    assert 1 <= sizes["validation"] <= 7
    assert {text for rows in corpus.splits.values() for text in rows.texts} == {""}
    assert not any(split["sample"] for split in corpus.facts()["splits"].values())
    with pytest.raises(UserError):
        load_speech(data, sampling_rate=16000, normalizer="none")


def test_clips_without_room_for_hidden_frames_are_left_out_of_every_split(tmp_path):
    data = DataSection(source="speech", path=str(write_sounds(tmp_path / "sounds")), validation_fraction=0.3, cache_dir=str(tmp_path / "cache"))
    prepared = prepare_sounds(data, FRAMES, least_frames=20, extractor=lambda rows: Wav2Vec2FeatureExtractor())
    kept = [int(frames) for clips in prepared.splits.values() for frames in clips.rows.waveforms.lengths[clips.chosen] // 320]
    assert sorted(kept) == list(range(20, 27))  # of 15 to 26 frames
    left_out = [sum(split["rows_left_out"].values()) for split in prepared.facts["splits"].values()]
    assert sum(left_out) == 5
    with pytest.raises(UserError, match=r"None of the \d+ clips of the train split can be used.*30 frames"):
        prepare_sounds(data, FRAMES, least_frames=30, extractor=lambda rows: Wav2Vec2FeatureExtractor())


def test_a_folder_without_sound_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no sound"):
        load_speech(DataSection(source="speech", path=str(tmp_path / "empty")), sampling_rate=16000, normalizer="none", with_texts=False)


def test_every_source_has_a_form_without_texts():
    assert set(SOUND_SOURCES) == set(SPEECH_SOURCES)
