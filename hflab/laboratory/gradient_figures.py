"""What was found about the gradients of models, as numbers: curves over the distance, maps over t and k, one step of the recurrence, gates.

    curve = stage.curve("hidden")
    curve.after(30)             # what is left of the gradient 30 steps back, relative to its beginning
    curve.half_life             # steps until half is left; None: not within the steps that were measured

Numbers alone, and how they follow from one another: knows nothing about models, files, pictures or pages.

L: distances, 0 to T - 1; T: tokens; N: targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .intervals import SMALLEST, geometric_interval

MARKED_STEPS = (10, 30, 50)  # distances that a summary names
HALF, TENTH = 0.5, 0.1


@dataclass(frozen=True)
class Quantity:
    """A kind of gradient: how it is written and in words, its unit, and from which distance its decay counts."""

    sign: str
    words: str
    unit: str
    reference: int = 0


QUANTITIES = {
    "hidden": Quantity("∂h_t/∂h_k", "the hidden state", "root-mean-square gain ‖∂h_t/∂h_k‖_F / √H; 1 at t = k"),
    "cell": Quantity("∂c_t/∂c_k", "the cell state", "root-mean-square gain ‖∂c_t/∂c_k‖_F / √H; 1 at t = k"),
    "path": Quantity("Π f_j", "the additive path alone", "root-mean-square product of the gates; 1 at t = k"),
    # the newest input has a way of its own in a Transformer, through no attention, so that decay counts from the one before it
    "loss": Quantity("∂loss_t/∂input_k", "the loss, to the inputs", "‖∂loss_t/∂input_k‖, nats per unit of embedding", reference=1),
}


@dataclass(frozen=True)
class Curve:
    """How a gradient falls with the distance n = t - k."""

    quantity: str
    """A key of `QUANTITIES`."""
    layer: int | None
    """Number of the recurrent layer, from 1; None for what is of the whole model."""
    mean: np.ndarray
    """(L,) by distance. Within a seed the root of the mean square over rows and targets; over seeds the geometric mean (over rows, of one model)."""
    low: np.ndarray | None
    """(L,) end of the 95 % interval; None where there was one seed and one row."""
    high: np.ndarray | None
    relative_error: np.ndarray | None = None
    """(L,) standard error of the random probes as a share of the mean; None where it is exact."""

    @property
    def relative(self) -> np.ndarray:
        """(L,) the mean as a share of its beginning, which is 1 at the quantity's reference distance."""
        reference = QUANTITIES[self.quantity].reference
        return self.mean / max(self.mean[min(reference, len(self.mean) - 1)], SMALLEST)

    def after(self, steps: int) -> float | None:
        """What is left `steps` steps beyond the reference distance; None beyond what was measured."""
        place = steps + QUANTITIES[self.quantity].reference
        return float(self.relative[place]) if place < len(self.mean) else None

    def interval_after(self, steps: int) -> tuple[float, float] | None:
        """The 95 % interval of `after`, which takes the beginning as known; None where there is none."""
        place, scale = steps + QUANTITIES[self.quantity].reference, self.after(steps)
        if scale is None or self.low is None or self.high is None or self.mean[place] <= SMALLEST:
            return None
        return scale * float(self.low[place] / self.mean[place]), scale * float(self.high[place] / self.mean[place])

    def steps_to(self, share: float) -> float | None:
        """Steps until the curve first falls to `share` of its beginning, between two steps along the logarithm; None: not within the curve."""
        left = np.log(np.maximum(self.relative[QUANTITIES[self.quantity].reference :], SMALLEST))
        below = np.flatnonzero(left <= np.log(share))
        if not len(below):
            return None
        after = int(below[0])
        if after == 0:
            return 0.0
        return after - 1 + float((left[after - 1] - np.log(share)) / (left[after - 1] - left[after]))

    @property
    def half_life(self) -> float | None:
        """Steps until half is left."""
        return self.steps_to(HALF)

    @property
    def num_steps(self) -> int:
        """The most steps that `after` knows."""
        return len(self.mean) - 1 - QUANTITIES[self.quantity].reference


@dataclass(frozen=True)
class GradientMap:
    """A gradient over t and k: root mean square over rows and seeds."""

    quantity: str
    layer: int | None
    targets: np.ndarray
    """(N,) the numbers t, from 0."""
    values: np.ndarray
    """(N, T) by t and k; 0 for k > t."""
    standard_error: np.ndarray | None
    """(N, T) of the random probes; None where the map is exact."""


@dataclass(frozen=True)
class GateShares:
    """Of a gate's activations, over all rows, tokens and units: the mean, and the shares, 0 to 1, that are nearly shut and nearly open."""

    mean: float
    nearly_shut: float
    nearly_open: float


@dataclass(frozen=True)
class RecurrenceFigures:
    """One step of a recurrent layer: means over single steps, rows and seeds."""

    layer: int
    spectral_radius: float
    """Largest absolute eigenvalue of ∂s_t/∂s_{t-1}; s is h, and of an LSTM h and c."""
    spectral_radius_interval: tuple[float, float] | None
    singular_values: np.ndarray
    """(S,) of the same Jacobian, the largest first."""
    gates: dict[str, GateShares] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A model at one point of its training, or several that began with other seeds."""

    name: str
    step: int | None
    """Optimizer steps done; None where nobody has counted them."""
    curves: tuple[Curve, ...]
    maps: tuple[GradientMap, ...]
    layers: tuple[RecurrenceFigures, ...] = ()

    def curve(self, quantity: str, layer: int | None = None) -> Curve:
        """The curve of a quantity; of several layers the one that has most left at its end, unless `layer` (from 1) is given.

        Raises:
            KeyError: there is none, such as "hidden" of a Transformer.
        """
        found = [curve for curve in self.curves if curve.quantity == quantity and layer in (None, curve.layer)]
        if not found:
            raise KeyError(f"there is no curve {quantity!r}; there are: {sorted({curve.quantity for curve in self.curves})}")
        return max(found, key=lambda curve: curve.relative[-1])

    def has(self, quantity: str) -> bool:
        """Whether there is such a curve."""
        return any(curve.quantity == quantity for curve in self.curves)


@dataclass(frozen=True)
class ModelGradients:
    """What was found about one model or recipe."""

    name: str
    kind: str
    """Name of a recurrent cell, "attention", or "other"."""
    description: str
    stages: tuple[Stage, ...]
    """In the order of training."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredSquares:
    """Squared norms of a quantity over t and k."""

    quantity: str
    layer: int | None
    targets: Sequence[int]
    """The N numbers t."""
    squares: Sequence[np.ndarray]
    """Of each seed (B, N, T) by row, target t and k."""
    errors: Sequence[np.ndarray] | None
    """Likewise their standard errors; None: exact."""


def curve_by_distance(measured: MeasuredSquares) -> Curve:
    """The curve of what was measured, by distance."""
    maps, errors, targets = measured.squares, measured.errors, measured.targets
    by_row = [_by_distance(squares, targets) for squares in maps]  # of each seed (B, L)
    units = np.stack([rows.mean(0) for rows in by_row]) if len(by_row) > 1 else by_row[0]
    mean, low, high = geometric_interval(np.sqrt(units))
    relative_error = None
    if errors is not None:
        variance = sum(_by_distance(error**2, targets, of_mean=True).sum(0) / len(error) ** 2 for error in errors) / len(errors) ** 2
        pooled = np.mean([rows.mean(0) for rows in by_row], axis=0)
        relative_error = np.sqrt(variance) / (2 * np.maximum(pooled, SMALLEST))  # of a root half of that of the square
    return Curve(measured.quantity, measured.layer, mean, low, high, relative_error)


def _by_distance(squares: np.ndarray, targets: Sequence[int], *, of_mean: bool = False) -> np.ndarray:
    """Means (B, L) of `squares` (B, N, T) over the targets by distance t - k; with `of_mean` variances of that mean from those of its parts."""
    num_distances = targets[-1] + 1
    total, count = np.zeros((len(squares), num_distances)), np.zeros(num_distances)
    for number, target in enumerate(targets):
        total[:, : target + 1] += squares[:, number, target::-1]
        count[: target + 1] += 1
    return total / (count**2 if of_mean else count)


def pooled_map(measured: MeasuredSquares) -> GradientMap:
    """The map of what was measured, over rows and seeds together."""
    errors = measured.errors
    squares = np.concatenate(list(measured.squares)).mean(0)
    values = np.sqrt(squares)
    standard_error = None
    if errors is not None:
        stacked = np.concatenate(list(errors))
        standard_error = np.sqrt((stacked**2).sum(0)) / len(stacked) / (2 * np.maximum(values, np.sqrt(SMALLEST)))
    return GradientMap(measured.quantity, measured.layer, np.array(measured.targets), values, standard_error)


def as_json(model: ModelGradients) -> dict[str, Any]:
    """The numbers of a model as plain containers; maps are left out, whose place is the table of `map_rows`."""
    return {
        "name": model.name,
        "kind": model.kind,
        "description": model.description,
        "notes": list(model.notes),
        "stages": [_stage_json(stage) for stage in model.stages],
    }


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "step": stage.step,
        "curves": [_curve_json(curve) for curve in stage.curves],
        "layers": [
            {
                "layer": layer.layer,
                "spectral_radius": layer.spectral_radius,
                "spectral_radius_interval": layer.spectral_radius_interval and list(layer.spectral_radius_interval),
                "singular_values": layer.singular_values.tolist(),
                "gates": {name: vars(shares) for name, shares in layer.gates.items()},
            }
            for layer in stage.layers
        ],
    }


def _curve_json(curve: Curve) -> dict[str, Any]:
    arrays = {name: getattr(curve, name) for name in ("mean", "low", "high", "relative_error")}
    return {
        "quantity": curve.quantity,
        "meaning": f"{QUANTITIES[curve.quantity].sign}: {QUANTITIES[curve.quantity].unit}",
        "layer": curve.layer,
        "is_exact": curve.relative_error is None,
        "half_life": curve.half_life,
        "steps_to_a_tenth": curve.steps_to(TENTH),
        "counts_from_distance": QUANTITIES[curve.quantity].reference,
        "left_after": {str(steps): curve.after(steps) for steps in MARKED_STEPS},
        "by_distance": {name: None if array is None else array.tolist() for name, array in arrays.items()},
    }


def map_rows(models: Sequence[ModelGradients]) -> dict[str, list[Any]]:
    """The columns of all maps: a row for each model, stage, quantity, layer, t and k up to t."""
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "stage", "step", "quantity", "layer", "t", "k", "value", "standard_error")}
    for model in models:
        for stage in model.stages:
            for found in stage.maps:
                for number, target in enumerate(found.targets):
                    count = int(target) + 1
                    values = found.values[number, :count]
                    error = [None] * count if found.standard_error is None else found.standard_error[number, :count].tolist()
                    fixed = (model.name, stage.name, stage.step, found.quantity, found.layer, int(target))
                    for name, value in zip(columns, fixed, strict=False):
                        columns[name] += [value] * count
                    columns["k"] += range(count)
                    columns["value"] += values.tolist()
                    columns["standard_error"] += error
    return columns
