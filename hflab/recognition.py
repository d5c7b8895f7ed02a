"""A speech recognizer by run folder, model folder or Hub id, with the decoder that is asked for, and recordings written down by it.

    for written in transcribe("runs/ctc_synthetic_digits", "talks", TranscribeOptions(hot_words=("Aristotle",))):
        print(written.recording, written.spoken.text)
    recognizer = open_recognizer("runs/ctc_synthetic_digits")    # opened once, used often

Joins what opens models (`measuring.py`) with what hears (`transcription`).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCTC

from .errors import UserError
from .measuring import load_feature_extractor, load_headed_model, load_saved_decoder, model_folder
from .speech.ctc_beam_search import BeamOptions, beam_decode
from .speech.ctc_decoding import CtcAlphabet, greedy_decode
from .speech.language_model import load_language_model
from .speech.segmentation import SegmentationOptions
from .transcription.recognizer import BATCH_SECONDS, Recognizer
from .transcription.recordings import TranscriptionOptions, find_recordings, transcribe_file
from .transcription.writing import WritingOptions, Written, write_transcripts


@dataclass(frozen=True)
class DecoderChoice:
    """How the outputs of a model become text. By default as it was saved: with its language model if it has one, else greedily."""

    num_beams: int | None = None
    """1: greedily; more: beam search."""
    language_model: str | Path | None = None
    """An ARPA file, or one of kenlm's, instead of the saved one."""
    hot_words: Sequence[str] = ()
    """Words and phrases to expect; they need a beam search."""


@dataclass(frozen=True)
class TranscribeOptions:
    """How recordings are written down; each field is an option of `hflab transcribe`.

    Raises:
        UserError: a number is out of its range, a name does not exist, or something goes with `output` only.
    """

    output: str | Path | None = None
    """Folder to write a file into for each recording and format; None: nothing is written."""
    formats: Sequence[str] = ("txt",)
    """Of txt, srt, vtt and json, for `output`."""
    overwrite: bool = False
    """Write anew what is in `output` already; else a recording whose files are there, none of them older than it, is passed over."""
    segments: str = "auto"
    """Where long recordings are cut: silero, energy, windows; auto: silero if it is installed, else energy."""
    max_seconds: float = 20.0
    """Longest piece that is recognised at once."""
    batch_seconds: float = BATCH_SECONDS
    """Seconds of sound, padding included, that the model reads at a time."""
    num_beams: int | None = None
    """1: greedily; more: beam search; None: as the model was saved."""
    language_model: str | Path | None = None
    """An ARPA file, or one of kenlm's, instead of the saved one."""
    hot_words: Sequence[str] = ()
    """Words and phrases to expect."""

    def __post_init__(self) -> None:
        if isinstance(self.formats, str):
            raise UserError(f"formats is the text {self.formats!r}; give a list, such as {[self.formats]}.")
        if self.output is None and self.overwrite:
            raise UserError("To overwrite goes with an output folder; give output (--output FOLDER) too.")
        if not self.batch_seconds > 0:
            raise UserError(f"The seconds read at a time (batch_seconds) are {self.batch_seconds}; they must be more than 0.")
        _ = self.writing  # checks the names

    @property
    def decoder(self) -> DecoderChoice:
        """How outputs become text."""
        return DecoderChoice(self.num_beams, self.language_model, self.hot_words)

    @property
    def reading(self) -> TranscriptionOptions:
        """How recordings are cut and read."""
        return TranscriptionOptions(SegmentationOptions(method=self.segments, max_seconds=self.max_seconds), self.batch_seconds)

    @property
    def writing(self) -> WritingOptions:
        """What is written."""
        return WritingOptions(tuple(self.formats), self.overwrite, self.reading)


def transcribe(
    model: str | Path | Recognizer,
    recordings: str | Path | Sequence[str | Path],
    options: TranscribeOptions | None = None,
    *,
    trust_remote_code: bool = False,
    report: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Written]:
    """Write down recordings of any length, one after the other, with times in seconds and confidences from 0 to 1.

    Args:
        model: Run folder, model folder or Hub id of a CTC model; or a recognizer from `open_recognizer`, whose decoder is then the one that is used.
        recordings: A sound file, a folder, all of whose sound files are taken, or several of them.
        options: How; default: with the model's own decoder, and nothing is written.
        trust_remote_code: Run the code that comes with a model of another family.
        report: Is told the seconds of sound as they are done.

    Returns:
        For each recording, as it is done, what was said (`spoken`: `text`, `words`, `seconds`, `real_time_factor`; None for one that was passed over)
        and the files that were written. The model is opened, and all names are checked, before the first is asked for.

    Raises:
        UserError: there is no such model or recording, or the options contradict it; a recording cannot be read, while it is iterated: with an output
            folder this is told in `problem` and keeps no other back.
    """
    chosen = options or TranscribeOptions()
    files = find_recordings([Path(given) for given in ([recordings] if isinstance(recordings, str | Path) else recordings)])
    if isinstance(model, Recognizer):
        if trust_remote_code or chosen.decoder != DecoderChoice():
            raise UserError("The recognizer is open already; give its decoder and trust_remote_code to open_recognizer.")
        recognizer = model
    else:
        recognizer = open_recognizer(model, chosen.decoder, trust_remote_code=trust_remote_code)
    if chosen.output is not None:
        return write_transcripts(recognizer, files, Path(chosen.output), chosen.writing, report=report)
    return (Written(file, [], transcribe_file(recognizer, file, chosen.reading, report=report)) for file in files)


def open_recognizer(model: str | Path, choice: DecoderChoice | None = None, *, trust_remote_code: bool = False) -> Recognizer:
    """Open a CTC model with its processor, on the best device there is.

    Args:
        model: Run folder, model folder or Hub id.
        choice: how outputs become text.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, it is no CTC model, or the choice contradicts itself or names a file that cannot be read.
    """
    folder = model_folder(model)
    loaded, tokenizer = load_headed_model(folder, AutoModelForCTC, trust_remote_code=trust_remote_code)
    alphabet = CtcAlphabet.of_tokenizer(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    loaded.eval().to(torch.device(device))
    extractor = load_feature_extractor(folder, trust_remote_code=trust_remote_code)
    return Recognizer(loaded, extractor, alphabet, _decoder(folder, choice or DecoderChoice()))


def _decoder(folder: str, choice: DecoderChoice) -> Any:
    saved = load_saved_decoder(folder)
    wants_beams = choice.language_model is not None or bool(choice.hot_words)
    if choice.num_beams == 1 and wants_beams:
        raise UserError("One beam is a greedy search, which heeds neither a language model nor hot words; give more beams, or leave the number out.")
    if choice.num_beams is not None and choice.num_beams < 1:
        raise UserError(f"The number of beams is {choice.num_beams}; it must be at least 1.")
    if choice.num_beams == 1 or (choice.num_beams is None and saved is None and not wants_beams):
        return greedy_decode
    options = saved or BeamOptions()
    if choice.language_model is not None:
        options = replace(options, language_model=load_language_model(choice.language_model))
    options = replace(options, hot_words=tuple(choice.hot_words), num_beams=choice.num_beams or options.num_beams)
    return functools.partial(beam_decode, options=options)
