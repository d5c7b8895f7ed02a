"""The rows that a model got most wrong and most right, for reports.

    worst, best = worst_and_best(sequence_errors(outputs), 20)
    for row in worst: print(sources[row], outputs.predictions[row], outputs.references[row])

This module knows the errors of rows only; what a row is, the caller knows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .classification_metrics import ClassOutputs
from .sequence_metrics import SequenceOutputs


class Extremes(NamedTuple):
    """Numbers of rows: those with the largest error, the largest first, and those with the smallest, the smallest first."""

    worst: list[int]
    best: list[int]


def worst_and_best(errors: Sequence[float] | np.ndarray, count: int) -> Extremes:
    """Return the `count` rows (fewer if there are fewer) of largest and of smallest error; of equal ones the earlier row comes first.

    NaN, an error that could not be computed, is the worst of all.
    """
    values = np.nan_to_num(np.asarray(errors, dtype=np.float64), nan=np.inf)
    return Extremes(np.argsort(-values, kind="stable")[:count].tolist(), np.argsort(values, kind="stable")[:count].tolist())


def sequence_errors(outputs: SequenceOutputs, *, by: str = "characters") -> list[float]:
    """Of each row, edits to the nearest reference per symbol of it. An empty reference has length 1 here.

    Args:
        outputs: predictions and references.
        by: "characters", or "symbols" that white space separates.

    Raises:
        ValueError: `by` is neither.
    """
    if by not in ("characters", "symbols"):
        raise ValueError(f"by is {by!r}; choose from: characters, symbols.")
    edits = outputs.character_edits() if by == "characters" else outputs.symbol_edits()
    return [row.distance / max(row.length, 1) for row in edits]


def class_errors(outputs: ClassOutputs) -> list[float]:
    """Of each counted row, the nats of its right class: the surest wrong prediction is the worst."""
    return outputs.row_nats.tolist()
