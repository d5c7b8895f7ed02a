"""What was found about gradients as pictures: decay curves, maps over t and k, singular values, and an animation over training.

    picture = draw_decay(models, "hidden", DARK)

Each function gives the bytes of a picture, for a light or a dark page. Knows numbers alone. Sizes are in inches. The same figures give the same files
where the same fonts are.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..inspection.fonts import font_families
from ..inspection.pictures import COLORS
from .gradient_figures import QUANTITIES, Curve, GradientMap, ModelGradients, Stage

CURVE_INCHES, MAP_INCHES, SPECTRUM_INCHES, FRAME_INCHES = (5.4, 4.2), 2.7, (5.4, 3.4), (5.4, 4.4)
DOTS_PER_INCH, FRAME_DOTS_PER_INCH = 180, 110
LOWEST = 1e-6  # of what is drawn, as a share of the beginning
LONG = 256  # distances from which on the axis is logarithmic
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS = 700, 2400
SIGNS = {
    "hidden": r"$\partial h_t\,/\,\partial h_k$",
    "cell": r"$\partial c_t\,/\,\partial c_k$",
    "path": r"$\prod f_j$",
    "loss": r"$\partial\,loss_t\,/\,\partial\,input_k$",
}
MAPPED = ("hidden", "cell", "loss")
UNKNOWN_SIGN = "\N{REPLACEMENT CHARACTER}"
BEGINNING, PATH = "--", ":"  # kinds of line
LEGEND_CHARACTERS, LONGEST_LABEL = 62, 48


@dataclass(frozen=True)
class Theme:
    """The colours of a picture."""

    paper: str
    ink: str
    muted: str
    grid: str
    lines: tuple[str, ...]
    """Of the models, told apart by colour-blind readers (Okabe and Ito), and in the other theme lighter or darker."""
    scale: tuple[str, ...]
    """Of maps, from nothing to most."""
    unreached: str
    """Of maps, where nothing can be."""


LIGHT = Theme("#ffffff", "#1c232b", "#5b6672", "#d5dce4", ("#0072B2", "#C04E00", "#00805D", "#A8487F", "#946300", "#4a5560"), COLORS, "#e9edf2")
DARK = Theme(
    "#14181d", "#e6ebf0", "#9ba7b4", "#333c46", ("#5db5f0", "#ff9457", "#3fd1a4", "#ea9cc6", "#ecc04b", "#b9c4cf"),
    ("#1b2129", "#22466e", "#2f6da8", "#79b4e8", "#d6ecff"), "#0a0d10",
)  # fmt: skip


def draw_decay(models: Sequence[ModelGradients], quantity: str, theme: Theme = LIGHT) -> bytes | None:
    """A PNG of what is left of a gradient by distance, a colour for each model; None where no model has this quantity.

    Dashed as a model begins, solid as it ends, where both are known. With the cell state of an LSTM goes its additive path alone, dotted.
    """
    shown = [model for model in models if model.stages[-1].has(quantity)]
    if not shown:
        return None
    figure, axes = _figure(CURVE_INCHES, theme)
    keys = {}
    for number, model in enumerate(models):
        if model not in shown:
            continue
        color = keys[model.name] = theme.lines[number % len(theme.lines)]
        if len(model.stages) > 1:
            _draw_curve(axes, model.stages[0].curve(quantity), color, BEGINNING)
        _draw_curve(axes, model.stages[-1].curve(quantity), color, "-")
        if quantity == "cell" and model.stages[-1].has("path"):
            _draw_curve(axes, model.stages[-1].curve("path"), color, PATH)
    _finish_axes(axes, quantity, theme)
    _add_legend(figure, keys, _styles(shown, has_path=quantity == "cell"), theme)
    return _png(figure)


def _styles(models: Sequence[ModelGradients], *, has_path: bool = False) -> dict[str, str]:
    """What dashed, solid and dotted lines are, where there is more than one kind."""
    styles = {}
    if any(len(model.stages) > 1 for model in models):
        styles = dict.fromkeys((model.stages[0].name for model in models if len(model.stages) > 1), BEGINNING)
        styles |= dict.fromkeys((model.stages[-1].name for model in models), "-")
    return styles | ({"its forget gates alone": PATH} if has_path else {})


def _draw_curve(axes: Any, curve: Curve, color: str, style: str) -> None:
    """One line with its band; what is below the picture runs along its lower edge."""
    first = QUANTITIES[curve.quantity].reference if len(curve.mean) > 2 else 0
    distances = np.arange(len(curve.mean))[first:]
    scale = curve.relative[first:] / np.maximum(curve.mean[first:], np.finfo(float).tiny)
    axes.plot(distances, np.maximum(curve.relative[first:], LOWEST / 10), color=color, linestyle=style, linewidth=1.8)
    if curve.low is not None and curve.high is not None:
        low, high = (np.maximum(part[first:] * scale, LOWEST / 10) for part in (curve.low, curve.high))
        axes.fill_between(distances, low, high, color=color, alpha=0.16, linewidth=0)


def _finish_axes(axes: Any, quantity: str, theme: Theme) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(max(LOWEST, low), min(high, 1e3))
    longest = max(len(line.get_xdata()) for line in axes.lines)
    if longest > LONG:
        axes.set_xscale("symlog", linthresh=1, linscale=0.3)
        axes.set_xlim(0, longest)
    axes.set_title(f"{SIGNS[quantity]}: {QUANTITIES[quantity].words}", color=theme.ink, fontsize=12, loc="left")
    axes.set_xlabel("distance t - k, steps", color=theme.ink, fontsize=11)
    axes.set_ylabel("share that is left", color=theme.ink, fontsize=11)
    axes.axhline(0.1, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.minorticks_off()  # ten to a decade, which take most of the time of drawing
    axes.grid(color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)


def _add_legend(figure: Any, keys: dict[str, str], styles: dict[str, str], theme: Theme) -> None:
    """Below the axes: a colour for each name of `keys`, a line for each of `styles`. Signs that no font has are replaced."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=4) for color in keys.values()]
    for style in styles.values():
        handles.append(Line2D([], [], color=theme.ink, linewidth=1.5))
        handles[-1].set(linestyle=style)
    families, missing = font_families([*keys, *styles])
    shown = ["".join(UNKNOWN_SIGN if sign in missing else sign for sign in _cut(label)) for label in (*keys, *styles)]
    across = max(1, min(len(shown), LEGEND_CHARACTERS // (max(map(len, shown)) + 5)))
    legend = figure.legend(
        handles, shown, loc="outside lower left", ncols=across, frameon=False, labelcolor=theme.ink, prop={"family": families, "size": 10}
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def draw_maps(model: ModelGradients, theme: Theme = LIGHT) -> bytes:
    """A PNG of gradients over t, downwards, and k, to the right: a row for each quantity, a column for the beginning and one for the end."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    stages = [model.stages[0], model.stages[-1]] if len(model.stages) > 1 else [model.stages[-1]]
    quantities = [quantity for quantity in MAPPED if stages[-1].has(quantity)]
    size = (MAP_INCHES * len(stages) + 1.5, (MAP_INCHES + 0.5) * len(quantities) + 0.3)
    figure, panels = _figure(size, theme, len(quantities), len(stages))
    colors = LinearSegmentedColormap.from_list("gradients", theme.scale)
    for row, quantity in zip(panels, quantities, strict=True):
        maps = [_map_of(stage, quantity) for stage in stages]
        highest = max(float(found.values.max()) for found in maps)
        norm = LogNorm(vmin=highest * 1e-4, vmax=highest, clip=True)
        image = None
        for column, (axes, found, stage) in enumerate(zip(row, maps, stages, strict=True)):
            hidden = np.arange(found.values.shape[1]) > found.targets[:, None]
            shown = np.ma.masked_array(np.maximum(found.values, highest * 1e-9), hidden)
            image = axes.pcolormesh(*_edges(found), shown, cmap=colors, norm=norm)
            axes.set_facecolor(theme.unreached)
            axes.invert_yaxis()
            axes.set_title(f"{SIGNS[quantity]}, {stage.name}", color=theme.ink, fontsize=10.5, loc="left")
            axes.set_xlabel("k", color=theme.ink, fontsize=10, labelpad=1)
            if column == 0:
                axes.set_ylabel("t", color=theme.ink, fontsize=10)
        bar = figure.colorbar(image, ax=list(row), pad=0.02, aspect=24)
        bar.minorticks_off()
        bar.ax.tick_params(colors=theme.ink, labelsize=9)
        bar.outline.set_edgecolor(theme.grid)
    return _png(figure)


def _map_of(stage: Stage, quantity: str) -> GradientMap:
    """The map of the layer whose curve lasts longest."""
    layer = stage.curve(quantity).layer
    return next(found for found in stage.maps if found.quantity == quantity and found.layer == layer)


def _edges(found: GradientMap) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells: k, and the targets t with the borders halfway between them."""
    targets = found.targets.astype(float)
    between = (targets[1:] + targets[:-1]) / 2
    first, last = (targets[0] - 0.5, targets[-1] + 0.5)
    if len(targets) == 1:  # one loss of a whole text
        first, last = -0.5, targets[-1] + 0.5
    return np.arange(found.values.shape[1] + 1) - 0.5, np.concatenate([[first], between, [last]])


def draw_singular_values(models: Sequence[ModelGradients], theme: Theme = LIGHT) -> bytes | None:
    """A PNG of the singular values of one step of each model's last recurrent layer, the largest first; None where no model is recurrent."""
    if not any(model.stages[-1].layers for model in models):
        return None
    figure, axes = _figure(SPECTRUM_INCHES, theme)
    keys = {}
    for number, model in enumerate(models):
        if not model.stages[-1].layers:
            continue
        color = keys[model.name] = theme.lines[number % len(theme.lines)]
        for stage, style in ((model.stages[0], BEGINNING), (model.stages[-1], "-"))[0 if len(model.stages) > 1 else 1 :]:
            values = stage.layers[-1].singular_values
            axes.plot(np.linspace(0, 1, len(values)), np.maximum(values, LOWEST), color=color, linestyle=style, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_ylim(max(1e-4, axes.get_ylim()[0]), None)
    axes.axhline(1.0, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_title("Singular values of one step", color=theme.ink, fontsize=12, loc="left")
    axes.set_xlabel("share of the directions of the state", color=theme.ink, fontsize=11)
    axes.minorticks_off()
    axes.grid(color=theme.grid, linewidth=0.6)
    _add_legend(figure, keys, _styles([model for model in models if model.name in keys]), theme)
    return _png(figure)


def draw_training(model: ModelGradients, theme: Theme = LIGHT) -> tuple[bytes, bytes] | None:
    """An animated GIF of the decay curve from stage to stage, earlier ones in grey, and a PNG of its last picture for whom motion disturbs.

    None where there are fewer than two stages.
    """
    from PIL import Image

    if len(model.stages) < 2:
        return None
    quantity = "hidden" if model.stages[-1].has("hidden") else "loss"
    curves = [stage.curve(quantity) for stage in model.stages]
    lowest = max(LOWEST, 0.5 * min(float(curve.relative.min()) for curve in curves))
    highest = 1.5 * max(float(curve.relative[QUANTITIES[quantity].reference :].max()) for curve in curves)
    figure, axes = _figure(FRAME_INCHES, theme)
    pictures = []
    for number, stage in enumerate(model.stages):
        for artist in (*axes.lines, *axes.collections, *figure.legends):
            artist.remove()
        for earlier in curves[:number]:
            _draw_curve(axes, replace(earlier, low=None), theme.muted, "-")
            axes.lines[-1].set(alpha=0.5, linewidth=0.9)
        _draw_curve(axes, curves[number], theme.lines[0], "-")
        _finish_axes(axes, quantity, theme)
        axes.set_ylim(lowest, highest)
        _add_legend(figure, {f"{model.name}, {stage.name}": theme.lines[0]}, {}, theme)
        pictures.append(_png(figure, FRAME_DOTS_PER_INCH))
        if number == 0:
            figure.set_layout_engine("none")  # the first picture's holds for all: finding it takes longer than drawing
    frames = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    palette: Any = frames[-1].quantize(255)
    shown: list[Any] = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    for frame in shown:
        colors, paper = frame.getpalette(), frame.getpixel((0, 0))
        colors[3 * paper : 3 * paper + 3] = frames[-1].getpixel((0, 0))  # a palette of means makes paper a little grey
        frame.putpalette(colors)
    durations = [FRAME_MILLISECONDS] * (len(shown) - 1) + [LAST_FRAME_MILLISECONDS]
    written = io.BytesIO()
    shown[0].save(written, format="GIF", save_all=True, append_images=shown[1:], duration=durations, loop=0)
    return written.getvalue(), pictures[-1]


def _figure(size: tuple[float, float], theme: Theme, num_rows: int | None = None, num_columns: int | None = None) -> tuple[Any, Any]:
    """A figure on `theme`'s paper and its axes, of several (rows, columns) of them."""
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows or 1, num_columns or 1, squeeze=False)
    for axes in panels.flat:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.ink, labelsize=10)
        for side, spine in axes.spines.items():
            spine.set_color(theme.muted)
            spine.set_visible(side in ("left", "bottom"))
    return figure, panels[0, 0] if num_rows is None else panels


def _png(figure: Any, dots: int = DOTS_PER_INCH) -> bytes:
    written = io.BytesIO()
    figure.canvas.print_figure(written, format="png", dpi=dots, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return written.getvalue()
