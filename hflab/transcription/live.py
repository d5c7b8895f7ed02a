"""Live recognition from a source to a terminal, a file or another program.

    transcribe_live(recognizer, "-", sys.stdout, options)                         # lines of text
    transcribe_live(recognizer, "microphone", sys.stdout, json_lines=True)        # an object per event

On a terminal the running utterance is written over and over on one line, elsewhere only final lines are written. Ctrl-C ends the sound, not the
program: what was heard so far becomes final.
"""

import io
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO, cast

import numpy as np

from ..errors import check_choice
from ..speech.subtitles import columns
from .live_sources import microphone_blocks, standard_input_blocks
from .recognizer import Recognizer
from .streaming import StreamEvent, StreamingOptions, StreamingRecognizer

SOURCES = ("-", "microphone")
CLEARED_LINE = "\r\x1b[K"


def transcribe_live(
    recognizer: Recognizer,
    source: str,
    output: TextIO,
    options: StreamingOptions | None = None,
    *,
    json_lines: bool = False,
    sample_format: str = "s16le",
) -> None:
    """Write down a source until it ends, or until Ctrl-C or SIGTERM; a second Ctrl-C raises `KeyboardInterrupt`.

    Args:
        recognizer: with a one-directional recurrent model.
        source: "-" for standard input or "microphone".
        output: gets a line for each utterance, and on a terminal what is known before its end.
        options: of the recognition.
        json_lines: write each event, partial ones too, as a line of JSON with the words' times and confidences.
        sample_format: of raw samples on standard input: s16le or f32le.

    Raises:
        UserError: the model cannot hear live sound, there is no such source, or it cannot be read.
    """
    check_choice("The source of live sound", source, SOURCES)
    live = StreamingRecognizer(recognizer, options)
    if source == "-":
        blocks = standard_input_blocks(cast(io.BufferedIOBase, sys.stdin.buffer), recognizer.sampling_rate, sample_format)
    else:
        blocks = microphone_blocks(recognizer.sampling_rate)
    write_live(live, blocks, event_writer(output, json_lines=json_lines))


def write_live(live: StreamingRecognizer, blocks: Iterator[np.ndarray], write: Callable[[StreamEvent], None]) -> None:
    """Feed the blocks, (N,) float32 each, and write every event; interrupted as in `transcribe_live`."""
    with _Interruption() as interruption:
        while (samples := interruption.next_of(blocks)) is not None:
            for event in live.feed(samples):
                write(event)
        for event in live.finish():
            write(event)


def event_writer(output: TextIO, *, json_lines: bool = False) -> Callable[[StreamEvent], None]:
    """What writes an event to `output`; see `transcribe_live`."""
    text_of = _json_line if json_lines else _on_terminal if output.isatty() else _final_line

    def write(event: StreamEvent) -> None:
        output.write(text_of(event))
        output.flush()

    return write


def _json_line(event: StreamEvent) -> str:
    words = [word._asdict() | {"start": round(word.start, 3), "end": round(word.end, 3)} for word in event.words]
    return json.dumps({"kind": event.kind, "text": event.text, "words": words}, ensure_ascii=False) + "\n"


def _final_line(event: StreamEvent) -> str:
    return event.text + "\n" if event.kind == "final" and event.words else ""


def _on_terminal(event: StreamEvent) -> str:
    """Over what the line holds; of a partial text that is longer than the line its end."""
    text = event.text
    if event.kind == "final":
        return CLEARED_LINE + _final_line(event)
    most = max(1, shutil.get_terminal_size().columns - 1)
    if columns(text) > most:
        while columns(text) > most - 1:
            text = text[1:]
        text = "…" + text
    return CLEARED_LINE + text


class _Interruption:
    """While it is entered, the first SIGINT or SIGTERM ends the blocks, at once if they are being waited for; a second SIGINT raises.

    Outside the main thread, where Python allows no signal handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self._is_asked = self._is_waiting = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` returned

    def next_of(self, blocks: Iterator[np.ndarray]) -> np.ndarray | None:
        """The next block, or None after the last one or an interruption."""
        try:
            self._is_waiting = True
            return None if self._is_asked else next(blocks, None)
        except KeyboardInterrupt:
            return None
        finally:
            self._is_waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting or (self._is_asked and number == signal.SIGINT):
            self._is_waiting, self._is_asked = False, True
            raise KeyboardInterrupt
        self._is_asked = True
