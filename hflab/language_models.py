"""A language model for a speech recognizer: built from text, its weights tuned on the validation split, saved with the model, measured.

    found = add_language_model("runs/ctc_synthetic_digits")
    found.greedy, found.with_language_model

Knows nothing about how n-grams are counted (`hflab.speech`) and clips are scored (`hflab.evaluation`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from .data.speech_batches import EncodedClips
from .data.text_files import decoded_blocks
from .errors import UserError
from .evaluation.decoder_tuning import NUM_TRIALS, HeardClips, tune_decoder
from .evaluation.sharing import evenly_drawn
from .evaluation.speech_evaluator import log_probabilities_of
from .evaluation.speech_metrics import SpeechOutputs, WordErrorRate
from .measuring import OpenedModel, open_model
from .run_folder import RunFolder
from .speech.ctc_decoding import CtcAlphabet, greedy_decode
from .speech.kneser_ney import build_ngram
from .speech.saved_decoder import DecoderSettings, save_decoder
from .speech.text_normalization import NORMALIZERS
from .training.speech_recognition import SpeechRecognition

MOST_TUNED_CLIPS = 200
MOST_TEXT_CHARACTERS = 50_000_000  # its counts are held in memory


@dataclass(frozen=True)
class AddedLanguageModel:
    """What a language model does for a recognizer."""

    settings: DecoderSettings
    text: str
    """Of which it was built."""
    order: int
    greedy: dict[str, float]
    """Word error rate by split."""
    with_language_model: dict[str, float]


def add_language_model(run: str | Path, text: str | Path | None = None, *, order: int = 3, num_beams: int = 32) -> AddedLanguageModel:
    """Build, tune and save a language model for the recognizer of a run folder.

    Args:
        run: Run folder of a finished speech_recognition training.
        text: UTF-8 file with a sentence on each line; default: the training transcripts.
        order: Words of its longest n-grams, 1 to 6.
        num_beams: Of the search that is saved.

    Raises:
        UserError: it is no run folder of a recognizer, the text cannot be read or has no words that the model can write, or a number is out of range.
    """
    if not 1 <= order <= 6 or num_beams < 1:
        raise UserError(f"The order is {order} and there are {num_beams} beams; give an order from 1 to 6 and at least one beam.")
    folder = RunFolder.open_existing(Path(run))
    if folder.read_recipe().task != "speech_recognition":
        raise UserError(f"{run} is a run of {folder.read_recipe().task}; a language model is added to one of speech_recognition.")
    opened = open_model(run)
    task = opened.task
    assert isinstance(task, SpeechRecognition), "its recipe says so"
    normalizer = task.recipe.processor.normalizer
    sentences = task.prepared.corpus.splits["train"].texts if text is None else _lines(Path(text))
    words = [cut for sentence in sentences if (cut := NORMALIZERS[normalizer].words(sentence))]
    if not words:
        raise UserError(f"The text {str(text)!r} has no words; give a UTF-8 file with a sentence on each line.")
    language_model = build_ngram(words, order)
    heard = {split: _hear(opened, task, split) for split in task.prepared.splits if split != "train"}
    with tqdm(total=NUM_TRIALS, desc="tuning", unit=" trials", disable=None, leave=False) as progress:
        drawn = _drawn(heard["validation"])
        tuned = tune_decoder(drawn, language_model, DecoderSettings(num_beams=num_beams), report=progress.update)
    save_decoder(folder.model, language_model, tuned.settings)
    found = AddedLanguageModel(
        settings=tuned.settings,
        text="the training transcripts" if text is None else Path(text).name,
        order=order,
        greedy={split: _word_errors(clips, _greedy(clips)) for split, clips in heard.items()},
        with_language_model={split: _word_errors(clips, clips.texts(tuned.settings, language_model)) for split, clips in heard.items()},
    )
    folder.update_facts(language_model=dataclasses.asdict(found))
    return found


def _lines(file: Path) -> Sequence[str]:
    if not file.is_file():
        raise UserError(f"There is no text {str(file)!r}; give a UTF-8 file with a sentence on each line.")
    if file.stat().st_size > 4 * MOST_TEXT_CHARACTERS:
        raise UserError(f"{file.name} has {file.stat().st_size:,} bytes; the n-grams of more than {4 * MOST_TEXT_CHARACTERS:,} are not counted here.")
    return "".join(decoded_blocks(file)).splitlines()


def _hear(opened: OpenedModel, task: SpeechRecognition, split: str) -> HeardClips:
    clips: EncodedClips = task.prepared.splits[split]
    made = log_probabilities_of(opened.model, clips, task.prepared.extractor, task.recipe.evaluation.batch_size)
    texts = [clips.rows.texts[int(row)] for row in clips.chosen]
    return HeardClips(made, texts, task.recipe.processor.normalizer, CtcAlphabet.of_tokenizer(task.tokenizer))


def _drawn(clips: HeardClips) -> HeardClips:
    """At most `MOST_TUNED_CLIPS` of them, evenly."""
    rows = evenly_drawn(len(clips.references), MOST_TUNED_CLIPS)
    chosen: dict[str, Any] = {name: [getattr(clips, name)[row] for row in rows] for name in ("log_probabilities", "references")}
    return dataclasses.replace(clips, **chosen)


def _greedy(clips: HeardClips) -> list[str]:
    return [greedy_decode(row[None], torch.tensor([len(row)]), clips.alphabet)[0].text for row in clips.log_probabilities]


def _word_errors(clips: HeardClips, texts: list[str]) -> float:
    return WordErrorRate.compute(SpeechOutputs(texts, clips.references, clips.normalizer))
