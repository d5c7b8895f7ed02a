"""What an evaluation found, and the rows that a model got most wrong and most right as Markdown.

    write_report(Path("report.md"), "somebody/model on the test split", evaluated, metrics)

Knows nothing about tasks, models or data sets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from .metrics import Metric
from .report_files import write_report_file
from .worst_examples import worst_and_best

ROWS_SHOWN = 20
MOST_CHARACTERS = 300  # of a text in a table


class EvaluatedRow(NamedTuple):
    """A held-out row, what a model made of it and what was right."""

    given: str
    prediction: str
    expected: str
    error: float
    """The larger, the worse; in the unit that `Evaluated.error_unit` names."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    figures: dict[str, float]
    rows: list[EvaluatedRow] = field(default_factory=list)
    """Of the main process, in the order of the split; empty where the data are no rows."""
    error_unit: str = ""


def write_report(path: Path, title: str, evaluated: Evaluated, metrics: Mapping[str, type[Metric[Any]]], *, notes: Sequence[str] = ()) -> Path:
    """Write the figures and the worst and best rows of `evaluated` into the Markdown file `path`; return it.

    Args:
        path: the file.
        title: its heading.
        evaluated: figures and rows.
        metrics: the figures that are shown, in their order.
        notes: paragraphs above the figures, as plain text.

    Raises:
        UserError: there are no rows, or the file cannot be written.
    """
    if not evaluated.rows:
        raise UserError("A report lists the worst and best rows, and running text has no rows; leave --report out.")
    figures = [
        (name.replace("_", " "), f"{evaluated.figures[name]:.4f}", metric.unit, metric.direction)
        for name, metric in metrics.items()
        if name in evaluated.figures
    ]
    extremes = worst_and_best([row.error for row in evaluated.rows], ROWS_SHOWN)
    parts = [
        f"# {_cell(title)}",
        f"{len(evaluated.rows):,} rows.",
        *map(_escaped, notes),
        _table(("figure", "value", "unit", "better"), figures),
        f"## The {len(extremes.worst)} worst rows",
        _rows([evaluated.rows[row] for row in extremes.worst], evaluated.error_unit),
        f"## The {len(extremes.best)} best rows",
        _rows([evaluated.rows[row] for row in extremes.best], evaluated.error_unit),
    ]
    return write_report_file(path, "\n\n".join(parts) + "\n")


def _rows(rows: Sequence[EvaluatedRow], unit: str) -> str:
    cells = [(f"{row.error:.4f}", _cell(row.given), _cell(row.prediction), _cell(row.expected)) for row in rows]
    return _table((unit, "given", "prediction", "expected"), cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """`text` on one line, shortened, its Markdown and HTML shown and not obeyed."""
    line = " ".join(text.split())
    return _escaped(line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))
