"""What evaluation and generation need to know of a model, whatever wraps it, and the mode they put it in."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


def innermost(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside any wrapper (DDP, compiled, PEFT, averaged)."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the `forward` of `model` names this argument."""
    return argument in inspect.signature(type(innermost(model)).forward).parameters


def carries_state(model: nn.Module) -> bool:
    """Whether `model` keeps a recurrent state that `state_resets` sets to zero."""
    return takes(model, "state_resets")


def max_positions(model: nn.Module) -> int | None:
    """Most tokens that `model` reads in a row; None when nothing limits them (a recurrent model)."""
    # the name is transformers' own for every model with a limit, and absent from the configs of those without
    return getattr(innermost(model).config, "max_position_embeddings", None)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout inside the block; afterwards every submodule trains, or does not, as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
