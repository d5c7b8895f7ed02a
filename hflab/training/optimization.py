"""Optimizer, learning-rate schedule and weight averaging. Knows nothing about data or the loop."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel

from ..errors import UserError, check_choice
from ..models.recurrent.cells_recurrent import RecurrentCell
from ..recipe import TrainingSection
from .freezing import learning_rate_scales
from .muon import MuonWithAdamW

SHORT_NAMES = {"adamw": "AdamW", "sgd": "SGD"}
# LBFGS evaluates the loss several times a step, SparseAdam needs sparse gradients, and the plain Muon refuses biases
UNSUITED = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class that `name` means: adamw, sgd, muon or a class name of torch.optim. Raises `UserError` for another name."""
    classes = {key: value for key, value in vars(torch.optim).items() if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)}
    choices = {short: classes[key] for short, key in SHORT_NAMES.items()} | {"muon": MuonWithAdamW} | classes
    for key in UNSUITED:
        del choices[key]
    check_choice("training.optimizer", name, choices)
    return choices[name]


def build_optimizer(model: nn.Module, section: TrainingSection) -> torch.optim.Optimizer:
    """Optimizer over groups of what is trained: matrices decay; biases, norms and embeddings do not. A group has a "lr_scale" (see `_groups`).

    Raises:
        UserError: unknown optimizer, or an argument that it does not take; or Muon with a learning rate that differs from layer to layer.
    """
    cls = optimizer_class(section.optimizer)
    allowed = list(inspect.signature(cls).parameters)
    for key in section.optimizer_arguments:
        check_choice("A key of training.optimizer_arguments", key, allowed)
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in section.optimizer_arguments.items()}
    try:
        if cls is MuonWithAdamW:
            if section.layer_learning_rate_decay < 1:
                raise UserError(
                    "training.optimizer is 'muon', which has one learning rate for all layers; remove layer_learning_rate_decay, or take adamw."
                )
            hidden = _hidden_matrices(model)
            taken = {id(parameter) for parameters in hidden.values() for parameter in parameters}
            arguments: dict[str, Any] = {"weight_decay": section.weight_decay, **given}
            return MuonWithAdamW(hidden, _groups(model, section, taken), section.learning_rate, **arguments)
        arguments = {"lr": section.learning_rate} | ({"fused": True} if "fused" in allowed and "foreach" not in given else {})
        return cls(_groups(model, section, taken=set(), decays="weight_decay" in allowed), **(arguments | given))
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The optimizer {section.optimizer} refused its arguments {given}: {error}") from None


def _groups(model: nn.Module, section: TrainingSection, taken: set[int], decays: bool = True) -> list[dict[str, Any]]:
    """Parameter groups of what is trained and not `taken`: decayed and plain, for each learning rate, the highest first.

    "lr_scale" is what the loop multiplies the learning rate with; it follows from `layer_learning_rate_decay`.
    """
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    scales = learning_rate_scales(model, section.layer_learning_rate_decay) if section.layer_learning_rate_decay < 1 else {}
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in taken:
            is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
            members.setdefault((scales.get(id(parameter), 1.0), is_matrix), []).append(parameter)
    return [
        {"params": members[scale, is_matrix], "lr_scale": scale} | ({"weight_decay": section.weight_decay if is_matrix else 0.0} if decays else {})
        for scale, is_matrix in sorted(members, reverse=True)
    ]


def _hidden_matrices(model: nn.Module) -> dict[int, list[nn.Parameter]]:
    """Muon's matrices by their number of gates: all but the embedding and the output layer, as the source advises."""
    gates = {
        id(projection.weight): module.num_gates
        for module in model.modules()
        if isinstance(module, RecurrentCell)
        for projection in (module.input_projection, module.hidden_projection)
    }
    outer = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    if isinstance(model, PreTrainedModel) and model.get_output_embeddings() is not None:
        outer |= {id(parameter) for parameter in model.get_output_embeddings().parameters()}
    hidden: dict[int, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 2 and id(parameter) not in outer:
            hidden.setdefault(gates.get(id(parameter), 1), []).append(parameter)
    return hidden


def learning_rate_at(section: TrainingSection, step: int, progress: float) -> float:
    """Learning rate of optimizer step `step` (from 0) when the share `progress` (0 to 1) of the budget is used.

    Linear warm-up over `warmup_steps`; then constant, or linear or cosine (Loshchilov and Hutter 2017, section 3) from the peak at the
    beginning of the budget to `min_learning_rate_ratio` of it at its end.
    """
    warmup = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    remaining = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[section.schedule]
    lowest = section.min_learning_rate_ratio
    return section.learning_rate * warmup * (lowest + (1.0 - lowest) * remaining)


def build_averaged_model(model: nn.Module, section: TrainingSection) -> AveragedModel | None:
    """A copy of `model` whose weights follow an average: "ema" a moving one, "asgd" the plain mean (Polyak and Juditsky 1992)."""
    if section.averaging == "none":
        return None
    average = get_ema_multi_avg_fn(section.averaging_decay) if section.averaging == "ema" else None
    return AveragedModel(model, multi_avg_fn=average)
