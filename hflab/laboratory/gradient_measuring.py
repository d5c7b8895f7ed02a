"""Gradients of a model on rows of tokens: of its losses, and of the state of each of its recurrent layers. Of several models, one of each seed.

    stage = measure_stage("after training", 400, [model], rows, num_probes=None)

Knows nothing about where models and rows are from, and what becomes of the figures. B: rows, T: tokens, N: targets, H: hidden size, G: gates.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode, max_positions
from ..models.recurrent import RecurrentModel
from ..models.recurrent.blocks_recurrent import RecurrentBlock, ResidualBlock
from .gradient_figures import GateShares, MeasuredSquares, RecurrenceFigures, Stage, curve_by_distance, pooled_map
from .gradient_rows import Rows
from .intervals import mean_interval
from .loss_gradients import text_loss_gradients, token_loss_gradients
from .state_gradients import CellWalk, Gains, gate_shares, path_gains, read_rows, state_gains, step_jacobians

MOST_TARGETS, MOST_TARGETS_OF_LONG_ROWS, LONG_ROW = 32, 8, 512
EXACT_OPERATIONS = 1e11  # multiplications and additions of a layer, some seconds; what takes more is estimated
DEFAULT_PROBES = 16
NUM_JACOBIANS, WIDE_STATE, NUM_WIDE_JACOBIANS = 8, 256, 4  # the eigenvalues of a wide state take a second


@dataclass(frozen=True)
class LayerMeasured:
    """A recurrent layer of one model."""

    gains: dict[str, Gains]
    spectral_radius: np.ndarray
    singular_values: np.ndarray
    gates: dict[str, GateShares]


@dataclass(frozen=True)
class ModelMeasured:
    """One model: squared gradients of losses (B, N, T), and its recurrent layers."""

    losses: np.ndarray
    layers: list[LayerMeasured]


def choose_targets(num_tokens: int, *, one_loss: bool = False) -> tuple[int, ...]:
    """The tokens t, 0 to `num_tokens` - 1, that gradients start from: evenly spread, the last among them; it alone where a row has one loss."""
    most = 1 if one_loss else MOST_TARGETS_OF_LONG_ROWS if num_tokens > LONG_ROW else MOST_TARGETS
    return tuple(int(target) for target in np.unique(num_tokens - 1 - np.arange(min(most, num_tokens)) * num_tokens // min(most, num_tokens)))


def measure_stage(name: str, step: int | None, models: Iterable[PreTrainedModel], rows: Rows, num_probes: int | None = None) -> Stage:
    """What `models`, equal but for their seeds, do with `rows`.

    Args:
        name: of the stage.
        step: optimizer steps done.
        models: one at a time, so that they need not fit into memory together; on the CPU. Their modes stay as they are.
        rows: the same for all.
        num_probes: random vectors for each target, at least 2; 0: exactly; None: exactly where that takes seconds, else `DEFAULT_PROBES`.

    Raises:
        UserError: the rows are longer than a model has positions, or a model is of a kind that has no such gradients.
    """
    T = rows.input_ids.shape[1]
    state_targets, loss_targets = choose_targets(T), choose_targets(T, one_loss=rows.are_texts)
    measured = [_measure_model(model, rows, state_targets, loss_targets, num_probes) for model in models]
    squares = [MeasuredSquares("loss", None, loss_targets, [one.losses for one in measured], None)]
    for number, layer in enumerate(measured[0].layers):
        for quantity, gains in layer.gains.items():
            of_all = [one.layers[number].gains[quantity] for one in measured]
            errors = None if gains.squared_error is None else [found.squared_error for found in of_all if found.squared_error is not None]
            squares.append(MeasuredSquares(quantity, number + 1, state_targets, [found.squared for found in of_all], errors))
    layers = tuple(_layer_figures(number + 1, [one.layers[number] for one in measured]) for number in range(len(measured[0].layers)))
    return Stage(name, step, tuple(map(curve_by_distance, squares)), tuple(map(pooled_map, squares)), layers)


def _measure_model(
    model: PreTrainedModel, rows: Rows, state_targets: tuple[int, ...], loss_targets: tuple[int, ...], num_probes: int | None
) -> ModelMeasured:
    positions, T = max_positions(model), rows.input_ids.shape[1]
    if positions is not None and positions < T:
        raise UserError(f"--steps is {T}, but {type(model).__name__} has {positions} positions; give --steps {positions} at most.")
    if rows.are_texts:
        norms = text_loss_gradients(model, rows.input_ids, _classes(model, rows))
    else:
        assert rows.labels is not None
        norms = token_loss_gradients(model, rows.input_ids, rows.labels, loss_targets)
    if not np.isfinite(norms).all():
        raise UserError("The gradients of the model's loss are no numbers: its weights are damaged, or its training diverged; take an earlier one.")
    return ModelMeasured(norms**2, [_measure_layer(walk, state_targets, num_probes) for walk in recurrent_walks(model, rows.input_ids)])


def _classes(model: PreTrainedModel, rows: Rows) -> Tensor:
    """The classes (B,) of rows, or those that the model finds likeliest."""
    if rows.labels is not None:
        return rows.labels
    with evaluation_mode(model):
        return model(input_ids=rows.input_ids, attention_mask=torch.ones_like(rows.input_ids)).logits.argmax(-1)


def _measure_layer(walk: CellWalk, targets: tuple[int, ...], num_probes: int | None) -> LayerMeasured:
    if num_probes is None:
        num_probes = 0 if operations_of_exact(walk, len(targets)) <= EXACT_OPERATIONS else DEFAULT_PROBES
    gains = state_gains(walk, targets, num_probes or None)
    path = path_gains(walk, targets)
    width = walk.cell.hidden_size * (1 if walk.memory is None else 2)
    steps = step_jacobians(walk, NUM_JACOBIANS if width <= WIDE_STATE else NUM_WIDE_JACOBIANS)
    return LayerMeasured(gains | ({} if path is None else {"path": path}), steps.spectral_radius, steps.singular_values, gate_shares(walk))


def operations_of_exact(walk: CellWalk, num_targets: int) -> float:
    """Multiplications and additions of exact gains: H vectors of each target and part of the state, on average over half of the row."""
    B, T, _ = walk.input_products.shape
    H, num_parts = walk.cell.hidden_size, 1 if walk.memory is None else 2
    return B * T * (num_targets / 2 * H * num_parts) * 2 * walk.cell.num_gates * H * H


def recurrent_walks(model: PreTrainedModel, input_ids: Tensor) -> list[CellWalk]:
    """The walk of each recurrent layer over `input_ids` (B, T); none for models of other families and those that read both ways."""
    stack = next((module for module in model.modules() if isinstance(module, RecurrentModel)), None)
    if stack is None or stack.config.bidirectional:
        return []
    inputs: dict[RecurrentBlock, Tensor] = {}

    def keep(block: RecurrentBlock, arguments: tuple[Tensor, ...]) -> None:
        inputs[block] = block.recurrence_norm(arguments[0]) if isinstance(block, ResidualBlock) else arguments[0]

    blocks = [module for module in stack.layers if isinstance(module, RecurrentBlock)]
    handles = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        with evaluation_mode(model):
            model(input_ids=input_ids)
            return [read_rows(block.cell, inputs[block]) for block in blocks]
    finally:
        for handle in handles:
            handle.remove()


def _layer_figures(layer: int, measured: list[LayerMeasured]) -> RecurrenceFigures:
    """Of one layer, over seeds: the interval is that of the seeds' means, of one model that of its steps."""
    radii = np.array([one.spectral_radius.mean() for one in measured]) if len(measured) > 1 else measured[0].spectral_radius
    mean, low, high = mean_interval(radii)
    gates = {
        name: GateShares(*(float(np.mean([getattr(one.gates[name], part) for one in measured])) for part in ("mean", "nearly_shut", "nearly_open")))
        for name in measured[0].gates
    }
    values = np.concatenate([one.singular_values for one in measured]).mean(0)
    interval = None if low is None or high is None else (float(low), float(high))
    return RecurrenceFigures(layer, float(mean), interval, values, gates)
