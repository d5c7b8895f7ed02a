"""Which parameters are trained, when, and how fast: frozen names, block groups, gradual unfreezing. Knows nothing about how a model came about.

A block group is a block of the model (of its outermost `ModuleList`s), what stands before them, or what stands after them. From the input to the
output: embeddings, each block, the head. They are the "layer groups" of ULMFiT (Howard and Ruder 2018, arXiv:1801.06146).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from ..errors import UserError, nearest
from ..recipe import ALL_BUT_HEAD


def head_names(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that belong to the head alone; empty where the head shares all of its weights, as GPT-2's does.

    Of an encoder-decoder that writes text the head is the output layer; of any other model it is what stands outside of its base model.
    """
    output = model.get_output_embeddings()
    if model.config.is_encoder_decoder and isinstance(output, nn.Module):
        shared = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
        own = {id(parameter) for parameter in output.parameters()} - shared
        return {name for name, parameter in model.named_parameters() if id(parameter) in own}
    inner = {id(parameter) for parameter in model.base_model.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inner}


def freeze(model: PreTrainedModel, patterns: Sequence[str], fresh: set[str]) -> None:
    """Set `requires_grad` False for the parameters whose names match any of `patterns`, or for all but the head and what is `fresh`.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if list(patterns) == [ALL_BUT_HEAD]:
        kept = head_names(model) | fresh
        frozen = {name for name, _ in model.named_parameters() if name not in kept}
    else:
        frozen = set().union(*(_matching(names, pattern) for pattern in patterns))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        shared = " Its head shares the embedding's weight." if list(patterns) == [ALL_BUT_HEAD] else ""
        raise UserError(
            f"model.freeze ({', '.join(patterns)}) leaves nothing of {type(model).__name__} to train.{shared} "
            f"Give patterns of what to keep frozen; its parameters begin with {names[0]} and end with {names[-1]}."
        )


def _matching(names: list[str], pattern: str) -> set[str]:
    matched = {name for name in names if fnmatchcase(name, pattern)}
    if not matched:
        hint = nearest(pattern, [ALL_BUT_HEAD, *names])
        raise UserError(
            f"model.freeze holds {pattern!r}, which matches no parameter; names are such as {names[0]} and {names[-1]}, "
            f"and * stands for anything.{hint}"
        )
    return matched


def block_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters with `requires_grad`, from the input to the output; each group has a matrix, so that a final norm joins the last block."""
    blocks = block_prefixes(model)
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    reached = 0  # the last block that came by
    for name, parameter in model.named_parameters():
        inside = next((number for number, prefix in enumerate(blocks, 1) if name.startswith(prefix)), None)
        reached = inside or reached
        # modules stand in the order in which they compute, but for embeddings, which stand anywhere
        group = inside or (0 if id(parameter) in embeddings else len(blocks) + 1 if reached == len(blocks) else reached)
        if parameter.requires_grad:
            groups[group].append(parameter)
    filled = [group for group in groups if group]
    if len(filled) > 1 and all(parameter.ndim < 2 for parameter in filled[-1]):
        filled[-2:] = [filled[-2] + filled[-1]]
    return filled


def block_prefixes(model: nn.Module) -> list[str]:
    """Beginnings of the names of each block's parameters, in their order."""
    prefixes: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(prefixes)) and any(list(block.children()) for block in module):
            prefixes += [f"{name}.{index}." for index in range(len(module))]
    return prefixes


def learning_rate_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """Factor of the learning rate by the id of each parameter: 1 for the last block group, and `decay` times the next one's for any other.

    Discriminative learning rates: Howard and Ruder 2018, section 3.1, who divide by 2.6 from layer to layer.
    """
    groups = block_groups(model)
    return {id(parameter): decay ** (len(groups) - 1 - depth) for depth, group in enumerate(groups) for parameter in group}


class GradualUnfreezing:
    """Trains the last block group at first, and one more, from the last to the first, every so many steps.

    Howard and Ruder 2018, section 3.2. Which groups are trained follows from the step alone, so a resumed run needs no more than that.

    Args:
        model: its parameters with `requires_grad` take part; all others stay frozen for ever.
        every_steps: optimizer steps between two groups.
        several_processes: DDP counts on the gradients of all parameters that it was built with, so they are computed and then dropped.
    """

    def __init__(self, model: nn.Module, every_steps: int, *, several_processes: bool) -> None:
        self._groups = block_groups(model)
        self._every_steps = every_steps
        self._several_processes = several_processes

    def num_thawed(self, step: int) -> int:
        """Groups, counted from the last, that are trained at optimizer step `step` (from 0)."""
        return min(len(self._groups), 1 + step // self._every_steps)

    def before_step(self, step: int) -> None:
        """Let gradients be computed where step `step` trains."""
        if self._several_processes:
            return
        first = len(self._groups) - self.num_thawed(step)
        for index, group in enumerate(self._groups):
            for parameter in group:
                parameter.requires_grad_(index >= first)

    def drop_frozen_gradients(self, step: int) -> None:
        """Remove gradients where step `step` does not train: the optimizer passes over parameters without one."""
        for group in self._groups[: len(self._groups) - self.num_thawed(step)]:
            for parameter in group:
                parameter.grad = None
