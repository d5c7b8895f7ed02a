"""The figures of a classifier, of texts or of the words in them: what it thought likely against the right classes.

    outputs = ClassOutputs(log_probabilities, labels, ["politics", "sports"])
    figures = {name: metric.compute(outputs) for name, metric in CLASSIFICATION_METRICS.items()}
    by_class = per_class(outputs)

A new figure is a class and a line in CLASSIFICATION_METRICS. Precision, recall and F1 are counts divided by counts and the area under the ROC
curve is a sum of ranks, so numpy is all that is needed. Shapes: `N` rows, `C` classes. This module knows nothing about models or data sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import Metric

IGNORED = -100  # label of a row that is not counted, as in transformers


@dataclass(frozen=True)
class ClassOutputs:
    """What a classifier thought of some rows. Rows with the label -100 (the further pieces of a word, padding) are left out.

    Args:
        log_probabilities: (N, C), the natural logarithm of each class's probability. NaN is refused.
        labels: (N,) numbers of the right classes, 0 to C - 1, or -100.
        names: of the C classes.

    Raises:
        ValueError: shapes or labels do not fit, a value is NaN, or no row is left.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    names: Sequence[str]

    def __post_init__(self) -> None:
        scores, labels = np.asarray(self.log_probabilities, dtype=np.float64), np.asarray(self.labels)
        if scores.shape != (*labels.shape, len(self.names)) or labels.ndim != 1:
            raise ValueError(f"log_probabilities {scores.shape}, labels {labels.shape} and {len(self.names)} names; give (N, C), (N,) and C.")
        counted = labels != IGNORED
        object.__setattr__(self, "log_probabilities", scores[counted])
        object.__setattr__(self, "labels", labels[counted].astype(np.int64))
        if not counted.any():
            raise ValueError("No row has a label, so there is nothing to compute a figure of.")
        if self.labels.min() < 0 or self.labels.max() >= len(self.names):
            raise ValueError(f"Labels from {self.labels.min()} to {self.labels.max()} for {len(self.names)} classes; give 0 to C - 1, or -100.")
        if np.isnan(self.log_probabilities).any():
            raise ValueError("A log-probability is NaN; the model that gave it is broken.")

    @property
    def predictions(self) -> np.ndarray:
        """The likeliest class of each row, (N,) int64; of equally likely ones the first."""
        return self.log_probabilities.argmax(axis=1)

    @property
    def row_nats(self) -> np.ndarray:
        """Negative log-probability of the right class of each row, (N,) float64."""
        return -self.log_probabilities[np.arange(len(self.labels)), self.labels]


class Accuracy(Metric[ClassOutputs]):
    """Share of rows whose likeliest class is the right one."""

    name = "accuracy"
    unit = "share of rows"
    direction = "higher"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return the share, 0 to 1."""
        return float((totals.predictions == totals.labels).mean())


class ClassLoss(Metric[ClassOutputs]):
    """Mean negative log-likelihood of the right class."""

    name = "loss"
    unit = "nats per row"
    direction = "lower"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return nats per row; infinite where a right class was thought impossible."""
        return float(totals.row_nats.mean())


class MacroPrecision(Metric[ClassOutputs]):
    """Of the rows given a class, the share that is right: mean over the classes that occur or were predicted, 0 for one never predicted."""

    name = "precision"
    unit = "mean over classes"
    direction = "higher"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return the mean, 0 to 1."""
        return _macro(totals)[0]


class MacroRecall(Metric[ClassOutputs]):
    """Of the rows of a class, the share that is found: mean over the classes that occur or were predicted, 0 for one that never occurs."""

    name = "recall"
    unit = "mean over classes"
    direction = "higher"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return the mean, 0 to 1."""
        return _macro(totals)[1]


class MacroF1(Metric[ClassOutputs]):
    """Harmonic mean of a class's precision and recall: mean over the classes that occur or were predicted."""

    name = "f1"
    unit = "mean over classes"
    direction = "higher"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return the mean, 0 to 1."""
        return _macro(totals)[2]


class MacroAuc(Metric[ClassOutputs]):
    """Area under the ROC curve: how often a row of a class is thought likelier to be of it than a row of another class is.

    Of two classes that of the second; of more, each against the rest, their mean over the classes for which it is defined.
    """

    name = "auc"
    unit = "mean over classes"
    direction = "higher"

    @staticmethod
    def compute(totals: ClassOutputs) -> float:
        """Return the area, 0 to 1, a half by chance; NaN where all rows are of one class."""
        numbers = [1] if len(totals.names) == 2 else range(len(totals.names))
        areas = [_auc(totals, number) for number in numbers]
        defined = [area for area in areas if not math.isnan(area)]
        return sum(defined) / len(defined) if defined else math.nan


CLASSIFICATION_METRICS: dict[str, type[Metric[ClassOutputs]]] = {
    metric.name: metric for metric in (ClassLoss, Accuracy, MacroPrecision, MacroRecall, MacroF1, MacroAuc)
}


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of a class, 0 to 1; `auc` of the class against the rest; `num_rows` that are of the class."""

    precision: float
    recall: float
    f1: float
    auc: float
    num_rows: int


def per_class(outputs: ClassOutputs) -> dict[str, ClassFigures]:
    """The figures of every class; precision, recall and F1 are 0 where nothing was predicted or is there, auc NaN where it is undefined."""
    precision, recall, f1 = _rates(confusion_matrix(outputs))
    counts = np.bincount(outputs.labels, minlength=len(outputs.names))
    return {
        name: ClassFigures(float(precision[number]), float(recall[number]), float(f1[number]), _auc(outputs, number), int(counts[number]))
        for number, name in enumerate(outputs.names)
    }


def confusion_matrix(outputs: ClassOutputs) -> np.ndarray:
    """How many rows of each class (first axis) were given each class (second axis), (C, C) int64."""
    C = len(outputs.names)
    return np.bincount(outputs.labels * C + outputs.predictions, minlength=C * C).reshape(C, C)


def _rates(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, (C,) each; 0 where the divisor is 0."""
    right, given, there = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return right / np.maximum(given, 1), right / np.maximum(there, 1), 2 * right / np.maximum(given + there, 1)


def _macro(outputs: ClassOutputs) -> list[float]:
    """Means of precision, recall and F1 over the classes that occur or were predicted."""
    confusion = confusion_matrix(outputs)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return [float(rates[seen].mean()) for rates in _rates(confusion)]


def _auc(outputs: ClassOutputs, number: int) -> float:
    """The area of one class against the rest, by the sum of its rows' ranks (Mann and Whitney, 1947); ties count half."""
    is_class = outputs.labels == number
    num_rows, num_others = int(is_class.sum()), int((~is_class).sum())
    if not num_rows or not num_others:
        return math.nan
    _, place, counts = np.unique(outputs.log_probabilities[:, number], return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal values, from 1
    return float((ranks[place][is_class].sum() - num_rows * (num_rows + 1) / 2) / (num_rows * num_others))
