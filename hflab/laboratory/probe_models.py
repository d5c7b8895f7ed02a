"""Models for probe tasks: a cell or a mini-Transformer, as large as wanted, that answers at every token.

    model = build_probe_model(PROBES["adding"], ModelChoice("lstm", 10_000, DEFAULT_TRICKS), seed=1)
    answers = model(inputs)                                 # (B, L, answers)

The models are hflab's own, with the head ForTokenClassification, one recurrent layer or two Transformer blocks that read from left to right. Each
kind of token has an embedding as wide as there are kinds, which can say all that the sources' one-hot inputs say; the Transformer's is as wide as its
stream. Numbers go into a cell as they are, and into the Transformer through a linear layer.

Knows nothing about training. B rows, L tokens, F numbers of a token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UserError, check_choice
from ..models import FAMILIES
from ..models.recurrent.cells_recurrent import CELLS
from .equal_size import closest, count_parameters
from .probes import Probe

TRANSFORMER = "mini_transformer"
MODELS = (*CELLS, TRANSFORMER)
SIZE_TOLERANCE = 0.05  # by which a model's parameters may differ from the number wanted
NUM_BLOCKS, NUM_HEADS = 2, 2  # of the mini-Transformer: one attention alone cannot look up what stood behind an earlier token (Olsson et al. 2022)
WIDEST = 4096
TRICKS = {
    "orthogonal": "recurrent weights start orthogonal (Saxe et al. 2014), else uniform within 1 / sqrt(width)",
    "clipping": "the gradient's norm is at most 1 (Pascanu et al. 2013), else free",
    "forget_bias": "the LSTM's forget gate starts open, with bias 1 (Jozefowicz et al. 2015), else with 0",
    "layer_norm": "cells stand in pre-norm residual blocks with a feed-forward, else alone",
}
DEFAULT_TRICKS = ("orthogonal", "clipping", "forget_bias")


@dataclass(frozen=True)
class ModelChoice:
    """A model to be built."""

    cell: str
    """One of MODELS."""
    num_parameters: int
    """Wanted; met within SIZE_TOLERANCE."""
    tricks: tuple[str, ...] = DEFAULT_TRICKS
    """Of TRICKS. The mini-Transformer heeds clipping alone, and always has its norms."""


class ProbeModel(nn.Module):
    """A model of transformers' kind, behind a linear layer where the task's inputs are numbers and the model's stream is wider."""

    def __init__(self, model: PreTrainedModel, num_features: int | None, width: int) -> None:
        super().__init__()
        self.model = model
        self.input_layer: nn.Module | None = None
        if num_features is not None:
            self.input_layer = nn.Identity() if width == num_features else nn.Linear(num_features, width)
            model.get_input_embeddings().requires_grad_(False)  # not read, so not counted

    def forward(self, inputs: Tensor) -> Tensor:
        """Answers (B, L, kinds of answers), as logits or numbers, to tokens (B, L) or numbers (B, L, F)."""
        given = {"input_ids": inputs} if self.input_layer is None else {"inputs_embeds": self.input_layer(inputs)}
        answers: Tensor = self.model(**given).logits
        return answers


def build_probe_model(probe: Probe, choice: ModelChoice, *, seed: int) -> ProbeModel:
    """The model that `choice` names, its weights drawn with `seed`; the process's random numbers stay as they are.

    Raises:
        UserError: there is no such cell or trick, or no model of it has so few or so many parameters.
    """
    check_model_choice(choice)
    config = _transformer_fields(probe, choice) if choice.cell == TRANSFORMER else _recurrent_fields(probe, choice)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _build(probe, choice.cell, config)


def check_model_choice(choice: ModelChoice) -> None:
    """Raise `UserError` unless cell and tricks exist."""
    check_choice("The cell", choice.cell, MODELS)
    for trick in choice.tricks:
        check_choice("The trick", trick, TRICKS)


def _build(probe: Probe, cell: str, config: dict[str, Any]) -> ProbeModel:
    family = FAMILIES[TRANSFORMER if cell == TRANSFORMER else "recurrent"]
    fields = {"vocab_size": max(1, probe.num_inputs), "num_labels": probe.num_outputs, **config}
    model = family.heads["ForTokenClassification"](family.config_class(**fields))
    return ProbeModel(model, probe.num_features, config.get("embedding_size", config["hidden_size"]))


def _recurrent_fields(probe: Probe, choice: ModelChoice) -> dict[str, Any]:
    """Config fields of a cell at the width that has the wanted parameters."""
    fields = {
        "cell_type": choice.cell,
        "embedding_size": probe.num_features or probe.num_inputs,
        "recurrent_initializer": "orthogonal" if "orthogonal" in choice.tricks else "uniform",
        "forget_bias": 1.0 if "forget_bias" in choice.tricks else 0.0,
        "block_style": "residual" if "layer_norm" in choice.tricks else "stacked",
    }
    return fields | {"hidden_size": _sized(probe, choice, range(1, WIDEST + 1), lambda width: fields | {"hidden_size": width})}


def _transformer_fields(probe: Probe, choice: ModelChoice) -> dict[str, Any]:
    """Config fields of a pre-norm mini-Transformer with rotary positions that has the wanted parameters.

    Its width comes in steps; the width of its feed-forward, usually four times as much, makes up for them.
    """
    step = 2 * NUM_HEADS  # rotary positions turn pairs in each head
    fields = {
        "num_hidden_layers": NUM_BLOCKS,
        "num_attention_heads": NUM_HEADS,
        "norm_position": "pre",
        "hidden_act": "gelu",
        "position_embedding_type": "rotary",
        "embedding_dropout": 0.0,
        "hidden_dropout": 0.0,
        "is_decoder": True,
    }
    widths = range(step, WIDEST + 1, step)
    width = closest(widths, lambda width: _count(probe, choice, fields | {"hidden_size": width}), choice.num_parameters)
    fields["hidden_size"] = width
    return fields | {
        "intermediate_size": _sized(probe, choice, range(1, 8 * width + 1), lambda inner: fields | {"intermediate_size": inner}),
    }


def _sized(probe: Probe, choice: ModelChoice, values: Sequence[int], fields: Callable[[int], dict[str, Any]]) -> int:
    """The value whose config has the wanted parameters. Raises `UserError` where none comes close enough."""

    def count(value: int) -> int:
        return _count(probe, choice, fields(value))

    value = closest(values, count, choice.num_parameters)
    found = count(value)
    if abs(found - choice.num_parameters) > SIZE_TOLERANCE * choice.num_parameters:
        raise UserError(
            f"{choice.num_parameters:,} parameters were asked for, and the nearest {choice.cell} for this task has {found:,}, which is more than "
            f"{SIZE_TOLERANCE:.0%} off; give another number of parameters, such as 10000."
        )
    return value


def _count(probe: Probe, choice: ModelChoice, fields: dict[str, Any]) -> int:
    return count_parameters(lambda: _build(probe, choice.cell, fields))
