"""Speech data at a glance, as a PNG file: how long clips are, how fast they are spoken, how loud they are, and at which rates they are stored.

    draw_check(found, Path("data_check.png"))

Draws what a `SpeechCheck` holds; knows nothing about how it was found. Sizes are in inches.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.checked_clips import CheckedClip
from ..data.speech_check import SpeechCheck
from .fonts import font_families

# Okabe and Ito's colours: told apart by colour-blind readers, and in grey
SPLIT_COLORS = {"train": "#56B4E9", "validation": "#D55E00", "test": "#009E73"}
INK, LIMIT_COLOR = "#1c232b", "#6b7480"
PICTURE_INCHES = (10.0, 7.2)
DOTS_PER_INCH = 160
NUM_BINS = 40
SHOWN_PERCENTILE, SHOWN_BEYOND = 99.5, 1.6  # the axis ends at so many times the percentile: a few outliers must not flatten the rest
LONGEST_TITLE = 60  # characters
UNKNOWN_SIGN = "\N{REPLACEMENT CHARACTER}"
MOST_BARS = 8
QUIETEST = -70.0  # dBFS; what is shown of silence


class Histogram(NamedTuple):
    """A number of each clip, and how its axis is labelled."""

    title: str
    unit: str
    value: Callable[[CheckedClip], float | None]
    """None: the clip has no such number."""
    limits: tuple[float, ...]
    """Where lines are drawn."""
    limit_label: str
    lowest: float = 0.0
    """Where the axis begins, unless all is larger and a picture of it need not show the zero."""
    shows_lowest: bool = True


def draw_check(found: SpeechCheck, path: Path) -> Path:
    """Draw the histograms into the PNG file `path`; the same findings give the same file where the same fonts are."""
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    title, families = _title(found)
    figure = Figure(figsize=PICTURE_INCHES, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, color=INK, fontfamily=families, parse_math=False)
    panels = figure.subplots(2, 2)
    for axes, histogram in zip(panels.flat, _histograms(found), strict=False):
        _draw_histogram(axes, found, histogram)
    _draw_rates(panels[1, 1], found)
    handles = [_patch(color, split) for split, color in SPLIT_COLORS.items() if split in found.splits]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
    canvas.print_figure(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path


def _title(found: SpeechCheck) -> tuple[str, list[str]]:
    """The heading, with signs that no font has replaced, and the fonts to write it with."""
    name = found.name if len(found.name) <= LONGEST_TITLE else found.name[: LONGEST_TITLE - 1] + "…"
    families, missing = font_families([name])
    shown = "".join(UNKNOWN_SIGN if sign in missing else sign for sign in name)
    hours = sum(size.seconds for size in found.splits.values()) / 3600
    return f"{shown}: {len(found.clips):,} clips, {hours:,.2f} hours", families


def _histograms(found: SpeechCheck) -> list[Histogram]:
    speeds = found.usual_speeds or ()
    return [
        Histogram("Duration", "seconds", lambda clip: clip.seconds if clip.sound else None, found.clip_seconds, "outside: left out"),
        Histogram("Characters per second", "from the first to the last sound", lambda clip: clip.characters_per_second, speeds, "outside: unusual"),
        Histogram("Loudness", "dBFS (root mean square)", lambda clip: clip.sound.loudness if clip.sound else None, (), "", QUIETEST, False),
    ]


def _draw_histogram(axes: Any, found: SpeechCheck, histogram: Histogram) -> None:
    values = {split: _values(found, split, histogram) for split in SPLIT_COLORS if split in found.splits}
    together = np.concatenate(list(values.values())) if values else np.empty(0)
    _label(axes, histogram.title, histogram.unit)
    if not len(together):
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color=LIMIT_COLOR, fontsize=11)
        axes.set(xticks=[], yticks=[])
        return
    edges = _edges(together, histogram)
    shown = [np.clip(of_split, edges[0], edges[-1]) for of_split in values.values()]
    axes.hist(shown, bins=edges, stacked=True, color=[SPLIT_COLORS[split] for split in values])
    below, beyond = int((together < edges[0]).sum()), int((together > edges[-1]).sum())
    notes = [f"in the first bar {below:,} from {together.min():,.0f} on"] if below else []
    notes += [f"in the last bar {beyond:,} up to {together.max():,.1f}"] if beyond else []
    if notes:
        axes.set_xlabel(f"{histogram.unit}\n({', '.join(notes)})", fontsize=10, color=INK)
    for number, limit in enumerate(limit for limit in histogram.limits if edges[0] < limit < edges[-1]):
        axes.axvline(limit, color=LIMIT_COLOR, linestyle="--", linewidth=1.2, label=histogram.limit_label if number == 0 else None)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(facecolor="white", edgecolor="white", framealpha=0.9, fontsize=9)


def _edges(values: np.ndarray, histogram: Histogram) -> np.ndarray:
    """Edges of the bars (NUM_BINS + 1,) between which nearly all of the values (n,) lie."""
    low = histogram.lowest if histogram.shows_lowest else max(histogram.lowest, float(values.min()))
    high = float(values.max())
    if histogram.shows_lowest:
        high = min(high, SHOWN_BEYOND * float(np.percentile(values, SHOWN_PERCENTILE)))
    return np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)


def _values(found: SpeechCheck, split: str, histogram: Histogram) -> np.ndarray:
    values = [histogram.value(clip) for clip in found.clips if clip.split == split]
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _draw_rates(axes: Any, found: SpeechCheck) -> None:
    """A bar for each way of storing sound, the rarest of many together."""
    rows = list(found.stored_as.items())[:MOST_BARS]
    names = [f"{stored.sampling_rate / 1000:g} kHz, {_channels(stored.num_channels)}" for stored, _ in rows]
    counts = {split: [_stored(found, split, *stored) for stored, _ in rows] for split in SPLIT_COLORS if split in found.splits}
    rest = len([clip for clip in found.clips if clip.sound]) - sum(count for _, count in rows)
    more = f" ({rest:,} more in other ways)" if rest else ""
    _label(axes, "Stored as", f"clips{more}; the model reads {found.sampling_rate / 1000:g} kHz", across=True)
    left = np.zeros(len(rows))
    for split, of_split in counts.items():
        axes.barh(range(len(rows)), of_split, left=left, height=0.6, color=SPLIT_COLORS[split])
        left += of_split
    for place, total in enumerate(left):
        axes.text(total, place, f" {int(total):,}", va="center", fontsize=10, color=INK)
    axes.set_yticks(range(len(rows)), names, fontsize=10, color=INK)
    axes.set_ylim(max(len(rows), 3) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(left, default=1))


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _stored(found: SpeechCheck, split: str, rate: int, num_channels: int) -> int:
    return sum(
        clip.split == split and clip.sound is not None and (clip.sound.sampling_rate, clip.sound.num_channels) == (rate, num_channels)
        for clip in found.clips
    )


def _label(axes: Any, title: str, unit: str, *, across: bool = False) -> None:
    axes.set_title(title, fontsize=12, color=INK, loc="left")
    axes.set_xlabel(unit, fontsize=10, color=INK)
    if not across:
        axes.set_ylabel("clips", fontsize=10, color=INK)
    axes.tick_params(labelsize=10, colors=INK)
    axes.grid(axis="x" if across else "y", alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _patch(color: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)
