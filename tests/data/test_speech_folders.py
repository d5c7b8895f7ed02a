import json
import logging
import os

import pyarrow
import pyarrow.parquet
import pytest

from hflab.data.clips import Recording
from hflab.data.speech_folders import TableColumns, read_clips, sounds_below
from hflab.errors import UserError
from hflab.speech.audio import EXTENSIONS

PLAIN = TableColumns("audio", "text")
FULL = TableColumns("audio", "text", "speaker", "room")
ROWS = [
    {"audio": "a.wav", "text": "one, two", "speaker": "Ann", "room": "hall"},
    {"audio": "deep/b.flac", "text": "three", "speaker": "Bob", "room": None},
]


@pytest.fixture
def folder(tmp_path, write):
    """A folder of files whose content no test here decodes; returns its path."""

    def folder(files):
        for name, content in files.items():
            write(f"speech/{name}", content)
        return str(tmp_path / "texts" / "speech")

    return folder


def as_csv(rows, columns=("audio", "text", "speaker", "room"), delimiter=","):
    quoted = [[json.dumps(row[column] or "") if delimiter == "," else row[column] or "" for column in columns] for row in rows]
    return "\n".join(delimiter.join(values) for values in [columns, *quoted]) + "\n"


def as_jsonl(rows):
    return "\n".join(json.dumps(row) for row in rows)


def as_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


SOUNDS = {"a.wav": "-", "deep/b.flac": "-"}


def summary(clips):
    return [(clip.audio.name, clip.text, clip.speaker, clip.condition) for clip in clips]


def refusal(given, columns=PLAIN):
    with pytest.raises(UserError) as caught:
        read_clips(given, columns)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_table_names_sounds_beside_it(folder, tmp_path, suffix, alone):
    written = {".csv": as_csv(ROWS), ".tsv": as_csv(ROWS, delimiter="\t"), ".jsonl": as_jsonl(ROWS), ".parquet": ""}[suffix]
    path = folder({**SOUNDS, f"metadata{suffix}": written})
    if suffix == ".parquet":
        as_parquet(f"{path}/metadata.parquet", ROWS)
    splits = read_clips(f"{path}/metadata{suffix}" if alone else path, FULL)
    assert set(splits) == {"train"}
    assert summary(splits["train"]) == [("a.wav", "one, two", "Ann", "hall"), ("deep/b.flac", "three", "Bob", None)]
    assert [str(clip.audio.source) for clip in splits["train"]] == [f"{path}/a.wav", f"{path}/deep/b.flac"]
    assert all(clip.audio.is_there for clip in splits["train"])
    assert splits["train"][1].audio.listed.endswith(f"of metadata{suffix}")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_audio_folders_of_the_hub_are_read_as_they_are(folder, suffix):
    rows = [{"file_name": row["audio"], "transcription": row["text"]} for row in ROWS]
    path = folder(
        {**SOUNDS, f"metadata{suffix}": {".csv": as_csv(rows, ("file_name", "transcription")), ".jsonl": as_jsonl(rows), ".parquet": ""}[suffix]}
    )
    if suffix == ".parquet":
        as_parquet(f"{path}/metadata.parquet", rows)
    assert summary(read_clips(path, PLAIN)["train"]) == [("a.wav", "one, two", None, None), ("deep/b.flac", "three", None, None)]


def test_a_column_that_the_user_names_stands_for_itself_alone(folder):
    rows = [{"file_name": row["audio"], "text": row["text"]} for row in ROWS]
    columns = ("file_name", "text")
    assert "has no column 'sound'; set data.audio_column" in refusal(
        folder({**SOUNDS, "m.csv": as_csv(rows, columns)}), TableColumns("sound", "text")
    )


def test_columns_that_are_not_asked_for_are_not_read(folder):
    assert summary(read_clips(folder({**SOUNDS, "m.csv": as_csv(ROWS)}), PLAIN)["train"])[0] == ("a.wav", "one, two", None, None)


def test_a_speaker_may_be_a_number_or_missing(folder):
    rows = [{**ROWS[0], "speaker": speaker} for speaker in (7, None, "", "  ", "Ann ")]
    assert [clip.speaker for clip in read_clips(folder({"m.jsonl": as_jsonl(rows)}), FULL)["train"]] == ["7", None, None, None, "Ann"]


@pytest.mark.parametrize(
    ("columns", "fragments"),
    [
        (TableColumns("audoi", "text"), ["no column 'audoi'", "data.audio_column", "'audio', 'text'", "Did you mean 'audio'?"]),
        (TableColumns("audio", "txt"), ["no column 'txt'", "data.text_column", "Did you mean 'text'?"]),
        (TableColumns("audio", "text", "speeker"), ["no column 'speeker'", "data.speaker_column", "Did you mean 'speaker'?"]),
        (TableColumns("audio", "text", None, "rom"), ["no column 'rom'", "data.condition_column", "Did you mean 'room'?"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_wrong_column_names_the_key_and_the_nearest(folder, suffix, columns, fragments):
    message = refusal(folder({f"m{suffix}": as_csv(ROWS) if suffix == ".csv" else as_jsonl(ROWS)}), columns)
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("m.csv", "audio,text\n,one\n", ["Line 2 of m.csv names no sound in the column 'audio'"]),
        ("m.csv", "audio,text\na.wav\n", ["Line 2 of m.csv has 1 fields"]),
        ("m.csv", "audio,text\n", ["'m.csv' has no rows"]),
        ("m.csv", "", ["'m.csv' has no rows"]),
        ("m.jsonl", '{"audio": null, "text": "a"}', ["Line 1", "null in the column 'audio'"]),
        ("m.jsonl", '{"audio": "a.wav", "text": 5}', ["Line 1", "'5' (int) in the column 'text'"]),
        ("m.jsonl", '{"audio": {"path": "a.wav"}, "text": "a"}', ["Line 1", "(dict) in the column 'audio'"]),
        ("m.csv", "audio,text\na.wav,caf\u00e9\n".encode("latin-1"), ["is not UTF-8", "iconv -f latin-1"]),
        ("m.csv", "audio,text\na.wav,x\n".encode("utf-16"), ["UTF-16"]),
        ("m.parquet", b"PAR1 no table", ["damaged or no Parquet file"]),
    ],
)
def test_a_bad_table_is_refused_with_the_place(folder, name, content, fragments):
    message = refusal(folder({name: content}))
    for fragment in fragments:
        assert fragment in message


def test_a_sound_that_is_not_there_says_which_row_names_it(folder):
    """It is the sound's reader that finds it missing, so that `hflab data check` can list all of them."""
    names = ["gone.wav", "x" * 5000, "nul\\u0000.wav", "deep"]
    path = folder({"m.jsonl": "\n".join(f'{{"audio": "{name}", "text": "a"}}' for name in names), "deep/c.wav": ""})
    for number, clip in enumerate(read_clips(path, PLAIN)["train"], start=1):
        assert not clip.audio.is_there
        assert clip.audio.absence.startswith(f"Line {number} of m.jsonl names the sound {clip.audio.name!r}, and there is no file")


def test_a_table_of_the_user_may_name_any_file_of_the_user(folder, tmp_path):
    (tmp_path / "elsewhere.wav").write_text("-")
    path = folder({"rows/m.csv": f"audio,text\n{tmp_path}/elsewhere.wav,absolute\n../../../elsewhere.wav,above\n"})
    clips = read_clips(f"{path}/rows", PLAIN)["train"]
    assert [clip.text for clip in clips] == ["absolute", "above"]
    assert all(clip.audio.source.samefile(tmp_path / "elsewhere.wav") for clip in clips)


def test_several_tables_of_a_folder_are_one_split(folder):
    path = folder({"b.csv": as_csv(ROWS[:1]), "a.jsonl": as_jsonl(ROWS[1:])})
    assert [clip.text for clip in read_clips(path, PLAIN)["train"]] == ["three", "one, two"]


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("training", "dev", "test"), ("Train", "VAL", "Test"), ("train", "valid", "test")]
)
@pytest.mark.parametrize("kind", ["tables", "folders of tables", "folders of sounds"])
def test_names_of_splits_are_respected(folder, names, kind):
    files = {}
    for name in names:
        if kind == "tables":
            files[f"{name}.csv"] = as_csv([{**ROWS[0], "text": name}])
        elif kind == "folders of tables":
            files |= {f"{name}/metadata.csv": as_csv([{**ROWS[0], "text": name}]), f"{name}/a.wav": "-"}
        else:
            files |= {f"{name}/Ann/a.wav": "-", f"{name}/Ann/a.txt": name}
    splits = read_clips(folder(files), PLAIN)
    assert {role: [clip.text for clip in clips] for role, clips in splits.items()} == dict(
        zip(("train", "validation", "test"), ([name] for name in names), strict=True)
    )
    if kind == "folders of tables":
        assert all(clips[0].audio.is_there for clips in splits.values())
    if kind == "folders of sounds":
        assert {clips[0].speaker for clips in splits.values()} == {"Ann"}


def test_two_names_of_one_split_are_both_read(folder):
    path = folder({"train.csv": as_csv(ROWS[:1]), "train.jsonl": as_jsonl(ROWS[1:]), "dev.csv": as_csv(ROWS[:1]), "val.csv": as_csv(ROWS[1:])})
    assert {role: len(clips) for role, clips in read_clips(path, PLAIN).items()} == {"train": 2, "validation": 2}


@pytest.mark.parametrize("files", [{"test.csv": as_csv(ROWS), "more.csv": as_csv(ROWS)}, {"test/a.wav": "-", "test/a.txt": "a"}])
def test_a_test_split_is_never_trained_on_for_want_of_another(folder, files):
    message = refusal(folder(files))
    assert "named for splits (test" in message
    assert "none named train; add one" in message


def test_tables_beside_those_of_splits_are_left_out_with_a_warning(folder, caplog):
    """As in Common Voice: train.tsv, dev.tsv and test.tsv beside validated.tsv and others."""
    others = ["clip_durations", "invalidated", "other", "reported", "times", "validated"]
    path = folder({f"{name}.tsv": as_csv(ROWS, delimiter="\t") for name in ["train", "dev", "test", *others]})
    assert {role: len(clips) for role, clips in read_clips(path, PLAIN).items()} == {"train": 2, "validation": 2, "test": 2}
    assert "left out: clip_durations.tsv, invalidated.tsv, other.tsv, reported.tsv, times.tsv and 1 more." in caplog.text


def test_a_text_beside_each_sound(folder):
    path = folder(
        {
            **{f"Ann/{number}.wav": "-" for number in range(2)},
            **{f"Ann/{number}.txt": f"text {number}\r\n" for number in range(2)},
            "Bob/session 1/c.flac": "-",
            "Bob/session 1/c.txt": "\ufeff\u4f60\u597d\n",
            "Bob/session 2/c.FLAC": "-",
            "Bob/session 2/c.txt": "",
            "top.mp3": "-",
            "top.txt": "on top",
            ".hidden/h.wav": "-",
            ".hidden/h.txt": "hidden",
            "notes.txt": "no sound",
            "picture.png": "-",
        }
    )
    assert summary(read_clips(path, PLAIN)["train"]) == [
        ("Ann/0.wav", "text 0", "Ann", None),
        ("Ann/1.wav", "text 1", "Ann", None),
        ("Bob/session 1/c.flac", "\u4f60\u597d", "Bob", None),
        ("Bob/session 2/c.FLAC", "", "Bob", None),
        ("top.mp3", "on top", None, None),
    ]
    assert len(sounds_below(path)) == 5
    assert sounds_below(f"{path}/top.mp3") == []


def test_sounds_without_a_text_are_left_out_with_a_warning(folder, caplog):
    path = folder({"a.wav": "-", "a.txt": "a", **{f"without{number}.wav": "-" for number in range(7)}})
    assert len(read_clips(path, PLAIN)["train"]) == 1
    assert "7 of 8 sound files have no .txt file" in caplog.text
    assert "without0.wav" in caplog.text
    assert "and 2 more" in caplog.text


def test_every_extension_of_sounds_is_found(folder):
    files = {f"clip{number}{suffix}": "-" for number, suffix in enumerate(EXTENSIONS)}
    texts = {f"clip{number}.txt": suffix for number, suffix in enumerate(EXTENSIONS)}
    assert {clip.text for clip in read_clips(folder(files | texts), PLAIN)["train"]} == set(EXTENSIONS)


def test_a_text_that_is_not_utf8_is_named(folder):
    message = refusal(folder({"a.wav": "-", "a.txt": "caf\u00e9 cr\u00e8me".encode("latin-1")}))
    assert "a.txt' is not UTF-8" in message
    assert "iconv -f latin-1 -t utf-8 a.txt" in message


@pytest.mark.parametrize("files", [{}, {"notes.txt": "a"}, {"a.wav": "-"}, {"Ann/a.wav": "-", "Ann/b.txt": "b"}])
def test_a_folder_without_transcripts_says_what_it_needs(folder, tmp_path, files):
    os.makedirs(tmp_path / "texts" / "speech")
    message = refusal(folder(files))
    assert f"has {sum(name.endswith('.wav') for name in files)} sound files and no transcripts: put a .txt file" in message
    assert "data.audio_column, data.text_column" in message


def test_what_is_not_there_names_the_nearest(folder, tmp_path):
    folder({"a.wav": "-"})
    assert "Did you mean 'speech'?" in refusal(str(tmp_path / "texts" / "speach"))
    assert "'a.wav' is no table; give a folder of sounds or one of: .jsonl" in refusal(str(tmp_path / "texts" / "speech" / "a.wav"))


def test_links_to_files_are_followed_and_links_to_folders_below_are_not(folder, tmp_path):
    path = folder({"Ann/a.wav": "-", "Ann/a.txt": "a", "m/rows.csv": as_csv(ROWS[:1])})
    os.symlink(path, tmp_path / "linked")
    assert summary(read_clips(str(tmp_path / "linked" / "m"), PLAIN)["train"]) == [("a.wav", "one, two", None, None)]
    os.symlink(f"{path}/Ann/a.wav", f"{path}/Ann/b.wav")
    os.symlink(f"{path}/Ann/a.txt", f"{path}/Ann/b.txt")
    os.symlink(path, f"{path}/Ann/again")  # a circle
    os.symlink(f"{path}/gone.wav", f"{path}/Ann/c.wav")
    os.remove(f"{path}/m/rows.csv")
    assert [clip.audio.name for clip in read_clips(str(tmp_path / "linked"), PLAIN)["train"]] == ["Ann/a.wav", "Ann/b.wav"]


KALDI = {
    "wav.scp": "call1 sounds/call1.wav\ncall2 /data/call2.flac\n",
    "text": "utt1 hello  world\nutt2 \u4f60\u597d\u2028\u4e16\u754c\nutt3\n",
    "segments": "utt1 call1 0.5 2.25\nutt2 call2 0 1e1\nutt3 call1 2.25 -1\n",
    "utt2spk": "utt1 Ann\nutt2 Bob\n",
    "sounds/call1.wav": "-",
}


def test_lists_of_kaldi(folder):
    path = folder(KALDI)
    splits = read_clips(path, PLAIN)
    assert summary(splits["train"]) == [
        ("utt1", "hello  world", "Ann", None),
        ("utt2", "\u4f60\u597d\u2028\u4e16\u754c", "Bob", None),
        ("utt3", "", None, None),
    ]
    sounds = [(str(clip.audio.source), clip.audio.start_seconds, clip.audio.end_seconds) for clip in splits["train"]]
    assert sounds == [(f"{path}/sounds/call1.wav", 0.5, 2.25), ("/data/call2.flac", 0.0, 10.0), (f"{path}/sounds/call1.wav", 2.25, None)]


def test_lists_of_kaldi_without_segments_and_in_folders_of_splits(folder):
    whole = {"wav.scp": "a a.wav\nb b.wav\n", "text": "b second\na first\n", "a.wav": "-"}
    path = folder({f"{split}/{name}": content for split in ("train", "test") for name, content in whole.items()})
    splits = read_clips(path, PLAIN)
    assert set(splits) == {"train", "test"}
    assert summary(splits["test"]) == [("b", "second", None, None), ("a", "first", None, None)]
    first = splits["test"][1].audio
    assert first == Recording(first.source, "a", 0.0, None)
    assert str(first.source) == f"{path}/test/a.wav"


@pytest.mark.parametrize("command", ["touch {marker} |", "cat a.wav |  ", "sox a.wav -t wav - |"])
def test_a_command_of_kaldi_is_refused_and_never_run(folder, tmp_path, command):
    marker = tmp_path / "was run"
    message = refusal(folder({"wav.scp": f"a {command.format(marker=marker)}\n", "text": "a first\n"}))
    assert "'a' of wav.scp is a command" in message
    assert "hflab runs no commands of data: decode it to a file first" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    ("files", "fragments"),
    [
        ({"text": None}, ["has wav.scp but no text; add it"]),
        ({"text": "\n \n"}, ["'text' of 'speech' is empty"]),
        ({"wav.scp": ""}, ["'utt1' of text needs the sound 'call1', which wav.scp does not have"]),
        ({"segments": "utt1 call1 0.5\n"}, ["'utt1' has no line 'NAME SOUND START END' in segments"]),
        ({"segments": "utt1 call1 zero one\n"}, ["'utt1' has no line"]),
        ({"segments": "utt2 call1 0 1\n"}, ["'utt1' has no line"]),
        ({"segments": "utt1 call9 0 1\n"}, ["'call9', which wav.scp does not have"]),
        ({"text": "utt1 a\nutt1 b\n"}, ["'text' has more than one line for utt1"]),
        ({"utt2spk": "utt1 a\nutt1 b\n"}, ["'utt2spk' has more than one line for utt1"]),
        ({"text": "utt1 caf\u00e9".encode("latin-1")}, ["is not UTF-8"]),
    ],
)
def test_mistakes_in_lists_of_kaldi(folder, files, fragments):
    message = refusal(folder({name: content for name, content in (KALDI | files).items() if content is not None}))
    for fragment in fragments:
        assert fragment in message


def test_impossible_times_of_kaldi_are_left_to_the_reader_of_sound(folder, caplog):
    with caplog.at_level(logging.WARNING):
        clips = read_clips(folder(KALDI | {"segments": "utt1 call1 nan 1\nutt2 call1 3 2\nutt3 call1 -2 1\n"}), PLAIN)["train"]
    assert [clip.audio.start_seconds for clip in clips][1:] == [3, -2]
