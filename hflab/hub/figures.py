"""The learning curve of a run as a picture. Knows the lines of metrics.jsonl, nothing else of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Okabe and Ito (2008), "Color Universal Design": told apart by colour-blind readers, and in grey
TRAINING_COLOR = "#56B4E9"
EVALUATION_COLOR = "#D55E00"
PICTURE_INCHES = (7.0, 3.9)
DOTS_PER_INCH = 200  # twice what a card of 700 pixels shows, for sharp screens
FIRST_LOSSES_CUT = 0.02  # share of the training line that may lie above the picture: the fall from the untrained loss


@dataclass(frozen=True)
class CurveAxes:
    """What a learning curve shows: a figure of metrics.jsonl by its key and its words, against an amount of training, measured on `text`."""

    key: str = "bits_per_character"
    figure: str = "bits per character"
    trained_on: str = "characters"
    text: str = "text"


LANGUAGE_MODEL_AXES = CurveAxes()
# Okabe and Ito's colours, the darker first; further runs are told apart by their dashes
COMPARED_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LONGEST_LABEL = 32  # letters of the figure that fit beside the picture in one line
DASHES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """The evaluations of runs that differ in their seeds alone."""

    label: str
    runs: list[np.ndarray]
    """(N, 2) of amount of training and figure, an array for each run."""


def tokens_at(metrics: list[dict[str, Any]], steps: list[int]) -> list[float]:
    """Tokens trained on after each of `steps` optimizer steps, interpolated between the logged ones."""
    training = [line for line in metrics if line["kind"] == "train"]
    known_steps, known_tokens = ([0, *(line[key] for line in training)] for key in ("step", "tokens"))
    return [float(tokens) for tokens in np.interp(steps, known_steps, known_tokens)]


def draw_learning_curve(metrics: list[dict[str, Any]], units_per_token: float, path: Path, shown: CurveAxes = LANGUAGE_MODEL_AXES) -> bool:
    """Draw the figure against the amount of training into the PNG file `path`; return whether there was anything to draw.

    The same lines give the same file. Nothing is drawn, and an earlier picture is removed, when there are fewer than two points.
    """
    watched = next((line["split"] for line in metrics if line["kind"] == "evaluation"), None)  # the split evaluated while training
    curves = {
        kind: _points([line for line in metrics if line.get("split", watched) == watched], kind, units_per_token, shown.key)
        for kind in ("train", "evaluation")
    }
    path.unlink(missing_ok=True)
    if max(len(points) for points in curves.values()) < 2:
        return False
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PICTURE_INCHES, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, curves, shown)
    canvas.print_figure(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return True


def evaluation_curve(metrics: list[dict[str, Any]], units_per_token: float, key: str) -> np.ndarray:
    """(N, 2) of amount of training and figure at each evaluation while a run trained."""
    watched = next((line["split"] for line in metrics if line["kind"] == "evaluation"), None)
    return _points([line for line in metrics if line.get("split", watched) == watched], "evaluation", units_per_token, key)


def draw_comparison(curves: list[Curve], path: Path, shown: CurveAxes) -> bool:
    """Draw a line for each run, runs of one curve in one colour, into the PNG file `path`; return whether there was anything to draw."""
    path.unlink(missing_ok=True)
    if all(len(points) < 2 for curve in curves for points in curve.runs):
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PICTURE_INCHES, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        rounds, color = divmod(number, len(COMPARED_COLORS))
        for seed, points in enumerate(curve.runs):
            style: dict[str, Any] = {
                "color": COMPARED_COLORS[color],
                "linestyle": DASHES[rounds % len(DASHES)],
                "linewidth": 1.8,
                "marker": ".",
                "markersize": 6,
            }
            axes.plot(*points.T, **style, label=None if seed else curve.label)
    # the fall from an untrained model would flatten all that is to be compared
    values = np.concatenate([points[len(points) // 4 :, 1] for curve in curves for points in curve.runs])
    low, high = values.min(), values.max()
    axes.set_ylim(low - 0.08 * (high - low) - 1e-3, high + 0.08 * (high - low) + 1e-3)
    _label_axes(axes, shown)
    canvas.print_figure(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return True


def _points(metrics: list[dict[str, Any]], kind: str, units_per_token: float, key: str = LANGUAGE_MODEL_AXES.key) -> np.ndarray:
    """(amount of training, figure) of each line of `kind` that has the figure; (N, 2), without those that are no number.

    A training line is a mean since the one before it, and is drawn in the middle of that stretch.
    """
    lines = [line for line in metrics if line["kind"] == kind and key in line]
    amounts = np.array(tokens_at(metrics, [line["step"] for line in lines])) * units_per_token
    if kind == "train" and lines:
        amounts = (amounts + np.concatenate([[0.0], amounts[:-1]])) / 2
    values = np.array([line[key] for line in lines], dtype=float)
    return np.stack([amounts, values], axis=1)[np.isfinite(values)]


def _draw(axes: Any, curves: dict[str, np.ndarray], named: CurveAxes) -> None:
    training, evaluation = curves["train"], curves["evaluation"]
    if len(training):
        axes.plot(*training.T, color=TRAINING_COLOR, linewidth=1.8, label=f"training {named.text}", zorder=2)
    falls_alone = False
    if len(evaluation):
        style = {"color": EVALUATION_COLOR, "linewidth": 1.8, "marker": "o", "markersize": 6, "markeredgecolor": "white"}
        axes.plot(*evaluation.T, **style, label=f"held-out {named.text}", zorder=3)
        last = evaluation[-1]
        # above the line, where the training text's is not; a falling line alone leaves its room below
        falls_alone = not len(training) and len(evaluation) > 1 and last[1] < evaluation[-2, 1]
        axes.annotate(
            f"{last[1]:.3f}", last, xytext=(0, -20 if falls_alone else 9), textcoords="offset points", ha="right", fontsize=12, color=EVALUATION_COLOR
        )
    shown = np.concatenate([evaluation[:, 1], training[int(len(training) * FIRST_LOSSES_CUT) :, 1]])
    low, high = shown.min(), shown.max()
    room_below = 0.16 if falls_alone else 0.08
    axes.set_ylim(low - room_below * (high - low) - 1e-3, high + 0.08 * (high - low) + 1e-3)
    _label_axes(axes, named)


def _label_axes(axes: Any, named: CurveAxes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(left=0)
    axes.set_xlabel(f"{named.trained_on} trained on", fontsize=12)
    long = len(named.figure) > LONGEST_LABEL
    axes.set_ylabel(named.figure.replace(" (", "\n(", 1) if long else named.figure, fontsize=12)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=12)
