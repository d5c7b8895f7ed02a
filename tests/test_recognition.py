"""A speech recognizer from recipe to subtitles: trained, given a language model, opened again, evaluated and used on the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import hflab
from hflab import api
from hflab.cli import main
from hflab.errors import UserError
from hflab.hub.usage import OWN_RECORDING, execute_usage
from hflab.language_models import add_language_model
from hflab.recognition import DecoderChoice, TranscribeOptions, open_recognizer, transcribe
from hflab.speech.audio import wav_bytes
from hflab.speech.synthesis import Utterance, speak
from hflab.transcription.recordings import transcribe_waveform

pytest.importorskip("espeakng_loader")
SMALL = {
    "data.num_clips": 24,
    "model.hidden_size": 24,
    "model.num_hidden_layers": 1,
    "model.num_mel_bins": 20,
    "training.max_seconds": None,
    "training.num_steps": 6,
    "training.device": "cpu",
    "evaluation.sample_examples": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return api.train("ctc_synthetic_digits", SMALL, output=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Ten seconds in which a voice speaks three times."""
    spoken = speak("en-us+m3", [Utterance("one two three"), Utterance("four five"), Utterance("six")], 16000)
    waveform = np.concatenate([np.concatenate([part, np.zeros(24000, np.float32)]) for part in spoken])
    file = tmp_path_factory.mktemp("talk") / "talk.wav"
    file.write_bytes(wav_bytes(waveform, 16000))
    return file


@pytest.fixture(scope="module")
def helped(run, tmp_path_factory):
    """The run with a language model, and nothing else changed."""
    copy = shutil.copytree(run.path, tmp_path_factory.mktemp("helped") / "helped")
    hflab.add_language_model(copy, order=2, num_beams=4)
    return Path(copy)


def test_a_run_is_whole(run):
    facts = run.read_facts()
    assert facts["status"] == "finished"
    assert facts["data"]["is_synthetic"]
    assert 0 < facts["evaluation"]["word_error_rate"] <= 2
    assert facts["usage"].get("error") is None
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "Synthetic speech" in card
    assert "No human speaks" in card
    assert "automatic-speech-recognition" in card
    assert (run.model / "sample.wav").stat().st_size > 1000


def test_an_evaluation_repeats_the_figures_of_the_run(run):
    figures = api.evaluate(run.path, split="test")
    recorded = run.read_facts()["evaluation"]
    assert {name: figures[name] for name in figures} == {name: recorded[name] for name in figures}


def test_a_language_model_is_saved_with_the_model_and_taken_by_default(run):
    found = add_language_model(run.path, order=2)
    assert set(found.greedy) == {"validation", "test"}
    assert found.with_language_model["validation"] <= found.greedy["validation"]
    assert {"ctc_decoder.json", "language_model.arpa.gz"} <= {file.name for file in run.model.iterdir()}
    assert run.read_facts()["language_model"]["order"] == 2
    with_model, greedy = open_recognizer(run.path), open_recognizer(run.path, DecoderChoice(num_beams=1))
    assert with_model.decode is not greedy.decode
    waveform = speak("en-us+m3", [Utterance("one two three")], 16000)[0]
    assert transcribe_waveform(with_model, waveform).seconds == len(waveform) / 16000
    beams = api.evaluate(run.path, split="validation", overrides={"evaluation.num_beams": 8})
    assert beams["word_error_rate"] <= api.evaluate(run.path, split="validation")["word_error_rate"]


def test_a_text_of_the_user_makes_the_language_model(run, tmp_path):
    text = tmp_path / "sentences.txt"
    text.write_text("One two three!\nFour five six.\n" * 5, encoding="utf-8")
    found = add_language_model(run.path, text, order=3)
    assert found.text == "sentences.txt"


def test_what_cannot_be_a_language_model_is_refused(run, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no words"):
        add_language_model(run.path, tmp_path / "empty.txt")
    with pytest.raises(UserError, match="There is no text"):
        add_language_model(run.path, tmp_path / "none.txt")
    with pytest.raises(UserError, match="order from 1 to 6"):
        add_language_model(run.path, order=9)


def test_contradicting_choices_of_a_decoder_are_refused(run):
    with pytest.raises(UserError, match="One beam is a greedy search"):
        open_recognizer(run.path, DecoderChoice(num_beams=1, hot_words=("one",)))
    with pytest.raises(UserError, match="at least 1"):
        open_recognizer(run.path, DecoderChoice(num_beams=0))


def test_transcripts_are_printed(run, recording, capsys):
    assert main(["transcribe", str(run.path), str(recording), "--format", "json", "--beams", "1"]) == 0
    assert "captions" in json.loads(capsys.readouterr().out)


def test_a_folder_is_written_once(run, recording, tmp_path, capsys):
    command = ["transcribe", str(run.path), str(recording.parent), "--output", str(tmp_path / "texts"), "--format", "srt,txt"]
    assert main(command) == 0
    written = sorted(file.name for file in (tmp_path / "texts").iterdir())
    assert written == ["talk.srt", "talk.txt"]
    before = (tmp_path / "texts" / "talk.txt").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0
    assert "(was there)" in capsys.readouterr().out
    assert (tmp_path / "texts" / "talk.txt").stat().st_mtime_ns == before
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "texts" / "talk.txt").stat().st_mtime_ns > before


def test_a_recording_that_cannot_be_read_keeps_no_other_back(run, recording, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    (sounds / "a.wav").write_bytes(b"RIFF and nothing else")
    (sounds / "b.wav").write_bytes(recording.read_bytes())
    assert main(["transcribe", str(run.path), str(sounds), "--output", str(tmp_path / "texts")]) == 2
    said = capsys.readouterr()
    assert "a.wav" in said.err
    assert "1 could not be read" in said.err
    assert (tmp_path / "texts" / "b.txt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.wav"], "There is no recording"),
        (["--stream", "-", "x.wav"], "one source"),
        (["--stream", "--format", "srt"], "leave --output and --format out"),
        (["--stream", "x.wav"], "choose from: -, microphone|one-directional|reads in one direction"),
        (["--format", "doc", "x.wav"], "The format is 'doc'"),
        (["--format", "srt,txt"], "go with --output"),
        (["--segments", "magic"], "choose from: auto, silero, energy, windows"),
        (["--max-seconds", "0"], "must be 1 seconds or more"),
    ],
)
def test_mistakes_are_told_in_a_line(run, recording, words, message, capsys):
    given = words if words[-1].endswith(".wav") else [str(recording), *words]
    assert main(["transcribe", str(run.path), *given]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_report_has_the_language_model_beside_greedy_decoding_and_changes_no_figure(helped, tmp_path, capsys):
    page = tmp_path / "new" / "report.html"
    figures = hflab.evaluate(helped, split="test", report=page)
    assert figures == hflab.evaluate(helped, split="test")
    text = page.read_text(encoding="utf-8")
    for expected in (
        "helped on the test split",
        "with language model",
        "No human speaks",
        "By speaker",
        "By condition",
        "beam search, 4 beams; 2-grams",
    ):
        assert expected in text
    assert f"{100 * figures['word_error_rate']:.2f}\N{NO-BREAK SPACE}%" in text
    assert text.count('src="data:audio/wav;base64,') >= 3
    assert text.count("times real time") == 2
    assert str(helped.parent) not in text
    assert main(["evaluate", str(helped), "--report", str(tmp_path / "report.md")]) == 0
    assert f"Report: {tmp_path / 'report.md'}" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for expected in ("With language model: ", "Normalizer basic: ", "weights were chosen on these clips", "## The 3 worst rows", "Run on: cpu"):
        assert expected in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("report.pdf", r"must end in \.md or \.html"), ("", "must end in"), ("file/report.html", "cannot be written"), ("folder.html", "is a folder")],
)
def test_a_report_that_cannot_be_written_is_told_before_the_model_is_run(run, tmp_path, name, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.html").mkdir()
    # a split that does not exist is a mistake too, but it is seen only when the data are read
    with pytest.raises(UserError, match=message):
        hflab.evaluate(run.path, split="none", report=tmp_path / name)


def test_python_writes_down_what_the_command_does(run, recording, tmp_path, capsys):
    (written,) = hflab.transcribe(run.path, recording, TranscribeOptions(num_beams=1))
    assert (written.recording, written.files, written.problem) == (recording, [], None)
    assert written.spoken.seconds == pytest.approx(10, abs=5)
    assert main(["transcribe", str(run.path), str(recording), "--beams", "1"]) == 0
    assert capsys.readouterr().out == written.spoken.text + "\n"
    told = []
    (again,) = transcribe(open_recognizer(run.path, DecoderChoice(num_beams=1)), [recording.parent], report=told.append)
    assert again.spoken.text == written.spoken.text
    assert sum(told) == pytest.approx(written.spoken.seconds)
    (kept,) = hflab.transcribe(run.path, str(recording), TranscribeOptions(output=tmp_path, formats=("vtt",)))
    assert kept.files == [tmp_path / "talk.vtt"]
    assert kept.files[0].read_text(encoding="utf-8").startswith("WEBVTT")


def test_mistakes_are_told_before_the_first_recording_is_asked_for(run, recording, tmp_path):
    with pytest.raises(UserError, match="There is no recording"):
        hflab.transcribe(run.path, tmp_path / "none.wav")
    with pytest.raises(UserError, match="There is no folder"):
        hflab.transcribe(tmp_path / "no" / "model", recording)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": "txt"}, "give a list"),
        ({"formats": ["doc"]}, "'doc', which does not exist"),
        ({"overwrite": True}, "output folder"),
        ({"batch_seconds": 0}, "more than 0"),
        ({"segments": "magic"}, "choose from"),
    ],
)
def test_options_of_python_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        TranscribeOptions(**options)


def test_an_open_recognizer_has_its_decoder(run, recording):
    recognizer = open_recognizer(run.path, DecoderChoice(num_beams=1))
    with pytest.raises(UserError, match="open already"):
        transcribe(recognizer, recording, TranscribeOptions(num_beams=4))


def test_the_example_for_own_recordings_runs_once_there_is_one(run, tmp_path, monkeypatch, capsys):
    folder = Path(shutil.copytree(run.model, tmp_path / "model", ignore=shutil.ignore_patterns("sample.wav")))
    usage = execute_usage(folder, str(folder), "sample.wav", "speech_recognition")
    assert usage["sampling_rate"] == 16000
    shutil.copy(run.model / "sample.wav", tmp_path / OWN_RECORDING)
    monkeypatch.chdir(tmp_path)
    exec(compile(usage["code"], "usage", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == run.read_facts()["usage"]["output"]


def test_the_card_shows_what_the_language_model_does(helped):
    card = (helped / "model" / "README.md").read_text(encoding="utf-8")
    assert "### With the language model" in card
    assert "No human speaks in its data" in card
