"""The figures of speech recognition: transcripts against what was said, and how sure the figures are.

    outputs = SpeechOutputs(["the cat sat"], ["The cat sat down."], "basic", speakers=["anna"])
    figures = {name: metric.compute(outputs) for name, metric in SPEECH_METRICS.items()}
    low, high, *_ = bootstrap_interval(outputs, WordErrorRate, seed=0)

Every rate is a sum over the corpus divided by a sum over the corpus, never a mean of the rows' rates. A new figure is a class and a line in
SPEECH_METRICS. This module knows nothing about models, sound or data sets.

R: rows; M, N: words of a reference and of a hypothesis.
"""

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..errors import check_choice
from ..speech.text_normalization import NORMALIZERS, Normalizer
from .edit_distance import edit_distance
from .metrics import Metric

DRAWS_AT_ONCE = 1_000_000  # of a bootstrap, to bound its memory

Operation = Literal["hit", "substitution", "deletion", "insertion"]


class AlignedPair(NamedTuple):
    """A word of the reference and the word of the hypothesis it is held against."""

    operation: Operation
    reference: str | None
    """None for an insertion."""
    hypothesis: str | None
    """None for a deletion."""


@dataclass(frozen=True)
class Alignment:
    """The pairs of a reference and a hypothesis, in the order of the words, and how many there are of each operation."""

    pairs: tuple[AlignedPair, ...]
    hits: int
    substitutions: int
    deletions: int
    insertions: int


def align_words(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """Align two texts with the fewest substitutions, deletions and insertions (Levenshtein, 1966).

    Of alignments with as few, one with the most substitutions is taken, which settles the number of each operation. Where the places are still
    open, words are matched from the end, and a deletion comes after an insertion. Time and memory grow with M * N.
    """
    to_substitute = len(reference) + len(hypothesis) + 1  # exceeds what all preferences for substitution together can cost
    costs = _costs(reference, hypothesis, to_substitute)
    step = to_substitute + 1
    row, column, pairs = len(reference), len(hypothesis), []
    while row or column:
        said = reference[row - 1] if row else None
        heard = hypothesis[column - 1] if column else None
        cost = costs[row, column]
        if row and column and cost == costs[row - 1, column - 1] + (0 if said == heard else to_substitute):
            pairs.append(AlignedPair("hit" if said == heard else "substitution", said, heard))
            row, column = row - 1, column - 1
        elif row and cost == costs[row - 1, column] + step:
            pairs.append(AlignedPair("deletion", said, None))
            row -= 1
        else:
            pairs.append(AlignedPair("insertion", None, heard))
            column -= 1
    times = Counter(pair.operation for pair in pairs)
    return Alignment(tuple(reversed(pairs)), *(times[operation] for operation in get_args(Operation)))


def _costs(reference: Sequence[str], hypothesis: Sequence[str], to_substitute: int) -> np.ndarray:
    """Least costs (M+1, N+1) to turn the first words of the reference into the first of the hypothesis; an insertion or deletion costs one more.

    A row is made at once: the cost of insertions grows evenly along it, so with that slope taken off, what comes from the left is a running minimum.
    """
    numbers = {word: number for number, word in enumerate({*reference, *hypothesis})}
    heard = np.array([numbers[word] for word in hypothesis], dtype=np.int64)
    slope = np.arange(len(hypothesis) + 1, dtype=np.int64) * (to_substitute + 1)
    costs = np.empty((len(reference) + 1, len(hypothesis) + 1), dtype=np.int64)
    costs[0] = slope
    for row, word in enumerate(reference):
        costs[row + 1] = costs[row] + to_substitute + 1
        replaced = costs[row, :-1] + np.where(heard == numbers[word], 0, to_substitute)
        np.minimum(costs[row + 1, 1:], replaced, out=costs[row + 1, 1:])
        costs[row + 1] = np.minimum.accumulate(costs[row + 1] - slope) + slope
    return costs


class RowCounts(NamedTuple):
    """What each row adds to the sums: arrays (R,) of whole numbers."""

    hits: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    character_edits: np.ndarray
    characters: np.ndarray
    """Of the reference."""

    @property
    def words(self) -> np.ndarray:
        """Words of the references, (R,)."""
        return self.hits + self.substitutions + self.deletions

    @property
    def word_errors(self) -> np.ndarray:
        """Substitutions, deletions and insertions, (R,)."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class SpeechOutputs:
    """What a model heard in some recordings, and what was said in them. A reference may be empty: then all that was heard is inserted.

    Raises:
        ValueError: there are no rows, or the lists differ in length.
        UserError: there is no normaliser of that name.
    """

    predictions: Sequence[str]
    references: Sequence[str]
    normalizer: str
    """A name in `NORMALIZERS`; predictions and references both go through it."""
    speakers: Sequence[str] | None = None
    """Who speaks in each row."""
    conditions: Sequence[str] | None = None
    """Under what circumstances, such as "clean" and "noisy"."""
    seconds: Sequence[float] | None = None
    """Length of each recording."""

    def __post_init__(self) -> None:
        check_choice("normalizer", self.normalizer, NORMALIZERS)
        if not self.predictions:
            raise ValueError("There are 0 predictions; give at least one.")
        for name in ("references", "speakers", "conditions", "seconds"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.predictions):
                raise ValueError(f"{len(self.predictions)} predictions and {len(column)} {name}; give as many.")

    @property
    def text(self) -> Normalizer:
        """The normaliser itself."""
        return NORMALIZERS[self.normalizer]

    @cached_property
    def alignments(self) -> list[Alignment]:
        """Of each row, its words aligned."""
        return [align_words(self.text.cut(reference), self.text.cut(prediction)) for reference, prediction in self._normalized]

    @cached_property
    def counts(self) -> RowCounts:
        """What each row adds to the sums. Characters are those of the normalised text, single spaces between words among them."""
        edits = [(edit_distance(reference, prediction), len(reference)) for reference, prediction in self._normalized]
        operations = [(row.hits, row.substitutions, row.deletions, row.insertions) for row in self.alignments]
        return RowCounts._make(np.column_stack([operations, edits]).T)

    @cached_property
    def _normalized(self) -> list[tuple[str, str]]:
        rows = zip(self.references, self.predictions, strict=True)
        return [(self.text.normalize(reference), self.text.normalize(prediction)) for reference, prediction in rows]


class Ratio(NamedTuple):
    """Two arrays of one length, whose sums make a rate."""

    above: np.ndarray
    below: np.ndarray


class SpeechMetric(Metric[SpeechOutputs]):
    """A rate over all rows, at least 0; NaN where there is nothing to divide by, as where all references are empty."""

    direction = "lower"

    @staticmethod
    @abstractmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return what each row adds above and below the line, (R,) each."""

    @classmethod
    def compute(cls, totals: SpeechOutputs) -> float:
        """Return the rate."""
        above, below = cls.parts(totals.counts)
        return _divided(int(above.sum()), int(below.sum()))


class WordErrorRate(SpeechMetric):
    """Substituted, deleted and inserted words per word of the references. Above 1 where more is inserted than was said."""

    name = "word_error_rate"
    unit = "errors per reference word"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return errors and reference words."""
        return Ratio(counts.word_errors, counts.words)


class CharacterErrorRate(SpeechMetric):
    """Edits per character (Unicode code point) of the normalised references, single spaces between words counted."""

    name = "character_error_rate"
    unit = "edits per reference character"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return edits and reference characters."""
        return Ratio(counts.character_edits, counts.characters)


class SentenceErrorRate(SpeechMetric):
    """Share of rows with any wrong, missing or superfluous word."""

    name = "sentence_error_rate"
    unit = "share of rows"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return 1 for a row with an error, and 1 for each row."""
        return Ratio(counts.word_errors > 0, np.ones_like(counts.words))


class SubstitutionRate(SpeechMetric):
    """Words in whose place another was heard, per word of the references."""

    name = "substitution_rate"
    unit = "substitutions per reference word"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return substitutions and reference words."""
        return Ratio(counts.substitutions, counts.words)


class DeletionRate(SpeechMetric):
    """Words that were not heard, per word of the references."""

    name = "deletion_rate"
    unit = "deletions per reference word"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return deletions and reference words."""
        return Ratio(counts.deletions, counts.words)


class InsertionRate(SpeechMetric):
    """Words that were heard and not said, per word of the references."""

    name = "insertion_rate"
    unit = "insertions per reference word"

    @staticmethod
    def parts(counts: RowCounts) -> Ratio:
        """Return insertions and reference words."""
        return Ratio(counts.insertions, counts.words)


SPEECH_METRICS: dict[str, type[SpeechMetric]] = {
    metric.name: metric for metric in (WordErrorRate, CharacterErrorRate, SentenceErrorRate, SubstitutionRate, DeletionRate, InsertionRate)
}


class Interval(NamedTuple):
    """Between which bounds a figure lies, and of what it was resampled."""

    low: float
    high: float
    resampled: Literal["speakers", "rows"]
    num_resampled: int
    """Different speakers or rows there are."""


def bootstrap_interval(outputs: SpeechOutputs, metric: type[SpeechMetric], *, seed: int, num_resamples: int = 1000, level: float = 0.95) -> Interval:
    """Return the percentile interval of `metric` over samples drawn with replacement.

    After Bisani and Ney (2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation"). Whole speakers are drawn where they
    are known, because the errors of one speaker are alike; rows where they are not, or where all are of one speaker, whom the interval is then
    about. It is too narrow where there are few speakers. The same seed draws the same samples for other predictions of the same rows.

    Args:
        outputs: predictions and references.
        metric: the figure.
        seed: of the draws.
        num_resamples: samples drawn, at least 1.
        level: share of the samples inside the interval, between 0 and 1.

    Returns:
        The interval; NaN bounds where there is one row only, or no sample has anything to divide by.

    Raises:
        ValueError: `num_resamples` or `level` is out of its range.
    """
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"num_resamples is {num_resamples} and level {level}; give at least 1, and a share between 0 and 1.")
    speakers = outputs.speakers if outputs.speakers is not None and len(set(outputs.speakers)) > 1 else None
    numbers = np.arange(len(outputs.predictions)) if speakers is None else _numbered(speakers)
    resampled: Literal["speakers", "rows"] = "rows" if speakers is None else "speakers"
    above, below = (np.bincount(numbers, weights=part) for part in metric.parts(outputs.counts))
    rates = _resampled_rates(Ratio(above, below), np.random.default_rng(seed), num_resamples)
    if len(above) < 2 or not len(rates):
        return Interval(math.nan, math.nan, resampled, len(above))
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high, resampled, len(above))


def _resampled_rates(ratio: Ratio, generator: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Rates of samples, at most (num_resamples,): those with nothing to divide by are left out."""
    size = len(ratio.above)
    block = max(1, DRAWS_AT_ONCE // size)
    rates = []
    for start in range(0, num_resamples, block):
        drawn = generator.integers(size, size=(min(block, num_resamples - start), size))
        above, below = (part[drawn].sum(axis=1) for part in ratio)
        rates.append(above[below > 0] / below[below > 0])
    return np.concatenate(rates)


class GroupErrors(NamedTuple):
    """The errors of the rows of one speaker or one condition."""

    name: str
    word_error_rate: float
    seconds: float | None
    """Of recordings; None if unknown."""
    num_rows: int
    num_words: int
    """Of the references."""
    substitutions: int
    deletions: int
    insertions: int


def by_group(outputs: SpeechOutputs, groups: Sequence[str]) -> list[GroupErrors]:
    """Return the errors of each group, the highest word error rate first (of equal ones by name), groups without a word last.

    Args:
        outputs: predictions and references.
        groups: the group of each row, such as `outputs.speakers`.

    Raises:
        ValueError: there are not as many as rows.
    """
    if len(groups) != len(outputs.predictions):
        raise ValueError(f"{len(outputs.predictions)} rows and {len(groups)} names of groups; give as many.")
    names, numbers = dict.fromkeys(groups), _numbered(groups)
    columns = (np.ones_like(outputs.counts.hits), outputs.counts.words, *outputs.counts[1:4])
    sums = np.stack([np.bincount(numbers, weights=column) for column in columns], axis=1).astype(np.int64).tolist()
    lengths = [None] * len(names) if outputs.seconds is None else np.bincount(numbers, weights=outputs.seconds).tolist()
    rates = [_divided(sum(errors), num_words) for _, num_words, *errors in sums]
    found = [GroupErrors(name, rate, length, *row) for name, rate, length, row in zip(names, rates, lengths, sums, strict=True)]
    return sorted(found, key=lambda group: (-np.nan_to_num(group.word_error_rate, nan=-1), group.name))


class Confusion(NamedTuple):
    """What was said, what was heard for it, and how often; None as in `AlignedPair`."""

    reference: str | None
    hypothesis: str | None
    times: int


def most_frequent(outputs: SpeechOutputs, operation: Operation, *, most: int = 20) -> list[Confusion]:
    """Return the pairs of words of an operation, the most frequent first and of equal ones in alphabetical order, at most `most`.

    Raises:
        UserError: there is no such operation.
    """
    check_choice("operation", operation, get_args(Operation))
    found = Counter(pair[1:] for alignment in outputs.alignments for pair in alignment.pairs if pair.operation == operation)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return [Confusion(*words, times=times) for words, times in ordered[:most]]


def row_errors(outputs: SpeechOutputs) -> np.ndarray:
    """Word errors per reference word of each row, (R,). An empty reference has length 1 here."""
    return outputs.counts.word_errors / np.maximum(outputs.counts.words, 1)


def _numbered(groups: Sequence[str]) -> np.ndarray:
    """Of each row, the number of its group, (R,), in the order in which groups come first."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in groups])


def _divided(above: int, below: int) -> float:
    return above / below if below else math.nan
