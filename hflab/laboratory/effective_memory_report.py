"""How much context a language model uses, as text, files and a picture. Knows the figures, nothing of models.

print(plain_context_report(found))
write_context_report(found, Path("memory"))
"""

import dataclasses
import json
from pathlib import Path

from ..errors import UserError
from .effective_memory import CERTAINTY, TOLERANCE, ContextUse, EffectiveMemory

PICTURE = "effective_memory.png"
COLORS = ("#0b5fa5", "#c05600")
INK, GRID = "#1c232b", "#c9d1da"


def context_verdict(found: EffectiveMemory) -> list[str]:
    """What was found, in sentences; the rule of each stands in it."""
    loss = found.loss
    ways = {"reading the last k tokens alone": found.cut, "shuffling what lies before the last k tokens": found.shuffled}
    sentences = [_sentence(use, found.context, what) for what, use in ways.items()]
    best = min(found.cut.losses)
    if best < (1 - TOLERANCE) * loss:
        shorter = found.context_lengths[found.cut.losses.index(best)]
        sentences.append(
            f"The whole context of {found.context} tokens is worse than its last {shorter} alone ({loss:.3f} and {best:.3f} nats per token): the "
            "model does not bear rows this long, and a smaller --context tells more."
        )
    return sentences


def plain_context_report(found: EffectiveMemory) -> str:
    """Table and verdict for a terminal."""
    head, *rows = _table(found)
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows)]
    return "\n".join([_about(found), *lines, "", *context_verdict(found)])


def write_context_report(found: EffectiveMemory, folder: Path) -> Path:
    """Write `effective_memory.json`, `.md` and `.png` into `folder`, replacing such files; returns the Markdown file.

    Raises:
        UserError: the folder cannot be written into.
    """
    page = folder / "effective_memory.md"
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (_table(found)[0], ["---:"] * 3, *_table(found)[1:]))
    parts = ["# Effective memory", _about(found), "\n".join(f"- {sentence}" for sentence in context_verdict(found)), f"![Loss]({PICTURE})", table]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saved = {**dataclasses.asdict(found), "tolerance": TOLERANCE, "verdict": context_verdict(found)}
        page.with_suffix(".json").write_text(json.dumps(saved, indent=1), encoding="utf-8")
        _draw(found, folder / PICTURE)
        page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"The report cannot be written into {folder}: {error.strerror}; choose another folder with --output.") from None
    return page


def _about(found: EffectiveMemory) -> str:
    targets = f"{found.about}: nats per token (lower is better) of {found.num_targets:,} tokens"
    return f"{targets}; with all {found.context} tokens before them {found.loss:.3f}."


def _sentence(use: ContextUse, context: int, what: str) -> str:
    interval = f"{CERTAINTY:.0%} interval {use.low} to {use.high}"
    if use.tokens == context:
        return f"No k tried below {context} is enough: {what} always costs more than {TOLERANCE:.0%} of the loss ({interval})."
    return f"From k = {use.tokens} on, {what} costs at most {TOLERANCE:.0%} of the loss ({interval})."


def _table(found: EffectiveMemory) -> list[list[str]]:
    rows = zip(found.context_lengths, found.cut.losses, found.shuffled.losses, strict=True)
    return [["k", "last k alone", "shuffled before the last k"], *([f"{k:,}", f"{cut:.3f}", f"{shuffled:.3f}"] for k, cut, shuffled in rows)]


def _draw(found: EffectiveMemory, path: Path) -> None:
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for use, color, label, mark in ((found.cut, COLORS[0], "last k alone", "o"), (found.shuffled, COLORS[1], "shuffled before them", "s")):
        axes.plot(found.context_lengths, use.losses, color=color, marker=mark, markersize=5, linewidth=1.6, label=f"{label}: {use.tokens}")
        axes.axvline(use.tokens, color=color, linewidth=1.0, linestyle=":")
    axes.axhspan(found.loss, (1 + TOLERANCE) * found.loss, color=INK, alpha=0.12, linewidth=0, label=f"within {TOLERANCE:.0%}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.context_lengths, [f"{k:,}" for k in found.context_lengths])
    axes.minorticks_off()
    axes.set_xlabel("k, tokens of context left as they were", fontsize=10, color=INK)
    axes.set_ylabel("nats per token (lower is better)", fontsize=10, color=INK)
    axes.set_title(found.about, fontsize=11, color=INK, parse_math=False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, title="effective memory in tokens", title_fontsize=9)
    canvas.print_figure(path, dpi=130, metadata={"Software": None})
