"""A study of memory as a picture: the figure of every model by the length of the rows, a panel for each task and trained length.

Knows the numbers of a study, nothing of models.
"""

from pathlib import Path
from typing import Any

from .memory import MemoryRow, MemoryStudy
from .probe_tasks import probe_named

COLORS = ("#0b5fa5", "#c05600", "#1b7f4d", "#8a2f8f", "#5c5c5c")  # one for each model, told apart in grey by its mark too
MARKS = ("o", "s", "^", "D", "v")
PANELS_ACROSS = 3
PANEL_INCHES = (4.2, 3.0)
DOTS_PER_INCH = 130
INK, GRID = "#1c232b", "#c9d1da"


def draw_memory(study: MemoryStudy, path: Path) -> None:
    """Draw into the PNG file `path`. Raises `OSError` if it cannot be written."""
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = list(dict.fromkeys((row.task, row.length) for row in study.rows))
    across = min(PANELS_ACROSS, len(places))
    down = -(-len(places) // across)
    figure = Figure(figsize=(across * PANEL_INCHES[0], down * PANEL_INCHES[1] + 0.5), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    cells = list(dict.fromkeys(row.cell for row in study.rows))
    for number, place in enumerate(places):
        axes = figure.add_subplot(down, across, number + 1)
        _draw_panel(axes, [row for row in study.rows if (row.task, row.length) == place], cells)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4 * across), frameon=False, fontsize=9)
    canvas.print_figure(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _draw_panel(axes: Any, rows: list[MemoryRow], cells: list[str]) -> None:
    """Lines of the means, bands from the worst to the best seed."""
    probe, length = probe_named(rows[0].task), rows[0].length
    multiples = sorted(rows[0].figures)
    lengths = [multiple * length for multiple in multiples]
    for row in rows:
        number = cells.index(row.cell)
        style = {"color": COLORS[number % len(COLORS)], "marker": MARKS[number % len(MARKS)], "markersize": 5, "linewidth": 1.6}
        axes.plot(lengths, [row.mean(multiple) for multiple in multiples], label=row.cell, zorder=3, **style)
        worst, best = ([limit(row.figures[multiple]) for multiple in multiples] for limit in (min, max))
        axes.fill_between(lengths, worst, best, color=style["color"], alpha=0.13, linewidth=0)
    axes.plot(lengths, [probe.memoryless(value) for value in lengths], color=INK, linewidth=1.0, linestyle=":", label="without memory")
    axes.axhline(probe.solved_at, color=INK, linewidth=0.8, linestyle="--", label="solved")
    axes.set_xscale("log", base=2)
    if probe.figure == "squared error":  # from nearly nothing to more than without memory
        axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{value:,}" for value in lengths])
    axes.minorticks_off()
    axes.set_title(f"{rows[0].task}, trained at T = {length}", fontsize=10, color=INK)
    axes.set_xlabel("T of the rows it is tested on", fontsize=9, color=INK)
    axes.set_ylabel(f"{probe.figure} ({'higher' if probe.figure == 'accuracy' else 'lower'} is better)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
