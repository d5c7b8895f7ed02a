"""Maps and traces as PNG files. Knows their numbers and labels, nothing of models and pages.

Sizes are in inches. The same reading gives the same files where the same fonts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .fonts import font_families
from .maps import AttentionMaps, Reading, StateTrace, Token

# from paper to deep blue: lightness falls all the way, so that it can be told apart in grey and by colour-blind readers
COLORS = ("#fbfcfe", "#d3e2f4", "#86b3dd", "#3a78b8", "#0b2f63")
BAR_COLOR, INK, MUTED, LINES = "#c05600", "#1c232b", "#8a5a00", "#c9d1da"
GAMMA = 0.5  # colour grows with the root of a weight: shares of a few hundredths are seen beside large ones
COLOR_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
CELL, SMALLEST_CELL = 0.2, 0.15  # side of a square; labels are as high
POINTS_PER_CELL = 46.0  # type size: points per inch of a cell's side
MOST_INCHES = 30.0  # of an overview with labels
THUMBNAIL = 1.1  # longer side of a map in an overview without
MOST_PANELS_ACROSS = 4  # of the picture of a layer
MOST_PIXELS = 6000
DOTS_PER_INCH = 160
POINTS = 72.0  # an inch
LABEL_PAD = 0.04
LONGEST_LABEL = 16  # characters
WIDE_SIGNS = 0x2E7F  # signs beyond this code point, Chinese among them, are as wide as high
TOKENS_PER_LINE = 60  # of a trace


@dataclass(frozen=True)
class Grid:
    """Panels of one size, `num_rows` x `num_columns`, and the room around them."""

    num_rows: int
    num_columns: int
    width: float
    height: float
    left: float
    bottom: float
    top: float = 0.8
    right: float = 1.0
    gap: float = 0.16
    row_gap: float = 0.34
    least_width: float = 0.0
    """Of the figure, such as its title needs."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        across = self.left + self.num_columns * (self.width + self.gap) + self.right
        return max(across, self.least_width), self.bottom + self.num_rows * (self.height + self.row_gap) - self.row_gap + self.top

    def place(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel as shares of the figure; row 0 is at the top."""
        across, high = self.size
        x = self.left + column * (self.width + self.gap)
        y = self.bottom + (self.num_rows - 1 - row) * (self.height + self.row_gap)
        return x / across, y / high, self.width / across, self.height / high


@dataclass(frozen=True)
class Panel:
    """A map (T, S) with a title."""

    title: str
    weights: np.ndarray


def draw_reading(reading: Reading, folder: Path, name: str) -> tuple[list[Path], str]:
    """Draw all that was found about model `name` into PNG files in `folder`.

    Of each kind of attention an overview, layers from top to bottom and heads from left to right; where this is too small for the labels, a
    picture of every layer too. Of a trace one picture.

    Returns:
        The files, and the signs for which no font was found: then there are no files.
    """
    tokens = [token for maps in reading.maps for token in maps.rows + maps.columns] + list(reading.trace.tokens if reading.trace else ())
    families, missing = font_families([name, *(_spelt(token) for token in tokens)])
    if missing:
        return [], missing
    files = [file for maps in reading.maps for file in _draw_maps(maps, folder, name, families)]
    if reading.trace:
        files.append(_draw_trace(reading.trace, folder / "surprise_and_state.png", name, families))
    return files, ""


def _draw_maps(maps: AttentionMaps, folder: Path, name: str, families: list[str]) -> list[Path]:
    L, N, T, S = maps.weights.shape
    title = f"{maps.title} of {name}"
    overview = [Panel(_place_name(L, N, layer, head), maps.weights[layer, head]) for layer in range(L) for head in range(N)]
    cell = min(CELL, MOST_INCHES / (N * S), MOST_INCHES / (L * T))
    path = folder / f"{maps.name}.png"
    if cell >= SMALLEST_CELL:
        return [_draw_panels(maps, overview, N, max(cell, SMALLEST_CELL), path, title, families)]
    files = [_draw_panels(maps, overview, N, THUMBNAIL / max(T, S), path, title, families)]
    for layer in range(L):
        panels = [Panel(f"head {head + 1}", maps.weights[layer, head]) for head in range(N)]
        path = folder / f"{maps.name}_layer_{layer + 1:0{len(str(L))}}.png"
        files.append(_draw_panels(maps, panels, min(N, MOST_PANELS_ACROSS), SMALLEST_CELL, path, f"{title}, layer {layer + 1}", families))
    return files


def _place_name(num_layers: int, num_heads: int, layer: int, head: int) -> str:
    """What to call a map; the only head of a layer needs no number."""
    layer_name, head_name = (f"layer {layer + 1}" if num_layers > 1 else ""), (f"head {head + 1}" if num_heads > 1 else "")
    return ", ".join(filter(None, (layer_name, head_name)))


def _draw_panels(maps: AttentionMaps, panels: Sequence[Panel], num_columns: int, cell: float, path: Path, title: str, families: list[str]) -> Path:
    """Draw `panels` row by row into `path`, with tokens beside the first of a row and below the last of a column if there is room for them."""
    T, S = maps.weights.shape[-2:]
    labelled = cell >= SMALLEST_CELL
    room = (max(map(_width, maps.rows)) * cell * 0.5 + 0.45, max(map(_width, maps.columns)) * cell * 0.5 + 0.45) if labelled else (0.3, 0.2)
    num_rows = -(-len(panels) // num_columns)
    grid = Grid(num_rows, num_columns, width=S * cell, height=T * cell, left=room[0], bottom=room[1], least_width=_title_width(title))
    figure, canvas = _new_figure(grid.size, families)
    image = None
    for number, panel in enumerate(panels):
        row, column = divmod(number, num_columns)
        axes = figure.add_axes(grid.place(row, column))
        image = _draw_map(axes, maps, panel)
        if labelled and column == 0:
            _label(axes, maps.rows, cell, families, beside=True)
            axes.set_ylabel(maps.row_role, fontsize=9, color=INK, labelpad=(room[0] - 0.4) * POINTS)
        if labelled and number + num_columns >= len(panels):
            _label(axes, maps.columns, cell, families, beside=False)
            axes.set_xlabel(maps.column_role, fontsize=9, color=INK, labelpad=(room[1] - 0.4) * POINTS)
    _add_color_scale(figure, grid, image)
    _add_title(figure, grid, title, families)
    _save(figure, canvas, path)
    return path


def _draw_map(axes: Any, maps: AttentionMaps, panel: Panel) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    shown = np.ma.masked_where(np.triu(np.ones_like(panel.weights), 1) > 0, panel.weights) if maps.hides_later else panel.weights
    colors = LinearSegmentedColormap.from_list("weights", COLORS)
    image = axes.imshow(shown, cmap=colors, norm=PowerNorm(GAMMA, vmin=0, vmax=1), aspect="auto", interpolation="nearest")
    axes.set_title(panel.title, fontsize=9, color=INK, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(LINES)
    return image


def _label(axes: Any, tokens: Sequence[Token], cell: float, families: list[str], *, beside: bool) -> None:
    """Write tokens beside the rows of a map or below its columns; those that stand for no text in another colour.

    As text and not as ticks, which take matplotlib twice as long. A single sign need not be turned below a column.
    """
    from matplotlib.transforms import ScaledTranslation

    pad = (-LABEL_PAD, 0.0) if beside else (0.0, -LABEL_PAD)
    transform = (axes.get_yaxis_transform() if beside else axes.get_xaxis_transform()) + ScaledTranslation(*pad, axes.figure.dpi_scale_trans)
    for place, token in enumerate(tokens):
        axes.text(
            *((0, place) if beside else (place, 0)),
            _spelt(token),
            transform=transform,
            rotation=0 if beside or len(token.label) == 1 else 90,
            ha="right" if beside else "center",
            va="center_baseline" if beside else "top",
            fontfamily=families,
            fontsize=cell * POINTS_PER_CELL,
            parse_math=False,
            color=INK if token.kind == "text" else MUTED,
        )


def _draw_trace(trace: StateTrace, path: Path, name: str, families: list[str]) -> Path:
    """Bars of surprisal over a band for each part of the state, in lines of text."""
    parts = np.stack(list(trace.changes.values()))
    num_lines = -(-len(trace.tokens) // TOKENS_PER_LINE)
    across = min(TOKENS_PER_LINE, len(trace.tokens))
    band, bars = len(parts) * CELL, 1.1
    room = max(map(_width, trace.tokens)) * CELL * 0.5 + 0.25
    title = f"Surprise and state of {name}"
    shape = {"width": across * CELL, "height": band + bars + 0.06, "left": 1.75, "bottom": room, "row_gap": room + 0.15}
    grid = Grid(num_lines, 1, **shape, top=0.6, least_width=_title_width(title))
    figure, canvas = _new_figure(grid.size, families)
    top = max(1.0, float(np.nan_to_num(trace.surprisal).max())) * 1.05
    image = None
    for line in range(num_lines):
        part = slice(line * TOKENS_PER_LINE, (line + 1) * TOKENS_PER_LINE)
        x, y, width, height = grid.place(line, 0)
        width *= len(trace.tokens[part]) / across
        unit = height / grid.height
        _draw_bars(figure.add_axes((x, y + (band + 0.06) * unit, width, bars * unit)), trace.surprisal[part], top)
        axes = figure.add_axes((x, y, width, band * unit))
        image = _draw_bands(axes, parts[:, part], list(trace.changes))
        _label(axes, trace.tokens[part], CELL, families, beside=False)
    _add_color_scale(figure, grid, image, label="change of the state")
    _add_title(figure, grid, title, families)
    _save(figure, canvas, path)
    return path


def _draw_bars(axes: Any, surprisal: np.ndarray, top: float) -> None:
    axes.bar(range(len(surprisal)), np.nan_to_num(surprisal), width=0.8, color=BAR_COLOR)
    axes.set(xlim=(-0.5, len(surprisal) - 0.5), ylim=(0, top), xticks=[])
    axes.set_ylabel("surprise\n(bits)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_bands(axes: Any, changes: np.ndarray, names: list[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    image = axes.imshow(changes, cmap=LinearSegmentedColormap.from_list("changes", COLORS), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_color(LINES)
    return image


def _new_figure(size: tuple[float, float], families: list[str]) -> tuple[Any, Any]:
    # matplotlib takes a second to import; its object interface leaves the backend of a notebook alone
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def _add_color_scale(figure: Any, grid: Grid, image: Any, label: str = "weight") -> None:
    across, high = grid.size
    x = grid.left + grid.num_columns * (grid.width + grid.gap) + 0.06
    length = min(2.2, high - grid.bottom - grid.top)
    axes = figure.add_axes((x / across, (high - grid.top - length) / high, 0.12 / across, length / high))
    bar = figure.colorbar(image, cax=axes)
    if label == "weight":
        shown = [tick for tick in COLOR_TICKS if length > 1.2 or tick in (0.0, 0.1, 0.5, 1.0)]
        bar.set_ticks(shown, labels=[f"{tick:g}" for tick in shown])
    bar.set_label(label, fontsize=9, color=INK)
    bar.outline.set_edgecolor(LINES)
    axes.tick_params(labelsize=8, colors=INK, length=2)


def _title_width(title: str) -> float:
    return 0.24 + 0.13 * sum(2 if ord(sign) > WIDE_SIGNS else 1 for sign in title)


def _add_title(figure: Any, grid: Grid, title: str, families: list[str]) -> None:
    high = grid.size[1]
    figure.text(0.12 / grid.size[0], 1 - 0.12 / high, title, fontsize=12, color=INK, va="top", fontfamily=families, parse_math=False)


def _save(figure: Any, canvas: Any, path: Path) -> None:
    dots = min(DOTS_PER_INCH, int(MOST_PIXELS / max(figure.get_size_inches())))
    canvas.print_figure(path, dpi=dots, metadata={"Software": None})


def _spelt(token: Token) -> str:
    return token.shortened(LONGEST_LABEL)


def _width(token: Token) -> float:
    """Width of a label in halves of its height: signs of Chinese are twice as wide as others."""
    return sum(2.0 if ord(sign) > WIDE_SIGNS else 1.1 for sign in _spelt(token))
