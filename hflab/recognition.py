"""A speech recognizer by run folder, model folder or Hub id, with the decoder that is asked for.

    recognizer = open_recognizer("runs/ctc_synthetic_digits", DecoderChoice(hot_words=("Aristotle",)))
    spoken = transcribe_file(recognizer, Path("talk.flac"))

Joins what opens models (`measuring.py`) with what hears (`transcription`).
"""

import functools
from collections.abc import Sequence
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
from .transcription.recognizer import Recognizer


@dataclass(frozen=True)
class DecoderChoice:
    """How the outputs of a model become text. By default as it was saved: with its language model if it has one, else greedily."""

    num_beams: int | None = None
    """1: greedily; more: beam search."""
    language_model: str | Path | None = None
    """An ARPA file, or one of kenlm's, instead of the saved one."""
    hot_words: Sequence[str] = ()
    """Words and phrases to expect; they need a beam search."""


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
