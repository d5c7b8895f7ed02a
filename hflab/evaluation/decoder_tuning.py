"""The weights of a language model beside a CTC model, chosen for the fewest word errors on held-out clips.

    tuned = tune_decoder(heard, language_model, DecoderSettings())
    tuned.settings, tuned.word_error_rate

Knows nothing about where clips and language model come from.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..speech.ctc_beam_search import beam_decode
from ..speech.ctc_decoding import CtcAlphabet
from ..speech.language_model import NgramModel
from ..speech.saved_decoder import DecoderSettings
from .speech_metrics import SpeechOutputs, WordErrorRate

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
BONUSES = (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0)
ROUNDS = 2  # of one number and then the other; the surface is smooth enough that more change nothing
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
    """Choose weight and bonus in turns, each over its grid with the other fixed; of equally good ones the smaller.

    `report` is told of every trial.
    """
    tried: dict[tuple[float, float], float] = {}

    def errors(weight: float, bonus: float) -> float:
        if (weight, bonus) not in tried:
            settings = dataclasses.replace(start, num_beams=min(start.num_beams, TUNING_BEAMS), language_model_weight=weight, word_bonus=bonus)
            outputs = SpeechOutputs(heard.texts(settings, language_model), heard.references, heard.normalizer)
            tried[weight, bonus] = WordErrorRate.compute(outputs)
            report(1)
        return tried[weight, bonus]

    weight, bonus = start.language_model_weight, start.word_bonus
    for _ in range(ROUNDS):
        weight = min((errors(candidate, bonus), candidate) for candidate in WEIGHTS)[1]
        bonus = min((errors(weight, candidate), abs(candidate), candidate) for candidate in BONUSES)[2]
    return TunedDecoder(dataclasses.replace(start, language_model_weight=weight, word_bonus=bonus), tried[weight, bonus], len(tried))
