"""A study of memory as files: `memory.json`, `memory.md` and `memory.png` in its folder; and as plain text.

    written = write_memory_report(study, Path("memory"), command="hflab memory parity")
    print(plain_report(study))

Knows nothing about training.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .memory import MemoryRow, MemoryStudy
from .memory_picture import draw_memory
from .memory_verdict import RULES, verdict
from .probe_tasks import probe_named
from .probe_training import MULTIPLES

PICTURE = "memory.png"


@dataclass(frozen=True)
class MemoryReport:
    """The files of a report."""

    page: Path
    data: Path
    picture: Path


def write_memory_report(study: MemoryStudy, folder: Path, *, command: str) -> MemoryReport:
    """Write the report about `study` into `folder`, replacing files of the same names; `command` is what to start to have it again.

    Raises:
        UserError: the folder cannot be written into.
    """
    report = MemoryReport(folder / "memory.md", folder / "memory.json", folder / PICTURE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report.data.write_text(json.dumps(study_as_json(study, command), indent=1), encoding="utf-8")
        draw_memory(study, report.picture)
        report.page.write_text(_page(study, command), encoding="utf-8")
    except OSError as error:
        raise UserError(f"The report cannot be written into {folder}: {error.strerror}; choose another folder with --output.") from None
    return report


def study_as_json(study: MemoryStudy, command: str) -> dict[str, Any]:
    """All that was found, as plain data."""
    rows = []
    for row in study.rows:
        probe = probe_named(row.task)
        rows.append(
            dataclasses.asdict(row)
            | {"figure": probe.figure, "without_memory": probe.memoryless(row.length), "solved_at": probe.solved_at}
            | {"mean": {multiple: row.mean(multiple) for multiple in row.figures}}
            | {"spread": {multiple: row.spread(multiple) for multiple in row.figures}}
        )
    return {"command": command, "options": dataclasses.asdict(study.options), "rows": rows, "verdict": verdict(study), "rules": list(RULES)}


def plain_report(study: MemoryStudy) -> str:
    """Tables and verdict for a terminal."""
    parts = []
    for rows in _tables(study):
        cells = [_head(), *map(_cells, rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        parts.append("\n".join([_caption(rows[0]), *lines]))
    return "\n\n".join([*parts, "\n".join(verdict(study))])


def _page(study: MemoryStudy, command: str) -> str:
    parts = [
        "# Memory",
        f"`{command}`",
        _protocol(study),
        f"![Figures by length of the rows]({PICTURE})",
        "## Verdict",
        "\n".join(f"- {sentence}" for sentence in verdict(study)),
    ]
    for rows in _tables(study):
        parts += [f"## {rows[0].task}, T = {rows[0].length}", _caption(rows[0]), _markdown_table([_head(), *map(_cells, rows)])]
    parts += ["## Rules", "\n".join(f"- {rule}" for rule in RULES)]
    return "\n\n".join(parts) + "\n"


def _protocol(study: MemoryStudy) -> str:
    options = study.options
    seeds = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    limit = "" if options.max_seconds is None else f" and {options.max_seconds:g} seconds"
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    tricks = ", ".join(options.tricks) or "none"
    return (
        f"Each model has about {options.num_parameters:,} parameters. Of the learning rates {rates} the best on validation rows was taken; then Adam "
        f"trained it with {seeds} for at most {options.num_steps:,} steps of {options.batch_size} rows{limit}, or until its error on validation rows "
        f"was half of that from which a task counts as solved. Tricks: {tricks}. Figures are of new rows, of the trained length T and of longer ones."
    )


def _tables(study: MemoryStudy) -> list[list[MemoryRow]]:
    """Rows that stand in one table: those of one task and length."""
    places = dict.fromkeys((row.task, row.length) for row in study.rows)
    return [[row for row in study.rows if (row.task, row.length) == place] for place in places]


def _caption(row: MemoryRow) -> str:
    probe = probe_named(row.task)
    better = "higher is better, 1 is perfect" if probe.figure == "accuracy" else "lower is better, 0 is perfect"
    return (
        f"{row.task}, T = {row.length}: {probe.summary}. {probe.figure.capitalize()} ({better}), mean ± standard deviation over the seeds; without "
        f"memory {probe.memoryless(row.length):.3f}, solved at {probe.solved_at:g}."
    )


def _head() -> list[str]:
    longer = [f"at {multiple} T" for multiple in MULTIPLES[1:]]
    return ["model", "parameters", "rate", "at T", "solved", *longer, "steps", "seconds", "search seconds"]


def _cells(row: MemoryRow) -> list[str]:
    num_seeds = len(row.num_steps)
    longer = [f"{row.mean(multiple):.3f}" for multiple in MULTIPLES[1:]]
    trained = f"{row.mean():.3f} ± {row.spread():.3f}" if num_seeds > 1 else f"{row.mean():.3f}"
    steps = f"{sum(row.num_steps) / num_seeds:,.0f}"
    seconds = [f"{row.seconds:.1f}", f"{row.search_seconds:.1f}"]
    return [row.cell, f"{row.num_parameters:,}", f"{row.learning_rate:g}", trained, f"{row.num_solved} of {num_seeds}", *longer, steps, *seconds]


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
