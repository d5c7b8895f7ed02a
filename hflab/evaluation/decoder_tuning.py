"""The weights of a language model beside a CTC model, chosen for the fewest word errors on held-out clips.

    tuned = tune_decoder(heard, language_model, DecoderSettings())
    tuned.settings, tuned.word_error_rate

Knows nothing about where clips and language model come from.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..speech.ctc_beam_search import beam_decode
from ..speech.ctc_decoding import CtcAlphabet
from ..speech.language_model import NgramModel
from ..speech.saved_decoder import DecoderSettings
from .speech_metrics import SpeechOutputs, WordErrorRate

# A weight costs words and a bonus makes up for it, so that in turns both would stay near 0: the two are first tried together.
COARSE = {"language_model_weight": (0.0, 0.5, 1.0, 2.0), "word_bonus": (0.0, 2.0, 4.0)}
# then each has its turn, with the others fixed
FINE = {
    "unknown_word_penalty": (0.0, 2.0, 5.0, 10.0),
    "language_model_weight": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "word_bonus": (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0),
}
NUM_TRIALS = math.prod(map(len, COARSE.values())) + sum(len(values) - 1 for values in FINE.values())
TUNING_BEAMS = 16  # fewer than decoding takes: the best weights hardly depend on it


@dataclass(frozen=True)
class HeardClips:
    """What a model made of clips, and what was said in them."""

    log_probabilities: Sequence[Tensor]
    """Of each clip, (T', V), its true frames alone."""
    references: Sequence[str]
    normalizer: str
    alphabet: CtcAlphabet

    def texts(self, settings: DecoderSettings, language_model: NgramModel) -> list[str]:
        """What the beam search finds in each clip."""
        options = settings.options(language_model)
        rows = [(row[None], torch.tensor([len(row)])) for row in self.log_probabilities]
        return [beam_decode(row, length, self.alphabet, options)[0].text for row, length in rows]


@dataclass(frozen=True)
class TunedDecoder:
    """The best weights found, and the share of wrong words with them."""

    settings: DecoderSettings
    word_error_rate: float
    num_trials: int


def tune_decoder(
    heard: HeardClips, language_model: NgramModel, start: DecoderSettings, *, report: Callable[[int], object] = lambda trials: None
) -> TunedDecoder:
    """Choose the weight of the model, the bonus of a word and the penalty of an unknown one; of equally good values the nearest to 0.

    `report` is told of every trial, of which there are at most `NUM_TRIALS`.
    """
    tried: dict[DecoderSettings, float] = {}

    def errors(settings: DecoderSettings) -> float:
        if settings not in tried:
            outputs = SpeechOutputs(heard.texts(settings, language_model), heard.references, heard.normalizer)
            tried[settings] = WordErrorRate.compute(outputs)
            report(1)
        return tried[settings]

    def best(candidates: list[DecoderSettings]) -> DecoderSettings:
        return min(candidates, key=lambda settings: (errors(settings), *(abs(getattr(settings, name)) for name in FINE)))

    quick = dataclasses.replace(start, num_beams=min(start.num_beams, TUNING_BEAMS))
    coarse = itertools.product(COARSE["language_model_weight"], COARSE["word_bonus"])
    found = best([dataclasses.replace(quick, language_model_weight=weight, word_bonus=bonus) for weight, bonus in coarse])
    for name, values in FINE.items():
        changes: list[dict[str, Any]] = [{name: value} for value in values]
        found = best([dataclasses.replace(found, **change) for change in changes])
    return TunedDecoder(dataclasses.replace(found, num_beams=start.num_beams), tried[found], len(tried))
