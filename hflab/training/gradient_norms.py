"""The gradient's norm of each group of parameters in a step of training, which `training.gradient_norms_every_steps` writes into metrics.jsonl.

A group is what stands before the blocks, a block, or what stands after them; the recurrent weights of a block are a group of their own, because
theirs is the gradient that has come back through time. Knows nothing about the loop.
"""

import torch
from torch import Tensor, nn

from ..models.recurrent.cells_recurrent import RecurrentCell
from .freezing import block_prefixes

CLIP_EPSILON = 1e-6  # that torch.nn.utils.clip_grad_norm_ adds to the norm it divides by


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of `model` by the name of their group, from the input to the output: "embeddings", "block 1", "block 1 recurrent", …, "head"."""
    prefixes = block_prefixes(model)
    recurrent = {id(parameter) for cell in model.modules() if isinstance(cell, RecurrentCell) for parameter in cell.hidden_projection.parameters()}
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        number = next((number for number, prefix in enumerate(prefixes, 1) if name.startswith(prefix)), None)
        if number is not None:
            group = f"block {number} recurrent" if id(parameter) in recurrent else f"block {number}"
        else:
            group = "embeddings" if id(parameter) in embeddings else "head"
        groups.setdefault(group, []).append(parameter)
    return groups


def gradient_norms(model: nn.Module, norm: Tensor, limit: float | None) -> dict[str, float]:
    """The norm of the gradient of each group, as it was before clipping; a group without any gradient is left out.

    Args:
        model: the bare model after its gradients were clipped. Clipping multiplies all of them by one factor, which is divided out again, so that
            gradients which mixed precision had scaled need not be unscaled twice.
        norm: () the norm of all gradients before clipping.
        limit: what it was clipped to; None: not at all.
    """
    given = {name: [parameter.grad for parameter in group if parameter.grad is not None] for name, group in parameter_groups(model).items()}
    norms = {name: torch.stack(torch._foreach_norm(gradients)).norm() for name, gradients in given.items() if gradients}
    if not norms:
        return {}
    factor = 1.0 if limit is None else min(1.0, limit / (norm.item() + CLIP_EPSILON))
    values = (torch.stack(list(norms.values())).float() / factor).tolist() if factor else [0.0] * len(norms)
    return dict(zip(norms, values, strict=True))
