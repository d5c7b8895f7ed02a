"""Faults are planted among recordings without a fault, one kind at a time, and each is found; what has no fault is left alone."""

import csv
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hflab.data.checked_clips import checked_clips
from hflab.data.clips import Clip, Recording
from hflab.data.speech_check import UNREADABLE, check_speech
from hflab.data.speech_check_files import write_check
from hflab.data.speech_preparation import ModelFrames, character_tokenizer, prepare_speech
from hflab.data.speech_problems import KINDS, PROBLEMS
from hflab.errors import UserError
from hflab.inspection.speech_check_picture import draw_check
from hflab.recipe import DataSection, ProcessorSection
from hflab.speech.text_normalization import NORMALIZERS
from hflab.summaries import describe_check

sys.path.insert(0, str(Path(__file__).parent))
from recordings_on_disk import RATE, TEXTS, Recordings, syllables

FRAMES = ModelFrames(RATE, lambda num_samples: 1 + num_samples // 640)  # 25 a second
NEW = 90  # number of a sound that no other clip has


@pytest.fixture
def recordings(tmp_path):
    return Recordings(tmp_path / "data")


@pytest.fixture
def section(tmp_path):
    """From recordings to their data section."""

    def section(recordings, **keys):
        given = {"path": str(recordings.folder), "speaker_column": "speaker", "cache_dir": str(tmp_path / "cache"), **keys}
        return DataSection(source="speech", **given)

    return section


@pytest.fixture
def check(section):
    def check(recordings, **keys):
        return check_speech(section(recordings, **keys), ProcessorSection(), FRAMES)

    return check


def plant_unreadable(recordings):
    yield recordings.add("train", "text.wav", TEXTS[20], b"This is no sound. " * 50)
    yield recordings.add("train", "gone.wav", TEXTS[20])
    yield recordings.add("validation", "empty.wav", TEXTS[21], np.zeros(0))
    yield recordings.add("train", "numbers.wav", TEXTS[20], np.full(RATE, np.nan), subtype="FLOAT")


def plant_empty_transcript(recordings):
    yield recordings.add("train", "unsaid.wav", "", syllables(NEW))
    yield recordings.add("validation", "unsaid_too.wav", "  ", syllables(NEW + 1))


def plant_nothing_left(recordings):
    yield recordings.add("train", "signs.wav", "?! …", syllables(NEW))


def plant_too_short(recordings):
    yield recordings.add("train", "short.wav", TEXTS[20], syllables(NEW, 0.08))


def plant_too_long(recordings):
    yield recordings.add("train", "long.wav", " ".join(TEXTS), syllables(NEW, 31))


def plant_too_few_frames(recordings):
    yield recordings.add("train", "crowded.wav", " ".join(TEXTS[:4]), syllables(NEW))


def plant_silence(recordings):
    yield recordings.add("train", "zeros.wav", TEXTS[20], np.zeros(RATE))
    yield recordings.add("validation", "hiss.wav", TEXTS[21], 0.02 * np.random.default_rng(1).standard_normal(2 * RATE))
    yield recordings.add("train", "against_each_other.wav", TEXTS[20], np.stack([syllables(NEW), -syllables(NEW)], axis=1))


def plant_clipping(recordings):
    yield recordings.add("train", "loud.wav", TEXTS[20], np.clip(10 * syllables(NEW), -1, 1))


def plant_implausible_speed(recordings):
    yield recordings.add("train", "slow.wav", TEXTS[20], syllables(NEW, 10))
    yield recordings.add("validation", "fast.wav", f"{TEXTS[21]} {TEXTS[22]}", syllables(NEW + 1, 1.3))


def plant_unknown_characters(recordings):
    yield recordings.add("validation", "foreign.wav", "one two zwölf", syllables(NEW))


def plant_same_sound_held_out(recordings):
    sound, rate = soundfile.read(recordings.folder / "train_3.wav", dtype="int16")
    yield recordings.add("validation", "copy.flac", TEXTS[20], sound, rate=rate)


def plant_same_sound_other_text(recordings):
    yield recordings.add("train", "train_3.wav", TEXTS[20])


def plant_long_silence(recordings):
    yield recordings.add("train", "late.wav", TEXTS[20], np.concatenate([np.zeros(3 * RATE), syllables(NEW)]))
    yield recordings.add("train", "early.wav", TEXTS[21], np.concatenate([syllables(NEW + 1), 1e-4 * syllables(NEW, 3)]))


def plant_offset(recordings):
    yield recordings.add("train", "offset.wav", TEXTS[20], syllables(NEW) + 0.1)


def plant_upsampled(recordings):
    yield recordings.add("train", "telephone.wav", TEXTS[20], syllables(NEW, rate=8000), rate=8000)


def plant_rare_characters(recordings):
    yield recordings.add("train", "question.wav", "quiz six ten", syllables(NEW))


def plant_same_sound(recordings):
    yield recordings.add("train", "train_3.wav", TEXTS[3])


def plant_same_text_held_out(recordings):
    yield recordings.add("validation", "same_words.wav", TEXTS[3].upper() + "!", syllables(NEW))


def plant_shared_speakers(recordings):
    yield recordings.add("validation", "known_voice.wav", TEXTS[20], syllables(NEW), speaker="train 0")


PLANTS = {name.removeprefix("plant_"): plant for name, plant in list(globals().items()) if name.startswith("plant_")}


def test_every_problem_is_planted():
    assert list(PLANTS) == list(PROBLEMS)
    assert {problem.kind for problem in PROBLEMS.values()} == set(KINDS)


def test_data_without_a_fault_have_none(recordings, check):
    found = check(recordings)
    assert found.findings == {}
    assert found.left_out == found.unlisted_sounds == []
    assert not found.has_problems
    assert "Nothing is lost or spoilt" in describe_check(found)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_and_no_other_clip_is_blamed(name, recordings, check):
    planted = list(PLANTS[name](recordings))
    assert planted
    found = check(recordings)
    order = {clip.name: place for place, clip in enumerate(found.clips)}
    assert sorted((finding.clip.name for finding in found.findings[name]), key=order.get) == sorted(planted, key=order.get)
    assert all(finding.why for finding in found.findings[name])
    grave = {other for other in found.findings if PROBLEMS[other].kind != "note"}
    assert grave == ({name} if PROBLEMS[name].kind != "note" else set())
    assert found.has_problems == bool(grave)
    assert {finding.clip.name for findings in found.findings.values() for finding in findings} == set(planted)
    text = describe_check(found)
    assert PROBLEMS[name].title in text
    assert PROBLEMS[name].cure in text
    assert all(f"{finding.clip.name}: {finding.why}" in text for finding in found.findings[name][:3])


def test_all_faults_are_found_side_by_side(recordings, check):
    planted = {name: set(plant(recordings)) for name, plant in PLANTS.items()}
    found = check(recordings)
    for name, names in planted.items():
        assert names <= {finding.clip.name for finding in found.findings[name]}, name


def test_what_is_left_out_is_what_training_leaves_out(recordings, section, check):
    for name, problem in PROBLEMS.items():
        if problem.kind == "left_out":
            list(PLANTS[name](recordings))
    found = check(recordings)
    prepared = prepare_speech(section(recordings), ProcessorSection(), FRAMES, tokenizer=None, extractor=lambda rows: None)
    left = sorted(set(range(len(recordings.rows["train"]))) - set(prepared.splits["train"].chosen.tolist()))
    assert [clip.name for clip, _ in found.left_out] == [recordings.rows["train"][row]["audio"] for row in left]
    counts = {reason: sum(of_clip == reason for _, of_clip in found.left_out) for _, reason in found.left_out}
    assert counts == prepared.facts["splits"]["train"]["rows_left_out"]


def test_unreadable_training_clips_are_left_out_and_training_says_where_to_look(recordings, section, check):
    list(plant_unreadable(recordings))
    found = check(recordings)
    assert [clip.name for clip, reason in found.left_out if reason == UNREADABLE] == ["text.wav", "gone.wav", "numbers.wav"]
    whys = {finding.clip.name: finding.why for finding in found.findings["unreadable"]}
    assert whys["gone.wav"] == "there is no such file (Line 17 of train.csv)"
    assert "cannot be decoded" in whys["text.wav"]
    with pytest.raises(UserError, match=r"Line 17 of train.csv names the sound 'gone.wav'.*hflab data check"):
        prepare_speech(section(recordings), ProcessorSection(), FRAMES, tokenizer=None, extractor=lambda rows: None)


def test_characters_that_get_no_token_count_as_unknown(recordings, section):
    list(plant_rare_characters(recordings))
    recordings.add("validation", "held_out.wav", "one quiz", syllables(NEW + 1))
    assert "unknown_characters" not in check_speech(section(recordings), ProcessorSection(), FRAMES).findings
    found = check_speech(section(recordings), ProcessorSection(min_frequency=2), FRAMES)
    assert [(finding.clip.name, finding.why) for finding in found.findings["unknown_characters"]] == [
        ("held_out.wav", "the vocabulary has no 'q' (U+0071), 'u' (U+0075), 'z' (U+007A)")
    ]


def test_of_a_trained_vocabulary_training_clips_may_lack_characters_too(recordings, section):
    list(plant_rare_characters(recordings))
    trained = character_tokenizer(TEXTS, ProcessorSection())
    found = check_speech(section(recordings), ProcessorSection(), FRAMES, tokenizer=trained)
    assert [finding.clip.name for finding in found.findings["unknown_characters"]] == ["question.wav"]


def test_a_single_word_may_be_slow(recordings, check):
    recordings.add("train", "word.wav", "no", syllables(NEW, 1.2))
    assert "implausible_speed" not in check(recordings).findings


def test_sizes_and_formats_are_counted(recordings, check):
    recordings.add("train", "stereo.wav", TEXTS[20], np.stack([syllables(NEW, rate=44100)] * 2, axis=1), rate=44100)
    found = check(recordings)
    assert {name: (size.clips, size.speakers) for name, size in found.splits.items()} == {"train": (15, 2), "validation": (4, 2)}
    assert found.splits["train"].seconds == pytest.approx(15 * 1.5)
    assert (found.splits["train"].median_seconds, found.splits["train"].longest_seconds) == (1.5, 1.5)
    assert found.stored_as == {(RATE, 1): 18, (44100, 2): 1}
    assert "44,100 Hz" in describe_check(found)


def test_sounds_that_no_row_names_are_listed(recordings, check):
    for name in ("forgotten.wav", ".hidden.wav"):
        soundfile.write(recordings.folder / name, syllables(NEW), RATE)
    found = check(recordings)
    assert found.unlisted_sounds == ["forgotten.wav"]
    assert "forgotten.wav" in describe_check(found)
    assert not found.has_problems


def test_parts_of_recordings_are_looked_at_by_themselves(tmp_path, section):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    soundfile.write(folder / "talk.wav", np.concatenate([syllables(number) for number in range(12)]), RATE)
    (folder / "wav.scp").write_text("talk talk.wav\nlost lost.wav\n", encoding="utf-8")
    parts = [f"part{number} talk {1.5 * number} {1.5 * number + 1.5}" for number in range(12)] + ["beyond talk 20 21", "nowhere lost 0 1"]
    (folder / "segments").write_text("\n".join(parts), encoding="utf-8")
    texts = [f"part{number} {TEXTS[number]}" for number in range(12)] + ["beyond one two", "nowhere one two"]
    (folder / "text").write_text("\n".join(texts), encoding="utf-8")
    data = DataSection(source="speech", path=str(folder), validation_fraction=0.0)
    found = check_speech(data, ProcessorSection(), FRAMES)
    assert set(found.findings) - {"rare_characters"} == {"unreadable"}
    whys = {finding.clip.name: finding.why for finding in found.findings["unreadable"]}
    assert list(whys) == ["beyond", "nowhere"]
    assert "ends after 18.00 s" in whys["beyond"]
    assert found.unlisted_sounds == []


def test_names_of_files_may_be_anything(tmp_path, section, check):
    folder = tmp_path / "beside"
    folder.mkdir()
    for number, stem in enumerate(["plain", "line\nend", "\x1b[31mred", "no utf-8 \udce9"]):
        soundfile.write(folder / "sound.wav", np.zeros(RATE), RATE)
        (folder / "sound.wav").rename(folder / f"{stem}.wav")
        (folder / f"{stem}.txt").write_text(TEXTS[number], encoding="utf-8")
    data = DataSection(source="speech", path=str(folder), validation_fraction=0.0)
    found = check_speech(data, ProcessorSection(), FRAMES)
    assert len(found.findings["silence"]) == 4
    text = describe_check(found)
    text.encode("utf-8")
    assert "\x1b" not in text
    assert r"line\nend.wav" in text
    files = write_check(found, tmp_path / "report")
    names = [clip["clip"] for clip in json.loads(files[0].read_text(encoding="utf-8"))["problems"]["silence"]["clips"]]
    assert set(names) == {file.name for file in folder.glob("*.wav")}


def test_where_nothing_can_be_read_that_is_what_is_found(tmp_path, check):
    recordings = Recordings(tmp_path / "data", num_train=0, num_validation=0)
    recordings.add("train", "first.wav", "one two", b"no sound")
    recordings.add("validation", "second.wav", "one two", b"no sound")
    found = check(recordings)
    assert set(found.findings) == {"unreadable"}
    assert found.splits["train"].longest_seconds == 0
    assert draw_check(found, tmp_path / "picture.png").is_file()
    assert "training" in describe_check(found).lower()


def test_a_missing_package_is_told_once_and_is_no_fault_of_the_recordings(recordings, check, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'hflab\[speech\]'"):
        check(recordings)


def test_thousands_of_clips_take_little_memory(tmp_path):
    """2,000 clips of half a second are 64 MB as floats; what is kept of them is measures and texts."""
    soundfile.write(tmp_path / "one.wav", syllables(1, 0.5), RATE)
    clips = [Clip(Recording(tmp_path / "one.wav", f"clip {number}"), TEXTS[0]) for number in range(2000)]
    tracemalloc.start()
    found = checked_clips({"train": clips}, sampling_rate=RATE, normalizer=NORMALIZERS["basic"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2000
    assert len({clip.sound.digest for clip in found}) == 1
    assert peak < 20e6


def test_the_report_holds_everything(recordings, check, tmp_path):
    planted = {name: list(plant(recordings)) for name, plant in PLANTS.items()}
    found = check(recordings)
    files = write_check(found, tmp_path / "deep" / "report")
    facts = json.loads(files[0].read_text(encoding="utf-8"))
    assert facts["has_problems"] is True
    assert set(facts["problems"]) == set(PROBLEMS)
    for name, names in planted.items():
        problem = facts["problems"][name]
        assert problem["count"] == len(problem["clips"])
        assert set(names) <= {clip["clip"] for clip in problem["clips"]}
        assert problem["share"] == pytest.approx(problem["count"] / len(found.clips), abs=1e-6)
    with files[1].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip"], row["reason"]) for row in rows] == [(clip["clip"], clip["reason"]) for clip in facts["left_out"]]
    assert len(rows) == 3 + 5
    assert facts["splits"]["train"]["clips"] == len(recordings.rows["train"])
    assert facts["stored_as"][0] == {"sampling_rate": RATE, "num_channels": 1, "clips": found.stored_as[(RATE, 1)]}


@pytest.mark.parametrize("name", ["录音", "$x$ and \ue000"])
def test_the_picture_is_drawn_whatever_the_data_are_called(name, tmp_path, check):
    assert draw_check(check(Recordings(tmp_path / name)), tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_findings_give_the_same_picture(recordings, check, tmp_path):
    found = check(recordings)
    assert len({draw_check(found, tmp_path / name).read_bytes() for name in ("once.png", "again.png")}) == 1


def test_a_report_that_cannot_be_written_is_the_users_mistake(recordings, check, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="another --report FOLDER"):
        write_check(check(recordings), tmp_path / "taken")
