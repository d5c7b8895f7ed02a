import io
import json
import os
import signal
import types

import numpy as np
import pytest
from tone_recognizer import build, recording

from hflab.errors import UserError
from hflab.speech.audio import as_integers, wav_bytes
from hflab.speech.subtitles import CaptionWord
from hflab.transcription import live
from hflab.transcription.live import CLEARED_LINE, event_writer, transcribe_live, write_live
from hflab.transcription.streaming import StreamEvent, StreamingRecognizer


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def talk():
    """A waveform, and what is said in it."""
    waveform, texts, _ = recording(np.random.default_rng(21), 3)
    return waveform, texts


def from_standard_input(monkeypatch, data):
    monkeypatch.setattr(live.sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))


def written(events, output, **settings):
    write = event_writer(output, **settings)
    for event in events:
        write(event)
    return output.getvalue()


def event(kind, text):
    return StreamEvent(kind, [CaptionWord(word, 0.12345, 1.0, 0.9) for word in text.split()], " ")


def test_standard_input_becomes_lines(trained, talk, monkeypatch):
    waveform, texts = talk
    for data in (as_integers(waveform).tobytes(), wav_bytes(waveform, 8000)):
        from_standard_input(monkeypatch, data)
        output = io.StringIO()
        transcribe_live(trained, "-", output)
        assert output.getvalue().splitlines() == texts


def test_standard_input_becomes_lines_of_json(trained, talk, monkeypatch):
    waveform, texts = talk
    from_standard_input(monkeypatch, waveform.tobytes())
    output = io.StringIO()
    transcribe_live(trained, "-", output, json_lines=True, sample_format="f32le")
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [event["text"] for event in events if event["kind"] == "final"] == texts
    assert {event["kind"] for event in events} == {"partial", "final"}
    for event in events:
        assert event["text"] == " ".join(word["text"] for word in event["words"])
        assert all(0 <= word["start"] <= word["end"] and 0 <= word["confidence"] <= 1 for word in event["words"])


def test_mistakes_are_told_before_anything_is_read(trained):
    with pytest.raises(UserError, match=r"'micro'.*Did you mean 'microphone'"):
        transcribe_live(trained, "micro", io.StringIO())
    with pytest.raises(UserError, match="both directions"):
        transcribe_live(build(bidirectional=True), "-", io.StringIO())


def test_a_terminal_shows_the_running_utterance_on_one_line(monkeypatch):
    events = [event("partial", "ab"), event("partial", "ab c"), event("final", "ab c"), event("partial", "b"), event("final", "")]
    lines = [CLEARED_LINE + text for text in ("ab", "ab c", "ab c\n", "b", "")]
    assert written(events, Terminal()) == "".join(lines)
    assert written(events, io.StringIO()) == "ab c\n"
    monkeypatch.setenv("COLUMNS", "11")
    monkeypatch.setenv("LINES", "20")
    assert written([event("partial", "abcde fghij")], Terminal()) == CLEARED_LINE + "…cde fghij"
    assert written([event("partial", "好好好好 好好")], Terminal()) == CLEARED_LINE + "…好好 好好"
    assert written([event("final", "abcde fghij")], Terminal()) == CLEARED_LINE + "abcde fghij\n"


def test_no_control_character_of_a_vocabulary_reaches_a_terminal():
    assert "\x1b" not in written([event("partial", "a\x1b[2Jb")], Terminal()).removeprefix(CLEARED_LINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_waiting_makes_what_was_heard_final(trained, talk, number):
    waveform, texts = talk
    before = signal.getsignal(number)
    finals = []

    def blocks():
        yield waveform[: len(waveform) * 2 // 3]
        os.kill(os.getpid(), number)
        raise AssertionError("the interruption was not heeded")

    write_live(StreamingRecognizer(trained), blocks(), lambda event: finals.append(event.text) if event.kind == "final" else None)
    assert finals
    assert " ".join(texts).startswith(" ".join(finals))
    assert signal.getsignal(number) == before


def test_an_interruption_at_work_lets_the_block_be_finished(trained, talk):
    waveform, _ = talk
    given, seen = [], []

    def blocks():
        for first in range(0, len(waveform), 4000):
            given.append(first)
            yield waveform[first : first + 4000]

    def write(event):
        seen.append(event)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    write_live(StreamingRecognizer(trained), blocks(), write)
    assert seen[-1].kind == "final"
    assert len(given) < len(waveform) / 4000 / 2


def test_a_second_interruption_ends_at_once(trained, talk):
    waveform, _ = talk
    before = signal.getsignal(signal.SIGINT)

    def write(event):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        write_live(StreamingRecognizer(trained), iter([waveform]), write)
    assert signal.getsignal(signal.SIGINT) == before
