"""A language model kept beside a CTC model, with the weights that were tuned for it: two files of the model folder, neither of them a pickle.

    save_decoder(folder, build_ngram(sentences), DecoderSettings(language_model_weight=0.8))
    options = load_decoder(find)      # BeamOptions, or None where nothing was saved

Knows nothing about models and tuning.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .ctc_beam_search import BeamOptions
from .language_model import NgramModel, read_arpa, write_arpa

SETTINGS_FILE, MODEL_FILE = "ctc_decoder.json", "language_model.arpa.gz"


@dataclass(frozen=True)
class DecoderSettings:
    """How the language model is weighed; the fields are those of `BeamOptions`."""

    num_beams: int = 32
    language_model_weight: float = 0.5
    word_bonus: float = 1.0
    unknown_word_penalty: float = 10.0

    def options(self, language_model: NgramModel) -> BeamOptions:
        """The beam search with these weights."""
        return BeamOptions(language_model=language_model, **dataclasses.asdict(self))


def save_decoder(folder: Path, language_model: NgramModel, settings: DecoderSettings) -> None:
    """Write both files into a model folder. Raises `UserError` if they cannot be written."""
    write_arpa(language_model, folder / MODEL_FILE)
    try:
        (folder / SETTINGS_FILE).write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"The decoder cannot be written into {str(folder)!r}: {error.strerror}; free some room or mind its permissions.") from None


def load_decoder(find: Callable[[str], Path | None]) -> BeamOptions | None:
    """The saved beam search; `find` leads from a file's name to the file, None where the model has none.

    Raises:
        UserError: the files are damaged, or one of them is missing.
    """
    settings, model = find(SETTINGS_FILE), find(MODEL_FILE)
    if settings is None and model is None:
        return None
    if settings is None or model is None:
        missing = SETTINGS_FILE if settings is None else MODEL_FILE
        raise UserError(f"The model has half a decoder: {missing} is missing; make it anew by `hflab language-model`, or remove the other file.")
    return _parsed(settings).options(read_arpa(model))


def _parsed(file: Path) -> DecoderSettings:
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        return DecoderSettings(**{name: type(getattr(DecoderSettings(), name))(value) for name, value in values.items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file.name} is damaged ({error}); make the decoder anew by `hflab language-model`.") from None
