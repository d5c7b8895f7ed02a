"""The figures of sequence to sequence: predicted texts against one or more references each.

    outputs = SequenceOutputs(predictions=["AH B"], references=[["AH B IY", "AE B IY"]])
    figures = {name: metric.compute(outputs) for name, metric in SEQUENCE_METRICS.items()}

A new figure is a class and a line in SEQUENCE_METRICS. BLEU and chrF are sacrebleu's own; `signatures` says with which settings. This module
knows nothing about models, tokenizers or data sets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .edit_distance import Edits, edits_to_nearest
from .metrics import Metric


@dataclass(frozen=True)
class SequenceOutputs:
    """What a model wrote for some sources, and what it was allowed to write.

    Raises:
        ValueError: there are no rows, the lists differ in length, or a row has no reference.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    """One or more for each prediction."""
    target_language: str | None = None
    """ISO 639 code: sacrebleu cuts Chinese, Japanese and Korean into words in their own ways."""
    _edits: dict[str, list[Edits]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.predictions or len(self.predictions) != len(self.references):
            raise ValueError(f"{len(self.predictions)} predictions and {len(self.references)} rows of references; give as many, at least one.")
        if not all(self.references):
            row = next(row for row, references in enumerate(self.references) if not references)
            raise ValueError(f"Row {row} has no reference; every row needs at least one.")

    def symbol_edits(self) -> list[Edits]:
        """Of each row, distance to and length of its nearest reference, in symbols: what white space separates."""
        return self._compared("symbols", str.split)

    def character_edits(self) -> list[Edits]:
        """Of each row, distance to and length of its nearest reference, in Unicode code points, white space made single spaces."""
        return self._compared("characters", _tidy)

    def _compared(self, kind: str, cut: Callable[[str], Sequence[str]]) -> list[Edits]:
        if kind not in self._edits:  # several figures and the worst examples need them
            rows = zip(self.predictions, self.references, strict=True)
            self._edits[kind] = [edits_to_nearest(cut(prediction), [cut(reference) for reference in allowed]) for prediction, allowed in rows]
        return self._edits[kind]


class Bleu(Metric[SequenceOutputs]):
    """BLEU (Papineni et al., 2002) of the whole corpus, by sacrebleu (Post, 2018)."""

    name = "bleu"
    unit = "points of 100"
    direction = "higher"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return BLEU, 0 to 100. Raises `UserError` naming the extra if sacrebleu, or its part for the language, is missing."""
        return float(_bleu(totals).corpus_score(list(totals.predictions), _reference_streams(totals)).score)


class ChrF(Metric[SequenceOutputs]):
    """chrF2 (Popović, 2015): F-score of character n-grams, recall weighted four times, of the whole corpus, by sacrebleu."""

    name = "chrf"
    unit = "points of 100"
    direction = "higher"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return chrF2, 0 to 100. Raises `UserError` naming the extra if sacrebleu is missing."""
        return float(_chrf().corpus_score(list(totals.predictions), _reference_streams(totals)).score)


class ExactMatch(Metric[SequenceOutputs]):
    """Share of rows whose prediction is one of the references, whatever white space separates their symbols."""

    name = "exact_match"
    unit = "share of rows"
    direction = "higher"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return the share, 0 to 1."""
        rows = zip(totals.predictions, totals.references, strict=True)
        right = sum(_tidy(prediction) in map(_tidy, allowed) for prediction, allowed in rows)
        return right / len(totals.predictions)


class SequenceErrorRate(Metric[SequenceOutputs]):
    """Share of rows whose prediction is none of the references; for letters to phonemes what the literature calls word error rate."""

    name = "sequence_error_rate"
    unit = "share of rows"
    direction = "lower"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return the share, 0 to 1."""
        return 1 - ExactMatch.compute(totals)


class SymbolErrorRate(Metric[SequenceOutputs]):
    """Edits to the nearest reference per symbol of that reference, a symbol being what white space separates.

    For phonemes the phoneme error rate; for running text what speech recognition calls word error rate.
    """

    name = "symbol_error_rate"
    unit = "edits per symbol"
    direction = "lower"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return edits per symbol, at least 0 and above 1 for long wrong predictions; NaN where no reference has a symbol."""
        return _rate(totals.symbol_edits())


class CharacterErrorRate(Metric[SequenceOutputs]):
    """Edits to the nearest reference per character (Unicode code point) of that reference."""

    name = "character_error_rate"
    unit = "edits per character"
    direction = "lower"

    @staticmethod
    def compute(totals: SequenceOutputs) -> float:
        """Return edits per character, at least 0; NaN where no reference has a character."""
        return _rate(totals.character_edits())


SEQUENCE_METRICS: dict[str, type[Metric[SequenceOutputs]]] = {
    metric.name: metric for metric in (Bleu, ChrF, ExactMatch, SequenceErrorRate, SymbolErrorRate, CharacterErrorRate)
}


def signatures(outputs: SequenceOutputs) -> dict[str, str]:
    """Sacrebleu's signature of each figure that it computes: version, tokenisation, number of references and settings."""
    streams, predictions = _reference_streams(outputs), list(outputs.predictions)
    found = {}
    for name, metric in {Bleu.name: _bleu(outputs), ChrF.name: _chrf()}.items():
        metric.corpus_score(predictions, streams)  # a signature counts the references that were seen
        found[name] = str(metric.get_signature())
    return found


def _bleu(outputs: SequenceOutputs) -> Any:
    try:
        return _sacrebleu().BLEU(trg_lang=outputs.target_language or "")
    except (ImportError, RuntimeError) as error:  # Japanese and Korean need packages of their own
        raise UserError(f"BLEU for the language {outputs.target_language!r} needs a further package: {str(error).strip()}") from error


def _chrf() -> Any:
    return _sacrebleu().CHRF()


def require_sacrebleu() -> None:
    """Raise `UserError` naming the extra if the package behind BLEU and chrF is missing."""
    _sacrebleu()


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise UserError("BLEU and chrF need the package 'sacrebleu', which is not installed; run: pip install 'hflab[metrics]'") from error
    return sacrebleu.metrics


def _reference_streams(outputs: SequenceOutputs) -> list[list[str | None]]:
    """The references as sacrebleu has them: the first of every row, then the second, with None where a row has no more."""
    most = max(map(len, outputs.references))
    return [[references[index] if index < len(references) else None for references in outputs.references] for index in range(most)]


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _rate(edits: list[Edits]) -> float:
    length = sum(row.length for row in edits)
    return sum(row.distance for row in edits) / length if length else math.nan
